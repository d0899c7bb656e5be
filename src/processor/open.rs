//! Reading pictures from files and bytes.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::decode::{Refusal, decode_as};
use super::image::Image;
use super::{container, orientation};
use crate::error::{Error, Result};
use crate::quiet::without_panics;

/// Largest picture that is decoded unless [`ImageOptions::max_pixels`] says otherwise, in pixels: Pillow's limit.
pub const MAX_PIXELS: u64 = 178_956_970;
/// Largest picture file that is read, in bytes.
pub const MAX_FILE_BYTES: u64 = 1 << 30;

/// Options for reading picture files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageOptions {
    /// Largest picture that is decoded, in pixels, whatever its sides.
    ///
    /// A decoded picture takes 3 bytes a pixel. While it is decoded the file is in memory too, and up to 8 bytes a
    /// pixel besides: 2 for each sample of a JPEG of several scans or a file of 16 bits, 4 for one with alpha.
    pub max_pixels: u64,
    /// True to turn a picture upright that says by EXIF or XMP how the camera was held, as
    /// `PIL.ImageOps.exif_transpose` does. The reference does not.
    pub exif_rotate: bool,
}

impl Default for ImageOptions {
    fn default() -> Self {
        ImageOptions { max_pixels: MAX_PIXELS, exif_rotate: false }
    }
}

impl Image {
    /// Reads a PNG, JPEG, WebP, GIF, BMP or TIFF file; see [`Image::decode`].
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read; [`Error::Image`] if it is no regular file, is larger than
    /// [`MAX_FILE_BYTES`] or is not a picture that can be decoded; [`Error::ImageTooLarge`].
    pub fn open(path: impl AsRef<Path>) -> Result<Image> {
        Image::open_with(path, &ImageOptions::default())
    }

    /// Reads a file with options; see [`Image::open`].
    ///
    /// # Errors
    /// Those of [`Image::open`], with the limit of the options.
    pub fn open_with(path: impl AsRef<Path>, options: &ImageOptions) -> Result<Image> {
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
        Image::decode_with(&name, &bytes, options)
    }

    /// Decodes a PNG, JPEG, WebP, GIF, BMP or TIFF picture, told by its content; `name` is for messages.
    ///
    /// Transparency is composited over white and the first frame of an animation is taken, as the reference
    /// (`convert_to_rgb` of transformers 5 on a picture opened by Pillow) does. 16-bit grey clips at 255 and
    /// 16-bit colour keeps the high byte. EXIF orientation is not applied ([`Image::orientation`] tells it), except
    /// for TIFF, where Pillow does it on opening. The bytes are those of Pillow 12.3.
    ///
    /// # Errors
    /// [`Error::Image`] if the bytes are not such a picture or are damaged, [`Error::ImageTooLarge`] if they describe a
    /// picture of more than [`MAX_PIXELS`].
    pub fn decode(name: &str, bytes: &[u8]) -> Result<Image> {
        Image::decode_with(name, bytes, &ImageOptions::default())
    }

    /// Decodes a picture with options; see [`Image::decode`].
    ///
    /// # Errors
    /// Those of [`Image::decode`], with the limit of the options.
    pub fn decode_with(name: &str, bytes: &[u8], options: &ImageOptions) -> Result<Image> {
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
        let decoded = without_panics(|| {
            let image = decode_as(kind, bytes, options.max_pixels)?.oriented(orientation::of_file(kind, bytes));
            Ok(if options.exif_rotate { image.upright() } else { image })
        });
        decoded.unwrap_or(Err(Refusal::Damaged)).map_err(|refusal| refusal.of(name, kind))
    }
}

fn check_file_size(name: &str, bytes: u64) -> Result<()> {
    if bytes <= MAX_FILE_BYTES {
        return Ok(());
    }
    let problem = format!("the file has {bytes} bytes; the limit is {MAX_FILE_BYTES}");
    Err(Error::image(name, problem))
}
