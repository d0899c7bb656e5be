//! The outputs of several jobs as one: every row of the input once, in its order, or a list of what is missing or doubled.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::disk::Disk;
use super::line::{each_line, without_times};
use super::manifest::Manifest;
use super::row::{Defaults, Id};
use super::source::Input;
use super::told::Told;
use crate::error::{Error, Result};

/// Ids that are told by name.
const TOLD: usize = 10;

/// A merge that is to be made.
pub struct Merge<'a> {
    /// The rows.
    pub input: &'a Input,
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
    /// Lines of rows that the input does not have. They are left out.
    pub unknown: u64,
    /// Lines that are none.
    pub damaged: u64,
}

impl Merged {
    /// True if every row has one line.
    pub fn is_whole(&self) -> bool {
        self.missing.count == 0 && self.doubled.count == 0
    }
}

/// The place of a line.
struct Place {
    part: u32,
    offset: u64,
    ok: bool,
}

/// The fields of a line that a merge reads.
#[derive(Deserialize)]
struct Brief {
    id: Id,
    ok: bool,
}

/// Looks for every row's line, and writes all of them in the order of the input if none is missing or doubled.
///
/// # Errors
/// [`Error::Request`] for outputs of several models or settings, [`Error::Io`].
pub fn merge(merge: &Merge<'_>) -> Result<Merged> {
    same_origin(&merge.parts)?;
    let mut merged = Merged::default();
    let mut places = HashMap::new();
    for (part, path) in merge.parts.iter().enumerate() {
        index(path, part as u32, &mut places, &mut merged)?;
    }
    let lines = places.len() as u64;
    let defaults = Defaults::default();
    merge.input.each(&defaults, &|_| false, &mut |row| {
        merged.rows += 1;
        match places.get(&row.id.hash()) {
            Some(Place { ok: true, .. }) => merged.ok += 1,
            Some(_) => merged.failed += 1,
            None => merged.missing.add(&row.id, TOLD),
        }
        Ok(ControlFlow::Continue(()))
    })?;
    merged.unknown = lines.saturating_sub(merged.ok + merged.failed);
    match merge.output.filter(|_| merged.is_whole()) {
        Some(output) => write(merge, output, &places).map(|()| merged),
        None => Ok(merged),
    }
}

/// Refuses outputs that were not made alike.
fn same_origin(parts: &[PathBuf]) -> Result<()> {
    let mut first: Option<Manifest> = None;
    for part in parts {
        let Some(manifest) = Manifest::read(part)? else { continue };
        match &first {
            Some(first) => manifest
                .check(part, &first.identity, manifest.shard)
                .map_err(|error| Error::request(format!("these are not parts of one job: {error}")))?,
            None => first = Some(manifest),
        }
    }
    Ok(())
}

/// Notes where each line of an output begins. A torn one at the end is none.
fn index(path: &Path, part: u32, places: &mut HashMap<u64, Place>, merged: &mut Merged) -> Result<()> {
    let mut offset = 0;
    let read = each_line(path, |line| {
        match serde_json::from_slice(line) {
            Ok(Brief { id, ok }) => match places.entry(id.hash()) {
                Entry::Occupied(_) => merged.doubled.add(&id, TOLD),
                Entry::Vacant(place) => drop(place.insert(Place { part, offset, ok })),
            },
            Err(_) => merged.damaged += 1,
        }
        offset += line.len() as u64;
        Ok(())
    });
    read.map(drop).map_err(|error| Error::io(path, error))
}

fn write(merge: &Merge<'_>, output: &Path, places: &HashMap<u64, Place>) -> Result<()> {
    let open = |path: &PathBuf| File::open(path).map(BufReader::new).map_err(|error| Error::io(path, error));
    let mut parts = merge.parts.iter().map(open).collect::<Result<Vec<_>>>()?;
    merge.disk.rewrite(output, |out| {
        let mut line = String::new();
        let written = merge.input.each(&Defaults::default(), &|_| false, &mut |row| {
            if let Some(Place { part, offset, .. }) = places.get(&row.id.hash()) {
                let (part, path) = (&mut parts[*part as usize], &merge.parts[*part as usize]);
                line.clear();
                let failed = |error| Error::io(path, error);
                // Lines mostly follow each other: what was read ahead stays.
                let here = part.stream_position().map_err(failed)?;
                match offset.checked_sub(here) {
                    Some(ahead) => part.seek_relative(ahead as i64).map_err(failed)?,
                    None => drop(part.seek(SeekFrom::Start(*offset)).map_err(failed)?),
                }
                part.read_line(&mut line).map_err(failed)?;
                let line = line.trim_end();
                let line = if merge.times { line.into() } else { without_times(line) };
                writeln!(out, "{line}").map_err(|error| Error::io(output, error))?;
            }
            Ok(ControlFlow::Continue(()))
        });
        written.map_err(|error| match error {
            Error::Io { source, .. } => source,
            error => std::io::Error::other(error.to_string()),
        })
    })
}
