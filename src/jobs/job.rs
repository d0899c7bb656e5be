//! A job: what it is to do is known, and refused where it cannot be, before anything is written.

use std::collections::HashSet;

use super::journal;
use super::ledger::{Ledger, State};
use super::lock::Lock;
use super::manifest::Manifest;
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
    /// otherwise, that is none, and for doubled ids; [`Error::Io`].
    pub fn open(setup: Setup<'a>) -> Result<Job<'a>> {
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
        suspects.retain(|hash| ledger.rows.get(hash) == Some(&State::Open));
        Ok(Job { setup, ledger, suspects, _lock: lock })
    }

    /// The state of the job before it runs.
    pub fn counts(&self) -> Counts {
        let Ledger { ok, failed, open, .. } = self.ledger;
        Counts { rows: ok + failed + open, ok, failed, now: 0, begun: std::time::Instant::now(), last_error: None }
    }

    /// Rows of the whole input.
    pub fn input_rows(&self) -> u64 {
        self.ledger.rows.len() as u64
    }

    /// About the bytes that the rows that are left will take on the disk.
    pub fn bytes_needed(&self) -> u64 {
        let line = if self.ledger.line_bytes == 0 { USUAL_LINE } else { self.ledger.line_bytes };
        let sidecar = if self.setup.sidecar.is_some() { BLOCK } else { 0 };
        self.ledger.open * (line + sidecar)
    }
}
