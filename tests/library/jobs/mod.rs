//! Jobs with a stand-in for the model: processes that are killed, disks that fail, outputs that are torn.

mod files;
mod kills;
mod outputs;
mod places;
mod stand_in;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use instructblip::jobs::{Counts, Defaults, Disk, Identity, Input, Job, Merge, Outcome, Setup, Shard, merge};
use serde_json::Value;
use stand_in::{Never, StandIn};

/// A job in a folder of its own: rows in `rows.jsonl`, answers in `out.jsonl`.
pub struct Bench {
    pub folder: tempfile::TempDir,
    pub defaults: Defaults,
}

/// The things that differ from job to job.
#[derive(Clone)]
pub struct Wanted {
    pub shard: Shard,
    pub model: String,
    pub force: bool,
    pub retry_failed: bool,
    pub ordered: bool,
    pub sidecar: Option<String>,
    pub status: bool,
    pub disk: Disk,
}

impl Default for Wanted {
    fn default() -> Wanted {
        Wanted {
            shard: Shard::default(),
            model: "00ff".into(),
            force: false,
            retry_failed: false,
            ordered: false,
            sidecar: None,
            status: false,
            disk: Disk::default(),
        }
    }
}

impl Bench {
    /// A job with so many rows.
    pub fn new(rows: usize) -> Bench {
        let bench = Bench { folder: tempfile::tempdir().expect("a folder"), defaults: Defaults::default() };
        write_rows(&bench.path("rows.jsonl"), rows);
        bench
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    pub fn input(&self) -> Input {
        lines(&self.path("rows.jsonl"))
    }

    pub fn setup<'a>(&'a self, input: &'a Input, wanted: &Wanted) -> Setup<'a> {
        let Wanted { shard, model, force, retry_failed, ordered, sidecar, status, disk } = wanted.clone();
        let output = if shard.of > 1 { self.path(&shard.file_name()) } else { self.path("out.jsonl") };
        let status = status.then(|| self.path("status.json"));
        let identity = Identity { model, name: "stand-in".into(), ..Identity::default() };
        let (defaults, host, in_flight) = (&self.defaults, "here".to_string(), 8);
        Setup {
            input,
            defaults,
            output,
            shard,
            identity,
            force,
            retry_failed,
            ordered,
            sidecar,
            status,
            in_flight,
            host,
            disk,
        }
    }

    /// Runs the job as far as it goes.
    pub fn run(&self, wanted: &Wanted) -> instructblip::Result<Outcome> {
        self.run_by(wanted, &StandIn::new(0))
    }

    pub fn run_by(&self, wanted: &Wanted, answerer: &StandIn) -> instructblip::Result<Outcome> {
        let input = self.input();
        let job = Job::open(self.setup(&input, wanted))?;
        job.run(|| Ok(answerer), &mut Never, &AtomicBool::new(false), &mut |_: &Counts| {})
    }

    /// The merged file of these outputs, which have every row once.
    pub fn merged(&self, parts: &[&str]) -> String {
        merged(&self.input(), parts.iter().map(|part| self.path(part)).collect(), &self.path("merged.jsonl"))
    }
}

pub fn lines(path: &Path) -> Input {
    Input::Lines { path: path.into(), folder: path.parent().expect("a folder").into() }
}

pub fn write_rows(path: &Path, rows: usize) {
    let row = |i: usize| format!("{{\"id\": \"row {i}\", \"image\": \"{i}.png\", \"prompt\": \"what is {i}?\"}}\n");
    std::fs::write(path, (0..rows).map(row).collect::<String>()).expect("written");
}

pub fn merged(input: &Input, parts: Vec<PathBuf>, output: &Path) -> String {
    let found = merge(&Merge {
        input,
        defaults: Some(&Defaults::default()),
        parts,
        output: Some(output),
        times: false,
        disk: Disk::default(),
    });
    let found = found.expect("a merge");
    assert!(found.is_whole() && found.unknown == 0 && found.damaged == 0, "{found:?}");
    std::fs::read_to_string(output).expect("merged")
}

/// The ids of lines, as they follow each other.
pub fn ids(lines: &str) -> Vec<String> {
    let id = |line: &str| serde_json::from_str::<Value>(line).expect("JSON")["id"].to_string();
    lines.lines().map(id).collect()
}

/// The names in a folder but for these.
pub fn others(folder: &Path, known: &[&str]) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| !known.contains(&name.as_str())).collect();
    names.sort();
    names
}
