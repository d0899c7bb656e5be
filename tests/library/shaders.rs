//! Every kernel in every variant the ops use, without a device: valid WGSL with no optional capability, translated to
//! SPIR-V, MSL and HLSL, within WebGPU's default limits, and with the interface the Rust side expects. Kernels by
//! matrices have capabilities, languages and limits of their own, which stand here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use crate::support::models;
use instructblip::config::Config;
use instructblip::lab::cases;
use instructblip::model::Parts;
use instructblip::qformer::Instructions;
use instructblip::runtime::kernels::{self, BindingKind, Kernel, Needs};
use instructblip::runtime::recorder::{Binding, Dispatch};
use instructblip::runtime::{
    Activation, AdapterClass, Caps, Linear, Mask, Matrix, MatrixSize, Recorder, Tensor, WeightFormat,
};
use instructblip::shapes::{Layers, Shape};
use instructblip::weights::Loader;

const WORKGROUP_BYTES: u32 = 16 << 10;
const MATRIX_WORKGROUP_BYTES: u32 = 48 << 10;
const INVOCATIONS: u32 = 256;
const STORAGE_BUFFERS: usize = 8;
/// Vulkan and Metal have at least 16 where they have matrices.
const MATRIX_STORAGE_BUFFERS: usize = 9;
const PARAMS_BYTES: usize = 64;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// One of each family in its published size, the embedded model, and T5 as nobody published it here.
fn models() -> Vec<Config> {
    let two = Layers { language: Some(2), ..Layers::default() };
    let published = ["vicuna-7b", "opt-2.7b", "flan-t5-xl"].map(|name| {
        let mut document = Shape::named(name).expect("a published shape").document();
        two.put_into(&mut document);
        document.to_string()
    });
    let others = [
        include_str!("../../models/shapes/config.json"),
        r#"{"model_type": "blip-2", "text_config": {"model_type": "t5", "num_layers": 2,
            "feed_forward_proj": "gated-gelu"}}"#,
        r#"{"model_type": "blip-2", "text_config": {"model_type": "t5", "num_layers": 2}}"#,
    ];
    let all = published.iter().map(String::as_str).chain(others);
    all.map(|json| Config::parse(Path::new("config.json"), json.as_bytes()).expect("a valid configuration")).collect()
}

/// Attention whose weights are tapped, so that their kernel is recorded, too.
const ATTENTIONS: [&str; 8] = [
    "vision_model.encoder.layers.0.attention",
    "qformer.encoder.layer.0.attention",
    "qformer.encoder.layer.0.cross_attention",
    "language_model.model.layers.0.attention_cached",
    "language_model.model.decoder.layers.0.attention_cached",
    "language_model.encoder.block.0.attention",
    "language_model.decoder.block.0.attention_cached",
    "language_model.decoder.block.0.cross_attention_cached",
];

/// Every dispatch of whole models, of linear layers with options that no model of today uses, and of the laboratory's
/// cases, for one kind of adapter.
fn record(caps: Caps) -> Vec<Dispatch> {
    let mut r = Recorder::new(caps).with_taps(&ATTENTIONS.map(|label| format!("{label}.weights")));
    for config in models() {
        let parts = Parts::load(&mut Loader::shapes(), &config).expect("shapes");
        let side = config.vision.image_size;
        let image = parts.vision.record(&mut r, &Tensor::unbacked(3 * side, side), Mask::None);
        let words = config.qformer_reads_text().then(|| Tensor::unbacked(1, 9));
        let length = [words.as_ref().map_or(0, Tensor::len)];
        let instruction = Instructions::one(&length, words.as_ref(), image.rows());
        parts.qformer.record(&mut r, &image, &instruction);
        let mask = Tensor::unbacked(1, config.num_query_tokens + length[0]);
        parts.qformer.record(&mut r, &image, &Instructions { own: Mask::Keys(&mask), ..instruction });
        models::record_prompt(&mut r, &config, &parts, config.num_query_tokens + 8);
        models::record_step(&mut r, &parts, 1);
        models::record_step(&mut r, &parts, 5);
    }
    for format in WeightFormat::ALL {
        let matrix = Matrix::unbacked("w", 64, 64, format, caps.max_binding_bytes);
        for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Silu, Activation::Relu] {
            for bias in [None, Some(Tensor::unbacked(1, 64))] {
                let layer = Linear { weight: matrix.clone(), bias };
                for rows in [1, 5, 33] {
                    r.linear(&Tensor::unbacked(rows, 64), &layer);
                    r.linear_add(&mut Tensor::unbacked(rows, 64), &Tensor::unbacked(rows, 64), &layer);
                    r.linear_act(&Tensor::unbacked(rows, 64), &layer, activation);
                    r.gated(&Tensor::unbacked(rows, 64), &layer, activation);
                }
            }
        }
    }
    for label in ATTENTIONS {
        let label = format!("{label}.weights");
        assert!(r.dispatches().iter().any(|d| d.label == label), "nothing is called {label}");
    }
    let mut dispatches = r.dispatches().to_vec();
    for case in cases::all().iter().filter(|case| case.can_run(&caps)) {
        dispatches.extend_from_slice(case.unbacked(caps).expect("a recording").dispatches());
    }
    let obstacles =
        dispatches.iter().filter_map(|dispatch| Some((dispatch.kernel.name, caps.obstacle(dispatch.kernel)?)));
    assert_eq!(obstacles.collect::<BTreeMap<_, _>>(), BTreeMap::new(), "chosen, but said not to run on {caps:?}");
    dispatches
}

