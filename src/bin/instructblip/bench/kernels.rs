//! `instructblip bench kernels`: every kernel at the shapes of published models, first against f64, then against the
//! clock.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use clap::Args;
use instructblip::runtime::ops::linear;
use instructblip::runtime::{AdapterSummary, Caps, Forms, Plan, Recorder, Replacement, kernels, list_adapters};
use instructblip::{Device, DeviceOptions, Error};

use super::cases::{Case, Entry, Lab, Prepared, bound};
use super::ceilings;
use super::results::{Ceilings, KernelRow, Results};
use super::run::Output;
use super::time::{Clock, Times, median, spread_percent};
use crate::common::{Common, Gpu};
use crate::files::{self, read_text};
use crate::progress::{Progress, say};
use crate::session::device_options;
use crate::tuned;

/// How far above a measured ceiling a result may lie before it is taken for a mistake.
const IMPOSSIBLE: f64 = 1.15;

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
    /// Every GPU there is, one after the other; with --output each has a folder of its own there
    #[arg(long)]
    pub all_adapters: bool,
    /// Runs of each kernel; the median counts
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(2..=1000))]
    pub runs: u32,
    /// Your own kernel: a WGSL file that is checked against f64 and timed beside the kernel it replaces
    ///
    /// It is checked on every shape first, where indices and loops are looked after, and then timed without that, as ours
    /// are: indices that a check would have kept in bounds may end the program.
    ///
    /// It has that kernel's bindings, Params, override constants and grid, which the head of its file in shaders/ tells;
    /// for linear layers they are in shaders/shared/linear.wgsl, and `const TILE_ROWS: u32` and `const TILE_COLUMNS: u32`
    /// say how many rows and columns of y a workgroup makes. The pieces in front of our kernel are put in front of yours
    /// unless it declares bindings itself.
    #[arg(long, value_name = "FILE")]
    pub wgsl: Option<PathBuf>,
    /// What the kernel of --wgsl computes: linear, or the name of the kernel that it replaces
    #[arg(long, value_name = "NAME", default_value = "linear")]
    pub op: String,
    /// Run again whenever the file of --wgsl is saved
    #[arg(long, requires = "wgsl")]
    pub watch: bool,
    /// Seconds a kernel of yours may take before it is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
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

/// Times kernels and delivers what was found; again and again with `--watch`.
pub fn run(common: &Common, kernels: &Kernels) -> Result<()> {
    loop {
        let done = once(common, kernels);
        let Some(file) = kernels.wgsl.as_deref().filter(|_| kernels.watch) else { return done };
        if let Err(e) = done {
            say(&format!("{} {e:#}", common.paint("error:", "31;1")));
        }
        say(&common.paint(&format!("waiting for {} to be saved; Ctrl-C ends", file.display()), "2"));
        wait_for_change(file);
    }
}

