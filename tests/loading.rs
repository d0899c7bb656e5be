//! Loading in every way gives the same model: mapped or read, in place or staged, quantised on the way or beforehand.
//! What is wrong with quantised files, and files that change while they are read, is told.

mod support;

use std::path::Path;

use instructblip::model::{ForwardOptions, LoadOptions, NamedTensor, Values, quantize};
use instructblip::runtime::{Category, Device, WeightFormat};
use instructblip::shapes::Layers;
use instructblip::synthesize::{Synthesis, synthesize};
use instructblip::weights::{Formats, TensorFiles};
use instructblip::{Checkpoint, Error, GenerateOptions, Image, InstructBlip, Question};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use support::fixtures::{Fixture, Stored, narrow};
use support::golden::{checkpoint_folder, tests_folder};
use support::models::load;

fn options(formats: Formats) -> LoadOptions {
    LoadOptions { formats, ..LoadOptions::default() }
}

fn open(device: &Device, folder: &Path, options: &LoadOptions) -> instructblip::Result<InstructBlip> {
    InstructBlip::load_with(device, &Checkpoint::directory(folder)?, options, &mut |_, _| {})
}

fn picture() -> Image {
    Image::from_rgb(5, 4, (0..60).map(|v| v * 4).collect()).expect("a picture")
}

fn logits(model: &mut InstructBlip) -> Vec<f32> {
    let (image, none) = (picture(), ForwardOptions::default());
    let tensors: Vec<NamedTensor> = model.forward(&Question::new(&image, "What is this?"), &none).expect("a pass");
    let logits = tensors.into_iter().find(|t| t.name == "logits").expect("logits");
    let Values::F32(values) = logits.values else { panic!("logits are f32") };
    values
}

#[test]
fn mapped_and_read_files_give_the_same_bits() {
    let Some(device) = support::device() else { return };
    for name in ["mha-untied-d88", "bf16-theta", "f32-qkvbias-off", "ib-t5-erf"] {
        let folder = checkpoint_folder(name);
        let read = LoadOptions { mmap: false, ..LoadOptions::default() };
        let mapped = logits(&mut open(&device, &folder, &LoadOptions::default()).expect("a model"));
        assert_eq!(mapped, logits(&mut open(&device, &folder, &read).expect("a model")), "{name}");
    }
}

#[test]
fn memory_written_in_place_and_through_staging_holds_the_same() {
    let (Some(own), Some(portable)) = (support::device(), support::portable_device()) else { return };
    for formats in [Formats::default(), Formats::usual(WeightFormat::Q4)] {
        let folder = checkpoint_folder("gqa-tied-theta");
        let [in_place, staged] = [&own, &portable].map(|device| {
            let mut model = open(device, &folder, &options(formats)).expect("a model");
            model.ask(&picture(), "What is this?", &GenerateOptions::up_to(12)).expect("an answer").token_ids
        });
        assert_eq!(in_place, staged);
    }
}

#[test]
fn a_quantised_checkpoint_gives_what_its_source_gives_quantised_on_the_way() {
    let Some(device) = support::device() else { return };
    for (name, format) in [
        ("bf16-theta", WeightFormat::Q8),
        ("bf16-theta", WeightFormat::Q4),
        ("ib-t5-erf", WeightFormat::Q4),
        ("b2-opt", WeightFormat::Q8),
    ] {
        let source = checkpoint_folder(name);
        let folder = tempfile::tempdir().expect("a folder");
        let target = folder.path().join("small");
        let formats = Formats { qformer: Some(format), ..Formats::usual(format) };
        let checkpoint = Checkpoint::directory(&source).expect("a folder");
        let written = quantize(&checkpoint, &target, formats, 40_000, &mut |_, _| {}).expect("written");
        assert!(written.files > 1, "{name}: small shards");
        let on_the_way = logits(&mut open(&device, &source, &options(formats)).expect("a model"));
        let mut stored = open(&device, &target, &LoadOptions::default()).expect("a model");
        assert_eq!(logits(&mut stored), on_the_way, "{name} {format}");
        // Formats can be chosen for a quantised file, too.
        let wider = open(&device, &target, &options(Formats::usual(WeightFormat::F16))).expect("a model");
        assert!(wider.memory().weights() >= stored.memory().weights());
    }
}

