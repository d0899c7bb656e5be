//! Compiled pipelines, one for each kernel and set of constants.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::caps::Caps;
use super::gpu::Gpu;
use super::kept::Kept;
use super::kernels::{self, BindingKind, Kernel, Parsed};
use super::parallel;
use super::watch::{Compiling, Watch, Work};
use crate::error::{Error, Result, first_line};

/// A compiled kernel variant.
pub(super) struct Pipeline {
    pub gpu: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
}

/// A kernel and the values of its override constants.
pub(super) type Variant<'a> = (&'static Kernel, &'a [(&'static str, f64)]);

type Key = (&'static str, Vec<(&'static str, u64)>);

fn key(&(kernel, constants): &Variant<'_>) -> Key {
    (kernel.name, constants.iter().map(|&(name, value)| (name, value.to_bits())).collect())
}

/// The shaders that look after their own indices and loops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checks {
    /// Every shader, its indices and its loops.
    All,
    /// The indices of kernels that are not ours.
    Custom,
    /// No shader.
    None,
}

/// Compiled variants by kernel and constants.
pub(super) struct Pipelines {
    checks: Checks,
    kept: Option<Kept>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    texts: HashMap<&'static str, Text>,
    compiled: HashMap<Key, Arc<Pipeline>>,
}

/// The parts that the variants of a kernel have in common.
struct Text {
    parsed: Parsed,
    module: wgpu::ShaderModule,
    bind_group: wgpu::BindGroupLayout,
    layout: wgpu::PipelineLayout,
}

impl Pipelines {
    pub fn new(checks: Checks, kept: Option<Kept>) -> Self {
        Pipelines { checks, kept, known: Mutex::default() }
    }

