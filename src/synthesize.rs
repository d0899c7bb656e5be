//! Checkpoints of any shape with random weights, in the layout of `save_pretrained`: loading, memory and speed can be
//! tried on them where the published files, tens of gigabytes, are not at hand.
//!
//! Which tensors there are comes from the model's own loading code, so what is written loads. Values are uniform with
//! the variance 1 / K of a layer over K channels, norms scale by one and biases add nothing: activations keep their
//! size through any number of layers. The answers mean nothing.

use std::path::Path;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::config::Config;
use crate::embedded::SHAPES;
use crate::error::{Error, Result};
use crate::hash::fnv1a;
use crate::model::Parts;
use crate::runtime::Watch;
use crate::weights::Loader;
use crate::weights::shards::{self, SHARD_BYTES, Shards, new_folder};

/// Values made and written at a time.
const PIECE: usize = 1 << 18;
/// Values converted at a time: their floats stay in the nearest cache.
const CHUNK: usize = 1 << 11;

/// Settings for writing a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synthesis {
    /// Type of the values; the document's `dtype` if none is given.
    pub stored: Option<Stored>,
    /// Most bytes of tensors in a file; a larger tensor has one of its own.
    pub shard_bytes: u64,
    /// The seed of the random numbers: the same seed gives the same bytes.
    pub seed: u64,
}

impl Default for Synthesis {
    fn default() -> Self {
        Synthesis { stored: None, shard_bytes: SHARD_BYTES, seed: 0 }
    }
}

/// The type of stored values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Half precision.
    F16,
    /// Half the bits, the range of f32.
    Bf16,
    /// Single precision.
    F32,
}

impl Stored {
    const ALL: [Stored; 3] = [Stored::F16, Stored::Bf16, Stored::F32];

    /// The type's name in configurations.
    fn name(self) -> &'static str {
        match self {
            Stored::F16 => "float16",
            Stored::Bf16 => "bfloat16",
            Stored::F32 => "float32",
        }
    }

    fn dtype(self) -> Dtype {
        match self {
            Stored::F16 => Dtype::F16,
            Stored::Bf16 => Dtype::BF16,
            Stored::F32 => Dtype::F32,
        }
    }
}

/// The amount that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Number of tensors.
    pub tensors: usize,
    /// Values of all tensors.
    pub parameters: u64,
    /// Bytes of all tensors.
    pub bytes: u64,
    /// Files they are in.
    pub shards: usize,
}

/// Names and shapes of all tensors of a checkpoint, in the order of the reference's `state_dict`.
///
/// # Errors
/// [`Error::Checkpoint`] for a tensor beyond what can be loaded.
pub fn tensors(config: &Config) -> Result<Vec<(String, Vec<u32>)>> {
    let mut loader = Loader::shapes();
    Parts::load(&mut loader, config)?;
    let asked = loader.finish()?.tensors;
    let mut tensors: Vec<_> = asked.into_iter().map(|asked| (asked.name, asked.shape)).collect();
    let parts = ["query_tokens", "vision_model.", "qformer.", "language_projection.", "language_model."];
    let part = |name: &str| parts.iter().position(|part| name.starts_with(part));
    // The loading code wants the output layer early; files have it last.
    tensors.sort_by_key(|(name, _)| (part(name), name.contains(".lm_head.")));
    Ok(tensors)
}

