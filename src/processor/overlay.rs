//! Pictures that show where a model looks: a map over patches laid over the picture, and many of them on one sheet.

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

use super::image::Image;
use super::resize::{PassOrder, resize};
use crate::error::{Error, Result};

/// Sides that overlays are shrunk to fit, in pixels: many go on a sheet.
const LARGEST_SIDE: u32 = 448;

/// White between the pictures of a sheet, in pixels.
const GAP: u32 = 4;

/// Share of a picture's colours that stays where the model does not look, and the grey that the rest becomes.
const LEAST_KEPT: f32 = 0.3;
const FADED: f32 = 90.0;

/// Size of letters on sheets, in pixels.
const LETTERS: RasterHeight = RasterHeight::Size16;
const LINE: u32 = LETTERS.val() as u32;
const LETTER_WIDTH: u32 = get_raster_width(FontWeight::Regular, LETTERS) as u32;

/// Pictures of one kind on a sheet.
#[derive(Clone, Debug)]
pub struct SheetKind {
    /// The name of the kind.
    pub title: String,
    /// The pictures, with their names.
    pub pictures: Vec<(String, Image)>,
}

impl Image {
    /// The picture with its own colours where `map` (`patches²` values, row by row) is high, faded to a dark grey where it
    /// is low, which shows on light and on dark pictures. The largest value is full strength; a map is stretched over the
    /// whole picture, as the model saw it.
    ///
    /// # Errors
    /// [`Error::Request`] if there are not `patches²` values.
    pub fn overlaid(&self, map: &[f32], patches: usize) -> Result<Image> {
        if map.len() != patches * patches || map.is_empty() {
            return Err(Error::request(format!("a map of {} values is not {patches} x {patches}", map.len())));
        }
        let small = self.thumbnail();
        let largest = map.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
        let levels = map.iter().flat_map(|value| [(255.0 * (value / largest).clamp(0.0, 1.0)) as u8; 3]).collect();
        let map = Image::from_rgb(patches as u32, patches as u32, levels)?;
        let map = resize(&map, small.width(), small.height(), PassOrder::HorizontalFirst);
        let pixels = small.pixels().iter().zip(map.pixels()).map(|(&pixel, &level)| {
            let kept = LEAST_KEPT + (1.0 - LEAST_KEPT) * f32::from(level) / 255.0;
            (f32::from(pixel) * kept + FADED * (1.0 - kept)).round() as u8
        });
        Image::from_rgb(small.width(), small.height(), pixels.collect())
    }

    /// The picture as large as overlays of it are.
    pub fn thumbnail(&self) -> Image {
        let shrink = (f64::from(LARGEST_SIDE) / f64::from(self.width().max(self.height()))).min(1.0);
        let side = |n: u32| ((f64::from(n) * shrink).round() as u32).max(1);
        resize(self, side(self.width()), side(self.height()), PassOrder::HorizontalFirst)
    }

