//! Safetensors shards into named, shape-checked weights on a device. Knows no layers.
//!
//! A model part's `load` runs against a [`Loader`], which has files or not and a device or not:
//! with files and no device it only checks names and shapes, so that everything wrong with a checkpoint is
//! reported before anything is uploaded; with both it loads; with a device alone it makes synthetic weights for
//! benchmarks; with neither it gives shapes, enough to record plans. All four count the bytes that weights take, in the
//! same way.
//!
//! # Quantised files
//!
//! A matrix `NAME [N, K]` may be stored as `NAME.q8` (I8 `[N, K]`) with `NAME.scales` (F16 `[N, K / 32]`), or as
//! `NAME.q4` (U8 `[N, K / 2]`) with `NAME.scales` (F16 `[N, K / 32, 2]`: scale and offset), packed as
//! [`weight_format`](crate::runtime::weight_format) says.

mod adapter;
pub mod convert;
mod files;
mod fold;
mod lora;
mod pack;
mod placement;
pub mod shards;
mod transfer;
mod worker;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use safetensors::Dtype;

pub use files::{Stored, StoredRows, TensorFiles};
pub use pack::Scan;
pub use placement::{Formats, Part, Placement, Resident};

use crate::error::{Error, Result};
use crate::runtime::recorder::Recorder;
use crate::runtime::stream::Streamed;
use crate::runtime::upload::Uploader;
use crate::runtime::weight_format::{GROUP, WeightFormat};
use crate::runtime::{Caps, Category, Device, Linear, Matrix, Norm, Tensor};
use transfer::{Ahead, Rows, check_stored, write_rows};
use worker::{Done, Worker};

/// Bytes uploaded in small pieces before waiting, so that their staging copies do not pile up.
const FLUSH_BYTES: u64 = 64 << 20;
/// A report of a loading.
#[derive(Clone, Debug, Default)]
pub struct LoadReport {
    /// Bytes read from the files.
    pub bytes: u64,
    /// Wall time.
    pub time: Duration,
    /// The scan of all values.
    pub scan: Scan,
    /// The tensor with the largest magnitude.
    pub largest: String,
}

/// A tensor that a model asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The part that asked.
    pub part: Part,
    /// Its name.
    pub name: String,
    /// Its dimensions.
    pub shape: Vec<u32>,
    /// The format that it gets, if it is a matrix.
    pub format: Option<WeightFormat>,
}

impl LoadReport {
    /// Adds the report of a loading that came after this one.
    pub fn join(&mut self, next: LoadReport) {
        if next.scan.max_abs > self.scan.max_abs {
            self.largest = next.largest;
        }
        self.scan.join(&next.scan);
        self.bytes += next.bytes;
        self.time += next.time;
    }
}

/// The results of a finished [`Loader`].
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// Every tensor asked for, in order.
    pub tensors: Vec<Asked>,
    /// Bytes of those tensors in the files.
    pub source_bytes: u64,
    /// Bytes of the weights of each part on the device; see [`Part`].
    pub weight_bytes: [u64; 3],
    /// Layers of each part.
    pub layers: [u32; 3],
    /// Format of each part's linear layers.
    pub formats: [WeightFormat; 3],
    /// The report of the reading.
    pub report: LoadReport,
}

/// A layer's role, which says how far it may be rounded.
#[derive(Clone, Copy)]
enum Role {
    /// Rounded as the part's format says.
    Inner,
    /// Rounded to 8 bits at least, since the layer chooses the words.
    Output,
    /// Never rounded.
    Kept,
}

/// Hears how many bytes more were read, and says whether to go on.
pub type Progress<'a> = dyn FnMut(u64) -> Result<()> + 'a;

