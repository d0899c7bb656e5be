//! Outputs of jobs: what is taken for done, what is refused, and how parts go together.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use instructblip::Error;
use instructblip::jobs::{Defaults, Disk, Input, Job, Merge, Service, Shard, merge, serve};
use serde_json::Value;

use super::stand_in::{Never, StandIn};
use super::{Bench, Wanted, ids, others};

fn shard(index: u32, of: u32) -> Wanted {
    Wanted { shard: Shard { index, of }, ..Wanted::default() }
}

/// A bench with these rows.
fn of_rows(rows: &str) -> Bench {
    let bench = Bench::new(0);
    std::fs::write(bench.path("rows.jsonl"), rows).expect("written");
    bench
}

#[test]
fn shards_make_the_same_file() {
    let whole = Bench::new(100);
    whole.run(&Wanted::default()).expect("an outcome");
    let wanted = whole.merged(&["out.jsonl"]);
    assert_eq!(wanted.lines().count(), 100);
    assert!(!wanted.contains("\"ms\""), "times differ from run to run");
    for of in [2, 7] {
        let bench = Bench::new(100);
        for index in 0..of {
            assert!(bench.run(&shard(index, of)).expect("an outcome").complete);
        }
        let parts: Vec<String> = (0..of).map(|index| Shard { index, of }.file_name()).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        assert!(bench.merged(&parts) == wanted, "{of} shards");
        let part = bench.path(parts[0]);
        let some = merge(&Merge {
            input: &bench.input(),
            defaults: Some(&Defaults::default()),
            parts: vec![part.clone(), part],
            output: Some(&bench.path("none.jsonl")),
            times: false,
            disk: Disk::default(),
        });
        let some = some.expect("a merge");
        assert!(some.missing.count > 40 && some.missing.first.len() == 10 && some.doubled.count > 0, "{some:?}");
        assert!(!bench.path("none.jsonl").exists(), "nothing is written unless it is whole");
    }
}

#[test]
fn only_what_changed_is_asked_again() {
    let bench = Bench::new(10);
    for i in 0..10 {
        std::fs::write(bench.path(&format!("{i}.png")), "a picture").expect("written");
    }
    let now = |wanted: &Wanted| bench.run(wanted).expect("an outcome").counts.now;
    let usual = Wanted::default();
    assert_eq!((now(&usual), now(&usual)), (10, 0));
    let rows = bench.read("rows.jsonl").replace("is 3?", "was 3?");
    std::fs::write(bench.path("rows.jsonl"), rows).expect("written");
    assert_eq!((now(&usual), now(&usual)), (1, 0), "another prompt");
    std::fs::write(bench.path("4.png"), "another picture").expect("written");
    assert_eq!((now(&usual), now(&usual)), (1, 0), "another picture");
    std::fs::remove_file(bench.path("5.png")).expect("removed");
    assert_eq!(now(&usual), 0, "a picture that is gone keeps its answer");
    let rows = bench.read("rows.jsonl") + "{\"id\": 10, \"image\": \"10.png\", \"params\": {\"num_beams\": 2}}\n";
    std::fs::write(bench.path("rows.jsonl"), rows).expect("written");
    assert_eq!((now(&usual), now(&usual)), (1, 0), "another row");
    assert_eq!(now(&Wanted { force: true, ..Wanted::default() }), 11);
    assert_eq!(bench.read("out.jsonl").lines().count(), 11);
}