fn wait_for_change(file: &Path) {
    let saved = || -> Option<SystemTime> { file.metadata().ok()?.modified().ok() };
    let before = saved();
    while saved() == before || saved().is_none() {
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn once(common: &Common, kernels: &Kernels) -> Result<()> {
    let options = device_options(common)?;
    kernels.variants.iter().try_for_each(|name| Forms::parse(name).map(drop))?;
    let wanted: Vec<(DeviceOptions, Output)> = match kernels.all_adapters {
        false => vec![(options, kernels.output.clone())],
        true => {
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
    };
    let folders = wanted.iter().filter_map(|(_, output)| output.output.as_deref());
    folders.into_iter().try_for_each(files::check_folder)?;
    let mut refused = Vec::new();
    for (options, output) in wanted {
        let device = Device::open(&DeviceOptions { trusts_replaced: true, ..options.clone() })?;
        let outcome = measure(kernels, &device, &options, common.quiet)?;
        let results =
            Results { kernels: outcome.rows, ..Results::new(options.adapter.as_deref(), &device, outcome.ceilings) };
        results.deliver(common, &output)?;
        refused.extend(outcome.refused);
    }
    match refused.is_empty() {
        true => Ok(()),
        false => bail!(super::Refused(refused)),
    }
}

/// What was found on one device.
pub struct Outcome {
    /// Measured in the same run.
    pub ceilings: Ceilings,
    /// What could be timed.
    pub rows: Vec<KernelRow>,
    /// What was wrong or impossible, in words.
    pub refused: Vec<String>,
}

/// A way to run a case: which kernels are chosen.
struct Variant {
    name: String,
    caps: Caps,
}

/// Times what `options` ask for on a device.
fn measure(options: &Kernels, device: &Device, opened: &DeviceOptions, quiet: bool) -> Result<Outcome> {
    let custom = custom(options)?;
    let checked = custom.as_ref().map(|custom| custom.check(options, opened)).transpose()?;
    let lab = Lab { device, caps: device.caps() };
    let entries: Vec<Entry<'_>> =
        lab.cases(&options.shapes).into_iter().filter(|entry| is_wanted(entry, options)).collect();
    if entries.is_empty() {
        bail!(request("no kernel's operation or shape is like that; without --filter all are timed".into()));
    }
    let mut progress = Progress::counting(quiet, "kernels", Some(entries.len() as u64));
    let mut outcome = Outcome { ceilings: ceilings::measure(device)?, rows: Vec::new(), refused: Vec::new() };
    for (i, entry) in entries.iter().enumerate() {
        if let Some(checked) = &checked {
            match checked.get(&entry.name()) {
                // The user's kernel has no part in it.
                None => continue,
                Some(Some(problem)) => {
                    outcome.refused.push(problem.clone());
                    continue;
                }
                Some(None) => {}
            }
        }
        let case = entry.make()?;
        let timed =
            time_variants(&lab, entry, &case, &variants(entry, options, device, custom.as_ref()), options.runs)?;
        for result in timed {
            match result {
                Ok(row) => outcome.rows.push(row),
                Err(problem) => outcome.refused.push(problem),
            }
        }
        progress.count(i as u64 + 1);
    }
    progress.clear();
    // Measured again: what else ran meanwhile must not make a kernel look better than its machine.
    outcome.ceilings = outcome.ceilings.max(ceilings::measure(device)?);
    outcome.judge();
    Ok(outcome)
}

impl Outcome {
    /// Works out shares of the ceilings and takes out what lies above them.
    fn judge(&mut self) {
        let ceilings = self.ceilings;
        let (possible, impossible): (Vec<KernelRow>, Vec<KernelRow>) =
            self.rows.drain(..).map(|row| with_share(row, &ceilings)).partition(|row| row.share <= IMPOSSIBLE);
        self.rows = possible;
        self.refused.extend(impossible.iter().map(|row| {
            format!(
                "{} {} {}: {:.1} GB/s and {:.1} GFLOP/s are more than this adapter can do ({:.1} GB/s, {:.1} GFLOP/s)",
                row.op,
                row.shape,
                row.kernel,
                row.gb_per_s,
                row.gflop_per_s,
                memory(&ceilings),
                arithmetic(row, &ceilings)
            )
        }));
    }
}

/// Bytes a second that a kernel may hope for.
fn memory(ceilings: &Ceilings) -> f64 {
    ceilings.copy_gb_s.max(ceilings.read_gb_s)
}

/// Operations a second that a kernel may hope for: of the others than those by matrices, in f32.
fn arithmetic(row: &KernelRow, ceilings: &Ceilings) -> f64 {
    ceilings.matrix_gflop_s.filter(|_| row.matrices).unwrap_or(ceilings.f32_gflop_s)
}

/// The roofline: what binds is the ceiling that takes longer.
fn with_share(mut row: KernelRow, ceilings: &Ceilings) -> KernelRow {
    let of_memory = row.gb_per_s / memory(ceilings);
    let of_arithmetic = row.gflop_per_s / arithmetic(&row, ceilings);
    (row.share, row.bound) = match of_memory > of_arithmetic {
        true => (of_memory, "memory".into()),
        false => (of_arithmetic, "arithmetic".into()),
    };
    row
}

fn is_wanted(entry: &Entry<'_>, options: &Kernels) -> bool {
    let name = entry.name();
    let filtered = options.filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()));
    // A user's linear kernel is for linear layers, any other for those of the other operations that run it.
    let for_layers = options.op.starts_with("linear") && !options.op.starts_with("linear_vec_rope");
    filtered && (options.wgsl.is_none() || for_layers == entry.linear.is_some())
}

fn request(problem: String) -> Error {
    Error::Request { problem }
}

/// A user's kernel, and the form that it stands in for.
struct Custom {
    form: &'static str,
    replaced: &'static [&'static Replacement],
}

/// A user's kernel, as `--wgsl` and `--op` name it.
fn custom(options: &Kernels) -> Result<Option<Custom>> {
    let Some(path) = &options.wgsl else { return Ok(None) };
    let text = read_text(path)?;
    let form = kernels::form(if options.op == "linear" { "linear_tile" } else { &options.op })?;
    let replaced = Vec::leak(Replacement::of(form, &path.display().to_string(), &text)?);
    Ok(Some(Custom { form, replaced }))
}

