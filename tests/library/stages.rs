//! Every stage of tiny checkpoints against transformers in float32: pixels, vision, Q-Former, projection, logits, and
//! the greedy answer. The checkpoints differ in everything a published one may differ in (tests/golden/README.md).

use crate::support;
use crate::support::golden::{
    Golden, checkpoint_folder, golden_image, max_difference, relative_l2, tests_folder, values,
};
use crate::support::models::load;
use instructblip::model::{ForwardOptions, NamedTensor};
use instructblip::runtime::{AdapterClass, Caps, Forms, KvFormat, Tuning};
use instructblip::{Device, DeviceOptions, GenerateOptions, Image, InstructBlip, Question};

/// The stages in the order that they are computed.
const STAGES: [&str; 7] = [
    "vision_last_hidden_state",
    "vision_pooler_output",
    "qformer_last_hidden_state",
    "language_model_inputs",
    "encoder_last_hidden_state",
    "logits",
    "loss",
];
const INPUTS: [&str; 4] = ["input_ids", "attention_mask", "qformer_input_ids", "qformer_attention_mask"];

/// A lossy picture comes out of another decoder a little different, so only the answer is compared.
fn is_lossy(image: &str) -> bool {
    image.ends_with(".jpg")
}

/// The pictures of a case: one, or the frames of a video.
fn pictures(names: &str) -> Vec<Image> {
    let open = |name| Image::open(golden_image(name)).expect("a readable picture");
    names.split(',').map(open).collect()
}

fn check_case(model: &mut InstructBlip, golden: &Golden, case: usize, label: &str) {
    let about = |key: &str| golden.about(&format!("{case}.{key}"));
    let images = pictures(about("image"));
    let prompt = about("prompt");
    let question = Question { images: &images, prompt, qformer_prompt: None };
    let label = format!("{label}, case {case} ({}, {prompt:?})", about("image"));
    let ints = |name: &str| golden.find(&format!("{case}.{name}")).map_or(Vec::new(), |(_, values)| values.clone());
    let options = ForwardOptions {
        labels: ints("labels").iter().map(|&label| label as i64).collect(),
        decoder_input_ids: ints("decoder_input_ids").iter().map(|&id| id as u32).collect(),
        ..Default::default()
    };
    let ours = model.forward(&question, &options).expect("a forward pass");
    let find = |name: &str| -> &NamedTensor { ours.iter().find(|t| t.name == name).expect("a named tensor") };
    let known = |name: &str| golden.find(&format!("{case}.{name}"));
    for name in INPUTS.iter().filter(|name| known(name).is_some()) {
        let want = golden.tensor(&format!("{case}.{name}"));
        assert_eq!((&find(name).shape, values(find(name))), (&want.0, want.1.clone()), "{label}: {name}");
    }
    let pixels = max_difference(&values(find("pixel_values")), &golden.tensor(&format!("{case}.pixel_values")).1);
    if is_lossy(about("image")) {
        // Pixels after normalisation: one level of 255 is 0.015, and these two pictures differ by at most three.
        assert!(pixels <= 0.05, "{label}: pixels differ by {pixels}");
    } else {
        assert!(pixels <= 1e-6, "{label}: pixels differ by {pixels}");
        for name in STAGES {
            known(name).inspect(|want| check_stage(&label, find(name), want, support::stage_bound(model.device())));
        }
    }
    let options = GenerateOptions::up_to(golden.about("max_new_tokens").parse().expect("a number"));
    let mut answer = model.stream(&question, &options).expect("an answer");
    let text: String = answer.by_ref().map(|piece| piece.expect("a piece")).collect();
    assert_eq!(answer.token_ids(), golden.ids(&format!("{case}.greedy_ids")), "{label}: greedy ids");
    assert_eq!(text, about("greedy_text"), "{label}: text");
}

fn check_stage(label: &str, got: &NamedTensor, (shape, want): &(Vec<usize>, Vec<f64>), bound: f64) {
    assert_eq!(&got.shape, shape, "{label}: shape of {}", got.name);
    let got_values = values(got);
    let error = relative_l2(&got_values, want);
    assert!(error <= bound, "{label}: {} is off by {error:e} (relative L2)", got.name);
    if got.name == "logits" {
        let range = want.iter().fold(f64::MIN, |a, &b| a.max(b)) - want.iter().fold(f64::MAX, |a, &b| a.min(b));
        let worst = max_difference(&got_values, want);
        assert!(worst <= 2e-3 * range, "{label}: a logit is off by {worst:e} in a range of {range}");
    }
}

