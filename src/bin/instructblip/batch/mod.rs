//! `instructblip batch`: many rows in, as many rows out, whatever happens meanwhile.

mod answering;
mod apart;
mod asking;
mod identity;
mod inputs;
mod merge;
mod serve;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use anyhow::Result;
use clap::{Args, Subcommand};
use instructblip::Error;
use instructblip::jobs::{Captions, Counts, Defaults, Disk, Input, Job, Outcome, Setup, Shard};

pub use answering::Answering;
use apart::{Process, SERVE};
pub use asking::Asking;
use identity::identity;
use inputs::Spooled;
use merge::Merge;
pub use serve::serve_rows;

use crate::common::{Common, Gpu};
use crate::ended::Ended;
use crate::files::check_target;
use crate::machine::{free_bytes, host};
use crate::options::Model;
use crate::progress::{Progress, say};
use crate::signals::asked_to_end;

/// An example of a row.
const EXAMPLE: &str = r#"{"id": 7, "image": "photos/a.jpg", "prompt": "What is unusual?", "params": {"num_beams": 5}}"#;

/// Arguments of `batch`.
#[derive(Args, Debug)]
#[command(after_help = format!("A row of a JSONL file is, for example:\n  {EXAMPLE}"))]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Batch {
    /// The command for outputs of jobs that have run.
    #[command(subcommand)]
    pub after: Option<After>,
    /// The rows: a JSONL file or - for standard input; a folder, with those in it; picture files or patterns of their names
    /// in quotes; a .txt file with a path a line; tar files in WebDataset's layout
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<PathBuf>,
    /// File of answers, a JSON object a line; with --shard a folder. It is the job's state: started again, a job goes on
    /// where its file ends
    #[arg(long, short, required = true, value_name = "OUT.jsonl|DIR")]
    pub output: Option<PathBuf>,
    /// Only these rows, I from 0 to N-1, chosen by a hash of their ids; the answers go to DIR/part-I-of-N.jsonl
    #[arg(long, value_name = "I/N", value_parser = shard)]
    pub shard: Option<Shard>,
    /// Ask everything again, and write over what is there
    #[arg(long)]
    pub force: bool,
    /// Ask rows again that have no answer and would stay so
    #[arg(long)]
    pub retry_failed: bool,
    /// Put the lines in the order of the input once every row has one, those of earlier runs, too. Until then they come as
    /// answers do
    #[arg(long)]
    pub ordered: bool,
    /// Write each answer beside its picture, too, in a file of this ending; one that is there already stays, but for --force, and
    /// answers that the output has already get none
    #[arg(long, value_name = "txt", value_parser = ending)]
    pub sidecar: Option<String>,
    /// File that says how far the job is, as JSON, replaced every second
    #[arg(long, value_name = "FILE")]
    pub status_file: Option<PathBuf>,
    #[command(flatten)]
    pub asking: Asking,
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub gpu: Gpu,
}

/// The things to do with the outputs of a job.
#[derive(Debug, Subcommand)]
pub enum After {
    /// Prove that every row has one line, and write all of them to one file in the order of the input
    Merge(Merge),
}

fn shard(text: &str) -> Result<Shard, String> {
    let parts = text.split_once('/').and_then(|(index, of)| Some((index.parse().ok()?, of.parse().ok()?)));
    let shard = parts.map(|(index, of)| Shard { index, of }).filter(|shard| shard.index < shard.of);
    shard.ok_or_else(|| "give a part and the number of parts, as in 0/4 to 3/4".into())
}

fn ending(text: &str) -> Result<String, String> {
    let is_word = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric());
    match is_word && !crate::inputs::is_named_as_picture(Path::new(&format!("a.{text}"))) {
        true => Ok(text.into()),
        false => Err("give an ending that is no picture's, such as txt".into()),
    }
}

pub fn run(common: &Common, batch: &Batch) -> Result<()> {
    if let Some(After::Merge(merge)) = &batch.after {
        return merge::run(common, merge);
    }
    if std::env::var_os(SERVE).is_some() {
        return serve_rows(common, &batch.model, &batch.asking, &Defaults::default(), Path::new(""));
    }
    let output = output(batch)?;
    let defaults = batch.asking.defaults(&batch.model)?;
    let spooled = match batch.inputs.as_slice() {
        [only] if only == Path::new("-") => Some(Spooled::read(&output)?),
        _ => None,
    };
    let input = spooled.as_ref().map_or_else(|| inputs::input(&batch.inputs), |spooled| Ok(spooled.input()))?;
    if let (Input::Archives(_), Some(_)) = (&input, &batch.sidecar) {
        let problem = "--sidecar writes beside picture files; those of an archive have no place".into();
        return Err(Error::Request { problem }.into());
    }
    let job = Job::open(Setup {
        input: &input,
        defaults: &defaults,
        output: output.clone(),
        shard: batch.shard.unwrap_or_default(),
        identity: identity(&batch.model, batch.asking.slots.slots)?,
        force: batch.force,
        retry_failed: batch.retry_failed,
        ordered: batch.ordered,
        sidecar: batch.sidecar.clone(),
        status: batch.status_file.clone(),
        in_flight: batch.asking.inflight as usize,
        host: host(),
        disk: Disk::default(),
    })?;
    check_room(&job, &output)?;
    do_job(common, batch, job)
}

