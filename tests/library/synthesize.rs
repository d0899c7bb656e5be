//! Synthetic checkpoints: that they load and answer as others do, and that writing them is safe and repeatable.

use crate::support;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::support::fixtures::narrow;
use crate::support::models;
use crate::support::program::{refused, run, sample, text};
use instructblip::runtime::{Watch, Work};
use instructblip::shapes::Layers;
use instructblip::synthesize::{Stored, Synthesis, synthesize};
use instructblip::{Error, GenerateOptions, Image};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

/// A published shape, much narrower and shallower.
fn tiny(name: &str) -> Value {
    narrow(name, Layers { language: Some(2), vision: Some(1), qformer: Some(2) }, 1)
}

fn small_shards() -> Synthesis {
    Synthesis { shard_bytes: 60_000, ..Synthesis::default() }
}

fn write(document: &Value, folder: &Path, options: &Synthesis) {
    let told: Arc<Mutex<Vec<(u64, u64)>>> = Arc::default();
    let heard = told.clone();
    let watch = Watch::new(move |work| {
        if let Work::Writing { done, total } = *work {
            heard.lock().expect("a list").push((done, total));
        }
        ControlFlow::Continue(())
    });
    let written = synthesize(document, folder, options, &watch);
    let written = written.expect("written");
    let told = told.lock().expect("a list");
    assert!(told.iter().all(|&(_, total)| total == written.bytes));
    assert!(told.is_sorted_by(|before, after| before.0 < after.0), "{told:?}");
    assert_eq!(told.last().map(|&(done, _)| done), Some(written.bytes));
}

/// Every file below a folder, by its name from there.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        match path.is_dir() {
            true => found.extend(contents(&path).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes))),
            false => drop(found.insert(name, std::fs::read(&path).expect("a file"))),
        }
    }
    found
}

#[test]
fn every_family_loads_and_answers() {
    let Some(device) = support::device() else { return };
    let image = Image::open(sample("11.png")).expect("a picture");
    let stored = [Stored::F16, Stored::Bf16, Stored::F32, Stored::F16];
    let names = ["instructblip-vicuna-7b", "instructblip-flan-t5-xl", "blip2-opt-2.7b", "blip2-flan-t5-xxl"];
    for (name, stored) in names.into_iter().zip(stored) {
        let folder = tempfile::tempdir().expect("a folder");
        write(&tiny(name), folder.path(), &Synthesis { stored: Some(stored), ..small_shards() });
        let mut model = models::load(&device, folder.path());
        let options = GenerateOptions { min_new_tokens: 6, ..GenerateOptions::up_to(6) };
        let reply = model.ask(&image, "What is in the image?", &options).expect("an answer");
        assert_eq!(reply.token_ids.len(), 6, "{name}");
        let scores = model.score(&instructblip::Question::new(&image, "What is it?"), &["a star"]).expect("scores");
        assert!(scores[0].sum.is_finite() && scores[0].sum < -0.1, "{name}: {}", scores[0].sum);
    }
}

#[test]
fn the_index_names_every_shard_and_tensor() {
    let folder = tempfile::tempdir().expect("a folder");
    write(&tiny("vicuna-7b"), folder.path(), &small_shards());
    let files = contents(folder.path());
    let index: Value = serde_json::from_slice(&files["model.safetensors.index.json"]).expect("JSON");
    let map = index["weight_map"].as_object().expect("a map");
    let (mut tensors, mut bytes) = (0, 0);
    let shards: Vec<_> = files.iter().filter(|(name, _)| name.ends_with(".safetensors")).collect();
    assert!(shards.len() > 3, "{} shards", shards.len());
    for (i, (name, content)) in shards.iter().enumerate() {
        assert_eq!(**name, format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len()));
        let shard = SafeTensors::deserialize(content).expect("a valid shard");
        for (tensor, view) in shard.iter() {
            assert_eq!(map[tensor], **name, "{tensor}");
            assert_eq!(view.dtype(), Dtype::F16, "{tensor}");
            bytes += view.data().len();
        }
        tensors += shard.len();
    }
    assert_eq!((tensors, json!(bytes)), (map.len(), index["metadata"]["total_size"].clone()));
    assert_eq!(map["query_tokens"], map["vision_model.embeddings.class_embedding"], "the first come first");
    assert_eq!(map["language_model.lm_head.weight"], **shards.last().expect("shards").0, "the last come last");
}

