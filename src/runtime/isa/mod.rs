//! The machine code that a Vulkan driver makes of a kernel: its registers, spills and instructions.
//!
//! The graphics layer does not tell, so a second device is opened beside it, by the same adapter and with the features
//! that a [`Device`](super::Device) has, and compiles the same SPIR-V through a pipeline whose statistics are kept
//! (VK_KHR_pipeline_executable_properties). Nothing runs on it.

use std::ffi::CStr;

use ash::{khr, vk};

use super::adapter;
use super::caps::Caps;
use super::kernels::{self, BindingKind, Kernel};
use super::open::{self, DeviceOptions};
use super::robust;
use crate::error::{Error, Result};

/// A compiler of a driver.
pub struct Compiler {
    // First, so that it is dropped before the adapter's instance.
    raw: Raw,
    caps: Caps,
    name: String,
    spirv: (u8, u8),
    _adapter: wgpu::Adapter,
}

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

struct Raw {
    device: ash::Device,
    executables: khr::pipeline_executable_properties::Device,
}

impl Drop for Raw {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: everything made on the device was destroyed where it was made.
        unsafe { self.device.destroy_device(None) }
    }
}

impl Compiler {
    /// Opens the adapter that a [`Device`](super::Device) would take. `robust` says whether the driver looks after the
    /// bounds of buffers in every access, as the graphics layer asks it to.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] where no Vulkan adapter fits, [`Error::Request`] for a driver without the extension,
    /// [`Error::Gpu`] where it does not open.
    pub fn open(wanted: Option<&str>, robust: bool) -> Result<Compiler> {
        let adapters = adapter::adapters();
        let adapter = adapter::choose(&adapters, wanted).ok_or_else(|| Error::NoAdapter {
            wanted: wanted.map_or("any".into(), |name| format!("\"{name}\"")),
            found: adapters.iter().map(adapter::describe_with_problem).collect(),
        })?;
        let info = adapter.get_info();
        let matrices = adapter::matrices(adapter).first().copied();
        let descriptor = open::descriptor(adapter, &DeviceOptions::default(), matrices.is_some());
        let features = descriptor.required_features;
        let (raw, spirv) = raw_device(adapter, features, robust)?;
        let mut caps = adapter::caps(&info, features, &descriptor.required_limits, matrices);
        caps.tuning.robust_access = robust;
        Ok(Compiler { raw, caps, name: adapter::describe(&info), spirv, _adapter: adapter.clone() })
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
    /// [`Error::Gpu`] where naga or the driver refuses it.
    pub fn compile(&self, kernel: &'static Kernel, constants: &[(&'static str, f64)]) -> Result<Vec<Executable>> {
        let parsed = kernels::parse(kernel)?;
        let words = spirv(&parsed, constants, self.spirv)?;
        self.raw
            .compile(&words, &kernels::bindings(&parsed)?)
            .map_err(|e| refused(&format!("kernel {}", kernel.name), e))
    }
}

fn refused(what: &str, e: impl std::fmt::Debug) -> Error {
    Error::Gpu { what: what.into(), problem: format!("{e:?}") }
}

