//! The order of an output: lines come as answers do, and are put in the order of the input where that is wanted.

use std::ops::ControlFlow;

use super::index::{Index, Outputs};
use super::line::each_line;
use super::row::{Defaults, Id};
use super::setup::Setup;
use super::source::Input;
use crate::error::{Error, Result};

/// The mark of a line whose row is in the input.
const WANTED: u64 = 1;

/// Puts the lines of a whole output in the order of its rows in the input, all at once: whoever reads it sees the old file or
/// the new one. Lines of rows that the input does not have come last. An output that is in order stays as it is.
///
/// # Errors
/// [`Error::Io`], after which the output is as it was.
pub fn order(setup: &Setup<'_>) -> Result<()> {
    let output = &setup.output;
    let hash = |line: &[u8]| serde_json::from_slice(line).ok().map(|Named { id }| id.hash());
    let mut lines = Index::default();
    let read = each_line(output, |offset, line| {
        hash(line).into_iter().for_each(|hash| lines.add(hash, offset, 0));
        Ok(())
    });
    read.map_err(|error| Error::io(output, error))?;
    lines.sort();
    if is_ordered(setup, &mut lines)? {
        return Ok(());
    }
    let paths = [output.clone()];
    let outputs = Outputs::open(&paths)?;
    setup.disk.rewrite(output, |out| {
        // Closed before the new file gets its name.
        let mut outputs = outputs;
        in_order(setup.input, &lines, &mut outputs, &mut |line| out.write_all(line))?;
        let is_wanted =
            |line: &[u8]| hash(line).and_then(|hash| lines.find(hash)).is_some_and(|line| lines.has(line, WANTED));
        each_line(output, |_, line| if is_wanted(line) { Ok(()) } else { out.write_all(line) }).map(drop)
    })
}

/// The field of a line that its place depends on.
#[derive(serde::Deserialize)]
struct Named {
    id: Id,
}

/// Marks the lines of rows that are in the input. True if each is where it belongs.
fn is_ordered(setup: &Setup<'_>, lines: &mut Index) -> Result<bool> {
    let (mut end, mut is_ordered) = (0, true);
    setup.input.each(&Defaults::default(), &|_| false, &mut |row| {
        if let Some(line) = lines.find(row.id.hash()) {
            lines.mark(line, WANTED);
            is_ordered &= end <= lines.offset(line);
            end = lines.offset(line);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let follows = |line| lines.has(line, WANTED) || end <= lines.offset(line);
    Ok(is_ordered && (0..lines.len()).all(follows))
}

/// Copies the lines of rows in the order in which the input has these.
pub fn in_order(
    input: &Input,
    lines: &Index,
    outputs: &mut Outputs<'_>,
    copy: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let copied = input.each(&Defaults::default(), &|_| false, &mut |row| {
        if let Some(line) = lines.find(row.id.hash()) {
            copy(outputs.line(lines.offset(line))?).map_err(|error| Error::io("", error))?;
        }
        Ok(ControlFlow::Continue(()))
    });
    copied.map_err(|error| match error {
        Error::Io { source, .. } => source,
        error => std::io::Error::other(error.to_string()),
    })
}
