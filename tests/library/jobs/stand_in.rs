//! A stand-in for the model, and this test program as a process that runs jobs by it and may be killed.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use instructblip::hash::fnv1a;
use instructblip::jobs::{
    Answered, Answerer, Apart, Defaults, Disk, Done, Failure, Finding, Identity, Job, Line, Question, Service, Setup,
    Shard, serve,
};
use instructblip::{Error, FinishReason};
use serde_json::{Value, json};

use super::lines;

/// The variable that makes a process of this program run a job, as JSON.
const JOB: &str = "INSTRUCTBLIP_TEST_JOB";
/// The variable that makes it answer rows over pipes.
const SERVE: &str = "INSTRUCTBLIP_TEST_SERVE";

/// Answers from several threads, out of order.
pub struct StandIn(Mutex<Sender<(Question, Done)>>);

impl StandIn {
    /// A stand-in that takes up to so many microseconds for an answer.
    pub fn new(most_us: u64) -> StandIn {
        let (to, questions) = mpsc::channel::<(Question, Done)>();
        let questions = Arc::new(Mutex::new(questions));
        for _ in 0..3 {
            let questions = questions.clone();
            std::thread::spawn(move || {
                loop {
                    let next = questions.lock().expect("questions").recv();
                    let Ok((question, done)) = next else { return };
                    let hash = fnv1a(question.prompt.bytes());
                    std::thread::sleep(Duration::from_micros(hash % (most_us + 1)));
                    if let Some(answered) = answered(&question, hash) {
                        done(answered);
                    }
                }
            });
        }
        StandIn(Mutex::new(to))
    }
}

/// The answer to a question; none for one whose answer is dropped.
fn answered(question: &Question, hash: u64) -> Option<Answered> {
    match question.prompt.as_str() {
        "poison" => std::process::abort(),
        "drop" => None,
        "lost" => Some(Err(Failure::stopping("device_lost", "the device is gone"))),
        "bad" => Some(Err(Failure::new("image", "is no picture"))),
        "later" => Some(Err(Failure::passing("io", "is not there"))),
        prompt => Some(Ok(Finding {
            text: format!("{hash:016x} \"of\" {prompt} {}", question.options.num_beams),
            tokens: (hash % 30) as u32,
            finish: Some(FinishReason::Eos),
            scores: None,
            image_sha256: vec![format!("{hash:064x}")],
            // Differs from run to run.
            ms: vec![("all".into(), f64::from(std::process::id()))],
        })),
    }
}

impl Answerer for StandIn {
    fn answer(&self, question: Question, done: Done) {
        self.0.lock().expect("a queue").send((question, done)).expect("threads");
    }
}

/// A process apart that is not there: what it is asked is answered here.
pub struct Never;

impl Apart for Never {
    fn ask(&mut self, question: Question) -> Result<Option<Answered>, Failure> {
        Ok(answered(&question, fnv1a(question.prompt.bytes())))
    }
}

/// This program once more, for suspect rows.
#[derive(Default)]
struct Process(Option<Child>);

impl Apart for Process {
    fn ask(&mut self, question: Question) -> Result<Option<Answered>, Failure> {
        let child = self.0.get_or_insert_with(|| {
            let mut command = this_program();
            let piped = command.env_remove(JOB).env(SERVE, "1").stdin(Stdio::piped()).stdout(Stdio::piped());
            piped.stderr(Stdio::null()).spawn().expect("a process")
        });
        let to = child.stdin.as_mut().expect("a pipe");
        to.write_all(question.to_row(1)?.as_bytes()).expect("a reader");
        // Byte by byte: nothing is left in a buffer that goes.
        for line in BufReader::with_capacity(1, child.stdout.as_mut().expect("a pipe")).lines() {
            let line = line.expect("text");
            // Behind words of the tests' own.
            let answer = line.find("{\"id\"").map(|at| serde_json::from_str::<Line>(&line[at..]));
            if let Some(answer) = answer {
                return Ok(Some(answer.expect("a line").into_answered()));
            }
        }
        drop(self.0.take().map(|mut child| child.wait()));
        Ok(None)
    }
}

fn this_program() -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["jobs::stand_in::process", "--exact", "--nocapture", "--test-threads=1"]);
    command
}

/// A process that runs a job on `rows.jsonl` of a folder.
pub fn spawn(folder: &std::path::Path, most_us: u64, with_process: bool, ordered: bool) -> Child {
    let job = json!({"folder": folder, "most_us": most_us, "process": with_process, "ordered": ordered});
    let mut command = this_program();
    let command = command.env(JOB, job.to_string()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("a process")
}

/// Runs a job to its end in a process; gives the exit code, none for one that was ended.
pub fn run_to_end(folder: &std::path::Path, with_process: bool) -> Option<i32> {
    spawn(folder, 0, with_process, false).wait().expect("a process").code()
}

/// The process of other tests: it does nothing unless they say so.
#[test]
fn process() {
    if std::env::var_os(SERVE).is_some() {
        let (defaults, stop) = (Defaults::default(), AtomicBool::new(false));
        let folder = PathBuf::new();
        let service = Service { defaults: &defaults, folder: &folder, model: "00ff", in_flight: 1, stop: &stop };
        let ended = serve(&service, &StandIn::new(0), std::io::stdin(), &mut std::io::stdout());
        std::process::exit(i32::from(ended.is_err()));
    }
    let Some(job) = std::env::var_os(JOB) else { return };
    let job: Value = serde_json::from_str(job.to_str().expect("text")).expect("JSON");
    let folder = PathBuf::from(job["folder"].as_str().expect("a folder"));
    let (input, defaults) = (lines(&folder.join("rows.jsonl")), Defaults::default());
    let setup = Setup {
        input: &input,
        defaults: &defaults,
        output: folder.join("out.jsonl"),
        shard: Shard::default(),
        identity: Identity { model: "00ff".into(), name: "stand-in".into(), ..Identity::default() },
        force: false,
        retry_failed: false,
        ordered: job["ordered"] == true,
        sidecar: None,
        status: None,
        in_flight: 8,
        host: "here".into(),
        disk: Disk::default(),
    };
    let answerer = StandIn::new(job["most_us"].as_u64().unwrap_or(0));
    let mut process = Process::default();
    let apart: &mut dyn Apart = if job["process"] == true { &mut process } else { &mut Never };
    let job = Job::open(setup).expect("a job");
    let outcome =
        job.run(|| Ok::<_, Error>(&answerer), apart, &AtomicBool::new(false), &mut |_| {}).expect("an outcome");
    // Linux' own count of the most memory this process had.
    let most = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let most = most.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default().to_string();
    std::fs::write(folder.join("memory"), most).expect("written");
    std::process::exit(if outcome.counts.failed > 0 { 1 } else { 0 });
}
