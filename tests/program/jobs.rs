//! `batch` and `worker` with the embedded model.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support;
use crate::support::Rng;
use crate::support::program::{ask_to_end, program, refused, run, sample, text};

const SHORT: [&str; 2] = ["--max-new-tokens", "6"];

/// A job of so many questions about the bundled pictures, in a folder of its own.
struct Job(tempfile::TempDir);

impl Job {
    fn new(rows: usize) -> Job {
        let job = Job(tempfile::tempdir().expect("a folder"));
        let row = |i: usize| {
            let prompt = ["Write a short caption for the picture.", "Can you count the things?"][i % 2];
            let image = sample(&format!("{:02}.png", i % 12));
            format!("{}\n", json!({"id": i, "image": image, "prompt": prompt}))
        };
        std::fs::write(job.path("rows.jsonl"), (0..rows).map(row).collect::<String>()).expect("written");
        job
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn command(&self, flags: &[&str]) -> Command {
        let arguments = ["batch", &self.path("rows.jsonl"), "-o", &self.path("out.jsonl"), "--quiet"];
        let mut command = program();
        command.args(arguments).args(SHORT).args(flags).stderr(Stdio::piped());
        command
    }

    fn start(&self, flags: &[&str]) -> Child {
        self.command(flags).spawn().expect("the program runs")
    }

    fn merged(&self, from: &str) -> String {
        let merge =
            ["batch", "merge", &self.path("rows.jsonl"), "--from", &self.path(from), "-o", &self.path("merged")];
        let output = run(&merge);
        assert!(output.status.success(), "{}", text(&output.stderr));
        self.read("merged")
    }
}

fn ended(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().expect("the program ends");
    (output.status.code(), text(&output.stderr).into())
}

#[test]
fn a_folder_gets_its_captions_once() {
    if support::device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::create_dir_all(path("in/deep")).expect("made");
    std::fs::copy(sample("02.png"), path("in/a.png")).expect("copied");
    std::fs::copy(sample("11.png"), path("in/deep/b.png")).expect("copied");
    std::fs::write(path("in/c.png"), "no picture").expect("written");
    let batch = ["batch", &path("in"), "-o", &path("out.jsonl"), "--sidecar", "txt", "--status-file", &path("status")];
    let output = run(&batch);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    for part in ["failed: \"c.png\": ", "error: 1 of 3 rows have no answer", "3 rows in"] {
        assert!(stderr.contains(part), "no {part:?} in {stderr}");
    }
    let caption = std::fs::read_to_string(path("in/a.txt")).expect("a caption");
    assert_eq!(caption, "a blue circle, a purple circle and a white ring\n");
    let lines = std::fs::read_to_string(path("out.jsonl")).expect("lines");
    let mut lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    // Lines come as answers do.
    lines.sort_by_key(|line| line["id"].to_string());
    assert_eq!(lines.iter().map(|line| &line["id"]).collect::<Vec<_>>(), ["a.png", "c.png", "deep/b.png"]);
    assert_eq!((lines[0]["text"].as_str(), lines[0]["ok"].as_bool()), (Some(caption.trim()), Some(true)));
    assert_eq!((&lines[0]["finish"], &lines[0]["v"]), (&json!("eos"), &json!(1)));
    assert_eq!((&lines[1]["error"]["code"], &lines[1]["retry"]), (&json!("image"), &json!(false)));
    assert!(lines[0]["ms"]["vision"].as_f64().is_some_and(|ms| ms > 0.0), "{}", lines[0]);
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(path("out.jsonl.manifest.json")).expect("a manifest")).expect("JSON");
    assert_eq!((&manifest["rows"], &manifest["ok"], &manifest["complete"]), (&json!(3), &json!(2), &json!(true)));
    assert_eq!(manifest["model"], lines[0]["model"]);
    let status: Value = serde_json::from_slice(&std::fs::read(path("status")).expect("a status")).expect("JSON");
    assert_eq!((&status["state"], &status["left"]), (&json!("done"), &json!(0)));
    let again = run(&[&batch[..], &["--quiet"]].concat());
    assert_eq!((again.status.code(), text(&again.stderr).lines().count()), (Some(1), 1), "no model is loaded");
    refused(&[&batch[..], &["--weights", "q8"]].concat(), 3, &["other settings", "language_weights", "--force"]);
}

