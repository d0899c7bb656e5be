//! Low-rank adapters as peft writes them: `adapter_config.json` beside `adapter_model.safetensors` (LoRA, arXiv
//! 2106.09685; `peft.LoraConfig`).
//!
//! A layer's weight `[N, K]` gets `scale B A` on top, with A `[r, K]` and B `[N, r]`, while its rows are read: in f32,
//! before they are rounded to the format of the device. Tensors that the adapter trained whole (`modules_to_save`, biases)
//! take the place of the checkpoint's. What people get wrong: the scale is `alpha / r`, or `alpha / √r` with `use_rslora`;
//! r and alpha may differ by layer; of an embedding, A and B are stored with their dimensions exchanged.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use fancy_regex::Regex;
use safetensors::Dtype;
use serde_json::Value;

use super::adapter::{Entry, LowRank, Update};
use super::files::TensorFiles;
use super::{Asked, pack};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::names::{ADAPTER_CONFIG, ADAPTER_WEIGHTS};
use crate::error::{Error, Result};

/// The prefix that peft puts before the names of a model's tensors.
const PREFIX: &str = "base_model.model.";

/// Settings under which `LoraConfig` computes something else, and what it is called then.
const OTHER_KINDS: [(&str, &str); 11] = [
    ("use_dora", "DoRA"),
    ("use_qalora", "QALoRA"),
    ("use_bdlora", "BD-LoRA"),
    ("alora_invocation_tokens", "activated LoRA"),
    ("trainable_token_indices", "trained tokens (trainable_token_indices)"),
    ("target_parameters", "adapted parameters (target_parameters)"),
    ("layer_replication", "repeated layers (layer_replication)"),
    ("arrow_config", "Arrow"),
    ("kasa_config", "KaSA"),
    ("velora_config", "VeLoRA"),
    ("monteclora_config", "MonteCLoRA"),
];

/// Ways to start a training (`init_lora_weights`) that leave the checkpoint's own weights as they are.
const HARMLESS_STARTS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// The tensors of one adapted layer.
#[derive(Default)]
struct Layer {
    a: Option<Entry>,
    b: Option<Entry>,
    bias: Option<Entry>,
    embedding: bool,
}

/// `adapter_config.json`: how much of each layer's product is added.
struct LoraConfig {
    rank: ByLayer,
    alpha: ByLayer,
    use_rslora: bool,
}

/// A number that some layers have another of.
struct ByLayer {
    usual: f64,
    patterns: Vec<(Regex, f64)>,
}

impl ByLayer {
    fn of(&self, layer: &str) -> f64 {
        let own = self.patterns.iter().find(|(pattern, _)| pattern.is_match(layer).unwrap_or(false));
        own.map_or(self.usual, |(_, number)| *number)
    }
}

impl TensorFiles {
    /// These tensors with a LoRA adapter merged into them: their rows are changed as they are read, in f32, and nothing
    /// is kept.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for a damaged adapter, or one of a kind that is not supported; [`Error::Io`].
    pub fn adapted(mut self, adapter: &Checkpoint, mmap: bool) -> Result<TensorFiles> {
        let config = LoraConfig::read(adapter)?;
        let path = adapter.root().join(ADAPTER_WEIGHTS);
        let Some(tensors) = self.read_shard(adapter, ADAPTER_WEIGHTS, mmap)? else {
            let pickled = adapter.has_file(|name| name == "adapter_model.bin");
            return Err(Error::checkpoint(
                path,
                match pickled {
                    true => {
                        "is missing; adapter_model.bin is pickled, which can run code when opened and is not read: load \
                         the adapter with peft and save_pretrained it again"
                    }
                    false => "is missing, beside the adapter's settings; download or save the adapter again",
                },
            ));
        };
        if tensors.is_empty() {
            return Err(Error::checkpoint(path, "holds no tensor, so it would change nothing; save the adapter again"));
        }
        let mut layers: BTreeMap<String, Layer> = BTreeMap::new();
        for (stored, entry) in tensors {
            let name = stored.strip_prefix(PREFIX).unwrap_or(&stored);
            let Some((layer, part)) = split(name) else {
                if name.contains("lora_") || name.contains("token_adapter") {
                    return Err(unsupported(&path, &format!("its tensor {stored}")));
                }
                let name = name.replace(".base_layer.", ".").replace(".modules_to_save.", ".");
                self.put(&name, entry);
                self.adapter.replaced.insert(name);
                continue;
            };
            let layer = layers.entry(layer.into()).or_default();
            layer.embedding |= part.starts_with(".lora_embedding");
            *match part {
                ".lora_A.weight" | ".lora_embedding_A" => &mut layer.a,
                ".lora_B.weight" | ".lora_embedding_B" => &mut layer.b,
                _ => &mut layer.bias,
            } = Some(entry);
        }
        for (name, layer) in layers {
            let (Some(a), Some(b)) = (layer.a, layer.b) else {
                return Err(Error::checkpoint(&path, format!("has only one of the two factors of {name}")));
            };
            let (rank, has) = (config.rank.of(&name), a.rank());
            if rank != has as f64 {
                let problem = format!("has rank {has} for {name}, which {ADAPTER_CONFIG} says is {rank}");
                return Err(Error::checkpoint(&path, problem));
            }
            let scale = config.scale(&name, a.rank()) as f32;
            if let Some(values) = layer.bias {
                self.adapter.updates.insert(format!("{name}.bias"), Update::Values { values, scale });
            }
            let product = Update::Product { a, b, embedding: layer.embedding, scale };
            self.adapter.updates.insert(format!("{name}.weight"), product);
        }
        self.adapter.file = path;
        Ok(self)
    }

