//! Memory: plans without a device against what is allocated, budgets, stages and layers that take turns.

use crate::support;
use std::path::Path;

use crate::support::fixtures::narrow;
use crate::support::golden::checkpoint_folder;
use crate::support::models;
use instructblip::model::{LoadOptions, MemoryPlan, Parts, Workload};
use instructblip::runtime::recorder::Binding;
use instructblip::runtime::{Caps, Category, Device, KvFormat, Mask, Recorder, Tensor, Watch, WeightFormat};
use instructblip::shapes::{Layers, PUBLISHED};
use instructblip::synthesize::{Synthesis, synthesize};
use instructblip::weights::{Formats, Loader, Placement};
use instructblip::{Checkpoint, DeviceOptions, Error, GenerateOptions, Image, InstructBlip, Reply};

const LIMIT: u64 = 128 << 20;

fn formats() -> [Formats; 4] {
    let smallest = Formats { vision: Some(WeightFormat::Q4), ..Formats::usual(WeightFormat::Q4) };
    [Formats::default(), Formats::usual(WeightFormat::Q8), Formats::usual(WeightFormat::Q4), smallest]
}

/// Every dispatch of every published shape binds at most 128 MiB at a time, and its plan adds up.
#[test]
fn every_published_shape_is_planned_within_webgpus_default_bindings() {
    for shape in PUBLISHED {
        let config = shape.config();
        for formats in formats() {
            let placement = Placement { formats, ..Placement::default() };
            let parts = Parts::load(&mut Loader::survey(None, placement), &config).expect("shapes");
            let mut r = Recorder::new(Caps::PORTABLE);
            let side = config.vision.image_size;
            let image = parts.vision.record(&mut r, &Tensor::unbacked(3 * side, side), Mask::None);
            let words = config.qformer_reads_text().then(|| Tensor::unbacked(1, 64));
            parts.qformer.record_one(&mut r, &image, words.as_ref());
            models::record_prompt(&mut r, &config, &parts, config.num_query_tokens + 64);
            models::record_step(&mut r, &parts, 5);
            for dispatch in r.dispatches() {
                for binding in &dispatch.bindings {
                    let bytes = match binding {
                        Binding::Buffer(buffer) => buffer.bytes(),
                        Binding::Scratch(buffer) => r.scratch_bytes()[*buffer],
                        Binding::Step => 16,
                        Binding::Arrivals(count) => 4 * u64::from(*count),
                    };
                    assert!(bytes <= LIMIT, "{} {}: binds {bytes} bytes", shape.name(), dispatch.label);
                }
            }
            for offload in [false, true] {
                let options = LoadOptions { formats, offload, ..LoadOptions::default() };
                let plan = MemoryPlan::of_config(&config, &options, &Caps::PORTABLE).expect("a plan");
                assert!(plan.peak >= plan.language.bytes + plan.kv_cache && plan.vision.bytes > 0);
                match offload {
                    true => assert!(plan.peak < plan.weights()),
                    false => assert!(plan.peak > plan.weights()),
                }
            }
        }
    }
}

/// Weights of the published models, against arithmetic with their parameters.
#[test]
fn formats_take_the_bits_they_promise() {
    let plan = |name: &str, formats| {
        let config = PUBLISHED.iter().find(|shape| shape.name() == name).expect("a shape").config();
        let options = LoadOptions { formats, ..LoadOptions::default() };
        MemoryPlan::of_config(&config, &options, &Caps::PORTABLE).expect("a plan")
    };
    let close = |bytes: u64, want: f64| assert!((bytes as f64 / want - 1.0).abs() < 0.01, "{bytes}, not {want}");
    let f16 = plan("instructblip-vicuna-7b", Formats::default());
    close(f16.weights(), 2.0 * 7_913_726_720.0);
    let q4 = plan("instructblip-vicuna-7b", Formats::usual(WeightFormat::Q4));
    // 32 layers at 5 bits, the output layer at 8.5, the embedding at 16; the vision tower at 8.5.
    let (embedding, total) = (32_064.0 * 4096.0, 6_738_939_904.0);
    close(q4.language.bytes, (total - 2.0 * embedding) * 5.0 / 8.0 + embedding * (8.5 + 16.0) / 8.0);
    close(q4.vision.bytes, 985_952_256.0 * 8.5 / 8.0);
    assert!(q4.peak < 7_000_000_000, "an 8 GB card has room for {}", q4.peak);
}