    /// The pipelines of `variants`, in their order. Those nobody asked for before are compiled, several at once.
    ///
    /// # Errors
    /// The error of a kernel that does not compile names it; [`Error::Cancelled`] comes of `watch`. Kernels that do compile are
    /// kept all the same.
    pub fn get(&self, gpu: &Gpu, caps: &Caps, variants: &[Variant<'_>], watch: &Watch) -> Result<Vec<Arc<Pipeline>>> {
        // Held throughout, so that no two threads compile the same.
        let mut known = self.known.lock().expect("no panic while pipelines are held");
        let mut seen = HashSet::new();
        let new = |variant: &&Variant<'_>| !known.compiled.contains_key(&key(variant)) && seen.insert(key(variant));
        let mut missing: Vec<Variant<'_>> = variants.iter().filter(new).copied().collect();
        // Long texts first, so that no thread is left alone with one at the end.
        missing.sort_by_key(|(kernel, _)| Reverse(kernel.sources.iter().map(|text| text.len()).sum::<usize>()));
        if !missing.is_empty() {
            self.compile((gpu, caps), &missing, &mut known, watch)?;
        }
        Ok(variants.iter().map(|variant| known.compiled[&key(variant)].clone()).collect())
    }

    /// Says whether some variant of this kernel has been asked for, and compiles.
    pub fn has(&self, kernel: &Kernel) -> bool {
        let known = self.known.lock().expect("no panic while pipelines are held");
        known.compiled.keys().any(|(name, _)| *name == kernel.name)
    }

    fn compile(
        &self,
        (gpu, caps): (&Gpu, &Caps),
        missing: &[Variant<'_>],
        known: &mut Known,
        watch: &Watch,
    ) -> Result<()> {
        let started = Instant::now();
        let mut seen: HashSet<&str> = known.texts.keys().copied().collect();
        let kernels = missing.iter().map(|&(kernel, _)| kernel).filter(|kernel| seen.insert(kernel.name));
        let kernels: Vec<&'static Kernel> = kernels.collect();
        let texts =
            parallel::each(&kernels, |kernel| Text::new(gpu, kernel, self.checks), |_| ControlFlow::Continue(()));
        for (kernel, text) in kernels.iter().zip(texts.into_iter().map_while(|text| text)) {
            known.texts.insert(kernel.name, text?);
        }
        let texts = &known.texts;
        let cache = self.kept.as_ref().map(Kept::cache);
        let work =
            |&(kernel, constants): &Variant<'_>| texts[kernel.name].compile(gpu, caps, (kernel, constants), cache);
        let tell = |done, longest| {
            watch.tell(&Work::Compiling(Compiling { done, total: missing.len(), elapsed: started.elapsed(), longest }))
        };
        let mut wanted = Ok(());
        let results = parallel::each(missing, work, |now| {
            let longest = now.oldest.map(|(index, at)| (missing[index].0.name, at.elapsed()));
            // Between the end of one and the beginning of the next there is nothing to say.
            if longest.is_some() && wanted.is_ok() {
                wanted = tell(now.done, longest);
            }
            if wanted.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        let compiled = |result: &Option<Result<_>>| matches!(result, Some(Ok(_)));
        let done = results.iter().filter(|result| compiled(result)).count();
        wanted = wanted.and(tell(done, None));
        gpu.counters.count_pipelines(done as u64);
        let mut failed = None;
        for (variant, result) in missing.iter().zip(results) {
            match result {
                Some(Ok(pipeline)) => {
                    known.compiled.insert(key(variant), Arc::new(pipeline));
                }
                Some(Err(e)) => {
                    failed.get_or_insert(e);
                }
                None => {}
            }
        }
        if let Some(kept) = &self.kept {
            kept.save();
        }
        failed.map_or(wanted, Err)
    }
}

/// Gives what `make` makes, or what the graphics layer has against it. Both happen on one thread: error scopes are a
/// thread's.
fn scoped<T>(gpu: &Gpu, name: &str, make: impl FnOnce(&wgpu::Device) -> T) -> Result<T> {
    let scope = gpu.device.push_error_scope(wgpu::ErrorFilter::Validation);
    let made = make(&gpu.device);
    match pollster::block_on(scope.pop()) {
        None => Ok(made),
        Some(e) => Err(Error::Gpu { what: format!("compiling kernel {name}"), problem: first_line(&e.to_string()) }),
    }
}

impl Text {
    fn new(gpu: &Gpu, kernel: &'static Kernel, checks: Checks) -> Result<Text> {
        let parsed = kernels::parse(kernel)?;
        let bindings = kernels::bindings(&parsed)?;
        scoped(gpu, kernel.name, |device| {
            let module = shader_module(device, kernel, &parsed, checks);
            let bind_group = bind_group_layout(device, kernel.name, &bindings);
            let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(kernel.name),
                bind_group_layouts: &[Some(&bind_group)],
                immediate_size: 0,
            });
            Text { parsed, module, bind_group, layout }
        })
    }

    fn compile(
        &self,
        gpu: &Gpu,
        caps: &Caps,
        (kernel, constants): Variant<'_>,
        cache: Option<&wgpu::PipelineCache>,
    ) -> Result<Pipeline> {
        let interface = kernels::reflect(&self.parsed, constants)?;
        // The graphics layer does not check this one, and drivers crash on it.
        let have = caps.max_workgroup_bytes;
        if interface.workgroup_bytes > have {
            return Err(Error::DoesNotFit {
                what: format!("workgroup memory of kernel {} in bytes", kernel.name),
                need: interface.workgroup_bytes.into(),
                have: have.into(),
            });
        }
        let descriptor = wgpu::ComputePipelineDescriptor {
            label: Some(kernel.name),
            layout: Some(&self.layout),
            module: &self.module,
            entry_point: Some("main"),
            // Kernels write workgroup memory before they read it.
            compilation_options: wgpu::PipelineCompilationOptions {
                constants,
                zero_initialize_workgroup_memory: false,
            },
            cache,
        };
        let gpu = scoped(gpu, kernel.name, |device| device.create_compute_pipeline(&descriptor))?;
        Ok(Pipeline { gpu, layout: self.bind_group.clone() })
    }
}

#[allow(unsafe_code)]
fn shader_module(gpu: &wgpu::Device, kernel: &Kernel, parsed: &Parsed, checks: Checks) -> wgpu::ShaderModule {
    let descriptor = wgpu::ShaderModuleDescriptor {
        label: Some(kernel.name),
        source: wgpu::ShaderSource::Naga(Cow::Owned(parsed.module.clone())),
    };
    if checks == Checks::All {
        return gpu.create_shader_module(descriptor);
    }
    // A custom kernel may index what it wants, until it was seen not to; that its loops end is its own business.
    let bounds_checks = checks == Checks::Custom && kernel.is_custom();
    let checks = wgpu::ShaderRuntimeChecks { bounds_checks, ..wgpu::ShaderRuntimeChecks::unchecked() };
    // Loop bounding alone doubles the time of a tiled matmul.
    // SAFETY: every kernel of ours keeps its indices in bounds and its loops finite by construction; the test suite
    // runs each over its table of shapes with the checks on and requires equal results. A custom one has its indices
    // checked here unless whoever opened the device vouches for them (`DeviceOptions::trusts_custom`).
    unsafe { gpu.create_shader_module_trusted(descriptor, checks) }
}

fn bind_group_layout(gpu: &wgpu::Device, label: &str, bindings: &[(String, BindingKind)]) -> wgpu::BindGroupLayout {
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
    let entries: Vec<_> = bindings.iter().enumerate().map(entry).collect();
    gpu.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(label), entries: &entries })
}

