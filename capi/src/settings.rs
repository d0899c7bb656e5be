//! The options of opening a model, as JSON.

use std::fs;
use std::path::{Path, PathBuf};

use instructblip::fields::{self, FLAG, Kinds, LARGE};
use instructblip::generate::options::MAX_NEW_TOKENS;
use instructblip::model::{LoadOptions, Workload};
use instructblip::processor::ImageOptions;
use instructblip::runtime::{KvFormat, WeightFormat, kernel_cache};
use instructblip::weights::Formats;
use instructblip::{Checkpoint, EngineOptions, InstructBlip};
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::status::Failure;

/// The options, under the names of the command line. The header lists them, with the same defaults.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Settings {
    #[serde(deserialize_with = "weight_format")]
    weights: Option<WeightFormat>,
    #[serde(deserialize_with = "weight_format")]
    vision_weights: Option<WeightFormat>,
    #[serde(deserialize_with = "weight_format")]
    qformer_weights: Option<WeightFormat>,
    #[serde(deserialize_with = "weight_format")]
    language_weights: Option<WeightFormat>,
    budget_bytes: Option<u64>,
    offload: bool,
    #[serde(deserialize_with = "kv_format")]
    kv_cache: Option<KvFormat>,
    lora: Option<PathBuf>,
    #[serde(deserialize_with = "within::<_, 1, MOST_SLOTS>")]
    slots: Option<u64>,
    #[serde(deserialize_with = "within::<_, 1, MOST_TOKENS>")]
    new_tokens: Option<u64>,
    #[serde(deserialize_with = "within::<_, 1, { u64::MAX }>")]
    max_pixels: Option<u64>,
    exif_rotate: bool,
    kernel_cache: Option<PathBuf>,
}

/// Most slots of an engine.
const MOST_SLOTS: u64 = 256;

/// Most new tokens of an answer.
const MOST_TOKENS: u64 = MAX_NEW_TOKENS as u64;

const WEIGHTS: &str = "\"f16\", \"q8\" or \"q4\"";
const FOLDER: &str = "a text, the path of a folder";

/// The options' names, and what each must be.
const KINDS: &Kinds = &[
    ("weights", WEIGHTS),
    ("vision_weights", WEIGHTS),
    ("qformer_weights", WEIGHTS),
    ("language_weights", WEIGHTS),
    ("budget_bytes", LARGE),
    ("offload", FLAG),
    ("kv_cache", "\"f32\" or \"f16\""),
    ("lora", FOLDER),
    ("slots", "a whole number from 1 to 256"),
    ("new_tokens", "a whole number from 1 to 65536"),
    ("max_pixels", "a whole number from 1 to 18446744073709551615"),
    ("exif_rotate", FLAG),
    ("kernel_cache", FOLDER),
];

fn weight_format<'de, D: Deserializer<'de>>(value: D) -> Result<Option<WeightFormat>, D::Error> {
    let name = String::deserialize(value)?;
    WeightFormat::named(&name).map(Some).ok_or_else(|| D::Error::custom("another format"))
}

fn kv_format<'de, D: Deserializer<'de>>(value: D) -> Result<Option<KvFormat>, D::Error> {
    let name = String::deserialize(value)?;
    KvFormat::named(&name).map(Some).ok_or_else(|| D::Error::custom("another format"))
}

fn within<'de, D: Deserializer<'de>, const LEAST: u64, const MOST: u64>(value: D) -> Result<Option<u64>, D::Error> {
    let number = u64::deserialize(value)?;
    (LEAST..=MOST).contains(&number).then_some(Some(number)).ok_or_else(|| D::Error::custom("out of range"))
}

impl Settings {
    /// The options of an object.
    pub fn of(object: Map<String, Value>) -> Result<Settings, Failure> {
        Ok(fields::read("options", object, KINDS)?)
    }

