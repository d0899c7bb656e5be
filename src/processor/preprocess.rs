//! The way from a picture to the numbers that the vision tower takes.

use std::path::Path;

use serde_json::Value;

use super::image::Image;
use super::resize::{PassOrder, resize};
use crate::error::{Error, Result};

/// Mean of each channel, used when the file has none (`OPENAI_CLIP_MEAN`).
const DEFAULT_MEAN: [f64; 3] = [0.48145466, 0.4578275, 0.40821073];
/// Standard deviation of each channel, used when the file has none (`OPENAI_CLIP_STD`).
const DEFAULT_STD: [f64; 3] = [0.26862954, 0.26130258, 0.27577711];
/// Side of the resized picture in pixels, used when the file has none.
const DEFAULT_SIDE: u32 = 384;
/// Longest side a resized picture may have, in pixels.
const MAX_SIDE: u32 = 16_384;
/// Number of the bicubic filter in Pillow.
const BICUBIC: u64 = 3;

/// Resizes, scales and normalises pictures.
///
/// Reference: `transformers.BlipImageProcessorPil`, bit for bit.
#[derive(Clone, Debug)]
pub struct ImageProcessor {
    width: u32,
    height: u32,
    pass_order: PassOrder,
    /// The number each channel's byte becomes.
    levels: Box<[[f32; 256]; 3]>,
}

impl ImageProcessor {
    /// Reads the settings from the JSON of `preprocessor_config.json`, or from the object `image_processor`
    /// of `processor_config.json`; `file` is for messages. Absent settings take the reference's defaults.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] naming the setting if it has the wrong type or range, or asks for something
    /// this library does not do.
    pub fn from_json(file: &Path, value: &Value) -> Result<Self> {
        let settings = Settings { file, value };
        if !value.is_object() {
            return Err(settings.refuse("the image processor's settings are not a JSON object"));
        }
        settings.check_kind()?;
        let (width, height) = settings.size()?;
        let factor = if settings.flag("do_rescale", true)? {
            Some(settings.number("rescale_factor")?.unwrap_or(1.0 / 255.0))
        } else {
            None
        };
        let normalise = settings.flag("do_normalize", true)?;
        let mean = settings.channels("image_mean", DEFAULT_MEAN)?;
        let std = settings.channels("image_std", DEFAULT_STD)?;
        if normalise && std.contains(&0.0) {
            return Err(settings.refuse("\"image_std\" has a 0, by which the pixels would be divided"));
        }
        let mut levels = Box::new([[0.0; 256]; 3]);
        for (channel, levels) in levels.iter_mut().enumerate() {
            for (byte, level) in levels.iter_mut().enumerate() {
                // The reference's types: scaled in f64, kept in f32, normalised in f32.
                let scaled = (byte as f64 * factor.unwrap_or(1.0)) as f32;
                *level = if normalise { (scaled - mean[channel]) / std[channel] } else { scaled };
            }
        }
        if levels.iter().flatten().any(|level| !level.is_finite()) {
            return Err(settings.refuse("the scale, mean and deviation turn pixels into infinite numbers"));
        }
        Ok(ImageProcessor { width, height, pass_order: PassOrder::default(), levels })
    }

    /// Chooses the order of the resizing passes; the default is that of Pillow up to 12.
    #[must_use]
    pub fn with_pass_order(mut self, order: PassOrder) -> Self {
        self.pass_order = order;
        self
    }

    /// Makes pictures of this size.
    #[must_use]
    pub(super) fn with_size(mut self, width: u32, height: u32) -> Self {
        (self.width, self.height) = (width, height);
        self
    }

    /// Width of the resized picture in pixels.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height of the resized picture in pixels.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The picture as `[3, height, width]` numbers: red, green and blue plane, rows from top to bottom.
    pub fn pixels(&self, image: &Image) -> Vec<f32> {
        let resized = resize(image, self.width, self.height, self.pass_order);
        let mut out = Vec::with_capacity(resized.pixels().len());
        for (channel, levels) in self.levels.iter().enumerate() {
            out.extend(resized.pixels().iter().skip(channel).step_by(3).map(|byte| levels[usize::from(*byte)]));
        }
        out
    }
}

/// The settings of an image processor and the file they are in.
struct Settings<'a> {
    file: &'a Path,
    value: &'a Value,
}

impl<'a> Settings<'a> {
    fn refuse(&self, problem: impl Into<String>) -> Error {
        Error::checkpoint(self.file, problem)
    }

