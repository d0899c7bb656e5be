//! The machine code that a Vulkan driver makes of a kernel: its registers, spills and instructions.
//!
//! The graphics layer does not tell, so a second device is opened beside it, by the same adapter and with the features
//! that a [`Device`](super::Device) has, and compiles the same SPIR-V through a pipeline whose statistics are kept
//! (VK_KHR_pipeline_executable_properties). Nothing runs on it.

mod executable;
#[cfg_attr(not(any(windows, target_os = "linux", target_os = "android")), path = "none.rs")]
mod vulkan;

pub use executable::Executable;

use super::adapter;
use super::caps::Caps;
use super::kernels::{self, Kernel};
use super::open::{self, DeviceOptions};
use crate::error::Result;

/// A driver's compiler.
pub struct Compiler {
    // First, so that it is dropped before the adapter's instance.
    raw: vulkan::Raw,
    caps: Caps,
    name: String,
    _adapter: wgpu::Adapter,
}

impl Compiler {
    /// The compiler of the adapter that a [`Device`](super::Device) with these options has. It looks after the bounds of
    /// buffers unless `robust_access` is `Some(false)`.
    ///
    /// # Errors
    /// [`Error::NoAdapter`](crate::Error::NoAdapter) where no adapter fits, [`Error::Request`](crate::Error::Request)
    /// where its driver tells nothing, [`Error::Gpu`](crate::Error::Gpu) where it does not open.
    pub fn open(options: &DeviceOptions) -> Result<Compiler> {
        let adapters = adapter::adapters();
        let adapter = open::choose(&adapters, options)?;
        let matrices = adapter::matrices(adapter).first().copied().filter(|_| !options.portable);
        let descriptor = open::descriptor(adapter, options, matrices.is_some());
        let (info, features) = (adapter.get_info(), descriptor.required_features);
        let is_robust = options.robust_access.unwrap_or(true);
        let raw = vulkan::open(adapter, features, is_robust)?;
        let mut caps = adapter::caps(&info, features, &descriptor.required_limits, matrices);
        caps.tuning.robust_access = is_robust;
        Ok(Compiler { raw, caps, name: adapter::describe(&info), _adapter: adapter.clone() })
    }

    /// The facts about the adapter, matrices as its driver tells them: whether it multiplies them right shows only when
    /// it does.
    pub fn caps(&self) -> Caps {
        self.caps
    }

    /// The adapter's name and driver.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Compiles a kernel with its constants, as a plan would.
    ///
    /// # Errors
    /// [`Error::Gpu`](crate::Error::Gpu) where naga or the driver refuses it.
    pub fn compile(&self, kernel: &'static Kernel, constants: &[(&'static str, f64)]) -> Result<Vec<Executable>> {
        self.raw.compile(&kernels::parse(kernel)?, constants)
    }
}
