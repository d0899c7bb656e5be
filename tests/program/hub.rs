//! Models of the hub, against a server on this machine that misbehaves as networks do.

use crate::support;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support::golden::{checkpoint_folder, golden_image};
use crate::support::program::{program, text};
use crate::support::server::{COMMIT, Server, Trouble, sha256};
use instructblip::hub::{Event, Hub};
use instructblip::{Checkpoint, Error, InstructBlip};
use serde_json::{Value, json};

const REPO: &str = "tests/tiny-model";
const FOLDER: &str = "models--tests--tiny-model";
const WEIGHTS: &str = "model.safetensors";

/// A server with one of the tiny checkpoints, a cache, and a hub of both that does not wait long.
struct World {
    server: Server,
    folder: tempfile::TempDir,
    hub: Hub,
}

impl World {
    fn new() -> World {
        World::of("ib-llama")
    }

    fn of(checkpoint: &str) -> World {
        let server = Server::start(REPO, &checkpoint_folder(checkpoint));
        let folder = tempfile::tempdir().expect("a folder");
        let mut hub = Hub::new(folder.path().join("hub"));
        (hub.endpoint, hub.pause, hub.silence) =
            (server.address().into(), Duration::from_millis(5), Duration::from_secs(5));
        World { server, folder, hub }
    }

    fn pull(&self) -> instructblip::Result<PathBuf> {
        self.hub.pull(REPO, None, &mut |_| {})
    }

    fn refusal(&self) -> Error {
        self.pull().expect_err("refused")
    }

    /// The program with this cache and server.
    fn program(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command.args(arguments).env("HF_HUB_CACHE", &self.hub.cache).env("HF_ENDPOINT", self.server.address());
        command.env("HF_HOME", self.folder.path()).env("NO_PROXY", "127.0.0.1");
        for name in ["HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN_PATH", "SSL_CERT_FILE"] {
            command.env_remove(name);
        }
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.program(arguments).output().expect("the program runs")
    }

    fn refused(&self, arguments: &[&str], code: i32, parts: &[&str]) {
        let output = self.run(arguments);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(output.stdout.is_empty());
        expect_words(stderr, parts);
    }

    fn blobs(&self) -> PathBuf {
        self.hub.cache.join(FOLDER).join("blobs")
    }

    /// Names in the folder of blobs.
    fn blob_names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.blobs()).expect("blobs");
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
    }

    fn unfinished(&self) -> Vec<PathBuf> {
        let names = self.blob_names().into_iter().filter(|name| name.ends_with(".incomplete"));
        names.map(|name| self.blobs().join(name)).collect()
    }

    /// Requires the weights to be in the snapshot as the server has them, and nothing unfinished beside them.
    fn expect_whole(&self, snapshot: &Path) {
        assert!(std::fs::read(snapshot.join(WEIGHTS)).expect("weights") == self.server.file(WEIGHTS), "other bytes");
        let odd: Vec<_> = self.blob_names().into_iter().filter(|name| name.contains('.')).collect();
        assert!(odd.is_empty(), "{odd:?}");
    }

    /// Requires that nothing has the weights' name.
    fn expect_no_weights(&self) {
        assert!(!self.blobs().join(sha256(&self.server.file(WEIGHTS))).exists());
        assert!(!self.hub.cache.join(FOLDER).join("snapshots").join(COMMIT).join(WEIGHTS).exists());
        assert_eq!(self.hub.find(REPO, None).expect("a name"), None);
    }
}

/// Requires words, and none of the libraries'.
fn expect_words(message: &str, parts: &[&str]) {
    parts.iter().for_each(|part| assert!(message.contains(part), "no {part:?} in {message}"));
    for foreign in ["panicked", "internal error", "ureq", "rustls", "Error(", "Err(", "io: ", "kind:", "protocol:"] {
        assert!(!message.contains(foreign), "a library's words in {message}");
    }
}