#[test]
fn shards_stops_and_one_run_make_the_same_file() {
    if support::device().is_none() {
        return;
    }
    let job = Job::new(40);
    // Choices and options of a row's own.
    let choices = json!({"id": "choices", "image": sample("11.png"), "prompt": "Which is the smallest shape?",
                         "choices": ["green star", "red cross"]});
    let beams = json!({"id": "beams", "image": sample("11.png"), "params": {"num_beams": 3}});
    std::fs::write(job.path("rows.jsonl"), format!("{}{choices}\n{beams}\n", job.read("rows.jsonl"))).expect("written");
    for index in 0..3 {
        let (rows, shard) = (job.path("rows.jsonl"), format!("{index}/3"));
        let arguments = ["batch", &rows, "-o", &job.path("parts"), "--shard", &shard, "--quiet"];
        let output = run(&[&arguments[..], &SHORT].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(Path::new(&job.path(&format!("parts/part-0000{index}-of-00003.jsonl.done"))).exists());
    }
    let wanted = job.merged("parts");
    assert_eq!(wanted.lines().count(), 42);
    let scored: Value = wanted.lines().nth(40).and_then(|line| serde_json::from_str(line).ok()).expect("a line");
    assert_eq!(scored["text"], "green star");
    assert!(scored["scores"][0]["mean"].as_f64() > scored["scores"][1]["mean"].as_f64(), "{scored}");
    if cfg!(unix) {
        // What was asked is answered before the end: not everything.
        let child = job.start(&["--inflight", "4"]);
        let started = Instant::now();
        while job.read("out.jsonl").lines().count() < 3 && started.elapsed() < Duration::from_secs(100) {
            std::thread::sleep(Duration::from_millis(5));
        }
        ask_to_end(&child);
        let (code, stderr) = ended(child);
        assert_eq!(code, Some(75), "{stderr}");
        assert!(stderr.contains("the same command goes on"), "{stderr}");
        let lines = job.read("out.jsonl").lines().count();
        assert!((3..42).contains(&lines), "{lines}");
    }
    let (code, stderr) = ended(job.start(&["--ordered"]));
    assert_eq!(code, Some(0), "{stderr}");
    assert!(job.merged("out.jsonl") == wanted);
    let id = |line: &str| line.split(',').next().map(String::from);
    assert!(job.read("out.jsonl").lines().map(id).eq(wanted.lines().map(id)), "{}", job.read("out.jsonl"));
    let is_kept = |line: &&str| !["{\"id\":0,", "{\"id\":1,"].iter().any(|first| line.starts_with(first));
    let less: String = job.read("out.jsonl").lines().filter(is_kept).map(|line| format!("{line}\n")).collect();
    std::fs::write(job.path("less"), less).expect("written");
    let check = ["batch", "merge", &job.path("rows.jsonl"), "--from", &job.path("less"), "--check"];
    refused(&check, 1, &["missing: 2 (0, 1)", "of 42 rows 2 are missing and 0 doubled"]);
}

#[test]
fn a_worker_answers_while_its_input_is_open() {
    if support::device().is_none() {
        return;
    }
    let mut command = program();
    let command = command.args(["worker", "--quiet"]).args(SHORT).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().expect("the program runs");
    let mut to = child.stdin.take().expect("a pipe");
    let mut from = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut ready = String::new();
    let mut notes = BufReader::new(child.stderr.take().expect("a pipe"));
    while !ready.contains("\"event\":\"ready\"") {
        ready.clear();
        assert!(notes.read_line(&mut ready).expect("text") > 0, "it ended before it was ready");
    }
    let mut ask = |row: Value| -> Value {
        writeln!(to, "{row}").expect("a reader");
        let line = from.next().expect("a line").expect("text");
        serde_json::from_str(&line).expect("JSON")
    };
    assert_eq!(ask(json!({"ping": 1})), json!({"pong": 1}));
    let bytes = std::fs::read(sample("11.png")).expect("a picture");
    let base64: String = Command::new("base64")
        .arg("-w0")
        .arg(sample("11.png"))
        .output()
        .map_or(String::new(), |out| String::from_utf8(out.stdout).expect("text"));
    let question = "Which is the smallest shape?";
    let answer = ask(json!({"id": "a", "image": sample("11.png"), "prompt": question}));
    assert_eq!((&answer["id"], &answer["text"]), (&json!("a"), &json!("green star")));
    if base64.len() > bytes.len() {
        let image = format!("data:image/png;base64,{base64}");
        assert_eq!(ask(json!({"id": 1, "image": image, "prompt": question}))["text"], "green star");
        assert_eq!(ask(json!({"id": 2, "image": {"bytes_b64": base64}, "prompt": question}))["text"], "green star");
    }
    assert_eq!(ask(json!({"id": 3}))["error"]["code"], "row");
    assert_eq!(ask(json!({"id": 4, "image": "not there.png"}))["retry"], true);
    drop(to);
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn rows_in_work_when_the_process_died_are_asked_apart() {
    if support::device().is_none() {
        return;
    }
    let job = Job::new(6);
    // As a process that was killed leaves it.
    let suspect = instructblip::jobs::Id::Number(3).hash();
    std::fs::write(job.path("out.jsonl.journal"), format!("{suspect:016x}\n00")).expect("written");
    let (code, stderr) = ended(job.start(&[]));
    assert_eq!(code, Some(0), "{stderr}");
    assert!(!Path::new(&job.path("out.jsonl.journal")).exists());
    let lines = job.read("out.jsonl");
    assert!(lines.starts_with("{\"id\":3,") && lines.lines().count() == 6, "{lines}");
    let other = Job::new(6);
    assert_eq!(ended(other.start(&[])).0, Some(0));
    assert_eq!(job.merged("out.jsonl"), other.merged("out.jsonl"));
}

#[test]
fn what_is_no_job_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("rows.jsonl"), "{\"id\": 1, \"image\": \"a\"}\n{\"id\": 1, \"image\": \"b\"}\n")
        .expect("written");
    refused(&["batch", &path("rows.jsonl")], 2, &["--output"]);
    refused(&["batch", &path("rows.jsonl"), "-o", &path("o"), "--shard", "4/4"], 2, &["0/4 to 3/4"]);
    refused(&["batch", &path("rows.jsonl"), "-o", &path("o"), "--sidecar", "png"], 2, &["no picture's"]);
    refused(&["batch", &path("rows.jsonl"), "-o", &path("no/o.jsonl")], 3, &["no such folder"]);
    refused(&["batch", &path("none.jsonl"), "-o", &path("o.jsonl")], 3, &["none.jsonl"]);
    refused(&["batch", &path("rows.jsonl"), &path("a.png"), "-o", &path("o.jsonl")], 3, &["not some of each"]);
    refused(&["batch", &path("rows.jsonl"), "-o", &path("o.jsonl")], 3, &["1 rows have the id of an earlier one (1)"]);
    refused(
        &["batch", "merge", &path("rows.jsonl"), "--from", folder.path().to_str().expect("text"), "--check"],
        3,
        &["no part-"],
    );
    assert!(!Path::new(&path("o.jsonl")).exists() && !Path::new(&path("o.jsonl.lock")).exists());
}