/// The words that the graphics layer gives a driver for a kernel without checks of its own.
fn spirv(parsed: &kernels::Parsed, constants: &[(&'static str, f64)], lang_version: (u8, u8)) -> Result<Vec<u32>> {
    use naga::back::spv;
    let values = constants.iter().map(|&(name, value)| (name.to_string(), value)).collect();
    let entry = Some((naga::ShaderStage::Compute, "main"));
    let what = format!("kernel {}", parsed.name);
    let (module, info) =
        naga::back::pipeline_constants::process_overrides(&parsed.module, &parsed.info, entry, &values)
            .map_err(|e| refused(&what, e))?;
    let unchecked = naga::proc::BoundsCheckPolicy::Unchecked;
    let options = spv::Options {
        lang_version,
        flags: spv::WriterFlags::empty(),
        bounds_check_policies: naga::proc::BoundsCheckPolicies {
            index: unchecked,
            buffer: unchecked,
            image_load: unchecked,
            binding_array: unchecked,
        },
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: false,
        emit_int_div_checks: false,
        ..Default::default()
    };
    spv::write_vec(&module, &info, &options, None).map_err(|e| refused(&what, e))
}

/// A device with the features that the graphics layer would ask for, and the version of SPIR-V that it would write.
#[allow(unsafe_code)]
fn raw_device(adapter: &wgpu::Adapter, features: wgpu::Features, is_robust: bool) -> Result<(Raw, (u8, u8))> {
    let name = adapter.get_info().name;
    let without = || Error::request(format!("{name} tells nothing of the machine code that it makes"));
    // SAFETY: the instance lives as long as the adapter, which the compiler keeps; the structures that a device is made
    // by live until it is made, and those in its chain are of the types that they say they are.
    unsafe {
        let hal = adapter.as_hal::<wgpu::hal::api::Vulkan>().ok_or_else(without)?;
        let (instance, physical) = (hal.shared_instance().raw_instance(), hal.raw_physical_device());
        let known = instance.enumerate_device_extension_properties(physical).map_err(|e| refused(&name, e))?;
        let extension = khr::pipeline_executable_properties::NAME;
        if !known.iter().any(|known| known.extension_name_as_c_str() == Ok(extension)) {
            return Err(without());
        }
        let extensions = hal.required_device_extensions(features);
        let mut enabled = hal.physical_device_features(&extensions, features);
        let names: Vec<_> = extensions.iter().chain([&extension]).map(|name: &&CStr| name.as_ptr()).collect();
        let queues = [vk::DeviceQueueCreateInfo::default().queue_family_index(0).queue_priorities(&[1.0])];
        let info = vk::DeviceCreateInfo::default().queue_create_infos(&queues).enabled_extension_names(&names);
        let mut told =
            vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default().pipeline_executable_info(true);
        let mut info = enabled.add_to_device_create(info).push_next(&mut told);
        let mut core = *info.p_enabled_features;
        if !is_robust {
            robust::leave_out(&mut info, &mut core);
        }
        let device = instance.create_device(physical, &info, None).map_err(|e| refused(&name, e))?;
        let executables = khr::pipeline_executable_properties::Device::new(instance, &device);
        let spirv = match instance.get_physical_device_properties(physical).api_version {
            ..vk::API_VERSION_1_2 => (1, 3),
            vk::API_VERSION_1_2..vk::API_VERSION_1_3 => (1, 5),
            _ => (1, 6),
        };
        Ok((Raw { device, executables }, spirv))
    }
}

impl Raw {
    #[allow(unsafe_code)]
    fn compile(&self, words: &[u32], bindings: &[(String, BindingKind)]) -> ash::prelude::VkResult<Vec<Executable>> {
        let device = &self.device;
        let binding = |(number, (_, kind)): (usize, &(String, BindingKind))| {
            let kind = match kind {
                BindingKind::Uniform(_) => vk::DescriptorType::UNIFORM_BUFFER,
                BindingKind::Read | BindingKind::ReadWrite => vk::DescriptorType::STORAGE_BUFFER,
            };
            vk::DescriptorSetLayoutBinding::default()
                .binding(number as u32)
                .descriptor_count(1)
                .descriptor_type(kind)
                .stage_flags(vk::ShaderStageFlags::COMPUTE)
        };
        let bindings: Vec<_> = bindings.iter().enumerate().map(binding).collect();
        // SAFETY: the structures live through the calls that read them. What a failure leaves behind goes with the
        // program.
        unsafe {
            let module = device.create_shader_module(&vk::ShaderModuleCreateInfo::default().code(words), None)?;
            let set = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
            let sets = [device.create_descriptor_set_layout(&set, None)?];
            let layout = vk::PipelineLayoutCreateInfo::default().set_layouts(&sets);
            let layout = device.create_pipeline_layout(&layout, None)?;
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .flags(vk::PipelineShaderStageCreateFlags::ALLOW_VARYING_SUBGROUP_SIZE)
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(module)
                .name(c"main");
            let flags = vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR
                | vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR;
            let info = [vk::ComputePipelineCreateInfo::default().stage(stage).layout(layout).flags(flags)];
            let pipeline =
                device.create_compute_pipelines(vk::PipelineCache::null(), &info, None).map_err(|(_, e)| e)?[0];
            let found = self.read(pipeline);
            device.destroy_pipeline(pipeline, None);
            device.destroy_pipeline_layout(layout, None);
            device.destroy_descriptor_set_layout(sets[0], None);
            device.destroy_shader_module(module, None);
            found
        }
    }

    #[allow(unsafe_code)]
    unsafe fn read(&self, pipeline: vk::Pipeline) -> ash::prelude::VkResult<Vec<Executable>> {
        let info = vk::PipelineInfoKHR::default().pipeline(pipeline);
        // SAFETY: the pipeline lives, and was made to be asked.
        let properties = unsafe { self.executables.get_pipeline_executable_properties(&info)? };
        let mut found = Vec::new();
        for (index, of) in properties.iter().enumerate() {
            let at = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline).executable_index(index as u32);
            // SAFETY: the same.
            let statistics = unsafe { self.executables.get_pipeline_executable_statistics(&at)? };
            let statistics = statistics.iter().map(|s| (text(s.name_as_c_str()), value(s))).collect();
            // SAFETY: the same.
            let texts = unsafe { self.texts(&at)? };
            found.push(Executable { subgroup_size: of.subgroup_size, statistics, texts });
        }
        Ok(found)
    }

    /// The driver's texts. They are asked for twice: for their sizes, and with room for each.
    #[allow(unsafe_code)]
    unsafe fn texts(&self, at: &vk::PipelineExecutableInfoKHR<'_>) -> ash::prelude::VkResult<Vec<(String, String)>> {
        let get = self.executables.fp().get_pipeline_executable_internal_representations_khr;
        let device = self.device.handle();
        let mut count = 0;
        // SAFETY: with no array the driver writes the count alone; with one, as many as there is room for.
        unsafe { get(device, at, &mut count, std::ptr::null_mut()).result()? };
        let mut texts = vec![vk::PipelineExecutableInternalRepresentationKHR::default(); count as usize];
        unsafe { get(device, at, &mut count, texts.as_mut_ptr()).result()? };
        let mut rooms: Vec<Vec<u8>> = texts.iter().map(|text| vec![0; text.data_size]).collect();
        for (text, room) in texts.iter_mut().zip(&mut rooms) {
            text.p_data = room.as_mut_ptr().cast();
        }
        // SAFETY: each text has the room that it said it wants.
        unsafe { get(device, at, &mut count, texts.as_mut_ptr()).result()? };
        let whole = |room: &[u8]| String::from_utf8_lossy(room).trim_end_matches('\0').to_string();
        Ok(texts.iter().zip(&rooms).map(|(of, room)| (text(of.name_as_c_str()), whole(room))).collect())
    }
}

fn text(name: std::result::Result<&CStr, std::ffi::FromBytesUntilNulError>) -> String {
    name.unwrap_or_default().to_string_lossy().into_owned()
}

#[allow(unsafe_code)]
fn value(statistic: &vk::PipelineExecutableStatisticKHR<'_>) -> f64 {
    use vk::PipelineExecutableStatisticFormatKHR as Format;
    // SAFETY: the format says which of them the value is.
    unsafe {
        match statistic.format {
            Format::BOOL32 => f64::from(statistic.value.b32),
            Format::INT64 => statistic.value.i64 as f64,
            Format::FLOAT64 => statistic.value.f64,
            _ => statistic.value.u64 as f64,
        }
    }
}
