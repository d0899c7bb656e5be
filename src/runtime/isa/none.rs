//! No device: where there is no Vulkan, nobody tells.

use super::executable::{Executable, untold};
use crate::error::Result;
use crate::runtime::kernels::Parsed;

/// A device that there is none of.
pub enum Raw {}

pub fn open(adapter: &wgpu::Adapter, _: wgpu::Features, _: bool) -> Result<Raw> {
    Err(untold(&adapter.get_info().name))
}

impl Raw {
    pub fn compile(&self, _: &Parsed, _: &[(&'static str, f64)]) -> Result<Vec<Executable>> {
        match *self {}
    }
}
