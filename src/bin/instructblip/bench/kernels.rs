//! `instructblip bench kernels`: every kernel at the shapes of published models, first against f64, then against the
//! clock.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use clap::Args;
use instructblip::lab::kernels::{self as lab, Custom, Event};
use instructblip::lab::results::{Ceilings, KernelRow, Results};
use instructblip::runtime::{AdapterSummary, Forms, list_adapters};
use instructblip::{Device, DeviceOptions};

use super::report;
use super::run::{self, Output};
use crate::common::{Common, Gpu};
use crate::files::{self, read_text};
use crate::progress::{Progress, say};
use crate::session::device_options;
use crate::tuned;

/// Arguments of `bench kernels`.
#[derive(Args, Debug)]
pub struct Kernels {
    /// Only operations and shapes that contain this, for example "linear q4" or "257x1408"
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    /// Linear layers of these shapes instead of the published models': rows, columns and inputs, for example
    /// 257x1408x1408; may be repeated
    #[arg(long = "shape", value_name = "MxNxK", value_parser = shape)]
    pub shapes: Vec<(u32, u32, u32)>,
    /// Only these ways to run: auto (the adapter's own choice), portable, or a kernel's name; may be repeated. All that can
    /// run if left out, or with --wgsl auto alone
    #[arg(long = "variant", value_name = "NAME")]
    pub variants: Vec<String>,
    /// Time the shapes of more than 1.1 GFLOP on a software adapter, too, which takes minutes
    #[arg(long)]
    pub all_shapes: bool,
    /// Every GPU there is, one after the other; with --output each has a folder of its own there
    #[arg(long)]
    pub all_adapters: bool,
    /// Runs of each kernel; the median counts
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(2..=1000))]
    pub runs: u32,
    /// Also what the driver's compiler makes of each kernel: registers, spills, instructions. Vulkan's drivers tell it
    /// that have VK_KHR_pipeline_executable_properties
    #[arg(long)]
    pub isa: bool,
    /// Your own kernel: a WGSL file that is checked against f64 and timed beside the adapter's own choice
    ///
    /// It is checked first, on the small cases of `selftest`, which are compared whole, and on every shape that is timed, of
    /// which large ones are compared in samples. Indices are kept in bounds meanwhile, without a word; then it is timed
    /// without that, as ours are, and one that writes out of bounds may end the program. --variant times other forms beside it.
    ///
    /// It has that kernel's bindings, Params, override constants and grid, which the head of its file in shaders/ tells;
    /// for linear layers they are in shaders/shared/linear.wgsl, and `const TILE_ROWS: u32` and `const TILE_COLUMNS: u32`
    /// say how many rows and columns of y a workgroup makes. The pieces in front of our kernel are put in front of yours
    /// unless it declares bindings itself.
    #[arg(long, value_name = "FILE")]
    pub wgsl: Option<PathBuf>,
    /// What the kernel of --wgsl computes: linear, or the name of the kernel that it replaces
    #[arg(long, value_name = "NAME", default_value = "linear", requires = "wgsl")]
    pub op: String,
    /// Run again whenever the file of --wgsl is saved
    #[arg(long, requires = "wgsl")]
    pub watch: bool,
    /// Seconds a kernel of yours may take before it is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 20, requires = "wgsl",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub time_out: u64,
    #[command(flatten)]
    pub output: Output,
    #[command(flatten)]
    pub gpu: Gpu,
}

fn shape(text: &str) -> Result<(u32, u32, u32), String> {
    let numbers: Option<Vec<u32>> = text.split([',', 'x']).map(|n| n.trim().parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[m, n, k]) if m > 0 && n > 0 && k > 0 && k % 32 == 0 && m <= 4096 && n <= 262_144 && k <= 65_536 => {
            Ok((m, n, k))
        }
        Some([_, _, k]) if k % 32 != 0 => Err(format!("K must be a multiple of 32, and {k} is not")),
        _ => Err("must be rows, columns and inputs, as 257x1408x1408, up to 4096x262144x65536".into()),
    }
}

/// Times kernels and delivers the results; again and again with `--watch`.
pub fn run(common: &Common, kernels: &Kernels) -> Result<()> {
    match kernels.wgsl.as_deref().filter(|_| kernels.watch) {
        Some(file) => watch(common, file),
        None => once(common, kernels),
    }
}

