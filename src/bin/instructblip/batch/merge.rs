//! `instructblip batch merge`: the outputs of several shards as one file, with proof that no row is missing or doubled.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use instructblip::Error;
use instructblip::jobs::{Disk, Merge as Merging, Merged, asked_with, merge};

use super::asking::recorded;
use super::inputs::input;
use crate::common::Common;
use crate::ended::Ended;
use crate::files::check_target;
use crate::progress::say;

/// Arguments of `batch merge`.
#[derive(Args, Debug)]
pub struct Merge {
    /// The rows that were asked, as they were given to `batch`
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<PathBuf>,
    /// An output, or a folder of shards' outputs; may be repeated
    #[arg(long = "from", required = true, value_name = "OUT")]
    pub from: Vec<PathBuf>,
    /// File to write: every row once, in the order of the input, the same bytes however the job was cut up or interrupted
    #[arg(long, short, value_name = "MERGED.jsonl", required_unless_present = "check")]
    pub output: Option<PathBuf>,
    /// Only say whether every row has one line
    #[arg(long, conflicts_with = "output")]
    pub check: bool,
    /// Keep the times of each row, which differ from run to run
    #[arg(long)]
    pub times: bool,
}

pub fn run(common: &Common, arguments: &Merge) -> Result<()> {
    if let Some(output) = &arguments.output {
        check_target(output)?;
    }
    let rows = input(&arguments.inputs)?;
    let mut parts = Vec::new();
    for from in &arguments.from {
        match from.is_dir() {
            true => parts.extend(in_folder(from)?),
            false => parts.push(from.clone()),
        }
    }
    let output = arguments.output.as_deref();
    if parts.iter().any(|part| output.is_some_and(|output| is_same(part, output))) {
        let problem = "the merged file is one of the parts; give the name of another --output".into();
        return Err(Error::Request { problem }.into());
    }
    let defaults = asked_with(&parts)?.as_ref().map(recorded).transpose()?;
    let (defaults, times) = (defaults.as_ref(), arguments.times);
    let merged = merge(&Merging { input: &rows, defaults, parts, output, times, disk: Disk::default() })?;
    report(common, &merged)
}

fn is_same(a: &Path, b: &Path) -> bool {
    a.canonicalize().is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b))
}

/// The shards' outputs in a folder.
fn in_folder(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |source| Error::Io { path: folder.into(), source };
    let entries = std::fs::read_dir(folder).map_err(failed)?;
    let mut parts: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    let is_part = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with("part-") && name.ends_with(".jsonl")
    };
    parts.retain(is_part);
    parts.sort();
    match parts.is_empty() {
        true => Err(Error::Request { problem: format!("{}: no part-….jsonl is here", folder.display()) }.into()),
        false => Ok(parts),
    }
}

/// Says what was found.
///
/// # Errors
/// [`Ended`] where rows are missing or doubled, and where some have no answer.
fn report(common: &Common, merged: &Merged) -> Result<()> {
    let Merged { rows, ok, failed, missing, doubled, other, unknown, damaged } = merged;
    for (what, told) in [("missing", missing), ("doubled", doubled), ("asked otherwise", other)] {
        if told.count > 0 {
            say(&format!("{what}: {} ({told})", told.count));
        }
    }
    let others =
        [(unknown, "lines of rows that the input does not have were left out"), (damaged, "lines are damaged")];
    for (count, what) in others.into_iter().filter(|(count, _)| **count > 0) {
        say(&format!("{count} {what}"));
    }
    if !merged.is_whole() {
        let others = match other.count {
            0 => String::new(),
            count => format!(", and {count} have an answer to another question"),
        };
        let words = format!("of {rows} rows {} are missing and {} doubled{others}", missing.count, doubled.count);
        return Err(Ended::new(1, words).into());
    }
    if !common.quiet {
        say(&format!("{rows} rows, each once: {ok} with an answer, {failed} without"));
    }
    match failed {
        0 => Ok(()),
        _ => Err(Ended::new(1, format!("{failed} of {rows} rows have no answer")).into()),
    }
}
