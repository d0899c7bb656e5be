//! Tensors, weights, the slots and pool scratch memory comes from, upload and readback.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use half::f16;

use super::device::{Device, first_line};
use super::stream::Streamed;
use super::weight_format::WeightFormat;
use crate::error::{Error, Result};

/// What a buffer is for; memory is counted by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Category {
    /// Model weights.
    Weights,
    /// Intermediate results inside a plan.
    Scratch,
    /// Cached keys and values.
    KvCache,
    /// Plan parameters, inputs and outputs.
    Io,
    /// Memory the CPU can map, for reading results back.
    Staging,
}

/// Live bytes by category, and how many objects were ever made.
#[derive(Debug, Default)]
pub struct Counters {
    bytes: [AtomicU64; 5],
    peak_bytes: AtomicU64,
    buffers: AtomicU64,
    bind_groups: AtomicU64,
    pipelines: AtomicU64,
}

impl Counters {
    /// Bytes held now for `category`.
    pub fn bytes(&self, category: Category) -> u64 {
        self.bytes[category as usize].load(Relaxed)
    }

    /// Bytes held now in all.
    pub fn total_bytes(&self) -> u64 {
        self.bytes.iter().map(|b| b.load(Relaxed)).sum()
    }

    /// The largest [`Counters::total_bytes`] so far.
    pub fn peak_bytes(&self) -> u64 {
        self.peak_bytes.load(Relaxed)
    }

    /// Forgets the past, which holds nothing now.
    pub(super) fn restart(&self) {
        for past in [&self.peak_bytes, &self.buffers, &self.bind_groups] {
            past.store(0, Relaxed);
        }
    }

    /// Buffers created since the device was opened.
    pub fn buffers_created(&self) -> u64 {
        self.buffers.load(Relaxed)
    }

    /// Bind groups created since the device was opened.
    pub fn bind_groups_created(&self) -> u64 {
        self.bind_groups.load(Relaxed)
    }

    /// Kernels compiled since the device was opened, one for each set of constants.
    pub fn pipelines_compiled(&self) -> u64 {
        self.pipelines.load(Relaxed)
    }

    pub(super) fn count_pipelines(&self, compiled: u64) {
        self.pipelines.fetch_add(compiled, Relaxed);
    }

    pub(super) fn count_bind_group(&self) {
        self.bind_groups.fetch_add(1, Relaxed);
    }

    fn add(&self, category: Category, bytes: u64) {
        self.bytes[category as usize].fetch_add(bytes, Relaxed);
        self.buffers.fetch_add(1, Relaxed);
        self.peak_bytes.fetch_max(self.total_bytes(), Relaxed);
    }

    fn remove(&self, category: Category, bytes: u64) {
        self.bytes[category as usize].fetch_sub(bytes, Relaxed);
    }
}

/// A piece of device memory; or only its size, where a recording is made without a device.
#[derive(Debug)]
pub struct Buffer {
    gpu: Option<wgpu::Buffer>,
    bytes: u64,
    owner: Option<(Category, Arc<Counters>)>,
}

impl Buffer {
    fn unbacked(bytes: u64) -> Buffer {
        Buffer { gpu: None, bytes: whole(bytes), owner: None }
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn gpu(&self) -> Result<&wgpu::Buffer> {
        self.gpu.as_ref().ok_or_else(|| Error::request("this plan was recorded without a device and cannot run"))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some((category, counters)) = &self.owner {
            counters.remove(*category, self.bytes);
        }
    }
}

/// What a buffer of `bytes` takes.
pub fn whole(bytes: u64) -> u64 {
    bytes.max(16).next_multiple_of(16)
}

/// One scratch buffer of a recording. It is free again when only the recorder holds it.
#[derive(Debug)]
pub struct Slot {
    pub(super) index: usize,
}

#[derive(Clone, Debug)]
pub(super) enum Storage {
    Scratch(Arc<Slot>),
    Device(Arc<Buffer>),
}

/// A row-major matrix of 32-bit elements (f32 or u32): a handle, cheap to clone.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub(super) storage: Storage,
    /// First element inside the storage.
    pub(super) offset: u32,
    rows: u32,
    cols: u32,
}