/// Runs the same command again whenever `file` is saved, each time as a process of its own: a kernel that never ends, or
/// that takes the driver along, ends only that.
fn watch(common: &Common, file: &Path) -> Result<()> {
    // A file that was never there is a mistake; one that goes later may come back.
    read_text(file)?;
    let program = std::env::current_exe().context("finding this program")?;
    let arguments: Vec<_> = std::env::args_os().skip(1).filter(|argument| argument != "--watch").collect();
    let saved = || -> Option<SystemTime> { file.metadata().ok()?.modified().ok() };
    loop {
        let before = saved();
        Command::new(&program).args(&arguments).status().context("running the kernel")?;
        say(&common.paint(&format!("waiting for {} to be saved; Ctrl-C ends", file.display()), "2"));
        while saved() == before || saved().is_none() {
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

fn once(common: &Common, kernels: &Kernels) -> Result<()> {
    let opened = device_options(common)?;
    // Before anything is opened: a wrong name costs no time.
    kernels.variants.iter().try_for_each(|name| Forms::parse(name).map(drop))?;
    let options = options(kernels)?;
    let wanted = adapters(kernels, opened);
    let folders = wanted.iter().filter_map(|(_, output)| output.output.as_deref());
    folders.into_iter().try_for_each(files::check_folder)?;
    let mut refused = Vec::new();
    for (opened, output) in wanted {
        let device = Device::open(&DeviceOptions { trusts_custom: true, ..opened.clone() })?;
        let mut results = run::results(opened.adapter.as_deref(), &device, kernels.runs, Ceilings::default());
        // Before anything is measured: a folder that cannot be written to costs no time.
        output.output.as_deref().map_or(Ok(()), |folder| report::write_unfinished(folder, &results))?;
        let mut told = Told { common, output: &output, results: &mut results, progress: None };
        let outcome = lab::measure(&options, &device, &opened, &mut |event| told.hear(event))?;
        told.progress.iter_mut().for_each(|progress| progress.clear());
        (results.ceilings, results.kernels) = (outcome.ceilings, outcome.rows);
        run::deliver(&results, common, &output)?;
        refused.extend(outcome.refused);
        if let Some(lost) = outcome.lost {
            refused.iter().for_each(|problem| say(problem));
            return Err(lost.into());
        }
    }
    match refused.is_empty() {
        true => Ok(()),
        false => bail!(super::Refused(refused)),
    }
}

fn options(kernels: &Kernels) -> Result<lab::Options> {
    let custom = kernels.wgsl.as_deref().map(|path| -> Result<Custom> {
        Ok(Custom {
            file: path.display().to_string(),
            text: read_text(path)?,
            replaces: kernels.op.clone(),
            time_out: Duration::from_secs(kernels.time_out),
        })
    });
    Ok(lab::Options {
        filter: kernels.filter.clone(),
        shapes: kernels.shapes.clone(),
        variants: kernels.variants.clone(),
        runs: kernels.runs,
        all_shapes: kernels.all_shapes,
        custom: custom.transpose()?,
        isa: kernels.isa,
    })
}

/// The adapters to measure, and where the results of each go.
fn adapters(kernels: &Kernels, options: DeviceOptions) -> Vec<(DeviceOptions, Output)> {
    if !kernels.all_adapters {
        return vec![(options, kernels.output.clone())];
    }
    let mut usable = list_adapters(None);
    usable.retain(|adapter| adapter.problem.is_none());
    let names = files::folder_names(usable.iter().map(|adapter| adapter.name.as_str()));
    let opened = |(adapter, name): (AdapterSummary, String)| {
        let tuning = tuned::of(&adapter).map(|tuned| tuned.tuning);
        let output = kernels.output.output.as_ref().map(|folder| folder.join(name));
        let options = DeviceOptions { tuning, adapter: Some(adapter.name), ..options.clone() };
        (options, Output { output, ..kernels.output.clone() })
    };
    usable.into_iter().zip(names).map(opened).collect()
}

/// Tells a person how far a measurement is, and saves its rows as they come: whoever stops it keeps them.
struct Told<'a> {
    common: &'a Common,
    output: &'a Output,
    results: &'a mut Results,
    progress: Option<Progress>,
}

impl Told<'_> {
    fn hear(&mut self, event: Event<'_>) {
        match event {
            Event::Planned { cases, time, left_out, ceilings } => {
                self.results.ceilings = ceilings;
                if !self.common.quiet {
                    let more = match left_out {
                        0 => String::new(),
                        n => format!("; {n} larger ones only with --all-shapes, for this is a software adapter"),
                    };
                    let cases = if cases == 1 { "1 case".into() } else { format!("{cases} cases") };
                    say(&self.common.paint(&format!("{cases}, about {}{more}", in_words(time)), "2"));
                }
                self.progress = Some(Progress::counting(self.common.quiet, "kernels", Some(cases as u64)));
            }
            Event::Untold(e) => say(&format!("{}: {e}", self.common.paint("times only", "33"))),
            Event::Timed(row) => self.save(row),
            Event::Done(done) => self.progress.iter_mut().for_each(|progress| progress.count(done)),
        }
    }

    fn save(&mut self, row: &KernelRow) {
        self.results.kernels.push(row.clone());
        if let Some(folder) = &self.output.output
            && let Err(e) = report::write_unfinished(folder, self.results)
        {
            // What is written at the end decides; until then this is a help.
            say(&format!("{}: {e:#}", self.common.paint("not saved", "33")));
        }
    }
}

/// A time as people tell it: `20 s`, `3 min`.
fn in_words(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..90 => format!("{} s", seconds.max(1)),
        seconds => format!("{} min", seconds.div_ceil(60)),
    }
}
