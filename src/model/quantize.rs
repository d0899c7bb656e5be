//! A checkpoint into one with smaller weights, once and for all.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::Dtype;
use serde_json::{Value, json};

use super::Parts;
use super::sources::Sources;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::runtime::weight_format::GROUP;
use crate::runtime::{Watch, WeightFormat};
use crate::weights::convert::{self, Half};
use crate::weights::shards::{Put, Shards, Written, new_folder};
use crate::weights::{Asked, Formats, Part, Placement, TensorFiles};

/// The result of quantizing: what was read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantized {
    /// Bytes of the tensors that were read.
    pub source_bytes: u64,
    /// Bytes of the tensors that were written.
    pub bytes: u64,
    /// Files they are in.
    pub files: usize,
}

/// Writes `checkpoint`, with `adapter` or its own merged, with its matrices in `formats` into `folder`, which must be
/// empty or not there yet. The files are the same, but for the tensors, which go by the names that [`crate::weights`]
/// documents, and `quantization_config` in `config.json`, by which other programs see that these weights are not for
/// them. It loads like any other, and gives
/// the same answers as the source loaded in these formats. `watch` hears of it as
/// [`Work::Writing`](crate::runtime::Work::Writing).
///
/// # Errors
/// As [`super::InstructBlip::load`]; [`Error::Request`] for a folder that is not empty, [`Error::Io`] also for a disk
/// that has no room left. Nothing is left in the folder then.
pub fn quantize(
    checkpoint: &Checkpoint,
    adapter: Option<&Checkpoint>,
    folder: &Path,
    formats: Formats,
    shard_bytes: u64,
    watch: &Watch,
) -> Result<Quantized> {
    let sources = Sources::of(checkpoint, adapter)?;
    let config = sources.config()?;
    let files = sources.files(&config, true)?;
    let (_, surveyed) = Parts::survey(Some(&files), &config, Placement { formats, ..Placement::default() })?;
    // In the order they were asked for, which is the model's; what serves twice is written once.
    let (mut jobs, mut order) = (BTreeMap::new(), Vec::new());
    for (written, job) in surveyed.tensors.iter().flat_map(|asked| self::jobs(&files, asked)) {
        if jobs.insert(written.name.clone(), job).is_none() {
            order.push(written);
        }
    }
    let shards = Shards::new(order, shard_bytes, &[]);
    new_folder(folder)?;
    let result = small_files(&sources, &surveyed.formats).and_then(|small| {
        let produce = |tensor: &Written, put: &mut Put<'_>| {
            let Job { asked, half } = &jobs[&tensor.name];
            match asked.format {
                Some(format) => convert::matrix(&files, &asked.name, &asked.shape, format, *half, put),
                None => convert::copy(&files, &asked.name, put),
            }
        };
        shards.write(folder, &produce, watch)?;
        small.iter().try_for_each(|(name, bytes)| write(&folder.join(name), bytes))
    });
    if let Err(error) = result {
        // It was empty before.
        let _ = std::fs::remove_dir_all(folder);
        return Err(error);
    }
    Ok(Quantized { source_bytes: surveyed.source_bytes, bytes: shards.bytes(), files: shards.files() })
}

/// The source of a tensor that is written.
struct Job<'a> {
    asked: &'a Asked,
    half: Half,
}

/// The tensors that one tensor becomes.
fn jobs<'a>(files: &TensorFiles, asked: &'a Asked) -> Vec<(Written, Job<'a>)> {
    let whole: Vec<usize> = asked.shape.iter().map(|&n| n as usize).collect();
    let (rows, cols) = (whole[0], whole[1..].iter().product::<usize>());
    let job = |suffix: &str, dtype, shape, half| {
        (Written { name: format!("{}{suffix}", asked.name), dtype, shape }, Job { asked, half })
    };
    let packed = |suffix, dtype, per_row, scales| {
        vec![job(suffix, dtype, vec![rows, per_row], Half::Values), job(".scales", Dtype::F16, scales, Half::Scales)]
    };
    match asked.format {
        Some(WeightFormat::Q8) => packed(".q8", Dtype::I8, cols, vec![rows, cols / GROUP]),
        Some(WeightFormat::Q4) => packed(".q4", Dtype::U8, cols / 2, vec![rows, cols / GROUP, 2]),
        Some(WeightFormat::F16) => vec![job("", Dtype::F16, whole, Half::Values)],
        // Vectors stay as they are.
        None => {
            let dtype = files.stored(&asked.name).map_or(Dtype::F32, |stored| stored.dtype());
            vec![job("", dtype, whole, Half::Values)]
        }
    }
}

/// Reads every file that is no tensor file, and notes in the configuration what was done.
fn small_files(sources: &Sources, formats: &[WeightFormat; 3]) -> Result<Vec<(String, Vec<u8>)>> {
    let mut small = Vec::new();
    for name in sources.small_files()? {
        let Some(mut bytes) = sources.read(&name)? else { continue };
        let quantised = formats.iter().any(|&format| format != WeightFormat::F16);
        if name == "config.json" && quantised {
            let mut config: Value = serde_json::from_slice(&bytes)
                .map_err(|_| Error::checkpoint(sources.base().root().join(&name), "is not valid JSON"))?;
            let format = |part: Part| formats[part as usize].name();
            config["quantization_config"] = json!({
                "quant_method": "instructblip", "group_size": 32, "vision": format(Part::Vision),
                "qformer": format(Part::QFormer), "language": format(Part::Language),
            });
            bytes = format!("{config:#}\n").into_bytes();
        }
        small.push((name, bytes));
    }
    // A folder without a configuration is no checkpoint: it is written last.
    small.sort_by_key(|(name, _)| name == "config.json");
    Ok(small)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    let written = std::fs::create_dir_all(parent).and_then(|()| std::fs::write(path, bytes));
    written.map_err(|e| Error::io(path, e))
}
