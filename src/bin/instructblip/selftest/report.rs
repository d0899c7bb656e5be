//! The report of a selftest: a table to read, an object to send.

use std::fmt::Write;

use anyhow::Result;
use instructblip::Error;
use instructblip::lab::selftest::{NotRun, Outcome, Row};
use instructblip::runtime::{AdapterSummary, MatrixSize};
use serde_json::{Value, json};

use crate::ended::Ended;
use crate::machine::Machine;

/// Some case failed: the kernels are not to be trusted here.
#[derive(Debug)]
pub struct Failed {
    failed: usize,
    cases: usize,
    first: String,
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Failed { failed, cases, first } = self;
        write!(
            f,
            "{failed} of {cases} kernel tests failed, the first: {first}; a newer driver may help, and a report "
        )?;
        write!(f, "with the output of `instructblip selftest --json` will")
    }
}

impl std::error::Error for Failed {}

/// Everything a selftest has to tell.
pub struct Report {
    /// The adapter that was tested.
    pub adapter: Option<AdapterSummary>,
    /// Matrices that it multiplies, as far as the first device is used for them.
    pub matrix: Option<MatrixSize>,
    /// Forms that could not be tried.
    pub not_run: Vec<NotRun>,
    /// The outcome of the cases.
    pub outcome: Outcome,
    /// The time it took, in milliseconds.
    pub ms: f64,
}

impl Report {
    fn failed(&self) -> impl Iterator<Item = &Row> {
        self.outcome.rows.iter().filter(|row| !row.ok())
    }

    /// True if every case is right, to the last.
    pub fn passed(&self) -> bool {
        self.failed().next().is_none() && self.outcome.ended.is_none()
    }

    /// Names of the kernels that ran.
    pub fn kernels(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.outcome.rows.iter().flat_map(|row| row.kernels.iter().copied()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// # Errors
    /// The loss of the device, [`Failed`], or an [`Ended`] where the program was asked to end and nothing had failed.
    pub fn verdict(self) -> Result<()> {
        let first = self.failed().next().map(|row| format!("{}, {}, {}", row.kernel, row.form, describe(row)));
        match (self.outcome.ended, first) {
            (Some(lost), _) if !matches!(lost, Error::Cancelled) => Err(lost.into()),
            (_, Some(first)) => {
                let rows = &self.outcome.rows;
                let failed = rows.iter().filter(|row| !row.ok()).count();
                Err(Failed { failed, cases: rows.len(), first }.into())
            }
            (Some(_), None) if self.outcome.rows.is_empty() => Err(Ended::new(75, "stopped as asked".into()).into()),
            (Some(_), None) => Err(Ended::new(75, "stopped as asked; what was tested by then is right".into()).into()),
            (None, None) => Ok(()),
        }
    }

    /// One line about all of it.
    pub fn summary(&self) -> String {
        let (count, failed, seconds) = (self.outcome.rows.len(), self.failed().count(), self.ms / 1e3);
        let verdict = match (count, failed) {
            (0, _) => "nothing is known".to_string(),
            (_, 0) => "all right".to_string(),
            _ => format!("{failed} FAILED"),
        };
        let cases = if count == 1 { "1 case".to_string() } else { format!("{count} cases") };
        let kernels = match self.kernels().len() {
            1 => "1 kernel".to_string(),
            n => format!("{n} kernels"),
        };
        let ended = match self.outcome.ended {
            Some(Error::Cancelled) => "; then it was stopped",
            Some(_) => "; then the GPU was lost",
            None => "",
        };
        format!("{cases} of {kernels} in {seconds:.1} s: {verdict}{ended}")
    }

    /// Kernels and forms with their worst cases, then every case that failed.
    pub fn table(&self) -> String {
        let mut lines = vec![["kernel", "form", "cases", "worst error", "bound", "result", "ms"].map(String::from)];
        let mut groups: Vec<(&str, &str, Vec<&Row>)> = Vec::new();
        for row in &self.outcome.rows {
            match groups.iter_mut().find(|(kernel, form, _)| *kernel == row.kernel && *form == row.form) {
                Some((.., rows)) => rows.push(row),
                None => groups.push((&row.kernel, row.form, vec![row])),
            }
        }
        groups.sort_by_key(|(kernel, ..)| *kernel);
        for (kernel, form, rows) in &groups {
            let worst = rows.iter().copied().max_by(|a, b| badness(a).total_cmp(&badness(b)));
            let error = worst.and_then(|row| row.error).map_or("none".into(), number);
            let bound = worst.map_or(String::new(), |row| number(row.bound));
            let result = if rows.iter().all(|row| row.ok()) { "ok" } else { "FAILED" };
            let ms = rows.iter().map(|row| row.ms).sum::<f64>();
            let (count, ms) = (rows.len().to_string(), format!("{ms:.1}"));
            lines.push([kernel.to_string(), form.to_string(), count, error, bound, result.into(), ms]);
        }
        let mut text = columns(&lines);
        for row in self.failed() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "FAILED {}, {}, {}", row.kernel, row.form, describe(row));
        }
        let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
        for (form, why) in &self.not_run {
            match reasons.iter_mut().find(|(reason, _)| reason == why) {
                Some((_, forms)) => forms.push(form),
                None => reasons.push((why, vec![form])),
            }
        }
        for (why, forms) in reasons {
            let _ = writeln!(text, "not run: {}: {why}", forms.join(", "));
        }
        text
    }