impl Tensor {
    pub(super) fn new(storage: Storage, rows: u32, cols: u32) -> Tensor {
        Tensor { storage, offset: 0, rows, cols }
    }

    /// A tensor with a shape and no memory, for recording without a device.
    pub fn unbacked(rows: u32, cols: u32) -> Tensor {
        Tensor::new(Storage::Device(Arc::new(Buffer::unbacked(u64::from(rows) * u64::from(cols) * 4))), rows, cols)
    }

    /// Number of rows.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// Elements in a row.
    pub fn cols(&self) -> u32 {
        self.cols
    }

    /// Number of elements.
    pub fn len(&self) -> u32 {
        self.rows * self.cols
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the buffer it lies in; 0 for scratch.
    pub fn buffer_bytes(&self) -> u64 {
        match &self.storage {
            Storage::Scratch(_) => 0,
            Storage::Device(buffer) => buffer.bytes(),
        }
    }

    /// The rows `first .. first + count` as a tensor over the same memory.
    pub fn slice_rows(&self, first: u32, count: u32) -> Tensor {
        assert!(first + count <= self.rows, "rows {first}+{count} of a tensor with {} rows", self.rows);
        Tensor { storage: self.storage.clone(), offset: self.offset + first * self.cols, rows: count, cols: self.cols }
    }
}

/// Rows a [`Matrix`] is split at, so that every kernel tile and gate/up pair stays in one part.
const SPLIT_ROWS: u64 = 64;

/// What the columns of a [`Matrix`] in memory are a multiple of.
const COLUMN_STEP: u32 = 8;

/// A weight matrix `[rows, cols]`, packed as its format says; rows of f16 are padded with zeros, see
/// [`Matrix::padded_cols`].
///
/// It is cut by rows into parts that each fit one binding.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// The checkpoint's name without `.weight`.
    pub label: String,
    /// Output features (or table entries), N.
    pub rows: u32,
    /// Input features, K.
    pub cols: u32,
    /// How values are stored.
    pub format: WeightFormat,
    pub(super) parts: Vec<MatrixPart>,
    /// Whose turn in this memory it is, where several layers share it.
    pub(super) streamed: Option<Arc<Streamed>>,
}

#[derive(Clone, Debug)]
pub(super) struct MatrixPart {
    pub buffer: Arc<Buffer>,
    pub scales: Option<Arc<Buffer>>,
    pub first_row: u32,
    pub rows: u32,
}

impl MatrixPart {
    /// The part as one row of packed u32.
    pub fn packed(&self) -> Tensor {
        words(&self.buffer)
    }

    /// Its scales as one row of packed u32.
    pub fn scales(&self) -> Option<Tensor> {
        self.scales.as_ref().map(words)
    }
}

fn words(buffer: &Arc<Buffer>) -> Tensor {
    Tensor::new(Storage::Device(buffer.clone()), 1, (buffer.bytes() / 4) as u32)
}

impl Matrix {
    /// A matrix with a shape and no memory, for recording without a device.
    pub fn unbacked(label: &str, rows: u32, cols: u32, format: WeightFormat, max_binding_bytes: u64) -> Matrix {
        let make = |bytes| Ok(Buffer::unbacked(bytes));
        Matrix::with(label, rows, cols, format, max_binding_bytes, make).expect("making unbacked buffers cannot fail")
    }

