//! Reading of pictures in the program.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use clap::Args;
use clap::builder::FalseyValueParser;
use instructblip::engine::Picture;
use instructblip::processor::{ImageOptions, MAX_FILE_BYTES, MAX_PIXELS};
use instructblip::{Error, Image, Result};

use crate::common::Common;
use crate::progress::say;

/// Options of everything that reads pictures.
#[derive(Args, Clone, Debug, Default)]
pub struct PictureOptions {
    /// Largest picture to read, in pixels; one takes up to 11 bytes a pixel while it is read, 3 afterwards
    #[arg(long, value_name = "PIXELS", default_value_t = MAX_PIXELS, env = "INSTRUCTBLIP_MAX_PIXELS")]
    pub max_pixels: u64,
    /// Turn pictures upright that say by EXIF how the camera was held; the reference reads them as they are stored
    #[arg(long, env = "INSTRUCTBLIP_EXIF_ROTATE", value_parser = FalseyValueParser::new())]
    pub exif_rotate: bool,
}

impl PictureOptions {
    /// The library's options.
    pub fn options(&self) -> ImageOptions {
        ImageOptions { max_pixels: self.max_pixels, exif_rotate: self.exif_rotate }
    }

    /// Reads a picture from a file, or from standard input when the path is `-`; tells of one that is not upright.
    ///
    /// # Errors
    /// [`Error::Image`], [`Error::Io`].
    pub fn read(&self, common: &Common, path: &Path) -> Result<Image> {
        let options = self.options();
        let image = if path == Path::new("-") {
            let mut bytes = Vec::new();
            std::io::stdin()
                .take(MAX_FILE_BYTES + 1)
                .read_to_end(&mut bytes)
                .map_err(|source| Error::Io { path: "standard input".into(), source })?;
            Image::decode_with("standard input", &bytes, &options)?
        } else {
            Image::open_with(path, &options)?
        };
        if let Some(orientation) = image.orientation().filter(|_| !common.quiet) {
            say(&format!(
                "note: {} was taken with the camera turned (EXIF orientation {orientation}) and is read as it is stored, as the \
                 reference does; --exif-rotate turns it upright",
                path.display()
            ));
        }
        Ok(image)
    }

    /// A picture that an engine's threads read in the same way.
    pub fn picture(&self, common: &Common, path: &Path) -> Picture {
        let (options, common, path) = (self.clone(), common.clone(), path.to_path_buf());
        Picture::Read(Arc::new(move || options.read(&common, &path)))
    }
}
