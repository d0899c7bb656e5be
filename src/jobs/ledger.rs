//! The ledger of a job: which rows there are, and which of them the output has already. Of a row it keeps a hash, and where
//! its line is if it has one, so that it stays small.

use std::io::{ErrorKind, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;

use serde::Deserialize;

use super::disk::Disk;
use super::index::{Index, Outputs};
use super::line::each_line;
use super::manifest::Shard;
use super::row::{Id, Row};
use super::setup::Setup;
use super::told::Doubled;
use crate::error::{Error, Result};

/// Doubled ids that are told by name.
const TOLD: usize = 5;

/// The mark of a line whose row is in the input.
const WANTED: u64 = 1;
/// The mark of a line that stays the answer of its row.
const STANDS: u64 = 2;

/// The rows of a job and what the output has of them.
#[derive(Default)]
pub struct Ledger {
    output: PathBuf,
    shard: Shard,
    /// The lines that the output has.
    lines: Index,
    /// The hashes of rows without a line, in order.
    unknown: Vec<u64>,
    /// Rows of the whole input.
    pub rows: u64,
    /// Rows of the shard that have an answer, that have none and stay so, and that are to be asked.
    pub ok: u64,
    pub failed: u64,
    pub open: u64,
    /// The repair of the output before lines are added.
    pub mend: Mend,
    /// Bytes of a line as the output has them so far.
    pub line_bytes: u64,
}

/// A repair of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mend {
    /// None.
    #[default]
    Nothing,
    /// The end is cut: a torn line.
    Cut(u64),
    /// Lines are left out: of rows that are asked again, doubled ones, damaged ones.
    Rewrite,
}

/// The fields of a line that the ledger reads.
#[derive(Deserialize)]
struct Brief {
    id: Id,
    ok: bool,
    retry: Option<bool>,
    key: Option<String>,
    image_bytes: Option<u64>,
}

impl Ledger {
    /// Reads the output as it is and goes through the input.
    ///
    /// # Errors
    /// [`Error::Request`] for ids that several rows have, [`Error::Io`].
    pub fn survey(setup: &Setup<'_>) -> Result<Ledger> {
        let mut ledger = Ledger { output: setup.output.clone(), shard: setup.shard, ..Ledger::default() };
        let outputs = [setup.output.clone()];
        let mut known = match !setup.force && ledger.read()? {
            true => Some(Outputs::open(&outputs)?),
            false => None,
        };
        let mut doubled = Vec::new();
        setup.input.each(setup.defaults, &|_| false, &mut |row| {
            ledger.rows += 1;
            let (hash, is_own) = (row.id.hash(), setup.shard.has(row.id.hash()));
            match (ledger.lines.find(hash), &mut known) {
                (Some(line), Some(known)) => {
                    if ledger.lines.has(line, WANTED) {
                        doubled.push(hash);
                    } else if is_own {
                        let brief = brief(known.line(ledger.lines.offset(line))?);
                        ledger.look(&row, line, brief, setup.retry_failed);
                    }
                    ledger.lines.mark(line, WANTED);
                }
                _ => {
                    ledger.unknown.push(hash);
                    ledger.open += u64::from(is_own);
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        ledger.unknown.sort_unstable();
        doubled.extend(ledger.unknown.windows(2).filter(|two| two[0] == two[1]).map(|two| two[0]));
        if doubled.is_empty() { Ok(ledger) } else { Err(several(setup, doubled)) }
    }

    /// Decides what becomes of a row that has a line.
    fn look(&mut self, row: &Row, line: usize, known: Option<Brief>, retry_failed: bool) {
        let stands = known.filter(|known| {
            // A picture that is gone, or not there yet, is no reason to throw its answer away.
            let same_size = || match (known.image_bytes, row.image_bytes()) {
                (Some(then), Some(now)) => then == now,
                _ => true,
            };
            let key = known.key.as_ref().and_then(|key| u64::from_str_radix(key, 16).ok());
            let is_final = known.ok || !(known.retry.unwrap_or(false) || retry_failed);
            is_final && key.unwrap_or(0) == row.key && same_size()
        });
        match stands {
            Some(known) => {
                self.lines.mark(line, STANDS);
                if known.ok { self.ok += 1 } else { self.failed += 1 }
            }
            None => {
                self.open += 1;
                self.mend = Mend::Rewrite;
            }
        }
    }

    /// True if the row of this hash is to be asked.
    pub fn is_open(&self, hash: u64) -> bool {
        self.shard.has(hash)
            && match self.lines.find(hash) {
                Some(line) => self.lines.has(line, WANTED) && !self.lines.has(line, STANDS),
                None => self.unknown.binary_search(&hash).is_ok(),
            }
    }

    /// Finds the lines of the output; false if there is none.
    fn read(&mut self) -> Result<bool> {
        let (mut whole, mut lines) = (0, 0);
        let torn = each_line(&self.output, |offset, line| {
            whole = offset + line.len() as u64;
            lines += 1;
            match brief(line) {
                Some(brief) => self.lines.add(brief.id.hash(), offset, 0),
                None => self.mend = Mend::Rewrite,
            }
            Ok(())
        });
        if !self.lines.sort().is_empty() {
            self.mend = Mend::Rewrite;
        }
        match torn {
            Ok(torn) if torn > 0 && self.mend == Mend::Nothing => self.mend = Mend::Cut(whole),
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::io(&self.output, error)),
            Ok(_) | Err(_) => {}
        }
        self.line_bytes = whole / std::cmp::max(lines, 1);
        Ok(lines > 0)
    }

    /// Writes the output without what is not to stay: of a row only the first line, and none if it is asked again. Lines of
    /// rows that the input no longer has stay.
    pub fn rewrite(&self, disk: &Disk) -> Result<()> {
        let is_first = |hash, offset| self.lines.find(hash).is_some_and(|line| self.lines.offset(line) == offset);
        disk.rewrite(&self.output, |out: &mut dyn Write| {
            let copied = each_line(&self.output, |offset, line| {
                let hash = brief(line).map(|brief| brief.id.hash());
                let stays = hash.is_some_and(|hash| is_first(hash, offset) && !self.is_open(hash));
                if stays { out.write_all(line) } else { Ok(()) }
            });
            copied.map(drop)
        })
    }
}

/// The refusal of ids that several rows have.
fn several(setup: &Setup<'_>, hashes: Vec<u64>) -> Error {
    let mut doubled = Doubled::new(hashes, TOLD);
    let named = setup.input.each(setup.defaults, &|_| false, &mut |row| {
        doubled.meet(&row.id);
        Ok(ControlFlow::Continue(()))
    });
    let told = doubled.told;
    named.err().unwrap_or_else(|| {
        let (count, what) = (told.count, "rows have the id of an earlier one");
        Error::request(format!("{count} {what} ({told}); give each an \"id\" of its own"))
    })
}

fn brief(line: &[u8]) -> Option<Brief> {
    serde_json::from_slice(line).ok()
}
