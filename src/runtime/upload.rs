//! Weights on their way to the device: threads pack rows straight into memory that the device copies from, or, where
//! host and device share memory, into the weight's own.
//!
//! Host memory is the ring's, whatever the size of the model.

use std::ops::Range;
use std::sync::Arc;

use super::buffers::Buffer;
use super::counters::Category;
use super::device::Device;
use super::tensor::{Matrix, MatrixPart};
use super::weight_format::WeightFormat;
use crate::error::{Error, Result, first_line};

/// Bytes of one staging buffer: rows are packed and copied by at most this much at a time.
const PIECE_BYTES: u64 = 8 << 20;
/// Staging buffers: while one is copied the next is filled.
const RING: usize = 3;
/// More threads than this are no faster than memory.
const MAX_THREADS: usize = 8;

/// Bytes of staging memory an [`Uploader`] takes where it needs any.
pub const STAGING_BYTES: u64 = PIECE_BYTES * RING as u64;

/// A place in mapped memory that is written from front to back and never read.
#[derive(Default)]
pub struct Sink {
    /// Nothing is written to where there are no scales.
    view: Option<wgpu::BufferViewMut>,
    at: usize,
}

impl Sink {
    /// Bytes `at .. at + bytes` of a mapped buffer.
    fn new(gpu: &wgpu::Buffer, at: u64, bytes: u64) -> Result<Sink> {
        if bytes == 0 {
            return Ok(Sink::default());
        }
        let failed = |e: wgpu::MapRangeError| Error::Gpu {
            what: "mapping memory for weights".into(),
            problem: first_line(&e.to_string()),
        };
        Ok(Sink { view: Some(gpu.slice(at..at + bytes).get_mapped_range_mut().map_err(failed)?), at: 0 })
    }

    /// Writes the next bytes.
    pub fn put(&mut self, bytes: &[u8]) {
        let end = self.at + bytes.len();
        if let Some(view) = &mut self.view {
            view.slice(self.at..end).copy_from_slice(bytes);
        }
        self.at = end;
    }
}

/// Packs rows `range`, counted from the first that is written: packed values to the first sink, scales to the second.
/// Called by several threads at once.
pub type PackRows<'a> = dyn Fn(Range<u32>, &mut Sink, &mut Sink) -> Result<()> + Sync + 'a;

/// Moves packed rows into matrices.
pub struct Uploader {
    device: Device,
    ring: Vec<Staging>,
    next: usize,
    threads: usize,
}

struct Staging {
    buffer: Buffer,
    /// The submission that copies from it, after which it is mapped again.
    copied: Option<wgpu::SubmissionIndex>,
}

impl Matrix {
    /// A matrix whose memory the host writes itself where `device` shares it; until [`Uploader::finish`] only an
    /// uploader may touch it.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn loading(device: &Device, label: &str, rows: u32, cols: u32, format: WeightFormat) -> Result<Matrix> {
        if !device.caps().shares_memory {
            return Matrix::uninit(device, label, rows, cols, format);
        }
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::MAP_WRITE;
        let make = |bytes| device.buffer(Category::Weights, label, bytes, usage);
        Matrix::with(label, rows, cols, format, device.caps().max_part_bytes(), make)
    }
}

impl Uploader {
    /// An uploader for `device`.
    pub fn new(device: &Device) -> Uploader {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
        Uploader { device: device.clone(), ring: Vec::new(), next: 0, threads }
    }

    /// Writes rows `first .. first + count` of `matrix` as `pack` packs them; `done` hears how many are written.
    ///
    /// # Errors
    /// What `pack` gives, [`Error::OutOfMemory`] for the staging memory, or whatever went wrong on the GPU.
    pub fn write(
        &mut self,
        matrix: &Matrix,
        first: u32,
        count: u32,
        pack: &PackRows<'_>,
        done: &mut dyn FnMut(u32) -> Result<()>,
    ) -> Result<()> {
        let cols = matrix.padded_cols();
        let row_bytes = [matrix.format.row_bytes(cols), matrix.format.scale_bytes(cols)];
        let row = row_bytes[0] + row_bytes[1];
        assert!(row <= PIECE_BYTES, "{}: a row of {row} bytes exceeds what is staged at once", matrix.label);
        let per_piece = (PIECE_BYTES / row) as u32;
        let mut row = first;
        while row < first + count {
            let part = matrix.parts.iter().find(|part| row < part.first_row + part.rows);
            let part = part.unwrap_or_else(|| panic!("{}: row {row} is past the end", matrix.label));
            let rows = per_piece.min(first + count - row).min(part.first_row + part.rows - row);
            let from = row - first;
            let piece = Piece { row_bytes, at: u64::from(row - part.first_row), rows, from, threads: self.threads };
            // What layers take turns in is not mapped, even where it could be.
            match part.buffer.gpu()?.usage().contains(wgpu::BufferUsages::MAP_WRITE) {
                true => piece.fill_in_place(part, pack)?,
                false => self.stage(part, &piece, pack)?,
            }
            row += rows;
            done(rows)?;
        }
        Ok(())
    }