    /// A matrix on `device` whose memory is to be filled by [`Matrix::write_rows`], an
    /// [`Uploader`](super::upload::Uploader) or a fill op.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn uninit(device: &Device, label: &str, rows: u32, cols: u32, format: WeightFormat) -> Result<Matrix> {
        let make = |bytes| device.storage_buffer(Category::Weights, label, bytes);
        Matrix::with(label, rows, cols, format, device.caps().max_part_bytes(), make)
    }

    pub(super) fn with(
        label: &str,
        rows: u32,
        cols: u32,
        format: WeightFormat,
        limit: u64,
        mut make: impl FnMut(u64) -> Result<Buffer>,
    ) -> Result<Matrix> {
        let padded = cols.next_multiple_of(COLUMN_STEP);
        let (row_bytes, scale_bytes) = (format.row_bytes(padded), format.scale_bytes(padded));
        let whole = u64::from(rows);
        let per_part = if whole * row_bytes <= limit { whole } else { limit / row_bytes / SPLIT_ROWS * SPLIT_ROWS };
        assert!(per_part > 0, "{label}: {SPLIT_ROWS} rows of {row_bytes} bytes exceed a binding of {limit} bytes");
        let mut parts = Vec::new();
        let mut first = 0;
        while first < whole {
            let count = per_part.min(whole - first);
            let buffer = Arc::new(make(count * row_bytes)?);
            let scales = match scale_bytes {
                0 => None,
                bytes => Some(Arc::new(make(count * bytes)?)),
            };
            parts.push(MatrixPart { buffer, scales, first_row: first as u32, rows: count as u32 });
            first += count;
        }
        Ok(Matrix { label: label.into(), rows, cols, format, parts, streamed: None })
    }

    /// Elements of a row in memory: the kernels read 8 at a time.
    pub fn padded_cols(&self) -> u32 {
        self.cols.next_multiple_of(COLUMN_STEP)
    }

    /// Packs and writes whole rows starting at `first_row`; `values` holds a multiple of `cols` elements.
    pub fn write_rows(&self, device: &Device, first_row: u32, values: &[f32]) {
        let (cols, padded) = (self.cols as usize, self.padded_cols());
        assert_eq!(values.len() % cols, 0, "{}: not whole rows", self.label);
        for (row, values) in (first_row..).zip(values.chunks(cols)) {
            let (mut packed, mut scales) = (Vec::new(), Vec::new());
            let mut values = values.to_vec();
            values.resize(padded as usize, 0.0);
            self.format.pack(&values, &mut packed, &mut scales);
            scales.resize(self.format.scale_bytes(padded) as usize / 2, f16::ZERO);
            let part = self.parts.iter().find(|part| (part.first_row..part.first_row + part.rows).contains(&row));
            let part = part.unwrap_or_else(|| panic!("{}: row {row} is past the end", self.label));
            let at = u64::from(row - part.first_row);
            let write = |buffer: &Buffer, bytes: &[u8]| {
                let gpu = buffer.gpu.as_ref().expect("only device matrices are written");
                device.inner.queue.write_buffer(gpu, at * bytes.len() as u64, bytes);
            };
            write(&part.buffer, &packed);
            part.scales.iter().for_each(|buffer| write(buffer, bytemuck::cast_slice(&scales)));
        }
    }

    /// The same matrix under another label: tied weights serve two layers.
    pub fn relabelled(mut self, label: &str) -> Matrix {
        self.label = label.into();
        self
    }

    /// The same memory in its turn for `layer`.
    pub fn streamed(mut self, layer: &Arc<Streamed>) -> Matrix {
        self.streamed = Some(layer.clone());
        self
    }

    /// The same memory without regard to turns.
    pub fn resident(self) -> Matrix {
        Matrix { streamed: None, ..self }
    }

    /// Bytes of all parts.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|p| p.buffer.bytes() + p.scales.as_ref().map_or(0, |s| s.bytes())).sum()
    }
}

/// A linear layer's parameters: `y = x Wᵀ + b`.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Matrix,
    /// `[1, out]`, absent where the layer has none.
    pub bias: Option<Tensor>,
}

/// A normalisation's parameters.
#[derive(Clone, Debug)]
pub struct Norm {
    /// The checkpoint's name without `.weight`.
    pub label: String,
    /// Scale, `[1, D]`.
    pub weight: Tensor,
    /// Shift, `[1, D]`; RMSNorm has none.
    pub bias: Option<Tensor>,
    /// Added to the variance (or mean square) before the square root.
    pub eps: f32,
}