/// Writes a checkpoint with the configuration `document` (a `config.json`) into `folder`, which must be empty or not
/// there yet. Its tokenizers are the embedded model's. `watch` hears of it as
/// [`Work::Writing`](crate::runtime::Work::Writing).
///
/// Memory is bounded by a few MB, whatever the shape. What was written before an error is deleted.
///
/// # Errors
/// [`Error::Checkpoint`] for a configuration this library does not run, [`Error::Request`] for a folder that is not
/// empty, [`Error::Io`], also for a disk that has no room left.
pub fn synthesize(document: &Value, folder: &Path, options: &Synthesis, watch: &Watch) -> Result<Written> {
    let file = folder.join("config.json");
    let config = Config::parse(&file, document.to_string().as_bytes())?;
    let stored = options.stored.map_or_else(|| stored_in(&file, document), Ok)?;
    let planned = tensors(&config)?.into_iter().map(|(name, shape)| {
        let shape = shape.iter().map(|&n| n as usize).collect();
        shards::Written { name, dtype: stored.dtype(), shape }
    });
    let shards = Shards::new(planned, options.shard_bytes, &[]);
    let small = small_files(document, &config, stored)?;
    new_folder(folder)?;
    let produce = |tensor: &shards::Written, put: &mut shards::Put<'_>| {
        let mut values = Values::of(&tensor.name, &tensor.shape, options.seed);
        let mut buffer = Vec::with_capacity(PIECE * 4);
        let mut left = tensor.elements();
        while left > 0 {
            let now = left.min(PIECE as u64) as usize;
            buffer.clear();
            values.put(now, stored, &mut buffer);
            put(&buffer)?;
            left -= now as u64;
        }
        Ok(())
    };
    let written = shards.write(folder, &produce, watch).and_then(|()| write_small(folder, &small));
    if let Err(error) = written {
        small.iter().for_each(|(name, _)| drop(std::fs::remove_file(folder.join(name))));
        let _ = std::fs::remove_dir(folder.join("qformer_tokenizer"));
        return Err(error);
    }
    let (tensors, parameters, bytes) = (shards.tensors(), shards.elements(), shards.bytes());
    Ok(Written { tensors, parameters, bytes, shards: shards.files() })
}

fn stored_in(file: &Path, document: &Value) -> Result<Stored> {
    let named = document.get("dtype").or(document.get("torch_dtype")).and_then(Value::as_str);
    let found = Stored::ALL.into_iter().find(|stored| Some(stored.name()) == named);
    let unknown = || Error::checkpoint(file, "has no dtype out of float16, bfloat16 and float32; say which to write");
    found.ok_or_else(unknown)
}

/// The values of a tensor, in order.
enum Values {
    /// All values equal to this one.
    Constant(f32),
    /// Uniform in ±`range`.
    Uniform { state: u64, range: f32 },
}

impl Values {
    fn of(name: &str, shape: &[usize], seed: u64) -> Values {
        match shape {
            [_] => Values::Constant(if name.ends_with(".weight") { 1.0 } else { 0.0 }),
            // A convolution's patch is one input of its layer; of everything else the last dimension is.
            [_, patch @ ..] if shape.len() == 4 => Values::uniform(name, patch.iter().product(), seed),
            [.., last] => Values::uniform(name, *last, seed),
            [] => Values::Constant(0.0),
        }
    }

    fn uniform(name: &str, inputs: usize, seed: u64) -> Values {
        // By their names: tensors of one shape differ, whatever the file they are in.
        let state = fnv1a(name.bytes()) ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Values::Uniform { state, range: (3.0 / inputs as f32).sqrt() }
    }

    /// Appends the next `values` values. Only the last call may ask for a number that four does not divide.
    fn put(&mut self, values: usize, stored: Stored, out: &mut Vec<u8>) {
        let mut floats = [0.0; CHUNK];
        let mut left = values;
        while left > 0 {
            let floats = &mut floats[..left.min(CHUNK)];
            self.next(floats);
            left -= floats.len();
            match stored {
                Stored::F32 => out.extend_from_slice(bytemuck::cast_slice(floats)),
                Stored::F16 => {
                    let mut halves = [f16::ZERO; CHUNK];
                    let halves = &mut halves[..floats.len()];
                    halves.convert_from_f32_slice(floats);
                    out.extend_from_slice(bytemuck::cast_slice(halves));
                }
                Stored::Bf16 => {
                    let mut halves = [bf16::ZERO; CHUNK];
                    let halves = &mut halves[..floats.len()];
                    halves.convert_from_f32_slice(floats);
                    out.extend_from_slice(bytemuck::cast_slice(halves));
                }
            }
        }
    }