#[test]
fn quantised_files_have_the_documented_names_types_and_shapes() {
    let folder = tempfile::tempdir().expect("a folder");
    let target = folder.path().join("small");
    let mut last = (0, 1);
    quantize(
        &instructblip::embedded::SHAPES,
        &target,
        Formats::usual(WeightFormat::Q4),
        u64::MAX,
        &mut |done, total| last = (done, total),
    )
    .expect("written");
    assert_eq!(last.0, last.1, "progress ends at the end");
    let bytes = std::fs::read(target.join("model.safetensors")).expect("a file");
    let file = SafeTensors::deserialize(&bytes).expect("a valid file");
    let is = |name: &str, dtype: Dtype, shape: &[usize]| {
        let view = file.tensor(name).unwrap_or_else(|_| panic!("no {name}"));
        assert_eq!((view.dtype(), view.shape()), (dtype, shape), "{name}");
    };
    let layer = "language_model.model.layers.0";
    is(&format!("{layer}.mlp.down_proj.weight.q4"), Dtype::U8, &[192, 192]);
    is(&format!("{layer}.mlp.down_proj.weight.scales"), Dtype::F16, &[192, 12, 2]);
    is("language_model.lm_head.weight.q8", Dtype::I8, &[640, 192]);
    is("language_model.lm_head.weight.scales", Dtype::F16, &[640, 6]);
    is("vision_model.encoder.layers.0.mlp.fc1.weight.q8", Dtype::I8, &[384, 192]);
    is("language_model.model.embed_tokens.weight", Dtype::F16, &[640, 192]);
    is("qformer.encoder.layer.0.attention.attention.query.weight", Dtype::F16, &[160, 160]);
    is("language_projection.weight", Dtype::F16, &[192, 160]);
    is("query_tokens", Dtype::F16, &[1, 16, 160]);
    let config: Value =
        serde_json::from_slice(&std::fs::read(target.join("config.json")).expect("a file")).expect("JSON");
    let told =
        json!({"quant_method": "instructblip", "group_size": 32, "vision": "q8", "qformer": "f16", "language": "q4"});
    assert_eq!(config["quantization_config"], told);
    for name in ["tokenizer.json", "qformer_tokenizer/tokenizer.json", "preprocessor_config.json"] {
        let source = instructblip::embedded::SHAPES.read(name).expect("readable").expect("there");
        assert_eq!(std::fs::read(target.join(name)).expect("a file"), source, "{name}");
    }
}

#[test]
fn quantising_leaves_nothing_behind_when_it_fails_and_touches_no_other_folder() {
    let fixture = Fixture::new();
    fixture.edit_tensors(|name, t| {
        Some(if name == "language_model.model.layers.1.mlp.up_proj.weight" { t.map(|_| f32::NAN) } else { t })
    });
    let folder = tempfile::tempdir().expect("a folder");
    let target = folder.path().join("small");
    let checkpoint = Checkpoint::directory(fixture.path()).expect("a folder");
    let quantise = |target: &Path| {
        quantize(&checkpoint, target, Formats::usual(WeightFormat::Q8), u64::MAX, &mut |_, _| {}).expect_err("refused")
    };
    let error = quantise(&target);
    assert!(error.to_string().contains("up_proj.weight holds") && error.to_string().contains("not finite"), "{error}");
    assert!(!target.exists(), "nothing is left");
    std::fs::create_dir(&target).expect("a folder");
    std::fs::write(target.join("mine"), "mine").expect("written");
    assert!(matches!(quantise(&target), Error::Request { .. }));
    assert_eq!(std::fs::read_to_string(target.join("mine")).expect("still there"), "mine");
}

