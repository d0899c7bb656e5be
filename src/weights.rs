//! Safetensors shards into named, shape-checked weights on a device. Knows no layers.
//!
//! A model part's `load` runs against a [`Loader`], which has files or not and a device or not:
//! with files and no device it only checks names and shapes, so that everything wrong with a checkpoint is
//! reported before anything is uploaded; with both it loads; with a device alone it makes synthetic weights for
//! benchmarks; with neither it gives shapes, enough to record plans.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::checkpoint::{Checkpoint, Source};
use crate::error::{Error, Result};
use crate::runtime::buffers::{Category, Linear, Matrix, Norm, Tensor};
use crate::runtime::device::{Caps, Device};
use crate::runtime::recorder::Recorder;

/// Largest header accepted; a real shard's is well under 1 MB.
const MAX_HEADER_BYTES: u64 = 8 << 20;
/// Bytes of a tensor converted at a time.
const PIECE_BYTES: usize = 16 << 20;
/// Bytes uploaded before waiting, so that staging copies do not pile up.
const FLUSH_BYTES: u64 = 128 << 20;

/// The tensors of a checkpoint: where each one is.
pub struct TensorFiles {
    root: PathBuf,
    shards: Vec<Shard>,
    tensors: BTreeMap<String, (usize, TensorInfo)>,
}

struct Shard {
    path: PathBuf,
    source: Source,
    data_start: u64,
}

impl TensorFiles {
    /// Opens `model.safetensors`, or the shards `model.safetensors.index.json` names, and reads their headers.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when files are missing, damaged or only in pickle form; [`Error::Io`].
    pub fn open(checkpoint: &Checkpoint) -> Result<TensorFiles> {
        let root = checkpoint.root().to_path_buf();
        let mut files = TensorFiles { root: root.clone(), shards: Vec::new(), tensors: BTreeMap::new() };
        for name in shard_names(checkpoint)? {
            let path = root.join(&name);
            let (source, size) = checkpoint
                .open(&name)?
                .ok_or_else(|| Error::checkpoint(&path, "is named by the index but is not there; download it again"))?;
            let (metadata, data_start) = read_header(&path, &source, size)?;
            for (tensor, info) in metadata.tensors() {
                if files.tensors.insert(tensor.clone(), (files.shards.len(), info.clone())).is_some() {
                    return Err(Error::checkpoint(path, format!("tensor {tensor} is in another shard too")));
                }
            }
            files.shards.push(Shard { path, source, data_start });
        }
        Ok(files)
    }

    /// Bytes of all tensors.
    pub fn data_bytes(&self) -> u64 {
        self.tensors.values().map(|(_, info)| (info.data_offsets.1 - info.data_offsets.0) as u64).sum()
    }

    /// Reads elements `first .. first + count` of a tensor as f32, in order.
    fn read(&self, name: &str, first: usize, count: usize) -> Result<Vec<f32>> {
        let (shard, info) = &self.tensors[name];
        let shard = &self.shards[*shard];
        let size = info.dtype.bitsize() / 8;
        let mut bytes = vec![0; count * size];
        let offset = shard.data_start + (info.data_offsets.0 + first * size) as u64;
        shard.source.read_at(offset, &mut bytes).map_err(|e| Error::io(&shard.path, e))?;
        let pairs = bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
        Ok(match info.dtype {
            Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            Dtype::F16 => pairs.map(|b| f16::from_le_bytes(b).to_f32()).collect(),
            _ => pairs.map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
        })
    }

    fn path_of(&self, name: &str) -> PathBuf {
        self.tensors.get(name).map_or(self.root.clone(), |(shard, _)| self.shards[*shard].path.clone())
    }
}

