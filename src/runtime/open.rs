//! Opening a device: the adapter, its limits, and the proof that it multiplies matrices right.

use std::path::PathBuf;
use std::sync::Arc;

use super::adapter::{self, MATRIX_FEATURES};
use super::buffers::Pool;
use super::caps::{AdapterClass, Caps, Forms, MatrixSize, Tuning};
use super::custom::CustomKernel;
use super::device::{Device, Inner};
use super::gpu::Gpu;
use super::kept::Kept;
use super::matrix_check;
use super::piece::PieceSize;
use super::pipelines::{Checks, Pipelines};
use super::robust::{self, Opened};
use super::watch::{Watch, Work};
use crate::error::{Error, Result};

/// Options for choosing and opening a device. `Default` takes the best adapter with its own limits.
#[derive(Clone, Debug, Default)]
pub struct DeviceOptions {
    /// Part of the wanted adapter's name, any case; `WGPU_ADAPTER_NAME` when `None`.
    pub adapter: Option<String>,
    /// Ask only for what every WebGPU implementation gives: default limits, no optional features.
    pub portable: bool,
    /// Keep the driver-independent bounds and loop checks in every shader. Slower, same results.
    pub checked: bool,
    /// The forms of kernels that run.
    pub forms: Forms,
    /// Sizes found for this adapter; those of its class if `None`.
    pub tuning: Option<Tuning>,
    /// Kernels in the places of others.
    pub custom: Vec<&'static CustomKernel>,
    /// Run custom kernels without checks of their indices, as ours run. Only for kernels that are known to keep them in
    /// bounds: one that does not may end the program, or worse. [`DeviceOptions::checked`] keeps them in bounds, and
    /// does not tell which were not.
    pub trusts_custom: bool,
    /// Let the driver look after the indices of every kernel ("robust access"), as `tuning` says when `None`. Without it
    /// some GPUs load four times as much at once; only Vulkan's drivers can do without, for kernels of ours that are not
    /// `checked`, whose indices are in bounds by construction. [`Tuning::robust_access`] of the open device's
    /// [`Caps`](crate::runtime::Caps) says what it does.
    pub robust_access: Option<bool>,
    /// A folder that compiled kernels are kept in from one run to the next, made if it is not there; nobody else should
    /// be able to write to it. The usual one is [`kernel_cache`](super::kernel_cache). Nothing touches the disk when `None`, with `portable`, or where the driver gives
    /// compiled kernels to nobody (all but Vulkan's). What is in the folder changes no result, and no fault of it is an
    /// error.
    pub cache: Option<PathBuf>,
    /// Hears of the device's work, from its opening on, and may stop it.
    pub watch: Watch,
}

impl Device {
    /// Opens the adapter that `options` ask for.
    ///
    /// Discrete GPUs come before integrated ones, those before software adapters.
    /// `WGPU_BACKEND` restricts the backends.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] when nothing fits, [`Error::Gpu`] when the driver refuses to open it, [`Error::Cancelled`].
    pub fn open(options: &DeviceOptions) -> Result<Device> {
        options.watch.tell(&Work::Opening)?;
        let adapters = adapter::adapters();
        let adapter = choose(&adapters, options)?;
        let matrices = if options.portable { Vec::new() } else { adapter::matrices(adapter) };
        for matrices in matrices {
            options.watch.tell(&Work::Opening)?;
            if let Ok(device) = Device::from_adapter(adapter, options, Some(matrices))
                // On a processor no form by matrices runs that was not asked for.
                && (device.caps.class == AdapterClass::Cpu || matrix_check::is_right(&device))
            {
                return Ok(device);
            }
        }
        options.watch.tell(&Work::Opening)?;
        Device::from_adapter(adapter, options, None)
    }

    fn from_adapter(
        adapter: &wgpu::Adapter,
        options: &DeviceOptions,
        matrices: Option<(MatrixSize, u32)>,
    ) -> Result<Device> {
        let info = adapter.get_info();
        let descriptor = descriptor(adapter, options, matrices.is_some());
        let features = descriptor.required_features;
        let mut caps = adapter::caps(&info, features, &descriptor.required_limits, matrices);
        caps.tuning = options.tuning.filter(Tuning::is_valid).unwrap_or(caps.tuning);
        let wanted = options.robust_access.unwrap_or(caps.tuning.robust_access);
        let vouched_for = !options.checked && options.custom.is_empty() && !options.portable;
        let Opened { device, queue, robust } = robust::open(adapter, &descriptor, wanted || !vouched_for)?;
        caps.tuning.robust_access = robust;
        Device::of(adapter, (device, queue), caps, options)
    }

