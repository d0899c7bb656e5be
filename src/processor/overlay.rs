//! Pictures of where a model looks: a map over patches laid over the picture, and many of them on one sheet.

use super::Image;
use super::resize::{PassOrder, resize};
use crate::error::{Error, Result};

/// Sides that overlays are shrunk to fit, in pixels: many go on a sheet.
const LARGEST_SIDE: u32 = 448;

/// White between the pictures of a sheet, in pixels.
const GAP: u32 = 4;

impl Image {
    /// The picture darkened where `map` (`patches²` values, row by row) is low, with a warm glow where it is high. The
    /// largest value is full strength; a map is stretched over the whole picture, as the model saw it.
    ///
    /// # Errors
    /// [`Error::Request`] if there are not `patches²` values.
    pub fn overlaid(&self, map: &[f32], patches: usize) -> Result<Image> {
        if map.len() != patches * patches || map.is_empty() {
            return Err(Error::request(format!("a map of {} values is not {patches} x {patches}", map.len())));
        }
        let shrink = (f64::from(LARGEST_SIDE) / f64::from(self.width().max(self.height()))).min(1.0);
        let side = |n: u32| ((f64::from(n) * shrink).round() as u32).max(1);
        let (width, height) = (side(self.width()), side(self.height()));
        let small = resize(self, width, height, PassOrder::HorizontalFirst);
        let largest = map.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
        let levels = map.iter().flat_map(|value| [(255.0 * (value / largest).clamp(0.0, 1.0)) as u8; 3]).collect();
        let map = Image::from_rgb(patches as u32, patches as u32, levels)?;
        let map = resize(&map, width, height, PassOrder::HorizontalFirst);
        let glow = [255.0, 150.0, 0.0];
        let pixels = small.pixels().iter().zip(map.pixels()).enumerate().map(|(i, (&pixel, &level))| {
            let level = f32::from(level) / 255.0;
            let dimmed = f32::from(pixel) * (0.35 + 0.65 * level);
            (dimmed + (glow[i % 3] - dimmed) * 0.45 * level) as u8
        });
        Image::from_rgb(width, height, pixels.collect())
    }

    /// Pictures of one size on a white sheet, `columns` in a row.
    ///
    /// # Errors
    /// [`Error::Request`] if there are none or their sizes differ.
    pub fn sheet(pictures: &[Image], columns: usize) -> Result<Image> {
        let Some(first) = pictures.first() else { return Err(Error::request("a sheet needs pictures")) };
        let (width, height) = (first.width(), first.height());
        if pictures.iter().any(|p| (p.width(), p.height()) != (width, height)) || columns == 0 {
            return Err(Error::request("the pictures of a sheet have one size"));
        }
        let across = columns.min(pictures.len()) as u32;
        let down = (pictures.len() as u32).div_ceil(across);
        let (sheet_width, sheet_height) = (across * (width + GAP) + GAP, down * (height + GAP) + GAP);
        let mut pixels = vec![255; sheet_width as usize * sheet_height as usize * 3];
        for (i, picture) in (0u32..).zip(pictures) {
            let (left, top) = (GAP + (i % across) * (width + GAP), GAP + (i / across) * (height + GAP));
            for (row, line) in (0u32..).zip(picture.pixels().chunks(width as usize * 3)) {
                let at = ((top + row) * sheet_width + left) as usize * 3;
                pixels[at..at + line.len()].copy_from_slice(line);
            }
        }
        Image::from_rgb(sheet_width, sheet_height, pixels)
    }

    /// The picture as the bytes of a PNG file.
    ///
    /// # Errors
    /// [`Error::Request`] if it cannot be encoded.
    pub fn to_png(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let encoder = image::codecs::png::PngEncoder::new(&mut bytes);
        let kind = image::ExtendedColorType::Rgb8;
        image::ImageEncoder::write_image(encoder, self.pixels(), self.width(), self.height(), kind)
            .map_err(|_| Error::request("the picture cannot be written as PNG"))?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlays_glow_where_the_map_is_high() {
        let grey = Image::from_rgb(40, 20, vec![100; 40 * 20 * 3]).expect("a picture");
        let seen = grey.overlaid(&[0.0, 0.9, 0.0, 0.0], 2).expect("an overlay");
        let red = |x: usize, y: usize| seen.pixels()[(y * 40 + x) * 3];
        assert!(red(36, 2) > 130 && red(3, 17) < 50, "{} {}", red(36, 2), red(3, 17));
        assert!(grey.overlaid(&[1.0], 2).is_err());
        let sheet = Image::sheet(&[seen.clone(), seen.clone(), seen], 2).expect("a sheet");
        assert_eq!((sheet.width(), sheet.height()), (2 * 44 + 4, 2 * 24 + 4));
        assert_eq!(Image::decode("sheet", &sheet.to_png().expect("a PNG")).expect("a picture"), sheet);
    }
}