fn shard_names(checkpoint: &Checkpoint) -> Result<Vec<String>> {
    const INDEX: &str = "model.safetensors.index.json";
    let file = checkpoint.root().join(INDEX);
    if let Some(bytes) = checkpoint.read(INDEX)? {
        let index: serde_json::Value = serde_json::from_slice(&bytes)
            .map_err(|_| Error::checkpoint(&file, "is not valid JSON; download it again"))?;
        let map = index.get("weight_map").and_then(|m| m.as_object());
        let map = map.ok_or_else(|| Error::checkpoint(&file, "has no weight_map"))?;
        let names: BTreeSet<&str> = map.values().filter_map(|v| v.as_str()).collect();
        for name in &names {
            // The index names files to open: only plain names beside it will do.
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if !name.chars().all(plain) || name.starts_with('.') || !name.ends_with(".safetensors") {
                return Err(Error::checkpoint(
                    &file,
                    format!("names a shard {name:?}, which is not a plain file name"),
                ));
            }
        }
        return Ok(names.into_iter().map(String::from).collect());
    }
    if checkpoint.has_file(|name| name == "model.safetensors") {
        return Ok(vec!["model.safetensors".into()]);
    }
    let pickles = |name: &str| name.starts_with("pytorch_model") || name.ends_with(".bin") || name.ends_with(".pth");
    Err(Error::checkpoint(
        checkpoint.root(),
        if checkpoint.has_file(pickles) {
            "has only pickled weights, which can run code when opened and are not read; convert them once in Python: \
             InstructBlipForConditionalGeneration.from_pretrained(dir).save_pretrained(dir)"
        } else {
            "has neither model.safetensors nor model.safetensors.index.json"
        },
    ))
}

/// The header of one file, checked: sizes first, then duplicate names, then what the safetensors crate checks.
fn read_header(path: &std::path::Path, source: &Source, size: u64) -> Result<(Metadata, u64)> {
    let bad = |problem: String| Error::checkpoint(path, problem);
    let truncated = |need| bad(format!("is truncated: needs {need} bytes, has {size}; download it again"));
    if size < 8 {
        return Err(truncated(8));
    }
    let mut length = [0; 8];
    source.read_at(0, &mut length).map_err(|e| Error::io(path, e))?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES {
        return Err(bad(format!(
            "is not a safetensors file, or damaged: its header claims {length} bytes, at most {MAX_HEADER_BYTES} are read"
        )));
    }
    if length + 8 > size {
        return Err(truncated(length + 8));
    }
    let mut header = vec![0; length as usize];
    source.read_at(8, &mut header).map_err(|e| Error::io(path, e))?;
    let mut names = serde_json::Deserializer::from_slice(&header);
    if let Ok(Some(name)) = names.deserialize_map(DuplicateKey) {
        return Err(bad(format!("names tensor {name} twice")));
    }
    let metadata: Metadata = serde_json::from_slice(&header).map_err(|_| {
        bad("is damaged: its header does not describe whole, adjoining tensors; download it again".into())
    })?;
    let need = (8 + length).saturating_add(metadata.data_len() as u64);
    match need.cmp(&size) {
        std::cmp::Ordering::Greater => Err(truncated(need)),
        std::cmp::Ordering::Less => {
            Err(bad(format!("is damaged: its tensors end at {need} bytes, the file at {size}")))
        }
        std::cmp::Ordering::Equal => Ok((metadata, 8 + length)),
    }
}

/// Finds a key that occurs twice in a JSON object: the safetensors crate lets the last one win.
struct DuplicateKey;

impl<'de> Visitor<'de> for DuplicateKey {
    type Value = Option<String>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<String>, A::Error> {
        let mut seen = BTreeSet::new();
        let mut duplicate = None;
        while let Some((key, _)) = map.next_entry::<String, IgnoredAny>()? {
            if duplicate.is_none() && !seen.insert(key.clone()) {
                duplicate = Some(key);
            }
        }
        Ok(duplicate)
    }
}

/// Hands weights to the model parts; see the module's documentation.
pub struct Loader<'a> {
    files: Option<&'a TensorFiles>,
    device: Option<&'a Device>,
    progress: Option<&'a mut dyn FnMut(u64)>,
    needed: usize,
    missing: Vec<String>,
    pending_bytes: u64,
    seed: u32,
}