    /// Hands a matrix that is completely written over to the device.
    ///
    /// # Errors
    /// [`Error::Request`] if it has no memory.
    pub fn finish(&self, matrix: &Matrix) -> Result<()> {
        for part in &matrix.parts {
            for buffer in std::iter::once(&part.buffer).chain(&part.scales) {
                if buffer.gpu()?.usage().contains(wgpu::BufferUsages::MAP_WRITE) {
                    buffer.gpu()?.unmap();
                }
            }
        }
        Ok(())
    }

    /// Fills the next staging buffer and sends it on its way.
    fn stage(&mut self, part: &MatrixPart, piece: &Piece, pack: &PackRows<'_>) -> Result<()> {
        if self.ring.len() <= self.next {
            let usage = wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC;
            let buffer = self.device.buffer(Category::Staging, "staging", PIECE_BYTES, usage)?;
            self.ring.push(Staging { buffer, copied: None });
        }
        let staging = &mut self.ring[self.next];
        self.next = (self.next + 1) % RING;
        if let Some(submission_index) = staging.copied.take() {
            self.device.inner.gpu.wait(Some(submission_index), None)?;
        }
        let gpu = staging.buffer.gpu()?;
        let [packed, scales] = piece.bytes();
        piece.fill([(gpu, 0), (gpu, packed)], pack)?;
        gpu.unmap();
        let mut encoder = self.device.inner.gpu.device.create_command_encoder(&Default::default());
        let [packed_at, scales_at] = piece.row_bytes.map(|bytes| bytes * piece.at);
        encoder.copy_buffer_to_buffer(gpu, 0, part.buffer.gpu()?, packed_at, packed);
        if let Some(target) = &part.scales {
            encoder.copy_buffer_to_buffer(gpu, packed, target.gpu()?, scales_at, scales);
        }
        staging.copied = Some(self.device.inner.gpu.submit([encoder.finish()]));
        self.device.inner.gpu.map(gpu.slice(..), wgpu::MapMode::Write);
        Ok(())
    }
}

/// Rows that are packed at once.
struct Piece {
    /// Bytes of a row's values and of its scales.
    row_bytes: [u64; 2],
    /// First row in its part.
    at: u64,
    rows: u32,
    /// First row as `pack` counts.
    from: u32,
    threads: usize,
}

impl Piece {
    fn bytes(&self) -> [u64; 2] {
        self.row_bytes.map(|bytes| bytes * u64::from(self.rows))
    }

    fn fill_in_place(&self, part: &MatrixPart, pack: &PackRows<'_>) -> Result<()> {
        let [packed_at, scales_at] = self.row_bytes.map(|bytes| bytes * self.at);
        let packed: &Arc<Buffer> = &part.buffer;
        // Without scales nothing is written to the second place.
        let scales = part.scales.as_ref().unwrap_or(packed);
        self.fill([(packed.gpu()?, packed_at), (scales.gpu()?, scales_at)], pack)
    }

    /// Packs the rows by several threads into mapped memory: values at the first place, scales at the second.
    fn fill(&self, targets: [(&wgpu::Buffer, u64); 2], pack: &PackRows<'_>) -> Result<()> {
        let share = self.rows.div_ceil(self.threads as u32).max(1);
        let mut work = Vec::new();
        for start in (0..self.rows).step_by(share as usize) {
            let end = (start + share).min(self.rows);
            let sink = |i: usize| {
                let ((gpu, at), bytes) = (targets[i], self.row_bytes[i]);
                Sink::new(gpu, at + bytes * u64::from(start), bytes * u64::from(end - start))
            };
            work.push((self.from + start..self.from + end, [sink(0)?, sink(1)?]));
        }
        let run = |(range, [mut packed, mut scales]): (Range<u32>, [Sink; 2])| pack(range, &mut packed, &mut scales);
        if work.len() == 1 {
            return work.into_iter().try_for_each(run);
        }
        std::thread::scope(|scope| {
            let running: Vec<_> = work.into_iter().map(|one| scope.spawn(move || run(one))).collect();
            let joined: Vec<_> = running.into_iter().map(|thread| thread.join()).collect();
            let failed = |_| Error::request("a thread that packs weights failed; please report it");
            joined.into_iter().try_for_each(|result| result.map_err(failed)?)
        })
    }
}
