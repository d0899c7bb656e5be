//! Adapter choice, limits, the device and its queue, and what happens when the GPU fails.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::buffers::{Counters, Pool};
use super::custom::Replacement;
use super::kept::Kept;
use super::matrix_check::{self, MATRIX_FEATURES, MatrixSize, matrix_size};
use super::pipelines::{CompileHook, Pipelines};
use super::tuning::{Forms, Tuning};
use crate::error::{Error, Result};

/// How to choose and open a device. `Default` takes the best adapter with its own limits.
#[derive(Clone, Debug, Default)]
pub struct DeviceOptions {
    /// Part of the wanted adapter's name, any case; `WGPU_ADAPTER_NAME` when `None`.
    pub adapter: Option<String>,
    /// Ask only for what every WebGPU implementation gives: default limits, no optional features.
    pub portable: bool,
    /// Keep the driver-independent bounds and loop checks in every shader. Slower, same results.
    pub checked: bool,
    /// Which forms of kernels run.
    pub forms: Forms,
    /// Sizes found for this adapter; those of its class if `None`.
    pub tuning: Option<Tuning>,
    /// Kernels in the places of others.
    pub replaced: Vec<&'static Replacement>,
    /// A folder that compiled kernels are kept in from one run to the next, made if it is not there; nobody else should
    /// be able to write to it. Nothing touches the disk when `None`, with `portable`, or where the driver gives compiled
    /// kernels to nobody (all but Vulkan's). What is in the folder changes no result, and no fault of it is an error.
    pub cache: Option<PathBuf>,
    /// Called while a plan's kernels compile, which some drivers take minutes for: on the thread that makes the plan,
    /// whenever a kernel begins or ends and ten times a second, and a last time when nothing compiles any more. It may
    /// not make plans itself.
    pub compiling: Option<CompileHook>,
}

/// What an adapter is, for choosing kernel forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AdapterClass {
    /// Thousands of threads, fast workgroup memory.
    Gpu,
    /// A software rasteriser: few SIMD lanes, every barrier is expensive.
    Cpu,
}

/// The facts about a device that kernels and memory plans depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// GPU or software adapter.
    pub class: AdapterClass,
    /// Lanes in a subgroup when subgroup operations are enabled and the size cannot vary.
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
    /// Whether the host may write into the device's own memory, because it is the same.
    pub shares_memory: bool,
    /// Whether shaders may use 64-bit integers.
    pub int64: bool,
    /// Whether shaders may use 16-bit floats.
    pub f16: bool,
    /// Sizes by which kernels are launched.
    pub tuning: Tuning,
    /// The form of kernel that runs wherever it can.
    pub preferred: Option<&'static str>,
    /// Kernels in the places of others.
    pub replaced: &'static [&'static Replacement],
}

impl Caps {
    /// A GPU with WebGPU's default limits and no optional features: what every kernel must fit.
    pub const PORTABLE: Caps = Caps {
        class: AdapterClass::Gpu,
        subgroup_size: None,
        matrix: None,
        max_binding_bytes: 128 << 20,
        max_buffer_bytes: 256 << 20,
        max_workgroup_bytes: 16 << 10,
        uniform_alignment: 256,
        shares_memory: false,
        int64: false,
        f16: false,
        tuning: Tuning::of(AdapterClass::Gpu),
        preferred: None,
        replaced: &[],
    };

    /// Mesa's software Vulkan on an AVX2 machine.
    pub const SOFTWARE: Caps = Caps {
        class: AdapterClass::Cpu,
        subgroup_size: Some(8),
        int64: true,
        tuning: Tuning::of(AdapterClass::Cpu),
        ..Caps::PORTABLE
    };

    /// Whether kernels for software adapters can run: subgroups of 8, and loads of 64 bits.
    pub fn is_software(&self) -> bool {
        self.class == AdapterClass::Cpu && self.int64 && self.subgroup_size == Some(8)
    }

    /// Invocations of the workgroups that share a row or a head through workgroup memory, as a kernel's constant.
    pub(super) fn row_workgroup(&self) -> f64 {
        if self.class == AdapterClass::Gpu { 64.0 } else { 8.0 }
    }

    /// The same device, on which the forms run that every GPU can run.
    #[must_use]
    pub fn portable(self) -> Caps {
        let Caps { class, subgroup_size, matrix, int64, f16, tuning, .. } = Caps::PORTABLE;
        Caps { class, subgroup_size, matrix, int64, f16, tuning, ..self }
    }

    /// The same device, on which these forms run.
    ///
    /// # Errors
    /// [`Error::Request`] for a name that no kernel has.
    pub fn with_forms(self, forms: &Forms) -> Result<Caps> {
        Ok(match forms {
            Forms::Auto => self,
            Forms::Portable => self.portable(),
            Forms::Named(name) => Caps { preferred: Some(super::tuning::form(name)?), ..self },
        })
    }