/// Has a job of ten rows lose every GPU at its n-th operation of a kind: it is begun again, or ends and says so, and what
/// it leaves is gone on with. False if the job ended before.
fn is_lost_at(operation: &str, n: usize, wanted: &str) -> bool {
    let (job, at) = (Job::new(10), format!("{operation} {n}"));
    let mut command = job.command(&[]);
    let (code, stderr) = ended(command.env("INSTRUCTBLIP_TEST_LOSE_GPU", &at).spawn().expect("the program runs"));
    let losses = stderr.matches("the GPU was lost").count();
    assert!(!stderr.contains("internal error") && losses <= 4, "{at}: {stderr}");
    // A job whose model was never loaded ends at once.
    let ends = losses == 4 || (losses == 1 && job.read("out.jsonl").is_empty());
    assert_eq!(code, Some(if ends { 6 } else { 0 }), "{at}: {stderr}");
    assert!(!job.read("out.jsonl").contains("\"ok\":false"), "{at}: {}", job.read("out.jsonl"));
    if code == Some(6) {
        let (code, stderr) = ended(job.start(&[]));
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "after {at}");
    }
    assert_eq!(job.read("out.jsonl").lines().count(), 10, "{at}");
    assert!(job.merged("out.jsonl") == wanted, "{at}");
    losses > 0
}

