//! Device memory: buffers, and the pool that scratch memory comes from.

use std::sync::{Arc, Mutex};

use super::counters::{Category, Counters};
use super::gpu::Gpu;
use crate::error::{Error, Result};

/// A piece of device memory; or only its size, where a recording is made without a device.
#[derive(Debug)]
pub struct Buffer {
    gpu: Option<wgpu::Buffer>,
    bytes: u64,
    owner: Option<(Category, Arc<Counters>)>,
}

impl Buffer {
    pub(super) fn unbacked(bytes: u64) -> Buffer {
        Buffer { gpu: None, bytes: whole(bytes), owner: None }
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A buffer of no more than `limit` bytes; one that can be mapped for writing is.
    pub(super) fn new(
        gpu: &Gpu,
        limit: u64,
        (category, label): (Category, &str),
        bytes: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<Buffer> {
        if bytes > limit {
            return Err(Error::DoesNotFit { what: format!("buffer {label} in bytes"), need: bytes, have: limit });
        }
        let scope = gpu.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let size = whole(bytes);
        let mapped_at_creation = usage.contains(wgpu::BufferUsages::MAP_WRITE);
        let descriptor = wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation };
        let made = gpu.device.create_buffer(&descriptor);
        if pollster::block_on(scope.pop()).is_some() {
            return Err(Error::OutOfMemory { what: label.into(), need_bytes: bytes });
        }
        gpu.counters.add(category, size);
        Ok(Buffer { gpu: Some(made), bytes: size, owner: Some((category, gpu.counters.clone())) })
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

/// Rounds `bytes` up to what a buffer of that many takes.
pub fn whole(bytes: u64) -> u64 {
    bytes.max(16).next_multiple_of(16)
}

/// Scratch buffers waiting for the next plan. All stages of a model share one.
#[derive(Debug, Default)]
pub struct Pool {
    free: Mutex<Vec<Arc<Buffer>>>,
}

impl Pool {
    /// The smallest free buffer that holds `bytes` without wasting more than as much again, or one that `make` makes.
    pub(super) fn take(&self, bytes: u64, make: impl FnOnce() -> Result<Buffer>) -> Result<Arc<Buffer>> {
        let mut free = self.free.lock().expect("no panic while the pool is held");
        match best_fit(free.iter().map(|b| b.bytes()), bytes) {
            Some(i) => Ok(free.swap_remove(i)),
            None => make().map(Arc::new),
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

/// Picks the free buffer that serves `bytes`: the smallest that is large enough and not more than twice as large.
pub(super) fn best_fit(free: impl Iterator<Item = u64>, bytes: u64) -> Option<usize> {
    let fits = |&(_, size): &(usize, u64)| size >= bytes && size <= bytes.max(4096) * 2;
    free.enumerate().filter(fits).min_by_key(|&(_, size)| size).map(|(i, _)| i)
}

/// The buffers that a device would keep for scratch memory, as numbers: for planning without one.
#[derive(Clone, Debug, Default)]
pub struct DryPool {
    free: Vec<u64>,
    bytes: u64,
}

impl DryPool {
    /// The buffers for scratch buffers of these sizes.
    pub fn take(&mut self, sizes: &[u64]) -> Vec<u64> {
        let mut take = |&bytes: &u64| match best_fit(self.free.iter().copied(), bytes) {
            Some(i) => self.free.swap_remove(i),
            None => {
                self.bytes += whole(bytes);
                whole(bytes)
            }
        };
        sizes.iter().map(&mut take).collect()
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
