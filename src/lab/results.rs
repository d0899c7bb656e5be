//! The results of a benchmark, as they are written to files and read back for reports and comparisons.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The version of the file's layout. A reader refuses others.
pub const FORMAT: u32 = 1;

/// The file's name in the folder that `bench --output` writes.
pub const FILE: &str = "results.json";

/// The name of the file that rows go to as they come, until all are there.
pub const UNFINISHED: &str = "unfinished.json";

/// One run of `bench kernels` or `bench model` on one adapter.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    /// [`FORMAT`].
    pub format: u32,
    /// The program's version.
    pub version: String,
    /// The commit it was built from, where it is known.
    pub commit: Option<String>,
    /// Day of the run, as 2026-11-25.
    pub date: String,
    /// The command line, for doing it again.
    pub command: String,
    /// Runs of each measurement; `None` in files of versions that did not tell.
    #[serde(default)]
    pub runs: Option<u32>,
    /// True if the run was stopped before its end.
    #[serde(default)]
    pub unfinished: bool,
    /// True if times are by the device's clock, false if by the wall; `None` in files of versions that did not tell.
    #[serde(default)]
    pub by_device_clock: Option<bool>,
    /// The adapter.
    pub adapter: Adapter,
    /// Processor, memory and system, as `doctor` tells them.
    pub machine: serde_json::Value,
    /// The most that the adapter can do, measured in the same run.
    pub ceilings: Ceilings,
    /// Times of kernels; empty for a model.
    #[serde(default)]
    pub kernels: Vec<KernelRow>,
    /// Times of a model.
    #[serde(default)]
    pub model: Option<ModelResults>,
}

/// The adapter that was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adapter {
    /// The driver's name for it.
    pub name: String,
    /// Vulkan, Metal or Dx12.
    pub backend: String,
    /// Driver name and version.
    pub driver: String,
    /// DiscreteGpu, IntegratedGpu, Cpu, …
    pub kind: String,
}

/// Measured ceilings; what an adapter lacks is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ceilings {
    /// Bytes read and written by a copy kernel, in GB/s.
    pub copy_gb_s: f64,
    /// Bytes read by a kernel that writes almost nothing, in GB/s.
    pub read_gb_s: f64,
    /// f32 multiply-adds, two operations each, in GFLOP/s.
    pub f32_gflop_s: f64,
    /// f16 multiply-adds in GFLOP/s.
    pub f16_gflop_s: Option<f64>,
    /// Cooperative matrices, f16 into f32, in GFLOP/s.
    pub matrix_gflop_s: Option<f64>,
    /// Microseconds from one dispatch to the next, which needs what the one before made: the least that a step of decoding
    /// takes for each of its dispatches.
    #[serde(default)]
    pub gap_us: Option<f64>,
}

/// One kernel at one shape.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KernelRow {
    /// The operation, and for linear layers the weights' format: `linear q4`.
    pub op: String,
    /// The shape; MxNxK for linear layers.
    pub shape: String,
    /// The kernel's name.
    pub kernel: String,
    /// The variant: `auto`, `portable`, a form's name, or `custom`.
    pub variant: String,
    /// Error against f64, relative (L2).
    pub error: f64,
    /// Median time on the device with operands rotated past the last cache, in microseconds; wall time where the
    /// device has no clock.
    pub cold_us: f64,
    /// The same operands again and again.
    pub hot_us: f64,
    /// Median wall time with rotated operands.
    pub wall_us: f64,
    /// Half of the distance between the quartiles of the cold time, in per cent of the median.
    pub spread_percent: f64,
    /// Runs that were made: fewer than were asked for where each takes long; 0 in files of versions that did not tell.
    #[serde(default)]
    pub runs: u32,
    /// Least traffic in bytes: every operand once.
    pub bytes: u64,
    /// Least arithmetic, a multiply-add counting two.
    pub flops: u64,
    /// Traffic in the cold time, in GB/s.
    pub gb_per_s: f64,
    /// Arithmetic in the cold time, in GFLOP/s.
    pub gflop_per_s: f64,
    /// True if it multiplies by cooperative matrices, whose ceiling is another one.
    #[serde(default)]
    pub matrices: bool,
    /// Share of the ceiling that binds at this intensity: the roofline, from 0 to 1.
    pub share: f64,
    /// The name of that ceiling: `memory` or `arithmetic`.
    pub bound: String,
    /// The kernels that are launched as the driver's compiler made them, where it was asked for and tells.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub programs: Vec<Program>,
}