    /// The object of `--json`.
    pub fn json(&self, machine: &Machine) -> Value {
        let mut object = self.summary_json();
        object["version"] = env!("CARGO_PKG_VERSION").into();
        object["machine"] = machine.json();
        object["adapter"] = self.adapter.as_ref().map_or(Value::Null, crate::devices::to_json);
        object["cases"] = self.outcome.rows.iter().map(row_json).collect();
        object
    }

    /// A shorter object without the machine, and with only the cases that failed.
    pub fn summary_json(&self) -> Value {
        let not_run = self.not_run.iter().map(|(form, why)| json!({"form": form, "why": why}));
        let stopped = matches!(self.outcome.ended, Some(Error::Cancelled));
        json!({
            "passed": self.outcome.rows.len() - self.failed().count(),
            "failed": self.failed().count(),
            "kernels": self.kernels(),
            "not_run": not_run.collect::<Vec<_>>(),
            "lost": self.outcome.ended.as_ref().filter(|_| !stopped).map(ToString::to_string),
            "stopped": stopped,
            "ms": self.ms,
            "failures": self.failed().map(row_json).collect::<Vec<_>>(),
        })
    }
}

/// Errors that are not finite are null, with a word about it where a case that did not run has its reason.
fn row_json(row: &Row) -> Value {
    let failure = match row.error {
        Some(error) if !error.is_finite() => Some("the result has values that are no numbers".to_string()),
        _ => row.failure.clone(),
    };
    json!({
        "kernel": row.kernel, "kernels": row.kernels, "form": row.form, "shape": row.shape, "error": row.error,
        "bound": row.bound, "ok": row.ok(), "ms": row.ms, "failure": failure,
    })
}

/// The words for a row that failed.
fn describe(row: &Row) -> String {
    match (row.error, &row.failure) {
        (_, Some(failure)) => format!("{}: {failure}", row.shape),
        (Some(error), None) => format!("{}: off by {}, bound {}", row.shape, number(error), number(row.bound)),
        (None, None) => row.shape.clone(),
    }
}

/// The error as a multiple of its bound, to find the worst by.
fn badness(row: &Row) -> f64 {
    match row.error {
        None => f64::INFINITY,
        Some(error) if row.bound == 0.0 => error * 1e30,
        Some(error) => error / row.bound,
    }
}

fn number(value: f64) -> String {
    if value == 0.0 { "0".into() } else { format!("{value:.1e}") }
}

/// Text on the left, numbers on the right.
fn columns(lines: &[[String; 7]]) -> String {
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: [usize; 7] = std::array::from_fn(width);
    let left = [true, true, false, false, false, true, false];
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(widths).zip(left).map(|((cell, width), left)| match left {
            true => format!("{cell:<width$}"),
            false => format!("{cell:>width$}"),
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}
