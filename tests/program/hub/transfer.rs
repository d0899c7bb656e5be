//! Transfers that are cut, damaged or refused, and several at once.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use instructblip::Error;
use instructblip::hub::Event;
use serde_json::json;

use super::{REPO, WEIGHTS, World, expect_download, expect_words};
use crate::support::golden::checkpoint_folder;
use crate::support::program::text;
use crate::support::server::{Server, Trouble, sha256};

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
        ControlFlow::Continue(())
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
        ControlFlow::Continue(())
    });
    world.expect_whole(&snapshot.expect("pulled"));
    assert!(present > 150_000);
    let seen = world.server.seen(WEIGHTS);
    assert_eq!(seen[0].range.as_deref(), Some("bytes=150000-"));
    assert_eq!(seen[0].sent, world.server.file(WEIGHTS).len() - 150_000);
}

#[test]
fn a_pull_that_is_stopped_ends_at_once_and_is_taken_up() {
    let world = World::new();
    let stopped = world.hub.pull(REPO, None, &mut |event| match event {
        Event::Bytes { done, total } if done > total / 2 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert!(matches!(stopped, Err(Error::Cancelled)), "{stopped:?}");
    world.expect_no_weights();
    assert_eq!(world.unfinished().len(), 1);
    world.server.behave();
    world.expect_whole(&world.pull().expect("pulled"));
    let seen = world.server.seen(WEIGHTS);
    assert!(seen.last().is_some_and(|seen| seen.range.is_some()), "no byte is fetched twice: {seen:?}");
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
