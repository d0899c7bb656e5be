//! The state of a job, and the file that tells it.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use super::disk::Disk;

/// The time between two status files.
const EVERY: Duration = Duration::from_secs(1);

/// The state of a job.
#[derive(Clone, Debug)]
pub struct Counts {
    /// Rows of the shard.
    pub rows: u64,
    /// Rows with an answer.
    pub ok: u64,
    /// Rows that have none.
    pub failed: u64,
    /// Rows that this run has finished.
    pub now: u64,
    /// The time at which this run began.
    pub begun: Instant,
    /// The last failure in words, with the row's id.
    pub last_error: Option<String>,
}

impl Counts {
    /// Rows that have no line yet.
    pub fn left(&self) -> u64 {
        self.rows.saturating_sub(self.ok + self.failed)
    }

    /// Rows a second in this run; `None` before the first.
    pub fn rate(&self) -> Option<f64> {
        let seconds = self.begun.elapsed().as_secs_f64();
        (self.now > 0 && seconds > 0.0).then(|| self.now as f64 / seconds)
    }

    /// Seconds until all rows are done at this rate.
    pub fn seconds_left(&self) -> Option<f64> {
        self.rate().map(|rate| self.left() as f64 / rate)
    }
}

/// The file that says how far a job is.
pub struct Status<'a> {
    pub path: Option<&'a Path>,
    pub host: &'a str,
    last: Option<Instant>,
}

impl<'a> Status<'a> {
    /// A file at `path`, if one is wanted.
    pub fn new(path: Option<&'a Path>, host: &'a str) -> Status<'a> {
        Status { path, host, last: None }
    }

    /// Writes the file where the last one is old. A job does not end because it cannot tell how it goes.
    pub fn tell(&mut self, disk: &Disk, state: &str, counts: &Counts) {
        if self.last.is_none_or(|last| last.elapsed() >= EVERY) {
            let _ = self.write(disk, state, counts);
        }
    }

    /// Writes the file.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io).
    pub fn write(&mut self, disk: &Disk, state: &str, counts: &Counts) -> crate::error::Result<()> {
        let Some(path) = self.path else { return Ok(()) };
        self.last = Some(Instant::now());
        let updated = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let status = json!({
            "state": state, "rows": counts.rows, "ok": counts.ok, "failed": counts.failed, "left": counts.left(),
            "rows_per_second": counts.rate(), "seconds_left": counts.seconds_left(), "last_error": counts.last_error,
            "pid": std::process::id(), "host": self.host, "updated": updated,
        });
        disk.replace(path, format!("{status}\n").as_bytes())
    }
}
