//! Pillow's 8-bit bicubic resampler, bit for bit.
//!
//! The arithmetic follows `Resample.c` of Pillow: weights in `f64`, rounded to 22 fractional bits, summed in
//! `i32`, and an 8-bit picture between the two passes. The published model outputs depend on that rounding.

use super::image::Image;

/// Fractional bits of a weight: 32 less 8 for the sample and 2 for the overshoot of the kernel.
const PRECISION_BITS: u32 = 32 - 8 - 2;
/// Radius of the bicubic kernel in input pixels when enlarging.
const SUPPORT: f64 = 2.0;
/// The kernel's free parameter.
const A: f64 = -0.5;

/// The order of the two one-dimensional passes.
///
/// The picture between the passes is rounded to 8 bits, so the order shows in the result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PassOrder {
    /// Pillow up to and including 12: width first, then height, except for pictures that are more than 100
    /// times as high as wide and lose height.
    #[default]
    HorizontalFirst,
    /// Height first, then width, whatever the sizes.
    VerticalFirst,
    /// Pillow 13: height first when it shrinks by more than twice what the width does, else width first.
    Pillow13,
}

impl PassOrder {
    /// True if the height is resized first for this change of size (pixels).
    fn vertical_first(self, from: (u32, u32), to: (u32, u32)) -> bool {
        match self {
            PassOrder::HorizontalFirst => u64::from(from.1) > u64::from(from.0) * 100 && to.1 < from.1,
            PassOrder::VerticalFirst => true,
            PassOrder::Pillow13 => {
                let shrink = |from: u32, to: u32| i64::from(from) - i64::from(to);
                let (dw, dh) = (shrink(from.0, to.0), shrink(from.1, to.1));
                dh > 0 && dh > 2 * dw
            }
        }
    }
}

/// Resizes a picture to `width` × `height` pixels with the bicubic filter, without keeping its aspect.
///
/// A side that is asked to be 0 becomes 1. Reference: `PIL.Image.Image.resize(size, Resampling.BICUBIC)`.
pub fn resize(image: &Image, width: u32, height: u32, order: PassOrder) -> Image {
    let (width, height) = (width.max(1), height.max(1));
    let (from_width, from_height) = (image.width(), image.height());
    if order.vertical_first((from_width, from_height), (width, height)) {
        let tall = vertical(image.pixels(), from_width, from_height, height);
        let pixels = horizontal(&tall, from_width, height, width);
        Image::from_parts(width, height, pixels)
    } else {
        let wide = horizontal(image.pixels(), from_width, from_height, width);
        let pixels = vertical(&wide, width, from_height, height);
        Image::from_parts(width, height, pixels)
    }
}

/// The input samples one output sample is made of.
struct Tap {
    /// Index of the first input sample.
    first: usize,
    /// One fixed-point weight for each input sample.
    weights: Vec<i32>,
}

/// The bicubic kernel at distance `x`, in input pixels when enlarging.
fn kernel(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// The taps that turn `from` samples into `to`: `precompute_coeffs` and `normalize_coeffs_8bpc`.
fn taps(from: u32, to: u32) -> Vec<Tap> {
    let scale = f64::from(from) / f64::from(to);
    let stretch = scale.max(1.0);
    let support = SUPPORT * stretch;
    let per_pixel = 1.0 / stretch;
    (0..to)
        .map(|out| {
            let center = (f64::from(out) + 0.5) * scale;
            let first = ((center - support + 0.5) as i64).max(0);
            let end = ((center + support + 0.5) as i64).min(i64::from(from));
            let weights: Vec<f64> =
                (0..end - first).map(|x| kernel(((x + first) as f64 - center + 0.5) * per_pixel)).collect();
            let sum: f64 = weights.iter().fold(0.0, |sum, w| sum + w);
            let fixed = |w: &f64| {
                let w = if sum == 0.0 { *w } else { w / sum } * f64::from(1u32 << PRECISION_BITS);
                (if w < 0.0 { w - 0.5 } else { w + 0.5 }) as i32
            };
            Tap { first: first as usize, weights: weights.iter().map(fixed).collect() }
        })
        .collect()
}

/// Rounds a fixed-point sum to a sample.
fn sample(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Half a sample: added before the shift, which rounds down.
const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// Resizes every row of a `width` × `height` RGB picture to `to` pixels.
fn horizontal(pixels: &[u8], width: u32, height: u32, to: u32) -> Vec<u8> {
    if width == to {
        return pixels.to_vec();
    }
    let taps = taps(width, to);
    let mut out = Vec::with_capacity(to as usize * height as usize * 3);
    for row in pixels.chunks_exact(width as usize * 3) {
        for tap in &taps {
            let mut sum = [HALF; 3];
            let source = row[tap.first * 3..].chunks_exact(3);
            for (pixel, weight) in source.zip(&tap.weights) {
                sum[0] += i32::from(pixel[0]) * weight;
                sum[1] += i32::from(pixel[1]) * weight;
                sum[2] += i32::from(pixel[2]) * weight;
            }
            out.extend(sum.map(sample));
        }
    }
    out
}

/// Resizes every column of a `width` × `height` RGB picture to `to` pixels.
fn vertical(pixels: &[u8], width: u32, height: u32, to: u32) -> Vec<u8> {
    if height == to {
        return pixels.to_vec();
    }
    let row_bytes = width as usize * 3;
    let mut out = Vec::with_capacity(to as usize * row_bytes);
    let mut sums = vec![HALF; row_bytes];
    for tap in taps(height, to) {
        sums.fill(HALF);
        let rows = pixels[tap.first * row_bytes..].chunks_exact(row_bytes);
        for (row, weight) in rows.zip(&tap.weights) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += i32::from(*value) * weight;
            }
        }
        out.extend(sums.iter().map(|sum| sample(*sum)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_picture_stays_flat_at_any_size() {
        let image = Image::from_rgb(5, 3, [10, 128, 250].repeat(15)).unwrap();
        for (width, height) in [(1, 1), (5, 3), (2, 9), (224, 224)] {
            let out = resize(&image, width, height, PassOrder::default());
            assert_eq!((out.width(), out.height()), (width, height));
            assert!(out.pixels().chunks(3).all(|p| p == [10, 128, 250]), "{width}x{height}");
        }
    }

    #[test]
    fn pillow_12_goes_vertical_first_only_for_very_high_pictures() {
        let order = PassOrder::HorizontalFirst;
        assert!(order.vertical_first((3, 301), (224, 300)));
        assert!(!order.vertical_first((3, 301), (224, 301)), "it does not get shorter");
        assert!(!order.vertical_first((3, 300), (224, 224)));
        assert!(!order.vertical_first((300, 1000), (224, 224)));
    }

    #[test]
    fn pillow_13_goes_vertical_first_only_when_the_height_shrinks_much_more() {
        let order = PassOrder::Pillow13;
        assert!(order.vertical_first((300, 1000), (224, 224)));
        assert!(!order.vertical_first((1000, 300), (224, 224)));
        assert!(!order.vertical_first((324, 424), (224, 224)), "exactly twice as much");
        assert!(order.vertical_first((100, 225), (224, 224)), "the width grows");
        assert!(!order.vertical_first((100, 224), (224, 224)), "the height stays");
    }
}
