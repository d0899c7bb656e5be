//! The options of opening a model, as JSON.

use std::path::PathBuf;

use instructblip::model::{LoadOptions, Workload};
use instructblip::processor::ImageOptions;
use instructblip::runtime::{KvFormat, WeightFormat, kernel_cache};
use instructblip::weights::Formats;
use instructblip::{Checkpoint, EngineOptions, InstructBlip};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::status::Failure;

/// Most slots of an engine.
const MOST_SLOTS: u32 = 256;

/// The options, under the names of the command line.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    weights: Option<String>,
    vision_weights: Option<String>,
    qformer_weights: Option<String>,
    language_weights: Option<String>,
    budget_bytes: Option<u64>,
    offload: bool,
    kv_cache: Option<String>,
    lora: Option<PathBuf>,
    slots: Option<u32>,
    new_tokens: Option<u32>,
    max_pixels: Option<u64>,
    exif_rotate: bool,
    kernel_cache: Option<PathBuf>,
}

impl Settings {
    /// The options of an object.
    pub fn of(object: Map<String, Value>) -> Result<Settings, Failure> {
        let settings = serde_json::from_value::<Settings>(Value::Object(object));
        let settings = settings.map_err(|e| Failure::request(format!("options: {e}")))?;
        match settings.slots {
            Some(slots) if !(1..=MOST_SLOTS).contains(&slots) => {
                Err(Failure::request(format!("options: slots is {slots}; it must be from 1 to {MOST_SLOTS}")))
            }
            _ => Ok(settings),
        }
    }

    /// The folder of compiled kernels: the usual one, unless another or none was named.
    pub fn kernel_cache(&self) -> Option<PathBuf> {
        match &self.kernel_cache {
            None => kernel_cache(),
            Some(folder) if folder.as_os_str().is_empty() => None,
            Some(folder) => Some(folder.clone()),
        }
    }

    /// The options of loading.
    pub fn load_options(&self) -> Result<LoadOptions, Failure> {
        let format = |name: &str, wanted: &Option<String>| {
            wanted
                .as_deref()
                .map(|of| WeightFormat::named(of).ok_or_else(|| unknown(name, of, "f16, q8 or q4")))
                .transpose()
        };
        let usual = format("weights", &self.weights)?.map(Formats::usual).unwrap_or_default();
        let formats = usual.but_for(Formats {
            vision: format("vision_weights", &self.vision_weights)?,
            qformer: format("qformer_weights", &self.qformer_weights)?,
            language: format("language_weights", &self.language_weights)?,
        });
        let kv_cache = self.kv_cache.as_deref();
        let kv_cache = kv_cache.map(|of| KvFormat::named(of).ok_or_else(|| unknown("kv_cache", of, "f32 or f16")));
        Ok(LoadOptions {
            formats,
            budget_bytes: self.budget_bytes,
            offload: self.offload,
            kv_cache: kv_cache.transpose()?,
            workload: self.workload(),
            adapter: self.lora.as_ref().map(Checkpoint::directory).transpose()?,
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

    fn workload(&self) -> Workload {
        let (usual, engine) = (Workload::default(), EngineOptions::default());
        let batch = self.slots.unwrap_or(engine.slots);
        let new_tokens = self.new_tokens.unwrap_or(usual.new_tokens);
        Workload { batch, new_tokens, at_once: batch.clamp(1, engine.at_once), ..usual }
    }
}

fn unknown(name: &str, value: &str, possible: &str) -> Failure {
    Failure::request(format!("options: {name} is \"{value}\"; it must be {possible}"))
}