    /// True if an adapter changes the tensor of this name.
    pub fn is_adapted(&self, name: &str) -> bool {
        self.adapter.updates.contains_key(name) || self.adapter.replaced.contains(name)
    }

    /// Checks what is added to a tensor of this shape, a matrix or not, and counts its bytes.
    pub(super) fn check_update(&self, name: &str, shape: &[u32], matrix: bool) -> Result<u64> {
        let Some(update) = self.adapter.updates.get(name) else { return Ok(0) };
        let want: Vec<usize> = shape.iter().map(|&n| n as usize).collect();
        let (entries, fits) = match update {
            Update::Values { values, .. } => (vec![values], values.shape() == want && !matrix),
            Update::Product { a, b, embedding: true, .. } => {
                (vec![a, b], matrix && [a.shape(), b.shape()] == [&[a.rank(), want[0]], &[want[1], a.rank()]])
            }
            Update::Product { a, b, .. } => {
                // The factors of a convolution have its dimensions: [r, C, P, P] and [N, r, 1, 1].
                let (rest, ones) = (&want[1..], vec![1; want.len().saturating_sub(2)]);
                let (wanted_a, wanted_b) = ([&[a.rank()], rest].concat(), [&[want[0], a.rank()][..], &ones].concat());
                (vec![a, b], matrix && a.shape() == wanted_a && b.shape() == wanted_b)
            }
        };
        if !fits || entries.iter().any(|entry| entry.shape().contains(&0)) {
            let has: Vec<&[usize]> = entries.iter().map(|entry| entry.shape()).collect();
            let problem = format!("has {has:?} for tensor {name} of shape {want:?}, to which that cannot be added");
            return Err(Error::checkpoint(&self.adapter.file, problem));
        }
        for entry in &entries {
            self.at(entry).check_type(name, &[Dtype::F16, Dtype::BF16, Dtype::F32])?;
        }
        Ok(entries.iter().map(|entry| self.at(entry).bytes()).sum())
    }

    /// Refuses an adapter that changes what the model does not have.
    pub(super) fn check_places(&self, asked: &[Asked]) -> Result<()> {
        let asked: BTreeSet<&str> = asked.iter().map(|asked| asked.name.as_str()).collect();
        let changed = self.adapter.updates.keys().chain(&self.adapter.replaced);
        let homeless: Vec<&String> = changed.filter(|name| !asked.contains(name.as_str())).collect();
        let Some(first) = homeless.first() else { return Ok(()) };
        let problem = format!(
            "changes {} that the model does not have, {first} first; the adapter was made for another model",
            if homeless.len() == 1 { "a tensor".into() } else { format!("{} tensors", homeless.len()) },
        );
        Err(Error::checkpoint(&self.adapter.file, problem))
    }

