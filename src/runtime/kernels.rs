//! The kernel registry: WGSL sources, their interfaces by naga reflection, and compiled pipelines.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::device::{Device, first_line};
use crate::error::{Error, Result};

/// One WGSL kernel: shared pieces put in front of one file with one entry point, `main`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// The file's name without `.wgsl`, for weight formats with the format behind it; also its row in the benches.
    pub name: &'static str,
    /// The file's name without `.wgsl`.
    pub file: &'static str,
    /// Source texts in order.
    pub sources: &'static [&'static str],
    /// Whether it uses subgroup operations.
    pub subgroups: bool,
}

macro_rules! kernels {
    ($($constant:ident = $file:literal $(=> $name:literal)? $([$($shared:literal),*])? $($subgroups:ident)?;)*) => {
        $(
            #[doc = concat!("`shaders/", $file, ".wgsl`.")]
            pub static $constant: Kernel = Kernel {
                name: kernels!(@name $file $($name)?),
                file: $file,
                sources: &[
                    $($(include_str!(concat!("../../shaders/shared/", $shared, ".wgsl")),)*)?
                    include_str!(concat!("../../shaders/", $file, ".wgsl")),
                ],
                subgroups: kernels!(@subgroups $($subgroups)?),
            };
        )*
        /// Every kernel.
        pub static ALL: &[&Kernel] = &[$(&$constant),*];
    };
    (@name $file:literal) => { $file };
    (@name $file:literal $name:literal) => { $name };
    (@subgroups) => { false };
    (@subgroups subgroups) => { true };
}

kernels! {
    LINEAR_VEC = "linear_vec" ["activation", "linear", "weights_f16"];
    LINEAR_VEC_Q8 = "linear_vec" => "linear_vec_q8" ["activation", "linear", "weights_q8"];
    LINEAR_VEC_Q4 = "linear_vec" => "linear_vec_q4" ["activation", "linear", "weights_q4"];
    LINEAR_TILE = "linear_tile" ["activation", "linear", "weights_f16"];
    LINEAR_TILE_Q8 = "linear_tile" => "linear_tile_q8" ["activation", "linear", "weights_q8"];
    LINEAR_TILE_Q4 = "linear_tile" => "linear_tile_q4" ["activation", "linear", "weights_q4"];
    LINEAR_TILE_SUBGROUP = "linear_tile_subgroup" ["activation", "linear", "weights_f16"] subgroups;
    LINEAR_TILE_SUBGROUP_Q8 = "linear_tile_subgroup" => "linear_tile_subgroup_q8"
        ["activation", "linear", "weights_q8"] subgroups;
    LINEAR_TILE_SUBGROUP_Q4 = "linear_tile_subgroup" => "linear_tile_subgroup_q4"
        ["activation", "linear", "weights_q4"] subgroups;
    ATTENTION_TILE = "attention_tile";
    ATTENTION_DECODE = "attention_decode" ["reduce"];
    ATTENTION_COMBINE = "attention_combine";
    ATTENTION_WEIGHTS = "attention_weights" ["reduce"];
    NORM = "norm" ["reduce"];
    ROPE = "rope";
    STORE = "store";
    POSITIONS = "positions";
    EMBED = "embed";
    PUT_ROWS = "put_rows";
    PATCH_EMBED = "patch_embed";
    ELEMENTWISE = "elementwise";
    ARGMAX = "argmax";
    FILL = "fill";
}

impl Kernel {
    /// The text that is compiled.
    pub fn source(&self) -> String {
        self.sources.concat()
    }

    /// What the kernel binds and how much workgroup memory it takes with these constants, by reflection.
    ///
    /// # Errors
    /// [`Error::Gpu`] when the source does not compile; a test keeps that from happening.
    pub fn interface(&self, constants: &[(&'static str, f64)]) -> Result<Interface> {
        reflect(self, constants)
    }
}

/// What a binding holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindingKind {
    /// `var<storage, read>`.
    Read,
    /// `var<storage, read_write>`.
    ReadWrite,
    /// `var<uniform>`, with its size in bytes.
    Uniform(u32),
}

/// A kernel's interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Name and kind by binding number; all bindings are in group 0 and numbered without gaps.
    pub bindings: Vec<(String, BindingKind)>,
    /// Workgroup memory in bytes.
    pub workgroup_bytes: u32,
    /// Names of the override constants.
    pub constants: Vec<String>,
    /// Members of `struct Params`: name and byte offset.
    pub params: Vec<(String, u32)>,
}

