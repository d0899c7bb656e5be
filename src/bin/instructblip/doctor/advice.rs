//! Advice about what is wrong, or not as good as it could be.

use instructblip::error::Bytes;
use instructblip::runtime::{AdapterKind, AdapterSummary, MatrixSize};

use super::Page;
use crate::devices::by_edge;
use crate::tune;
use crate::tuned::Tuned;

/// Below this there is room for hardly any published model.
const LITTLE_DISK: u64 = 8_000_000_000;

/// Variables that keep drivers from being found.
const HIDING: [&str; 4] = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES", "VK_LOADER_", "WGPU_BACKEND"];

/// Advice for DX12 where it is slower than it has to be.
const OLD_COMPILER: &str = "Windows' own compiler (FXC) compiles kernels for DX12, and knows neither subgroups nor \
     16-bit floats: slower forms run; put dxcompiler.dll, 1.8.2502 or newer, beside this program \
     (https://github.com/microsoft/DirectXShaderCompiler/releases), or install a driver with Vulkan, which is taken \
     first; GPUs that know no later shader model stay as they are";

/// Says why the adapter that is marked would be used.
pub fn reason(adapters: &[AdapterSummary], wanted: Option<&str>) -> String {
    let usable = adapters.iter().filter(|a| a.problem.is_none()).count();
    match wanted {
        Some(name) => {
            format!("its name contains {name:?}, which --adapter, INSTRUCTBLIP_ADAPTER or WGPU_ADAPTER_NAME asks for")
        }
        None if usable == 1 => "it is the only one that can be used".into(),
        None => "discrete GPUs come before integrated ones, those before software adapters".into(),
    }
}

/// Says whether matrices that an adapter offers are multiplied on the device that was opened.
fn matrices(a: &AdapterSummary, opened: Option<MatrixSize>) -> String {
    match (a.matrix.map(by_edge), opened) {
        (None, _) => "no; fine, faster for linear layers where there are some".into(),
        (Some(size), Some(_)) if a.kind == AdapterKind::Cpu => format!("{size}; a software adapter is faster without"),
        (Some(size), Some(_)) => format!("{size}; linear layers of 16 rows and more use them"),
        (Some(size), None) => {
            format!("{size}; not used: --portable, no device, or a known product that comes out wrong")
        }
    }
}

/// Says how much memory there is, and what a model that takes more comes to.
fn memory(a: &AdapterSummary) -> String {
    match a.memory_bytes {
        Some(bytes) => format!("{}; models that take more are refused before they are loaded", Bytes(bytes)),
        None if a.kind == AdapterKind::Cpu => "the machine's; models that take more than is free are refused".into(),
        None => format!("{} does not tell; with --budget SIZE, models that take more are refused", a.backend),
    }
}

/// Says what features and limits of the chosen adapter mean for this program, and the matrices of the device that was
/// opened.
pub fn meaning(a: &AdapterSummary, opened: Option<MatrixSize>) -> Vec<(&'static str, String)> {
    let f16 = if a.shader_f16 { "yes; not needed" } else { "no; fine, not needed" };
    let subgroups = match a.subgroup_sizes {
        None => "no; fine, faster for linear layers of few rows where there are some".into(),
        Some((8, 8)) if a.kind == AdapterKind::Cpu => "8; kernels for software adapters use them".into(),
        Some((low, high)) if low == high => format!("{low}; linear layers of few rows use them"),
        Some((low, high)) => format!("{low} to {high}; linear layers of few rows use them"),
    };
    let timestamps =
        if a.timestamps { "yes; benches time kernels on the device" } else { "no; benches use the wall clock" };
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    vec![
        ("memory", memory(a)),
        ("16-bit floats in shaders", format!("{f16}: kernels unpack halves themselves")),
        ("matrices", matrices(a, opened)),
        ("subgroups", subgroups),
        ("timestamps", timestamps.into()),
        ("largest binding", format!("{}; larger weights are split", mib(a.max_binding_bytes))),
        ("largest buffer", format!("{}; larger weights are split", mib(a.max_buffer_bytes))),
        ("workgroup memory", format!("{} KiB; kernels need at most 16", a.max_workgroup_bytes >> 10)),
        ("storage buffers", format!("{} in a kernel; 8 are needed", a.max_storage_buffers)),
        ("invocations", format!("{} in a workgroup; at most 256 are needed", a.max_workgroup_invocations)),
    ]
}

