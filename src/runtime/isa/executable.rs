//! A compiled kernel, as far as its driver tells.

use crate::error::Error;

/// One program of a pipeline. A compute pipeline has one.
#[derive(Clone, Debug, Default)]
pub struct Executable {
    /// Lanes of a subgroup.
    pub subgroup_size: u32,
    /// The driver's numbers by its own names, in its order.
    pub statistics: Vec<(String, f64)>,
    /// The driver's texts by its own names, the machine code as the last of them.
    pub texts: Vec<(String, String)>,
}

/// The refusal of an adapter whose driver tells nothing.
pub fn untold(adapter: &str) -> Error {
    Error::request(format!(
        "{adapter} does not tell what its compiler makes of kernels; Vulkan drivers with \
         VK_KHR_pipeline_executable_properties do"
    ))
}
