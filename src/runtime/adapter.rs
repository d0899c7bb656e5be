//! Adapters: which there are, which one is taken, and the facts about them.

use std::fmt;

use serde::Serialize;

use super::caps::{AdapterClass, Caps, LEAST_SUBGROUP, MatrixSize, Tuning};

/// An adapter as `instructblip devices` lists it.
#[derive(Clone, Debug)]
pub struct AdapterSummary {
    /// The driver's name for the adapter.
    pub name: String,
    /// Vulkan, Metal, Dx12 or Gl.
    pub backend: String,
    /// The kind.
    pub kind: AdapterKind,
    /// Driver name and version.
    pub driver: String,
    /// True where shaders may use 16-bit floats.
    pub shader_f16: bool,
    /// Matrices that its subgroups multiply, says its driver. A device does without where a known product comes out
    /// wrong.
    pub matrix: Option<MatrixSize>,
    /// Smallest and largest subgroup, when subgroup operations exist.
    pub subgroup_sizes: Option<(u32, u32)>,
    /// True where kernels can be timed on the device.
    pub timestamps: bool,
    /// Largest storage binding in bytes.
    pub max_binding_bytes: u64,
    /// Largest buffer in bytes.
    pub max_buffer_bytes: u64,
    /// Workgroup memory in bytes.
    pub max_workgroup_bytes: u32,
    /// Memory in bytes, where the driver says.
    pub memory_bytes: Option<u64>,
    /// Storage buffers one kernel may bind.
    pub max_storage_buffers: u32,
    /// Invocations in one workgroup.
    pub max_workgroup_invocations: u32,
    /// The reason it cannot be used: the thing it has too little of, with both numbers.
    pub problem: Option<String>,
    /// True for the adapter that a default run would use.
    pub chosen: bool,
}

/// The kind of an adapter, as its driver tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum AdapterKind {
    /// A GPU with memory of its own.
    DiscreteGpu,
    /// A GPU that shares the processor's memory.
    IntegratedGpu,
    /// A GPU of a virtual machine.
    VirtualGpu,
    /// An adapter of another kind, or of one that its driver does not tell.
    Other,
    /// A software adapter.
    Cpu,
}

impl AdapterKind {
    fn of(kind: wgpu::DeviceType) -> AdapterKind {
        match kind {
            wgpu::DeviceType::DiscreteGpu => AdapterKind::DiscreteGpu,
            wgpu::DeviceType::IntegratedGpu => AdapterKind::IntegratedGpu,
            wgpu::DeviceType::VirtualGpu => AdapterKind::VirtualGpu,
            wgpu::DeviceType::Other => AdapterKind::Other,
            wgpu::DeviceType::Cpu => AdapterKind::Cpu,
        }
    }
}

impl fmt::Display for AdapterKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Lists every adapter, with the one a default [`Device::open`](crate::Device::open) would take marked.
pub fn list_adapters(wanted: Option<&str>) -> Vec<AdapterSummary> {
    let adapters = adapters();
    let from_env = std::env::var("WGPU_ADAPTER_NAME").ok();
    let chosen = choose(&adapters, wanted.or(from_env.as_deref())).map(|a| a.get_info());
    adapters.iter().map(|adapter| summarise(adapter, chosen.as_ref() == Some(&adapter.get_info()))).collect()
}

fn summarise(adapter: &wgpu::Adapter, chosen: bool) -> AdapterSummary {
    let (info, features, limits) = (adapter.get_info(), adapter.features(), adapter.limits());
    AdapterSummary {
        name: info.name.clone(),
        backend: format!("{:?}", info.backend),
        kind: AdapterKind::of(info.device_type),
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_string(),
        shader_f16: features.contains(wgpu::Features::SHADER_F16),
        matrix: matrices(adapter).first().map(|&(size, _)| size),
        subgroup_sizes: features
            .contains(wgpu::Features::SUBGROUP)
            .then_some((info.subgroup_min_size, info.subgroup_max_size)),
        timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
        max_binding_bytes: limits.max_storage_buffer_binding_size,
        max_buffer_bytes: limits.max_buffer_size,
        max_workgroup_bytes: limits.max_compute_workgroup_storage_size,
        memory_bytes: memory_bytes(adapter),
        max_storage_buffers: limits.max_storage_buffers_per_shader_stage,
        max_workgroup_invocations: limits.max_compute_invocations_per_workgroup,
        problem: shortfall(&limits),
        chosen,
    }
}

