//! The ledger of a job: which rows there are, and which of them the output has already. Of a row it keeps a hash, so that
//! it stays small.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{ErrorKind, Write};
use std::ops::ControlFlow;
use std::path::Path;

use serde::Deserialize;

use super::disk::Disk;
use super::line::each_line;
use super::row::{Id, Row};
use super::setup::Setup;
use super::told::Told;
use crate::error::{Error, Result};

/// Doubled ids that are told by name.
const TOLD: usize = 5;

/// The state of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// A row of another shard.
    Elsewhere,
    /// A row whose line the output has.
    Done,
    /// A row that is to be asked.
    Open,
}

/// The rows of a job and what the output has of them.
#[derive(Default)]
pub struct Ledger {
    /// Every row of the input, by the hash of its id.
    pub rows: HashMap<u64, State>,
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

/// The words of a line about its row.
struct Known {
    key: u64,
    image_bytes: Option<u64>,
    ok: bool,
    retry: bool,
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
        let mut ledger = Ledger::default();
        let mut known = if setup.force { HashMap::new() } else { ledger.read(&setup.output)? };
        let mut doubled = Told::default();
        setup.input.each(setup.defaults, &|_| false, &mut |row| {
            let hash = row.id.hash();
            match ledger.rows.entry(hash) {
                Entry::Occupied(_) => doubled.add(&row.id, TOLD),
                Entry::Vacant(place) => {
                    place.insert(match setup.shard.has(hash) {
                        true => State::Open,
                        false => State::Elsewhere,
                    });
                    ledger.look(&row, hash, known.remove(&hash), setup.retry_failed);
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        match doubled.count {
            0 => Ok(ledger),
            count => Err(Error::request(format!(
                "{count} rows have the id of an earlier one ({doubled}); give each an \"id\" of its own"
            ))),
        }
    }

    /// Decides what becomes of a row that is in the input for the first time.
    fn look(&mut self, row: &Row, hash: u64, known: Option<Known>, retry_failed: bool) {
        if self.rows.get(&hash) != Some(&State::Open) {
            return;
        }
        let stands = known.as_ref().is_some_and(|known| {
            // A picture that is gone, or not there yet, is no reason to throw its answer away.
            let same_size = || match (known.image_bytes, row.image_bytes()) {
                (Some(then), Some(now)) => then == now,
                _ => true,
            };
            let is_final = known.ok || !(known.retry || retry_failed);
            is_final && known.key == row.key && same_size()
        });
        match known {
            Some(known) if stands => {
                self.rows.insert(hash, State::Done);
                if known.ok { self.ok += 1 } else { self.failed += 1 }
            }
            known => {
                self.open += 1;
                if known.is_some() {
                    self.mend = Mend::Rewrite;
                }
            }
        }
    }

    /// The lines of the output, by the hash of their ids.
    fn read(&mut self, output: &Path) -> Result<HashMap<u64, Known>> {
        let mut known = HashMap::new();
        let (mut whole, mut lines) = (0, 0);
        let torn = each_line(output, |line| {
            whole += line.len() as u64;
            lines += 1;
            let Some((hash, brief)) = brief(line) else {
                self.mend = Mend::Rewrite;
                return Ok(());
            };
            let key = brief.key.and_then(|key| u64::from_str_radix(&key, 16).ok()).unwrap_or(0);
            let retry = brief.retry.unwrap_or(false);
            match known.entry(hash) {
                Entry::Occupied(_) => self.mend = Mend::Rewrite,
                Entry::Vacant(place) => {
                    place.insert(Known { key, image_bytes: brief.image_bytes, ok: brief.ok, retry });
                }
            }
            Ok(())
        });
        match torn {
            Ok(torn) if torn > 0 && self.mend == Mend::Nothing => self.mend = Mend::Cut(whole),
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::io(output, error)),
            Ok(_) | Err(_) => {}
        }
        self.line_bytes = whole / std::cmp::max(lines, 1);
        Ok(known)
    }

    /// Writes the output without what is not to stay: of a row only the first line, and none if it is asked again. Lines of
    /// rows that the input no longer has stay.
    pub fn rewrite(&self, disk: &Disk, output: &Path) -> Result<()> {
        let mut kept = std::collections::HashSet::new();
        disk.rewrite(output, |out: &mut dyn Write| {
            let copied = each_line(output, |line| {
                let stays = brief(line)
                    .is_some_and(|(hash, _)| self.rows.get(&hash) != Some(&State::Open) && kept.insert(hash));
                if stays { out.write_all(line) } else { Ok(()) }
            });
            copied.map(drop)
        })
    }
}

fn brief(line: &[u8]) -> Option<(u64, Brief)> {
    let brief: Brief = serde_json::from_slice(line).ok()?;
    Some((brief.id.hash(), brief))
}
