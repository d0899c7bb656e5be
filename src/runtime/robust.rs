//! Devices without robust access.
//!
//! Vulkan's `robustBufferAccess` makes the driver look after every index, which the graphics layer always asks for. On
//! some GPUs that splits each load of 16 bytes into four that are checked one by one. Our kernels keep their indices in
//! bounds by construction, so a device may do without. On other backends nobody but the graphics layer checks, and for
//! our kernels it does not.

#[cfg(any(windows, target_os = "linux", target_os = "android"))]
use ash::vk;

use crate::error::{Error, Result, first_line};

/// A device and its queue, and whether the driver looks after indices.
pub(super) struct Opened {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub robust: bool,
}

/// Opens `adapter` as `descriptor` says; without robust access where that was asked for and can be had.
///
/// # Errors
/// [`Error::Gpu`] when the driver refuses.
pub(super) fn open(adapter: &wgpu::Adapter, descriptor: &wgpu::DeviceDescriptor<'_>, robust: bool) -> Result<Opened> {
    // What is refused here is refused again below, where it is told.
    if !robust && let Some((device, queue)) = bare(adapter, descriptor) {
        return Ok(Opened { device, queue, robust: false });
    }
    let opened = pollster::block_on(adapter.request_device(descriptor));
    let what = || format!("opening {}", adapter.get_info().name);
    let (device, queue) = opened.map_err(|e| Error::Gpu { what: what(), problem: first_line(&e.to_string()) })?;
    Ok(Opened { device, queue, robust: true })
}

#[cfg(any(windows, target_os = "linux", target_os = "android"))]
#[allow(unsafe_code)]
fn bare(adapter: &wgpu::Adapter, descriptor: &wgpu::DeviceDescriptor<'_>) -> Option<(wgpu::Device, wgpu::Queue)> {
    /// The queue that the graphics layer uses, too.
    const QUEUE_FAMILY: u32 = 0;

    let (features, limits) = (descriptor.required_features, &descriptor.required_limits);
    // SAFETY: the device is made as the graphics layer makes it, from the extensions and features that it names, of the
    // adapter that it is handed back to. Two features are left out, which its contract has no word for: it counts on
    // them for shaders whose indices naga does not check. `Device::open` keeps them where there are any: for checked
    // devices and for custom kernels.
    unsafe {
        let hal = adapter.as_hal::<wgpu::hal::api::Vulkan>()?;
        let extensions = hal.required_device_extensions(features);
        let names: Vec<_> = extensions.iter().map(|name| name.as_ptr()).collect();
        let queues = [vk::DeviceQueueCreateInfo::default().queue_family_index(QUEUE_FAMILY).queue_priorities(&[1.0])];
        let mut enabled = hal.physical_device_features(&extensions, features);
        let info = vk::DeviceCreateInfo::default().queue_create_infos(&queues).enabled_extension_names(&names);
        let mut info = enabled.add_to_device_create(info);
        let mut core = *info.p_enabled_features;
        leave_out(&mut info, &mut core);
        let raw = hal.shared_instance().raw_instance().create_device(hal.raw_physical_device(), &info, None).ok()?;
        let opened =
            hal.device_from_raw(raw, None, &extensions, features, limits, &descriptor.memory_hints, QUEUE_FAMILY, 0);
        let opened = opened.ok()?;
        drop(hal);
        adapter.create_device_from_hal(opened, descriptor).ok()
    }
}

/// Takes robust access out of the features that a device is to have. `core` is a copy of its core features, which takes
/// their place.
///
/// # Safety
/// The structures that `info` points to are what their types say, and are written by nobody else.
#[cfg(any(windows, target_os = "linux", target_os = "android"))]
#[allow(unsafe_code)]
pub(super) unsafe fn leave_out<'a>(info: &mut vk::DeviceCreateInfo<'a>, core: &'a mut vk::PhysicalDeviceFeatures) {
    core.robust_buffer_access = vk::FALSE;
    info.p_enabled_features = core;
    let mut next = info.p_next as *mut vk::BaseOutStructure<'_>;
    // SAFETY: the caller vouches for the chain.
    unsafe {
        while let Some(feature) = next.as_mut() {
            if feature.s_type == vk::StructureType::PHYSICAL_DEVICE_ROBUSTNESS_2_FEATURES_EXT {
                (*next.cast::<vk::PhysicalDeviceRobustness2FeaturesEXT<'_>>()).robust_buffer_access2 = vk::FALSE;
            }
            next = feature.p_next;
        }
    }
}

#[cfg(not(any(windows, target_os = "linux", target_os = "android")))]
fn bare(_: &wgpu::Adapter, _: &wgpu::DeviceDescriptor<'_>) -> Option<(wgpu::Device, wgpu::Queue)> {
    None
}
