//! The frame of every benchmark's measurements: who ran what, where and when, and where it goes.

use std::io::Write;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::Result;
use clap::{Args, ValueEnum};
use instructblip::Device;
use instructblip::lab::results::{Adapter, Ceilings, FORMAT, Results};
use instructblip::runtime::list_adapters;

use super::{WIDTH, append, report};
use crate::common::Common;
use crate::machine::Machine;
use crate::progress::say;

/// The places that results go to.
#[derive(Args, Clone, Debug)]
pub struct Output {
    /// How to print them
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// Folder to write results.json, results.csv, results.md, report.html and its pictures to
    #[arg(long, short, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// File to add one line of figures to, for comparing versions of the program and of drivers
    #[arg(long, value_name = "FILE.csv")]
    pub append: Option<PathBuf>,
}

/// The form in which results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// All of them, one object.
    Json,
    /// A row a measurement.
    Csv,
    /// For reports.
    Markdown,
}

/// Results of this run on the device that asking for `adapter` opened, without any measurement.
pub fn results(adapter: Option<&str>, device: &Device, runs: u32, ceilings: Ceilings) -> Results {
    let adapter = list_adapters(adapter).into_iter().find(|adapter| adapter.chosen);
    let unknown =
        || Adapter { name: device.name().into(), backend: String::new(), driver: String::new(), kind: String::new() };
    Results {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").into(),
        commit: option_env!("GIT_COMMIT").map(Into::into),
        date: today(),
        command: command_line(std::env::args().skip(1)),
        runs: Some(runs),
        unfinished: false,
        by_device_clock: Some(device.has_timestamps()),
        adapter: adapter.map_or_else(unknown, |a| Adapter {
            name: a.name,
            backend: a.backend,
            driver: a.driver,
            kind: a.kind.to_string(),
        }),
        machine: Machine::look().json(),
        ceilings,
        kernels: Vec::new(),
        model: None,
    }
}

/// Prints the results, and writes them with their pictures into a folder where that is wanted.
///
/// # Errors
/// [`instructblip::Error::Io`]; the results are printed by then.
pub fn deliver(results: &Results, common: &Common, output: &Output) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match output.format {
        Format::Table => writeln!(out, "{}\n{}", report::table(results), report::sketch(results, WIDTH))?,
        Format::Json => writeln!(out, "{}", serde_json::to_string_pretty(results)?)?,
        Format::Csv => write!(out, "{}", report::csv(results))?,
        Format::Markdown => write!(out, "{}", report::markdown(results))?,
    }
    drop(out);
    if let Some(folder) = &output.output {
        report::write_all(folder, results)?;
        if !common.quiet {
            say(&common.paint(&format!("written to {}; report.html has the pictures", folder.display()), "2"));
        }
    }
    output.append.as_deref().map_or(Ok(()), |path| append::append(path, results))
}

/// The command as it can be pasted into a shell.
fn command_line(arguments: impl Iterator<Item = String>) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.,/=:@+".contains(c);
    let quote = |argument: String| match !argument.is_empty() && argument.chars().all(is_plain) {
        true => argument,
        false => format!("'{}'", argument.replace('\'', r"'\''")),
    };
    ["instructblip".to_string()].into_iter().chain(arguments.map(quote)).collect::<Vec<_>>().join(" ")
}

/// The day in UTC, as 2026-11-25.
pub fn today() -> String {
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let (year, month, day) = civil(seconds / 86_400);
    format!("{year}-{month:02}-{day:02}")
}

/// Year, month and day of a number of days after 1970-01-01 (Howard Hinnant's `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    // Years begin in March, so that leap days come last; eras are of 400 years, whose lengths are equal.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(11_017), (2000, 3, 1));
        assert_eq!(civil(20_453), (2025, 12, 31));
        assert_eq!(civil(20_454), (2026, 1, 1));
        assert_eq!(civil(47_540), (2100, 2, 28));
        assert_eq!(civil(47_541), (2100, 3, 1));
    }

    #[test]
    fn commands_can_be_pasted() {
        let words = ["bench", "model", "--model", "my model", "it's"].map(String::from);
        assert_eq!(command_line(words.into_iter()), r"instructblip bench model --model 'my model' 'it'\''s'");
    }
}
