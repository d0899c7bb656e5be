//! The device's side of generation: caches, the tables that say which page holds which position, prompts into the cache
//! once, and the plan of one decode step over all rows.
//!
//! A page is one position's keys and values. Sequences that share a prompt share its pages, and beams change places by
//! changing a row of the table: no keys are ever copied.

mod capacity;
mod decode;
mod pages;
mod planned;
mod prefill;
mod tables;

use std::sync::Mutex;

pub use capacity::{Capacity, Room};
pub use decode::record_decode;
pub use pages::{FreePages, PageTable, Placed};
pub use planned::SessionPlan;
pub use prefill::{Crossing, Prefill, PromptInputs, PromptTensors, Request, form_rows, record_prefill};

use crate::error::Result;
use crate::language::Language;
use crate::runtime::plan::{Plan, Step};
use crate::runtime::{Device, Tensor};
use decode::Search;
use tables::{Allocator, Tables};

/// Caches and the plan of one decode step over them. A session lives with the model; who has which of its rows and pages is
/// [`Slots`](super::Slots)' business.
pub struct Session {
    device: Device,
    capacity: Capacity,
    tables: Tables,
    logits: Tensor,
    decode: Plan,
    /// The search that was asked for last. It is made when an answer is first drawn.
    search: Mutex<Option<Search>>,
}

impl Session {
    /// A session with at least this capacity.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory), [`Error::DoesNotFit`](crate::Error::DoesNotFit).
    pub fn new(device: &Device, language: &Language, need: Capacity) -> Result<Session> {
        let capacity = need.rounded(language);
        let allocator = Allocator::on(device);
        let tables = Tables::new(&allocator, language, capacity)?;
        let (recorder, logits) = tables.record_step(&allocator, language);
        let decode = recorder.finish(device)?;
        let logits = decode.output(&logits);
        let decode = decode.with_tokens(&tables.token)?;
        Ok(Session { device: device.clone(), capacity, tables, logits, decode, search: Mutex::new(None) })
    }

    /// The session's capacity.
    pub fn capacity(&self) -> &Capacity {
        &self.capacity
    }

    /// The plan of one decode step, for benchmarks.
    pub fn decode_plan(&self) -> &Plan {
        &self.decode
    }

    /// Records a prompt whose keys and values go where `placed` says.
    ///
    /// # Errors
    /// Whatever went wrong on the GPU.
    pub fn prefill(
        &self,
        language: &Language,
        prompt: &PromptInputs<'_>,
        placed: &Placed,
        request: Request<'_>,
    ) -> Result<Prefill> {
        let allocator = Allocator::on(&self.device);
        self.tables.record_prompts(&allocator, language, &[(*prompt, placed)], request)?.finish(&self.device)
    }

    /// Records prompts of one kind (see [`form_rows`]) side by side, with the logits of each one's last row.
    ///
    /// # Errors
    /// Whatever went wrong on the GPU.
    pub fn prefill_all(&self, language: &Language, prompts: &[(PromptInputs<'_>, &Placed)]) -> Result<Prefill> {
        let allocator = Allocator::on(&self.device);
        self.tables.record_prompts(&allocator, language, prompts, Request::last_row())?.finish(&self.device)
    }

    /// Records `ids` after the prompt at `placed`, on the pages `new`, with the logits of all of them.
    ///
    /// # Errors
    /// Whatever went wrong on the GPU.
    pub fn extend(&self, language: &Language, placed: &Placed, new: &[u32], ids: &[u32]) -> Result<Prefill> {
        let allocator = Allocator::on(&self.device);
        self.tables.record_after(&allocator, language, placed, new, ids)?.finish(&self.device)
    }

    /// Sets the pages that `row` reads and writes, by position.
    pub fn write_pages(&self, row: u32, pages: &[u32]) {
        let table = &self.tables.own.rows.pages;
        assert!(pages.len() <= table.cols() as usize, "{} positions of {}", pages.len(), table.cols());
        self.device.write_at(table, row * table.cols(), pages);
    }

    /// Sets what `row` reads of the encoder's output, by position; without an encoder there is nothing to set.
    pub fn write_encoded(&self, row: u32, pages: &[u32]) {
        if let Some(cross) = &self.tables.cross {
            self.device.write_at(&cross.rows.pages, row * cross.rows.pages.cols(), pages);
            self.device.write_at(&cross.rows.places, 2 * row, &[pages.len() as u32, row]);
        }
    }

    /// Sets the position of the token that each row reads in the next step.
    pub fn write_positions(&self, positions: &[u32]) {
        let places: Vec<u32> = (0u32..).zip(positions).flat_map(|(row, &position)| [position, row]).collect();
        self.device.write(&self.tables.own.rows.places, &places);
    }

    /// Sets the token that `row` reads in the next step; a row of which it is not set reads the one that the last step
    /// found likeliest.
    pub fn write_token(&self, row: u32, token: u32) {
        self.device.write_at(&self.tables.token, row, &[token]);
    }

    /// Starts a step of every row.
    ///
    /// # Errors
    /// The fault that an earlier submit left on the GPU.
    pub fn submit(&self) -> Result<()> {
        self.decode.write_step(Step::new(0, 1));
        self.decode.submit()
    }

    /// The likeliest tokens of the oldest step not yet read, one for each row; each step's are to be read once. Waits for
    /// that step only.
    ///
    /// # Errors
    /// Whatever went wrong on the GPU.
    pub fn read_tokens(&self) -> Result<Vec<u32>> {
        self.decode.read_tokens()
    }

    /// Discards the tokens of steps that nobody will read.
    ///
    /// # Errors
    /// Whatever went wrong on the GPU.
    pub fn drain(&self) -> Result<()> {
        self.decode.drain_tokens()
    }

    /// The number of logits in a row, V.
    pub fn vocab_size(&self) -> usize {
        self.logits.cols() as usize
    }

    /// The logits of `rows` after the last step, each of V.
    ///
    /// # Errors
    /// Whatever went wrong on the GPU.
    pub fn read_logits(&self, rows: &[u32]) -> Result<Vec<Vec<f32>>> {
        match rows {
            [] => Ok(Vec::new()),
            [row] => Ok(vec![self.device.read(&self.logits.slice_rows(*row, 1))?]),
            // One copy for all is less than one for each.
            _ => {
                let all: Vec<f32> = self.device.read(&self.logits)?;
                let logits = |&row: &u32| all[row as usize * self.vocab_size()..][..self.vocab_size()].to_vec();
                Ok(rows.iter().map(logits).collect())
            }
        }
    }

    /// The `count` largest logits of each row of the last step, or all of fewer, largest first: `[rows, 2 count]`, the
    /// bits of a logit and then its token.
    ///
    /// The 64 largest of a vocabulary of 32,000 are 512 bytes a row instead of 128,000, and as much less for the host
    /// to sort.
    ///
    /// # Errors
    /// Whatever went wrong on the GPU.
    pub fn read_largest(&self, count: u32) -> Result<Vec<Vec<u32>>> {
        let mut search = self.search.lock().expect("no panic while it is held");
        if search.as_ref().is_none_or(|search| search.count() != count) {
            *search = Some(Search::new(&self.device, &self.logits, count)?);
        }
        search.as_ref().expect("made above").run(&self.device)
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }
}
