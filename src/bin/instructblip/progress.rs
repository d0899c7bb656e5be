//! Progress of long work on stderr: a bar on a terminal; elsewhere a line now and then if it takes long, and one at the
//! end of that, so that no log ends with a count that is half of it.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{DecimalBytes, ProgressBar, ProgressStyle};

/// Writes a line to stderr. A reader that has gone is no reason to stop.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Progress of loading a model or of counted work.
pub enum Progress {
    /// Nothing is shown.
    Quiet,
    /// A bar.
    Bar(ProgressBar),
    /// A line now and then.
    Lines(Lines),
    /// A line now and then about counted work.
    CountedLines(Counted),
}

/// Pieces of work done, told in lines.
pub struct Counted {
    what: &'static str,
    /// Work without an end has no lines.
    total: Option<u64>,
    done: u64,
    begun: Instant,
    last: Instant,
    said: bool,
}

/// Bytes done, told in lines.
pub struct Lines {
    what: &'static str,
    last: Instant,
    /// When the first report came, and of how much: what was there before is not this run's speed.
    first: Option<(Instant, u64)>,
    said: bool,
}

const EVERY: Duration = Duration::from_secs(30);

impl Counted {
    /// The line to write when so much is done.
    fn line(&mut self, done: u64, now: Instant) -> Option<String> {
        self.done = done;
        let total = self.total.filter(|_| now.duration_since(self.last) > EVERY)?;
        (self.last, self.said) = (now, true);
        let rate = done as f64 / now.duration_since(self.begun).as_secs_f64();
        let left = total.saturating_sub(done) as f64 / rate;
        let left = if left.is_finite() { format!(", {rate:.1}/s, {} left", span(left)) } else { String::new() };
        Some(format!("{done} of {total} {}{left}", self.what))
    }

    /// The line that ends what was begun.
    fn last_line(&self) -> Option<String> {
        let total = self.total.filter(|total| self.said && self.done == *total)?;
        Some(format!("{total} of {total} {}", self.what))
    }
}

/// A time as people say it: `40 s`, `12 min`, `3 h 20 min`.
fn span(seconds: f64) -> String {
    let minutes = (seconds / 60.0).round() as u64;
    match minutes {
        _ if seconds < 100.0 => format!("{seconds:.0} s"),
        0..100 => format!("{minutes} min"),
        _ => format!("{} h {} min", minutes / 60, minutes % 60),
    }
}

impl Progress {
    /// Progress of bytes, for the terminal or file that stderr is.
    pub fn bytes(quiet: bool, what: &'static str) -> Progress {
        if quiet {
            return Progress::Quiet;
        }
        if !std::io::stderr().is_terminal() {
            return Progress::Lines(Lines { what, last: Instant::now(), first: None, said: false });
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
            return Progress::CountedLines(Counted {
                what,
                total,
                done: 0,
                begun: Instant::now(),
                last: Instant::now(),
                said: false,
            });
        }
        let (bar, template) = match total {
            Some(total) => (ProgressBar::new(total), "{msg} {bar:30} {pos}/{len} {per_sec}, {eta} left"),
            None => (ProgressBar::new_spinner(), "{spinner} {pos} {msg} {elapsed}"),
        };
        let bar = bar.with_message(what);
        Progress::Bar(ProgressStyle::with_template(template).map_or(bar.clone(), |style| bar.with_style(style)))
    }

    /// Shows that `done` pieces of counted work are done.
    pub fn count(&mut self, done: u64) {
        match self {
            Progress::Bar(bar) => bar.set_position(done),
            Progress::CountedLines(counted) => counted.line(done, Instant::now()).iter().for_each(|line| say(line)),
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

    /// Writes a line that must not be missed, above the bar if there is one.
    pub fn tell(&self, line: &str) {
        match self {
            Progress::Bar(bar) => bar.suspend(|| say(line)),
            _ => say(line),
        }
    }

    /// Takes a counter off the terminal.
    pub fn clear(&self) {
        match self {
            Progress::Bar(bar) => bar.finish_and_clear(),
            Progress::CountedLines(counted) => counted.last_line().iter().for_each(|line| say(line)),
            _ => {}
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
            Progress::Lines(Lines { what, last, first, said }) => {
                let (start, before) = *first.get_or_insert((Instant::now(), done));
                if last.elapsed() > EVERY || (*said && done == total) {
                    (*last, *said) = (Instant::now(), done < total);
                    let rate = done.saturating_sub(before) as f64 / start.elapsed().as_secs_f64().max(0.1);
                    let (done, total, rate) = (DecimalBytes(done), DecimalBytes(total), DecimalBytes(rate as u64));
                    say(&format!("{what}: {done} of {total}, {rate}/s"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_in_lines_are_rare_and_end_whole() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let counted = |total| Counted { what: "questions", total, done: 0, begun: start, last: start, said: false };
        let mut short = counted(Some(9));
        assert_eq!((short.line(4, after(20)), short.line(9, after(25)), short.last_line()), (None, None, None));
        let mut long = counted(Some(9));
        assert_eq!(long.line(4, after(31)).as_deref(), Some("4 of 9 questions, 0.1/s, 39 s left"));
        assert_eq!((long.line(8, after(50)), long.last_line()), (None, None), "it may have failed");
        assert_eq!((long.line(9, after(55)), long.last_line().as_deref()), (None, Some("9 of 9 questions")));
        assert_eq!(counted(None).line(4, after(99)), None);
    }
}