/// The file of answers.
fn output(batch: &Batch) -> Result<PathBuf> {
    let output = batch.output.clone().unwrap_or_default();
    let output = match batch.shard {
        Some(shard) => {
            std::fs::create_dir_all(&output).map_err(|source| Error::Io { path: output.clone(), source })?;
            output.join(shard.file_name())
        }
        None => output,
    };
    [Some(&output), batch.status_file.as_ref()].into_iter().flatten().try_for_each(|path| check_target(path))?;
    Ok(output)
}

/// Refuses a job whose answers have no room.
fn check_room(job: &Job<'_>, output: &Path) -> Result<()> {
    let need = job.bytes_needed();
    match free_bytes(output).filter(|&have| have < need) {
        Some(have) => {
            let what = format!("the answers, in bytes on the disk of {}", output.display());
            Err(Ended::new(75, format!("{}; make room and start again", Error::DoesNotFit { what, need, have })).into())
        }
        None => Ok(()),
    }
}

fn do_job(common: &Common, batch: &Batch, job: Job<'_>) -> Result<()> {
    let before = job.counts();
    if !common.quiet && before.ok + before.failed > 0 {
        let done = before.ok + before.failed;
        say(&format!("{done} of {} rows are in the output already; --force asks again", before.rows));
    }
    let stop = asked_to_end()?;
    let mut last = String::new();
    let load = || {
        let answering = Answering::open(common, &batch.model, &batch.asking)?;
        last = format!("; {}", answering.name());
        Ok(answering)
    };
    // Begun with the first row: loading is not counted.
    let mut progress = None;
    let mut told = before.failed;
    let outcome: Result<Outcome> = job.run(load, &mut Process::default(), &stop, &mut |counts| {
        let left = Some(before.left());
        let progress = progress.get_or_insert_with(|| Progress::counting(common.quiet, "rows", left));
        tell_failure(common, progress, counts, &mut told, before.failed);
        progress.count(counts.now);
    });
    progress.iter().for_each(Progress::clear);
    let outcome = outcome?;
    if !common.quiet && outcome.counts.now > 0 {
        let (rows, seconds) = (outcome.counts.now, outcome.counts.begun.elapsed().as_secs_f64());
        let rows = if rows == 1 { "1 row".into() } else { format!("{rows} rows") };
        let rate = outcome.counts.rate().map_or(String::new(), |rate| format!(", {rate:.1}/s"));
        say(&common.paint(&format!("{rows} in {seconds:.1} s{rate}{last}"), "2"));
    }
    if stop.load(Ordering::Relaxed) && !outcome.complete {
        let left = outcome.counts.left();
        return Err(Ended::new(75, format!("stopped as asked; {left} rows are left, the same command goes on")).into());
    }
    verdict(common, &outcome)
}

/// Failures that are told one by one.
const TOLD: u64 = 10;

/// Tells of a row that failed; of many only the first.
fn tell_failure(common: &Common, progress: &Progress, counts: &Counts, told: &mut u64, before: u64) {
    if counts.failed > *told {
        *told = counts.failed;
        let label = common.paint("failed:", "33;1");
        match counts.failed - before {
            count if count <= TOLD => {
                progress.tell(&format!("{label} {}", counts.last_error.as_deref().unwrap_or_default()));
            }
            count if count == TOLD + 1 => progress.tell(&format!("{label} more rows; the output has them all")),
            _ => {}
        }
    }
}

/// Tells of captions that were not written. Those that are wrong or missing for it are told in any case.
fn tell_captions(common: &Common, outcome: &Outcome) {
    let Captions { kept, shared, unwritten } = &outcome.captions;
    if *kept > 0 && !common.quiet {
        say(&format!("{kept} captions were there already and stay; --force writes over them"));
    }
    if shared.count > 0 {
        say(&format!("{} rows would share a caption with another row, whose answer it has: {shared}", shared.count));
    }
    if unwritten.count > 0 {
        say(&format!("{} captions could not be written: {unwritten}", unwritten.count));
    }
}

/// The end of a run that was not asked to end.
fn verdict(common: &Common, outcome: &Outcome) -> Result<()> {
    let counts = &outcome.counts;
    tell_captions(common, outcome);
    if let Some(failure) = &outcome.stopped {
        let left = format!("; {} rows are left, the same command goes on", counts.left());
        return Err(Ended::by(failure, &left).into());
    }
    let unwritten = outcome.captions.unwritten.count;
    match counts.failed {
        0 if unwritten > 0 => Err(Ended::new(1, format!("{unwritten} captions are not beside their pictures")).into()),
        0 => Ok(()),
        failed => Err(Ended::new(1, format!("{failed} of {} rows have no answer", counts.rows)).into()),
    }
}