    /// A device and queue that the program has already, as of its window's surface, opened from `adapter`. Kernels use what
    /// it was opened with: the features `SUBGROUP`, `SHADER_F16`, `TIMESTAMP_QUERY` and, to keep compiled kernels,
    /// `PIPELINE_CACHE`, and the adapter's own limits instead of the default ones make faster forms possible; none is
    /// needed. Of `options`, `adapter`, `portable` and `robust_access` do not matter.
    ///
    /// It costs more than it seems to: what the program draws waits in one queue with a model's work, so that frames come
    /// late while an answer is made; the model takes the place of the program's functions for uncaptured errors and for the
    /// loss of the device; and such a device has no forms by matrices. A device of the model's own, opened by
    /// [`Device::open`], and used from a thread of its own, is better for most programs.
    ///
    /// # Errors
    /// [`Error::NoAdapter`], when the device's limits are below WebGPU's default ones; [`Error::Request`] for forms of
    /// kernels that it cannot run.
    #[cfg(feature = "from-wgpu")]
    pub fn from_wgpu(
        adapter: &wgpu::Adapter,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        options: &DeviceOptions,
    ) -> Result<Device> {
        if let Some(problem) = adapter::shortfall(&device.limits()) {
            let found = vec![format!("{} with {problem}", adapter.get_info().name)];
            return Err(Error::NoAdapter { wanted: "the program's own device".into(), found });
        }
        let mut caps = adapter::caps(&adapter.get_info(), device.features(), &device.limits(), None);
        caps.tuning = options.tuning.filter(Tuning::is_valid).unwrap_or(caps.tuning);
        caps.tuning.robust_access = true;
        Device::of(adapter, (device.clone(), queue.clone()), caps, options)
    }

    fn of(
        adapter: &wgpu::Adapter,
        (device, queue): (wgpu::Device, wgpu::Queue),
        caps: Caps,
        options: &DeviceOptions,
    ) -> Result<Device> {
        let (info, features) = (adapter.get_info(), device.features());
        let gpu = Gpu::new(device, queue);
        let mut caps = caps.with_forms(&options.forms)?;
        caps.custom = Vec::leak(options.custom.clone());
        let keeps = features.contains(wgpu::Features::PIPELINE_CACHE);
        let folder = options.cache.as_deref().filter(|_| keeps);
        let kept = folder.and_then(|folder| Kept::open(&gpu.device, &info, folder));
        let checks = match (options.checked, options.trusts_custom) {
            (true, _) => Checks::All,
            (false, false) => Checks::Custom,
            (false, true) => Checks::None,
        };
        Ok(Device {
            caps,
            watch: Arc::new(options.watch.clone().into()),
            inner: Arc::new(Inner {
                pipelines: Pipelines::new(checks, kept),
                pool: Pool::default(),
                name: adapter::describe(&info),
                timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
                memory_bytes: adapter::memory_bytes(adapter),
                piece: PieceSize::default(),
                gpu,
            }),
        })
    }
}

/// The adapter that these options ask for.
pub(super) fn choose<'a>(adapters: &'a [wgpu::Adapter], options: &DeviceOptions) -> Result<&'a wgpu::Adapter> {
    let wanted = options.adapter.clone().or_else(|| std::env::var("WGPU_ADAPTER_NAME").ok());
    adapter::choose(adapters, wanted.as_deref()).ok_or_else(|| Error::NoAdapter {
        wanted: wanted.map_or("any".into(), |name| format!("\"{name}\"")),
        found: adapters.iter().map(adapter::describe_with_problem).collect(),
    })
}

/// The features and limits that a device is opened with.
#[allow(unsafe_code)]
pub(super) fn descriptor(
    adapter: &wgpu::Adapter,
    options: &DeviceOptions,
    by_matrices: bool,
) -> wgpu::DeviceDescriptor<'static> {
    let kind = adapter.get_info().device_type;
    let (required_features, required_limits) = if options.portable {
        (wgpu::Features::empty(), wgpu::Limits::default())
    } else {
        // No form that a model runs has 16-bit floats without matrices; what they can do at most is measured.
        let mut useful = wgpu::Features::SUBGROUP
            | wgpu::Features::TIMESTAMP_QUERY
            | wgpu::Features::SHADER_F16
            | wgpu::Features::MEMORY_DECORATION_COHERENT;
        // Only the forms for software adapters read 64 bits at a time.
        useful.set(wgpu::Features::SHADER_INT64, kind == wgpu::DeviceType::Cpu);
        // On a card of its own this would put weights into the slow memory both can see.
        let shared = matches!(kind, wgpu::DeviceType::Cpu | wgpu::DeviceType::IntegratedGpu);
        useful.set(wgpu::Features::MAPPABLE_PRIMARY_BUFFERS, shared);
        if by_matrices {
            useful |= MATRIX_FEATURES;
        }
        useful.set(wgpu::Features::PIPELINE_CACHE, options.cache.is_some());
        (adapter.features() & useful, adapter.limits())
    };
    let experimental_features = if by_matrices {
        // SAFETY: what may go wrong is in the kernels by matrices, which are few, tested, and checked on opening.
        unsafe { wgpu::ExperimentalFeatures::enabled() }
    } else {
        wgpu::ExperimentalFeatures::disabled()
    };
    wgpu::DeviceDescriptor {
        label: Some("instructblip"),
        required_features,
        required_limits,
        memory_hints: wgpu::MemoryHints::MemoryUsage,
        experimental_features,
        ..Default::default()
    }
}
