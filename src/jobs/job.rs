//! A job: what it is to do is known, and refused where it cannot be, before anything is written.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use super::disk::Disk;
use super::journal;
use super::ledger::{Ledger, State};
use super::lock::Lock;
use super::manifest::{Identity, Manifest, Shard};
use super::row::Defaults;
use super::run::{Outcome, Run};
use super::source::Input;
use super::status::Counts;
use super::{Answerer, Apart};
use crate::error::{Error, Result};

/// Everything that a job is told.
pub struct Setup<'a> {
    /// The rows.
    pub input: &'a Input,
    /// What rows do not say.
    pub defaults: &'a Defaults,
    /// The file of lines.
    pub output: PathBuf,
    /// The rows of it that are this job's.
    pub shard: Shard,
    /// What all answers depend on.
    pub identity: Identity,
    /// Asks every row, whatever the output has.
    pub force: bool,
    /// Asks rows again that have no answer.
    pub retry_failed: bool,
    /// The ending of files beside the pictures that get the answers.
    pub sidecar: Option<String>,
    /// A file that says how far the job is.
    pub status: Option<PathBuf>,
    /// Rows that are asked at once.
    pub in_flight: usize,
    /// The name of this machine.
    pub host: String,
    /// The way to the disk.
    pub disk: Disk,
}

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

    /// How far the job is before it runs.
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

    /// Asks what is left. `report` hears of every line; once `stop` is set, nothing more is asked.
    ///
    /// # Errors
    /// [`Error::Io`] for what cannot be written; lines that were written stay.
    pub fn run(
        self,
        answerer: &dyn Answerer,
        apart: &mut dyn Apart,
        stop: &AtomicBool,
        report: &mut dyn FnMut(&Counts),
    ) -> Result<Outcome> {
        let mut run = Run::begin(&self, stop, report)?;
        let ran = run.apart(apart).and_then(|()| run.together(answerer));
        run.conclude(ran)
    }
}
