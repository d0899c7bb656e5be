//! Values on their way into a device's memory and back.

use std::sync::Arc;

use half::f16;

use super::buffers::Buffer;
use super::counters::Category;
use super::device::Device;
use super::tensor::{Matrix, Storage, Tensor};
use super::weight_format::WeightFormat;
use crate::error::{Error, Result, first_line};

/// The factor that halves have of their values, in `shaders/shared/halves.wgsl`.
const HALF_SCALE: f32 = 0.0625;

impl Device {
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
        assert_eq!(values.len(), tensor.len() as usize, "tensor of {}x{}", tensor.rows(), tensor.cols());
        self.write_at(tensor, 0, values);
    }

    /// Overwrites the elements of a device tensor from `first` on, counted row by row.
    pub fn write_at<T: bytemuck::Pod>(&self, tensor: &Tensor, first: u32, values: &[T]) {
        let end = first as usize + values.len();
        assert!(end <= tensor.len() as usize, "element {end} of a tensor of {}x{}", tensor.rows(), tensor.cols());
        let Storage::Device(buffer) = &tensor.storage else { panic!("scratch tensors are written by kernels only") };
        let gpu = buffer.gpu().expect("only device tensors are written");
        let at = u64::from(tensor.offset + first) * 4;
        self.inner.gpu.queue.write_buffer(gpu, at, bytemuck::cast_slice(values));
    }

    /// Copies a device tensor to another one of its size, after everything submitted before.
    ///
    /// # Errors
    /// [`Error::Request`] if either has no memory.
    pub fn copy(&self, from: &Tensor, to: &Tensor) -> Result<()> {
        assert_eq!((from.rows(), from.cols()), (to.rows(), to.cols()), "copy: shapes");
        assert!(!from.is_half() && !to.is_half(), "copy: halves");
        let (Storage::Device(source), Storage::Device(target)) = (&from.storage, &to.storage) else {
            panic!("ask the plan for its scratch tensors")
        };
        let mut encoder = self.inner.gpu.device.create_command_encoder(&Default::default());
        let (source_at, target_at) = (u64::from(from.offset) * 4, u64::from(to.offset) * 4);
        encoder.copy_buffer_to_buffer(source.gpu()?, source_at, target.gpu()?, target_at, u64::from(from.len()) * 4);
        self.inner.gpu.submit([encoder.finish()]);
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
        self.inner.gpu.submit([]);
        self.wait()
    }

    /// Copies a device tensor back, row by row; of halves, the values that they stand for. Waits for everything submitted
    /// before.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] for the staging buffer, or whatever went wrong on the GPU.
    pub fn read<T: bytemuck::Pod>(&self, tensor: &Tensor) -> Result<Vec<T>> {
        let Storage::Device(buffer) = &tensor.storage else { panic!("ask the plan for its scratch tensors") };
        let bytes = u64::from(tensor.len()) * tensor.element_bytes();
        let usage = wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ;
        let staging = self.buffer(Category::Staging, "readback", bytes, usage)?;
        let mut encoder = self.inner.gpu.device.create_command_encoder(&Default::default());
        let at = u64::from(tensor.offset) * tensor.element_bytes();
        encoder.copy_buffer_to_buffer(buffer.gpu()?, at, staging.gpu()?, 0, bytes);
        self.inner.gpu.submit([encoder.finish()]);
        if tensor.is_half() {
            let halves: Vec<half::f16> = self.map(&staging, bytes)?;
            let values: Vec<f32> = halves.iter().map(|half| half.to_f32() / HALF_SCALE).collect();
            return Ok(bytemuck::pod_collect_to_vec(&values));
        }
        self.map(&staging, bytes)
    }

    /// Maps `staging` and copies its first `bytes` out, waiting for all submitted work.
    pub(super) fn map<T: bytemuck::Pod>(&self, staging: &Buffer, bytes: u64) -> Result<Vec<T>> {
        if bytes == 0 {
            return Ok(Vec::new());
        }
        let slice = staging.gpu()?.slice(..bytes);
        self.inner.gpu.map(slice, wgpu::MapMode::Read);
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

impl Matrix {
    /// A matrix on `device` whose memory is to be filled by [`Matrix::write_rows`], an
    /// [`Uploader`](super::upload::Uploader) or a fill op.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn uninit(device: &Device, label: &str, rows: u32, cols: u32, format: WeightFormat) -> Result<Matrix> {
        let make = |bytes| device.storage_buffer(Category::Weights, label, bytes);
        Matrix::with(label, rows, cols, format, device.caps().max_part_bytes(), make)
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
                let gpu = buffer.gpu().expect("only device matrices are written");
                device.inner.gpu.queue.write_buffer(gpu, at * bytes.len() as u64, bytes);
            };
            write(&part.buffer, &packed);
            part.scales.iter().for_each(|buffer| write(buffer, bytemuck::cast_slice(&scales)));
        }
    }
}
