//! `instructblip selftest`: every kernel against f64 on the user's adapter. Exists because drivers compute wrong
//! results, and the first to notice is the person with the card.

mod report;

use std::io::Write;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use instructblip::Error;
use instructblip::lab::selftest::{self, NotRun, Target};
use instructblip::lab::{Depth, cases};
use instructblip::runtime::list_adapters;

pub use report::{Failed, Report};

use crate::common::{Common, Gpu};
use crate::machine::Machine;
use crate::progress::{Progress, say};
use crate::session::{device_options, open_device};
use crate::signals::asked_to_end;

/// Arguments of `selftest`.
#[derive(Args, Debug)]
pub struct Selftest {
    /// Print one JSON object with every case, fit for a bug report
    #[arg(long)]
    pub json: bool,
    /// Only cases whose kernel, form or shape contains this, for example attention_decode
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    #[command(flatten)]
    pub gpu: Gpu,
}

pub fn run(common: &Common, selftest: &Selftest) -> Result<()> {
    // Whoever ends it, or its time, gets what was found by then.
    let common = &Common { stop: Some(asked_to_end()?), ..common.clone() };
    let (targets, mut not_run) = Target::all(&device_options(common)?)?;
    if let (Some(target), false) = (targets.first(), common.quiet) {
        say(&common.paint(&format!("testing kernels on {}", target.device.name()), "2"));
    }
    let filter = selftest.filter.as_deref().unwrap_or("");
    not_run.retain(|(form, _)| form.contains(filter));
    let report = try_cases(common, &targets, not_run, Depth::Small, filter);
    if report.outcome.rows.is_empty() && report.outcome.ended.is_none() {
        let problem = match report.not_run.first() {
            Some((form, why)) => format!("{form} cannot be tested: {why}"),
            None => format!("no kernel, form or shape contains {filter:?}; without --filter all are tested"),
        };
        return Err(Error::Request { problem }.into());
    }
    let mut out = std::io::stdout().lock();
    match selftest.json {
        true => writeln!(out, "{}", report.json(&Machine::look()))?,
        false => writeln!(out, "{}{}", report.table(), report.summary())?,
    }
    report.verdict()
}

/// The quick cases in the adapter's own forms, which every other command runs.
///
/// # Errors
/// When no device can be opened.
pub fn quick(common: &Common) -> Result<Report> {
    Ok(try_cases(common, &[Target::own(open_device(common)?)], Vec::new(), Depth::Quick, ""))
}

fn try_cases(common: &Common, targets: &[Target], not_run: Vec<NotRun>, depth: Depth, filter: &str) -> Report {
    let started = Instant::now();
    let mut cases = cases::all();
    cases.retain(|case| case.depth <= depth);
    let mut progress = Progress::counting(common.quiet, "kernel tests", Some(cases.len() as u64));
    let outcome = selftest::run(&cases, targets, filter, &mut |done| progress.count(done));
    progress.clear();
    let adapter = list_adapters(common.adapter.as_deref()).into_iter().find(|a| a.chosen);
    let matrix = targets.first().and_then(|target| target.caps.matrix);
    Report { adapter, matrix, not_run, outcome, ms: started.elapsed().as_secs_f64() * 1e3 }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use instructblip::lab::Case;
    use instructblip::lab::case::Setup;
    use instructblip::lab::selftest::Outcome;
    use instructblip::{Device, DeviceOptions};

    use super::*;

    /// The best adapter; nothing where the environment says that tests may run without one.
    fn target() -> Option<Target> {
        match Device::open(&DeviceOptions::default()) {
            Ok(device) => Some(Target::own(device)),
            Err(_) if std::env::var_os("INSTRUCTBLIP_TEST_WITHOUT_GPU").is_some() => None,
            Err(e) => panic!("{e}"),
        }
    }

    /// `2 x`, checked against `factor x`.
    fn doubled(factor: f64) -> Case {
        Case::new("doubled", format!("against {factor}"), move |o| {
            let x = [1.0, -2.0, 3.0];
            let input = o.tensor(1, 3, &x)?;
            let setup = Setup::new(move |r, _| r.scaled(&input, 2.0));
            Ok(setup.gives(move || x.iter().map(|&v| factor * f64::from(v)).collect()))
        })
    }

    fn report(outcome: Outcome) -> Report {
        Report { adapter: None, matrix: None, not_run: Vec::new(), outcome, ms: 1.0 }
    }

    #[test]
    fn a_wrong_result_is_told_and_is_exit_code_7() {
        let Some(target) = target() else { return };
        let cases = [doubled(2.0), doubled(2.1), doubled(f64::NAN)];
        let report = report(selftest::run(&cases, &[target], "", &mut |_| {}));
        assert_eq!(report.outcome.rows.iter().map(|row| row.ok()).collect::<Vec<_>>(), [true, false, false]);
        let table = report.table();
        assert!(table.lines().nth(1).is_some_and(|line| line.contains("elementwise") && line.contains("FAILED")));
        assert!(table.contains("doubled against 2.1: off by 4.8e-2, bound 1.0e-5"), "{table}");
        assert!(report.summary().contains("2 FAILED"), "{}", report.summary());
        let json = report.summary_json();
        assert_eq!((json["passed"].as_u64(), json["failed"].as_u64()), (Some(1), Some(2)));
        assert!(json["failures"][1]["error"].is_null() && json["failures"][1]["failure"].is_string(), "{json}");
        let error = report.verdict().expect_err("two cases failed");
        assert_eq!(crate::exit_code(&error), 7);
        assert!(error.to_string().contains("2 of 3"), "{error}");
    }

    #[test]
    fn what_cannot_run_is_a_row_and_what_follows_still_runs() {
        let Some(target) = target() else { return };
        let refused = Case::new("refused", "always", |_| {
            Err(Error::Gpu { what: "compiling kernel rope".into(), problem: "no such register".into() })
        });
        let report = report(selftest::run(&[refused, doubled(2.0)], &[target], "", &mut |_| {}));
        assert_eq!(report.outcome.rows.iter().map(|row| row.ok()).collect::<Vec<_>>(), [false, true]);
        assert!(report.table().contains("refused always: compiling kernel rope"), "{}", report.table());
        assert_eq!(crate::exit_code(&report.verdict().expect_err("a failure")), 7);
    }

    #[test]
    fn a_lost_device_ends_the_run_with_what_was_done() {
        let Some(target) = target() else { return };
        let lost = Case::new("lost", "always", |_| Err(Error::DeviceLost { reason: "pulled out".into() }));
        let report = report(selftest::run(&[doubled(2.0), lost, doubled(2.0)], &[target], "", &mut |_| {}));
        assert_eq!(report.outcome.rows.len(), 1);
        assert!(report.summary().contains("lost"), "{}", report.summary());
        assert_eq!(crate::exit_code(&report.verdict().expect_err("a loss")), 6);
    }

    #[test]
    fn references_are_computed_once_for_all_places() {
        let Some(target) = target() else { return };
        let count = Rc::new(Cell::new(0));
        let counted = count.clone();
        let case = Case::new("counted", "once", move |o| {
            let input = o.tensor(1, 1, &[1.0])?;
            let counted = counted.clone();
            Ok(Setup::new(move |r, _| r.scaled(&input, 1.0)).gives(move || {
                counted.set(counted.get() + 1);
                vec![1.0]
            }))
        });
        let outcome = selftest::run(&[case], &[target.clone(), target], "", &mut |_| {});
        assert!(outcome.rows.len() == 2 && outcome.rows.iter().all(|row| row.ok()));
        assert_eq!(count.get(), 1);
    }
}
