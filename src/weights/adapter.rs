//! Places of tensors, and an adapter's changes to them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;

use safetensors::tensor::TensorInfo;

/// The place of a tensor.
#[derive(Clone)]
pub(super) struct Entry {
    pub shard: usize,
    pub info: TensorInfo,
}

impl Entry {
    /// The tensor's shape.
    pub fn shape(&self) -> &[usize] {
        &self.info.shape
    }

    /// The rank r, where this is a layer's first factor.
    pub fn rank(&self) -> usize {
        self.shape().first().copied().unwrap_or(0)
    }
}

/// An adapter's changes to a checkpoint's tensors.
#[derive(Default)]
pub(super) struct Adapter {
    pub file: PathBuf,
    /// Additions to tensors, by their names.
    pub updates: BTreeMap<String, Update>,
    /// Names of the tensors that the adapter has whole.
    pub replaced: BTreeSet<String>,
}

/// An addition to a tensor.
pub(super) enum Update {
    /// `scale B A`, to a matrix.
    Product { a: Entry, b: Entry, embedding: bool, scale: f32 },
    /// `scale` times these values, to a bias.
    Values { values: Entry, scale: f32 },
}

/// `scale B A`, ready to be added to a matrix row by row.
pub(super) struct LowRank {
    pub rank: usize,
    /// `[r, K]`.
    pub a: Vec<f32>,
    /// `[N, r]`, times the scale.
    pub b: Vec<f32>,
}

impl LowRank {
    /// Adds the product's `rows` to `values`, which are those rows of the matrix.
    pub fn add(&self, rows: Range<usize>, values: &mut [f32]) {
        let width = self.a.len() / self.rank;
        for (row, values) in rows.zip(values.chunks_exact_mut(width)) {
            for (factor, a) in self.b[row * self.rank..][..self.rank].iter().zip(self.a.chunks_exact(width)) {
                values.iter_mut().zip(a).for_each(|(value, a)| *value += factor * a);
            }
        }
    }
}