/// The output of a job whose GPU stays; none where nothing is to be tested.
fn whole() -> Option<String> {
    support::device()?;
    if !cfg!(debug_assertions) {
        eprintln!("NOT TESTED: lost GPUs, which builds without debug assertions do not have");
        return None;
    }
    let whole = Job::new(10);
    assert_eq!(ended(whole.start(&[])).0, Some(0));
    Some(whole.merged("out.jsonl"))
}

/// GPUs are lost while the model is loaded and between answers. `make test-jobs` loses them at every other place.
#[test]
fn a_gpu_may_be_lost() {
    let Some(wanted) = whole() else { return };
    assert!(is_lost_at("submit", 8, &wanted));
    assert!(is_lost_at("map", 6, &wanted));
}

#[test]
#[ignore = "takes minutes; make test-jobs runs it"]
fn a_gpu_may_be_lost_anywhere() {
    let Some(wanted) = whole() else { return };
    for operation in ["submit", "map"] {
        let jobs = (0..).take_while(|&n| is_lost_at(operation, n, &wanted)).count();
        eprintln!("{jobs} jobs lost their GPU at a {operation}");
        assert!(jobs > 15, "{jobs}");
    }
}

#[test]
#[ignore = "takes minutes; make test-jobs runs it"]
fn fifty_kills_change_nothing() {
    if support::device().is_none() {
        return;
    }
    let whole = Job::new(300);
    assert_eq!(ended(whole.start(&[])).0, Some(0));
    let wanted = whole.merged("out.jsonl");
    let (mut rng, mut kills, mut jobs) = (Rng::new(3), 0, 0);
    while kills < 50 {
        let job = Job::new(300);
        jobs += 1;
        loop {
            let mut child = job.start(&[]);
            std::thread::sleep(Duration::from_millis(u64::from(rng.below(4_000))));
            let runs = child.try_wait().expect("a process").is_none();
            if runs && kills < 50 {
                child.kill().expect("killed");
                kills += 1;
                drop(child.wait());
                continue;
            }
            let (code, stderr) = ended(child);
            assert_eq!(code, Some(0), "{stderr}");
            break;
        }
        assert_eq!(job.read("out.jsonl").lines().count(), 300);
        assert!(job.merged("out.jsonl") == wanted, "job {jobs}");
    }
    eprintln!("{kills} kills over {jobs} jobs of 300 rows");
}

/// The mistakes that would cost somebody their files, by the command line.
#[test]
fn what_would_be_written_over_is_refused() {
    if support::device().is_none() {
        return;
    }
    let job = Job::new(2);
    let rows = job.path("rows.jsonl");
    let before = job.read("rows.jsonl");
    refused(&["batch", &rows, "-o", &rows, "--force"], 3, &["which is read", "another name"]);
    refused(&["batch", &rows, "-o", &job.path("out.jsonl"), "--status-file", &rows], 3, &["which is read"]);
    assert_eq!(job.read("rows.jsonl"), before);
    let several = ["--num-beams", "3", "--num-return-sequences", "3"];
    refused(&[&["batch", &rows, "-o", &job.path("out.jsonl")][..], &several].concat(), 3, &["a row has one answer"]);
    refused(&["ask", &sample("00.png"), "hello", "--task", "caption", "-q"], 3, &["no place for a text"]);
    refused(&["ask", &sample("00.png"), "hello", "--prefix", "a large", "--max-new-tokens", "2"], 3, &["prefix"]);
}
