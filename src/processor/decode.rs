//! Decoding each format, with the limits checked before memory is taken.

use std::io::Cursor;

use image::codecs::{bmp, gif, png, webp};
use image::metadata::Orientation;
use image::{ImageDecoder, ImageError, Limits};

use super::container::{self, Kind};
use super::convert::{ColorKey, round_down_channels, to_rgb};
use super::image::{Image, no_pixels};
use super::tiff::{self, Tiff};
use super::{jpeg, png as png_file};
use crate::error::Error;

/// The reason that a picture is not decoded, in this library's own words only.
pub(super) enum Refusal {
    Damaged,
    Kind,
    /// A kind that has a name.
    Named(String),
    Memory,
    Zero(u32, u32),
    TooLarge {
        width: u32,
        height: u32,
        max_pixels: u64,
    },
}

impl Refusal {
    /// The error of the picture `name`, which looked like one of this kind.
    pub(super) fn of(self, name: &str, kind: Kind) -> Error {
        let format = kind.name();
        let problem = match self {
            Refusal::Damaged => format!("not a decodable picture ({format}): it ends early or is damaged"),
            Refusal::Kind => format!("this kind of {format} is not supported; convert it to 8-bit RGB PNG or JPEG"),
            Refusal::Named(name) => format!("a {name} is not supported; convert it to 8-bit RGB PNG or JPEG"),
            Refusal::Memory => {
                format!("not a decodable picture ({format}): it asks for more memory than its size needs")
            }
            Refusal::Zero(width, height) => no_pixels(width, height),
            Refusal::TooLarge { width, height, max_pixels } => {
                return Error::ImageTooLarge { name: name.into(), width, height, max_pixels };
            }
        };
        Error::image(name, problem)
    }
}

impl From<ImageError> for Refusal {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::Limits(_) => Refusal::Memory,
            ImageError::Unsupported(_) => Refusal::Kind,
            _ => Refusal::Damaged,
        }
    }
}

impl From<jpeg::Fault> for Refusal {
    fn from(fault: jpeg::Fault) -> Self {
        match fault {
            jpeg::Fault::Kind => Refusal::Kind,
            jpeg::Fault::Truncated | jpeg::Fault::Damaged => Refusal::Damaged,
        }
    }
}

impl From<tiff::Fault> for Refusal {
    fn from(fault: tiff::Fault) -> Self {
        match fault {
            tiff::Fault::Damaged => Refusal::Damaged,
            tiff::Fault::Kind(name) => Refusal::Named(name),
        }
    }
}

fn check_size(width: u32, height: u32, max_pixels: u64) -> Result<(), Refusal> {
    if width == 0 || height == 0 {
        return Err(Refusal::Zero(width, height));
    }
    if u64::from(width) * u64::from(height) > max_pixels {
        return Err(Refusal::TooLarge { width, height, max_pixels });
    }
    Ok(())
}

/// Memory a decoder may take: 16 bits for each of four channels, and a quarter on top.
fn limits(max_pixels: u64) -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(max_pixels.saturating_mul(10).max(1 << 20));
    limits
}

/// Decodes a picture of a known format.
pub(super) fn decode_as(kind: Kind, bytes: &[u8], max_pixels: u64) -> Result<Image, Refusal> {
    let cursor = Cursor::new(bytes);
    match kind {
        Kind::Png => {
            // Its own header is read first: this decoder's constructor already allocates by it.
            let (width, height) = png_file::size(bytes).ok_or(Refusal::Damaged)?;
            check_size(width, height, max_pixels)?;
            let bytes = png_file::mended(bytes).ok_or(Refusal::Damaged)?;
            let decoder = png::PngDecoder::with_limits(Cursor::new(&*bytes), limits(max_pixels))?;
            read(decoder, png_file::color_key(&bytes), max_pixels)
        }
        Kind::Jpeg => {
            let (width, height) = jpeg::size(bytes)?;
            check_size(width, height, max_pixels)?;
            Ok(Image::from_parts(width, height, jpeg::decode(bytes)?))
        }
        Kind::Webp => read(webp::WebPDecoder::new(cursor)?, None, max_pixels),
        Kind::Gif => match container::gif_with_palette(bytes) {
            Some(with_palette) if !container::gif_has_local_palette(bytes) => decode_gif(&with_palette, max_pixels),
            _ => decode_gif(bytes, max_pixels),
        },
        Kind::Bmp => {
            let mut image = read(bmp::BmpDecoder::new(cursor)?, None, max_pixels)?;
            if let Some(max) = container::bmp_channel_max(bytes) {
                round_down_channels(image.pixels_mut(), max);
            }
            Ok(image)
        }
        Kind::Tiff => {
            let file = Tiff::new(bytes)?;
            let (width, height) = file.size();
            check_size(width, height, max_pixels)?;
            let image = Image::from_parts(width, height, file.decode()?);
            Ok(image.turned(Orientation::from_exif(file.orientation()).unwrap_or(Orientation::NoTransforms)))
        }
    }
}

/// Runs a decoder, checking the size before the pixels are allocated.
fn read(mut decoder: impl ImageDecoder, key: Option<ColorKey>, max_pixels: u64) -> Result<Image, Refusal> {
    let (width, height) = decoder.dimensions();
    check_size(width, height, max_pixels)?;
    decoder.set_limits(limits(max_pixels))?;
    let color = decoder.color_type();
    let bytes = usize::try_from(decoder.total_bytes()).map_err(|_| Refusal::Memory)?;
    let mut samples = vec![0; bytes];
    decoder.read_image(&mut samples)?;
    let pixels = to_rgb(samples, color, key).ok_or(Refusal::Kind)?;
    Ok(Image::from_parts(width, height, pixels))
}

/// Decodes the first frame of a GIF on the canvas that Pillow gives it.
fn decode_gif(bytes: &[u8], max_pixels: u64) -> Result<Image, Refusal> {
    let frame = container::gif_frame(bytes).ok_or(Refusal::Damaged)?;
    let [left, top, right, bottom] = frame.edges;
    let side = |at: usize| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    let (width, height) = (side(6).max(right), side(8).max(bottom));
    let mut image = if (width, height) == (side(6), side(8)) {
        read(gif::GifDecoder::new(Cursor::new(bytes))?, None, max_pixels)?
    } else {
        // Pillow widens a canvas that its first frame does not fit; the decoder would cut the frame.
        let grown = |side: usize| u16::try_from(side).map_err(|_| Refusal::Kind);
        let mut bytes = bytes.to_vec();
        bytes[6..8].copy_from_slice(&grown(width)?.to_le_bytes());
        bytes[8..10].copy_from_slice(&grown(height)?.to_le_bytes());
        read(gif::GifDecoder::new(Cursor::new(bytes.as_slice()))?, None, max_pixels)?
    };
    // The decoder leaves the canvas round the frame transparent.
    for (i, pixel) in image.pixels_mut().chunks_exact_mut(3).enumerate() {
        let (x, y) = (i % width, i / width);
        if x < left || x >= right || y < top || y >= bottom {
            pixel.copy_from_slice(&frame.around);
        }
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_limited_whatever_the_sides() {
        let max = crate::processor::MAX_PIXELS;
        for (width, height) in [(1, 1), (20_000, 400), (178_956_970, 1), (13_377, 13_377)] {
            assert!(check_size(width, height, max).is_ok(), "{width}x{height}");
        }
        for (width, height) in [(0, 5), (5, 0), (178_956_971, 1), (13_378, 13_378), (u32::MAX, u32::MAX)] {
            assert!(check_size(width, height, max).is_err(), "{width}x{height}");
        }
    }
}