/// A kernel as the driver's compiler made it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// The kernel's name.
    pub kernel: String,
    /// Lanes of a subgroup.
    pub subgroup_size: u32,
    /// The driver's numbers, by its own names and in its order: registers, spills, instructions, ….
    pub statistics: Vec<(String, f64)>,
}

/// A model, stage by stage.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ModelResults {
    /// Name of the shape, or of the checkpoint.
    pub name: String,
    /// Layers of vision tower, Q-Former and language model.
    pub layers: [u32; 3],
    /// Format of the language model's weights.
    pub weights: String,
    /// Peak of device memory in bytes.
    pub peak_bytes: u64,
    /// Load, image, vision, Q-Former, in order, in milliseconds.
    pub stages: Vec<Stage>,
    /// Prompts of several lengths.
    pub prefill: Vec<PrefillRow>,
    /// Decoding at several lengths and numbers of rows.
    pub decode: Vec<DecodeRow>,
    /// Time by kernel and label of each stage, largest first.
    pub labels: Vec<LabelRow>,
}

/// A stage's time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stage {
    /// `load`, `image`, `vision` or `qformer`.
    pub name: String,
    /// Median wall time in milliseconds.
    pub ms: f64,
}

/// A prompt read at once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PrefillRow {
    /// Tokens, those of the picture included.
    pub tokens: u32,
    /// Median wall time in milliseconds.
    pub ms: f64,
    /// Tokens in a second.
    pub tokens_per_s: f64,
    /// Arithmetic of the plan in a second, in GFLOP/s.
    pub gflop_per_s: f64,
}

/// One step of decoding.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DecodeRow {
    /// Sequences side by side, beams or a batch.
    pub rows: u32,
    /// Keys in the cache.
    pub keys: u32,
    /// Median wall time of a step in milliseconds.
    pub ms: f64,
    /// Tokens in a second, of all rows together.
    pub tokens_per_s: f64,
    /// CPU time of the program's thread a step, to encode and submit it, in microseconds; wall time where the system
    /// does not tell.
    pub encode_us: f64,
    /// Kernels launched a step.
    pub dispatches: u32,
    /// Bytes a step must read: weights once, keys and values of every row.
    pub bytes: u64,
    /// Share of the read bandwidth measured in the same run, from 0 to 1.
    pub bandwidth_share: f64,
}

/// Time of one stage under one label.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LabelRow {
    /// `vision`, `qformer`, `prefill` or `decode`.
    pub stage: String,
    /// The op's label without the layer's number: `self_attn.qkv`.
    pub label: String,
    /// The kernel.
    pub kernel: String,
    /// Launches.
    pub count: u32,
    /// Time on the device in microseconds, all launches together.
    pub us: f64,
}

impl Results {
    /// Reads the file that `bench --output` wrote, or the one in the folder that it wrote; where a first run was stopped
    /// before its end, the rows that had come by then.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Request`] when it is no such file.
    pub fn read(path: &Path) -> Result<Results> {
        let in_folder = || [FILE, UNFINISHED].map(|name| path.join(name)).into_iter().find(|file| file.is_file());
        let found = if path.is_dir() { in_folder() } else { Some(path.into()) };
        let Some(path) = found.as_deref() else {
            let problem = format!("{}: no results of a benchmark; give a folder that --output wrote", path.display());
            return Err(Error::Request { problem });
        };
        let text = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.into(), source })?;
        let refused = |problem: String| Error::Request { problem: format!("{}: {problem}", path.display()) };
        let results: Results =
            serde_json::from_str(&text).map_err(|e| refused(format!("no results of a benchmark ({e})")))?;
        match results.format {
            FORMAT => Ok(results),
            other => Err(refused(format!("results of format {other}; this version reads {FORMAT}"))),
        }
    }
}
