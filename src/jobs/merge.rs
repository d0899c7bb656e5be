//! The outputs of several jobs as one: every row of the input once, in its order, or a list of what is missing or doubled.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::disk::Disk;
use super::index::{Index, Outputs};
use super::line::{each_line, without_times};
use super::manifest::Manifest;
use super::order::in_order;
use super::places::check_is_no_input;
use super::row::{Defaults, Id};
use super::source::Input;
use super::told::{Doubled, Told};
use crate::error::{Error, Result};

/// Ids that are told by name.
const TOLD: usize = 10;

/// A merge that is to be made.
pub struct Merge<'a> {
    /// The rows.
    pub input: &'a Input,
    /// The parts that rows do not say, as [`asked_with`] tells them. Where they are not known, nobody looks whether lines
    /// answer what the rows ask.
    pub defaults: Option<&'a Defaults>,
    /// The outputs.
    pub parts: Vec<PathBuf>,
    /// The file to write; none to look only.
    pub output: Option<&'a Path>,
    /// Keeps the times of lines, which differ from run to run.
    pub times: bool,
    /// The way to the disk.
    pub disk: Disk,
}

/// The findings of a merge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Rows of the input.
    pub rows: u64,
    /// Rows with an answer.
    pub ok: u64,
    /// Rows with a line that says why there is none.
    pub failed: u64,
    /// Rows without a line.
    pub missing: Told,
    /// Rows with several lines.
    pub doubled: Told,
    /// Rows whose line answers something else than the row asks.
    pub other: Told,
    /// Lines of rows that the input does not have. They are left out.
    pub unknown: u64,
    /// Lines that are none.
    pub damaged: u64,
}

impl Merged {
    /// True if every row has one line, which answers it.
    pub fn is_whole(&self) -> bool {
        self.missing.count == 0 && self.doubled.count == 0 && self.other.count == 0
    }
}

/// The mark of a line with an answer.
const OK: u64 = 1;

/// The fields of a line that a merge reads.
#[derive(Deserialize)]
struct Brief {
    id: Id,
    ok: bool,
    key: Option<String>,
}

/// Looks for every row's line, and writes all of them in the order of the input if none is missing or doubled.
///
/// # Errors
/// [`Error::Request`] for outputs of several models or settings, [`Error::Io`].
pub fn merge(merge: &Merge<'_>) -> Result<Merged> {
    same_origin(&merge.parts)?;
    if let Some(output) = merge.output {
        check_is_no_input("the merged file", output, merge.input)?;
    }
    let mut merged = Merged::default();
    let mut lines = index(&merge.parts, &mut merged)?;
    merged.doubled = doubled(&merge.parts, lines.sort())?;
    let mut known = Outputs::open(&merge.parts)?;
    let none = Defaults::default();
    merge.input.each(merge.defaults.unwrap_or(&none), &|_| false, &mut |row| {
        merged.rows += 1;
        let found = lines.find(row.id.hash());
        if let (Some(line), Some(_)) = (found, merge.defaults) {
            let key = serde_json::from_slice(known.line(lines.offset(line))?).ok().and_then(|Brief { key, .. }| key);
            let answers = |key: String| u64::from_str_radix(&key, 16).is_ok_and(|key| key == row.key);
            if !key.is_none_or(answers) {
                merged.other.add(&row.id, TOLD);
            }
        }
        match found {
            Some(line) if lines.has(line, OK) => merged.ok += 1,
            Some(_) => merged.failed += 1,
            None => merged.missing.add(&row.id, TOLD),
        }
        Ok(ControlFlow::Continue(()))
    })?;
    merged.unknown = (lines.len() as u64).saturating_sub(merged.ok + merged.failed);
    match merge.output.filter(|_| merged.is_whole()) {
        Some(output) => write(merge, output, &lines).map(|()| merged),
        None => Ok(merged),
    }
}

/// The parts that rows did not say when these outputs were made, as JSON: `prompt`, `qformer_prompt`, `choices`, `params`
/// and `task`. `None` if no output has a manifest.
///
/// # Errors
/// [`Error::Request`] for a manifest that is something else, [`Error::Io`].
pub fn asked_with(parts: &[PathBuf]) -> Result<Option<Value>> {
    let mut manifests = parts.iter().map(|part| Manifest::read(part));
    manifests.find_map(Result::transpose).transpose().map(|found| found.map(|manifest| manifest.defaults))
}

/// Refuses outputs that were not made alike.
fn same_origin(parts: &[PathBuf]) -> Result<()> {
    let mut first: Option<Manifest> = None;
    for part in parts {
        let Some(manifest) = Manifest::read(part)? else { continue };
        match &first {
            Some(first) => {
                let alike = manifest.check(part, &first.identity, manifest.shard);
                if alike.is_err() || first.defaults != manifest.defaults {
                    let problem =
                        "was made with another model, other settings or other questions than the first of them";
                    return Err(Error::request(format!(
                        "these are not parts of one job: {} {problem}",
                        part.display()
                    )));
                }
            }
            None => first = Some(manifest),
        }
    }
    Ok(())
}

/// Notes where each line of the outputs begins. A torn one at the end is none.
fn index(parts: &[PathBuf], merged: &mut Merged) -> Result<Index> {
    let (mut lines, mut begin) = (Index::default(), 0);
    for part in parts {
        let mut end = begin;
        let torn = each_line(part, |offset, line| {
            end = begin + offset + line.len() as u64;
            match serde_json::from_slice(line) {
                Ok(Brief { id, ok, .. }) => lines.add(id.hash(), begin + offset, if ok { OK } else { 0 }),
                Err(_) => merged.damaged += 1,
            }
            Ok(())
        });
        begin = end + torn.map_err(|error| Error::io(part, error))?;
    }
    Ok(lines)
}

/// Names the lines of rows that have one before.
fn doubled(parts: &[PathBuf], hashes: Vec<u64>) -> Result<Told> {
    if hashes.is_empty() {
        return Ok(Told::default());
    }
    let mut doubled = Doubled::new(hashes, TOLD);
    for part in parts {
        let read = each_line(part, |_, line| {
            if let Ok(Brief { id, .. }) = serde_json::from_slice(line) {
                doubled.meet(&id);
            }
            Ok(())
        });
        read.map_err(|error| Error::io(part, error))?;
    }
    Ok(doubled.told)
}

fn write(merge: &Merge<'_>, output: &Path, lines: &Index) -> Result<()> {
    let mut outputs = Outputs::open(&merge.parts)?;
    merge.disk.rewrite(output, |out| {
        let mut copy = |line: &[u8]| {
            let line = std::str::from_utf8(line).map_err(std::io::Error::other)?.trim_end();
            let line = if merge.times { line.into() } else { without_times(line) };
            writeln!(out, "{line}")
        };
        in_order(merge.input, lines, &mut outputs, &mut copy)
    })
}