impl Custom {
    fn caps(&self, caps: Caps) -> Caps {
        Caps { preferred: Some(self.form), replaced: self.replaced, ..caps }
    }

    /// Whether a case would run it.
    fn is_in(&self, case: &Case<'_>, caps: Caps) -> bool {
        let mut r = Recorder::new(self.caps(caps));
        (case.record)(&mut r, 0);
        r.dispatches().iter().any(|d| self.replaced.iter().any(|replacement| d.kernel == &replacement.kernel))
    }

    /// Runs the kernel on every case that it is in where every index and loop is checked, with an eye on the clock: one
    /// that never ends would hold the program for ever. What is wrong with it, by the name of the case: where nothing is,
    /// it is timed without checks, as ours are.
    fn check(&self, options: &Kernels, opened: &DeviceOptions) -> Result<HashMap<String, Option<String>>> {
        let device = Device::open(&DeviceOptions { checked: true, ..opened.clone() })?;
        let lab = Lab { device: &device, caps: device.caps() };
        let mut found = HashMap::new();
        for entry in lab.cases(&options.shapes).iter().filter(|entry| is_wanted(entry, options)) {
            let case = entry.make()?;
            if self.is_in(&case, device.caps()) {
                found.insert(entry.name(), self.check_case(options, &lab, entry, &case)?);
            }
        }
        match found.is_empty() {
            true => bail!(request(format!("nothing here runs {}", self.form))),
            false => Ok(found),
        }
    }

    fn check_case(
        &self,
        options: &Kernels,
        lab: &Lab<'_>,
        entry: &Entry<'_>,
        case: &Case<'_>,
    ) -> Result<Option<String>> {
        let file = options.wgsl.as_deref().unwrap_or(Path::new("")).display();
        let mut r = Recorder::new(self.caps(lab.caps));
        let out = (case.record)(&mut r, 0);
        let bound = bound(&r);
        let plan = lab.submitted(r, case.step)?;
        if let Err(e) = lab.device.wait_for(Duration::from_secs(options.time_out)) {
            say(&format!("error: {file}: {}: {e}; --time-out gives it longer", entry.name()));
            // Nothing can end it but the end of the process, and closing the device would wait for it.
            std::process::exit(7);
        }
        let error = (case.check)(&lab.device.read(&plan.output(&out))?)?;
        Ok((error > bound).then(|| wrong(entry, &file, error, bound)))
    }
}

/// The refusal of a kernel that computes something else.
fn wrong(entry: &Entry<'_>, kernel: &dyn std::fmt::Display, error: f64, bound: f64) -> String {
    format!("{} {kernel}: wrong by {error:.1e} relative to f64; the bound is {bound:.0e}", entry.name())
}

/// The kernels to compare: the adapter's choice, the others that can run, and a user's own.
fn variants(entry: &Entry<'_>, options: &Kernels, device: &Device, custom: Option<&Custom>) -> Vec<Variant> {
    let caps = device.caps();
    let is_asked = |name: &str| options.variants.iter().any(|asked| asked == name);
    let mut variants = vec![Variant { name: "auto".into(), caps }];
    if let Some(custom) = custom.filter(|_| options.variants.is_empty()) {
        variants.push(Variant { name: "custom".into(), caps: custom.caps(caps) });
        return variants;
    }
    // All forms of linear layers go by their kernels' names; the one that every GPU runs is this as well for who asks.
    if entry.linear.is_none() || is_asked("portable") {
        variants.push(Variant { name: "portable".into(), caps: caps.portable() });
    }
    if let Some((m, format)) = entry.linear {
        // The first is the adapter's own choice, and needs its name only where it is asked for by that.
        let forms = linear::forms(m, format, &caps).into_iter().skip(usize::from(options.variants.is_empty()));
        for form in forms.map(|form| form.kernel.form) {
            variants.push(Variant { name: form.into(), caps: Caps { preferred: Some(form), ..caps } });
        }
    }
    variants.retain(|variant| options.variants.is_empty() || is_asked(&variant.name));
    if let Some(custom) = custom {
        variants.push(Variant { name: "custom".into(), caps: custom.caps(caps) });
    }
    variants
}

/// A variant that is right.
struct Ready<'a> {
    variant: &'a Variant,
    prepared: Prepared,
    hot: Plan,
}

impl Ready<'_> {
    /// The first that is launched: what the row is called by.
    fn kernel(&self) -> &'static str {
        self.prepared.launch[0].0
    }
}

/// Calls with the same operands, one after the other, in what is timed as hot.
const HOT_CALLS: usize = 4;

