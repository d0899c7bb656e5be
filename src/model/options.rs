//! The options of loading a model, and the workload it is loaded for.

use crate::checkpoint::Checkpoint;
use crate::runtime::{Device, KvFormat};
use crate::weights::Formats;

/// The ways to load a model.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Formats of the weights.
    pub formats: Formats,
    /// Files are mapped into memory, not read; either way gives the same.
    pub mmap: bool,
    /// Most bytes to use on the device; its memory, where the driver tells how much there is, if `None`. What needs
    /// more is refused before anything is uploaded.
    pub budget_bytes: Option<u64>,
    /// The vision tower with the Q-Former and the language model take turns on the device, and, if there is a budget
    /// that one of them exceeds, its layers in the memory of one.
    pub offload: bool,
    /// The format of the keys and values that a language model keeps of what it has read; if `None`, f16 for decoder-only
    /// models on GPUs and f32 for others ([`Language::kv_format`](crate::language::Language::kv_format)).
    pub kv_cache: Option<KvFormat>,
    /// The most that will be asked: the budget has to hold for it.
    pub workload: Workload,
    /// A LoRA adapter, as peft saves it, to be merged into the weights as they are read. Without one, an adapter that
    /// the checkpoint's own folder holds is merged.
    pub adapter: Option<Checkpoint>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        let workload = Workload::default();
        let formats = Formats::default();
        LoadOptions { formats, mmap: true, budget_bytes: None, offload: false, kv_cache: None, workload, adapter: None }
    }
}

impl LoadOptions {
    /// These options with a budget: their own, or the memory that the device has, where its driver tells.
    #[must_use]
    pub fn bounded_by(self, device: &Device) -> LoadOptions {
        LoadOptions { budget_bytes: self.budget_bytes.or(device.memory_bytes()), ..self }
    }
}

/// The most that is asked of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Tokens of a prompt, without the picture's places.
    pub prompt_tokens: u32,
    /// Most new tokens of an answer.
    pub new_tokens: u32,
    /// Beams, or answers, to a question.
    pub rows: u32,
    /// Questions answered at once.
    pub batch: u32,
    /// Pictures of a question.
    pub frames: u32,
    /// Pictures looked at in one pass.
    pub at_once: u32,
}

impl Default for Workload {
    fn default() -> Workload {
        Workload { prompt_tokens: 64, new_tokens: 256, rows: 1, batch: 1, frames: 1, at_once: 1 }
    }
}