pub(super) fn adapters() -> Vec<wgpu::Adapter> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
    // Debug builds would otherwise turn on the driver's validation layers: 25 times the CPU cost per dispatch.
    descriptor.flags = wgpu::InstanceFlags::empty().with_env();
    // OpenGL only when it is asked for: it shows the same adapters again, and its loader prints on stderr.
    let backends = wgpu::Backends::from_env().unwrap_or(wgpu::Backends::PRIMARY);
    descriptor.backends = backends;
    let instance = wgpu::Instance::new(descriptor);
    pollster::block_on(instance.enumerate_adapters(backends))
}

/// The rank of an adapter; lower is better.
fn rank(info: &wgpu::AdapterInfo) -> (u32, u32) {
    let kind = match info.device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    };
    (kind, u32::from(info.backend == wgpu::Backend::Gl))
}

pub(super) fn choose<'a>(adapters: &'a [wgpu::Adapter], wanted: Option<&str>) -> Option<&'a wgpu::Adapter> {
    let wanted = wanted.unwrap_or("").to_lowercase();
    adapters
        .iter()
        .filter(|a| shortfall(&a.limits()).is_none() && a.get_info().name.to_lowercase().contains(&wanted))
        .min_by_key(|a| rank(&a.get_info()))
}

/// The size of the heap that weights go to. The graphics layer does not tell; Vulkan does.
#[cfg(any(windows, target_os = "linux", target_os = "android"))]
#[allow(unsafe_code)]
pub(super) fn memory_bytes(adapter: &wgpu::Adapter) -> Option<u64> {
    const DEVICE_LOCAL: u32 = 1;
    // A software adapter makes its heap up.
    if adapter.get_info().device_type == wgpu::DeviceType::Cpu {
        return None;
    }
    // SAFETY: the adapter is only asked for its properties, which changes nothing, and lives as long as the borrow.
    let properties = unsafe {
        let vulkan = adapter.as_hal::<wgpu::hal::api::Vulkan>()?;
        let instance = vulkan.shared_instance().raw_instance();
        instance.get_physical_device_memory_properties(vulkan.raw_physical_device())
    };
    let heaps = &properties.memory_heaps[..properties.memory_heap_count as usize];
    match adapter.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => {
            heaps.iter().filter(|heap| heap.flags.as_raw() & DEVICE_LOCAL != 0).map(|heap| heap.size).max()
        }
        _ => Some(heaps.iter().map(|heap| heap.size).sum()),
    }
}

#[cfg(not(any(windows, target_os = "linux", target_os = "android")))]
pub(super) fn memory_bytes(_: &wgpu::Adapter) -> Option<u64> {
    None
}

/// The first of WebGPU's default limits that an adapter stays below and kernels rely on. OpenGL adapters without
/// compute shaders have no storage buffers at all.
pub(super) fn shortfall(limits: &wgpu::Limits) -> Option<String> {
    let need = wgpu::Limits::default();
    let rows = [
        (
            "storage buffers in a kernel",
            limits.max_storage_buffers_per_shader_stage,
            need.max_storage_buffers_per_shader_stage,
        ),
        (
            "bytes of workgroup memory",
            limits.max_compute_workgroup_storage_size,
            need.max_compute_workgroup_storage_size,
        ),
        (
            "invocations in a workgroup",
            limits.max_compute_invocations_per_workgroup,
            need.max_compute_invocations_per_workgroup,
        ),
    ];
    let short = rows.into_iter().find(|(_, have, need)| have < need);
    short.map(|(what, have, need)| format!("allows {have} {what}, {need} are needed"))
}

/// Vendors of GPUs that have so few registers that kernels of many sums spill: Intel's compilers find 128 for a thread of
/// 8 lanes (16 from Xe2 on), and loads take some more for addresses and what they bring. Others have 255 for a lane, or
/// as Apple's 128 without such extras.
const FEW_REGISTERS: [u32; 1] = [0x8086];

/// Lanes in every subgroup, where it is known that they are the same.
fn fixed_subgroup_size(info: &wgpu::AdapterInfo, features: wgpu::Features) -> Option<u32> {
    // Metal does not tell; Apple's own GPUs, which are those that multiply matrices, have 32.
    if info.backend == wgpu::Backend::Metal && features.contains(MATRIX_FEATURES) {
        return Some(32);
    }
    let fixed = info.subgroup_min_size == info.subgroup_max_size && features.contains(wgpu::Features::SUBGROUP);
    fixed.then_some(info.subgroup_min_size)
}