    /// Kinds of pictures on a white sheet, each beginning a row of at most `columns` under its title, each picture with
    /// its name beneath it. Titles and names are ASCII; other characters become `?`.
    ///
    /// # Errors
    /// [`Error::Request`] if there is nothing to show, or if that is too large for one picture.
    pub fn sheet(kinds: &[SheetKind], columns: usize) -> Result<Image> {
        let tiles = || kinds.iter().flat_map(|kind| &kind.pictures);
        // A letter more than there are, so that names do not touch.
        let text_width = |text: &str| (text.chars().count() as u32 + 1) * LETTER_WIDTH;
        let width = tiles().map(|(name, picture)| picture.width().max(text_width(name))).max().unwrap_or(0) + GAP;
        let height = tiles().map(|(_, picture)| picture.height()).max().unwrap_or(0) + LINE + 2 * GAP;
        if width == GAP || columns == 0 {
            return Err(Error::request("a sheet needs pictures"));
        }
        let across = kinds.iter().map(|kind| kind.pictures.len().min(columns)).max().unwrap_or(0) as u32;
        let title_width = kinds.iter().map(|kind| text_width(&kind.title)).max().unwrap_or(0) + GAP;
        let rows = |kind: &SheetKind| kind.pictures.len().div_ceil(columns) as u32;
        let sheet_height = GAP + kinds.iter().map(|kind| LINE + GAP + rows(kind) * height).sum::<u32>();
        let sheet_width = GAP + (across * width).max(title_width);
        let white = vec![255; sheet_width as usize * sheet_height as usize * 3];
        let mut sheet = Canvas(Image::from_rgb(sheet_width, sheet_height, white)?);
        let mut top = GAP;
        for kind in kinds {
            sheet.write(GAP, top, &kind.title);
            top += LINE + GAP;
            for row in kind.pictures.chunks(columns) {
                for (column, (name, picture)) in (0u32..).zip(row) {
                    let left = GAP + column * width;
                    sheet.draw(left, top, picture);
                    sheet.write(left, top + picture.height() + GAP, name);
                }
                top += height;
            }
        }
        Ok(sheet.0)
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

/// A picture that is drawn on.
struct Canvas(Image);

impl Canvas {
    fn draw(&mut self, left: u32, top: u32, picture: &Image) {
        for (row, line) in (0u32..).zip(picture.pixels().chunks(picture.width() as usize * 3)) {
            let at = ((top + row) * self.0.width() + left) as usize * 3;
            self.0.pixels_mut()[at..at + line.len()].copy_from_slice(line);
        }
    }

    /// Black letters on white.
    fn write(&mut self, left: u32, top: u32, text: &str) {
        let letter = |c: char| get_raster(c, FontWeight::Regular, LETTERS);
        let letters = text.chars().filter_map(|c| letter(c).or_else(|| letter('?')));
        for (at, letter) in (0u32..).zip(letters) {
            let pixels = letter.pixels().iter().flat_map(|&ink| [255 - ink; 3]).collect();
            let drawn = Image::from_parts(letter.width() as u32, letter.height() as u32, pixels);
            self.draw(left + at * LETTER_WIDTH, top, &drawn);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlays_keep_colours_where_the_map_is_high_and_fade_the_rest() {
        for level in [0u8, 100, 255] {
            let plain = Image::from_rgb(40, 20, [level, 60, 200].repeat(40 * 20)).expect("a picture");
            let seen = plain.overlaid(&[0.0, 0.9, 0.0, 0.0], 2).expect("an overlay");
            let at = |x: usize, y: usize| &seen.pixels()[(y * 40 + x) * 3..][..3];
            assert_eq!(at(39, 0), [level, 60, 200], "its own colours");
            let faded = |own: u8| (0.3 * f32::from(own) + 0.7 * 90.0).round() as u8;
            assert_eq!(at(0, 19), [faded(level), faded(60), faded(200)]);
        }
        let grey = Image::from_rgb(900, 20, vec![100; 900 * 20 * 3]).expect("a picture");
        assert!(grey.overlaid(&[1.0], 2).is_err());
        assert_eq!((grey.thumbnail().width(), grey.thumbnail().height()), (448, 10));
    }

    #[test]
    fn sheets_have_a_row_a_kind_and_a_name_under_every_picture() {
        let tile = |shade: u8| Image::from_rgb(60, 30, vec![shade; 60 * 30 * 3]).expect("a picture");
        let named = |name: &str| (name.to_string(), tile(200));
        let kinds = [
            SheetKind { title: "one".into(), pictures: vec![named("a")] },
            SheetKind { title: "three".into(), pictures: vec![named("b"), named("c"), named("é")] },
        ];
        let sheet = Image::sheet(&kinds, 2).expect("a sheet");
        let (line, row) = (LINE + GAP, 30 + LINE + 2 * GAP);
        assert_eq!((sheet.width(), sheet.height()), (2 * (60 + GAP) + GAP, GAP + 2 * line + 3 * row));
        let ink = |top: u32, height: u32| {
            let line = sheet.width() as usize * 3;
            let rows = &sheet.pixels()[top as usize * line..][..height as usize * line];
            rows.iter().filter(|&&shade| shade < 128).count()
        };
        // A title and a name before the second kind, a title and two lines of names after.
        let second = GAP + line + row;
        for (top, there) in [(GAP, true), (GAP + line, false), (GAP + line + 30 + GAP, true), (second, true)] {
            assert_eq!(ink(top, LINE) > 10, there, "from {top}");
        }
        assert!(ink(second + line + 30 + GAP, LINE) > 10 && ink(second + line + row + 30 + GAP, LINE) > 10);
        assert!(Image::sheet(&[], 2).is_err() && Image::sheet(&kinds, 0).is_err());
        assert_eq!(Image::decode("sheet", &sheet.to_png().expect("a PNG")).expect("a picture"), sheet);
    }
}
