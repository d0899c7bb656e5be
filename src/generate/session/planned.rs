//! The memory that a session takes, before there is a device.

use super::capacity::Capacity;
use super::decode::record_largest;
use super::pages::Placed;
use super::prefill::{PromptInputs, Request};
use super::tables::{Allocator, Tables};
use crate::language::Language;
use crate::runtime::recorder::Recorder;
use crate::runtime::{Caps, Tensor};

/// The recordings of a session and of a prompt in it, and the bytes of what they need.
pub struct SessionPlan {
    /// The step of all rows.
    pub decode: Recorder,
    /// The prompt.
    pub prefill: Recorder,
    /// Bytes of the caches.
    pub kv_bytes: u64,
    /// Bytes of tables, tokens and the plans' own buffers.
    pub io_bytes: u64,
    logits: Tensor,
}

impl SessionPlan {
    /// The plan of a session for `need` and a pass over `prompts` prompts of `tokens` tokens, `features` of which are a
    /// picture's.
    pub fn new(
        caps: Caps,
        language: &Language,
        need: Capacity,
        (prompts, tokens): (u32, u32),
        features: u32,
    ) -> SessionPlan {
        const FREE: &str = "making tensors without memory cannot fail";
        let allocator = Allocator::without_device(caps);
        let tables = Tables::new(&allocator, language, need.rounded(language)).expect(FREE);
        let (decode, logits) = tables.record_step(&allocator, language);
        let (ids, features) = (vec![0; tokens as usize], vec![0.0; (features * language.width()) as usize]);
        let inputs = PromptInputs { ids: &ids, features: &features };
        let placed = Placed::first(language, tokens, &[]);
        let all = vec![(inputs, &placed); prompts as usize];
        let prefill = tables.record_prompts(&allocator, language, &all, Request::last_row()).expect(FREE);
        let prefill = prefill.recorder;
        let io_bytes = allocator.io_bytes() + decode.io_bytes() + prefill.io_bytes();
        let logits = Tensor::unbacked(logits.rows(), logits.cols());
        SessionPlan { decode, prefill, kv_bytes: allocator.kv_bytes(), io_bytes, logits }
    }

    /// The plan of the same session when the `count` largest logits of a step are looked for, too.
    #[must_use]
    pub fn with_largest(mut self, count: u32) -> SessionPlan {
        let mut r = Recorder::new(*self.decode.caps());
        record_largest(&mut r, &self.logits, count);
        self.io_bytes += r.io_bytes() + r.scratch().1;
        self
    }
}