/// OPT's tied matrix may be stored under either name; under the output layer's it serves twice and is written once.
#[test]
fn a_tied_matrix_is_written_once() {
    let Some(device) = support::device() else { return };
    let fixture = Fixture::of("b2-opt");
    let bytes = fixture.read("model.safetensors");
    let text = "language_model.model.decoder.embed_tokens.weight";
    support::fixtures::rename_tensor(fixture.path(), text, "language_model.lm_head.weight");
    assert_ne!(fixture.read("model.safetensors"), bytes);
    let folder = tempfile::tempdir().expect("a folder");
    let target = folder.path().join("small");
    let checkpoint = Checkpoint::directory(fixture.path()).expect("a folder");
    let formats = Formats::usual(WeightFormat::Q8);
    quantize(&checkpoint, &target, formats, 1, &mut |_, _| {}).expect("written");
    let on_the_way = logits(&mut open(&device, fixture.path(), &options(formats)).expect("a model"));
    assert_eq!(logits(&mut open(&device, &target, &LoadOptions::default()).expect("a model")), on_the_way);
}

/// Accuracy on the embedded model's own questions: at most one point is lost in 8 bits, at most three in 4.
#[test]
fn rounding_costs_the_embedded_model_no_more_than_promised() {
    let Some(device) = support::device() else { return };
    let text = std::fs::read_to_string(tests_folder().join("shapes/eval.jsonl")).expect("questions");
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let string = |row: &Value, key: &str| row[key].as_str().expect("a string").to_string();
    let image = |row: &Value| Image::open(tests_folder().join("shapes").join(string(row, "image"))).expect("a picture");
    let images: Vec<Image> = rows.iter().map(image).collect();
    let prompts: Vec<String> = rows.iter().map(|row| string(row, "prompt")).collect();
    let accuracy = |formats: Formats| {
        let embedded = &instructblip::embedded::SHAPES;
        let mut model = InstructBlip::load_with(&device, embedded, &options(formats), &mut |_, _| {}).expect("a model");
        let mut right = 0;
        for first in (0..rows.len()).step_by(16) {
            let some = first..(first + 16).min(rows.len());
            let questions: Vec<_> = some.clone().map(|i| Question::new(&images[i], &prompts[i])).collect();
            let replies = model.answer(&questions, &GenerateOptions::up_to(32), &mut |_| {}).expect("answers");
            right += some.zip(&replies).filter(|(i, reply)| reply.text == string(&rows[*i], "expected")).count();
        }
        100.0 * right as f64 / rows.len() as f64
    };
    let f16 = accuracy(Formats::default());
    for (format, points) in [(WeightFormat::Q8, 1.0), (WeightFormat::Q4, 3.0)] {
        let rounded = accuracy(Formats::usual(format));
        println!("{format}: {rounded:.2} %, {f16:.2} % in f16");
        assert!(rounded >= f16 - points, "{format}: {rounded} %, {f16} % in f16");
    }
}

#[test]
fn damaged_quantised_tensors_are_refused_by_name() {
    let Some(device) = support::device() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let small = folder.path().join("small");
    let source = Checkpoint::directory(checkpoint_folder("bf16-theta")).expect("a folder");
    quantize(&source, &small, Formats::usual(WeightFormat::Q8), u64::MAX, &mut |_, _| {}).expect("written");
    let whole = std::fs::read(small.join("model.safetensors")).expect("a file");
    let matrix = "language_model.model.layers.0.self_attn.o_proj.weight";
    type Edit = fn(Stored) -> Option<Stored>;
    let cases: [(&str, Edit, &str); 5] = [
        (".scales", |_| None, "missing"),
        (".q8", |_| None, "missing"),
        (".q8", |t| Some(Stored { dtype: Dtype::U8, ..t }), "U8; supported are I8"),
        (".scales", |t| Some(Stored { shape: vec![t.shape[0] * t.shape[1], 1], ..t }), "has shape"),
        (
            ".scales",
            |mut t| {
                t.bytes[..2].copy_from_slice(&[0x00, 0x7e]);
                Some(t)
            },
            "1 values that are not finite",
        ),
    ];
    for (suffix, edit, part) in cases {
        std::fs::write(small.join("model.safetensors"), &whole).expect("written");
        support::fixtures::edit_tensors(
            &small,
            |name, t| {
                if name == format!("{matrix}{suffix}") { edit(t) } else { Some(t) }
            },
        );
        let error = open(&device, &small, &LoadOptions::default()).err().expect("refused").to_string();
        assert!(error.contains(part) && error.contains("o_proj"), "{suffix}: no {part:?} in {error}");
        assert_eq!(device.counters().bytes(Category::Weights), 0);
    }
}

