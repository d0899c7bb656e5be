//! Model parts without the chain around them.

use std::path::Path;

use instructblip::config::Config;
use instructblip::generate::session::{Crossing, PromptTensors, record_decode, record_prefill};
use instructblip::language::{Cached, Caches, KvCache, LogitRows};
use instructblip::model::{LoadOptions, Parts};
use instructblip::runtime::{Caps, Mask, Recorder, Rows, Tensor};
use instructblip::{Checkpoint, Device, InstructBlip};

/// The configuration in a checkpoint's config.json.
pub fn config(checkpoint: &Checkpoint) -> Config {
    let bytes = checkpoint.read("config.json").expect("readable").expect("a config.json");
    Config::parse(Path::new("config.json"), &bytes).expect("a valid configuration")
}

/// The neural parts of a checkpoint, loaded.
pub fn load_parts(device: &Device, checkpoint: &Checkpoint) -> Parts {
    let config = config(checkpoint);
    let options = LoadOptions::default();
    Parts::from_checkpoint(device, checkpoint, &config, &options).expect("all tensors").0
}

/// A checkpoint's whole model.
pub fn load(device: &Device, folder: &Path) -> InstructBlip {
    let checkpoint = Checkpoint::directory(folder).expect("a folder");
    InstructBlip::load(device, &checkpoint).expect("a model")
}

/// A cache and rows over it without memory.
struct Unbacked {
    cache: KvCache,
    rows: Rows,
}

impl Unbacked {
    fn new(caps: &Caps, parts: &Parts, rows: u32, sequences: u32, pages: u32) -> Unbacked {
        let Parts { language, .. } = parts;
        Unbacked {
            cache: KvCache::unbacked(language.num_layers(), language.heads(), pages, language.kv_format(caps)),
            rows: Rows { places: Tensor::unbacked(rows, 2), pages: Tensor::unbacked(sequences, 512), prompts: None },
        }
    }

    fn cached(&self) -> Cached<'_> {
        Cached { cache: &self.cache, rows: &self.rows }
    }
}

/// Records a prompt of `tokens` tokens, the places of the queries included, without a device.
pub fn record_prompt(r: &mut Recorder, config: &Config, parts: &Parts, tokens: u32) -> Tensor {
    let queries = config.num_query_tokens;
    let (ids, features) = (Tensor::unbacked(1, tokens), Tensor::unbacked(queries, config.text.hidden_size()));
    let placeholders = Tensor::unbacked(1, queries);
    let inputs = PromptTensors { ids: &ids, features: &features, placeholders: &placeholders, mask: Mask::None };
    let t5 = parts.language.is_encoder_decoder();
    let unbacked = |rows| Unbacked::new(r.caps(), parts, rows, 1, 512);
    let (own, read, store) = (unbacked(if t5 { 1 } else { tokens }), unbacked(1), unbacked(tokens));
    let decoder_ids = Tensor::unbacked(1, 1);
    let crossing = Crossing { read: read.cached(), store: store.cached(), decoder_ids: &decoder_ids };
    let caches = (own.cached(), Some(crossing).filter(|_| t5));
    let ends = [if t5 { 1 } else { tokens }];
    record_prefill(r, &parts.language, caches, &inputs, tokens, LogitRows { ends: &ends, count: 1 }).0
}

/// Records a step of `rows` rows without a device.
pub fn record_step(r: &mut Recorder, parts: &Parts, rows: u32) {
    let [own, cross] = [(); 2].map(|()| Unbacked::new(r.caps(), parts, rows, rows, 512));
    let caches =
        Caches { own: own.cached(), cross: Some(cross.cached()).filter(|_| parts.language.is_encoder_decoder()) };
    record_decode(r, &parts.language, caches, &Tensor::unbacked(1, rows));
}