    /// Largest buffer that can be bound whole.
    pub fn max_part_bytes(&self) -> u64 {
        self.max_binding_bytes.min(self.max_buffer_bytes)
    }
}

/// An adapter as `instructblip devices` lists it.
#[derive(Clone, Debug)]
pub struct AdapterSummary {
    /// The driver's name for the adapter.
    pub name: String,
    /// Vulkan, Metal, Dx12 or Gl.
    pub backend: String,
    /// DiscreteGpu, IntegratedGpu, Cpu, …
    pub kind: String,
    /// Driver name and version.
    pub driver: String,
    /// Whether 16-bit floats may be used in shaders.
    pub shader_f16: bool,
    /// Matrices that its subgroups multiply, says its driver. A device does without where a known product comes out wrong.
    pub matrix: Option<MatrixSize>,
    /// Smallest and largest subgroup, when subgroup operations exist.
    pub subgroup_sizes: Option<(u32, u32)>,
    /// Whether kernels can be timed on the device.
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
    /// Why it cannot be used: what it has too little of, with both numbers.
    pub problem: Option<String>,
    /// Whether a default run would use this adapter.
    pub chosen: bool,
}

/// An open device with its queue, compiled kernels and reusable buffers. Cheap to clone.
#[derive(Clone)]
pub struct Device {
    pub(super) inner: Arc<Inner>,
    caps: Caps,
}

pub(super) struct Inner {
    pub gpu: wgpu::Device,
    pub queue: wgpu::Queue,
    pub pipelines: Pipelines,
    pub pool: Pool,
    pub counters: Arc<Counters>,
    name: String,
    timestamps: bool,
    memory_bytes: Option<u64>,
    fault: Arc<Mutex<Option<Error>>>,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("name", &self.inner.name).field("caps", &self.caps).finish()
    }
}

impl Device {
    /// Opens the adapter that `options` ask for.
    ///
    /// Discrete GPUs come before integrated ones, those before software adapters.
    /// `WGPU_BACKEND` restricts the backends.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] when nothing fits, [`Error::Gpu`] when the driver refuses to open it.
    pub fn open(options: &DeviceOptions) -> Result<Device> {
        let adapters = adapters();
        let wanted = options.adapter.clone().or_else(|| std::env::var("WGPU_ADAPTER_NAME").ok());
        let Some(adapter) = choose(&adapters, wanted.as_deref()) else {
            return Err(Error::NoAdapter {
                wanted: wanted.map_or("any".into(), |name| format!("\"{name}\"")),
                found: adapters.iter().map(describe_with_problem).collect(),
            });
        };
        if let Some(matrix) = matrix_size(adapter).filter(|_| !options.portable)
            && let Ok(device) = Device::from_adapter(adapter, options, Some(matrix))
            // On a processor no form by matrices runs that was not asked for.
            && (device.caps.class == AdapterClass::Cpu || matrix_check::is_right(&device))
        {
            return Ok(device);
        }
        Device::from_adapter(adapter, options, None)
    }