/// Keys and values of f16 take half the memory: by default on GPUs, but not of T5, elsewhere where they are asked for, and
/// not of heads whose halves are no pairs of neighbours.
#[test]
fn caches_are_of_the_format_that_suits_the_adapter_and_the_model() {
    let plan = |name: &str, kv_cache, caps| {
        let config = PUBLISHED.iter().find(|shape| shape.name() == name).expect("a shape").config();
        let plan = MemoryPlan::of_config(&config, &LoadOptions { kv_cache, ..LoadOptions::default() }, &caps);
        plan.map(|plan| (plan.kv_format, plan.kv_cache)).expect("a plan")
    };
    for (name, caps, usual) in [
        ("instructblip-vicuna-7b", Caps::PORTABLE, KvFormat::F16),
        ("blip2-opt-2.7b", Caps::PORTABLE, KvFormat::F16),
        ("instructblip-flan-t5-xl", Caps::PORTABLE, KvFormat::F32),
        ("instructblip-vicuna-7b", Caps::SOFTWARE, KvFormat::F32),
    ] {
        let [whole, half] = [KvFormat::F32, KvFormat::F16].map(|format| plan(name, Some(format), caps));
        assert_eq!((whole.0, half.0, whole.1), (KvFormat::F32, KvFormat::F16, 2 * half.1), "{name}");
        assert_eq!(plan(name, None, caps).0, usual, "{name}");
    }
    assert_eq!([6, 8, 80].map(|dim| KvFormat::F16.for_head_dim(dim)), [KvFormat::F32, KvFormat::F16, KvFormat::F16]);
}

/// A larger budget never fits less, and what no prompt or answer can be is not planned for.
#[test]
fn budgets_are_monotone_and_absurd_workloads_are_bounded() {
    for name in ["instructblip-vicuna-7b", "instructblip-flan-t5-xl"] {
        let config = PUBLISHED.iter().find(|shape| shape.name() == name).expect("a shape").config();
        let formats = Formats::usual(WeightFormat::Q4);
        let plan = |budget: u64| {
            let budget_bytes = Some(budget << 20);
            let options = LoadOptions { formats, offload: true, budget_bytes, ..LoadOptions::default() };
            MemoryPlan::of_config(&config, &options, &Caps::PORTABLE)
        };
        let fits: Vec<bool> = (500..5200).step_by(13).map(|mib| plan(mib).is_ok()).collect();
        assert!(fits.is_sorted() && fits.contains(&true) && fits.contains(&false), "{name}");
        for (prompt_tokens, new_tokens, rows, batch) in
            [(4_000_000_000, 1, 1, 1), (64, u32::MAX, 1, 1), (65_600, 100_000, 256, 1024), (200_000, 1, 1, 256)]
        {
            let workload = Workload { prompt_tokens, new_tokens, rows, batch, frames: 64, at_once: 1 };
            let options = LoadOptions { workload, ..LoadOptions::default() };
            let plan = MemoryPlan::of_config(&config, &options, &Caps::PORTABLE).expect("a plan");
            assert!(plan.peak > plan.weights());
        }
        // The end of the context bounds a LLaMA's answer: at most 2048 positions are cached.
        let workload = Workload { new_tokens: 100_000, ..Workload::default() };
        let long = LoadOptions { workload, ..LoadOptions::default() };
        let plan = MemoryPlan::of_config(&config, &long, &Caps::PORTABLE).expect("a plan");
        assert!(name.contains("t5") || plan.kv_cache < 2_500_000_000, "{}", plan.kv_cache);
    }
}

fn picture() -> Image {
    Image::from_rgb(3, 2, (0..18).map(|v| v * 13).collect()).expect("a picture")
}

fn load(device: &Device, folder: &Path, options: &LoadOptions) -> InstructBlip {
    let checkpoint = Checkpoint::directory(folder).expect("a folder");
    InstructBlip::load_with(device, &checkpoint, options).expect("a model")
}