#[test]
fn failures_are_asked_again_where_that_may_help() {
    let bench = of_rows(
        "{\"id\": 1, \"image\": \"a\", \"prompt\": \"bad\"}\n{\"id\": 2, \"image\": \"a\", \"prompt\": \"later\"}\n\
         {\"id\": 3, \"image\": \"a\"}\n{\"id\": 4}\nno JSON\n{\"id\": 5, \"image\": \"a\", \"params\": {\"beams\": 2}}\n\
         {\"id\": 6, \"image\": \"a\", \"params\": {\"top_p\": 2}}\n{\"id\": 7, \"image\": {\"bytes_b64\": \"?\"}}\n",
    );
    let outcome = bench.run(&Wanted::default()).expect("an outcome");
    assert_eq!((outcome.counts.ok, outcome.counts.failed, outcome.complete), (1, 7, true));
    let merged = bench.merged(&["out.jsonl"]);
    let rows: Vec<Value> = merged.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let told = |row: &Value, parts: &[&str]| {
        let message = row["error"]["message"].as_str().unwrap_or_default();
        parts.iter().for_each(|part| assert!(message.contains(part), "no {part:?} in {row}"));
    };
    told(&rows[3], &["lacks \"image\""]);
    assert_eq!(rows[4]["id"], "line 5");
    told(&rows[4], &["not a JSON object"]);
    told(&rows[5], &["params", "beams", "unknown", "num_beams"]);
    told(&rows[6], &["top_p", "from 0 to 1"]);
    told(&rows[7], &["not base64"]);
    assert_eq!(bench.run(&Wanted::default()).expect("an outcome").counts.now, 1, "what may pass");
    let again = Wanted { retry_failed: true, ..Wanted::default() };
    assert_eq!(bench.run(&again).expect("an outcome").counts.now, 7);
    assert_eq!(bench.read("out.jsonl").lines().count(), 8);
}

#[test]
fn what_stops_a_job_is_told_before_anything_is_written() {
    let bench = Bench::new(3);
    bench.run(&Wanted::default()).expect("an outcome");
    let before = (bench.read("out.jsonl"), bench.read("out.jsonl.manifest.json"));
    let refused = |wanted: &Wanted, parts: &[&str]| {
        let error = bench.run(wanted).expect_err("refused").to_string();
        parts.iter().for_each(|part| assert!(error.contains(part), "no {part:?} in {error}"));
        assert_eq!((bench.read("out.jsonl"), bench.read("out.jsonl.manifest.json")), before);
    };
    let other = Wanted { model: "beef".into(), ..Wanted::default() };
    refused(&other, &["another model", "00ff", "beef", "--force"]);
    let input = bench.input();
    let held = Job::open(bench.setup(&input, &Wanted::default())).expect("a job");
    let error = bench.run(&Wanted::default()).expect_err("in use");
    assert!(matches!(&error, Error::InUse { holder, .. } if holder.contains("on here")), "{error}");
    drop(held);
    let rows = bench.read("rows.jsonl");
    std::fs::write(bench.path("rows.jsonl"), rows.clone() + &rows).expect("written");
    refused(&Wanted::default(), &["3 rows have the id of an earlier one", "\"row 0\"", "\"row 2\""]);
    std::fs::write(bench.path("rows.jsonl"), rows).expect("written");
    std::fs::remove_file(bench.path("out.jsonl.manifest.json")).expect("removed");
    let error = bench.run(&Wanted::default()).expect_err("no output of a job").to_string();
    assert!(error.contains("no manifest"), "{error}");
    assert_eq!(others(bench.folder.path(), &["rows.jsonl", "out.jsonl", "out.jsonl.done"]), [""; 0]);
}