/// A file that somebody cuts at any moment while it is mapped and read by several threads: an error or a model, and the
/// program lives.
#[test]
fn a_mapped_file_may_be_cut_at_any_moment() {
    let Some(device) = support::device() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let target = folder.path().join("model");
    let layers = Layers { language: Some(6), vision: Some(2), qformer: Some(2) };
    synthesize(&narrow("vicuna-7b", layers, 8), &target, &Synthesis::default(), &mut |_, _| {}).expect("written");
    let file = target.join("model.safetensors");
    let whole = std::fs::read(&file).expect("a file");
    let mut cut = 0;
    for attempt in 0..12u64 {
        std::fs::write(&file, &whole).expect("written");
        let (path, bytes) = (file.clone(), whole.len() as u64);
        let cutter = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(2 + 4 * attempt));
            let file = std::fs::OpenOptions::new().write(true).open(path).expect("a file");
            // To a page, and within the last one, where there is no signal.
            file.set_len(if attempt % 2 == 0 { 4096 * (1 + attempt) } else { bytes - 100 }).expect("cut");
        });
        match open(&device, &target, &LoadOptions::default()) {
            Ok(_) => {}
            Err(Error::Io { source, .. }) => {
                assert!(source.to_string().contains("while it was being read"), "{source}");
                cut += 1;
            }
            // Cut before it was opened.
            Err(Error::Checkpoint { problem, .. }) => assert!(problem.contains("truncated"), "{problem}"),
            // The zeros in the place of what was cut may come out as anything but a crash.
            Err(other) => panic!("{other}"),
        }
        cutter.join().expect("cut");
    }
    println!("{cut} of 12 were cut while they were read");
}

#[test]
fn values_that_overflow_on_the_way_are_told_with_the_stage() {
    let Some(device) = support::device() else { return };
    for (tensor, stage) in [
        ("vision_model.post_layernorm.weight", "vision tower"),
        ("qformer.encoder.layer.1.output_query.LayerNorm.weight", "Q-Former"),
        ("language_model.model.norm.weight", "language model"),
    ] {
        let fixture = Fixture::new();
        fixture.edit_tensors(|name, t| Some(if name == tensor { t.map(|_| 3e38) } else { t }));
        let mut model = load(&device, fixture.path());
        for options in [GenerateOptions::up_to(3), GenerateOptions { num_beams: 2, ..GenerateOptions::up_to(3) }] {
            match model.ask(&picture(), "What is this?", &options) {
                Err(Error::NotFinite { stage: told }) => assert_eq!(told, stage),
                other => panic!("{tensor}: {other:?}"),
            }
        }
    }
}

#[test]
fn what_was_seen_while_loading_is_reported() {
    let Some(device) = support::device() else { return };
    let fixture = Fixture::new();
    fixture.edit_tensors(|name, t| {
        Some(match name {
            "language_projection.weight" => {
                let values: Vec<f32> = t.values().enumerate().map(|(i, v)| if i < 7 { 1e-9 } else { v }).collect();
                t.with(&values)
            }
            "language_model.model.norm.weight" => t.map(|_| 123.5),
            _ => t,
        })
    });
    let checkpoint = Checkpoint::directory(fixture.path()).expect("a folder");
    let (mut told, total) = (0, TensorFiles::open(&checkpoint, true).expect("files").data_bytes());
    let model = InstructBlip::load_with(&device, &checkpoint, &LoadOptions::default(), &mut |done, _| told = done)
        .expect("a model");
    let report = model.load_report();
    assert_eq!((report.scan.flushed, report.scan.not_finite), (7, 0));
    assert_eq!((report.scan.max_abs, report.largest.as_str()), (123.5, "language_model.model.norm.weight"));
    assert!(report.bytes <= total && told <= total && report.bytes > total * 9 / 10);
}