/// Says whether kernels run with sizes found for this adapter.
pub fn tuning(chosen: &AdapterSummary, tuned: Option<&Tuned>) -> String {
    match tuned {
        Some(tuned) => format!("tuned on {}: {}", tuned.date, tune::describe(&tuned.tuning)),
        None if chosen.kind == AdapterKind::Cpu => "not tuned: software adapters are not".into(),
        None => "not tuned for this GPU, its driver and these kernels; `instructblip tune` takes half a minute".into(),
    }
}

/// Warns of what is worth it, and says what to do.
pub fn warnings(page: &Page) -> Vec<String> {
    let mut warnings = about_adapters(&page.adapters, std::env::consts::OS);
    if let Some(free) = page.cache.free_bytes.filter(|&free| free < LITTLE_DISK) {
        let free = Bytes(free);
        warnings.push(format!("{free} are free for models, which take 8 to 29 GB; HF_HUB_CACHE names another folder"));
    }
    if !page.embedded_model && page.model.is_none() {
        warnings.push("this build has no model of its own; every command needs --model DIR".into());
    }
    warnings
}

fn about_adapters(adapters: &[AdapterSummary], os: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    for adapter in adapters {
        if let Some(problem) = &adapter.problem {
            warnings.push(format!("{} cannot be used: it {problem}; a newer driver may allow more", adapter.name));
        }
    }
    if adapters.iter().any(|a| a.chosen && a.kind == AdapterKind::Cpu) {
        let others = adapters.iter().any(|a| a.kind != AdapterKind::Cpu);
        let what = if others { "a software adapter would be used" } else { "there is only a software adapter" };
        let driver = driver(os);
        warnings
            .push(format!("{what}: right answers, slowly, as is to be expected; for a GPU in this machine {driver}"));
    }
    warnings.extend(adapters.iter().filter(|a| a.chosen && has_old_compiler(a)).map(|_| OLD_COMPILER.into()));
    warnings
}

/// True where kernels for DX12 are compiled for shader model 5.1, the last of Windows' own compiler: every later
/// one has subgroups.
fn has_old_compiler(a: &AdapterSummary) -> bool {
    a.backend == "Dx12" && a.subgroup_sizes.is_none()
}

/// Says what to do where no adapter would be used.
pub fn without_adapter(adapters: &[AdapterSummary], environment: &[(String, String)], os: &str) -> String {
    if adapters.iter().any(|a| a.problem.is_none()) {
        return "name one of the GPUs above with --adapter, or none".into();
    }
    let driver = driver(os);
    if !adapters.is_empty() {
        return format!("what was found allows too little; for a GPU in this machine {driver}");
    }
    let hides = |name: &&str| HIDING.iter().any(|hiding| name.starts_with(hiding));
    let hiding: Vec<&str> = environment.iter().map(|(name, _)| name.as_str()).filter(hides).collect();
    match hiding.as_slice() {
        [] => driver.into(),
        names => format!("unset {}, which may hide drivers; else {driver}", names.join(" and ")),
    }
}

