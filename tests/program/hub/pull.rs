//! The files that a pull fetches, and models that it refuses before their weights.

use std::ops::ControlFlow;
use std::path::PathBuf;

use instructblip::hub::Event;
use instructblip::{Checkpoint, InstructBlip};
use serde_json::{Value, json};

use super::{FOLDER, REPO, WEIGHTS, World, expect_download, expect_words};
use crate::support;
use crate::support::golden::{checkpoint_folder, golden_image};
use crate::support::program::text;
use crate::support::server::{COMMIT, Server, Trouble};

#[test]
fn a_model_is_pulled_and_then_answers_by_its_name() {
    let world = World::new();
    let output = world.run(&["pull", REPO]);
    let stderr = text(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    expect_words(stderr, &[REPO, "main (01234567)", "files", "kB", "licence: other (test-licence)", FOLDER]);
    let snapshot = PathBuf::from(text(&output.stdout).trim_end());
    world.expect_whole(&snapshot);
    assert!(snapshot.join("qformer_tokenizer/tokenizer.json").is_file());
    assert!(snapshot.join(WEIGHTS).is_symlink() || cfg!(not(unix)));
    // As other tools that share the cache see it.
    let others = hf_hub::Cache::new(world.hub.cache.clone()).model(REPO.into());
    assert_eq!(others.get(WEIGHTS), Some(snapshot.join(WEIGHTS)));
    // Never fetched: pickles, and what the model does not need.
    assert!(world.server.seen("pytorch_model.bin").is_empty() && !snapshot.join("pytorch_model.bin").exists());

    world.server.behave();
    let again = world.run(&["pull", REPO]);
    expect_words(text(&again.stderr), &["everything is there"]);
    assert_eq!(world.server.seen("").len(), 1, "only the listing is asked for");
    let quiet = world.run(&["pull", REPO, "--quiet"]);
    assert_eq!((text(&quiet.stdout), text(&quiet.stderr)), (text(&output.stdout), ""));

    if support::device().is_none() {
        return;
    }
    let image = golden_image("exact-56x56.png").display().to_string();
    let ask = |model: &str| {
        let output = world.run(&["ask", &image, "a", "--max-new-tokens", "3", "--json", "--model", model]);
        let json: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
        json["token_ids"].clone()
    };
    let want = ask(&checkpoint_folder("ib-llama").display().to_string());
    for name in [REPO.to_string(), format!("{REPO}@main"), format!("{REPO}@{COMMIT}")] {
        assert_eq!(ask(&name), want, "{name}");
    }
}

#[test]
fn shards_are_those_the_index_names() {
    let world = World::of("gqa-tied-theta");
    world.server.edit_files(|files| drop(files.insert("model-extra.safetensors".into(), vec![0; 9])));
    let mut last = (0, 0);
    let mut plans = Vec::new();
    let snapshot = world.hub.pull(REPO, None, &mut |event| {
        match event {
            Event::Plan(plan) => plans.push(plan.clone()),
            Event::Bytes { done, total } => {
                assert!(done <= total);
                last = (done, total);
            }
            _ => {}
        }
        ControlFlow::Continue(())
    });
    let snapshot = snapshot.expect("pulled");
    assert_eq!((plans.len(), plans[0].bytes, plans[0].bytes), (1, last.0, last.1));
    assert_eq!(plans[0].licence.as_deref(), Some("other (test-licence)"));
    for i in 1..=4 {
        let name = format!("model-0000{i}-of-00004.safetensors");
        assert!(std::fs::read(snapshot.join(&name)).expect("a shard") == world.server.file(&name));
    }
    assert!(!snapshot.join("model-extra.safetensors").exists());
    for (name, part) in [("../../x.safetensors", "plain file name"), ("model-9.safetensors", "does not have")] {
        let world = World::of("gqa-tied-theta");
        let index = json!({"weight_map": {"a": name}}).to_string().into_bytes();
        world.server.edit_files(|files| drop(files.insert("model.safetensors.index.json".into(), index.clone())));
        expect_download(&world.refusal(), false, &["model.safetensors.index.json", name, part]);
    }
}

/// The reference looks at an index only where there is no single file.
#[test]
fn a_single_file_is_pulled_without_the_shards_beside_it() {
    let world = World::new();
    let index = json!({"weight_map": {"a": "model-00001-of-00001.safetensors"}}).to_string().into_bytes();
    world.server.edit_files(|files| {
        files.insert("model.safetensors.index.json".into(), index.clone());
        files.insert("model-00001-of-00001.safetensors".into(), vec![0; 99]);
    });
    let snapshot = world.pull().expect("pulled");
    world.expect_whole(&snapshot);
    assert!(!snapshot.join("model.safetensors.index.json").exists());
    assert!(world.server.seen("index.json").is_empty() && world.server.seen("of-00001.safetensors").is_empty());
}

/// transformers 4.52 to 4.57 kept the settings of a video's pictures in a file of their own.
#[test]
fn settings_are_pulled_from_whatever_file_has_them() {
    let world = World::of("video-llama");
    let settings: Value = serde_json::from_slice(&world.server.file("processor_config.json")).expect("JSON");
    let (own, video) = (json!({"num_query_tokens": settings["num_query_tokens"]}), &settings["video_processor"]);
    world.server.edit_files(|files| {
        files.insert("processor_config.json".into(), own.to_string().into_bytes());
        files.insert("video_preprocessor_config.json".into(), video.to_string().into_bytes());
    });
    let snapshot = world.pull().expect("pulled");
    assert!(snapshot.join("video_preprocessor_config.json").is_file());
    InstructBlip::check(&Checkpoint::directory(snapshot).expect("a folder"), None).expect("a whole model");
    world.hub.remove(REPO).expect("removed");
    world.server.behave();
    world.server.edit_files(|files| drop(files.remove("video_preprocessor_config.json")));
    expect_download(&world.refusal(), false, &["preprocessor_config.json", "missing", REPO]);
    assert!(world.server.seen(WEIGHTS).is_empty());
}

/// An adapter is pulled as it is; the model it is for is another repository.
#[test]
fn an_adapter_is_pulled_and_names_its_base() {
    let adapter = |base: &str, world: &World| {
        let config = json!({"peft_type": "LORA", "base_model_name_or_path": base}).to_string().into_bytes();
        world.server.edit_files(|files| {
            files.retain(|name, _| name.starts_with("tokenizer") || name == "README.md");
            files.insert("adapter_config.json".into(), config.clone());
            files.insert("adapter_model.safetensors".into(), vec![7; 99]);
        });
    };
    let world = World::new();
    adapter("Salesforce/instructblip-vicuna-7b", &world);
    let output = world.run(&["pull", REPO]);
    let stderr = text(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    expect_words(stderr, &["an adapter for", "instructblip pull Salesforce/instructblip-vicuna-7b"]);
    let snapshot = PathBuf::from(text(&output.stdout).trim_end());
    assert_eq!(std::fs::read(snapshot.join("adapter_model.safetensors")).expect("weights"), [7; 99]);
    assert_eq!(world.hub.find(REPO, None).expect("a name"), Some(snapshot.clone()));
    assert!(world.hub.list().expect("a cache")[0].complete);
    std::fs::remove_file(snapshot.join("adapter_model.safetensors")).expect("removed");
    assert_eq!(world.hub.find(REPO, None).expect("a name"), None);

    let world = World::new();
    adapter("/home/me/base", &world);
    expect_words(text(&world.run(&["pull", REPO]).stderr), &["\"/home/me/base\"", "folder of its author"]);
    // Beside its base it is fetched with it.
    let world = World::new();
    world.server.edit_files(|files| {
        files.insert("adapter_config.json".into(), b"{}".to_vec());
        files.insert("adapter_model.safetensors".into(), vec![7; 99]);
    });
    let snapshot = world.pull().expect("pulled");
    world.expect_whole(&snapshot);
    assert!(snapshot.join("adapter_model.safetensors").is_file() && snapshot.join("adapter_config.json").is_file());
    for (there, part) in [("adapter_model.bin", "adapter_model.bin only"), ("x", "no adapter as peft writes one")] {
        let world = World::new();
        adapter("a/b", &world);
        world.server.edit_files(|files| {
            files.remove("adapter_model.safetensors");
            files.insert(there.into(), b"pickle".to_vec());
        });
        expect_download(&world.refusal(), false, &["no adapter_model.safetensors", part]);
        assert!(!world.hub.cache.exists());
    }
}

#[test]
fn what_the_listing_leaves_out_is_asked_for() {
    let strip = |world: &World| {
        world.server.edit_listing(|listing| {
            for file in listing["siblings"].as_array_mut().expect("files") {
                *file = json!({"rfilename": file["rfilename"]});
            }
        });
    };
    let world = World::new();
    strip(&world);
    world.expect_whole(&world.pull().expect("pulled"));
    let world = World::new();
    let other = Server::start(REPO, &checkpoint_folder("ib-llama"));
    world.server.send_elsewhere(&other);
    strip(&world);
    other.misbehave(WEIGHTS, 1, Trouble::WrongBytes);
    expect_download(&world.refusal(), true, &["not those the hub has"]);
    world.expect_whole(&world.pull().expect("pulled"));
    assert_eq!(other.seen("").len(), 2, "the hub tells itself what is elsewhere");
}

#[test]
fn what_a_server_names_cannot_leave_the_cache() {
    let hostile = |edit: &dyn Fn(&mut Value)| {
        let world = World::new();
        world.server.edit_listing(edit);
        world
    };
    for sha in ["../../x", "", "main", "0123456789ABCDEF0123456789ABCDEF01234567"] {
        let world = hostile(&|listing| listing["sha"] = json!(sha));
        expect_download(&world.refusal(), true, &[REPO, "does not describe"]);
        assert!(!world.hub.cache.exists(), "{sha:?}");
    }
    let world = hostile(&|listing| {
        let names =
            ["../../x", "/tmp/x", "..", "qformer_tokenizer/../../x.json", "C:\\x", "qformer_tokenizer/\u{0}.json"];
        let files = listing["siblings"].as_array_mut().expect("files");
        files.extend(names.map(|name| json!({"rfilename": name, "size": 1, "blobId": "../../x"})));
    });
    world.expect_whole(&world.pull().expect("pulled"));
    let outside: Vec<_> =
        std::fs::read_dir(world.folder.path()).expect("a folder").flatten().map(|e| e.file_name()).collect();
    assert_eq!(outside, ["hub"]);
    // A hash that is none is asked for; here the server's answer is as it should be.
    let world = hostile(&|listing| {
        let files = listing["siblings"].as_array_mut().expect("files");
        files.iter_mut().for_each(|file| file["blobId"] = json!("../../../x"));
    });
    world.expect_whole(&world.pull().expect("pulled"));
    let world = hostile(&|listing| {
        let files = listing["siblings"].as_array_mut().expect("files");
        files.iter_mut().for_each(|file| file["size"] = json!(u64::MAX));
    });
    expect_download(&world.refusal(), false, &["config.json", "far too many"]);
}

#[test]
fn models_that_could_not_run_are_refused_before_their_weights() {
    let world = World::new();
    world.server.edit_files(|files| files.retain(|name, _| !name.ends_with(".safetensors")));
    expect_download(&world.refusal(), false, &["pickled", "save_pretrained", REPO]);
    world.server.edit_files(|files| files.retain(|name, _| !name.ends_with(".bin")));
    expect_download(&world.refusal(), false, &["has neither"]);
    assert!(!world.hub.cache.exists());
    let world = World::new();
    world.server.edit_files(|files| files.retain(|name, _| name != "tokenizer.json"));
    expect_download(&world.refusal(), false, &["has no tokenizer.json", "save_pretrained", REPO]);
    // What the loader would refuse is refused before the weights.
    let language = r#"{"model_type": "blip-2", "text_config": {"model_type": "gpt2"}}"#;
    for (name, text, parts) in [
        ("config.json", r#"{"model_type": "llava"}"#, ["llava", "\"instructblip\""]),
        ("config.json", language, ["\"gpt2\"", "\"llama\""]),
        ("config.json", "<!DOCTYPE html><html>", ["config.json", "web page"]),
        ("tokenizer.json", "version https://git-lfs.github.com/spec/v1\n", ["tokenizer.json", "git-lfs pointer"]),
        ("tokenizer.json", "{}", ["tokenizer.json", "damaged"]),
        ("qformer_tokenizer/tokenizer.json", "{}", ["qformer_tokenizer/tokenizer.json", "damaged"]),
        ("processor_config.json", r#"{"num_query_tokens": 7}"#, ["processor_config.json", "\"num_query_tokens\" is 7"]),
    ] {
        let world = World::new();
        world.server.edit_files(|files| drop(files.insert(name.into(), text.into())));
        let error = world.refusal();
        expect_download(&error, false, &parts);
        expect_words(&error.to_string(), &[REPO]);
        assert!(world.server.seen(WEIGHTS).is_empty(), "{name}");
    }
    let world = World::new();
    world.server.edit_files(|files| files.retain(|name, _| !name.starts_with("qformer_tokenizer/")));
    expect_download(&world.refusal(), false, &["has no qformer_tokenizer/tokenizer.json", "another repository"]);
    assert!(world.server.seen(WEIGHTS).is_empty() && world.server.seen("tokenizer.json").is_empty());
    // BLIP-2's Q-Former reads no instruction.
    World::of("b2-opt").pull().expect("pulled");
}