#[test]
fn values_have_the_variance_of_their_layer() {
    let folder = tempfile::tempdir().expect("a folder");
    write(&tiny("opt-2.7b"), folder.path(), &Synthesis::default());
    let files = contents(folder.path());
    assert!(!files.contains_key("model.safetensors.index.json"), "one file needs no index");
    let file = SafeTensors::deserialize(&files["model.safetensors"]).expect("a valid file");
    let values = |name: &str| -> Vec<f32> {
        let view = file.tensor(name).expect("a tensor");
        assert_eq!(view.dtype(), Dtype::F32, "as published");
        view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    };
    let layers = [
        ("vision_model.embeddings.patch_embedding.weight", 3 * 14 * 14),
        ("vision_model.embeddings.position_embedding", 48),
        ("query_tokens", 32),
        ("language_model.model.decoder.embed_tokens.weight", 64),
        ("language_model.model.decoder.layers.1.fc2.weight", 96),
    ];
    for (name, inputs) in layers {
        let values = values(name);
        let (count, limit) = (values.len() as f64, (3.0 / f64::from(inputs)).sqrt());
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / count;
        let variance = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / count * f64::from(inputs);
        assert!(mean.abs() < limit * 3.0 / count.sqrt(), "{name}: mean {mean}");
        assert!((variance - 1.0).abs() < 4.0 / count.sqrt(), "{name}: variance {variance} of a layer's output");
        assert!(values.iter().all(|v| f64::from(v.abs()) <= limit * 1.0001), "{name}");
        let distinct = values.iter().map(|v| v.to_bits()).collect::<BTreeSet<_>>().len();
        assert!(distinct as f64 > 0.75 * count.min(65_536.0 * 0.63), "{name}: {distinct} distinct of {count}");
    }
    assert!(values("language_model.model.decoder.layers.0.fc1.bias").iter().all(|&v| v == 0.0));
    assert!(values("qformer.layernorm.weight").iter().all(|&v| v == 1.0));
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let folders = [0, 0, 7].map(|seed| {
        let folder = tempfile::tempdir().expect("a folder");
        write(&tiny("blip2-flan-t5-xl"), folder.path(), &Synthesis { seed, ..small_shards() });
        contents(folder.path())
    });
    assert!(folders[0] == folders[1], "the same files");
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&folders[0]), names(&folders[2]));
    let shards = folders[0].iter().filter(|(name, _)| name.ends_with(".safetensors"));
    assert!(shards.into_iter().all(|(name, bytes)| folders[2][name] != *bytes), "another seed, other values");
}

#[test]
fn a_folder_with_files_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("precious"), "bytes").expect("a file");
    let result = synthesize(&tiny("vicuna-7b"), folder.path(), &Synthesis::default(), &Watch::default());
    let Err(Error::Request { problem }) = result else { panic!("{result:?}") };
    assert!(problem.contains("is not empty"), "{problem}");
    assert_eq!(contents(folder.path()).into_keys().collect::<Vec<_>>(), ["precious"]);
    let folder = folder.path().display().to_string();
    refused(&["synthesize", "blip2-opt-2.7b", &folder], 3, &["is not empty", &folder]);
    refused(&["synthesize", "blip2-opt-2.7b", &format!("{folder}/precious/below")], 3, &["precious"]);
    refused(&["synthesize", "vicuna", &folder], 2, &["instructblip-vicuna-7b"]);
    refused(&["synthesize", "blip2-opt-2.7b", &folder, "--shard-size", "5 apples"], 2, &["5GB"]);
    refused(
        &["synthesize", "blip2-opt-2.7b", &format!("{folder}/new"), "--layers", "0"],
        3,
        &["num_hidden_layers is 0"],
    );
}

#[test]
fn what_cannot_be_written_is_refused_before_anything_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let target = folder.path().join("new");
    let mut taken = tiny("vicuna-7b");
    taken["image_token_index"] = 100.into();
    let mut unknown = tiny("vicuna-7b");
    unknown["dtype"] = "int8".into();
    for (document, part) in [(taken, "image_token_index is 100"), (unknown, "dtype")] {
        let error = synthesize(&document, &target, &Synthesis::default(), &Watch::default()).expect_err("refused");
        assert!(error.to_string().contains(part), "{error}");
        assert!(!target.exists());
    }
}

#[test]
fn the_command_is_hidden_but_explains_itself() {
    let help = run(&["--help"]);
    assert!(!text(&help.stdout).contains("synthesize"), "{}", text(&help.stdout));
    let help = run(&["synthesize", "--help"]);
    assert!(help.status.success() && text(&help.stdout).contains("--shard-size"), "{}", text(&help.stdout));
}