/// One dispatch for each distinct kernel and set of constants, over every class of adapter.
fn variants() -> &'static [Dispatch] {
    static ALL: LazyLock<Vec<Dispatch>> = LazyLock::new(recorded_variants);
    &ALL
}

fn recorded_variants() -> Vec<Dispatch> {
    let mut seen = BTreeSet::new();
    let subgroups = Caps { subgroups: true, ..Caps::PORTABLE };
    let matrix = |size| Caps {
        subgroup_size: Some(32),
        matrix: Some(size),
        max_workgroup_bytes: MATRIX_WORKGROUP_BYTES,
        ..subgroups
    };
    let classes = [
        Caps::PORTABLE,
        Caps { f16: true, coherent: true, ..Caps::PORTABLE },
        matrix(MatrixSize::Eight),
        matrix(MatrixSize::Sixteen),
        subgroups,
        Caps { few_registers: true, ..subgroups },
        Caps::SOFTWARE,
        Caps { class: AdapterClass::Cpu, ..Caps::PORTABLE },
    ];
    let all = classes.into_iter().flat_map(record);
    all.filter(|d| seen.insert(format!("{}{:?}", d.kernel.name, d.constants))).collect()
}

struct Translated {
    module: naga::Module,
    info: naga::valid::ModuleInfo,
}

/// Parses, validates with as few capabilities as may be, and puts the constants in.
fn resolve(kernel: &Kernel, constants: &[(&str, f64)]) -> Translated {
    use naga::valid::Capabilities as Can;
    let name = kernel.name;
    let module = naga::front::wgsl::parse_str(&kernel.source())
        .unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(&kernel.source())));
    let plain = Can::SHADER_FLOAT16_IN_FLOAT32;
    let capabilities = match kernel.needs {
        Needs::Nothing => plain,
        Needs::Subgroups => plain | Can::SUBGROUP,
        Needs::Software => plain | Can::SUBGROUP | Can::SHADER_INT64,
        Needs::Halves => plain | Can::SHADER_FLOAT16,
        Needs::Coherent => plain | Can::MEMORY_DECORATION_COHERENT,
        Needs::Matrices => {
            plain | Can::SUBGROUP | Can::SHADER_FLOAT16 | Can::COOPERATIVE_MATRIX | Can::MEMORY_DECORATION_COHERENT
        }
    };
    let mut validator = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), capabilities);
    let info = validator.validate(&module).unwrap_or_else(|e| panic!("{name}: {e:?}"));
    let values = constants.iter().map(|&(name, value)| (name.to_string(), value)).collect();
    let entry = Some((naga::ShaderStage::Compute, "main"));
    let (module, info) = naga::back::pipeline_constants::process_overrides(&module, &info, entry, &values)
        .unwrap_or_else(|e| panic!("{name}: {e:?}"));
    Translated { module: module.into_owned(), info: info.into_owned() }
}