fn reflect(kernel: &Kernel, constants: &[(&'static str, f64)]) -> Result<Interface> {
    let refused = |e: String| Error::Gpu { what: format!("kernel {}", kernel.name), problem: first_line(&e) };
    let module = naga::front::wgsl::parse_str(&kernel.source()).map_err(|e| refused(e.to_string()))?;
    // unpack2x16float is all the kernels ask for besides plain WebGPU; subgroups only where the kernel says so.
    let mut capabilities = naga::valid::Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    capabilities.set(naga::valid::Capabilities::SUBGROUP, kernel.subgroups);
    let mut validator = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), capabilities);
    let info = validator.validate(&module).map_err(|e| refused(e.to_string()))?;
    let values = constants.iter().map(|&(name, value)| (name.to_string(), value)).collect();
    let entry = Some((naga::ShaderStage::Compute, "main"));
    let (resolved, _) = naga::back::pipeline_constants::process_overrides(&module, &info, entry, &values)
        .map_err(|e| refused(e.to_string()))?;
    let mut layouter = naga::proc::Layouter::default();
    layouter.update(resolved.to_ctx()).map_err(|e| refused(e.to_string()))?;
    let in_workgroup = |v: &naga::GlobalVariable| v.space == naga::AddressSpace::WorkGroup;
    let sizes = resolved.global_variables.iter().filter(|(_, v)| in_workgroup(v)).map(|(_, v)| layouter[v.ty].size);
    // Of the text as it is: resolving leaves out what a variant does not use.
    let mut declared = naga::proc::Layouter::default();
    declared.update(module.to_ctx()).map_err(|e| refused(e.to_string()))?;
    Ok(Interface {
        bindings: bindings(&module, &declared),
        workgroup_bytes: sizes.map(|size| size.next_multiple_of(16)).sum(),
        constants: module.overrides.iter().filter_map(|(_, o)| o.name.clone()).collect(),
        params: params(&module),
    })
}

/// Name and kind of every binding, by number.
fn bindings(module: &naga::Module, layouter: &naga::proc::Layouter) -> Vec<(String, BindingKind)> {
    let kind = |variable: &naga::GlobalVariable| match variable.space {
        naga::AddressSpace::Uniform => Some(BindingKind::Uniform(layouter[variable.ty].size)),
        naga::AddressSpace::Storage { access } if access.contains(naga::StorageAccess::STORE) => {
            Some(BindingKind::ReadWrite)
        }
        naga::AddressSpace::Storage { .. } => Some(BindingKind::Read),
        _ => None,
    };
    let mut bindings: Vec<_> = module
        .global_variables
        .iter()
        .filter_map(|(_, v)| Some((v.binding.as_ref()?.binding, v.name.clone().unwrap_or_default(), kind(v)?)))
        .collect();
    bindings.sort_by_key(|b| b.0);
    bindings.into_iter().map(|(_, name, kind)| (name, kind)).collect()
}

/// Name and offset of the members of `struct Params`.
fn params(module: &naga::Module) -> Vec<(String, u32)> {
    let found = module.types.iter().find(|(_, ty)| ty.name.as_deref() == Some("Params"));
    match found.map(|(_, ty)| &ty.inner) {
        Some(naga::TypeInner::Struct { members, .. }) => {
            members.iter().map(|m| (m.name.clone().unwrap_or_default(), m.offset)).collect()
        }
        _ => Vec::new(),
    }
}

/// A compiled kernel variant.
pub(super) struct Pipeline {
    pub gpu: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
}

type Key = (&'static str, Vec<(&'static str, u64)>);

/// Compiled variants by kernel and constants.
pub(super) struct Pipelines {
    checked: bool,
    compiled: Mutex<HashMap<Key, Arc<Pipeline>>>,
}

impl Pipelines {
    pub fn new(checked: bool) -> Self {
        Pipelines { checked, compiled: Mutex::default() }
    }

    /// The pipeline of `kernel` with `constants`, compiled at first use.
    pub fn get(
        &self,
        device: &Device,
        kernel: &'static Kernel,
        constants: &[(&'static str, f64)],
    ) -> Result<Arc<Pipeline>> {
        let key = (kernel.name, constants.iter().map(|&(name, value)| (name, value.to_bits())).collect());
        let mut compiled = self.compiled.lock().expect("no panic while pipelines are held");
        if let Some(pipeline) = compiled.get(&key) {
            return Ok(pipeline.clone());
        }
        let pipeline = Arc::new(compile(device, kernel, constants, self.checked)?);
        compiled.insert(key, pipeline.clone());
        Ok(pipeline)
    }
}

fn compile(
    device: &Device,
    kernel: &'static Kernel,
    constants: &[(&'static str, f64)],
    checked: bool,
) -> Result<Pipeline> {
    let interface = kernel.interface(constants)?;
    // The graphics layer does not check this one, and drivers crash on it.
    let have = device.caps().max_workgroup_bytes;
    if interface.workgroup_bytes > have {
        return Err(Error::DoesNotFit {
            what: format!("workgroup memory of kernel {} in bytes", kernel.name),
            need: interface.workgroup_bytes.into(),
            have: have.into(),
        });
    }
    let gpu = &device.inner.gpu;
    let scope = gpu.push_error_scope(wgpu::ErrorFilter::Validation);
    let module = shader_module(gpu, kernel, checked);
    let layout = bind_group_layout(gpu, kernel.name, &interface);
    let pipeline_layout = gpu.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: Some(kernel.name),
        bind_group_layouts: &[Some(&layout)],
        immediate_size: 0,
    });
    let pipeline = gpu.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(kernel.name),
        layout: Some(&pipeline_layout),
        module: &module,
        entry_point: Some("main"),
        // Kernels write workgroup memory before they read it.
        compilation_options: wgpu::PipelineCompilationOptions { constants, zero_initialize_workgroup_memory: false },
        cache: None,
    });
    match pollster::block_on(scope.pop()) {
        None => Ok(Pipeline { gpu: pipeline, layout }),
        Some(e) => {
            Err(Error::Gpu { what: format!("compiling kernel {}", kernel.name), problem: first_line(&e.to_string()) })
        }
    }
}

