//! The frame log: how long each frame took, for whoever wants to know whether the window is ever late.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Duration;

/// A file with a line a frame: milliseconds of the update. The slowest is told at the end.
#[derive(Debug)]
pub struct FrameLog {
    file: BufWriter<File>,
    slowest: Duration,
    frames: u64,
}

impl FrameLog {
    /// Begins a log.
    ///
    /// # Errors
    /// A description of why it cannot be written, for people.
    pub fn begin(path: &Path) -> Result<FrameLog, String> {
        let file = File::create(path).map_err(|e| format!("{}: cannot be written ({e})", path.display()))?;
        Ok(FrameLog { file: BufWriter::new(file), slowest: Duration::ZERO, frames: 0 })
    }

    /// Notes a frame, and what the program was about that made it slow.
    pub fn note(&mut self, took: Duration) {
        self.slowest = self.slowest.max(took);
        self.frames += 1;
        // A log that cannot be written is no reason to end.
        let _ = writeln!(self.file, "{:.2}", took.as_secs_f64() * 1e3);
        if self.frames.is_multiple_of(32) {
            let _ = self.file.flush();
        }
    }
}

impl Drop for FrameLog {
    fn drop(&mut self) {
        let slowest = self.slowest.as_secs_f64() * 1e3;
        let _ = writeln!(self.file, "slowest {slowest:.2} ms of {} frames", self.frames);
        let _ = self.file.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_frame_is_told_at_the_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("frames");
        let mut log = FrameLog::begin(&path).expect("begun");
        [3, 40, 5].into_iter().for_each(|ms| log.note(Duration::from_millis(ms)));
        drop(log);
        let text = std::fs::read_to_string(&path).expect("a text");
        assert_eq!(text, "3.00\n40.00\n5.00\nslowest 40.00 ms of 3 frames\n");
    }
}