#[test]
fn lines_come_in_order_where_that_is_asked_for() {
    let bench = Bench::new(60);
    let rows = bench.read("rows.jsonl");
    // The first run leaves gaps: a row that may pass, one that stays without an answer, one that stops it.
    let broken = rows.replace("what is 7?", "later").replace("what is 9?", "bad").replace("what is 40?", "lost");
    std::fs::write(bench.path("rows.jsonl"), &broken).expect("written");
    let (ordered, slow) = (Wanted { ordered: true, ..Wanted::default() }, StandIn::new(3_000));
    assert!(!bench.run_by(&ordered, &slow).expect("an outcome").complete);
    std::fs::write(bench.path("rows.jsonl"), broken.replace("lost", "fine")).expect("written");
    let in_order = |lines: usize| {
        let found = ids(&bench.read("out.jsonl"));
        assert_eq!(found, (0..lines).map(|i| format!("\"row {i}\"")).collect::<Vec<_>>());
    };
    let outcome = bench.run_by(&ordered, &slow).expect("an outcome");
    assert_eq!((outcome.complete, outcome.counts.failed), (true, 2));
    in_order(60);
    // Rows with other prompts, and rows that failed, are asked again and have their places.
    std::fs::write(bench.path("rows.jsonl"), &rows).expect("written");
    let again = Wanted { retry_failed: true, ..ordered.clone() };
    assert_eq!(bench.run_by(&again, &slow).expect("an outcome").counts.now, 3);
    in_order(60);
    // An output in order is not touched; rows that the input has no more keep their lines, behind the others.
    let modified = || std::fs::metadata(bench.path("out.jsonl")).expect("a file").modified().expect("a time");
    let before = modified();
    assert_eq!(bench.run_by(&ordered, &slow).expect("an outcome").counts.now, 0);
    assert_eq!(before, modified());
    std::fs::write(bench.path("rows.jsonl"), rows.lines().skip(3).map(|row| format!("{row}\n")).collect::<String>())
        .expect("written");
    bench.run_by(&ordered, &slow).expect("an outcome");
    let moved: Vec<String> = (3..60).chain(0..3).map(|i| format!("\"row {i}\"")).collect();
    assert_eq!(ids(&bench.read("out.jsonl")), moved);
}

#[test]
fn a_job_that_is_stopped_keeps_what_it_has() {
    for (prompt, code) in [("lost", "device_lost"), ("drop", "dropped")] {
        let bench = Bench::new(30);
        let rows = bench.read("rows.jsonl").replace("what is 20?", prompt);
        std::fs::write(bench.path("rows.jsonl"), &rows).expect("written");
        let outcome = bench.run(&Wanted::default()).expect("an outcome");
        assert_eq!(outcome.stopped.map(|failure| failure.code).as_deref(), Some(code));
        assert!(!outcome.complete && !bench.path("out.jsonl.done").exists());
        assert!((20..30).contains(&bench.read("out.jsonl").lines().count()));
        std::fs::write(bench.path("rows.jsonl"), rows.replace(prompt, "fine")).expect("written");
        assert!(bench.run(&Wanted::default()).expect("an outcome").complete);
        assert_eq!(bench.read("out.jsonl").lines().count(), 30);
    }
    let bench = Bench::new(30);
    let input = bench.input();
    let (stop, wanted) = (AtomicBool::new(false), Wanted { status: true, ..Wanted::default() });
    let job = Job::open(bench.setup(&input, &wanted)).expect("a job");
    let outcome = job.run(|| Ok::<_, Error>(StandIn::new(100)), &mut Never, &stop, &mut |counts| {
        stop.store(counts.now >= 10, std::sync::atomic::Ordering::Relaxed);
    });
    let outcome = outcome.expect("an outcome");
    assert!((10..20).contains(&outcome.counts.now), "what was asked is waited for: {outcome:?}");
    assert_eq!(bench.read("out.jsonl").lines().count() as u64, outcome.counts.now);
    let status: Value = serde_json::from_str(&bench.read("status.json")).expect("JSON");
    assert_eq!((status["state"].as_str(), status["left"].as_u64()), (Some("stopped"), Some(outcome.counts.left())));
}

#[test]
fn captions_lie_beside_pictures_and_write_over_nothing() {
    let bench = Bench::new(4);
    std::fs::write(bench.path("1.txt"), "by hand").expect("written");
    let wanted = Wanted { sidecar: Some("txt".into()), ..Wanted::default() };
    let outcome = bench.run(&wanted).expect("an outcome");
    assert_eq!((outcome.captions.kept, bench.read("1.txt").as_str()), (1, "by hand"));
    assert!(bench.read("2.txt").ends_with("of\" what is 2? 1\n"), "{}", bench.read("2.txt"));
    bench.run(&Wanted { force: true, ..wanted }).expect("an outcome");
    assert!(bench.read("1.txt").contains("what is 1?"));
}