impl Device {
    /// A buffer; one that can be mapped for writing is.
    pub(super) fn buffer(
        &self,
        category: Category,
        label: &str,
        bytes: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<Buffer> {
        let have = self.caps().max_buffer_bytes;
        if bytes > have {
            return Err(Error::DoesNotFit { what: format!("buffer {label} in bytes"), need: bytes, have });
        }
        let scope = self.inner.gpu.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let size = whole(bytes);
        let mapped_at_creation = usage.contains(wgpu::BufferUsages::MAP_WRITE);
        let descriptor = wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation };
        let gpu = self.inner.gpu.create_buffer(&descriptor);
        if pollster::block_on(scope.pop()).is_some() {
            return Err(Error::OutOfMemory { what: label.into(), need_bytes: bytes });
        }
        self.inner.counters.add(category, size);
        Ok(Buffer { gpu: Some(gpu), bytes: size, owner: Some((category, self.inner.counters.clone())) })
    }

    pub(super) fn storage_buffer(&self, category: Category, label: &str, bytes: u64) -> Result<Buffer> {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
        self.buffer(category, label, bytes, usage)
    }

    /// A tensor of zeros.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::DoesNotFit`].
    pub fn zeros(&self, category: Category, label: &str, rows: u32, cols: u32) -> Result<Tensor> {
        let bytes = u64::from(rows) * u64::from(cols) * 4;
        Ok(Tensor::new(Storage::Device(Arc::new(self.storage_buffer(category, label, bytes)?)), rows, cols))
    }

    /// A tensor holding `values` (f32 or u32), row by row.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::DoesNotFit`].
    pub fn tensor<T: bytemuck::Pod>(
        &self,
        category: Category,
        label: &str,
        rows: u32,
        cols: u32,
        values: &[T],
    ) -> Result<Tensor> {
        let tensor = self.zeros(category, label, rows, cols)?;
        self.write(&tensor, values);
        Ok(tensor)
    }

    /// Overwrites a device tensor with `values`.
    pub fn write<T: bytemuck::Pod>(&self, tensor: &Tensor, values: &[T]) {
        assert_eq!(values.len(), tensor.len() as usize, "tensor of {}x{}", tensor.rows, tensor.cols);
        let Storage::Device(buffer) = &tensor.storage else { panic!("scratch tensors are written by kernels only") };
        let gpu = buffer.gpu.as_ref().expect("only device tensors are written");
        self.inner.queue.write_buffer(gpu, u64::from(tensor.offset) * 4, bytemuck::cast_slice(values));
    }

    /// Copies a device tensor to another one of its size, after everything submitted before.
    ///
    /// # Errors
    /// [`Error::Request`] if either has no memory.
    pub fn copy(&self, from: &Tensor, to: &Tensor) -> Result<()> {
        assert_eq!((from.rows, from.cols), (to.rows, to.cols), "copy: shapes");
        let (Storage::Device(source), Storage::Device(target)) = (&from.storage, &to.storage) else {
            panic!("ask the plan for its scratch tensors")
        };
        let mut encoder = self.inner.gpu.create_command_encoder(&Default::default());
        let (source_at, target_at) = (u64::from(from.offset) * 4, u64::from(to.offset) * 4);
        encoder.copy_buffer_to_buffer(source.gpu()?, source_at, target.gpu()?, target_at, u64::from(from.len()) * 4);
        self.inner.queue.submit([encoder.finish()]);
        Ok(())
    }

    /// Gives up the scratch memory that no plan holds.
    ///
    /// # Errors
    /// Whatever went wrong on the GPU.
    pub fn trim(&self) -> Result<()> {
        self.inner.pool.clear();
        self.flush()
    }

    /// Sends pending writes to the device and waits, so that their staging copies are freed.
    ///
    /// # Errors
    /// Whatever went wrong on the GPU.
    pub fn flush(&self) -> Result<()> {
        self.inner.queue.submit([]);
        self.wait()
    }