    #[allow(unsafe_code)]
    fn from_adapter(adapter: &wgpu::Adapter, options: &DeviceOptions, matrix: Option<MatrixSize>) -> Result<Device> {
        let info = adapter.get_info();
        let (features, limits) = if options.portable {
            (wgpu::Features::empty(), wgpu::Limits::default())
        } else {
            // No form that a model runs has 16-bit floats without matrices; what they can do at most is measured.
            let mut useful = wgpu::Features::SUBGROUP | wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::SHADER_F16;
            // Only the forms for software adapters read 64 bits at a time.
            useful.set(wgpu::Features::SHADER_INT64, info.device_type == wgpu::DeviceType::Cpu);
            // On a card of its own this would put weights into the slow memory both can see.
            let shared = matches!(info.device_type, wgpu::DeviceType::Cpu | wgpu::DeviceType::IntegratedGpu);
            useful.set(wgpu::Features::MAPPABLE_PRIMARY_BUFFERS, shared);
            if matrix.is_some() {
                useful |= MATRIX_FEATURES;
            }
            useful.set(wgpu::Features::PIPELINE_CACHE, options.cache.is_some());
            (adapter.features() & useful, adapter.limits())
        };
        let experimental_features = match matrix {
            // SAFETY: what may go wrong is in the kernels by matrices, which are few, tested, and checked on opening.
            Some(_) => unsafe { wgpu::ExperimentalFeatures::enabled() },
            None => wgpu::ExperimentalFeatures::disabled(),
        };
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("instructblip"),
            required_features: features,
            required_limits: limits.clone(),
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            experimental_features,
            ..Default::default()
        };
        let (gpu, queue) = pollster::block_on(adapter.request_device(&descriptor))
            .map_err(|e| Error::Gpu { what: format!("opening {}", info.name), problem: first_line(&e.to_string()) })?;
        let fault = watch_faults(&gpu);
        let mut caps = caps(&info, features, &limits, matrix);
        caps.tuning = options.tuning.filter(Tuning::is_valid).unwrap_or(caps.tuning);
        let mut caps = caps.with_forms(&options.forms)?;
        caps.replaced = Vec::leak(options.replaced.clone());
        let counters = Arc::new(Counters::default());
        let keeps = features.contains(wgpu::Features::PIPELINE_CACHE);
        let folder = options.cache.as_deref().filter(|_| keeps);
        let kept = folder.and_then(|folder| Kept::open(&gpu, &info, folder));
        Ok(Device {
            caps,
            inner: Arc::new(Inner {
                pipelines: Pipelines::new(options.checked, options.compiling.clone(), kept),
                pool: Pool::default(),
                counters,
                name: describe(&info),
                timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
                memory_bytes: memory_bytes(adapter),
                fault,
                gpu,
                queue,
            }),
        })
    }

    /// What the kernels of this device may rely on.
    pub fn caps(&self) -> Caps {
        self.caps
    }

    /// The same device, on which weights are split as if one binding could cover no more than `bytes`.
    pub fn with_binding_limit(&self, bytes: u64) -> Device {
        let limit = self.caps.max_binding_bytes.min(bytes);
        Device { caps: Caps { max_binding_bytes: limit, ..self.caps }, inner: self.inner.clone() }
    }

    /// Name, backend and driver in one line.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Whether kernels can be timed on the device.
    pub fn has_timestamps(&self) -> bool {
        self.inner.timestamps
    }

    /// Memory the device has, where its driver says: of a card of its own, the card's. Some of it is in use by others.
    pub fn memory_bytes(&self) -> Option<u64> {
        self.inner.memory_bytes
    }

    /// Live bytes by category and objects created so far.
    pub fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// Waits until everything submitted so far has run.
    ///
    /// # Errors
    /// Whatever went wrong on the GPU meanwhile.
    pub fn wait(&self) -> Result<()> {
        self.poll(None)
    }

    /// Waits until everything submitted so far has run, but no longer than `limit`: for kernels that nobody has proved to
    /// end. A driver cannot be made to stop; dropping the device waits for it, so end the process.
    ///
    /// # Errors
    /// Whatever went wrong on the GPU meanwhile; [`Error::DeviceLost`] when it takes longer.
    pub fn wait_for(&self, limit: Duration) -> Result<()> {
        self.poll(Some(limit))
    }

    fn poll(&self, timeout: Option<Duration>) -> Result<()> {
        let polled = self.inner.gpu.poll(wgpu::PollType::Wait { submission_index: None, timeout });
        self.check()?;
        match (polled, timeout) {
            (Ok(_), _) => Ok(()),
            (Err(wgpu::PollError::Timeout), Some(limit)) => {
                Err(Error::DeviceLost { reason: format!("its kernels did not end within {} s", limit.as_secs_f64()) })
            }
            (Err(e), _) => Err(Error::DeviceLost { reason: first_line(&e.to_string()) }),
        }
    }

    /// The first fault reported by the driver since the last call, if any.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], [`Error::OutOfMemory`] or [`Error::Gpu`].
    pub fn check(&self) -> Result<()> {
        match self.inner.fault.lock().expect("no panic while the fault is held").take() {
            Some(fault) => Err(fault),
            None => Ok(()),
        }
    }
}

/// Lists every adapter, with the one a default [`Device::open`] would take marked.
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
        kind: format!("{:?}", info.device_type),
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_string(),
        shader_f16: features.contains(wgpu::Features::SHADER_F16),
        matrix: matrix_size(adapter),
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

fn adapters() -> Vec<wgpu::Adapter> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
    // Debug builds would otherwise turn on the driver's validation layers: 25 times the CPU cost per dispatch.
    descriptor.flags = wgpu::InstanceFlags::empty().with_env();
    // OpenGL only when it is asked for: it shows the same adapters again, and its loader prints on stderr.
    let backends = wgpu::Backends::from_env().unwrap_or(wgpu::Backends::PRIMARY);
    descriptor.backends = backends;
    let instance = wgpu::Instance::new(descriptor);
    pollster::block_on(instance.enumerate_adapters(backends))
}

/// Lower is better.
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

