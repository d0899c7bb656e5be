//! Pictures in memory.

use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};

use crate::error::{Error, Result};

/// An 8-bit RGB picture: rows from top to bottom, three bytes a pixel.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
    /// Orientation of its file that was not applied.
    orientation: Option<u8>,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Image({}x{})", self.width, self.height)
    }
}

impl Image {
    /// Makes a picture from `width * height * 3` bytes of RGB, rows from top to bottom.
    ///
    /// # Errors
    /// [`Error::Image`] if a side is 0, or if the number of bytes does not fit the size.
    pub fn from_rgb(width: u32, height: u32, pixels: Vec<u8>) -> Result<Image> {
        if width == 0 || height == 0 {
            return Err(Error::image("picture", no_pixels(width, height)));
        }
        let need = u128::from(width) * u128::from(height) * 3;
        if pixels.len() as u128 != need {
            let problem = format!("{width}x{height} RGB needs {need} bytes, got {}", pixels.len());
            return Err(Error::image("picture", problem));
        }
        Ok(Image { width, height, pixels, orientation: None })
    }

    /// A picture whose size is known to fit its pixels.
    pub(super) fn from_parts(width: u32, height: u32, pixels: Vec<u8>) -> Image {
        debug_assert_eq!(pixels.len() as u64, u64::from(width) * u64::from(height) * 3);
        Image { width, height, pixels, orientation: None }
    }

    /// The picture with the orientation that its file carries.
    pub(super) fn oriented(self, orientation: Option<u8>) -> Image {
        Image { orientation, ..self }
    }

    /// The picture turned as its orientation says.
    pub(super) fn upright(self) -> Image {
        match self.orientation.and_then(Orientation::from_exif) {
            Some(orientation) => self.turned(orientation),
            None => self,
        }
    }

    /// The picture turned by an orientation.
    pub(super) fn turned(self, orientation: Orientation) -> Image {
        if orientation == Orientation::NoTransforms {
            return self;
        }
        let buffer = RgbImage::from_raw(self.width, self.height, self.pixels).expect("the pixels fit the size");
        let mut picture = DynamicImage::ImageRgb8(buffer);
        picture.apply_orientation(orientation);
        let (width, height) = (picture.width(), picture.height());
        Image::from_parts(width, height, picture.into_rgb8().into_raw())
    }

    /// The orientation that the picture's file carries and that was not applied, 2 to 8 as EXIF numbers them; `None`
    /// where the picture is upright as far as its file says.
    pub fn orientation(&self) -> Option<u8> {
        self.orientation
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

    /// The bytes, to be drawn on.
    pub(super) fn pixels_mut(&mut self) -> &mut [u8] {
        &mut self.pixels
    }
}

/// A description of the fault of a picture of which a side is 0.
pub(super) fn no_pixels(width: u32, height: u32) -> String {
    format!("the picture is {width}x{height} pixels: it has no pixels")
}