/// Checks every variant, then times them in turn, so that what the machine does meanwhile befalls all.
fn time_variants(
    lab: &Lab<'_>,
    entry: &Entry<'_>,
    case: &Case<'_>,
    variants: &[Variant],
    runs: u32,
) -> Result<Vec<std::result::Result<KernelRow, String>>> {
    let mut out = Vec::new();
    let mut ready: Vec<Ready<'_>> = Vec::new();
    for variant in variants {
        let of_entry = || entry.name();
        let prepared = lab.prepare(case, variant.caps).with_context(of_entry)?;
        let hot = lab.repeated(case, variant.caps, std::iter::repeat_n(0, HOT_CALLS)).with_context(of_entry)?;
        let made = Ready { variant, prepared, hot };
        if !made.prepared.is_right() {
            let Prepared { error, bound, .. } = made.prepared;
            out.push(Err(wrong(entry, &made.kernel(), error, bound)));
        // The same kernels in the same way are one row: portable devices choose what they must.
        } else if !ready.iter().any(|r| r.prepared.launch == made.prepared.launch) {
            ready.push(made);
        }
    }
    let clock = Clock::new(lab.device);
    let mut cold: Vec<Vec<Times>> = vec![Vec::new(); ready.len()];
    let mut hot: Vec<Vec<Times>> = vec![Vec::new(); ready.len()];
    let start = std::time::Instant::now();
    for round in 0..runs {
        if round >= 2 && start.elapsed().as_secs_f64() > 2.0 * ready.len() as f64 {
            break;
        }
        for (i, made) in ready.iter().enumerate() {
            cold[i].push(clock.time(&made.prepared.cold)?);
            hot[i].push(clock.time(&made.hot)?);
        }
    }
    for ((made, cold), hot) in ready.into_iter().zip(cold).zip(hot) {
        let calls = case.copies as f64;
        let cold_us = median(cold.iter().map(|t| t.device_us / calls));
        out.push(Ok(KernelRow {
            op: entry.op.into(),
            shape: entry.shape.clone(),
            kernel: made.kernel().into(),
            variant: made.variant.name.clone(),
            error: made.prepared.error,
            cold_us,
            hot_us: median(hot.iter().map(|t| t.device_us / HOT_CALLS as f64)),
            wall_us: median(cold.iter().map(|t| t.wall_us / calls)),
            spread_percent: spread_percent(cold.iter().map(|t| t.device_us)),
            bytes: case.bytes,
            flops: made.prepared.flops,
            gb_per_s: case.bytes as f64 / cold_us / 1e3,
            gflop_per_s: made.prepared.flops as f64 / cold_us / 1e3,
            matrices: made.prepared.matrices,
            share: 0.0,
            bound: String::new(),
        }));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_the_ceiling_that_a_kernel_could_reach() {
        let row = |matrices: bool, gb_per_s: f64| -> KernelRow {
            serde_json::from_value(serde_json::json!({
                "op": "linear", "shape": "64x64x64", "kernel": "a kernel", "variant": "auto", "error": 0.0, "cold_us": 1.0,
                "hot_us": 1.0, "wall_us": 1.0, "spread_percent": 0.0, "bytes": 1, "flops": 1, "gb_per_s": gb_per_s,
                "gflop_per_s": 80.0, "matrices": matrices, "share": 0.0, "bound": "",
            }))
            .expect("a row")
        };
        let (copy_gb_s, read_gb_s) = (5.0, 10.0);
        let plain =
            Ceilings { copy_gb_s, read_gb_s, f32_gflop_s: 100.0, f16_gflop_s: Some(200.0), matrix_gflop_s: None };
        let ceilings = plain.max(Ceilings { matrix_gflop_s: Some(400.0), ..Ceilings::default() });
        assert_eq!(ceilings, Ceilings { matrix_gflop_s: Some(400.0), ..plain });
        let share = |row, ceilings| -> (f64, String) {
            let row = with_share(row, ceilings);
            (row.share, row.bound)
        };
        assert_eq!(share(row(false, 1.0), &ceilings), (0.8, "arithmetic".into()));
        assert_eq!(share(row(true, 1.0), &ceilings), (0.2, "arithmetic".into()));
        assert_eq!(share(row(true, 5.0), &ceilings), (0.5, "memory".into()));
        let mut outcome = Outcome { ceilings: plain, rows: vec![row(false, 12.0)], refused: Vec::new() };
        outcome.judge();
        assert!(
            outcome.rows.is_empty() && outcome.refused[0].contains("10.0 GB/s, 100.0 GFLOP/s"),
            "{:?}",
            outcome.refused
        );
    }
}