/// Counts one more bind group and makes it.
pub(super) fn bind_group(
    gpu: &Gpu,
    pipeline: &Pipeline,
    label: &str,
    resources: &[wgpu::BindingResource<'_>],
) -> wgpu::BindGroup {
    gpu.counters.count_bind_group();
    let entries: Vec<_> = resources
        .iter()
        .enumerate()
        .map(|(i, resource)| wgpu::BindGroupEntry { binding: i as u32, resource: resource.clone() })
        .collect();
    gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some(label),
        layout: &pipeline.layout,
        entries: &entries,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::kernels::tests::{named, refusal};
    use crate::runtime::{Device, DeviceOptions};

    /// Valid by itself; what refuses it is the device's limit, as a driver would.
    static HUGE: Kernel = named("huge", &["@compute @workgroup_size(1024, 64) fn main() {}"]);

    fn get(device: &Device, variants: &[Variant<'_>]) -> Result<Vec<Arc<Pipeline>>> {
        device.inner.pipelines.get(&device.inner.gpu, &device.caps(), variants, &Watch::default())
    }

    fn portable() -> Option<Device> {
        match Device::open(&DeviceOptions { portable: true, ..Default::default() }) {
            Ok(device) => Some(device),
            Err(_) if std::env::var_os("INSTRUCTBLIP_TEST_WITHOUT_GPU").is_some() => None,
            Err(e) => panic!("{e}"),
        }
    }

    #[test]
    fn a_pipeline_that_does_not_compile_is_named_in_one_line() {
        let Some(device) = portable() else { return };
        for _ in 0..2 {
            let result = get(&device, &[(&HUGE, &[])]);
            let problem = refusal(result.map(|_| ()), "compiling kernel huge");
            assert!(!problem.contains("Validation Error"), "a heading says nothing: {problem}");
            device.check().expect("the device is as it was");
        }
    }

    #[test]
    fn of_kernels_compiled_at_once_the_one_that_does_not_compile_is_named_and_the_others_are_kept() {
        let Some(device) = portable() else { return };
        static TYPO: Kernel = named("typo", &["fn main( {"]);
        let good: [Variant<'_>; 2] = [(&kernels::ARGMAX, &[]), (&kernels::FILL, &[])];
        refusal(get(&device, &[good[0], good[1], (&HUGE, &[])]).map(|_| ()), "compiling kernel huge");
        assert_eq!(device.counters().pipelines_compiled(), 2);
        refusal(get(&device, &[good[0], (&TYPO, &[]), (&HUGE, &[])]).map(|_| ()), "kernel typo");
        let twice = get(&device, &[good[1], good[0], good[1]]).expect("pipelines");
        assert!(Arc::ptr_eq(&twice[0], &twice[2]) && !Arc::ptr_eq(&twice[0], &twice[1]));
        assert_eq!(device.counters().pipelines_compiled(), 2);
    }

    #[test]
    fn constants_that_differ_make_another_pipeline() {
        let Some(device) = portable() else { return };
        static SIZED: Kernel = named("sized", &["override size: u32; @compute @workgroup_size(size) fn main() {}"]);
        let variants: [Variant<'_>; 3] =
            [(&SIZED, &[("size", 8.0)]), (&SIZED, &[("size", 16.0)]), (&SIZED, &[("size", 8.0)])];
        let got = get(&device, &variants).expect("pipelines");
        assert!(Arc::ptr_eq(&got[0], &got[2]) && !Arc::ptr_eq(&got[0], &got[1]));
        assert_eq!(device.counters().pipelines_compiled(), 2);
    }
}