pub(super) fn caps(
    info: &wgpu::AdapterInfo,
    features: wgpu::Features,
    limits: &wgpu::Limits,
    matrices: Option<(MatrixSize, u32)>,
) -> Caps {
    let class = if info.device_type == wgpu::DeviceType::Cpu { AdapterClass::Cpu } else { AdapterClass::Gpu };
    Caps {
        class,
        subgroups: features.contains(wgpu::Features::SUBGROUP) && info.subgroup_min_size >= LEAST_SUBGROUP,
        subgroup_size: matrices.map(|(_, lanes)| lanes).or_else(|| fixed_subgroup_size(info, features)),
        matrix: matrices.map(|(size, _)| size),
        max_binding_bytes: limits.max_storage_buffer_binding_size,
        max_buffer_bytes: limits.max_buffer_size,
        max_workgroup_bytes: limits.max_compute_workgroup_storage_size,
        uniform_alignment: limits.min_uniform_buffer_offset_alignment,
        shares_memory: features.contains(wgpu::Features::MAPPABLE_PRIMARY_BUFFERS),
        int64: features.contains(wgpu::Features::SHADER_INT64),
        f16: features.contains(wgpu::Features::SHADER_F16),
        few_registers: FEW_REGISTERS.contains(&info.vendor),
        coherent: features.contains(wgpu::Features::MEMORY_DECORATION_COHERENT),
        tuning: Tuning::of(class),
        preferred: None,
        kv_cache: None,
        custom: &[],
    }
}

/// The features that kernels by matrices use.
pub(super) const MATRIX_FEATURES: wgpu::Features = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX
    .union(wgpu::Features::SHADER_F16)
    .union(wgpu::Features::SUBGROUP)
    .union(wgpu::Features::MEMORY_DECORATION_COHERENT);

/// Most subgroups in a workgroup of kernels by matrices.
const MATRIX_SUBGROUPS: u32 = 8;

/// Workgroup memory that kernels by matrices may take, in bytes.
const MATRIX_WORKGROUP_BYTES: u32 = 32 << 10;

/// Lanes in every subgroup of a kernel of several full ones, where that is known, or what they may be: a driver that
/// picks a size for each kernel mostly picks the largest for these.
fn lanes(info: &wgpu::AdapterInfo, features: wgpu::Features) -> Vec<u32> {
    match fixed_subgroup_size(info, features) {
        Some(lanes) => vec![lanes],
        None if !features.contains(wgpu::Features::SUBGROUP) => Vec::new(),
        None => {
            let sizes = std::iter::successors(Some(info.subgroup_max_size), |lanes| Some(lanes / 2));
            sizes.take_while(|&lanes| lanes >= info.subgroup_min_size.max(1)).collect()
        }
    }
}

/// The matrices that kernels may use on this adapter, and the lanes of the subgroups that multiply them: the likeliest
/// first. Whether they do is to be seen.
pub(super) fn matrices(adapter: &wgpu::Adapter) -> Vec<(MatrixSize, u32)> {
    let (info, features, limits) = (adapter.get_info(), adapter.features(), adapter.limits());
    let offered = adapter.cooperative_matrix_properties();
    let has = |size: &MatrixSize| {
        let types = (wgpu::CooperativeScalarType::F16, wgpu::CooperativeScalarType::F32);
        let sizes = [size.edge(); 3];
        offered.iter().any(|p| [p.m_size, p.n_size, p.k_size] == sizes && (p.ab_type, p.cr_type) == types)
    };
    let fits =
        features.contains(MATRIX_FEATURES) && limits.max_compute_workgroup_storage_size >= MATRIX_WORKGROUP_BYTES;
    let size = [MatrixSize::Sixteen, MatrixSize::Eight].into_iter().find(has).filter(|_| fits);
    let fit = |lanes: &u32| lanes * MATRIX_SUBGROUPS <= limits.max_compute_invocations_per_workgroup;
    let lanes = lanes(&info, features).into_iter().filter(fit);
    size.map_or(Vec::new(), |size| lanes.map(|lanes| (size, lanes)).collect())
}

pub(super) fn describe(info: &wgpu::AdapterInfo) -> String {
    let driver = format!("{} {}", info.driver, info.driver_info);
    format!("{} ({:?}, {})", info.name, info.backend, driver.trim())
}

pub(super) fn describe_with_problem(adapter: &wgpu::Adapter) -> String {
    let name = describe(&adapter.get_info());
    shortfall(&adapter.limits()).map_or(name.clone(), |problem| format!("{name}: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_below_the_default_limits_are_told_with_both_numbers() {
        assert_eq!(shortfall(&wgpu::Limits::default()), None);
        let few = wgpu::Limits { max_storage_buffers_per_shader_stage: 4, ..Default::default() };
        assert_eq!(shortfall(&few).as_deref(), Some("allows 4 storage buffers in a kernel, 8 are needed"));
        let small = wgpu::Limits { max_compute_workgroup_storage_size: 8 << 10, ..Default::default() };
        assert_eq!(shortfall(&small).as_deref(), Some("allows 8192 bytes of workgroup memory, 16384 are needed"));
    }
}
