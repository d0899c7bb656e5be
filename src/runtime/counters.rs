//! Counters of what a device holds and has made.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The purpose of a buffer; memory is counted by it.
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

    pub(super) fn add(&self, category: Category, bytes: u64) {
        self.bytes[category as usize].fetch_add(bytes, Relaxed);
        self.buffers.fetch_add(1, Relaxed);
        self.peak_bytes.fetch_max(self.total_bytes(), Relaxed);
    }

    pub(super) fn remove(&self, category: Category, bytes: u64) {
        self.bytes[category as usize].fetch_sub(bytes, Relaxed);
    }
}
