//! Running watched plans in pieces, so that stopping one does not take long.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::device::Device;
use super::watch::{Watch, Work};
use crate::error::Result;

/// The time between two looks at the watch while a piece runs.
const TICK: Duration = Duration::from_millis(10);

/// Pieces under way at once: the device has one to go on with while the host sends another.
const PIECES: usize = 2;

/// The running of one plan. Where somebody watches it goes in pieces, of which no more than [`PIECES`] are under way: what
/// was submitted cannot be taken back, so nothing is submitted long before it runs.
pub(super) struct Pace<'a> {
    device: &'a Device,
    watch: Watch,
    under_way: VecDeque<wgpu::SubmissionIndex>,
    /// The end of the piece before the oldest under way.
    ended: Option<Instant>,
}

impl<'a> Pace<'a> {
    pub fn new(device: &'a Device) -> Pace<'a> {
        Pace { device, watch: device.watch(), under_way: VecDeque::new(), ended: None }
    }

    /// The number of launches to submit next, of those whose (operations, bytes) these are.
    pub fn piece(&self, launches: impl ExactSizeIterator<Item = (u64, u64)>) -> usize {
        let all = launches.len();
        if self.watch.is_deaf() {
            return all;
        }
        let (most, mut cost) = (self.device.inner.piece.cost(), 0);
        let is_full = |(flops, bytes)| {
            cost += Pace::cost(flops, bytes);
            cost >= most
        };
        launches.map(is_full).position(|full| full).map_or(all, |last| last + 1)
    }

    /// A measure of time: most devices do some eight operations in the time of reading a byte, or more.
    fn cost(flops: u64, bytes: u64) -> u64 {
        flops + 8 * bytes
    }

    /// Waits until a piece may be submitted.
    ///
    /// # Errors
    /// [`Error::Cancelled`](crate::Error::Cancelled); whatever went wrong on the GPU.
    pub fn wait(&mut self) -> Result<()> {
        self.watch.tell(&Work::Running)?;
        while self.under_way.len() >= PIECES {
            let oldest = &self.under_way[0];
            while !self.device.inner.gpu.wait_a_while(oldest.clone(), TICK)? {
                self.watch.tell(&Work::Running)?;
            }
            let now = Instant::now();
            if let Some(before) = self.ended.replace(now) {
                self.device.inner.piece.learn(now - before);
            }
            self.under_way.pop_front();
        }
        Ok(())
    }

    /// Counts a piece that was submitted.
    pub fn submitted(&mut self, piece: wgpu::SubmissionIndex) {
        if !self.watch.is_deaf() {
            self.under_way.push_back(piece);
        }
    }
}
