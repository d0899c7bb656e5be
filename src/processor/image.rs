//! Pictures: reading them from files and bytes.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use image::codecs::{bmp, gif, jpeg, png, tiff, webp};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, Limits, RgbImage};

use super::container::{self, Kind};
use super::convert::{ColorKey, round_down_channels, to_rgb};
use super::quiet::without_panics;
use crate::error::{Error, Result};

/// Longest side of a picture that is decoded, in pixels.
pub const MAX_SIDE: u32 = 16_384;
/// Largest picture that is decoded, in pixels.
pub const MAX_PIXELS: u64 = 64_000_000;
/// Largest picture file that is read, in bytes.
pub const MAX_FILE_BYTES: u64 = 256 << 20;
/// Memory a decoder may take: [`MAX_PIXELS`] at 16 bits for each of four channels, and a quarter on top.
const MAX_DECODE_BYTES: u64 = MAX_PIXELS * 8 * 5 / 4;

/// An 8-bit RGB picture: rows from top to bottom, three bytes a pixel.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Image({}x{})", self.width, self.height)
    }
}

impl Image {
    /// Reads a PNG, JPEG, WebP, GIF, BMP or TIFF file; see [`Image::decode`].
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read; [`Error::Image`] if it is no regular file, is larger than
    /// [`MAX_FILE_BYTES`] or is not a picture that can be decoded.
    pub fn open(path: impl AsRef<Path>) -> Result<Image> {
        let path = path.as_ref();
        let name = path.display().to_string();
        // Looked at before opening: opening a FIFO would wait for a writer.
        let metadata = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
        if !metadata.is_file() {
            let what = if metadata.is_dir() { "a directory" } else { "a device or a pipe" };
            return Err(Error::image(name, format!("is {what}, not a picture file")));
        }
        check_file_size(&name, metadata.len())?;
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        // One byte more than allowed, so that a file that grew meanwhile is refused rather than cut.
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|e| Error::io(path, e))?;
        Image::decode(&name, &bytes)
    }

    /// Decodes a PNG, JPEG, WebP, GIF, BMP or TIFF picture, told by its content; `name` is for messages.
    ///
    /// Transparency is composited over white and the first frame of an animation is taken, as the reference
    /// (`convert_to_rgb` of transformers 5 on a picture opened by Pillow) does. 16-bit grey clips at 255 and
    /// 16-bit colour keeps the high byte. EXIF orientation is not applied, except for TIFF, where Pillow
    /// does it on opening. All but CMYK and JPEG gives the bytes of Pillow; JPEG decoders differ by a few levels.
    ///
    /// # Errors
    /// [`Error::Image`] if the bytes are not such a picture, are damaged, or describe a picture of more than
    /// [`MAX_SIDE`] pixels a side or [`MAX_PIXELS`] in all.
    pub fn decode(name: &str, bytes: &[u8]) -> Result<Image> {
        check_file_size(name, bytes.len() as u64)?;
        if bytes.is_empty() {
            return Err(Error::image(name, "the file is empty"));
        }
        if let Some(format) = container::refused(bytes) {
            return Err(Error::image(name, format!("{format} is not supported; convert it to PNG or JPEG")));
        }
        let Some(kind) = container::sniff(bytes) else {
            let problem = "not a picture of a known format (PNG, JPEG, WebP, GIF, BMP or TIFF)";
            return Err(Error::image(name, problem));
        };
        match without_panics(|| decode_as(kind, bytes)) {
            Some(Ok(image)) => Ok(image),
            Some(Err(refusal)) => Err(Error::image(name, refusal.words(kind))),
            None => Err(Error::image(name, Refusal::Damaged.words(kind))),
        }
    }

    /// Makes a picture from `width * height * 3` bytes of RGB, rows from top to bottom.
    ///
    /// # Errors
    /// [`Error::Image`] if a side is 0 or beyond the limits of [`Image::decode`], or if the number of bytes
    /// does not fit the size.
    pub fn from_rgb(width: u32, height: u32, pixels: Vec<u8>) -> Result<Image> {
        check_size(width, height).map_err(|refusal| Error::image("picture", refusal.words(Kind::Bmp)))?;
        let need = u64::from(width) * u64::from(height) * 3;
        if pixels.len() as u64 != need {
            let problem = format!("{width}x{height} RGB needs {need} bytes, got {}", pixels.len());
            return Err(Error::image("picture", problem));
        }
        Ok(Image { width, height, pixels })
    }

    /// A picture whose size is known to fit its pixels.
    pub(super) fn from_parts(width: u32, height: u32, pixels: Vec<u8>) -> Image {
        debug_assert_eq!(pixels.len() as u64, u64::from(width) * u64::from(height) * 3);
        Image { width, height, pixels }
    }

    /// Width in pixels.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The bytes, `[height, width, 3]`.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }
}

/// Why a picture is not decoded, in this library's own words only.
enum Refusal {
    Damaged,
    Kind,
    Memory,
    Zero(u32, u32),
    TooLarge(u32, u32),
}