/// Hands weights to the model parts; see the module's documentation.
pub struct Loader<'a> {
    files: Option<&'a Arc<TensorFiles>>,
    device: Option<&'a Device>,
    progress: Option<&'a mut Progress<'a>>,
    placement: Placement,
    part: Part,
    uploader: Option<Arc<Mutex<Uploader>>>,
    worker: Option<Worker>,
    /// Matrices that the layers of a part take turns in.
    turns: [Vec<Matrix>; 3],
    streaming: Option<Streaming>,
    loaded: Loaded,
    missing: Vec<String>,
    /// Norms whose sums over the layers that follow them are still to be made.
    folds: Vec<(Norm, Linear)>,
    pending_bytes: u64,
    seed: u32,
    started: Instant,
}

/// A layer whose weights come when they are needed.
struct Streaming {
    layer: Arc<Streamed>,
    /// Flags of the matrices that layers take turns in: true if this layer has taken one.
    taken: Vec<bool>,
    rows: Vec<Rows>,
}

impl<'a> Loader<'a> {
    fn new(files: Option<&'a Arc<TensorFiles>>, device: Option<&'a Device>, placement: Placement) -> Loader<'a> {
        let uploader = device.map(|device| Arc::new(Mutex::new(Uploader::new(device))));
        Loader {
            files,
            device,
            progress: None,
            placement,
            part: Part::Vision,
            worker: None,
            uploader,
            turns: Default::default(),
            streaming: None,
            loaded: Loaded::default(),
            missing: Vec::new(),
            folds: Vec::new(),
            pending_bytes: 0,
            seed: 0,
            started: Instant::now(),
        }
    }

    /// Makes a loader that gives shapes only.
    pub fn shapes() -> Loader<'a> {
        Loader::new(None, None, Placement::default())
    }

    /// Gives shapes in the formats and places that are asked for, from `files` if there are any: their names, shapes and
    /// types are checked then. Nothing is read or uploaded.
    pub fn survey(files: Option<&'a Arc<TensorFiles>>, placement: Placement) -> Loader<'a> {
        Loader::new(files, None, placement)
    }

    /// Reads `files` and uploads to `device`, telling `progress` how many bytes were read; its error ends the loading.
    /// `order` are the tensors that will be asked for, as a survey of the same parts told.
    pub fn load<'n>(
        files: &'a Arc<TensorFiles>,
        device: &'a Device,
        placement: Placement,
        order: impl Iterator<Item = &'n str>,
        progress: &'a mut Progress<'a>,
    ) -> Loader<'a> {
        let loader = Loader::new(Some(files), Some(device), placement);
        let ahead = Ahead::of(files, order);
        let worker = loader.uploader.as_ref().map(|uploader| Worker::new(uploader, files, ahead, device.watch()));
        Loader { progress: Some(progress), worker, ..loader }
    }

    /// Makes random weights on `device`.
    pub fn synthetic(device: &'a Device, formats: Formats) -> Loader<'a> {
        Loader::new(None, Some(device), Placement { formats, ..Placement::default() })
    }

    /// Sets the part that later tensors belong to.
    pub fn part(&mut self, part: Part) {
        self.part = part;
    }

    /// Loads one of a part's layers. Where not all of them have room on the device its matrices share their memory with
    /// other layers', and come when they are needed.
    ///
    /// # Errors
    /// What `body` gives.
    pub fn layer<T>(&mut self, body: impl FnOnce(&mut Loader<'a>) -> Result<T>) -> Result<T> {
        let part = self.part as usize;
        let index = self.loaded.layers[part];
        self.loaded.layers[part] += 1;
        if self.placement.resident.layers(self.part).is_none_or(|resident| index < resident) {
            return body(self);
        }
        let layer = Arc::new(Streamed::new());
        self.streaming = Some(Streaming { layer, taken: vec![false; self.turns[part].len()], rows: Vec::new() });
        let result = body(self);
        let streaming = self.streaming.take().expect("nobody else takes it");
        if let (Some(files), Some(device), Some(uploader)) = (self.files, self.device, &self.uploader) {
            let (files, device, uploader) = (files.clone(), device.clone(), uploader.clone());
            let rows = streaming.rows;
            streaming.layer.comes_by(move || {
                let mut uploader = uploader.lock().map_err(|_| Error::request("an earlier upload failed"))?;
                for rows in &rows {
                    write_rows(&mut uploader, &files, rows, &mut |_| Ok(()))?;
                }
                device.check()
            });
        }
        result
    }

    /// Ends the loading: waits for uploads, and reports every missing tensor at once.
    ///
    /// # Errors
    /// [`Error::MissingTensors`], or whatever went wrong on the GPU.
    pub fn finish(mut self) -> Result<Loaded> {
        if !self.missing.is_empty() {
            let file = self.files.map_or(Default::default(), |f| f.root.clone());
            let asked: BTreeSet<&str> = self.loaded.tensors.iter().map(|asked| asked.name.as_str()).collect();
            let unused = self.files.iter().flat_map(|files| files.names()).filter(|name| !asked.contains(name));
            let unused = unused.map(String::from).collect();
            return Err(Error::MissingTensors { file, names: self.missing, need: self.loaded.tensors.len(), unused });
        }
        if let (Some(files), None) = (self.files, self.device) {
            files.check_places(&self.loaded.tensors)?;
        }
        if let Some(worker) = self.worker.take() {
            for done in worker.finish() {
                self.take_note(done?)?;
            }
        }
        self.make_folds()?;
        self.device.map_or(Ok(()), Device::flush)?;
        self.loaded.report.time = self.started.elapsed();
        Ok(self.loaded)
    }

    /// True if two names are of one tensor, stored once; `None` without files.
    pub fn are_one(&self, first: &str, second: &str) -> Option<bool> {
        self.files.map(|files| files.are_one(first, second))
    }

    /// Rows of a tensor in the checkpoint, or `otherwise`: published vocabularies differ from their configuration.
    pub fn rows_of(&self, name: &str, otherwise: u32) -> u32 {
        self.files.and_then(|f| f.rows(name)).and_then(|stored| stored.rows()).unwrap_or(otherwise)
    }

    /// An f32 tensor of `shape`, as a matrix whose columns are the last dimension.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] on a wrong shape or type, or values that are not finite.
    pub fn tensor(&mut self, name: &str, shape: &[u32]) -> Result<Tensor> {
        let cols = *shape.last().expect("tensors have a dimension");
        let rows = shape.iter().product::<u32>() / cols;
        let values = self.host_values(name, shape)?;
        let plain = if name.ends_with(".weight") { 1.0 } else { 0.0 };
        // Synthetic vectors: norms scale by one, everything else adds nothing.
        let made = self.files.is_none();
        self.upload(name, rows, cols, || if made { vec![plain; (rows * cols) as usize] } else { values })
    }

    /// The values of an f32 tensor, for what is computed before it is uploaded; zeros without files, nothing without
    /// a device.
    ///
    /// # Errors
    /// As [`Loader::tensor`].
    pub fn host_values(&mut self, name: &str, shape: &[u32]) -> Result<Vec<f32>> {
        let known = self.check(name, shape, None)?;
        let stored = self.files.and_then(|files| files.stored(name)).filter(|_| known);
        match (self.device, stored) {
            (None, _) => Ok(Vec::new()),
            (Some(_), None) => Ok(vec![0.0; shape.iter().product::<u32>() as usize]),
            (Some(_), Some(stored)) => {
                let (mut values, scan) = pack::host_values(name, stored)?;
                self.files.map_or(Ok(()), |files| files.add_values(name, &mut values))?;
                self.saw(name, &scan);
                self.read(stored.bytes())?;
                Ok(values)
            }
        }
    }

    /// Uploads values computed on the host, which are asked for only if there is a device.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn upload(&mut self, label: &str, rows: u32, cols: u32, values: impl FnOnce() -> Vec<f32>) -> Result<Tensor> {
        let tensor = match self.device {
            None => Tensor::unbacked(rows, cols),
            Some(device) => device.tensor(Category::Weights, label, rows, cols, &values())?,
        };
        self.loaded.weight_bytes[self.part as usize] += tensor.buffer_bytes();
        self.pending_bytes += tensor.buffer_bytes();
        if let Some(device) = self.device.filter(|_| self.pending_bytes > FLUSH_BYTES) {
            self.pending_bytes = 0;
            device.flush()?;
        }
        Ok(tensor)
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
        let weight = self.tensor(&format!("{name}.weight"), &[d])?;
        Ok(Norm { label: name.into(), weight, bias: None, eps, folded: None })
    }

    /// A linear layer `name.weight [rows, cols]`, with `name.bias [rows]` if `bias`, in the part's format.
    ///
    /// # Errors
    /// As [`Loader::tensor`], or a value that the format cannot hold.
    pub fn linear(&mut self, name: &str, rows: u32, cols: u32, bias: bool) -> Result<Linear> {
        self.stacked(name, &[(name.into(), rows)], cols, bias)
    }

    /// A linear layer that is never quantised, since too much depends on it.
    ///
    /// # Errors
    /// As [`Loader::linear`].
    pub fn kept_linear(&mut self, name: &str, rows: u32, cols: u32, bias: bool) -> Result<Linear> {
        self.stacked_as(Role::Kept, name, &[(name.into(), rows)], cols, bias)
    }

    /// The layer that scores the vocabulary: not quantised below 8 bits.
    ///
    /// # Errors
    /// As [`Loader::linear`].
    pub fn output_layer(&mut self, name: &str, rows: u32, cols: u32) -> Result<Linear> {
        self.stacked_as(Role::Output, name, &[(name.into(), rows)], cols, false)
    }

    /// Several linear layers over the same input as one: their rows one after the other, under a common label.
    ///
    /// # Errors
    /// As [`Loader::linear`].
    pub fn stacked(&mut self, label: &str, layers: &[(String, u32)], cols: u32, bias: bool) -> Result<Linear> {
        self.stacked_as(Role::Inner, label, layers, cols, bias)
    }

    fn stacked_as(
        &mut self,
        role: Role,
        label: &str,
        layers: &[(String, u32)],
        cols: u32,
        bias: bool,
    ) -> Result<Linear> {
        let total: u32 = layers.iter().map(|l| l.1).sum();
        let weight = self.matrix(role, label, &format!("{}.weight", layers[0].0), total, cols)?;
        let mut first = 0;
        for (name, rows) in layers {
            self.rows_into(&weight, vec![format!("{name}.weight")], &[*rows, cols], first)?;
            first += rows;
        }
        let bias = if bias { Some(self.stacked_bias(label, layers)?) } else { None };
        Ok(Linear { weight, bias })
    }

    /// Two layers of `rows` rows as one layer whose rows alternate between them, as the gated kernels want it.
    ///
    /// # Errors
    /// As [`Loader::linear`].
    pub fn alternating(&mut self, label: &str, names: [String; 2], rows: u32, cols: u32, bias: bool) -> Result<Linear> {
        let weights = names.each_ref().map(|name| format!("{name}.weight"));
        let weight = self.matrix(Role::Inner, label, &weights[0], 2 * rows, cols)?;
        self.rows_into(&weight, weights.to_vec(), &[rows, cols], 0)?;
        let mut values = vec![0.0; 2 * rows as usize];
        for (i, name) in names.iter().enumerate().take(if bias { 2 } else { 0 }) {
            let bias = self.host_values(&format!("{name}.bias"), &[rows])?;
            bias.iter().enumerate().for_each(|(row, &value)| values[2 * row + i] = value);
        }
        let bias = if bias { Some(self.upload(label, 1, 2 * rows, || values)?) } else { None };
        Ok(Linear { weight, bias })
    }

    /// A convolution whose stride is its kernel, as a linear layer over flattened patches, without its bias:
    /// `[rows, c, p, p]`.
    ///
    /// # Errors
    /// As [`Loader::linear`].
    pub fn patch_convolution(&mut self, name: &str, rows: u32, patch: u32) -> Result<Linear> {
        let weight = format!("{name}.weight");
        let matrix = self.matrix(Role::Kept, name, &weight, rows, 3 * patch * patch)?;
        self.rows_into(&matrix, vec![weight], &[rows, 3, patch, patch], 0)?;
        Ok(Linear { weight: matrix, bias: None })
    }

    /// An embedding table `name.weight [rows, cols]`.
    ///
    /// # Errors
    /// As [`Loader::linear`].
    pub fn table(&mut self, name: &str, rows: u32, cols: u32) -> Result<Matrix> {
        Ok(self.kept_linear(name, rows, cols, false)?.weight)
    }

    fn stacked_bias(&mut self, label: &str, layers: &[(String, u32)]) -> Result<Tensor> {
        let mut values = Vec::new();
        for (name, rows) in layers {
            values.extend(self.host_values(&format!("{name}.bias"), &[*rows])?);
        }
        self.upload(label, 1, layers.iter().map(|l| l.1).sum(), || values)
    }

    /// The format of a matrix whose first rows are tensor `name`.
    fn format(&self, role: Role, name: &str, cols: u32) -> WeightFormat {
        let stored = self.files.and_then(|f| f.rows(name)).and_then(|stored| stored.format());
        let asked = match (role, self.placement.formats.of(self.part)) {
            (Role::Kept, _) => return WeightFormat::F16,
            (Role::Output, Some(WeightFormat::Q4)) => Some(WeightFormat::Q8),
            (_, format) => format,
        };
        asked.or(stored).unwrap_or_default().for_cols(cols)
    }

    fn matrix(&mut self, role: Role, label: &str, name: &str, rows: u32, cols: u32) -> Result<Matrix> {
        // The configuration asks for at least one; a vocabulary has as many as the file says.
        if rows == 0 {
            let file = self.files.map_or(Default::default(), |f| f.path_of(name));
            return Err(Error::checkpoint(file, format!("tensor {name} has 0 rows; at least 1 is needed")));
        }
        let format = self.format(role, name, cols);
        let part = self.part as usize;
        if matches!(role, Role::Inner) {
            self.loaded.formats[part] = format;
        }
        if let Some(streaming) = &mut self.streaming {
            let like = |m: &Matrix| (m.rows, m.cols, m.format) == (rows, cols, format);
            let turns = self.turns[part].iter().enumerate();
            let found = turns.into_iter().find(|&(i, m)| !streaming.taken[i] && like(m)).map(|(i, m)| (i, m.clone()));
            if let Some((i, matrix)) = found {
                streaming.taken[i] = true;
                return Ok(matrix.relabelled(label).streamed(&streaming.layer));
            }
        }
        let matrix = match self.device {
            None => Matrix::unbacked(label, rows, cols, format, Caps::PORTABLE.max_binding_bytes),
            // What layers take turns in is written while the device works, which only staged copies can do.
            Some(device) if self.streaming.is_some() => Matrix::uninit(device, label, rows, cols, format)?,
            Some(device) if self.files.is_none() => Matrix::uninit(device, label, rows, cols, format)?,
            Some(device) => Matrix::loading(device, label, rows, cols, format)?,
        };
        self.loaded.weight_bytes[part] += matrix.bytes();
        match &mut self.streaming {
            None => Ok(matrix),
            Some(streaming) => {
                self.turns[part].push(matrix.clone());
                streaming.taken.push(true);
                Ok(matrix.streamed(&streaming.layer))
            }
        }
    }

    /// Writes the rows of tensors `names`, taking one of each in turn, to rows `first ..` of `matrix`, zero-padded
    /// to its width.
    fn rows_into(&mut self, matrix: &Matrix, names: Vec<String>, shape: &[u32], first: u32) -> Result<()> {
        let mut known = true;
        for name in &names {
            known &= self.check_rows(name, shape, matrix.format)?;
        }
        let Some(device) = self.device else { return Ok(()) };
        let (Some(_), true) = (self.files, known) else {
            return if first == 0 { self.fill(device, matrix) } else { Ok(()) };
        };
        let rows = Rows { matrix: matrix.clone(), names, shape: shape.to_vec(), first };
        if let Some(streaming) = &mut self.streaming {
            // The layer holds how its matrices come: they must not hold the layer.
            streaming.rows.push(Rows { matrix: rows.matrix.resident(), ..rows });
            return Ok(());
        }
        if let Some(worker) = &self.worker {
            worker.write(rows);
        }
        while let Some(done) = self.worker.as_ref().and_then(Worker::hear) {
            self.take_note(done?)?;
        }
        Ok(())
    }

    fn take_note(&mut self, done: Done) -> Result<()> {
        match done {
            Done::Read(bytes) => self.read(bytes)?,
            Done::Rows(seen) => seen.iter().for_each(|(name, scan)| self.saw(name, scan)),
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

    /// Notes a needed tensor. `Ok(true)` when the files have it in this shape, `Ok(false)` when there are no files
    /// or it is missing.
    fn check(&mut self, name: &str, shape: &[u32], format: Option<WeightFormat>) -> Result<bool> {
        self.note(name, shape, format)?;
        let Some(files) = self.files else { return Ok(false) };
        let Some(stored) = files.stored(name) else {
            self.missing.push(name.into());
            return Ok(false);
        };
        check_stored(name, stored, shape, &[Dtype::F16, Dtype::BF16, Dtype::F32])?;
        self.loaded.source_bytes += stored.bytes() + files.check_update(name, shape, format.is_some())?;
        Ok(true)
    }

    /// [`Loader::check`] for a matrix, which may be quantised.
    fn check_rows(&mut self, name: &str, shape: &[u32], wanted: WeightFormat) -> Result<bool> {
        let Some(StoredRows::Packed { format, values, scales }) = self.files.and_then(|f| f.rows(name)) else {
            return self.check(name, shape, Some(wanted));
        };
        self.note(name, shape, Some(wanted))?;
        let (rows, cols) = (shape[0], shape[1..].iter().product::<u32>());
        let (dtype, per_row) = match format {
            WeightFormat::Q4 => (Dtype::U8, cols / 2),
            _ => (Dtype::I8, cols),
        };
        if format.for_cols(cols) != format {
            let problem =
                format!("tensor {name}.{format} has rows of {cols} values, which are not whole groups of {GROUP}");
            return Err(Error::checkpoint(values.path(), problem));
        }
        check_stored(&format!("{name}.{format}"), values, &[rows, per_row], &[dtype])?;
        let mut scales_shape = vec![rows, cols / GROUP as u32];
        if format == WeightFormat::Q4 {
            scales_shape.push(2);
        }
        check_stored(&format!("{name}.scales"), scales, &scales_shape, &[Dtype::F16])?;
        let update = self.files.map_or(Ok(0), |files| files.check_update(name, shape, true))?;
        self.loaded.source_bytes += values.bytes() + scales.bytes() + update;
        Ok(true)
    }

    fn note(&mut self, name: &str, shape: &[u32], format: Option<WeightFormat>) -> Result<()> {
        self.loaded.tensors.push(Asked { part: self.part, name: name.into(), shape: shape.to_vec(), format });
        if shape.iter().map(|&n| u128::from(n)).product::<u128>() > u128::from(u32::MAX) {
            let file = self.files.map_or(Default::default(), |f| f.root.join("config.json"));
            return Err(Error::checkpoint(
                file,
                format!("asks for a tensor {name} of {shape:?}, more than 2^32 values"),
            ));
        }
        Ok(())
    }

    fn saw(&mut self, name: &str, scan: &Scan) {
        let report = &mut self.loaded.report;
        if scan.max_abs > report.scan.max_abs {
            report.largest = name.into();
        }
        report.scan.join(scan);
    }

    /// Counts bytes read.
    fn read(&mut self, bytes: u64) -> Result<()> {
        self.loaded.report.bytes += bytes;
        self.progress.as_mut().map_or(Ok(()), |progress| progress(bytes))
    }
}
