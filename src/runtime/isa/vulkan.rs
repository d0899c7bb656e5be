//! The second device, and what it is asked.

use std::ffi::CStr;

use ash::{khr, vk};

use super::executable::{Executable, untold};
use crate::error::{Error, Result};
use crate::runtime::kernels::{self, BindingKind, Parsed};
use crate::runtime::robust;

/// A device whose pipelines can be asked what they are.
pub struct Raw {
    device: ash::Device,
    executables: khr::pipeline_executable_properties::Device,
    /// The version of SPIR-V that the graphics layer would write.
    spirv: (u8, u8),
}

impl Drop for Raw {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: everything made on the device was destroyed where it was made.
        unsafe { self.device.destroy_device(None) }
    }
}

fn refused(what: &str, e: impl std::fmt::Debug) -> Error {
    Error::Gpu { what: what.into(), problem: format!("{e:?}") }
}

/// The words that the graphics layer gives a driver for a kernel without checks of its own.
fn spirv(parsed: &Parsed, constants: &[(&'static str, f64)], lang_version: (u8, u8)) -> Result<Vec<u32>> {
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

/// A device with the features that the graphics layer would ask for.
#[allow(unsafe_code)]
pub fn open(adapter: &wgpu::Adapter, features: wgpu::Features, is_robust: bool) -> Result<Raw> {
    let name = adapter.get_info().name;
    // SAFETY: the instance lives as long as the adapter, which the compiler keeps; the structures that a device is made
    // by live until it is made, and those in its chain are of the types that they say they are.
    unsafe {
        let hal = adapter.as_hal::<wgpu::hal::api::Vulkan>().ok_or_else(|| untold(&name))?;
        let (instance, physical) = (hal.shared_instance().raw_instance(), hal.raw_physical_device());
        let known = instance.enumerate_device_extension_properties(physical).map_err(|e| refused(&name, e))?;
        let extension = khr::pipeline_executable_properties::NAME;
        if !known.iter().any(|known| known.extension_name_as_c_str() == Ok(extension)) {
            return Err(untold(&name));
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
        Ok(Raw { device, executables, spirv })
    }
}

impl Raw {
    pub fn compile(&self, parsed: &Parsed, constants: &[(&'static str, f64)]) -> Result<Vec<Executable>> {
        let words = spirv(parsed, constants, self.spirv)?;
        let bindings = kernels::bindings(parsed)?;
        self.pipeline(&words, &bindings).map_err(|e| refused(&format!("kernel {}", parsed.name), e))
    }

    #[allow(unsafe_code)]
    fn pipeline(&self, words: &[u32], bindings: &[(String, BindingKind)]) -> ash::prelude::VkResult<Vec<Executable>> {
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