/// Requires a download's error, whether trying again may help, and words.
fn expect_download(error: &Error, again: bool, parts: &[&str]) {
    let Error::Download { again: said, .. } = error else { panic!("{error:?}") };
    expect_words(&error.to_string(), parts);
    assert_eq!(*said, again, "{error}");
}

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
    let snapshot = world.hub.pull(REPO, None, &mut |event| match event {
        Event::Plan(plan) => plans.push(plan.clone()),
        Event::Bytes { done, total } => {
            assert!(done <= total);
            last = (done, total);
        }
        _ => {}
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
fn a_cut_connection_is_taken_up_where_it_was_cut() {
    let world = World::new();
    let size = world.server.file(WEIGHTS).len();
    world.server.misbehave(WEIGHTS, 2, Trouble::Cut(100_000));
    let mut retries = Vec::new();
    let pulled = world.hub.pull(REPO, None, &mut |event| {
        if let Event::Retry { file, problem, .. } = event {
            retries.push(format!("{file}: {problem}"));
        }
    });
    world.expect_whole(&pulled.expect("pulled"));
    let seen = world.server.seen(WEIGHTS);
    assert_eq!(seen.len(), 3);
    assert_eq!((seen[0].range.as_deref(), seen[1].range.as_deref()), (None, Some("bytes=100000-")));
    assert_eq!(seen[1].if_range.as_deref(), Some(format!("\"{}\"", sha256(&world.server.file(WEIGHTS))).as_str()));
    assert_eq!(seen.iter().map(|seen| seen.sent).sum::<usize>(), size, "no byte is sent twice");
    assert_eq!(retries, vec![format!("{REPO}: {WEIGHTS}: the connection was cut"); 2]);
}

#[test]
fn the_next_pull_goes_on_where_a_failed_one_stopped() {
    let world = World::new();
    world.server.misbehave(WEIGHTS, 1, Trouble::Cut(150_000));
    world.server.misbehave(WEIGHTS, 99, Trouble::Cut(0));
    expect_download(&world.refusal(), true, &[REPO, WEIGHTS, "cut", "try again later"]);
    world.expect_no_weights();
    assert_eq!(world.unfinished().len(), 1);
    let listed = world.hub.list().expect("a cache");
    assert!(!listed[0].complete && listed[0].bytes > 150_000);
    world.server.behave();
    let mut present = 0;
    let snapshot = world.hub.pull(REPO, None, &mut |event| {
        if let Event::Plan(plan) = event {
            present = plan.present_bytes;
        }
    });
    world.expect_whole(&snapshot.expect("pulled"));
    assert!(present > 150_000);
    let seen = world.server.seen(WEIGHTS);
    assert_eq!(seen[0].range.as_deref(), Some("bytes=150000-"));
    assert_eq!(seen[0].sent, world.server.file(WEIGHTS).len() - 150_000);
}

#[test]
fn a_killed_pull_is_taken_up() {
    let world = World::new();
    world.server.misbehave(WEIGHTS, 1, Trouble::Slow(Duration::from_millis(100)));
    let mut child =
        world.program(&["pull", REPO]).stderr(Stdio::null()).stdout(Stdio::null()).spawn().expect("it runs");
    let begun = Instant::now();
    let written =
        || world.blobs().is_dir() && world.unfinished().iter().any(|p| p.metadata().is_ok_and(|m| m.len() > 60_000));
    while !written() {
        assert!(begun.elapsed() < Duration::from_secs(20) && child.try_wait().expect("a child").is_none());
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().expect("killed");
    child.wait().expect("dead");
    world.expect_no_weights();
    world.server.behave();
    world.expect_whole(&world.pull().expect("pulled"));
    let seen = world.server.seen(WEIGHTS);
    assert!(seen.len() == 1 && seen[0].range.is_some(), "{seen:?}");
    assert!(seen[0].sent < world.server.file(WEIGHTS).len() - 60_000);
}

#[test]
fn wrong_bytes_never_get_a_name() {
    let world = World::new();
    world.server.misbehave(WEIGHTS, 1, Trouble::WrongBytes);
    expect_download(&world.refusal(), true, &[REPO, WEIGHTS, "not those the hub has", "thrown away"]);
    world.expect_no_weights();
    assert!(world.unfinished().is_empty());
    world.expect_whole(&world.pull().expect("pulled"));
    // Small files have git's hash.
    let world = World::new();
    world.server.misbehave("/tokenizer.json", 1, Trouble::WrongBytes);
    expect_download(&world.refusal(), true, &["tokenizer.json", "not those the hub has"]);
    world.expect_no_weights();
}

#[test]
fn what_an_earlier_run_left_damaged_is_fetched_anew() {
    let world = World::new();
    world.server.misbehave(WEIGHTS, 1, Trouble::Cut(150_000));
    world.server.misbehave(WEIGHTS, 99, Trouble::Cut(0));
    world.refusal();
    world.server.behave();
    std::fs::write(&world.unfinished()[0], vec![7; 140_000]).expect("written");
    world.expect_whole(&world.pull().expect("pulled"));
    let ranges: Vec<_> = world.server.seen(WEIGHTS).into_iter().map(|seen| seen.range).collect();
    assert_eq!(ranges, [Some("bytes=140000-".into()), None]);
}

#[test]
fn servers_that_cannot_resume_start_again() {
    let status = Trouble::Status(416, &[]);
    for (trouble, requests) in [(Trouble::IgnoreRange, 2), (Trouble::NewEtag, 2), (status, 3)] {
        let world = World::new();
        world.server.misbehave(WEIGHTS, 1, Trouble::Cut(100_000));
        world.server.misbehave(WEIGHTS, 1, trouble.clone());
        world.expect_whole(&world.pull().expect("pulled"));
        let seen = world.server.seen(WEIGHTS);
        assert_eq!(seen.len(), requests, "{trouble:?}");
        assert!(seen[1].range.is_some() && seen[1].if_range.is_some(), "{trouble:?}");
        assert_eq!(seen[requests - 1].sent, world.server.file(WEIGHTS).len(), "{trouble:?}");
    }
}

#[test]
fn a_server_that_only_repeats_itself_is_left() {
    let world = World::new();
    world.server.misbehave(WEIGHTS, 99, Trouble::CutWhole(100_000));
    expect_download(&world.refusal(), true, &["the connection was cut", "try again later"]);
    assert!(world.server.seen(WEIGHTS).len() <= 6, "{}", world.server.seen(WEIGHTS).len());
    world.expect_no_weights();
}

#[test]
fn versions_without_a_hash_are_checked_by_size() {
    let world = World::new();
    world.server.misbehave("/config.json", 1, Trouble::NewEtag);
    world.server.edit_listing(|listing| {
        for file in listing["siblings"].as_array_mut().expect("files") {
            *file = json!({"rfilename": file["rfilename"]});
        }
    });
    // Every file has the same etag from here on, and none is taken for another.
    let snapshot = world.pull().expect("pulled");
    for name in ["config.json", "tokenizer.json", "qformer_tokenizer/tokenizer.json", WEIGHTS] {
        assert!(std::fs::read(snapshot.join(name)).expect("a file") == world.server.file(name), "{name}");
    }
    // Without a hash two halves could be of two versions: nothing is taken up.
    world.hub.remove(REPO).expect("removed");
    world.server.misbehave(WEIGHTS, 1, Trouble::Cut(9));
    world.server.misbehave(WEIGHTS, 1, Trouble::Cut(150_000));
    world.server.misbehave(WEIGHTS, 4, Trouble::Cut(0));
    world.refusal();
    world.server.behave();
    world.pull().expect("pulled");
    let ranges: Vec<_> = world.server.seen(WEIGHTS).into_iter().map(|seen| seen.range).collect();
    assert_eq!(ranges, [None, None], "a question and a whole file");
}

#[test]
fn refusals_say_what_to_do() {
    let gated: &[_] = &[("X-Error-Code", "GatedRepo")];
    let no_repo: &[_] = &[("X-Error-Code", "RepoNotFound")];
    let no_revision: &[_] = &[("X-Error-Code", "RevisionNotFound")];
    let licence = "accept the licence on";
    for (status, headers, again, parts) in [
        (401, gated, false, ["HF_TOKEN", licence]),
        (401, &[], false, ["HF_TOKEN", licence]),
        (403, gated, false, ["/tests/tiny-model", licence]),
        (401, no_repo, false, ["no such repository", "HF_TOKEN"]),
        (404, no_repo, false, ["no such repository", "check the name"]),
        (404, no_revision, false, ["no such revision", REPO]),
        (404, &[], false, ["no such thing", "404"]),
        (429, &[("Retry-After", "3600")], true, ["too many requests", "3600 seconds"]),
        (407, &[], false, ["proxy", "password"]),
        (418, &[], false, ["refuses", "418"]),
        (503, &[], true, ["trouble of its own", "503"]),
    ] {
        for path in ["/revision/main", WEIGHTS] {
            let world = World::new();
            world.server.misbehave(path, 99, Trouble::Status(status, headers));
            let error = world.refusal();
            expect_download(&error, again, &parts);
            expect_words(&error.to_string(), &[REPO]);
            assert_eq!(world.server.seen(path).len(), if status == 503 { 5 } else { 1 }, "{status}");
        }
    }
    let mut world = World::new();
    world.hub.token = Some("hf_secret".into());
    world.server.misbehave("/revision/main", 9, Trouble::Status(401, &[]));
    let error = world.refusal();
    expect_download(&error, false, &["does not accept the token"]);
    assert!(!error.to_string().contains("secret") && !format!("{:?}", world.hub).contains("secret"));
    world.hub.token = Some("two words".into());
    assert!(matches!(world.refusal(), Error::Request { .. }));
}

#[test]
fn trouble_that_passes_is_waited_out() {
    let world = World::new();
    for path in ["/revision/main", "/config.json", WEIGHTS] {
        world.server.misbehave(path, 1, Trouble::Status(429, &[("Retry-After", "0")]));
        world.server.misbehave(path, 1, Trouble::Status(500, &[]));
    }
    world.server.misbehave(WEIGHTS, 1, Trouble::Garbage);
    world.expect_whole(&world.pull().expect("pulled"));
    let mut world = World::new();
    world.hub.silence = Duration::from_millis(200);
    world.server.misbehave(WEIGHTS, 1, Trouble::Slow(Duration::from_millis(700)));
    world.expect_whole(&world.pull().expect("pulled"));
    assert!(world.server.seen(WEIGHTS).len() >= 2, "a server that says nothing is left");
}

#[test]
fn answers_that_are_not_the_file_are_told_apart() {
    let around = |to: &str| Trouble::Redirect(to.into());
    for (trouble, parts) in [
        (Trouble::Page, ["a web page came", "sign in"]),
        (Trouble::Longer(5), ["bytes where the hub has", "try again"]),
        (Trouble::Longer(-5), ["bytes where the hub has", "try again"]),
        (Trouble::Garbage, ["not HTTP", "tried 5 times"]),
        (around("/tests/tiny-model/resolve/x/model.safetensors"), ["in a circle", WEIGHTS]),
        (around("nowhere"), ["redirects to no address", WEIGHTS]),
    ] {
        let world = World::new();
        world.server.misbehave(WEIGHTS, 99, trouble);
        expect_download(&world.refusal(), true, &parts);
        world.expect_no_weights();
    }
    let world = World::new();
    world.server.misbehave("/revision/main", 9, Trouble::Page);
    expect_download(&world.refusal(), true, &[REPO, "a web page came"]);
    world.server.behave();
    world.server.edit_listing(|listing| *listing = json!(["something else"]));
    expect_download(&world.refusal(), true, &[REPO, "HF_ENDPOINT"]);
}

#[test]
fn no_way_to_the_server_is_said_at_once() {
    let mut world = World::new();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    world.hub.endpoint = format!("http://{closed}");
    expect_download(&world.refusal(), true, &["cannot connect to 127.0.0.1", "refused", "HTTPS_PROXY"]);
    world.hub.endpoint = "http://no-such-host.invalid".into();
    expect_download(&world.refusal(), true, &["cannot find no-such-host.invalid", "network"]);
    let output =
        world.program(&["pull", REPO]).env("HF_ENDPOINT", format!("http://{closed}")).output().expect("it runs");
    assert_eq!(output.status.code(), Some(75), "{}", text(&output.stderr));
    let output = world.program(&["pull", REPO]).env("HF_ENDPOINT", "hub.example").output().expect("it runs");
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
}

#[test]
fn the_token_stays_with_the_hub() {
    let mut world = World::new();
    let other = Server::start(REPO, &checkpoint_folder("ib-llama"));
    world.server.send_elsewhere(&other);
    other.misbehave(WEIGHTS, 1, Trouble::Cut(100_000));
    world.hub.token = Some("hf_secret".into());
    world.expect_whole(&world.pull().expect("pulled"));
    let elsewhere = other.seen("");
    assert_eq!(elsewhere.len(), 2);
    assert!(elsewhere.iter().all(|seen| seen.authorization.is_none()), "{elsewhere:?}");
    assert_eq!(elsewhere[1].range.as_deref(), Some("bytes=100000-"));
    let here = world.server.seen("");
    assert!(here.iter().all(|seen| seen.authorization.as_deref() == Some("Bearer hf_secret")));
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
fn offline_never_touches_the_network() {
    let mut world = World::new();
    let offline = |world: &World, arguments: &[&str]| {
        world.program(arguments).env("HF_HUB_OFFLINE", "1").output().expect("the program runs")
    };
    let output = offline(&world, &["pull", REPO]);
    assert_eq!(output.status.code(), Some(3));
    expect_words(text(&output.stderr), &[REPO, "HF_HUB_OFFLINE", "not in the cache"]);
    assert!(world.server.seen("").is_empty());
    let snapshot = world.pull().expect("pulled");
    world.server.behave();
    world.hub.offline = true;
    assert_eq!(world.pull().expect("in the cache"), snapshot);
    assert_eq!(world.hub.checkpoint(Path::new(REPO)).expect("a checkpoint").root(), snapshot);
    let output = offline(&world, &["pull", REPO]);
    assert_eq!(text(&output.stdout).trim_end(), snapshot.display().to_string());
    assert!(world.server.seen("").is_empty());
}

/// Reads variables as `huggingface_hub` 2.4 does; a value such as `~/hf` comes as it is from files that no shell reads.
#[test]
fn the_environment_is_read_as_pythons_tools_read_it() {
    let world = World::new();
    let home = world.folder.path().display().to_string();
    let pull = |variables: &[(&str, &str)]| {
        let mut command = world.program(&["pull", REPO]);
        command.current_dir(world.folder.path()).env("HOME", &home).env("USERPROFILE", &home);
        command.env_remove("HF_HUB_CACHE").env_remove("HF_HOME").env_remove("XDG_CACHE_HOME");
        command.envs(variables.iter().copied()).output().expect("the program runs")
    };
    for (variables, folder) in [
        (vec![("HF_HOME", "~/hf")], "hf/hub"),
        (vec![("HF_HOME", "$HOME/hf")], "hf/hub"),
        (vec![("HF_HUB_CACHE", "${HOME}/c/$DEEP"), ("DEEP", "d")], "c/d"),
        (vec![("HUGGINGFACE_HUB_CACHE", "~/old")], "old"),
        (vec![("XDG_CACHE_HOME", "~/x")], "x/huggingface/hub"),
        (vec![], ".cache/huggingface/hub"),
    ] {
        let output = pull(&variables);
        let snapshot = PathBuf::from(text(&output.stdout).trim_end());
        let want = world.folder.path().join(folder).join(FOLDER).join("snapshots").join(COMMIT);
        assert_eq!(snapshot, want, "{variables:?}: {}", text(&output.stderr));
    }
    assert!(!world.folder.path().join("~").exists() && !world.folder.path().join("$HOME").exists());
    let output = pull(&[("HF_HOME", "~somebody/hf")]);
    assert_eq!(output.status.code(), Some(3));
    expect_words(text(&output.stderr), &["HF_HOME", "~somebody/hf", "write the folder out"]);

    world.server.behave();
    for (variables, code) in [
        (vec![("TRANSFORMERS_OFFLINE", "TRUE"), ("HF_HOME", "~/none")], 3),
        (vec![("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1"), ("HF_HOME", "~/hf")], 0),
        (vec![("TRANSFORMERS_OFFLINE", "yes"), ("HF_HOME", "~/hf")], 0),
    ] {
        let output = pull(&variables);
        assert_eq!(output.status.code(), Some(code), "{variables:?}: {}", text(&output.stderr));
        let asked = !world.server.seen("").is_empty();
        assert_eq!(asked, variables[0].0 == "HF_HUB_OFFLINE", "{variables:?}");
        world.server.behave();
    }

    let file = world.folder.path().join("token file");
    std::fs::write(&file, " hf_secret\n").expect("written");
    let path = ("HF_TOKEN_PATH", "$HOME/token file");
    for (variables, want) in [
        (vec![path], Some("Bearer hf_secret")),
        (vec![path, ("HUGGING_FACE_HUB_TOKEN", "hf_old\n")], Some("Bearer hf_old")),
        (vec![path, ("HF_TOKEN", "hf_new")], Some("Bearer hf_new")),
        (vec![path, ("HF_TOKEN", "hf_new"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")], None),
    ] {
        world.server.behave();
        let output = pull(&[variables.as_slice(), &[("HF_HOME", "~/hf")]].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(world.server.seen("main")[0].authorization.as_deref(), want, "{variables:?}");
    }
}

/// A cache whose blobs were removed to make room has links that lead nowhere.
#[cfg(unix)]
#[test]
fn links_to_blobs_that_are_gone_are_told_and_mended() {
    let world = World::new();
    let snapshot = world.pull().expect("pulled");
    for name in [WEIGHTS, "tokenizer.json", "config.json"] {
        let blob = std::fs::canonicalize(snapshot.join(name)).expect("a blob");
        std::fs::remove_file(blob).expect("removed");
        let error =
            InstructBlip::check(&Checkpoint::directory(&snapshot).expect("a folder"), None).expect_err("refused");
        let Error::Checkpoint { file, problem } = &error else { panic!("{error:?}") };
        assert!(file.ends_with(name), "{error}");
        expect_words(problem, &["no file named", "is gone", "instructblip pull"]);
        world.pull().expect("pulled again");
        world.expect_whole(&snapshot);
    }
}

#[test]
fn two_pulls_at_once_share_the_work() {
    let world = World::new();
    world.server.misbehave(WEIGHTS, 1, Trouble::Slow(Duration::from_millis(20)));
    let pull =
        || world.program(&["pull", REPO]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let outputs = [pull(), pull(), pull()].map(|child| child.wait_with_output().expect("it ends"));
    for output in &outputs {
        assert!(output.status.success(), "{}", text(&output.stderr));
        world.expect_whole(Path::new(text(&output.stdout).trim_end()));
    }
    assert_eq!(world.server.seen(WEIGHTS).len(), 1);
    assert!(outputs.iter().any(|output| text(&output.stderr).contains("waiting")));
}

#[test]
fn two_pulls_at_once_are_right_without_the_lock() {
    let world = World::new();
    world.server.misbehave(WEIGHTS, 2, Trouble::Slow(Duration::from_millis(20)));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| world.pull());
        while world.server.seen(WEIGHTS).is_empty() {
            std::thread::sleep(Duration::from_millis(2));
        }
        // A lock that others do not see is no lock.
        std::fs::remove_dir_all(world.hub.cache.join(".locks")).expect("removed");
        let second = world.pull().expect("pulled");
        let first = first.join().expect("no panic").expect("pulled");
        assert_eq!(first, second);
        world.expect_whole(&first);
    });
    assert_eq!(world.server.seen(WEIGHTS).len(), 2, "both fetched it, each for itself");
}

#[test]
fn a_pull_whose_file_was_taken_over_stops() {
    let world = World::new();
    world.server.misbehave(WEIGHTS, 1, Trouble::Slow(Duration::from_millis(20)));
    let other = std::thread::scope(|scope| {
        let pull = scope.spawn(|| world.pull());
        let taken = loop {
            let large = |path: &PathBuf| path.metadata().is_ok_and(|m| m.len() > 30_000);
            if let Some(path) = world.blobs().is_dir().then(|| world.unfinished().into_iter().find(large)).flatten() {
                break path;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let name = taken.display().to_string();
        let other = name.replace(".ib-", ".ib-taken");
        std::fs::rename(taken, &other).expect("taken over");
        let error = pull.join().expect("no panic").expect_err("stopped");
        expect_download(&error, true, &["another process has taken the unfinished file over"]);
        PathBuf::from(other)
    });
    assert!(other.metadata().expect("left alone").len() < world.server.file(WEIGHTS).len() as u64);
    world.expect_whole(&world.pull().expect("pulled"));
    assert!(world.server.seen(WEIGHTS)[1].range.is_some());
}

#[test]
fn models_are_listed_and_removed() {
    let world = World::new();
    assert!(text(&world.run(&["ls"]).stderr).contains("no models in"));
    assert_eq!(text(&world.run(&["ls", "--json"]).stdout), "[]\n");
    let snapshot = world.pull().expect("pulled");
    let other = world.hub.cache.join("models--someone--llava/snapshots").join(COMMIT);
    std::fs::create_dir_all(&other).expect("made");
    std::fs::write(other.join("config.json"), "{\"model_type\": \"llava\"}").expect("written");
    std::fs::create_dir_all(world.hub.cache.join("models--bert")).expect("made");
    let listed: Value = serde_json::from_slice(&world.run(&["ls", "--json"]).stdout).expect("JSON");
    let size: u64 =
        std::fs::read_dir(world.blobs()).expect("blobs").map(|e| e.expect("one").metadata().expect("it").len()).sum();
    let want = json!([{
        "repo": REPO, "revisions": ["main"], "commit": COMMIT, "bytes": size, "complete": true,
        "licence": "other (test-licence)", "model_type": "instructblip", "path": snapshot.display().to_string(),
    }]);
    assert_eq!(listed, want);
    let output = world.run(&["ls"]);
    expect_words(text(&output.stdout), &[REPO, "main (01234567)", "complete", "kB", "other (test-licence)", FOLDER]);
    expect_words(text(&output.stderr), &["1 of other kinds"]);
    expect_words(text(&world.run(&["ls", "--all"]).stdout), &["someone/llava"]);

    std::fs::remove_file(snapshot.join(WEIGHTS)).expect("removed");
    expect_words(text(&world.run(&["ls"]).stdout), &["incomplete"]);
    world.refused(&["rm", "tests/other"], 3, &["tests/other", "instructblip ls"]);
    let output = world.run(&["rm", REPO]);
    expect_words(text(&output.stderr), &["removed", REPO, "freed", "kB"]);
    assert!(!world.hub.cache.join(FOLDER).exists() && other.exists());
    assert_eq!(world.hub.find(REPO, None).expect("a name"), None);
    world.refused(&["rm", REPO], 3, &[REPO, "is not in"]);
}

#[test]
fn a_model_in_use_by_a_pull_is_not_removed() {
    let world = World::new();
    world.server.misbehave(WEIGHTS, 1, Trouble::Slow(Duration::from_millis(20)));
    std::thread::scope(|scope| {
        let pull = scope.spawn(|| world.pull());
        while world.server.seen(WEIGHTS).is_empty() {
            std::thread::sleep(Duration::from_millis(2));
        }
        expect_download(&world.hub.remove(REPO).expect_err("busy"), true, &[REPO, "is being pulled"]);
        world.expect_whole(&pull.join().expect("no panic").expect("pulled"));
    });
}

#[test]
fn odd_names_touch_nothing() {
    let world = World::new();
    world.pull().expect("pulled");
    let precious = world.folder.path().join("models--x");
    std::fs::create_dir_all(&precious).expect("made");
    for name in [
        "../x",
        "..",
        "a/../b",
        "/etc",
        "",
        "tests",
        "tests/tiny-model/..",
        "a--b/c",
        "tests/tiny model",
        "x/\u{1b}[2J",
    ] {
        for command in ["pull", "rm"] {
            world.refused(&[command, "--", name], 3, &["no name of a repository"]);
        }
    }
    for revision in ["../main", "a b", "", "/main", "x/../y"] {
        world.refused(&["pull", REPO, "--revision", revision], 3, &["no revision"]);
        assert!(world.hub.find(REPO, Some(revision)).is_err());
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&precious, world.hub.cache.join("models--a--link")).expect("linked");
        world.refused(&["rm", "a/link"], 3, &["not a folder of the cache"]);
    }
    assert!(precious.is_dir());
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

#[test]
fn disks_without_room_and_caches_that_are_none_are_told() {
    let world = World::new();
    world.server.edit_listing(|listing| {
        let files = listing["siblings"].as_array_mut().expect("files");
        files.iter_mut().filter(|f| f["rfilename"] == WEIGHTS).for_each(|file| file["size"] = json!(1u64 << 60));
    });
    expect_download(&world.refusal(), false, &["needs 1152921504.6 GB more", "free at", "HF_HUB_CACHE"]);
    assert!(world.server.seen(WEIGHTS).is_empty());
    let mut world = World::new();
    world.hub.cache = world.folder.path().join("file");
    std::fs::write(&world.hub.cache, "").expect("written");
    expect_download(&world.refusal(), false, &["file", "cannot be written to", "HF_HUB_CACHE"]);
    assert!(matches!(world.hub.list(), Err(Error::Io { .. })));
}

#[test]
fn without_links_files_move_into_the_snapshot() {
    let mut world = World::new();
    world.hub.links = false;
    let snapshot = world.pull().expect("pulled");
    assert!(!snapshot.join(WEIGHTS).is_symlink() && world.blob_names().is_empty());
    world.expect_whole(&snapshot);
    world.server.behave();
    assert_eq!(world.pull().expect("there"), snapshot);
    assert_eq!(world.server.seen("").len(), 1);
    assert!(world.hub.list().expect("a cache")[0].complete);
    assert!(world.hub.remove(REPO).expect("removed") > 100_000);
}

#[test]
fn names_are_folders_first_and_then_models_of_the_cache() {
    let world = World::new();
    let image = golden_image("exact-56x56.png").display().to_string();
    world.refused(
        &["ask", &image, "a", "--model", REPO],
        3,
        &[REPO, "fetch it with: instructblip pull tests/tiny-model"],
    );
    let pull = "instructblip pull tests/tiny-model --revision v2";
    world.refused(&["ask", &image, "a", "--model", "tests/tiny-model@v2"], 3, &[pull]);
    world.refused(&["ask", &image, "a", "--model", "no-such-folder"], 3, &["no such directory"]);
    assert!(world.server.seen("").is_empty(), "nothing is fetched unless asked for");
    let snapshot = world.hub.pull(REPO, Some("refs/pr/1"), &mut |_| {}).expect("pulled");
    for revision in [None, Some("refs/pr/1"), Some(COMMIT)] {
        assert_eq!(world.hub.find(REPO, revision).expect("a name").as_ref(), Some(&snapshot), "{revision:?}");
    }
    assert_eq!(world.hub.find(REPO, Some("v2")).expect("a name"), None);
    // A folder of the same name in the current directory wins.
    std::fs::create_dir_all(world.folder.path().join(REPO)).expect("made");
    let output = world.program(&["ask", &image, "a", "--model", REPO]).current_dir(world.folder.path()).output();
    expect_words(text(&output.expect("it runs").stderr), &["config.json", "missing"]);
}