#[allow(unsafe_code)]
fn shader_module(gpu: &wgpu::Device, kernel: &Kernel, checked: bool) -> wgpu::ShaderModule {
    let descriptor = wgpu::ShaderModuleDescriptor {
        label: Some(kernel.name),
        source: wgpu::ShaderSource::Wgsl(kernel.source().into()),
    };
    if checked {
        return gpu.create_shader_module(descriptor);
    }
    // Loop bounding alone doubles the time of a tiled matmul.
    // SAFETY: every kernel keeps its indices in bounds and its loops finite by construction; the test suite runs
    // each over its table of shapes with the checks on and requires equal results.
    unsafe { gpu.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) }
}

fn bind_group_layout(gpu: &wgpu::Device, label: &str, interface: &Interface) -> wgpu::BindGroupLayout {
    let entry = |(binding, (_, kind)): (usize, &(String, BindingKind))| wgpu::BindGroupLayoutEntry {
        binding: binding as u32,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty: match kind {
                BindingKind::Read => wgpu::BufferBindingType::Storage { read_only: true },
                BindingKind::ReadWrite => wgpu::BufferBindingType::Storage { read_only: false },
                BindingKind::Uniform(_) => wgpu::BufferBindingType::Uniform,
            },
            has_dynamic_offset: false,
            min_binding_size: None,
        },
        count: None,
    };
    let entries: Vec<_> = interface.bindings.iter().enumerate().map(entry).collect();
    gpu.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(label), entries: &entries })
}

/// Counts one more bind group and makes it.
pub(super) fn bind_group(
    device: &Device,
    pipeline: &Pipeline,
    label: &str,
    resources: &[wgpu::BindingResource<'_>],
) -> wgpu::BindGroup {
    device.inner.counters.count_bind_group();
    let entries: Vec<_> = resources
        .iter()
        .enumerate()
        .map(|(i, resource)| wgpu::BindGroupEntry { binding: i as u32, resource: resource.clone() })
        .collect();
    device.inner.gpu.create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some(label),
        layout: &pipeline.layout,
        entries: &entries,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::DeviceOptions;

    fn refusal(result: Result<impl Sized>, name: &str) -> String {
        let Err(Error::Gpu { what, problem }) = result else { panic!("{name} is no Error::Gpu") };
        assert!(what.contains(name), "{what}");
        assert!(!problem.is_empty() && problem.chars().count() <= 200 && !problem.contains('\n'), "{problem}");
        problem
    }

    #[test]
    fn a_kernel_that_is_no_wgsl_is_named_in_one_line() {
        static BROKEN: Kernel = Kernel { name: "broken", file: "broken", sources: &["fn main( { }"], subgroups: false };
        refusal(BROKEN.interface(&[]), "kernel broken");
    }

    /// Valid by itself; what refuses it is the device's limit, as a driver would.
    #[test]
    fn a_pipeline_that_does_not_compile_is_named_in_one_line() {
        static HUGE: Kernel = Kernel {
            name: "huge",
            file: "huge",
            sources: &["@compute @workgroup_size(1024, 64) fn main() {}"],
            subgroups: false,
        };
        let device = match Device::open(&DeviceOptions { portable: true, ..Default::default() }) {
            Ok(device) => device,
            Err(_) if std::env::var_os("INSTRUCTBLIP_TEST_WITHOUT_GPU").is_some() => return,
            Err(e) => panic!("{e}"),
        };
        for _ in 0..2 {
            let problem = refusal(device.inner.pipelines.get(&device, &HUGE, &[]).map(|_| ()), "compiling kernel huge");
            assert!(!problem.contains("Validation Error"), "a heading says nothing: {problem}");
            device.check().expect("the device is as it was");
        }
    }
}