    /// The folder of compiled kernels: the usual one, unless another or none was named. One that was named is there, and
    /// can be written to.
    pub fn kernel_cache(&self) -> Result<Option<PathBuf>, Failure> {
        match &self.kernel_cache {
            None => Ok(kernel_cache()),
            Some(folder) if folder.as_os_str().is_empty() => Ok(None),
            Some(folder) => check_writable(folder).map(|()| Some(folder.clone())),
        }
    }

    /// The options of loading.
    pub fn load_options(&self) -> Result<LoadOptions, Failure> {
        let formats = self.weights.map(Formats::usual).unwrap_or_default().but_for(Formats {
            vision: self.vision_weights,
            qformer: self.qformer_weights,
            language: self.language_weights,
        });
        Ok(LoadOptions {
            formats,
            budget_bytes: self.budget_bytes,
            offload: self.offload,
            kv_cache: self.kv_cache,
            workload: self.workload(),
            adapter: self.lora.as_ref().map(Checkpoint::adapter_directory).transpose()?,
            ..LoadOptions::default()
        })
    }

    /// The options of the engine.
    pub fn engine_options(&self, model: &InstructBlip) -> EngineOptions {
        let most = self.workload();
        let usual = ImageOptions::default();
        let pictures =
            ImageOptions { max_pixels: self.max_pixels.unwrap_or(usual.max_pixels), exif_rotate: self.exif_rotate };
        let tokens = most.prompt_tokens.saturating_add(model.config().num_query_tokens).saturating_add(most.new_tokens);
        // Each question has a thread that waits for it, so that there are never many.
        EngineOptions {
            slots: most.batch,
            tokens,
            at_once: most.at_once,
            queue: usize::MAX,
            pictures,
            ..Default::default()
        }
    }

    /// New tokens that each slot has room for.
    pub fn new_tokens(&self) -> u32 {
        self.workload().new_tokens
    }

    fn workload(&self) -> Workload {
        let (usual, engine) = (Workload::default(), EngineOptions::default());
        let of = |option: Option<u64>, usual: u32| option.map_or(usual, |number| number as u32);
        let (batch, new_tokens) = (of(self.slots, engine.slots), of(self.new_tokens, usual.new_tokens));
        Workload { batch, new_tokens, at_once: batch.min(engine.at_once), ..usual }
    }
}

/// Refuses a folder that compiled kernels could not be kept in: whoever names one wants them kept, and would otherwise
/// wait for the compiler each time and never hear why.
fn check_writable(folder: &Path) -> Result<(), Failure> {
    let file = folder.join(format!("writable-{}", std::process::id()));
    let written = fs::create_dir_all(folder).and_then(|()| fs::write(&file, b""));
    // Another thread may have removed it already.
    let _ = fs::remove_file(&file);
    written.map_err(|e| {
        let advice = "name another folder, \"\" for none, or leave it out";
        Failure::request(format!("options: kernel_cache: {} cannot be written to ({e}); {advice}", folder.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comment_has_every_option_with_its_default() {
        let comments = include_str!("open.rs");
        let (most, pictures) = (Settings::default().workload(), ImageOptions::default());
        for (name, _) in KINDS {
            let default = match *name {
                "slots" => most.batch.to_string(),
                "new_tokens" => most.new_tokens.to_string(),
                "max_pixels" => pictures.max_pixels.to_string(),
                "offload" | "exif_rotate" => "false".into(),
                _ => "null".into(),
            };
            let line = format!("/// \"{name}\": {default}, ");
            assert!(comments.contains(&line), "the comment on options lacks {line}");
        }
    }

    /// The kinds that have numbers in them are those that are checked.
    #[test]
    fn ranges_are_those_that_are_told() {
        for (name, most) in [("slots", MOST_SLOTS), ("new_tokens", MOST_TOKENS), ("max_pixels", u64::MAX)] {
            let of = |value: u64| Settings::of(Map::from_iter([(name.to_string(), value.into())]));
            assert!(of(1).is_ok() && of(most).is_ok() && of(0).is_err(), "{name}");
            let (_, kind) = KINDS.iter().find(|(known, _)| *known == name).expect("known");
            assert_eq!(*kind, format!("a whole number from 1 to {most}"));
        }
    }
}
