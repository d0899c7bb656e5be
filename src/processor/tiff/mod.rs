//! TIFF and BigTIFF files as Pillow and its libtiff read them: the first directory's picture.
//!
//! Which combinations of photometric interpretation, sample format, bits and extra samples are read is Pillow's list
//! (`OPEN_INFO` of `TiffImagePlugin`), and so is how each becomes RGB. Read are bilevel, grey (1 to 32 bits, float),
//! palette, RGB, CMYK and, where compressed as JPEG, YCbCr pictures, in strips or tiles, chunky or planar.

mod compression;
mod directory;
mod pixels;

pub(super) use self::directory::Fault;

use self::compression::Compression;
use self::directory::{Directory, tag};
use self::pixels::Layout;

/// A TIFF file whose header was read.
pub(super) struct Tiff<'a> {
    directory: Directory<'a>,
    /// Width and height in pixels, as stored.
    width: usize,
    height: usize,
}

impl<'a> Tiff<'a> {
    /// Reads the first directory.
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, Fault> {
        let directory = Directory::first(bytes)?;
        let side = |tag| directory.number(tag)?.and_then(|side| u32::try_from(side).ok()).ok_or(Fault::Damaged);
        let (width, height) = (side(tag::WIDTH)? as usize, side(tag::HEIGHT)? as usize);
        Ok(Tiff { directory, width, height })
    }

    /// Width and height in pixels, as stored.
    pub(super) fn size(&self) -> (u32, u32) {
        (self.width as u32, self.height as u32)
    }

    /// The turn of the stored picture, as EXIF numbers it, which Pillow makes on opening.
    pub(super) fn orientation(&self) -> u8 {
        let value = self.directory.number(tag::ORIENTATION).ok().flatten();
        value.and_then(|value| u8::try_from(value).ok()).unwrap_or(1)
    }

    /// The picture as 8-bit RGB, as stored.
    pub(super) fn decode(&self) -> Result<Vec<u8>, Fault> {
        let layout = Layout::new(&self.directory)?;
        let samples = self.samples(&layout)?;
        layout.to_rgb(&samples, &self.directory)
    }

    /// All samples: pixel by pixel, each of whole bytes (native order).
    fn samples(&self, layout: &Layout) -> Result<Vec<u8>, Fault> {
        let compression = Compression::new(&self.directory, layout)?;
        let directory = &self.directory;
        let (chunk_width, chunk_height, places, lengths) = match directory.numbers(tag::STRIP_OFFSETS)? {
            Some(places) => {
                let rows = directory.number(tag::ROWS_PER_STRIP)?.map_or(self.height, |rows| rows as usize);
                (self.width, rows.clamp(1, self.height), places, directory.numbers(tag::STRIP_BYTES)?)
            }
            None => {
                let side = |tag| directory.number(tag)?.filter(|side| *side > 0).ok_or(Fault::Damaged);
                let (wide, high) = (side(tag::TILE_WIDTH)? as usize, side(tag::TILE_HEIGHT)? as usize);
                let places = directory.numbers(tag::TILE_OFFSETS)?.ok_or(Fault::Damaged)?;
                // A tile is decoded whole: one that is far larger than the picture is no tile of it.
                if wide > self.width.next_multiple_of(1024) || high > self.height.next_multiple_of(1024) {
                    return Err(Fault::Damaged);
                }
                (wide, high, places, directory.numbers(tag::TILE_BYTES)?)
            }
        };
        let (across, down) = (self.width.div_ceil(chunk_width), self.height.div_ceil(chunk_height));
        let planes = if layout.planar { layout.samples } else { 1 };
        let in_chunk = layout.samples / planes;
        let tiled = chunk_width != self.width || directory.numbers(tag::STRIP_OFFSETS)?.is_none();
        let mut out = vec![0; self.width * self.height * layout.samples * layout.bytes];
        for i in 0..across * down * planes {
            let (plane, row, column) = (i / (across * down), i / across % down, i % across);
            let rows = chunk_height.min(self.height - row * chunk_height);
            let place = usize::try_from(*places.get(i).ok_or(Fault::Damaged)?).map_err(|_| Fault::Damaged)?;
            let data = directory.bytes.get(place..).ok_or(Fault::Damaged)?;
            let length =
                lengths.as_ref().and_then(|lengths| lengths.get(i)).map_or(data.len(), |bytes| *bytes as usize);
            let data = &data[..length.min(data.len())];
            let stored_rows = if tiled { chunk_height } else { rows };
            let chunk = compression.expand(data, chunk_width, stored_rows, in_chunk)?;
            let chunk_samples = chunk_width * in_chunk;
            for y in 0..rows {
                let columns = chunk_width.min(self.width - column * chunk_width);
                let from = &chunk[y * chunk_samples * layout.bytes..][..columns * in_chunk * layout.bytes];
                let first = (row * chunk_height + y) * self.width + column * chunk_width;
                let pixels =
                    out[first * layout.samples * layout.bytes..].chunks_exact_mut(layout.samples * layout.bytes);
                for (pixel, samples) in pixels.zip(from.chunks_exact(in_chunk * layout.bytes)) {
                    pixel[plane * layout.bytes..][..samples.len()].copy_from_slice(samples);
                }
            }
        }
        Ok(out)
    }
}