/// Says how to get a driver.
fn driver(os: &str) -> &'static str {
    match os {
        "linux" => {
            "install its Vulkan driver: NVIDIA's own driver has it; for AMD, Intel or no GPU at all Mesa's \
             (mesa-vulkan-drivers on Debian, Ubuntu and Fedora; vulkan-radeon, vulkan-intel or vulkan-swrast on Arch); \
             containers must be given the GPU (--gpus all, --device /dev/dri)"
        }
        "macos" => "nothing needs to be installed: Metal is part of macOS; virtual machines may have no GPU",
        "windows" => "install the driver of its maker (NVIDIA, AMD, Intel); DX12 is part of it",
        _ => "install a Vulkan driver",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices;

    fn adapter(kind: AdapterKind, problem: Option<&str>) -> AdapterSummary {
        AdapterSummary {
            name: format!("a {kind}"),
            kind,
            problem: problem.map(str::to_string),
            chosen: problem.is_none(),
            ..devices::example()
        }
    }

    #[test]
    fn every_system_has_its_own_way_to_a_driver() {
        for (os, part) in [("linux", "mesa-vulkan"), ("macos", "Metal"), ("windows", "DX12"), ("haiku", "Vulkan")] {
            assert!(without_adapter(&[], &[], os).contains(part), "{os}");
        }
    }

    #[test]
    fn the_first_thing_to_do_without_an_adapter_depends_on_why() {
        let few = adapter(AdapterKind::IntegratedGpu, Some("allows 4 storage buffers in a kernel, 8 are needed"));
        let set = [("VK_ICD_FILENAMES".to_string(), "x".to_string()), ("HF_HOME".to_string(), "x".to_string())];
        assert!(without_adapter(&[], &set, "linux").starts_with("unset VK_ICD_FILENAMES, which"));
        assert!(without_adapter(&[adapter(AdapterKind::Cpu, None)], &set, "linux").contains("--adapter"));
        assert!(without_adapter(&[few], &[], "windows").contains("too little"));
    }

    #[test]
    fn adapters_that_are_slow_or_allow_too_little_are_warned_of() {
        let few = adapter(AdapterKind::IntegratedGpu, Some("allows 4 storage buffers in a kernel, 8 are needed"));
        let warnings = about_adapters(&[adapter(AdapterKind::Cpu, None), few], "linux");
        assert!(warnings[0].contains("a IntegratedGpu cannot be used: it allows 4 storage buffers"), "{warnings:?}");
        assert!(warnings[1].contains("software") && warnings[1].contains("mesa-vulkan-drivers"), "{warnings:?}");
        assert!(about_adapters(&[adapter(AdapterKind::DiscreteGpu, None)], "linux").is_empty());
    }

    #[test]
    fn the_old_compiler_of_dx12_is_warned_of_where_it_compiles_what_would_run() {
        let with = |backend: &str, subgroup_sizes, chosen| {
            let there = adapter(AdapterKind::DiscreteGpu, None);
            let adapter = AdapterSummary { backend: backend.into(), subgroup_sizes, chosen, ..there };
            about_adapters(&[adapter], "windows")
        };
        let warnings = with("Dx12", None, true);
        for part in ["FXC", "dxcompiler.dll", "beside this program", "Vulkan"] {
            assert!(warnings.len() == 1 && warnings[0].contains(part), "{warnings:?}");
        }
        assert!(with("Dx12", Some((32, 64)), true).is_empty(), "the newer compiler is there");
        assert!(with("Dx12", None, false).is_empty(), "another adapter would be used");
        for backend in ["Vulkan", "Metal"] {
            assert!(with(backend, None, true).is_empty(), "{backend}");
        }
    }

    #[test]
    fn memory_that_is_not_told_can_be_bounded() {
        let of = |backend: &str, kind, memory_bytes| {
            memory(&AdapterSummary { backend: backend.into(), memory_bytes, ..adapter(kind, None) })
        };
        for backend in ["Dx12", "Metal"] {
            let text = of(backend, AdapterKind::IntegratedGpu, None);
            assert!(text.starts_with(&format!("{backend} does not tell")) && text.contains("--budget"), "{text}");
        }
        let told = of("Vulkan", AdapterKind::DiscreteGpu, Some(8_000_000_000));
        assert!(told.starts_with("8.0 GB; models that take more are refused"), "{told}");
        assert!(of("Vulkan", AdapterKind::Cpu, None).starts_with("the machine's"));
    }

    #[test]
    fn optional_features_that_are_absent_are_said_to_be_fine() {
        let texts = meaning(&adapter(AdapterKind::DiscreteGpu, None), None);
        assert!(
            texts.iter().any(|(name, text)| name.starts_with("16-bit") && text.starts_with("no; fine, not needed"))
        );
        for feature in ["subgroups", "matrices"] {
            assert!(texts.iter().any(|(name, text)| *name == feature && text.starts_with("no; fine")), "{feature}");
        }
    }

    #[test]
    fn matrices_are_told_with_whether_they_are_used() {
        let of = |kind, opened| {
            let offered = AdapterSummary { matrix: Some(MatrixSize::Sixteen), ..adapter(kind, None) };
            meaning(&offered, opened).into_iter().find(|(name, _)| *name == "matrices").expect("a line").1
        };
        let size = Some(MatrixSize::Sixteen);
        assert!(of(AdapterKind::DiscreteGpu, size).starts_with("16 x 16; linear layers"));
        assert!(of(AdapterKind::DiscreteGpu, None).starts_with("16 x 16; not used"));
        assert!(of(AdapterKind::Cpu, size).contains("without"));
    }
}