fn to_spirv(name: &str, t: &Translated) -> Vec<u8> {
    let options = naga::back::spv::Options { lang_version: (1, 3), ..Default::default() };
    let words = naga::back::spv::write_vec(&t.module, &t.info, &options, None);
    let words = words.unwrap_or_else(|e| panic!("{name} to SPIR-V: {e:?}"));
    assert!(words.len() > 100);
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

fn to_msl(name: &str, t: &Translated) -> Vec<u8> {
    let options = naga::back::msl::Options {
        lang_version: (2, 4),
        fake_missing_bindings: true,
        zero_initialize_workgroup_memory: false,
        ..Default::default()
    };
    let (text, _) = naga::back::msl::write_string(&t.module, &t.info, &options, &Default::default())
        .unwrap_or_else(|e| panic!("{name} to MSL: {e:?}"));
    assert!(text.contains("kernel void"));
    text.into_bytes()
}

fn to_hlsl(name: &str, t: &Translated) -> Vec<u8> {
    let options = naga::back::hlsl::Options {
        shader_model: naga::back::hlsl::ShaderModel::V6_2,
        fake_missing_bindings: true,
        zero_initialize_workgroup_memory: false,
        ..Default::default()
    };
    let mut text = String::new();
    let pipeline = naga::back::hlsl::PipelineOptions::default();
    naga::back::hlsl::Writer::new(&mut text, &options, &pipeline)
        .write(&t.module, &t.info, None)
        .unwrap_or_else(|e| panic!("{name} to HLSL: {e:?}"));
    assert!(text.contains("numthreads"));
    // In a struct, naga writes builtins of subgroups without what they stand for.
    let arguments = &t.module.entry_points[0].function.arguments;
    assert!(arguments.iter().all(|argument| argument.binding.is_some()), "{name}: arguments in a struct");
    text.into_bytes()
}

/// The ending of a language's files, and what writes it.
type Language = (&'static str, fn(&str, &Translated) -> Vec<u8>);

/// The languages a kernel is for: all, but of matrices Metal has those of 8 x 8 only, and Direct3D none.
fn languages(kernel: &Kernel) -> &'static [Language] {
    match kernel.needs {
        Needs::Matrices if kernel.form.ends_with("matrix16") => &[("spv", to_spirv)],
        Needs::Matrices => &[("spv", to_spirv), ("metal", to_msl)],
        _ => &[("spv", to_spirv), ("metal", to_msl), ("hlsl", to_hlsl)],
    }
}

/// The folder in which other compilers are to find what they judge (tools/shaders/judge.py), if there is one.
fn folder() -> Option<PathBuf> {
    std::env::var_os("INSTRUCTBLIP_TEST_SHADERS").map(PathBuf::from)
}

#[test]
fn every_variant_is_valid_and_translates_to_every_backend_it_is_for() {
    let variants = variants();
    let used: BTreeSet<&str> = variants.iter().map(|d| d.kernel.name).collect();
    let all: BTreeSet<&str> = kernels::all().map(|k| k.name).collect();
    assert_eq!(used, all, "every kernel is used by some op");
    let folder = folder();
    let write = |file: String, bytes: &[u8]| {
        if let Some(folder) = &folder {
            std::fs::write(folder.join(file), bytes).expect("a file that can be written");
        }
    };
    for (number, dispatch) in variants.iter().enumerate() {
        let name = format!("{} {:?}", dispatch.kernel.name, dispatch.constants);
        let translated = resolve(dispatch.kernel, &dispatch.constants);
        let file = format!("{}.{number}", dispatch.kernel.name);
        write(format!("{file}.wgsl"), dispatch.kernel.source().as_bytes());
        let constants: BTreeMap<&str, f64> = dispatch.constants.iter().copied().collect();
        write(format!("{file}.json"), serde_json::to_string(&constants).expect("JSON").as_bytes());
        for (ending, translate) in languages(dispatch.kernel) {
            write(format!("{file}.{ending}"), &translate(&name, &translated));
        }
        let [x, y, z] = translated.module.entry_points[0].workgroup_size;
        assert!(x * y * z <= INVOCATIONS, "{name}: {x}x{y}x{z} invocations");
    }
}

#[test]
fn every_variant_fits_the_default_limits_and_matches_its_op() {
    for dispatch in variants() {
        let name = format!("{} {:?}", dispatch.kernel.name, dispatch.constants);
        let interface = dispatch.kernel.interface(&dispatch.constants).expect("a valid kernel");
        let limit = if dispatch.kernel.needs == Needs::Matrices { MATRIX_WORKGROUP_BYTES } else { WORKGROUP_BYTES };
        assert!(interface.workgroup_bytes <= limit, "{name}: {} bytes", interface.workgroup_bytes);
        let storage = interface.bindings.iter().filter(|(_, kind)| !matches!(kind, BindingKind::Uniform(_)));
        let limit = if dispatch.kernel.needs == Needs::Matrices { MATRIX_STORAGE_BUFFERS } else { STORAGE_BUFFERS };
        assert!(storage.count() <= limit, "{name}: {:?}", interface.bindings);
        for (constant, _) in &dispatch.constants {
            assert!(interface.constants.iter().any(|c| c == constant), "{name} has no constant {constant}");
        }
        let (last, others) = interface.bindings.split_last().expect("bindings");
        assert_eq!(others.len(), dispatch.bindings.len(), "{name}: {others:?}");
        for ((binding, kind), given) in others.iter().zip(&dispatch.bindings) {
            assert_eq!(binding == "arrivals", matches!(given, Binding::Arrivals(_)), "{name}: {binding}");
            let is_step = matches!(given, Binding::Step);
            assert_eq!(is_step, *kind == BindingKind::Uniform(16), "{name}: {binding}");
        }
        assert_eq!(last.1, BindingKind::Uniform(dispatch.params.len() as u32), "{name}: Params");
        assert!(dispatch.params.len() <= PARAMS_BYTES, "{name}: {} bytes of Params", dispatch.params.len());
    }
}

/// Cooperative matrices bring Vulkan's memory model, under which the decoration is not allowed and does nothing: there
/// only atomics carry values from one workgroup to another.
#[test]
fn no_kernel_has_both_matrices_and_coherent_memory() {
    for kernel in kernels::all().filter(|kernel| kernel.source().contains("enable wgpu_cooperative_matrix")) {
        let source = kernel.source();
        let mut code = source.lines().map(|line| line.split("//").next().unwrap_or_default());
        assert!(!code.any(|line| line.contains("@coherent")), "{}", kernel.name);
    }
}

/// The members of a struct in Rust source: names in order.
fn members(text: &str) -> Vec<String> {
    let body = text.split('{').nth(1).and_then(|t| t.split('}').next()).expect("a struct body");
    let names = body.split(',').filter_map(|field| field.trim().split(':').next());
    names.map(|name| name.trim().trim_start_matches("pub ").to_string()).filter(|name| !name.is_empty()).collect()
}

#[test]
fn params_have_twins_with_the_same_members_in_the_same_order() {
    let mut twins = Vec::new();
    for (_, text) in crate::rooms::files("src/runtime/ops", "rs") {
        for part in text.split("/// `Params` of `shaders/").skip(1) {
            let file = part.split('`').next().expect("a file name");
            twins.push((file.trim_end_matches(".wgsl").to_string(), members(part)));
        }
    }
    for kernel in kernels::all() {
        let interface = kernel.interface(&[]).expect("a valid kernel");
        let names: Vec<String> = interface.params.iter().map(|(name, _)| name.clone()).collect();
        assert!(interface.params.iter().enumerate().all(|(i, (_, offset))| *offset == 4 * i as u32), "{}", kernel.name);
        let wanted = match kernel.form {
            form if form.starts_with("linear_vec_rope") => "shared/linear_rope",
            form if form.starts_with("linear_matrix") => "linear_matrix",
            form if form.starts_with("linear") => "shared/linear",
            form if form.starts_with("attention_matrix") => "attention_tile",
            _ => kernel.file.trim_end_matches("_software"),
        };
        let (_, twin) = twins.iter().find(|(file, _)| file == wanted).unwrap_or_else(|| panic!("no twin of {wanted}"));
        assert_eq!(&names, twin, "{}", kernel.name);
    }
}

/// Some drivers compile a kernel with such a loop anew for every dispatch: shaders/README.md.
#[test]
fn no_loop_counts_from_0_to_a_parameter() {
    // Their steps are too many to be written out, so that they stay loops.
    let long = ["ceiling_fma", "ceiling_matrix"];
    for kernel in kernels::all().filter(|kernel| !long.contains(&kernel.file)) {
        let source = kernel.source();
        let found = source.lines().find(|line| line.contains("= 0u; ") && line.contains(" < p."));
        assert_eq!(found, None, "{}", kernel.name);
    }
}

#[test]
fn every_shader_is_registered_described_and_has_its_header() {
    let table = std::fs::read_to_string(root().join("shaders/README.md")).expect("shaders/README.md");
    let mut count = 0;
    for entry in std::fs::read_dir(root().join("shaders")).expect("the shaders") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|e| e != "wgsl") {
            continue;
        }
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).expect("a shader");
        assert!(kernels::all().any(|k| k.file == name), "{name} is not in the registry");
        assert!(table.contains(&format!("`{name}`")), "{name} is not in shaders/README.md");
        for part in ["// Grid: ", "// Workgroup memory: "] {
            assert!(text.contains(part), "{name} has no line {part:?}");
        }
        assert!(text.starts_with("// "), "{name} starts with what it computes");
        count += 1;
    }
    let files: BTreeSet<&str> = kernels::all().map(|k| k.file).collect();
    assert_eq!(count, files.len());
}
