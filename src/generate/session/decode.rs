//! One step of every row: to logits, to the likeliest tokens, to the largest of the logits.

use super::tables::{Allocator, Tables};
use crate::error::Result;
use crate::language::{Caches, Language, LogitRows};
use crate::runtime::plan::Plan;
use crate::runtime::recorder::Recorder;
use crate::runtime::{Device, Tensor};

/// Records one decode step of every row: embeddings through all blocks to logits `[rows, V]`, and the likeliest next
/// tokens into the place of the last.
pub fn record_decode(r: &mut Recorder, language: &Language, caches: Caches<'_>, token: &Tensor) -> Tensor {
    let x = language.embed(r, token); // [R, D]
    let logits = language.record(r, caches, x, LogitRows { ends: &[token.len()], count: token.len() }); // [R, V]
    r.argmax(&mut token.clone(), &logits);
    logits
}

impl Tables {
    /// The recording of one decode step over these tables, and its logits.
    pub fn record_step(&self, allocator: &Allocator<'_>, language: &Language) -> (Recorder, Tensor) {
        let mut r = allocator.recorder();
        let logits = record_decode(&mut r, language, self.caches(), &self.token);
        (r, logits)
    }
}

/// Records the search for the `count` largest of each row of `logits [rows, V]`, or for all of fewer.
pub fn record_largest(r: &mut Recorder, logits: &Tensor, count: u32) -> Tensor {
    r.top_k(logits, count.min(logits.cols()))
}

/// A plan that finds the largest of a step's logits, and what it finds.
///
/// It is a plan of its own, so that steps whose tokens are taken, not drawn, go without.
pub struct Search {
    count: u32,
    plan: Plan,
    found: Tensor,
}

impl Search {
    /// The search for the `count` largest of each row of `logits`.
    ///
    /// # Errors
    /// As [`Recorder::finish`].
    pub fn new(device: &Device, logits: &Tensor, count: u32) -> Result<Search> {
        let mut r = Recorder::new(device.caps());
        let found = record_largest(&mut r, logits, count);
        let plan = r.finish(device)?;
        let found = plan.output(&found);
        Ok(Search { count, plan, found })
    }

    /// The number of logits that are looked for in each row.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Looks, and reads what was found: `[rows, 2 count]`, as [`Recorder::top_k`] gives it.
    ///
    /// # Errors
    /// Whatever went wrong on the GPU.
    pub fn run(&self, device: &Device) -> Result<Vec<Vec<u32>>> {
        self.plan.submit()?;
        let found = device.read(&self.found)?;
        Ok(found.chunks(self.found.cols() as usize).map(<[u32]>::to_vec).collect())
    }
}