impl Refusal {
    fn words(&self, kind: Kind) -> String {
        let format = kind.name();
        match self {
            Refusal::Damaged => format!("not a decodable picture ({format}): it ends early or is damaged"),
            Refusal::Kind => format!("this kind of {format} is not supported; convert it to 8-bit RGB PNG or JPEG"),
            Refusal::Memory => {
                format!("not a decodable picture ({format}): it asks for more than {} MB", MAX_DECODE_BYTES / 1_000_000)
            }
            Refusal::Zero(width, height) => format!("the picture is {width}x{height} pixels: it has no pixels"),
            Refusal::TooLarge(width, height) => format!(
                "the picture is {width}x{height} pixels; the limit is {MAX_SIDE} a side and {} million in all",
                MAX_PIXELS / 1_000_000
            ),
        }
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

fn check_file_size(name: &str, bytes: u64) -> Result<()> {
    if bytes <= MAX_FILE_BYTES {
        return Ok(());
    }
    let problem = format!("the file has {bytes} bytes; the limit is {MAX_FILE_BYTES}");
    Err(Error::image(name, problem))
}

fn check_size(width: u32, height: u32) -> Result<(), Refusal> {
    if width == 0 || height == 0 {
        return Err(Refusal::Zero(width, height));
    }
    if width.max(height) > MAX_SIDE || u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(Refusal::TooLarge(width, height));
    }
    Ok(())
}

fn decode_as(kind: Kind, bytes: &[u8]) -> Result<Image, Refusal> {
    let cursor = Cursor::new(bytes);
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_DECODE_BYTES);
    match kind {
        Kind::Png => {
            // Its own header is read first: this decoder's constructor already allocates by it.
            let (width, height) = container::png_size(bytes).ok_or(Refusal::Damaged)?;
            check_size(width, height)?;
            read(png::PngDecoder::with_limits(cursor, limits)?, container::png_color_key(bytes))
        }
        Kind::Jpeg => read(jpeg::JpegDecoder::new(cursor)?, None),
        Kind::Webp => read(webp::WebPDecoder::new(cursor)?, None),
        Kind::Gif => decode_gif(bytes),
        Kind::Bmp => {
            let mut image = read(bmp::BmpDecoder::new(cursor)?, None)?;
            if let Some(max) = container::bmp_channel_max(bytes) {
                round_down_channels(&mut image.pixels, max);
            }
            Ok(image)
        }
        Kind::Tiff => {
            let mut decoder = tiff::TiffDecoder::new(cursor)?;
            let orientation = decoder.orientation()?;
            Ok(turn(read(decoder, None)?, orientation))
        }
    }
}

/// Runs a decoder, checking the size before the pixels are allocated.
fn read(mut decoder: impl ImageDecoder, key: Option<ColorKey>) -> Result<Image, Refusal> {
    let (width, height) = decoder.dimensions();
    check_size(width, height)?;
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_DECODE_BYTES);
    decoder.set_limits(limits)?;
    let color = decoder.color_type();
    let bytes = usize::try_from(decoder.total_bytes()).map_err(|_| Refusal::Memory)?;
    let mut samples = vec![0; bytes];
    decoder.read_image(&mut samples)?;
    let pixels = to_rgb(samples, color, key).ok_or(Refusal::Kind)?;
    Ok(Image::from_parts(width, height, pixels))
}

/// Decodes the first frame of a GIF on the canvas that Pillow gives it.
fn decode_gif(bytes: &[u8]) -> Result<Image, Refusal> {
    let frame = container::gif_frame(bytes).ok_or(Refusal::Damaged)?;
    let [left, top, right, bottom] = frame.edges;
    let side = |at: usize| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    let (width, height) = (side(6).max(right), side(8).max(bottom));
    let mut image = if (width, height) == (side(6), side(8)) {
        read(gif::GifDecoder::new(Cursor::new(bytes))?, None)?
    } else {
        // Pillow widens a canvas that its first frame does not fit; the decoder would cut the frame.
        let grown = |side: usize| u16::try_from(side).map_err(|_| Refusal::Kind);
        let mut bytes = bytes.to_vec();
        bytes[6..8].copy_from_slice(&grown(width)?.to_le_bytes());
        bytes[8..10].copy_from_slice(&grown(height)?.to_le_bytes());
        read(gif::GifDecoder::new(Cursor::new(bytes.as_slice()))?, None)?
    };
    // The decoder leaves the canvas round the frame transparent.
    for (i, pixel) in image.pixels.chunks_exact_mut(3).enumerate() {
        let (x, y) = (i % width, i / width);
        if x < left || x >= right || y < top || y >= bottom {
            pixel.copy_from_slice(&frame.around);
        }
    }
    Ok(image)
}

/// Turns a picture as its orientation tag says.
fn turn(image: Image, orientation: Orientation) -> Image {
    if orientation == Orientation::NoTransforms {
        return image;
    }
    let buffer = RgbImage::from_raw(image.width, image.height, image.pixels).expect("the pixels fit the size");
    let mut picture = DynamicImage::ImageRgb8(buffer);
    picture.apply_orientation(orientation);
    let (width, height) = (picture.width(), picture.height());
    Image::from_parts(width, height, picture.into_rgb8().into_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_limited() {
        assert!(check_size(1, 1).is_ok() && check_size(1, MAX_SIDE).is_ok() && check_size(8000, 8000).is_ok());
        for (width, height) in [(0, 5), (5, 0), (MAX_SIDE + 1, 1), (1, MAX_SIDE + 1), (8001, 8000)] {
            assert!(check_size(width, height).is_err(), "{width}x{height}");
        }
    }
}
