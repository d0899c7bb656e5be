//! The facts about a device that kernels and memory plans depend on, and what may be chosen differently from adapter to
//! adapter: a few sizes, and which form of a kernel runs.

use serde::{Deserialize, Serialize};

use super::custom::CustomKernel;
use super::kernels::{self, Kernel, Needs};
use super::kv_format::KvFormat;
use crate::error::Result;

/// The kind of an adapter, by which kernel forms are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AdapterClass {
    /// Thousands of threads, fast workgroup memory.
    Gpu,
    /// A software rasteriser: few SIMD lanes, every barrier is expensive.
    Cpu,
}

/// Lanes of the smallest subgroup that kernels reckon with; WebGPU has none below.
pub(super) const LEAST_SUBGROUP: u32 = 4;

/// The facts about a device that kernels and memory plans depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// GPU or software adapter.
    pub class: AdapterClass,
    /// True where shaders may use subgroup operations, whatever the size of subgroups.
    pub subgroups: bool,
    /// Lanes in a subgroup when subgroup operations are enabled and the size cannot vary, or those with which products
    /// by matrices came out right.
    pub subgroup_size: Option<u32>,
    /// Matrices that subgroups multiply, where they are of a known size and 32 KiB of workgroup memory can be had.
    pub matrix: Option<MatrixSize>,
    /// Largest storage buffer one binding may cover, in bytes.
    pub max_binding_bytes: u64,
    /// Largest buffer, in bytes.
    pub max_buffer_bytes: u64,
    /// Workgroup memory one workgroup may use, in bytes.
    pub max_workgroup_bytes: u32,
    /// Alignment of dynamic offsets into uniform buffers, in bytes.
    pub uniform_alignment: u32,
    /// True where the host may write into the device's own memory, because it is the same.
    pub shares_memory: bool,
    /// True where shaders may use 64-bit integers.
    pub int64: bool,
    /// True where shaders may use 16-bit floats.
    pub f16: bool,
    /// True where an invocation has so few registers that kernels which keep many values put some of them into memory.
    pub few_registers: bool,
    /// True where a workgroup can read what others have written in the same dispatch (`@coherent`), so that the last of
    /// them can join what all have made.
    pub coherent: bool,
    /// Sizes by which kernels are launched.
    pub tuning: Tuning,
    /// The form of kernel that runs wherever it can.
    pub preferred: Option<&'static str>,
    /// The format of keys and values in caches that was asked for.
    pub kv_cache: Option<KvFormat>,
    /// Kernels in the places of others.
    pub custom: &'static [&'static CustomKernel],
}

impl Caps {
    /// A GPU with WebGPU's default limits and no optional features: what every kernel must fit.
    pub const PORTABLE: Caps = Caps {
        class: AdapterClass::Gpu,
        subgroups: false,
        subgroup_size: None,
        matrix: None,
        max_binding_bytes: 128 << 20,
        max_buffer_bytes: 256 << 20,
        max_workgroup_bytes: 16 << 10,
        uniform_alignment: 256,
        shares_memory: false,
        int64: false,
        f16: false,
        few_registers: false,
        coherent: false,
        tuning: Tuning::of(AdapterClass::Gpu),
        preferred: None,
        kv_cache: None,
        custom: &[],
    };

    /// Mesa's software Vulkan on an AVX2 machine.
    pub const SOFTWARE: Caps = Caps {
        class: AdapterClass::Cpu,
        subgroups: true,
        subgroup_size: Some(8),
        int64: true,
        coherent: true,
        tuning: Tuning::of(AdapterClass::Cpu),
        ..Caps::PORTABLE
    };

    /// Says whether kernels for software adapters can run, which takes subgroups of 8 and loads of 64 bits.
    pub fn is_software(&self) -> bool {
        self.class == AdapterClass::Cpu && self.int64 && self.subgroup_size == Some(8)
    }

    /// The reason why `kernel` cannot run on a device with these caps; `None` where it can.
    pub fn obstacle(&self, kernel: &Kernel) -> Option<String> {
        let lacks = |has: bool, what: &str| (!has).then(|| format!("the adapter has no {what}"));
        match kernel.needs {
            Needs::Nothing => None,
            Needs::Subgroups => lacks(self.subgroups, "subgroup operations"),
            Needs::Software if self.is_software() => None,
            Needs::Software => Some("the adapter is no software one with subgroups of 8 and 64-bit integers".into()),
            Needs::Halves => lacks(self.f16, "16-bit floats"),
            Needs::Coherent => lacks(self.coherent, "memory in which workgroups see what others write"),
            Needs::Matrices => match (self.matrix.map(MatrixSize::edge), kernel.matrix_edge()) {
                (None, _) => lacks(false, "cooperative matrices that can be used"),
                (Some(has), Some(wants)) if has != wants => {
                    Some(format!("the adapter's cooperative matrices are {has} x {has}"))
                }
                _ => None,
            },
        }
    }

    /// Invocations of the workgroups that share a row or a head through workgroup memory, as a kernel's constant.
    pub(super) fn row_workgroup(&self) -> u32 {
        if self.class == AdapterClass::Gpu { 64 } else { 8 }
    }

