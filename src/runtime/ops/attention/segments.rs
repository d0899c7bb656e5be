//! Segments of an attention: pictures or questions side by side, whose rows see keys of their own only.

use crate::runtime::tensor::Tensor;

/// Rows of a tensor that belong together: some from one row on, and others from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first row.
    pub first: u32,
    /// The number of rows that lie there.
    pub head: u32,
    /// The first of the others.
    pub tail: u32,
    /// The number of rows in all.
    pub count: u32,
}

impl Span {
    /// `count` rows from `first` on.
    pub fn of(first: u32, count: u32) -> Span {
        Span { first, head: count, tail: first, count }
    }

    /// These rows, and after them `count` from `tail` on.
    #[must_use]
    pub fn and(self, tail: u32, count: u32) -> Span {
        Span { tail, count: self.head + count, ..self }
    }
}

/// The rows of a segment, and the keys that they see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Rows of q and of the result.
    pub rows: Span,
    /// Rows of keys and values.
    pub keys: Span,
}

/// The segments of an attention.
#[derive(Clone, Debug)]
pub struct Segments {
    table: Tensor,
    count: u32,
    /// Rows of the longest.
    longest: u32,
    /// Pairs of a row and a key of all.
    pairs: u64,
}

impl Segments {
    /// The numbers of a table of `segments`, as `shaders/shared/segments.wgsl` has them.
    pub fn numbers(segments: &[Segment]) -> Vec<u32> {
        let numbers = |span: &Span| [span.first, span.head, span.tail, span.count];
        segments.iter().flat_map(|of| [numbers(&of.rows), numbers(&of.keys)]).flatten().collect()
    }

    /// The `segments` of which `table` holds the numbers.
    pub fn of(table: Tensor, segments: &[Segment]) -> Segments {
        assert_eq!((table.len(), table.offset), (8 * segments.len() as u32, 0), "eight numbers for each segment");
        Segments {
            table,
            count: segments.len() as u32,
            longest: segments.iter().map(|of| of.rows.count).max().unwrap_or(0),
            pairs: segments.iter().map(|of| u64::from(of.rows.count) * u64::from(of.keys.count)).sum(),
        }
    }

    /// Eight u32 for each segment.
    pub fn table(&self) -> &Tensor {
        &self.table
    }

    /// Segments, B.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Rows of the longest.
    pub(super) fn longest(&self) -> u32 {
        self.longest
    }

    /// Pairs of a row and a key of all.
    pub(super) fn pairs(&self) -> u64 {
        self.pairs
    }
}