/// A model of some size, so that neither alignment nor tables decide: 12 + 6 + 2 layers, 140 MB in f16.
fn medium(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let layers = Layers { language: Some(12), vision: Some(6), qformer: Some(2) };
    let target = folder.path().join("model");
    let options = Synthesis { stored: Some(instructblip::synthesize::Stored::F16), ..Synthesis::default() };
    synthesize(&narrow(name, layers, 12), &target, &options, &Watch::default()).expect("written");
    folder
}

fn ask(model: &mut InstructBlip, new_tokens: u32, rows: u32) -> Reply {
    let options = GenerateOptions {
        max_new_tokens: Some(new_tokens),
        num_beams: rows,
        eos_token_ids: Some(Vec::new()),
        ..GenerateOptions::default()
    };
    model.ask(&picture(), "What is this?", &options).expect("an answer")
}

#[test]
fn planned_and_allocated_bytes_agree_within_two_percent() {
    for name in ["instructblip-vicuna-7b", "instructblip-flan-t5-xl", "blip2-opt-2.7b"] {
        let folder = medium(name);
        let folder = folder.path().join("model");
        let combinations = [
            (Formats::default(), None, false, 1),
            (Formats::usual(WeightFormat::Q4), Some(KvFormat::F16), false, 3),
            (Formats::usual(WeightFormat::Q8), None, true, 1),
        ];
        let all = name == "instructblip-vicuna-7b";
        let prompt_tokens = {
            let Some(device) = support::device() else { return };
            ask(&mut load(&device, &folder, &LoadOptions::default()), 1, 1).prompt_tokens as u32 - 5
        };
        for (formats, kv_cache, offload, rows) in combinations.into_iter().filter(|c| all || c.3 == 3) {
            // The portable one copies through staging memory.
            let portable = [false, true].into_iter().filter(|portable| !portable || all && rows == 1);
            for portable in portable {
                // A device of its own each time: counters count what ever was.
                let device = Device::open(&DeviceOptions { portable, ..Default::default() }).expect("a device");
                let workload = Workload { prompt_tokens, new_tokens: 20, rows, ..Workload::default() };
                let options = LoadOptions { formats, offload, kv_cache, workload, ..LoadOptions::default() };
                let mut model = load(&device, &folder, &options);
                // The second question finds other buffers free than the first.
                ask(&mut model, 20, rows);
                ask(&mut model, 20, rows);
                let (plan, peak) = (model.memory().clone(), device.counters().peak_bytes());
                let off = peak as f64 / plan.peak as f64 - 1.0;
                let what =
                    format!("{name} {formats:?} {kv_cache:?} offload {offload} rows {rows} on {}", device.name());
                assert!(off.abs() < 0.02, "{what}: {peak} bytes were taken, {} planned: {plan:?}", plan.peak);
                if !offload {
                    let bytes = |category| device.counters().bytes(category);
                    assert_eq!(bytes(Category::Weights), plan.weights(), "{what}: weights");
                    assert_eq!(bytes(Category::KvCache), plan.kv_cache, "{what}: cache");
                }
            }
        }
    }
}

#[test]
fn stages_that_take_turns_answer_the_same_again_and_again() {
    let Some(device) = support::device() else { return };
    for name in ["mha-untied-d88", "ib-t5-erf", "b2-opt", "video-llama", "ragged-llama"] {
        let folder = checkpoint_folder(name);
        let whole = ask(&mut load(&device, &folder, &LoadOptions::default()), 8, 1).token_ids;
        let mut model = load(&device, &folder, &LoadOptions { offload: true, ..LoadOptions::default() });
        for _ in 0..2 {
            assert_eq!(ask(&mut model, 8, 1).token_ids, whole, "{name}");
            let weights = device.counters().bytes(Category::Weights);
            assert!(weights < model.memory().weights(), "{name}: {weights} bytes are there at once");
        }
    }
}

