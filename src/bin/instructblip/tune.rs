//! `instructblip tune`: the sizes with which kernels are fastest on this GPU, for later runs.

use std::io::Write;

use anyhow::Result;
use clap::Args;
use instructblip::lab::tune::{Candidate, Devices, STEPS, Step, search};
use instructblip::runtime::{AdapterKind, Tuning, list_adapters};
use instructblip::{Device, DeviceOptions, Error};
use serde_json::json;

use crate::bench::today;
use crate::common::{Common, Gpu};
use crate::progress::{Progress, say};
use crate::session::{device_options, open_device};
use crate::tuned::Tuned;

/// Arguments of `tune`.
#[derive(Args, Debug)]
pub struct Tune {
    /// Print one JSON object with every candidate
    #[arg(long)]
    pub json: bool,
    /// Tune software adapters, too
    #[arg(long, hide = true)]
    pub force: bool,
    #[command(flatten)]
    pub gpu: Gpu,
}

/// Finds sizes and keeps them.
pub fn run(common: &Common, tune: &Tune) -> Result<()> {
    if common.portable || common.checked || common.robust_access.is_some() || common.kernels != "auto" {
        let problem = "tune is about the kernels that run by default; leave out --portable, --checked, --robust-access \
                       and --kernels";
        return Err(Error::Request { problem: problem.into() }.into());
    }
    let Some(adapter) = list_adapters(common.adapter.as_deref()).into_iter().find(|adapter| adapter.chosen) else {
        // Says what was found, and what to do.
        return open_device(common).map(drop);
    };
    let mut out = std::io::stdout().lock();
    if adapter.kind == AdapterKind::Cpu && !tune.force {
        let reason = "software adapters are not tuned: their usual sizes are the best known";
        match tune.json {
            true => writeln!(out, "{}", json!({"adapter": adapter.name, "tuned": false, "reason": reason}))?,
            false => writeln!(out, "{}: {reason}", adapter.name)?,
        }
        return Ok(());
    }
    let untuned = DeviceOptions { tuning: None, robust_access: Some(true), ..device_options(common)? };
    let device = Device::open(&untuned)?;
    let mut progress = Progress::counting(common.quiet, "steps", Some(STEPS as u64));
    let bare = Device::open(&DeviceOptions { robust_access: Some(false), ..untuned })?;
    let can_do_without = !bare.caps().tuning.robust_access;
    let devices = Devices { usual: &device, bare: can_do_without.then_some(&bare) };
    let (tuning, steps) = search(devices, &mut |done| progress.count(done))?;
    progress.clear();
    let tuned = Tuned::new(&adapter, today(), tuning);
    let file = tuned.keep(&adapter)?;
    if tune.json {
        let object = json!({
            "adapter": adapter.name, "driver": adapter.driver, "tuned": true, "date": tuned.date, "tuning": tuning,
            "steps": steps, "file": file,
        });
        writeln!(out, "{object}")?;
    } else {
        writeln!(out, "{}", device.name())?;
        steps.iter().try_for_each(|step| print(&mut out, step))?;
        writeln!(out, "\n{}", describe(&tuning))?;
    }
    match &file {
        Some(file) if !common.quiet => say(&common.paint(&format!("later runs use what {} says", file.display()), "2")),
        None => say("nothing is kept for later runs: INSTRUCTBLIP_CACHE is off, or there is no home directory"),
        Some(_) => {}
    }
    Ok(())
}

fn print(out: &mut impl Write, step: &Step) -> std::io::Result<()> {
    let note = step.note.as_ref().map_or(String::new(), |note| format!(" ({note})"));
    writeln!(out, "\n{}{note}", step.name)?;
    for (i, Candidate { name, relative, error, right }) in step.candidates.iter().enumerate() {
        let time = match relative {
            Some(relative) => format!("{relative:.2} of the time"),
            None if !right => format!("wrong by {error:.1e}"),
            None => "not timed".into(),
        };
        writeln!(out, "  {} {name:<32}  {time}", if i == step.chosen { '*' } else { ' ' })?;
    }
    Ok(())
}

/// Sizes in one line.
pub fn describe(tuning: &Tuning) -> String {
    let Tuning { vec_subgroup, vec_workgroup, vec_rows, fuse_norm, decode_splits, robust_access, .. } = tuning;
    let tile = match (tuning.matrix_rows, tuning.matrix_columns) {
        (0, _) | (_, 0) => "tiles by shape".into(),
        (rows, columns) => format!("tiles of {rows} x {columns}"),
    };
    format!(
        "linear_vec with {vec_workgroup} invocations{}, for up to {vec_rows} rows; norm {}; {decode_splits} shares of the \
         keys; linear_matrix with {tile} and up to {} shares of the inputs; {} robust access",
        if *vec_subgroup { " by subgroups" } else { "" },
        if *fuse_norm { "on the way" } else { "by itself" },
        tuning.matrix_splits,
        if *robust_access { "with" } else { "without" },
    )
}