    /// Copies a device tensor back, row by row. Waits for everything submitted before.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] for the staging buffer, or whatever went wrong on the GPU.
    pub fn read<T: bytemuck::Pod>(&self, tensor: &Tensor) -> Result<Vec<T>> {
        let Storage::Device(buffer) = &tensor.storage else { panic!("ask the plan for its scratch tensors") };
        let bytes = u64::from(tensor.len()) * 4;
        let usage = wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ;
        let staging = self.buffer(Category::Staging, "readback", bytes, usage)?;
        let mut encoder = self.inner.gpu.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer.gpu()?, u64::from(tensor.offset) * 4, staging.gpu()?, 0, bytes);
        self.inner.queue.submit([encoder.finish()]);
        self.map(&staging, bytes)
    }

    /// Maps `staging` and copies its first `bytes` out, waiting for all submitted work.
    pub(super) fn map<T: bytemuck::Pod>(&self, staging: &Buffer, bytes: u64) -> Result<Vec<T>> {
        if bytes == 0 {
            return Ok(Vec::new());
        }
        let slice = staging.gpu()?.slice(..bytes);
        slice.map_async(wgpu::MapMode::Read, |_| {});
        self.wait()?;
        let failed = |e: String| Error::Gpu { what: "reading a result back".into(), problem: first_line(&e) };
        let values = {
            let view = slice.get_mapped_range().map_err(|e| failed(e.to_string()))?;
            bytemuck::pod_collect_to_vec(&view[..])
        };
        staging.gpu()?.unmap();
        Ok(values)
    }
}

/// Scratch buffers waiting for the next plan. All stages of a model share one.
#[derive(Debug, Default)]
pub struct Pool {
    free: Mutex<Vec<Arc<Buffer>>>,
}

impl Pool {
    /// The smallest free buffer that holds `bytes` without wasting more than as much again, or a new one.
    pub(super) fn take(&self, device: &Device, bytes: u64) -> Result<Arc<Buffer>> {
        let mut free = self.free.lock().expect("no panic while the pool is held");
        match best_fit(free.iter().map(|b| b.bytes()), bytes) {
            Some(i) => Ok(free.swap_remove(i)),
            None => Ok(Arc::new(device.storage_buffer(Category::Scratch, "scratch", bytes)?)),
        }
    }

    /// Gives the memory of all free buffers up.
    pub(super) fn clear(&self) {
        if let Ok(mut free) = self.free.lock() {
            free.clear();
        }
    }

    /// Takes buffers back, except those that some tensor outside the plan still reads.
    pub(super) fn give_back(&self, buffers: impl IntoIterator<Item = Arc<Buffer>>) {
        if let Ok(mut free) = self.free.lock() {
            free.extend(buffers.into_iter().filter(|b| Arc::strong_count(b) == 1));
        }
    }
}

/// Which of the free buffers serves `bytes`: the smallest that is large enough and not more than twice as large.
pub(super) fn best_fit(free: impl Iterator<Item = u64>, bytes: u64) -> Option<usize> {
    let fits = |&(_, size): &(usize, u64)| size >= bytes && size <= bytes.max(4096) * 2;
    free.enumerate().filter(fits).min_by_key(|&(_, size)| size).map(|(i, _)| i)
}

/// What a [`Pool`] would hold, without a device: for planning.
#[derive(Clone, Debug, Default)]
pub struct DryPool {
    free: Vec<u64>,
    bytes: u64,
}

impl DryPool {
    /// The buffers for slots of these sizes.
    pub fn take(&mut self, slots: &[u64]) -> Vec<u64> {
        let mut take = |&bytes: &u64| match best_fit(self.free.iter().copied(), bytes) {
            Some(i) => self.free.swap_remove(i),
            None => {
                self.bytes += whole(bytes);
                whole(bytes)
            }
        };
        slots.iter().map(&mut take).collect()
    }

    /// Takes buffers back.
    pub fn give_back(&mut self, buffers: impl IntoIterator<Item = u64>) {
        self.free.extend(buffers);
    }

    /// Lets go of buffers that were taken.
    pub fn free(&mut self, buffers: impl IntoIterator<Item = u64>) {
        self.bytes -= buffers.into_iter().sum::<u64>();
    }

    /// Bytes of all buffers there are.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}
