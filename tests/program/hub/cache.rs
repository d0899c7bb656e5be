//! The cache: where it is, what is in it, and the names that models of it have.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use instructblip::{Checkpoint, Error, InstructBlip};
use serde_json::{Value, json};

use super::{FOLDER, REPO, WEIGHTS, World, expect_download, expect_words};
use crate::support::golden::golden_image;
use crate::support::program::text;
use crate::support::server::{COMMIT, Trouble};

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
        let Error::NotTheFile { file, .. } = &error else { panic!("{error:?}") };
        assert!(file.ends_with(name), "{error}");
        expect_words(&error.to_string(), &["no file named", "is gone", "fetch the model again with Hub::pull"]);
        world.pull().expect("pulled again");
        world.expect_whole(&snapshot);
    }
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
    let snapshot = world.hub.pull(REPO, Some("refs/pr/1"), &mut |_| ControlFlow::Continue(())).expect("pulled");
    for revision in [None, Some("refs/pr/1"), Some(COMMIT)] {
        assert_eq!(world.hub.find(REPO, revision).expect("a name").as_ref(), Some(&snapshot), "{revision:?}");
    }
    assert_eq!(world.hub.find(REPO, Some("v2")).expect("a name"), None);
    // A folder of the same name in the current directory wins.
    std::fs::create_dir_all(world.folder.path().join(REPO)).expect("made");
    let output = world.program(&["ask", &image, "a", "--model", REPO]).current_dir(world.folder.path()).output();
    expect_words(text(&output.expect("it runs").stderr), &["config.json", "missing"]);
}