impl<'a> Loader<'a> {
    fn new(files: Option<&'a TensorFiles>, device: Option<&'a Device>) -> Loader<'a> {
        Loader { files, device, progress: None, needed: 0, missing: Vec::new(), pending_bytes: 0, seed: 0 }
    }

    /// Gives shapes only.
    pub fn shapes() -> Loader<'a> {
        Loader::new(None, None)
    }

    /// Checks names, shapes and types against `files`; nothing is read or uploaded.
    pub fn survey(files: &'a TensorFiles) -> Loader<'a> {
        Loader::new(Some(files), None)
    }

    /// Reads `files` and uploads to `device`, telling `progress` the bytes of every tensor done.
    pub fn load(files: &'a TensorFiles, device: &'a Device, progress: &'a mut dyn FnMut(u64)) -> Loader<'a> {
        Loader { progress: Some(progress), ..Loader::new(Some(files), Some(device)) }
    }

    /// Makes random weights on `device`.
    pub fn synthetic(device: &'a Device) -> Loader<'a> {
        Loader::new(None, Some(device))
    }

    /// Ends the loading: waits for uploads, and reports every missing tensor at once.
    ///
    /// # Errors
    /// [`Error::MissingTensors`], or whatever went wrong on the GPU.
    pub fn finish(self) -> Result<()> {
        if !self.missing.is_empty() {
            let file = self.files.map_or(PathBuf::new(), |f| f.root.clone());
            return Err(Error::MissingTensors { file, names: self.missing, need: self.needed });
        }
        self.device.map_or(Ok(()), Device::flush)
    }

    /// Whether there is a checkpoint to read from.
    pub fn has_files(&self) -> bool {
        self.files.is_some()
    }

    /// Whether the checkpoint has a tensor; always true without files.
    pub fn has(&self, name: &str) -> bool {
        self.files.is_none_or(|f| f.tensors.contains_key(name))
    }

    /// Rows of a tensor in the checkpoint, or `otherwise`: published vocabularies differ from their configuration.
    pub fn rows_of(&self, name: &str, otherwise: u32) -> u32 {
        let info = self.files.and_then(|f| f.tensors.get(name));
        info.and_then(|(_, i)| i.shape.first()).and_then(|&n| u32::try_from(n).ok()).unwrap_or(otherwise)
    }

    /// An f32 tensor of `shape`, as a matrix whose columns are the last dimension.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] on a wrong shape or type, or values that are not finite.
    pub fn tensor(&mut self, name: &str, shape: &[u32]) -> Result<Tensor> {
        let cols = *shape.last().expect("tensors have a dimension");
        let known = self.check(name, shape)?;
        let rows = shape.iter().product::<u32>() / cols;
        let Some(device) = self.device else { return Ok(Tensor::unbacked(rows, cols)) };
        let values =
            if known { self.values(name, 0, (rows * cols) as usize)? } else { self.plain_values(name, rows * cols) };
        let tensor = device.tensor(Category::Weights, name, rows, cols, &values)?;
        self.uploaded(u64::from(rows * cols) * 4)?;
        Ok(tensor)
    }

    /// The values of an f32 tensor, for what is computed before it is uploaded; zeros without files, nothing without
    /// a device.
    ///
    /// # Errors
    /// As [`Loader::tensor`].
    pub fn host_values(&mut self, name: &str, shape: &[u32]) -> Result<Vec<f32>> {
        let known = self.check(name, shape)?;
        let count = shape.iter().product::<u32>() as usize;
        match (self.device.is_some(), known) {
            (true, true) => self.values(name, 0, count),
            (true, false) => Ok(vec![0.0; count]),
            (false, _) => Ok(Vec::new()),
        }
    }

    /// Uploads values computed on the host, which are asked for only if there is a device.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn upload(&mut self, label: &str, rows: u32, cols: u32, values: impl FnOnce() -> Vec<f32>) -> Result<Tensor> {
        match self.device {
            None => Ok(Tensor::unbacked(rows, cols)),
            Some(device) => device.tensor(Category::Weights, label, rows, cols, &values()),
        }
    }

    /// LayerNorm parameters `name.weight` and `name.bias`, `[d]` each.
    ///
    /// # Errors
    /// As [`Loader::tensor`].
    pub fn layer_norm(&mut self, name: &str, d: u32, eps: f32) -> Result<Norm> {
        let bias = Some(self.tensor(&format!("{name}.bias"), &[d])?);
        Ok(Norm { bias, ..self.rms_norm(name, d, eps)? })
    }

    /// RMSNorm parameter `name.weight`, `[d]`.
    ///
    /// # Errors
    /// As [`Loader::tensor`].
    pub fn rms_norm(&mut self, name: &str, d: u32, eps: f32) -> Result<Norm> {
        Ok(Norm { label: name.into(), weight: self.tensor(&format!("{name}.weight"), &[d])?, bias: None, eps })
    }

    /// A linear layer `name.weight [rows, cols]`, with `name.bias [rows]` if `bias`.
    ///
    /// # Errors
    /// As [`Loader::tensor`], or a value that 16-bit floats cannot hold.
    pub fn linear(&mut self, name: &str, rows: u32, cols: u32, bias: bool) -> Result<Linear> {
        self.stacked(name, &[(name.into(), rows)], cols, bias)
    }

    /// Several linear layers over the same input as one: their rows one after the other, under a common label.
    ///
    /// # Errors
    /// As [`Loader::linear`].
    pub fn stacked(&mut self, label: &str, layers: &[(String, u32)], cols: u32, bias: bool) -> Result<Linear> {
        let total: u32 = layers.iter().map(|l| l.1).sum();
        let weight = self.matrix(label, total, cols)?;
        let mut first = 0;
        for (name, rows) in layers {
            self.rows_into(&weight, &[format!("{name}.weight")], &[*rows, cols], first)?;
            first += rows;
        }
        let bias = if bias { Some(self.stacked_bias(label, layers)?) } else { None };
        Ok(Linear { weight, bias })
    }

    /// Two layers of `rows` rows as one with their rows alternating, as the gated kernels want them.
    ///
    /// # Errors
    /// As [`Loader::linear`].
    pub fn alternating(&mut self, label: &str, names: [String; 2], rows: u32, cols: u32, bias: bool) -> Result<Linear> {
        let weight = self.matrix(label, 2 * rows, cols)?;
        let weights = names.each_ref().map(|name| format!("{name}.weight"));
        self.rows_into(&weight, &weights, &[rows, cols], 0)?;
        let mut values = vec![0.0; 2 * rows as usize];
        for (i, name) in names.iter().enumerate().take(if bias { 2 } else { 0 }) {
            let bias = self.host_values(&format!("{name}.bias"), &[rows])?;
            bias.iter().enumerate().for_each(|(row, &value)| values[2 * row + i] = value);
        }
        let bias = if bias { Some(self.upload(label, 1, 2 * rows, || values)?) } else { None };
        Ok(Linear { weight, bias })
    }

    /// A convolution whose stride is its kernel, as a linear layer over flattened patches: `[rows, c, p, p]`.
    ///
    /// # Errors
    /// As [`Loader::linear`].
    pub fn patch_convolution(&mut self, name: &str, rows: u32, patch: u32) -> Result<Linear> {
        let weight = self.matrix(name, rows, 3 * patch * patch)?;
        self.rows_into(&weight, &[format!("{name}.weight")], &[rows, 3, patch, patch], 0)?;
        let bias = Some(self.tensor(&format!("{name}.bias"), &[rows])?);
        Ok(Linear { weight, bias })
    }

    /// An embedding table `name.weight [rows, cols]`.
    ///
    /// # Errors
    /// As [`Loader::linear`].
    pub fn table(&mut self, name: &str, rows: u32, cols: u32) -> Result<Matrix> {
        Ok(self.linear(name, rows, cols, false)?.weight)
    }

    fn stacked_bias(&mut self, label: &str, layers: &[(String, u32)]) -> Result<Tensor> {
        let mut values = Vec::new();
        for (name, rows) in layers {
            values.extend(self.host_values(&format!("{name}.bias"), &[*rows])?);
        }
        self.upload(label, 1, layers.iter().map(|l| l.1).sum(), || values)
    }

    fn matrix(&mut self, label: &str, rows: u32, cols: u32) -> Result<Matrix> {
        // The configuration asks for at least one; a vocabulary has as many as the file says.
        if rows == 0 {
            let name = format!("{label}.weight");
            let file = self.files.map_or(PathBuf::new(), |f| f.path_of(&name));
            return Err(Error::checkpoint(file, format!("tensor {name} has 0 rows; at least 1 is needed")));
        }
        match self.device {
            None => Ok(Matrix::unbacked(label, rows, cols, Caps::PORTABLE.max_binding_bytes)),
            Some(device) => Matrix::uninit(device, label, rows, cols),
        }
    }

    /// Writes the rows of tensors `names`, taking one of each in turn, to rows `first ..` of `matrix`, zero-padded
    /// to its width.
    fn rows_into(&mut self, matrix: &Matrix, names: &[String], shape: &[u32], first: u32) -> Result<()> {
        let mut known = true;
        for name in names {
            known &= self.check(name, shape)?;
        }
        let Some(device) = self.device else { return Ok(()) };
        if !known {
            return if first == 0 { self.fill(device, matrix) } else { Ok(()) };
        }
        let rows = shape[0] as usize;
        let width = shape[1..].iter().product::<u32>() as usize;
        let padded = matrix.cols as usize;
        let per_piece = (PIECE_BYTES / (4 * width)).max(1);
        for start in (0..rows).step_by(per_piece) {
            let count = per_piece.min(rows - start);
            let mut halves = vec![f16::ZERO; names.len() * count * padded];
            for (i, name) in names.iter().enumerate() {
                let values = self.values(name, start * width, count * width)?;
                let outs = halves.chunks_exact_mut(padded).skip(i).step_by(names.len());
                for (row, out) in values.chunks_exact(width).zip(outs) {
                    row.iter().zip(out).for_each(|(&value, half)| *half = f16::from_f32(value));
                }
            }
            self.check_range(&names[0], &halves)?;
            matrix.write_rows(device, first + (names.len() * start) as u32, &halves);
            self.uploaded((halves.len() * 2) as u64)?;
        }
        Ok(())
    }

    fn fill(&mut self, device: &Device, matrix: &Matrix) -> Result<()> {
        let mut recorder = Recorder::new(device.caps());
        self.seed = self.seed.wrapping_add(0x9e37_79b9);
        // Uniform in ±√(3 / K): products of unit-variance inputs keep unit variance.
        recorder.fill(matrix, self.seed, (3.0 / matrix.cols as f32).sqrt());
        recorder.finish(device)?.submit()
    }

    /// Synthetic vectors: norms scale by one, everything else adds nothing.
    fn plain_values(&self, name: &str, count: u32) -> Vec<f32> {
        let one = name.ends_with(".weight");
        vec![if one { 1.0 } else { 0.0 }; count as usize]
    }

    /// Notes a needed tensor. `Ok(true)` when the files have it in this shape, `Ok(false)` when there are no files
    /// or it is missing.
    fn check(&mut self, name: &str, shape: &[u32]) -> Result<bool> {
        self.needed += 1;
        if shape.iter().map(|&n| u128::from(n)).product::<u128>() > u128::from(u32::MAX) {
            let file = self.files.map_or(PathBuf::new(), |f| f.root.join("config.json"));
            return Err(Error::checkpoint(
                file,
                format!("asks for a tensor {name} of {shape:?}, more than 2^32 values"),
            ));
        }
        let Some(files) = self.files else { return Ok(false) };
        let Some((_, info)) = files.tensors.get(name) else {
            self.missing.push(name.into());
            return Ok(false);
        };
        let want: Vec<usize> = shape.iter().map(|&n| n as usize).collect();
        if info.shape != want {
            let problem = format!("tensor {name} has shape {:?}, the configuration asks for {want:?}", info.shape);
            return Err(Error::checkpoint(files.path_of(name), problem));
        }
        match info.dtype {
            Dtype::F32 | Dtype::F16 | Dtype::BF16 => Ok(true),
            other => {
                let problem = format!("tensor {name} is stored as {other:?}; supported are F16, BF16 and F32");
                Err(Error::checkpoint(files.path_of(name), problem))
            }
        }
    }

    fn values(&self, name: &str, first: usize, count: usize) -> Result<Vec<f32>> {
        let files = self.files.expect("values are read only after a check found them");
        let values = files.read(name, first, count)?;
        match values.iter().filter(|v| !v.is_finite()).count() {
            0 => Ok(values),
            n => {
                let problem = format!("tensor {name} holds {n} values that are not finite; the file is damaged");
                Err(Error::checkpoint(files.path_of(name), problem))
            }
        }
    }

    fn check_range(&self, name: &str, halves: &[f16]) -> Result<()> {
        if halves.iter().all(|h| h.is_finite()) {
            return Ok(());
        }
        let file = self.files.map_or(PathBuf::new(), |f| f.path_of(name));
        Err(Error::checkpoint(file, format!("tensor {name} holds values beyond ±65504, which 16-bit floats cannot")))
    }

    /// Counts uploaded bytes and now and then waits for them.
    fn uploaded(&mut self, bytes: u64) -> Result<()> {
        if let Some(progress) = &mut self.progress {
            progress(bytes);
        }
        self.pending_bytes += bytes;
        if let Some(device) = self.device.filter(|_| self.pending_bytes > FLUSH_BYTES) {
            self.pending_bytes = 0;
            device.flush()?;
        }
        Ok(())
    }
}
