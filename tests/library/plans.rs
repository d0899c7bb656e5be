//! The recordings of real configurations, without a device: every dispatch, scratch buffers and bytes, against
//! `tests/golden/plans/*.txt`. `UPDATE_PLANS=1 cargo test --test library plans` writes the files anew.

use std::path::{Path, PathBuf};

use crate::support::models;
use instructblip::config::Config;
use instructblip::model::Parts;
use instructblip::runtime::{Caps, Mask, MatrixSize, Recorder, Tensor};
use instructblip::shapes::Shape;
use instructblip::weights::Loader;

fn parts(config: Config) -> (Config, Parts) {
    let parts = Parts::load(&mut Loader::shapes(), &config).expect("shapes");
    (config, parts)
}

fn embedded() -> (Config, Parts) {
    let json = include_bytes!("../../models/shapes/config.json");
    parts(Config::parse(Path::new("config.json"), json).expect("a valid configuration"))
}

fn published(name: &str) -> (Config, Parts) {
    parts(Shape::named(name).expect("a published shape").config())
}

fn vision(caps: Caps, (config, parts): &(Config, Parts)) -> Recorder {
    let mut r = Recorder::new(caps);
    let side = config.vision.image_size;
    parts.vision.record(&mut r, &Tensor::unbacked(3 * side, side), Mask::None);
    r
}

fn qformer(caps: Caps, (config, parts): &(Config, Parts)) -> Recorder {
    let mut r = Recorder::new(caps);
    let image = Tensor::unbacked(config.vision.num_positions(), config.vision.hidden_size);
    let words = Tensor::unbacked(1, 12);
    parts.qformer.record_one(&mut r, &image, Some(&words));
    r
}

fn prefill(caps: Caps, (config, parts): &(Config, Parts)) -> Recorder {
    let mut r = Recorder::new(caps);
    let logits = models::record_prompt(&mut r, config, parts, config.num_query_tokens + 10);
    r.argmax(&mut Tensor::unbacked(1, 1), &logits);
    r
}

fn decode(caps: Caps, (_, parts): &(Config, Parts)) -> Recorder {
    let mut r = Recorder::new(caps);
    models::record_step(&mut r, parts, 1);
    r
}

fn check(name: &str, recording: &Recorder) {
    let (buffers, bytes) = recording.scratch();
    let gflop = recording.flops() as f64 / 1e9;
    let text = format!(
        "{} dispatches, {buffers} scratch buffers of {bytes} bytes in all, {gflop:.3} GFLOP\n{}",
        recording.len(),
        recording.listing()
    );
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/plans/{name}.txt"));
    if std::env::var_os("UPDATE_PLANS").is_some() {
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        std::fs::write(&file, &text).expect("written");
    }
    let want = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let first = text.lines().zip(want.lines()).position(|(a, b)| a != b);
    assert!(text == want, "{name} differs from {}, first at line {:?}", file.display(), first.map(|i| i + 1));
}

#[test]
fn embedded_model_on_a_software_adapter() {
    let model = embedded();
    check("shapes-vision-software", &vision(Caps::SOFTWARE, &model));
    check("shapes-qformer-software", &qformer(Caps::SOFTWARE, &model));
    check("shapes-prefill-software", &prefill(Caps::SOFTWARE, &model));
    check("shapes-decode-software", &decode(Caps::SOFTWARE, &model));
}

#[test]
fn vicuna_7b_on_a_gpu_that_multiplies_matrices() {
    let caps = Caps {
        subgroups: true,
        subgroup_size: Some(32),
        matrix: Some(MatrixSize::Sixteen),
        f16: true,
        coherent: true,
        max_workgroup_bytes: 48 << 10,
        max_binding_bytes: 2 << 30,
        max_buffer_bytes: 2 << 30,
        ..Caps::PORTABLE
    };
    let model = published("vicuna-7b");
    check("vicuna-7b-vision-matrix", &vision(caps, &model));
    check("vicuna-7b-decode-matrix", &decode(caps, &model));
}

#[test]
fn vicuna_7b_on_a_portable_gpu() {
    let model = published("vicuna-7b");
    check("vicuna-7b-vision-portable", &vision(Caps::PORTABLE, &model));
    check("vicuna-7b-qformer-portable", &qformer(Caps::PORTABLE, &model));
    check("vicuna-7b-prefill-portable", &prefill(Caps::PORTABLE, &model));
    check("vicuna-7b-decode-portable", &decode(Caps::PORTABLE, &model));
}

#[test]
fn flan_t5_xl_and_opt_on_a_portable_gpu() {
    let model = published("flan-t5-xl");
    check("flan-t5-xl-prefill-portable", &prefill(Caps::PORTABLE, &model));
    check("flan-t5-xl-decode-portable", &decode(Caps::PORTABLE, &model));
    let model = published("opt-2.7b");
    check("opt-2.7b-prefill-portable", &prefill(Caps::PORTABLE, &model));
    check("opt-2.7b-decode-portable", &decode(Caps::PORTABLE, &model));
}

#[test]
fn scratch_does_not_grow_with_depth() {
    let model = published("vicuna-7b");
    let vision = vision(Caps::PORTABLE, &model).scratch();
    assert!(vision.0 <= 6 && vision.1 < 16 << 20, "ViT-g: {vision:?}");
    let decode = decode(Caps::PORTABLE, &model).scratch();
    assert!(decode.0 <= 6 && decode.1 < 512 << 10, "LLaMA decode: {decode:?}");
}
