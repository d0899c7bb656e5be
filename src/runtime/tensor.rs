//! Handles of what ops read and write: tensors and weights, on a device or only as shapes.

use std::sync::Arc;

use super::buffers::Buffer;
use super::stream::Streamed;
use super::weight_format::WeightFormat;
use crate::error::Result;

/// One scratch buffer of a recording. It is free again when only the recorder holds it.
#[derive(Debug)]
pub struct ScratchBuffer {
    pub(super) index: usize,
}

#[derive(Clone, Debug)]
pub(super) enum Storage {
    Scratch(Arc<ScratchBuffer>),
    Device(Arc<Buffer>),
}

/// A row-major matrix of 32-bit elements (f32 or u32): a handle, cheap to clone.
///
/// Where linear layers multiply matrices of f16, the ops that make their inputs may make halves, as
/// `shaders/shared/halves.wgsl` says: [`Tensor::is_half`].
#[derive(Clone, Debug)]
pub struct Tensor {
    pub(super) storage: Storage,
    /// First element inside the storage.
    pub(super) offset: u32,
    rows: u32,
    cols: u32,
    is_half: bool,
}

impl Tensor {
    pub(super) fn new(storage: Storage, rows: u32, cols: u32) -> Tensor {
        Tensor { storage, offset: 0, rows, cols, is_half: false }
    }

    /// The same rows and columns as halves.
    pub(super) fn of_halves(self) -> Tensor {
        Tensor { is_half: true, ..self }
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

    /// Says whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Says whether its elements are halves of 16 bits, a sixteenth of each value.
    pub fn is_half(&self) -> bool {
        self.is_half
    }

    /// Bytes of an element.
    pub(super) fn element_bytes(&self) -> u64 {
        if self.is_half { 2 } else { 4 }
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
        Tensor { offset: self.offset + first * self.cols, rows: count, ..self.clone() }
    }
}

/// Rows a [`Matrix`] is split at, so that every kernel tile and gate/up pair stays in one part.
const SPLIT_ROWS: u64 = 64;

/// The number that the columns of a [`Matrix`] in memory are a multiple of.
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
    /// The storage of its values.
    pub format: WeightFormat,
    pub(super) parts: Vec<MatrixPart>,
    /// The layer whose turn in this memory it is, where several share it.
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

    /// Gives the matrix another label: tied weights serve two layers.
    pub fn relabelled(mut self, label: &str) -> Matrix {
        self.label = label.into();
        self
    }

    /// Marks the memory as taken by `layer` in its turn.
    pub fn streamed(mut self, layer: &Arc<Streamed>) -> Matrix {
        self.streamed = Some(layer.clone());
        self
    }

    /// Marks the memory as one in which no layers take turns.
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
    /// The number added to the variance (or mean square) before the square root.
    pub eps: f32,
    /// `[2, out]` of the layer that follows: `W shift + b` and `W gains`, by which its kernel can end a LayerNorm.
    pub folded: Option<Tensor>,
}
