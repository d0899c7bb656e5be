//! A job: what it is to do is known, and refused where it cannot be, before anything is written.

use std::collections::HashSet;

use super::journal;
use super::ledger::Ledger;
use super::lock::Lock;
use super::manifest::Manifest;
use super::places::{check_is_no_input, check_status};
use super::setup::Setup;
use super::status::Counts;
use crate::error::{Error, Result};

/// A job that holds its output and knows what is left to do.
pub struct Job<'a> {
    pub(super) setup: Setup<'a>,
    pub(super) ledger: Ledger,
    /// Open rows that were asked when a process ended.
    pub(super) suspects: HashSet<u64>,
    _lock: Lock,
}

/// Bytes of a line where none is known.
const USUAL_LINE: u64 = 400;
/// Bytes that a small file takes on the disk.
const BLOCK: u64 = 4096;

impl<'a> Job<'a> {
    /// Takes the output, compares it with what is asked for, and goes through the input. Of all this the lock is the only
    /// file that is written.
    ///
    /// # Errors
    /// [`Error::InUse`] where another process works at the output; [`Error::Request`] for an output that was made
    /// otherwise, that is none, or that would be written over what is read, and for doubled ids; [`Error::Io`].
    pub fn open(setup: Setup<'a>) -> Result<Job<'a>> {
        check_is_no_input("the output", &setup.output, setup.input)?;
        if let Some(status) = &setup.status {
            check_is_no_input("the status file", status, setup.input)?;
            check_status(status, &setup.output)?;
        }
        let lock = Lock::take(&setup.disk, &setup.output, &setup.host)?;
        let is_there = std::fs::metadata(&setup.output).is_ok_and(|output| output.len() > 0);
        if is_there && !setup.force {
            match Manifest::read(&setup.output)? {
                Some(manifest) => manifest.check(&setup.output, &setup.identity, setup.shard)?,
                None => {
                    let problem = "has no manifest beside it and may be something else; give another --output, or --force to \
                                   write over it";
                    return Err(Error::request(format!("{} {problem}", setup.output.display())));
                }
            }
        }
        let ledger = Ledger::survey(&setup)?;
        let mut suspects = if setup.force { HashSet::new() } else { journal::left_behind(&setup.output)? };
        suspects.retain(|&hash| ledger.is_open(hash));
        Ok(Job { setup, ledger, suspects, _lock: lock })
    }

    /// The state of the job before it runs.
    pub fn counts(&self) -> Counts {
        let Ledger { ok, failed, open, .. } = self.ledger;
        Counts { rows: ok + failed + open, ok, failed, now: 0, begun: std::time::Instant::now(), last_error: None }
    }

    /// About the bytes that the rows that are left will take on the disk.
    pub fn bytes_needed(&self) -> u64 {
        self.bytes_for(self.ledger.open)
    }

    /// About the bytes that so many rows will take, and all of them once more while they are put in order.
    pub(super) fn bytes_for(&self, rows: u64) -> u64 {
        let Ledger { line_bytes, ok, failed, open, .. } = self.ledger;
        let line = if line_bytes == 0 { USUAL_LINE } else { line_bytes };
        let sidecar = if self.setup.sidecar.is_some() { BLOCK } else { 0 };
        let copy = if self.setup.ordered { (ok + failed + open) * line } else { 0 };
        rows * (line + sidecar) + copy
    }
}
