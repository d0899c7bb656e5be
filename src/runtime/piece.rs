//! The size of the pieces in which watched plans run.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The time that a piece of a plan should take.
const PIECE: Range<Duration> = Duration::from_millis(8)..Duration::from_millis(24);

/// The size of a piece that suits a device, as the cost of its launches, found as it works.
#[derive(Debug)]
pub(super) struct PieceSize(AtomicU64);

impl Default for PieceSize {
    fn default() -> Self {
        PieceSize(AtomicU64::new(1 << 28))
    }
}

impl PieceSize {
    /// The cost of a piece.
    pub fn cost(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts how long a piece took.
    pub fn learn(&self, took: Duration) {
        let size = self.cost();
        let better = match took {
            took if took < PIECE.start => (size * 2).min(1 << 40),
            took if took > PIECE.end => (size / 2).max(1),
            _ => size,
        };
        self.0.store(better, Ordering::Relaxed);
    }
}
