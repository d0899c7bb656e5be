//! The journal of a job: the rows that were asked. Those that have no line when the process ends without saying so may be
//! why it did.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::disk::{Disk, Written, beside};
use crate::error::{Error, Result};

/// Bytes of an entry: sixteen digits and the end of the line.
const ENTRY: usize = 17;

/// A journal that is being written.
pub struct Journal {
    disk: Disk,
    file: Written,
    path: PathBuf,
}

/// The rows in the journal that a process left behind, as hashes of their ids.
pub fn left_behind(output: &Path) -> Result<HashSet<u64>> {
    let path = beside(output, ".journal");
    match std::fs::read(&path) {
        // An entry that is torn was not asked yet.
        Ok(bytes) => Ok(bytes.chunks_exact(ENTRY).filter_map(parse).collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(HashSet::new()),
        Err(error) => Err(Error::io(path, error)),
    }
}

fn parse(entry: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(entry.strip_suffix(b"\n")?).ok()?, 16).ok()
}

impl Journal {
    /// Begins a journal with the rows that are suspects still.
    pub fn begin(disk: &Disk, output: &Path, suspects: &HashSet<u64>) -> Result<Journal> {
        let path = beside(output, ".journal");
        let entries: String = suspects.iter().map(|hash| format!("{hash:016x}\n")).collect();
        disk.replace(&path, entries.as_bytes())?;
        Ok(Journal { file: disk.append(&path)?, disk: disk.clone(), path })
    }

    /// Notes that a row is about to be asked. A process that ends leaves it behind; that the machine ends is no row's
    /// fault, so nothing waits for the disk.
    pub fn asked(&mut self, hash: u64) -> Result<()> {
        self.file.add(format!("{hash:016x}\n").as_bytes())
    }

    /// Ends a journal after which nothing is suspect.
    pub fn end(self) -> Result<()> {
        let Journal { disk, file, path } = self;
        drop(file);
        disk.remove(&path)
    }
}