    /// Restricts the device to the forms that every GPU can run.
    #[must_use]
    pub fn portable(self) -> Caps {
        let Caps { class, subgroups, subgroup_size, matrix, int64, f16, coherent, tuning, .. } = Caps::PORTABLE;
        // How the device was opened stays as it is.
        let tuning = Tuning { robust_access: self.tuning.robust_access, ..tuning };
        Caps { class, subgroups, subgroup_size, matrix, int64, f16, coherent, tuning, ..self }
    }

    /// Makes these forms run on the device.
    ///
    /// # Errors
    /// [`Error::Request`](crate::Error::Request) for a name that no kernel has.
    pub fn with_forms(self, forms: &Forms) -> Result<Caps> {
        Ok(match forms {
            Forms::Auto => self,
            Forms::Portable => self.portable(),
            Forms::Named(name) => Caps { preferred: Some(kernels::form(name)?), ..self },
        })
    }

    /// Puts caches into this format, where one is given.
    #[must_use]
    pub fn with_kv_cache(self, format: Option<KvFormat>) -> Caps {
        Caps { kv_cache: format.or(self.kv_cache), ..self }
    }

    /// Largest buffer that can be bound whole.
    pub fn max_part_bytes(&self) -> u64 {
        self.max_binding_bytes.min(self.max_buffer_bytes)
    }
}

/// Square matrices that a subgroup multiplies: f16 times f16, summed in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatrixSize {
    /// 8 x 8: Metal.
    Eight,
    /// 16 x 16: Vulkan.
    Sixteen,
}

impl MatrixSize {
    /// Rows, and columns.
    pub fn edge(self) -> u32 {
        match self {
            MatrixSize::Eight => 8,
            MatrixSize::Sixteen => 16,
        }
    }
}

/// The sizes that decide how fast kernels are on an adapter, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tuning {
    /// True if subgroups of `linear_vec` add up their own sums, where there are subgroup operations.
    pub vec_subgroup: bool,
    /// Invocations in a workgroup of `linear_vec` (a power of two).
    pub vec_workgroup: u32,
    /// Most rows of x that go through `linear_vec`, up to 8; more go through tiles.
    pub vec_rows: u32,
    /// True if `linear_vec` does an RMSNorm before and a rotation and store after it on the way, which reads the gains
    /// once for every workgroup and saves dispatches; and if layers by matrices do the LayerNorms between them.
    pub fuse_norm: bool,
    /// Workgroups that share the keys of one head in a step of decoding.
    pub decode_splits: u32,
    /// Rows of a tile of `linear_matrix`: 32, 64, 96 or 128; 0 where the layer's shape decides.
    #[serde(default)]
    pub matrix_rows: u32,
    /// Columns of a tile of `linear_matrix`: 64 or 128; 0 where the layer's shape decides.
    #[serde(default)]
    pub matrix_columns: u32,
    /// Most workgroups that share the inputs of a tile of `linear_matrix`.
    #[serde(default = "matrix_splits")]
    pub matrix_splits: u32,
    /// True if the driver looks after the indices of kernels, see
    /// [`DeviceOptions::robust_access`](super::DeviceOptions::robust_access).
    #[serde(default = "is_robust")]
    pub robust_access: bool,
}

const fn matrix_splits() -> u32 {
    4
}

/// Tunings of programs that knew no other devices were found with it.
fn is_robust() -> bool {
    true
}

impl Tuning {
    /// The sizes that are good for a class of adapters, untuned.
    pub const fn of(class: AdapterClass) -> Tuning {
        match class {
            AdapterClass::Gpu => Tuning {
                vec_subgroup: true,
                vec_workgroup: 128,
                vec_rows: 8,
                fuse_norm: true,
                decode_splits: 8,
                matrix_rows: 0,
                matrix_columns: 0,
                matrix_splits: matrix_splits(),
                robust_access: true,
            },
            // Loads cost more than dispatches there, and there are few threads to fill.
            AdapterClass::Cpu => Tuning {
                vec_subgroup: true,
                vec_workgroup: 8,
                vec_rows: 8,
                fuse_norm: false,
                decode_splits: 1,
                matrix_rows: 0,
                matrix_columns: 0,
                matrix_splits: matrix_splits(),
                robust_access: true,
            },
        }
    }

    /// Says whether every size is one that the kernels can run with: a file may say anything.
    pub fn is_valid(&self) -> bool {
        self.vec_workgroup.is_power_of_two()
            && (4..=256).contains(&self.vec_workgroup)
            && self.vec_rows <= 8
            && (1..=64).contains(&self.decode_splits)
            && [0, 32, 64, 96, 128].contains(&self.matrix_rows)
            && [0, 64, 128].contains(&self.matrix_columns)
            && (1..=16).contains(&self.matrix_splits)
    }
}

/// A choice of the forms of kernels that run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Forms {
    /// The best for the adapter.
    #[default]
    Auto,
    /// The forms that every GPU can run.
    Portable,
    /// This one wherever it can run, the best for the adapter elsewhere.
    Named(String),
}

impl Forms {
    /// `auto`, `portable` or a kernel's form.
    ///
    /// # Errors
    /// [`Error::Request`](crate::Error::Request) for a name that no kernel has.
    pub fn parse(text: &str) -> Result<Forms> {
        match text {
            "auto" => Ok(Forms::Auto),
            "portable" => Ok(Forms::Portable),
            name => kernels::form(name).map(|name| Forms::Named(name.into())),
        }
    }
}
