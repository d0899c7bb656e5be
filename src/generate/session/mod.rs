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

pub use capacity::Capacity;
pub use decode::record_decode;
pub use pages::{PageTable, Placed};
pub use planned::SessionPlan;
pub use prefill::{Crossing, Prefill, PromptInputs, Request, record_prefill};

use crate::error::Result;
use crate::language::Language;
use crate::runtime::plan::{Plan, Step};
use crate::runtime::{Device, Tensor};
use decode::Search;
use tables::{Allocator, Tables};

/// Caches and the plan of one decode step over them. A session lives with the model and serves one request at a time.
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
        let decode = decode.with_token(&tables.token)?;
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
        placed: Placed,
        request: Request<'_>,
    ) -> Result<Prefill> {
        let allocator = Allocator::on(&self.device);
        self.tables.record_prompt(&allocator, language, prompt, placed, request)?.finish(&self.device)
    }

    /// Records `ids` after the prompt at `placed`, on the pages from `page` on, with the logits of all of them.
    ///
    /// # Errors
    /// Whatever went wrong on the GPU.
    pub fn extend(&self, language: &Language, placed: Placed, page: u32, ids: &[u32]) -> Result<Prefill> {
        let allocator = Allocator::on(&self.device);
        self.tables.record_after(&allocator, language, placed, page, ids)?.finish(&self.device)
    }

    /// Sets up the rows: row r continues the prompt at `rows[r]`.
    pub fn continue_from(&self, rows: &[Placed]) -> PageTable {
        let places = |position: fn(&Placed) -> u32| -> Vec<u32> {
            (0u32..).zip(rows).flat_map(|(r, placed)| [position(placed), r]).collect()
        };
        let table = PageTable::new(rows, self.capacity.positions);
        self.device.write(&self.tables.own.rows.places, &places(|placed| placed.positions));
        self.write_pages(&table);
        if let Some(cross) = &self.tables.cross {
            let width = cross.rows.pages.cols() as usize;
            self.device.write(&cross.rows.places, &places(|placed| placed.encoded));
            self.device.write(&cross.rows.pages, &pages::encoded_pages(rows, width));
        }
        table
    }

    /// Makes the rows' pages those of `table`.
    pub fn write_pages(&self, table: &PageTable) {
        self.device.write(&self.tables.own.rows.pages, table.pages());
    }

    /// Starts step `n` of decoding, n tokens after the prompt, with the tokens on the device.
    ///
    /// # Errors
    /// The fault that an earlier submit left on the GPU.
    pub fn submit(&self, n: u32) -> Result<()> {
        self.decode.write_step(Step::new(n, 1));
        self.decode.submit()
    }

    /// Sets the tokens that the next step reads.
    pub fn write_tokens(&self, tokens: &[u32]) {
        self.device.write(&self.tables.token, tokens);
    }

    /// The likeliest tokens after the last step, one for each row.
    ///
    /// # Errors
    /// Whatever went wrong on the GPU.
    pub fn read_tokens(&self) -> Result<Vec<u32>> {
        // Plans keep a readback of their first token; what nobody reads must not pile up.
        self.decode.drain_tokens()?;
        self.device.read(&self.tables.token)
    }

    /// The number of logits in a row, V.
    pub fn vocab_size(&self) -> usize {
        self.logits.cols() as usize
    }

    /// The logits of the last step, `[rows, V]`.
    ///
    /// # Errors
    /// Whatever went wrong on the GPU.
    pub fn read_logits(&self) -> Result<Vec<Vec<f32>>> {
        self.decode.drain_tokens()?;
        Ok(self.device.read::<f32>(&self.logits)?.chunks(self.vocab_size()).map(<[f32]>::to_vec).collect())
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
        self.decode.drain_tokens()?;
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

    /// `[1, rows]`: the tokens that the next step reads.
    pub(super) fn token(&self) -> &Tensor {
        &self.tables.token
    }
}
