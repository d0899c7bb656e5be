//! Segments of an attention: pictures or questions side by side, whose rows see keys of their own only.

use super::Mask;
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

impl Segment {
    /// Rows that see each other.
    pub fn of(rows: Span) -> Segment {
        Segment { rows, keys: rows }
    }

    /// Segments of `lengths` rows, one after the other, whose rows see each other.
    pub fn side_by_side(lengths: &[u32]) -> Vec<Segment> {
        let mut end = 0;
        let segment = |&count: &u32| {
            end += count;
            Segment::of(Span::of(end - count, count))
        };
        lengths.iter().map(segment).collect()
    }
}

/// The segments of an attention: one of all rows, or several of which a table tells.
#[derive(Clone, Debug)]
pub struct Segments {
    /// Eight u32 for each of several.
    table: Option<Tensor>,
    count: u32,
    /// Rows of the longest.
    longest: u32,
    /// Pairs of a row and a key of all.
    pairs: u64,
}

impl Segments {
    /// These segments, with the table that `make` gives of a table's numbers (as `shaders/shared/segments.wgsl` has them),
    /// if there are several.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn new<E>(segments: &[Segment], make: impl FnOnce(&[u32]) -> Result<Tensor, E>) -> Result<Segments, E> {
        let table = if segments.len() > 1 { Some(make(&Segments::numbers(segments))?) } else { None };
        Ok(Segments {
            table,
            count: segments.len() as u32,
            longest: segments.iter().map(|of| of.rows.count).max().unwrap_or(0),
            pairs: segments.iter().map(|of| u64::from(of.rows.count) * u64::from(of.keys.count)).sum(),
        })
    }

    /// Segments without memory, to be recorded only.
    pub fn unbacked(segments: &[Segment]) -> Segments {
        let made: Result<Segments, std::convert::Infallible> =
            Segments::new(segments, |numbers| Ok(Tensor::unbacked(1, numbers.len() as u32)));
        made.unwrap_or_else(|never| match never {})
    }

    /// The numbers of a table of `segments`.
    pub fn numbers(segments: &[Segment]) -> Vec<u32> {
        let numbers = |span: &Span| [span.first, span.head, span.tail, span.count];
        segments.iter().flat_map(|of| [numbers(&of.rows), numbers(&of.keys)]).flatten().collect()
    }

    /// The table, if there is one.
    pub fn table(&self) -> Option<&Tensor> {
        self.table.as_ref()
    }

    /// The keys that rows see.
    pub fn as_mask(&self) -> Mask<'_> {
        if self.table.is_some() { Mask::Segments(self) } else { Mask::None }
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
