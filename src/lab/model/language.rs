//! Times of the language model: prompts of several lengths, and steps over caches of several lengths and rows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::check::{finite, incorrect};
use super::labels::profile;
use super::prompt::Prompt;
use crate::error::Result;
use crate::generate::session::{Placed, Request, SessionPlan};
use crate::generate::{Capacity, Room, Session};
use crate::lab::clock::{median, milliseconds, thread_us};
use crate::lab::results::{DecodeRow, LabelRow, PrefillRow};
use crate::language::Language;
use crate::runtime::Device;
use crate::runtime::recorder::Binding;

/// A language model and the ways to time it.
pub struct Timer<'a> {
    pub device: &'a Device,
    pub language: &'a Language,
    /// Measurements of one thing at least.
    pub runs: usize,
    /// Tokens that T5's encoder has read when its decoder is timed.
    pub encoded: u32,
}

/// A step is short: it is measured again until this has passed, or so many times for each run.
const STEPS_TIME: Duration = Duration::from_millis(300);
const STEPS_PER_RUN: usize = 20;

impl Timer<'_> {
    /// A prompt, as a question waits for it: recorded, run, and its logits read. With `labels` the time by label, too.
    pub fn prefill(&self, features: &[f32], prompt: &Prompt, labels: bool) -> Result<(PrefillRow, Vec<LabelRow>)> {
        let tokens = prompt.len();
        let session = Session::new(self.device, self.language, Capacity::of(&[Room::of(self.language, tokens, 1, 1)]))?;
        let placed = Placed::first(self.language, tokens, &[]);
        let request = Request::last_row();
        let once = || {
            milliseconds(|| {
                let pass = session.prefill(self.language, &prompt.inputs(features), &placed, request)?;
                pass.submit()?;
                self.device.wait()?;
                Ok(pass)
            })
        };
        let (pass, _) = once()?;
        finite(self.device, &pass.logits, "the language model")?;
        let ms = median((0..self.runs).map(|_| Ok(once()?.1)).collect::<Result<Vec<f64>>>()?);
        let rows = if labels { profile("prefill", &pass.plan, self.runs)? } else { Vec::new() };
        let planned = self.plan(
            Capacity::of(&[Room::of(self.language, tokens, 1, 1)]),
            tokens,
            features.len() as u32 / self.language.width(),
        );
        let row = PrefillRow {
            tokens,
            ms,
            tokens_per_s: f64::from(tokens) * 1e3 / ms,
            gflop_per_s: planned.prefill.flops() as f64 / ms / 1e6,
        };
        Ok((row, rows))
    }

    fn plan(&self, need: Capacity, tokens: u32, features: u32) -> SessionPlan {
        SessionPlan::new(self.device.caps(), self.language, need, (1, tokens), features)
    }

    /// A step of `rows` sequences with `keys` keys each, the step's own included. With `labels` the time by label, too.
    pub fn decode(&self, rows: u32, keys: u32, labels: bool) -> Result<(DecodeRow, Vec<LabelRow>)> {
        let t5 = self.language.is_encoder_decoder();
        let encoded = if t5 { self.encoded } else { 1 };
        let room = Capacity { rows, positions: keys, pages: rows * keys, encoded, encoded_pages: encoded };
        let session = Session::new(self.device, self.language, room)?;
        // Every row has keys of its own; those of T5's encoder are shared, as beams share them.
        for row in 0..rows {
            session.write_pages(row, &(row * keys..(row + 1) * keys).collect::<Vec<_>>());
            session.write_encoded(row, &(0..encoded).collect::<Vec<_>>());
        }
        session.write_positions(&vec![keys - 1; rows as usize]);
        let plan = session.decode_plan();
        let once = || -> Result<(f64, f64)> {
            let start = (Instant::now(), thread_us());
            session.submit()?;
            let encode_us = thread_us() - start.1;
            session.read_tokens()?;
            Ok((start.0.elapsed().as_secs_f64() * 1e3, encode_us))
        };
        once()?;
        let (mut times, start) = (Vec::new(), Instant::now());
        while times.len() < self.runs || (times.len() < STEPS_PER_RUN * self.runs && start.elapsed() < STEPS_TIME) {
            times.push(once()?);
        }
        for logits in session.read_logits(&(0..rows).collect::<Vec<_>>())? {
            if !logits.iter().all(|v| v.is_finite()) {
                return Err(incorrect("decoding gives values that are not finite".into()));
            }
        }
        let (ms, encode_us): (Vec<f64>, Vec<f64>) = times.into_iter().unzip();
        let ms = median(ms);
        let row = DecodeRow {
            rows,
            keys,
            ms,
            tokens_per_s: f64::from(rows) * 1e3 / ms,
            encode_us: median(encode_us),
            dispatches: plan.len() as u32,
            bytes: self.step_bytes(room, keys, if t5 { encoded } else { 0 }),
            bandwidth_share: 0.0, // the ceiling is measured afterwards
        };
        let labels = if labels { profile("decode", plan, self.runs)? } else { Vec::new() };
        Ok((row, labels))
    }

    /// Bytes that a step has to read: weights once, a row of the embedding, keys and values of every row.
    fn step_bytes(&self, room: Capacity, keys: u32, encoded: u32) -> u64 {
        let session = self.plan(room, 1, 1);
        let mut seen = Vec::new();
        let mut weights = 0;
        let of_weights = |kernel: &str| kernel.starts_with("linear") || kernel.starts_with("norm");
        for dispatch in session.decode.dispatches().iter().filter(|dispatch| of_weights(dispatch.kernel.name)) {
            for binding in &dispatch.bindings {
                if let Binding::Buffer(buffer) = binding
                    && !seen.contains(&Arc::as_ptr(buffer))
                {
                    seen.push(Arc::as_ptr(buffer));
                    weights += buffer.bytes();
                }
            }
        }
        let heads = self.language.heads();
        let values = 2 * self.language.num_layers() as u64 * u64::from(heads.key_value * heads.dim);
        let embedding = 2 * u64::from(self.language.width());
        weights + embedding + 4 * values * u64::from(room.rows) * u64::from(keys + encoded)
    }
}