fn check_checkpoints(device: &Device, how: &str, wanted: impl Fn(&str) -> bool) {
    let root = tests_folder().join("golden/checkpoints");
    let mut names: Vec<String> = std::fs::read_dir(root.as_path())
        .expect("golden checkpoints")
        .map(|entry| entry.expect("a folder entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert!(names.len() >= 20, "the whole family, and dimensions of any size");
    for name in names.into_iter().filter(|name| wanted(name)) {
        let folder = root.join(&name);
        let golden = Golden::read(&folder.join("golden.safetensors"));
        let mut model = load(device, &folder);
        (0..golden.cases()).for_each(|case| check_case(&mut model, &golden, case, &format!("{name} {how}")));
    }
}

#[test]
fn tiny_checkpoints_match_transformers() {
    let Some(device) = support::shared_device() else { return };
    check_checkpoints(&device, "on the best device", |_| true);
}

#[test]
fn tiny_checkpoints_match_transformers_with_default_limits_and_no_features() {
    let Some(device) = support::portable_device() else { return };
    assert!(device.caps().subgroup_size.is_none());
    check_checkpoints(&device, "on a portable device", |_| true);
}

/// One of each kind of language model, and one of dimensions that are multiples of nothing: every op is checked as well
/// by its own tests.
const SOME: [&str; 4] = ["ib-llama", "ib-opt", "ib-t5-erf", "ragged-llama"];

#[test]
fn tiny_checkpoints_match_transformers_with_checked_shaders() {
    let Some(device) = support::checked_device() else { return };
    check_checkpoints(&device, "with checked shaders", |name| SOME.contains(&name));
}

/// Keys and values of f16, as GPUs have them of themselves. T5 has them only where they are asked for.
#[test]
fn tiny_checkpoints_match_transformers_with_caches_of_f16() {
    let Some(device) = support::shared_device() else { return };
    let device = device.with_kv_cache(Some(KvFormat::F16));
    check_checkpoints(&device, "with caches of f16", |name| !name.contains("t5"));
}

/// A GPU that multiplies matrices does so of itself, a software adapter where it is asked to.
#[test]
fn tiny_checkpoints_match_transformers_by_matrices() {
    let Some(device) = support::shared_device() else { return };
    let Caps { class, matrix, .. } = device.caps();
    let Some(matrix) = matrix.filter(|_| class == AdapterClass::Cpu) else {
        eprintln!("NOT RUN: software forms by matrices: {} is no software adapter that has them", device.name());
        return;
    };
    for kernel in ["linear", "attention"] {
        let form = format!("{kernel}_matrix{}", matrix.edge());
        let forms = Forms::Named(form.clone());
        // Norms between layers by matrices as on a GPU.
        let tuning = Some(Tuning { fuse_norm: true, ..device.caps().tuning });
        let options = DeviceOptions { forms, tuning, ..Default::default() };
        let device = support::device_with(&options).expect("it was there before");
        check_checkpoints(&device, &format!("by {form}"), |name| SOME.contains(&name));
        #[cfg(feature = "embedded-model")]
        check_embedded(&device);
    }
}

/// Hidden states and attention weights of the first layers, by label.
#[test]
fn taps_are_the_hidden_states_and_attentions_of_transformers() {
    for device in [support::shared_device(), support::portable_device()].into_iter().flatten() {
        check_taps(&device);
    }
}

fn check_taps(device: &Device) {
    for (name, count) in [("ib-llama", 9), ("ib-opt", 9), ("ib-t5-erf", 11), ("ragged-llama", 9), ("ragged-t5", 11)] {
        let folder = checkpoint_folder(name);
        let golden = Golden::of(name);
        let taps: Vec<String> = golden.names().filter_map(|name| Some(name.strip_prefix("tap.")?.to_owned())).collect();
        assert_eq!(taps.len(), count, "{name}");
        let decoder_ids = golden.find("0.decoder_input_ids").map_or(Vec::new(), |_| golden.ids("0.decoder_input_ids"));
        let options = ForwardOptions { taps: taps.clone(), decoder_input_ids: decoder_ids, ..Default::default() };
        let images = pictures(golden.about("0.image"));
        let question = Question { images: &images, prompt: golden.about("0.prompt"), qformer_prompt: None };
        let ours = load(device, &folder).forward(&question, &options).expect("a forward pass");
        for tap in taps {
            let got = values(ours.iter().find(|t| t.name == tap).expect("a tap"));
            let want = &golden.tensor(&format!("tap.{tap}")).1;
            assert_eq!(got.len(), want.len(), "{name}: {tap}");
            let error = relative_l2(&got, want);
            assert!(error <= support::stage_bound(device), "{name}: {tap} is off by {error:e}");
        }
    }
}

#[cfg(feature = "embedded-model")]
#[test]
fn embedded_model_matches_transformers() {
    let Some(device) = support::shared_device() else { return };
    check_embedded(&device);
}

#[cfg(feature = "embedded-model")]
fn check_embedded(device: &Device) {
    let golden = Golden::read(&tests_folder().join("shapes/golden.safetensors"));
    let mut model = InstructBlip::embedded(device).expect("the embedded model");
    let names = [
        ("vision_last_hidden_state", "vision.last_hidden_state"),
        ("vision_pooler_output", "vision.pooler_output"),
        ("qformer_last_hidden_state", "qformer.last_hidden_state"),
        ("language_model_inputs", "language_projection"),
        ("logits", "logits"),
    ];
    for case in 0..2 {
        let about = |key: &str| golden.about(&format!("{case}.{key}"));
        let image = Image::open(tests_folder().join("shapes").join(about("image"))).expect("a picture");
        let ours =
            model.forward(&Question::new(&image, about("prompt")), &ForwardOptions::default()).expect("a forward pass");
        for (ours_name, name) in names {
            let tensor = ours.iter().find(|t| t.name == ours_name).expect("a stage");
            let want = golden.tensor(&format!("{case}.{name}"));
            check_stage(&format!("embedded, case {case}"), tensor, want, support::stage_bound(device));
        }
        let reply = model.ask(&image, about("prompt"), &GenerateOptions::default()).expect("an answer");
        assert_eq!(reply.token_ids, golden.ids(&format!("{case}.greedy_ids")));
        assert_eq!(reply.text, about("greedy_text"));
    }
}
