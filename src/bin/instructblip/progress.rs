//! Progress of long work on stderr: a bar on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Writes a line to stderr. That nobody reads it any more is no reason to stop.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Progress of loading a model or of counted work.
pub enum Progress {
    /// Nothing is shown.
    Quiet,
    /// A bar.
    Bar(ProgressBar),
    /// A line every few seconds, and what it says is being done.
    Lines(Instant, &'static str),
    /// The same for counted work.
    CountedLines(Instant, &'static str, Option<u64>),
}

const EVERY: Duration = Duration::from_secs(5);

impl Progress {
    /// Progress of loading a model, for the terminal or file that stderr is.
    pub fn new(quiet: bool) -> Progress {
        Progress::bytes(quiet, "loading")
    }

    /// Progress of what is counted in bytes.
    pub fn bytes(quiet: bool, what: &'static str) -> Progress {
        if quiet {
            return Progress::Quiet;
        }
        if !std::io::stderr().is_terminal() {
            return Progress::Lines(Instant::now(), what);
        }
        let style = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}");
        let bar = ProgressBar::new(0).with_message(what);
        Progress::Bar(style.map_or(bar.clone(), |style| bar.with_style(style)))
    }

    /// Progress of work that is counted as it is done, of a `total` if it is known.
    pub fn counting(quiet: bool, what: &'static str, total: Option<u64>) -> Progress {
        if quiet {
            return Progress::Quiet;
        }
        if !std::io::stderr().is_terminal() {
            return Progress::CountedLines(Instant::now(), what, total);
        }
        let (bar, template) = match total {
            Some(total) => (ProgressBar::new(total), "{msg} {bar:30} {pos}/{len} {eta} left"),
            None => (ProgressBar::new_spinner(), "{spinner} {pos} {msg} {elapsed}"),
        };
        let bar = bar.with_message(what);
        Progress::Bar(ProgressStyle::with_template(template).map_or(bar.clone(), |style| bar.with_style(style)))
    }

    /// Shows that `done` pieces of counted work are done.
    pub fn count(&mut self, done: u64) {
        match self {
            Progress::Bar(bar) => bar.set_position(done),
            Progress::CountedLines(last, what, total) if last.elapsed() > EVERY => {
                *last = Instant::now();
                let of = total.map_or(String::new(), |total| format!(" of {total}"));
                say(&format!("{done}{of} {what}"));
            }
            _ => {}
        }
    }

    /// Takes a counter off the terminal.
    pub fn clear(&self) {
        if let Progress::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }

    /// Shows that `done` of `total` bytes are done.
    pub fn report(&mut self, done: u64, total: u64) {
        match self {
            Progress::Quiet | Progress::CountedLines(..) => {}
            Progress::Bar(bar) => {
                bar.set_length(total);
                bar.set_position(done);
                if done == total {
                    bar.finish_and_clear();
                }
            }
            Progress::Lines(last, what) => {
                if last.elapsed() > EVERY {
                    *last = Instant::now();
                    say(&format!("{what}: {} of {} MB", done >> 20, total >> 20));
                }
            }
        }
    }
}
