//! Progress of long work on stderr: a bar on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{DecimalBytes, ProgressBar, ProgressStyle};

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
    /// A line every few seconds.
    Lines(Lines),
    /// The same for counted work.
    CountedLines(Instant, &'static str, Option<u64>),
}

/// Bytes done, told in lines.
pub struct Lines {
    what: &'static str,
    last: Instant,
    /// When the first report came, and of how much: what was there before is not this run's speed.
    first: Option<(Instant, u64)>,
}

const EVERY: Duration = Duration::from_secs(5);

impl Progress {
    /// Progress of bytes, for the terminal or file that stderr is.
    pub fn bytes(quiet: bool, what: &'static str) -> Progress {
        if quiet {
            return Progress::Quiet;
        }
        if !std::io::stderr().is_terminal() {
            return Progress::Lines(Lines { what, last: Instant::now(), first: None });
        }
        let style = ProgressStyle::with_template(
            "{msg} {bar:30} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}, {eta} left",
        );
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

    /// Writes a line, above the bar if there is one by now.
    pub fn note(&self, line: &str) {
        match self {
            Progress::Quiet => {}
            Progress::Bar(bar) if bar.length().is_some_and(|length| length > 0) => bar.suspend(|| say(line)),
            _ => say(line),
        }
    }

    /// Writes a line that no one wants to miss, above the bar if there is one.
    pub fn tell(&self, line: &str) {
        match self {
            Progress::Bar(bar) => bar.suspend(|| say(line)),
            _ => say(line),
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
                if bar.length() != Some(total) {
                    bar.set_length(total);
                    // What was there before is not this run's speed.
                    bar.set_position(done);
                    bar.reset_eta();
                }
                bar.set_position(done);
                if done == total {
                    bar.finish_and_clear();
                }
            }
            Progress::Lines(Lines { what, last, first }) => {
                let (start, before) = *first.get_or_insert((Instant::now(), done));
                if last.elapsed() > EVERY {
                    *last = Instant::now();
                    let rate = done.saturating_sub(before) as f64 / start.elapsed().as_secs_f64().max(0.1);
                    let (done, total, rate) = (DecimalBytes(done), DecimalBytes(total), DecimalBytes(rate as u64));
                    say(&format!("{what}: {done} of {total}, {rate}/s"));
                }
            }
        }
    }
}