#[test]
fn archives_have_a_row_for_each_name() {
    let bench = Bench::new(0);
    let mut archive = tar::Builder::new(std::fs::File::create(bench.path("a.tar")).expect("a file"));
    let members: [(&str, &[u8]); 7] = [
        ("x/0001.jpg", b"picture"),
        ("x/0001.txt", b"what?\n"),
        ("x/0002.json", b"{\"prompt\": \"who?\", \"params\": {\"num_beams\": 3}}"),
        ("x/0002.seg.png", b"none of ours"),
        ("x/0002.png", b"picture"),
        ("x/0003.cls", b"7"),
        ("x/.hidden.png", b""),
    ];
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, bytes).expect("a member");
    }
    archive.into_inner().expect("an archive");
    let input = Input::Archives(vec![bench.path("a.tar")]);
    let job = Job::open(bench.setup(&input, &Wanted::default())).expect("a job");
    let outcome = job
        .run(|| Ok::<_, Error>(StandIn::new(0)), &mut Never, &AtomicBool::new(false), &mut |_| {})
        .expect("an outcome");
    assert_eq!((outcome.counts.ok, outcome.counts.failed), (2, 1));
    let merged = super::merged(&input, vec![bench.path("out.jsonl")], &bench.path("merged.jsonl"));
    let rows: Vec<Value> = merged.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(
        rows.iter().map(|row| row["id"].as_str()).collect::<Vec<_>>(),
        [Some("x/0001"), Some("x/0002"), Some("x/0003")]
    );
    assert!(rows[0]["text"].as_str().is_some_and(|text| text.ends_with("what? 1")), "{}", rows[0]);
    assert!(rows[1]["text"].as_str().is_some_and(|text| text.ends_with("who? 3")), "{}", rows[1]);
    assert!(rows[2]["error"]["message"].as_str().is_some_and(|problem| problem.contains("image")), "{}", rows[2]);
}

#[test]
fn a_worker_answers_every_line() {
    let rows =
        "{\"id\": 1, \"image\": \"a\", \"prompt\": \"x\"}\n{\"ping\": 1}\n\nno JSON\n{\"id\": 2, \"image\": \"b\"}";
    let (defaults, stop) = (Defaults::default(), AtomicBool::new(false));
    let service = Service { defaults: &defaults, folder: Path::new(""), model: "00ff", in_flight: 2, stop: &stop };
    let answer = |rows: &'static str| {
        let mut out = Vec::new();
        let stopped = serve(&service, &StandIn::new(0), rows.as_bytes(), &mut out).expect("memory");
        let lines = String::from_utf8(out).expect("text");
        let mut lines: Vec<String> = lines.lines().map(str::to_owned).collect();
        lines.sort();
        (lines, stopped.map(|failure| failure.code))
    };
    let (lines, stopped) = answer(rows);
    assert_eq!((lines.len(), stopped), (4, None), "{lines:?}");
    for (line, parts) in lines.iter().zip([
        &["\"id\":\"line 4\"", "\"ok\":false"][..],
        &["\"id\":1", "\"ok\":true", "\"v\":1"],
        &["\"id\":2", "\"ok\":true"],
        &["{\"pong\":1}"],
    ]) {
        parts.iter().for_each(|part| assert!(line.contains(part), "no {part} in {line}"));
    }
    let (lines, stopped) = answer("{\"id\": 1, \"image\": \"a\", \"prompt\": \"lost\"}\n");
    assert_eq!((lines.len(), stopped.as_deref()), (1, Some("device_lost")));
    assert!(lines[0].contains("\"retry\":true"), "{lines:?}");
}