    /// A setting that is there and not null.
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.value.get(name).filter(|value| !value.is_null())
    }

    fn flag(&self, name: &str, default: bool) -> Result<bool> {
        match self.get(name) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.refuse(format!("\"{name}\" must be true or false, is {other}"))),
        }
    }

    fn number(&self, name: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.as_f64().filter(|number| number.is_finite()) {
            Some(number) => Ok(Some(number)),
            None => Err(self.refuse(format!("\"{name}\" must be a number, is {value}"))),
        }
    }

    /// One number for each channel, or one for all.
    fn channels(&self, name: &str, default: [f64; 3]) -> Result<[f32; 3]> {
        let wrong = |value| self.refuse(format!("\"{name}\" must be one number or three, is {value}"));
        let numbers = match self.get(name) {
            None => default,
            Some(value) => match (value.as_f64(), value.as_array()) {
                (Some(number), _) => [number; 3],
                (None, Some(list)) => {
                    let list: Option<Vec<f64>> = list.iter().map(Value::as_f64).collect();
                    list.and_then(|list| list.try_into().ok()).ok_or_else(|| wrong(value))?
                }
                _ => return Err(wrong(value)),
            },
        };
        Ok(numbers.map(|number| number as f32))
    }

    /// Refuses the processors and the steps that are not BLIP's.
    fn check_kind(&self) -> Result<()> {
        let kind = self.get("image_processor_type").or_else(|| self.get("feature_extractor_type"));
        if let Some(kind) = kind.and_then(Value::as_str).filter(|kind| !kind.contains("Blip")) {
            return Err(self.refuse(format!("image processor {kind:?} is not supported (BlipImageProcessor is)")));
        }
        for (name, wanted) in
            [("do_resize", true), ("do_convert_rgb", true), ("do_center_crop", false), ("do_pad", false)]
        {
            if self.flag(name, wanted)? != wanted {
                return Err(self.refuse(format!("\"{name}\": {} is not supported", !wanted)));
            }
        }
        match self.get("resample") {
            Some(value) if value.as_u64() != Some(BICUBIC) => {
                Err(self.refuse(format!("\"resample\" {value} is not supported (3, bicubic, is)")))
            }
            _ => Ok(()),
        }
    }

    /// Width and height to resize to.
    fn size(&self) -> Result<(u32, u32)> {
        let Some(size) = self.get("size") else { return Ok((DEFAULT_SIDE, DEFAULT_SIDE)) };
        let side = |value: Option<&Value>| {
            let side = value.and_then(Value::as_u64).filter(|side| (1..=u64::from(MAX_SIDE)).contains(side));
            side.map(|side| side as u32).ok_or_else(|| {
                let wanted = format!("a \"height\" and a \"width\" from 1 to {MAX_SIDE}");
                self.refuse(format!("\"size\" must have {wanted}, is {size}"))
            })
        };
        if size.is_number() {
            let side = side(Some(size))?;
            return Ok((side, side));
        }
        Ok((side(size.get("width"))?, side(size.get("height"))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: Value) -> Result<ImageProcessor> {
        ImageProcessor::from_json(Path::new("preprocessor_config.json"), &value)
    }

    #[test]
    fn an_empty_object_means_the_defaults() {
        let processor = read(json!({})).unwrap();
        assert_eq!((processor.width(), processor.height()), (384, 384));
        assert_eq!(processor.levels[0][0], (0.0f32 - 0.48145466) / 0.26862954);
    }

    #[test]
    fn scaling_and_normalising_can_be_switched_off() {
        let raw = read(json!({"do_rescale": false, "do_normalize": false})).unwrap();
        assert_eq!(raw.levels[1][200], 200.0);
        let scaled = read(json!({"do_normalize": false, "image_std": 0})).unwrap();
        assert_eq!(scaled.levels[2][255], 1.0);
        let shifted = read(json!({"do_rescale": false, "image_mean": 100, "image_std": [2, 2, 2]})).unwrap();
        assert_eq!(shifted.levels[2][200], 50.0);
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        for (value, words) in [
            (json!([]), "not a JSON object"),
            (json!({"resample": 2}), "\"resample\" 2"),
            (json!({"do_resize": false}), "\"do_resize\": false"),
            (json!({"do_convert_rgb": false}), "do_convert_rgb"),
            (json!({"do_center_crop": true}), "\"do_center_crop\": true"),
            (json!({"do_rescale": 1}), "true or false, is 1"),
            (json!({"size": {"shortest_edge": 224}}), "\"height\" and a \"width\""),
            (json!({"size": {"height": 0, "width": 224}}), "from 1 to 16384"),
            (json!({"image_mean": [1, 2]}), "one number or three"),
            (json!({"image_std": [1, 0, 1]}), "has a 0"),
            (json!({"image_std": 1e-45, "rescale_factor": 1e30}), "infinite"),
            (json!({"rescale_factor": "x"}), "must be a number"),
            (json!({"image_processor_type": "CLIPImageProcessor"}), "CLIPImageProcessor"),
        ] {
            let message = read(value.clone()).unwrap_err().to_string();
            assert!(message.starts_with("preprocessor_config.json: "), "{message}");
            assert!(message.contains(words), "{value}: {message}");
        }
    }
}