/// Layers that share the memory of one: the answers are the same, and the budget holds.
#[test]
fn layers_that_take_turns_answer_the_same_within_the_budget() {
    for name in ["instructblip-vicuna-7b", "instructblip-flan-t5-xl", "blip2-opt-2.7b"] {
        let folder = medium(name);
        let folder = folder.path().join("model");
        let formats = [WeightFormat::F16, WeightFormat::Q4];
        for format in formats.into_iter().filter(|&f| f == WeightFormat::F16 || name.contains("t5")) {
            let Some(device) = support::device() else { return };
            let formats = Formats { vision: Some(format), qformer: Some(format), language: Some(format) };
            let workload = Workload { prompt_tokens: 16, new_tokens: 5, ..Workload::default() };
            let usual = LoadOptions { formats, workload, ..LoadOptions::default() };
            let whole = ask(&mut load(&device, &folder, &usual), 5, 1);
            // A device of its own: counters count what ever was.
            let device = support::device().expect("there was one");
            let language = load(&device, &folder, &usual).memory().language.bytes;
            let device = support::device().expect("there was one");
            let budget = language * 6 / 10 + (32 << 20);
            let options = LoadOptions { offload: true, budget_bytes: Some(budget), ..usual };
            let mut model = load(&device, &folder, &options);
            let plan = model.memory().clone();
            assert!(plan.peak <= budget, "{name}: {plan:?}");
            if plan.language.resident < plan.language.layers {
                assert!(plan.language.bytes < language, "{name}");
            } else {
                assert_eq!(format, WeightFormat::Q4, "{name}: f16 is too large for {budget}: {plan:?}");
            }
            for _ in 0..2 {
                assert_eq!(ask(&mut model, 5, 1).token_ids, whole.token_ids, "{name} {format}");
            }
            let peak = device.counters().peak_bytes();
            assert!(peak <= budget && peak as f64 >= 0.98 * plan.peak as f64, "{name}: {peak} of {budget}, {plan:?}");
        }
    }
}

#[test]
fn what_exceeds_the_budget_is_refused_with_figures_before_anything_is_uploaded() {
    let Some(device) = support::device() else { return };
    let checkpoint = Checkpoint::directory(checkpoint_folder("mha-untied-d88")).expect("a folder");
    for (budget, offload) in [(100_000, false), (1_000, true)] {
        let options = LoadOptions { budget_bytes: Some(budget), offload, ..LoadOptions::default() };
        let Err(error) = InstructBlip::load_with(&device, &checkpoint, &options) else { panic!("loaded") };
        let Error::OverBudget { need_bytes, budget_bytes, .. } = &error else { panic!("{error:?}") };
        assert!(*budget_bytes == budget && *need_bytes > budget);
        let text = error.to_string();
        for part in ["language model", "vision tower", "cache", "on the device"] {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
        assert_eq!(device.counters().bytes(Category::Weights), 0, "nothing was uploaded");
        assert_eq!(device.counters().buffers_created(), 0, "nothing was made");
    }
    // What would fit is told.
    let plan = MemoryPlan::of(&checkpoint, &LoadOptions::default(), &device.caps()).expect("a plan");
    let options = LoadOptions { budget_bytes: Some(plan.peak - 1), ..LoadOptions::default() };
    let Err(error) = InstructBlip::load_with(&device, &checkpoint, &options) else { panic!("loaded") };
    assert!(error.to_string().contains("of LoadOptions: ") && error.to_string().contains("offload ("), "{error}");
}

/// Parts that are loaded without the model around them take what was planned, and no more than the budget.
#[test]
fn parts_alone_are_loaded_as_planned() {
    let Some(device) = support::device() else { return };
    let checkpoint = Checkpoint::directory(checkpoint_folder("mha-untied-d88")).expect("a folder");
    let config = models::config(&checkpoint);
    let load = |options: &LoadOptions| {
        let real = Parts::from_checkpoint(&device, &checkpoint, &config, options);
        [real, Parts::synthetic(&device, &config, options)]
    };
    for refused in load(&LoadOptions { budget_bytes: Some(100_000), ..LoadOptions::default() }) {
        assert!(matches!(refused, Err(Error::OverBudget { .. })), "{refused:?}");
    }
    assert_eq!(device.counters().buffers_created(), 0, "nothing was made");
    let options = LoadOptions { formats: Formats::usual(WeightFormat::F16), ..LoadOptions::default() };
    let plan = MemoryPlan::of(&checkpoint, &options, &device.caps()).expect("a plan");
    let loaded = load(&options).map(|parts| parts.expect("parts"));
    for (_, loaded) in &loaded {
        assert_eq!(loaded.weight_bytes.iter().sum::<u64>(), plan.weights());
    }
    assert_eq!(device.counters().bytes(Category::Weights), 2 * plan.weights());
}
