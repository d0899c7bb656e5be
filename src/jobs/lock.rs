//! The lock of an output: one process at a time, told by name.
//!
//! The system's lock tells processes on one machine apart and ends with its holder. File systems that machines share may
//! not pass it on, so the file also says who holds it, and its time is renewed while that process lives: a holder on
//! another machine counts as gone when there was no sign of it for [`STALE_AFTER`].

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::disk::{Disk, Written, beside};
use super::places::real;
use crate::error::{Error, Result};

/// The time after which a holder on another machine that gives no sign of life is gone.
pub const STALE_AFTER: Duration = Duration::from_secs(120);

/// The time between two signs of life.
const EVERY: Duration = Duration::from_secs(15);

/// A lock that is held. It ends when it is dropped, or with the process.
pub struct Lock {
    path: PathBuf,
    /// Holds the system's lock.
    _file: Written,
    /// Ends the signs of life.
    _alive: Sender<()>,
}

/// The words in a lock's file.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
struct Holder {
    pid: u32,
    host: String,
    /// Seconds since 1970.
    since: u64,
}

impl Lock {
    /// Takes the lock of `output` for this process on the machine called `host`.
    ///
    /// # Errors
    /// [`Error::InUse`] naming the holder, if there is one.
    pub fn take(disk: &Disk, output: &Path, host: &str) -> Result<Lock> {
        // Links to one file have one lock.
        let path = beside(&real(output).unwrap_or_else(|| output.into()), ".lock");
        loop {
            let options = OpenOptions::new().create(true).read(true).write(true).truncate(false).clone();
            let mut written = disk.open(&path, &options)?;
            match written.file().try_lock() {
                Ok(()) if !is_at(written.file(), &path) => continue,
                Err(TryLockError::WouldBlock) => return Err(in_use(output, read(&path), None)),
                // Where the file system has no locks, the file's words must do.
                Ok(()) | Err(TryLockError::Error(_)) => {}
            }
            if let Some(holder) = read(&path).filter(|holder| holder.host != host)
                && let Some(age) = age(disk, &path).filter(|&age| age < STALE_AFTER)
            {
                return Err(in_use(output, Some(holder), Some(age)));
            }
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
            let holder = Holder { pid: std::process::id(), host: host.into(), since };
            let words = serde_json::to_vec(&holder).expect("texts and numbers");
            let failed = |source| Error::io(&path, source);
            written.file().set_len(0).and_then(|()| written.file().rewind()).map_err(failed)?;
            written.write_all(&words).map_err(failed)?;
            let signs = written.file().try_clone().map_err(failed)?;
            return Ok(Lock { _file: written, _alive: live(signs), path });
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is still held: nobody else's is removed. What stays behind is taken over.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Renews the time of a lock's file until the other end is dropped.
fn live(file: File) -> Sender<()> {
    let (alive, ended) = mpsc::channel();
    std::thread::spawn(move || {
        while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(EVERY) {
            // One that cannot be renewed is taken for stale by other machines, and by nobody here.
            let _ = file.set_modified(SystemTime::now());
        }
    });
    alive
}

/// The time since the last sign of life, by the clock of the file system itself.
fn age(disk: &Disk, lock: &Path) -> Option<Duration> {
    let probe = beside(lock, ".now");
    let now = disk.open(&probe, OpenOptions::new().create(true).write(true).truncate(true)).ok()?;
    let now = now.file().metadata().and_then(|now| now.modified());
    let _ = std::fs::remove_file(&probe);
    let then = std::fs::metadata(lock).and_then(|lock| lock.modified());
    // A time in the future is a sign of life.
    Some(now.ok()?.duration_since(then.ok()?).unwrap_or_default())
}

/// True if a file still has its name: whoever held it before may have removed it meanwhile.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let same = |a: std::fs::Metadata, b: std::fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    file.metadata().is_ok_and(|file| std::fs::metadata(path).is_ok_and(|there| same(file, there)))
}

#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    true
}

fn read(path: &Path) -> Option<Holder> {
    let mut words = String::new();
    File::open(path).and_then(|file| file.take(1 << 12).read_to_string(&mut words)).ok()?;
    serde_json::from_str(&words).ok()
}

fn in_use(output: &Path, holder: Option<Holder>, age: Option<Duration>) -> Error {
    let holder = holder.map_or("another process".into(), |Holder { pid, host, .. }| format!("process {pid} on {host}"));
    let sign = age.map_or(String::new(), |age| {
        format!(
            " (last sign of life {} s ago; after {} s without one it counts as gone)",
            age.as_secs(),
            STALE_AFTER.as_secs()
        )
    });
    Error::InUse { path: output.into(), holder: holder + &sign }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_names_its_holder_and_ends_with_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let output = folder.path().join("out.jsonl");
        let take = || Lock::take(&Disk::default(), &output, "here");
        let held = take().expect("free");
        let refused = take().err().expect("held").to_string();
        assert!(refused.contains(&format!("process {} on here", std::process::id())), "{refused}");
        drop(held);
        assert!(!beside(&output, ".lock").exists());
        drop(take().expect("free again"));
    }

    #[test]
    fn a_holder_elsewhere_is_gone_when_it_gives_no_sign() {
        let folder = tempfile::tempdir().expect("a folder");
        let output = folder.path().join("out.jsonl");
        let lock = beside(&output, ".lock");
        let left = |host: &str, ago: u64| {
            let holder = Holder { pid: 7, host: host.into(), since: 0 };
            std::fs::write(&lock, serde_json::to_vec(&holder).expect("JSON")).expect("written");
            let file = OpenOptions::new().write(true).open(&lock).expect("a file");
            file.set_modified(SystemTime::now() - Duration::from_secs(ago)).expect("a time");
            Lock::take(&Disk::default(), &output, "here").map(drop).map_err(|error| error.to_string())
        };
        let refused = left("there", 30).expect_err("held");
        assert!(refused.contains("process 7 on there") && refused.contains("120 s"), "{refused}");
        assert_eq!(left("there", 200), Ok(()));
        assert_eq!(left("here", 1), Ok(()), "this machine's own lock would still be held");
        std::fs::write(&lock, "").expect("written");
        assert!(Lock::take(&Disk::default(), &output, "here").is_ok(), "torn");
    }
}