    /// The next values: four of 16 bits from one multiplication (wyrand).
    fn next(&mut self, out: &mut [f32]) {
        let (state, range) = match self {
            Values::Constant(value) => return out.fill(*value),
            Values::Uniform { state, range } => (state, *range),
        };
        for four in out.chunks_mut(4) {
            *state = state.wrapping_add(0xa076_1d64_78bd_642f);
            let product = u128::from(*state) * u128::from(*state ^ 0xe703_7ed1_a0b4_28db);
            let bits = (product >> 64) as u64 ^ product as u64;
            for (i, value) in four.iter_mut().enumerate() {
                *value = (f32::from((bits >> (16 * i)) as i16) + 0.5) * (range / 32768.0);
            }
        }
    }
}

/// Makes all files but the tensors'. The configuration comes last: a folder without it is no checkpoint.
fn small_files(document: &Value, config: &Config, stored: Stored) -> Result<Vec<(&'static str, Value)>> {
    let class = if config.qformer_reads_text() { "InstructBlipProcessor" } else { "Blip2Processor" };
    let with = |name, key: &str, value: Value| -> Result<Value> {
        let mut json = embedded(name)?;
        json[key] = value;
        Ok(json)
    };
    let side = config.vision.image_size;
    let images = with("preprocessor_config.json", "size", json!({"height": side, "width": side}))?;
    let mut files = vec![
        ("tokenizer.json", tokenizer(config)?),
        ("tokenizer_config.json", with("tokenizer_config.json", "processor_class", class.into())?),
        ("preprocessor_config.json", images.clone()),
        (
            "processor_config.json",
            json!({"image_processor": images, "num_query_tokens": config.num_query_tokens, "processor_class": class}),
        ),
    ];
    if config.qformer_reads_text() {
        for name in ["qformer_tokenizer/tokenizer.json", "qformer_tokenizer/tokenizer_config.json"] {
            files.push((name, embedded(name)?));
        }
    }
    let mut document = document.clone();
    document["dtype"] = stored.name().into();
    files.push(("config.json", document));
    Ok(files)
}

/// The embedded model's tokenizer, with its `<image>` at the configuration's id.
fn tokenizer(config: &Config) -> Result<Value> {
    let mut tokenizer = embedded("tokenizer.json")?;
    let Some(id) = config.image_token_id else { return Ok(tokenizer) };
    let vocabulary = tokenizer["model"]["vocab"].as_object_mut().expect("the embedded tokenizer has a vocabulary");
    if let Some((piece, _)) = vocabulary.iter().find(|(piece, other)| **other == id && *piece != "<image>") {
        let pieces = vocabulary.len();
        return Err(Error::request(format!(
            "image_token_index is {id}, which is {piece:?} in the tokenizer; use one of {pieces} or more"
        )));
    }
    vocabulary.insert("<image>".into(), id.into());
    let added = tokenizer["added_tokens"].as_array_mut().into_iter().flatten();
    added.filter(|token| token["content"] == "<image>").for_each(|token| token["id"] = id.into());
    Ok(tokenizer)
}

/// One of the embedded checkpoint's JSON files.
fn embedded(name: &str) -> Result<Value> {
    let bytes = SHAPES.read(name)?.expect("the embedded checkpoint is whole");
    Ok(serde_json::from_slice(&bytes).expect("the embedded checkpoint is valid"))
}

fn write_small(folder: &Path, files: &[(&str, Value)]) -> Result<()> {
    for (name, json) in files {
        let path = folder.join(name);
        let parent = path.parent().unwrap_or(folder);
        let written = std::fs::create_dir_all(parent).and_then(|()| std::fs::write(&path, format!("{json:#}\n")));
        written.map_err(|e| Error::io(path, e))?;
    }
    Ok(())
}