fn choose<'a>(adapters: &'a [wgpu::Adapter], wanted: Option<&str>) -> Option<&'a wgpu::Adapter> {
    let wanted = wanted.unwrap_or("").to_lowercase();
    adapters
        .iter()
        .filter(|a| shortfall(&a.limits()).is_none() && a.get_info().name.to_lowercase().contains(&wanted))
        .min_by_key(|a| rank(&a.get_info()))
}

/// The size of the heap that weights go to. The graphics layer does not tell; Vulkan does.
#[cfg(any(windows, target_os = "linux", target_os = "android"))]
#[allow(unsafe_code)]
fn memory_bytes(adapter: &wgpu::Adapter) -> Option<u64> {
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
fn memory_bytes(_: &wgpu::Adapter) -> Option<u64> {
    None
}

/// The first of WebGPU's default limits that an adapter stays below and kernels rely on. OpenGL adapters without compute
/// shaders have no storage buffers at all.
fn shortfall(limits: &wgpu::Limits) -> Option<String> {
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

/// Lanes in every subgroup, where it is known that they are the same.
pub(super) fn fixed_subgroup_size(info: &wgpu::AdapterInfo, features: wgpu::Features) -> Option<u32> {
    // Metal does not tell; Apple's own GPUs, which are those that multiply matrices, have 32.
    if info.backend == wgpu::Backend::Metal && features.contains(MATRIX_FEATURES) {
        return Some(32);
    }
    let fixed = info.subgroup_min_size == info.subgroup_max_size && features.contains(wgpu::Features::SUBGROUP);
    fixed.then_some(info.subgroup_min_size)
}

fn caps(info: &wgpu::AdapterInfo, features: wgpu::Features, limits: &wgpu::Limits, matrix: Option<MatrixSize>) -> Caps {
    let class = if info.device_type == wgpu::DeviceType::Cpu { AdapterClass::Cpu } else { AdapterClass::Gpu };
    Caps {
        class,
        subgroup_size: fixed_subgroup_size(info, features),
        matrix,
        max_binding_bytes: limits.max_storage_buffer_binding_size,
        max_buffer_bytes: limits.max_buffer_size,
        max_workgroup_bytes: limits.max_compute_workgroup_storage_size,
        uniform_alignment: limits.min_uniform_buffer_offset_alignment,
        shares_memory: features.contains(wgpu::Features::MAPPABLE_PRIMARY_BUFFERS),
        int64: features.contains(wgpu::Features::SHADER_INT64),
        f16: features.contains(wgpu::Features::SHADER_F16),
        tuning: Tuning::of(class),
        preferred: None,
        replaced: &[],
    }
}

/// Remembers the first thing that goes wrong: the ones after it are consequences.
fn watch_faults(gpu: &wgpu::Device) -> Arc<Mutex<Option<Error>>> {
    let fault = Arc::new(Mutex::new(None));
    let remember = |slot: &Mutex<Option<Error>>, error: Error| {
        if let Ok(mut slot) = slot.lock() {
            slot.get_or_insert(error);
        }
    };
    let lost = fault.clone();
    gpu.set_device_lost_callback(move |reason, message| {
        if reason != wgpu::DeviceLostReason::Destroyed {
            remember(&lost, Error::DeviceLost { reason: first_line(&message) });
        }
    });
    let uncaptured = fault.clone();
    gpu.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
        let error = match error {
            wgpu::Error::OutOfMemory { .. } => Error::OutOfMemory { what: "the driver".into(), need_bytes: 0 },
            other => Error::Gpu { what: "a command".into(), problem: first_line(&other.to_string()) },
        };
        remember(&uncaptured, error);
    }));
    fault
}

/// The heart of a driver's message: enough to search for, short enough to read.
pub(super) fn first_line(message: &str) -> String {
    // wgpu begins with headings; the causes come last.
    let says = |l: &&str| !l.is_empty() && !["Validation Error", "Caused by:"].contains(l) && !l.starts_with("In ");
    let line = message.lines().map(str::trim).filter(says).take(2).collect::<Vec<_>>().join(": ");
    line.chars().take(200).collect()
}

fn describe(info: &wgpu::AdapterInfo) -> String {
    let driver = format!("{} {}", info.driver, info.driver_info);
    format!("{} ({:?}, {})", info.name, info.backend, driver.trim())
}

fn describe_with_problem(adapter: &wgpu::Adapter) -> String {
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

    #[test]
    fn a_drivers_message_is_cut_to_what_it_says() {
        let dump =
            format!("Validation Error\n\nCaused by:\n  In Device::create, label = 'x'\n    {}", "é ".repeat(400));
        let line = first_line(&dump);
        assert!(line.starts_with("é é") && line.chars().count() <= 200, "{line}");
    }
}