    /// The product that is added to the rows of a matrix.
    pub(super) fn low_rank(&self, name: &str) -> Result<Option<LowRank>> {
        let Some(Update::Product { a, b, embedding, scale }) = self.adapter.updates.get(name) else { return Ok(None) };
        let rank = a.rank();
        let read = |entry: &Entry| Ok(pack::host_values(name, self.at(entry))?.0);
        let (mut a, mut b): (Vec<f32>, Vec<f32>) = (read(a)?, read(b)?);
        if *embedding {
            // Stored as [r, N] and [K, r].
            (a, b) = (transposed(&b, rank), transposed(&a, a.len() / rank));
        }
        b.iter_mut().for_each(|value| *value *= scale);
        Ok(Some(LowRank { rank, a, b }))
    }

    /// Adds to the values of a bias what the adapter has for it.
    pub(super) fn add_values(&self, name: &str, to: &mut [f32]) -> Result<()> {
        if let Some(Update::Values { values, scale }) = self.adapter.updates.get(name) {
            let (values, _) = pack::host_values(name, self.at(values))?;
            to.iter_mut().zip(values).for_each(|(to, value)| *to += scale * value);
        }
        Ok(())
    }
}

/// The layer that a tensor of an adapter belongs to, and which of its tensors it is.
fn split(name: &str) -> Option<(&str, &str)> {
    let parts = [".lora_A.weight", ".lora_B.weight", ".lora_B.bias", ".lora_embedding_A", ".lora_embedding_B"];
    parts.into_iter().find_map(|part| Some((name.strip_suffix(part)?, part)))
}

/// A matrix of `cols` columns with its dimensions exchanged.
fn transposed(values: &[f32], cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|col| values.iter().skip(col).step_by(cols)).copied().collect()
}

fn unsupported(file: &Path, what: &str) -> Error {
    let problem = format!(
        "{what} is not supported (LoRA is); merge the adapter in Python: \
         PeftModel.from_pretrained(model, dir).merge_and_unload().save_pretrained(new_dir)"
    );
    Error::checkpoint(file, problem)
}

impl LoraConfig {
    fn read(adapter: &Checkpoint) -> Result<LoraConfig> {
        let file = adapter.root().join(ADAPTER_CONFIG);
        let wrong = |problem: &str| Error::checkpoint(&file, problem);
        let json = adapter.adapter_config()?;
        let set = |name: &str| json.get(name).filter(|value| !value.is_null() && **value != Value::Bool(false));
        match set("peft_type").and_then(Value::as_str) {
            Some("LORA") => {}
            Some(other) => return Err(unsupported(&file, &format!("an adapter of kind {other}"))),
            None => return Err(wrong("has no \"peft_type\"; give the folder that peft saved")),
        }
        if let Some((_, kind)) = OTHER_KINDS.into_iter().find(|(name, _)| set(name).is_some()) {
            return Err(unsupported(&file, kind));
        }
        if let Some(start) = set("init_lora_weights").and_then(Value::as_str)
            && !HARMLESS_STARTS.contains(&start)
        {
            return Err(unsupported(
                &file,
                &format!("\"init_lora_weights\": \"{start}\", which changes the model's own weights,"),
            ));
        }
        let number = |value: &Value, name: &str| {
            let number = value.as_f64().filter(|number| number.is_finite());
            number.ok_or_else(|| wrong(&format!("\"{name}\" must be a number, is {value}")))
        };
        let by_layer = |usual: &str, pattern_name: &str| {
            let patterns = set(pattern_name).and_then(Value::as_object).into_iter().flatten();
            let patterns = patterns.map(|(pattern, own)| {
                let regex = Regex::new(&format!(r"^(.*\.)?({pattern})$"));
                let regex = regex.map_err(|_| wrong(&format!("\"{pattern_name}\" has no pattern in {pattern:?}")))?;
                Ok((regex, number(own, pattern_name)?))
            });
            // r and alpha are 8 where a file does not say.
            Ok(ByLayer {
                usual: json.get(usual).map_or(Ok(8.0), |value| number(value, usual))?,
                patterns: patterns.collect::<Result<_>>()?,
            })
        };
        Ok(LoraConfig {
            rank: by_layer("r", "rank_pattern")?,
            alpha: by_layer("lora_alpha", "alpha_pattern")?,
            use_rslora: set("use_rslora").is_some(),
        })
    }

    /// The factor that a layer's product of this rank is multiplied by.
    fn scale(&self, layer: &str, rank: usize) -> f64 {
        let alpha = self.alpha.of(layer);
        let rank = rank as f64;
        alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }
}
