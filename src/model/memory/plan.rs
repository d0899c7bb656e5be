//! The memory that a model takes on a device, in figures.

use crate::error::Bytes;
use crate::model::Workload;
use crate::runtime::{KvFormat, WeightFormat};
use crate::weights::Placement;

/// The weights of one part of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartBytes {
    /// Format of the part's linear layers.
    pub format: WeightFormat,
    /// Bytes on the device; of layers that take turns, those of one.
    pub bytes: u64,
    /// Number of layers.
    pub layers: u32,
    /// Number of layers that stay on the device.
    pub resident: u32,
}

/// Bytes that a model takes on the device, by what they are for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Formats and places of the weights.
    pub placement: Placement,
    /// The two stages take turns.
    pub offload: bool,
    /// The most that is asked.
    pub workload: Workload,
    /// The vision tower's weights.
    pub vision: PartBytes,
    /// The Q-Former's weights, queries and projection.
    pub qformer: PartBytes,
    /// The language model's weights.
    pub language: PartBytes,
    /// Cached keys and values.
    pub kv_cache: u64,
    /// Their format.
    pub kv_format: KvFormat,
    /// Intermediate results.
    pub scratch: u64,
    /// Inputs, tables and parameters.
    pub io: u64,
    /// Memory that weights pass through.
    pub staging: u64,
    /// Bytes that are taken while pictures are looked at, if the stages take turns.
    pub vision_stage: u64,
    /// Bytes that are taken while answers are written, if the stages take turns.
    pub language_stage: u64,
    /// The most that is taken at once.
    pub peak: u64,
    /// Bytes of the files that are read.
    pub file_bytes: u64,
}

impl MemoryPlan {
    /// Tells whether the model fits into a budget of so many bytes.
    pub fn fits(&self, budget_bytes: u64) -> bool {
        self.peak <= budget_bytes
    }

    /// Bytes of the weights of all parts.
    pub fn weights(&self) -> u64 {
        self.vision.bytes + self.qformer.bytes + self.language.bytes
    }

    /// The larger parts in words.
    pub fn summary(&self) -> String {
        let parts = [
            ("vision tower", self.vision.bytes),
            ("Q-Former", self.qformer.bytes),
            ("language model", self.language.bytes),
            ("cache", self.kv_cache),
            ("the rest", self.scratch + self.io + self.staging),
        ];
        parts.map(|(name, bytes)| format!("{name} {}", Bytes(bytes))).join(", ")
    }
}
