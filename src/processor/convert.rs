//! Conversion of decoded samples to 8-bit RGB, with the arithmetic of Pillow.
//!
//! Reference: `transformers.image_transforms.convert_to_rgb`, which composites transparency over white, on
//! pictures opened by Pillow.

use image::ColorType;

/// A picture's transparent colour, each channel cut to 8 bits, for files that have one instead of an alpha
/// channel. Pillow compares it with the 8-bit pixel, so do we.
pub(super) type ColorKey = [u8; 3];

/// Turns decoded samples (native endian where 16 bits wide) into RGB.
///
/// `key` replaces the alpha channel of the decoder where the file has a transparent colour. `None`: this kind
/// of sample is not supported.
pub(super) fn to_rgb(samples: Vec<u8>, color: ColorType, key: Option<ColorKey>) -> Option<Vec<u8>> {
    let white_where = |pixel: [u8; 3]| if key == Some(pixel) { [255; 3] } else { pixel };
    let grey = |value: u8| white_where([value; 3]);
    let rgb = match color {
        ColorType::Rgb8 if key.is_none() => samples,
        ColorType::Rgb8 => map(&samples, |p: [u8; 3]| white_where(p)),
        ColorType::L8 => map(&samples, |[v]: [u8; 1]| grey(v)),
        ColorType::La8 if key.is_some() => map(&samples, |[v, _]: [u8; 2]| grey(v)),
        ColorType::La8 => map(&samples, |[v, a]: [u8; 2]| over_white([v; 3], a)),
        ColorType::Rgba8 if key.is_some() => map(&samples, |[r, g, b, _]: [u8; 4]| white_where([r, g, b])),
        ColorType::Rgba8 => map(&samples, |[r, g, b, a]: [u8; 4]| over_white([r, g, b], a)),
        ColorType::L16 => map(&samples, |[v]: [u16; 1]| grey(clip(v))),
        ColorType::La16 if key.is_some() => map(&samples, |[v, _]: [u16; 2]| grey(clip(v))),
        ColorType::La16 => map(&samples, |[v, a]: [u16; 2]| over_white([high(v); 3], high(a))),
        ColorType::Rgb16 => map(&samples, |p: [u16; 3]| white_where(p.map(high))),
        ColorType::Rgba16 if key.is_some() => map(&samples, |[r, g, b, _]: [u16; 4]| white_where([r, g, b].map(high))),
        ColorType::Rgba16 => map(&samples, |[r, g, b, a]: [u16; 4]| over_white([r, g, b].map(high), high(a))),
        _ => return None,
    };
    Some(rgb)
}

/// Rounds the channels of a 16-bit BMP as Pillow does when it widens them to 8 bits: down.
///
/// `max` is each channel's largest value in the file. The decoder rounds to the nearest instead, from which
/// the file's value can be told.
pub(super) fn round_down_channels(pixels: &mut [u8], max: [u32; 3]) {
    for pixel in pixels.chunks_exact_mut(3) {
        for (value, max) in pixel.iter_mut().zip(max) {
            let stored = (u32::from(*value) * max + 127) / 255;
            *value = (stored * 255 / max) as u8;
        }
    }
}

/// Four inks as RGB: Pillow's conversion, which knows no profiles.
pub(super) fn cmyk([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    let light = 255 - i32::from(k);
    [c, m, y].map(|ink| {
        let product = i32::from(ink) * light + 128;
        (light - (((product >> 8) + product) >> 8)).clamp(0, 255) as u8
    })
}

/// A sample type that is read from the decoder's bytes.
pub(super) trait Sample: Copy {
    const BYTES: usize;
    fn read(bytes: &[u8]) -> Self;
}

impl Sample for u8 {
    const BYTES: usize = 1;
    fn read(bytes: &[u8]) -> Self {
        bytes[0]
    }
}

impl Sample for u16 {
    const BYTES: usize = 2;
    fn read(bytes: &[u8]) -> Self {
        u16::from_ne_bytes([bytes[0], bytes[1]])
    }
}

impl Sample for u32 {
    const BYTES: usize = 4;
    fn read(bytes: &[u8]) -> Self {
        u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
}

/// Applies `to` to every pixel of `N` samples.
pub(super) fn map<S: Sample, const N: usize>(samples: &[u8], to: impl Fn([S; N]) -> [u8; 3]) -> Vec<u8> {
    let pixel_bytes = N * S::BYTES;
    let mut out = Vec::with_capacity(samples.len() / pixel_bytes * 3);
    for pixel in samples.chunks_exact(pixel_bytes) {
        out.extend(to(std::array::from_fn(|i| S::read(&pixel[i * S::BYTES..]))));
    }
    out
}

/// 16-bit colour to 8 bits: Pillow keeps the high byte.
fn high(value: u16) -> u8 {
    (value >> 8) as u8
}

/// 16-bit grey to 8 bits: Pillow opens it as `I;16`, whose conversion to RGB clips instead of scaling.
fn clip(value: u16) -> u8 {
    value.min(255) as u8
}

/// One pixel over white: Pillow's `alpha_composite` with an opaque white background.
pub(super) fn over_white(pixel: [u8; 3], alpha: u8) -> [u8; 3] {
    // 7 fractional bits, as in the reference; with an opaque background its division by the resulting alpha
    // is exact and drops out.
    let (front, back) = (u32::from(alpha) << 7, u32::from(255 - alpha) << 7);
    pixel.map(|value| {
        let sum = u32::from(value) * front + 255 * back + (0x80 << 7);
        ((((sum >> 8) + sum) >> 8) >> 7) as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alpha_is_composited_over_white() {
        assert_eq!(over_white([1, 2, 3], 255), [1, 2, 3]);
        assert_eq!(over_white([1, 2, 3], 0), [255; 3]);
        for value in 0..=255u8 {
            for alpha in 0..=255u8 {
                let exact = (f64::from(value) * f64::from(alpha) + 255.0 * f64::from(255 - alpha)) / 255.0;
                let got = over_white([value; 3], alpha)[0];
                assert!((f64::from(got) - exact).abs() <= 0.5, "{value} at {alpha}: {got} for {exact}");
            }
        }
    }

    #[test]
    fn sixteen_bit_grey_clips_and_colour_keeps_the_high_byte() {
        let samples: Vec<u8> = [255u16, 256, 0x1234].into_iter().flat_map(u16::to_ne_bytes).collect();
        assert_eq!(to_rgb(samples.clone(), ColorType::L16, None).unwrap(), [255; 9]);
        assert_eq!(to_rgb(samples, ColorType::Rgb16, None).unwrap(), [0, 1, 0x12]);
    }

    #[test]
    fn a_transparent_colour_becomes_white() {
        let rgb = to_rgb(vec![1, 2, 3, 4, 5, 6], ColorType::Rgb8, Some([4, 5, 6])).unwrap();
        assert_eq!(rgb, [1, 2, 3, 255, 255, 255]);
    }
}
