//! Times kernels at the shapes of published models, first against f64, then against the clock.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::case::{self, Case, Depth, Launches, References, Setup};
use super::cases;
use super::ceilings;
use super::clock::{Clock, Times, median, spread_percent};
use super::results::{Ceilings, KernelRow, Program};
use crate::error::{Error, Result};
use crate::runtime::isa::{Compiler, Executable};
use crate::runtime::ops::linear;
use crate::runtime::{AdapterClass, Caps, CustomKernel, Device, DeviceOptions, Forms, Plan, kernels};

/// A result so far above a measured ceiling is taken for a mistake.
const IMPOSSIBLE: f64 = 1.15;

/// Calls with the same operands, one after the other, in a run that is timed as hot.
const HOT_CALLS: usize = 4;

/// Seconds of timing for each variant of a case, after which no further round begins.
const VARIANT_SECONDS: f64 = 2.0;

/// Rounds that are run however long they take.
const FEWEST_ROUNDS: u32 = 2;

/// Floating-point operations of a case above which a software adapter, which takes seconds for it, times it only where
/// somebody asks for it.
const SOFTWARE_FLOPS: u64 = 1_100_000_000;

/// A request for measurements; the default is every published case in every form, with seven runs of each.
#[derive(Clone, Debug)]
pub struct Options {
    /// A part of the operation or shape of the cases that are timed.
    pub filter: Option<String>,
    /// Linear layers of these shapes instead of all published cases: rows, columns, inputs.
    pub shapes: Vec<cases::linear::Shape>,
    /// The ways to run: `auto`, `portable`, or a kernel's name; all that can run if there are none.
    pub variants: Vec<String>,
    /// Runs of each kernel, of which the median counts.
    pub runs: u32,
    /// True if a software adapter is to time the large shapes, too.
    pub all_shapes: bool,
    /// A custom kernel.
    pub custom: Option<Custom>,
    /// True if rows are to have what the driver's compiler made of their kernels, where it tells.
    pub isa: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            filter: None,
            shapes: Vec::new(),
            variants: Vec::new(),
            runs: 7,
            all_shapes: false,
            custom: None,
            isa: false,
        }
    }
}

/// A custom kernel, timed beside the adapter's own choice.
#[derive(Clone, Debug)]
pub struct Custom {
    /// The name of its file in messages.
    pub file: String,
    /// Its WGSL.
    pub text: String,
    /// The name of the kernel that it replaces, or `linear`.
    pub replaces: String,
    /// Time that it may take on one case while it is checked.
    pub time_out: Duration,
}

/// News of a measurement.
#[derive(Debug)]
pub enum Event<'a> {
    /// The measurement begins.
    Planned {
        /// Cases that will be measured.
        cases: usize,
        /// The time that they are likely to take.
        time: Duration,
        /// Cases that are left out because they are too large for a software adapter.
        left_out: usize,
        /// The ceilings that were measured first.
        ceilings: Ceilings,
    },
    /// The driver does not tell what its compiler makes of kernels, which was asked for; the reason.
    Untold(Error),
    /// A kernel was timed; its shares are of the ceilings that were measured first.
    Timed(&'a KernelRow),
    /// So many cases are done.
    Done(u64),
}

/// The findings on one device.
#[derive(Debug)]
pub struct Outcome {
    /// Ceilings measured in the same run.
    pub ceilings: Ceilings,
    /// Everything that could be timed.
    pub rows: Vec<KernelRow>,
    /// Kernels that were wrong or impossibly fast, and cases that could not be measured, in words.
    pub refused: Vec<String>,
    /// The error that ended the measurement early: the GPU is gone.
    pub lost: Option<Error>,
}

/// Times kernels on `device`, which was opened as `opened` says with [`DeviceOptions::trusts_custom`]: a custom
/// kernel is first checked on a device that looks after every index and loop, and then timed as ours are.
///
/// # Errors
/// [`Error::Request`] for names and filters that nothing has; [`Error::Kernel`] for a custom kernel that does not
/// compile; [`Error::Incorrect`] for one that does not end: the device then stays open, for closing it would wait.
pub fn measure(
    options: &Options,
    device: &Device,
    opened: &DeviceOptions,
    hear: &mut dyn FnMut(Event<'_>),
) -> Result<Outcome> {
    options.check()?;
    let custom = options.custom.as_ref().map(Compiled::new).transpose()?;
    let mut cases = wanted(options);
    if cases.is_empty() {
        return Err(request("no kernel's operation or shape is like that"));
    }
    let problems = custom.as_ref().map(|custom| custom.check(&cases, opened)).transpose()?;
    // In the others the custom kernel has no part.
    cases.retain(|case| problems.as_ref().is_none_or(|problems| problems.contains_key(&case.name())));
    let ceilings = ceilings::measure(device)?;
    let mut outcome = Outcome { ceilings, rows: Vec::new(), refused: Vec::new(), lost: None };
    let all = cases.len();
    let is_software = device.caps().class == AdapterClass::Cpu;
    let is_asked = options.filter.is_some() || !options.shapes.is_empty() || options.all_shapes;
    cases.retain(|case| !is_software || is_asked || case.flops <= SOFTWARE_FLOPS);
    let compiler = options.isa.then(|| compiler(device, opened)).and_then(|found| match found {
        Ok(compiler) => Some(compiler),
        Err(e) => {
            hear(Event::Untold(e));
            None
        }
    });
    let variants = |case: &Case| variants(case, options, device, custom.as_ref());
    let seconds = cases.iter().map(|case| case_seconds(case, variants(case).len(), options.runs, device, &ceilings));
    let time = Duration::from_secs_f64(seconds.sum());
    hear(Event::Planned { cases: cases.len(), time, left_out: all - cases.len(), ceilings });
    for (i, case) in cases.iter().enumerate() {
        let problem = problems.as_ref().and_then(|problems| problems[&case.name()].clone());
        let timed = match problem {
            Some(problem) => Ok(vec![Err(problem)]),
            None => time_variants(device, case, variants(case), options.runs, compiler.as_ref()),
        };
        if !outcome.take(timed, case, hear) {
            break;
        }
        hear(Event::Done(i as u64 + 1));
    }
    outcome.finish(device);
    match outcome.rows.is_empty() && outcome.refused.is_empty() && outcome.lost.is_none() {
        true => Err(request("no case that was asked for has a variant of that name")),
        false => Ok(outcome),
    }
}

/// The compiler of the device's driver, which looks after bounds where the device does.
fn compiler(device: &Device, opened: &DeviceOptions) -> Result<Compiler> {
    let robust_access = Some(device.caps().tuning.robust_access);
    Compiler::open(&DeviceOptions { robust_access, ..opened.clone() })
}

/// A case's kernels as a compiler makes them. One that it refuses is left out: it was run, and has its times.
fn programs(compiler: &Compiler, variants: &[case::Variant]) -> Vec<Program> {
    let compile = |(kernel, constants): &case::Variant| {
        let made = compiler.compile(kernel, constants).ok()?.into_iter().next()?;
        let Executable { subgroup_size, statistics, .. } = made;
        Some(Program { kernel: kernel.name.into(), subgroup_size, statistics })
    };
    variants.iter().filter_map(compile).collect()
}

impl Options {
    fn check(&self) -> Result<()> {
        self.variants.iter().try_for_each(|name| Forms::parse(name).map(drop))?;
        let is_fit = |&(m, n, k): &cases::linear::Shape| m > 0 && n > 0 && k > 0 && k % 32 == 0;
        match self.runs > 0 && self.shapes.iter().all(is_fit) {
            true => Ok(()),
            false => Err(request("runs, rows, columns and inputs must be at least 1, and inputs a multiple of 32")),
        }
    }
}

fn request(problem: &str) -> Error {
    Error::Request { problem: problem.into() }
}

/// The published cases, or layers of the shapes asked for, as far as they match.
fn wanted(options: &Options) -> Vec<Case> {
    let mut cases = match options.shapes.is_empty() {
        true => cases::of(Depth::Published),
        false => cases::linear::published(&options.shapes),
    };
    let mut seen = Vec::new();
    cases.retain(|case| {
        // A shape may be asked for twice.
        let is_new = !seen.contains(&case.name());
        seen.push(case.name());
        // A user's linear kernel is for linear layers, any other for those of the other operations that run it.
        let fits = options.custom.as_ref().is_none_or(|custom| custom.is_for_layers() == case.layer.is_some());
        is_new && fits && options.filter.as_ref().is_none_or(|filter| case.name().contains(filter.as_str()))
    });
    cases
}

/// Seconds that a case is likely to take, by a share of the measured arithmetic: an eighth, or on a software adapter,
/// where other forms than the first are slow, a thirtieth of it for these.
fn case_seconds(case: &Case, variants: usize, runs: u32, device: &Device, ceilings: &Ceilings) -> f64 {
    let is_software = device.caps().class == AdapterClass::Cpu;
    // A check, and about as many calls as copies and hot ones, prepared once and then timed in rounds.
    let calls = 10.0;
    let variant = |number: usize| {
        let share = if is_software && number > 0 { 30.0 } else { 8.0 };
        let call = share * case.flops as f64 / (1e9 * ceilings.f32_gflop_s.max(1.0));
        let rounds = (f64::from(runs) * calls * call).clamp(0.0, VARIANT_SECONDS);
        let compiling = if is_software { 0.6 } else { 0.1 };
        compiling + (1.0 + calls) * call + rounds.max(f64::from(FEWEST_ROUNDS) * calls * call)
    };
    // Operands and references.
    0.5 + (0..variants).map(variant).sum::<f64>()
}

impl Outcome {
    /// Takes the results of a case; false if the GPU is gone. A case that fails otherwise is told, and the next one runs.
    fn take(&mut self, timed: Result<Vec<Timed>>, case: &Case, hear: &mut dyn FnMut(Event<'_>)) -> bool {
        match timed {
            Err(lost @ Error::DeviceLost { .. }) => self.lost = Some(lost),
            Err(e) => self.refused.push(format!("{}: {e}", case.name())),
            Ok(results) => {
                for result in results {
                    match result {
                        Ok(row) => {
                            hear(Event::Timed(&with_share(row.clone(), &self.ceilings)));
                            self.rows.push(row);
                        }
                        Err(problem) => self.refused.push(problem),
                    }
                }
            }
        }
        self.lost.is_none()
    }

    /// Measures the ceilings again, since other programs' work meanwhile must not make a kernel look better than its
    /// machine, and judges the rows by the greater ones.
    fn finish(&mut self, device: &Device) {
        if self.lost.is_none() {
            match ceilings::measure(device) {
                Ok(again) => self.ceilings = self.ceilings.max(again),
                Err(e) => self.lost = Some(e),
            }
        }
        self.judge();
    }

    /// Works out shares of the ceilings and takes out rows that lie above them.
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

/// Operations a second that a kernel may hope for: by matrices where it has them, else in f32.
fn arithmetic(row: &KernelRow, ceilings: &Ceilings) -> f64 {
    ceilings.matrix_gflop_s.filter(|_| row.matrices).unwrap_or(ceilings.f32_gflop_s)
}

/// The roofline: the ceiling that takes longer is the one that binds.
fn with_share(mut row: KernelRow, ceilings: &Ceilings) -> KernelRow {
    let of_memory = row.gb_per_s / memory(ceilings);
    let of_arithmetic = row.gflop_per_s / arithmetic(&row, ceilings);
    (row.share, row.bound) = match of_memory > of_arithmetic {
        true => (of_memory, "memory".into()),
        false => (of_arithmetic, "arithmetic".into()),
    };
    row
}

impl Custom {
    fn is_for_layers(&self) -> bool {
        self.replaces.starts_with("linear") && !self.replaces.starts_with("linear_vec_rope")
    }
}

/// A custom kernel, compiled, and the form that it stands in for.
struct Compiled<'a> {
    asked: &'a Custom,
    form: &'static str,
    kernels: &'static [&'static CustomKernel],
}

impl<'a> Compiled<'a> {
    fn new(asked: &'a Custom) -> Result<Compiled<'a>> {
        let form = kernels::form(if asked.replaces == "linear" { "linear_tile" } else { &asked.replaces })?;
        Ok(Compiled { asked, form, kernels: Vec::leak(CustomKernel::of(form, &asked.file, &asked.text)?) })
    }

    fn caps(&self, caps: Caps) -> Caps {
        Caps { preferred: Some(self.form), custom: self.kernels, ..caps }
    }

    /// Runs the kernel on every case that it is in where every index and loop is checked, with an eye on the clock: one
    /// that never ends would hold the program for ever. Gives the fault that was found, by the name of the case; without
    /// a fault it is timed without checks, as ours are.
    fn check(&self, cases: &[Case], opened: &DeviceOptions) -> Result<HashMap<String, Option<String>>> {
        let device = Device::open(&DeviceOptions { checked: true, ..opened.clone() })?;
        let mut found = HashMap::new();
        // Large cases are compared in samples, so the small ones, compared whole, come first.
        let mut small = cases::all();
        small.retain(|case| {
            let is_layer = ["linear", "swiglu"].iter().any(|op| case.op.contains(op));
            let is_like = is_layer == self.asked.is_for_layers();
            is_like && case.depth <= Depth::Small && case.can_run(&device.caps())
        });
        for case in small.iter().chain(cases) {
            let setup = case.setup(&device)?;
            let recorded = setup.recorded(case.recorder(self.caps(device.caps())));
            let is_in = |kernel: &&str| self.kernels.iter().any(|custom| custom.kernel.name == *kernel);
            if recorded.kernels().iter().any(is_in) {
                let bound = recorded.bound(case.bound);
                let error = recorded.error(&device, &mut References::default(), Some(self.asked.time_out));
                let error = error.map_err(|e| match e {
                    Error::DeviceLost { reason } => Error::Incorrect {
                        what: format!("{} {}", case.name(), self.asked.file),
                        problem: format!("{reason}: a loop may have no end, or it needs a longer time-out"),
                    },
                    other => other,
                })?;
                let problem = (error > bound).then(|| wrong(case, &self.asked.file, error, bound));
                if let (Some(problem), true) = (&problem, case.depth <= Depth::Small) {
                    // Whatever is timed would be timed in vain.
                    let all = cases.iter().map(|case| (case.name(), Some(problem.clone())));
                    return Ok(all.collect());
                }
                found.insert(case.name(), problem);
            }
        }
        match cases.iter().any(|case| found.contains_key(&case.name())) {
            true => Ok(found),
            false => Err(request(&format!("nothing here runs {}", self.form))),
        }
    }
}

/// The refusal of a kernel that computes something else.
fn wrong(case: &Case, kernel: &str, error: f64, bound: f64) -> String {
    format!("{} {kernel}: wrong by {error:.1e} relative to f64; the bound is {bound:.0e}", case.name())
}

/// A way to run a case: the caps that kernels are chosen by.
struct Variant {
    name: String,
    caps: Caps,
}

/// The kernels to compare: the adapter's choice, the others that can run, and the custom one.
fn variants(case: &Case, options: &Options, device: &Device, custom: Option<&Compiled<'_>>) -> Vec<Variant> {
    let caps = device.caps();
    let is_asked = |name: &str| options.variants.iter().any(|asked| asked == name);
    let mut variants = vec![Variant { name: "auto".into(), caps }];
    if let Some(custom) = custom.filter(|_| options.variants.is_empty()) {
        variants.push(Variant { name: "custom".into(), caps: custom.caps(caps) });
        return variants;
    }
    // All forms of linear layers go by their kernels' names; the one that every GPU runs is this as well for who asks.
    if case.layer.is_none() || is_asked("portable") {
        variants.push(Variant { name: "portable".into(), caps: caps.portable() });
    }
    if let Some(shape) = case.layer {
        // The chosen one is `auto`, and needs its name only where it is asked for by that.
        let chosen = linear::choose(shape, &caps).kernel.form;
        let forms = linear::forms(shape, &caps).into_iter().map(|form| form.kernel.form);
        for form in forms.filter(|form| *form != chosen || !options.variants.is_empty()) {
            variants.push(Variant { name: form.into(), caps: Caps { preferred: Some(form), ..caps } });
        }
    }
    variants.retain(|variant| options.variants.is_empty() || is_asked(&variant.name));
    if let Some(custom) = custom {
        variants.push(Variant { name: "custom".into(), caps: custom.caps(caps) });
    }
    variants
}

/// A case as some kernels run it, checked, with a plan for the clock.
pub struct Prepared {
    /// The kernels as they are launched.
    pub launches: Launches,
    /// The kernels with their constants.
    pub variants: Vec<case::Variant>,
    /// Arithmetic of one call.
    pub flops: u64,
    /// True if it multiplies by cooperative matrices.
    pub matrices: bool,
    /// The error against f64.
    pub error: f64,
    /// The largest error that is right.
    pub bound: f64,
    /// A call for each copy of the operands.
    pub cold: Plan,
}

impl Prepared {
    /// Checks the op over the first copy of its operands and makes a plan over all of them.
    ///
    /// # Errors
    /// Whatever went wrong on the GPU.
    pub fn new(case: &Case, setup: &Setup, device: &Device, caps: Caps, known: &mut References) -> Result<Prepared> {
        let recorded = setup.recorded(case.recorder(caps));
        let (launches, variants, flops) = (recorded.launches(), recorded.variants(), recorded.flops());
        let (matrices, bound) = (recorded.has_matrices(), recorded.bound(case.bound));
        let error = recorded.error(device, known, None)?;
        let cold = repeated(case, setup, device, caps, 0..setup.copies)?;
        Ok(Prepared { launches, variants, flops, matrices, error, bound, cold })
    }

    /// True if it computes the right values.
    pub fn is_right(&self) -> bool {
        self.error <= self.bound
    }
}

/// The op over each of these copies, one after the other, run once.
fn repeated(
    case: &Case,
    setup: &Setup,
    device: &Device,
    caps: Caps,
    copies: impl Iterator<Item = usize>,
) -> Result<Plan> {
    let mut r = case.recorder(caps);
    copies.for_each(|copy| setup.record(&mut r, copy));
    let plan = r.finish(device)?;
    plan.write_step(setup.step());
    plan.submit()?;
    device.wait()?;
    Ok(plan)
}

/// A variant that is right, and its times so far.
struct Ready {
    variant: Variant,
    prepared: Prepared,
    hot: Plan,
    cold_times: Vec<Times>,
    hot_times: Vec<Times>,
}

/// A row, or the refusal of a kernel that is wrong.
type Timed = std::result::Result<KernelRow, String>;

/// Checks every variant, then times them in turn, so that whatever the machine does meanwhile befalls all.
fn time_variants(
    device: &Device,
    case: &Case,
    variants: Vec<Variant>,
    runs: u32,
    compiler: Option<&Compiler>,
) -> Result<Vec<Timed>> {
    let (setup, mut known) = (case.setup(device)?, References::default());
    let (mut results, mut ready): (Vec<_>, Vec<Ready>) = (Vec::new(), Vec::new());
    for variant in variants {
        let prepared = Prepared::new(case, &setup, device, variant.caps, &mut known)?;
        if !prepared.is_right() {
            // The kernel that is launched first is the one that a row is called by.
            results.push(Err(wrong(case, prepared.launches[0].0, prepared.error, prepared.bound)));
        // The same kernels in the same way are one row: portable devices choose what they must.
        } else if !ready.iter().any(|other| other.prepared.launches == prepared.launches) {
            let hot = repeated(case, &setup, device, variant.caps, std::iter::repeat_n(0, HOT_CALLS))?;
            ready.push(Ready { variant, prepared, hot, cold_times: Vec::new(), hot_times: Vec::new() });
        }
    }
    let (clock, start) = (Clock::new(device), Instant::now());
    for round in 0..runs {
        if round >= FEWEST_ROUNDS && start.elapsed().as_secs_f64() > VARIANT_SECONDS * ready.len() as f64 {
            break;
        }
        for one in &mut ready {
            one.cold_times.push(clock.time(&one.prepared.cold)?);
            one.hot_times.push(clock.time(&one.hot)?);
        }
    }
    results.extend(ready.into_iter().map(|one| {
        let programs = compiler.map_or_else(Vec::new, |compiler| programs(compiler, &one.prepared.variants));
        Ok(KernelRow { programs, ..row(case, &setup, one) })
    }));
    Ok(results)
}

fn row(case: &Case, setup: &Setup, ready: Ready) -> KernelRow {
    let Ready { variant, prepared, cold_times, hot_times, .. } = ready;
    let calls = setup.copies as f64;
    let cold_us = median(cold_times.iter().map(|t| t.device_us / calls));
    KernelRow {
        op: case.op.clone(),
        shape: case.shape.clone(),
        kernel: prepared.launches[0].0.into(),
        variant: variant.name,
        error: prepared.error,
        cold_us,
        hot_us: median(hot_times.iter().map(|t| t.device_us / HOT_CALLS as f64)),
        wall_us: median(cold_times.iter().map(|t| t.wall_us / calls)),
        spread_percent: spread_percent(cold_times.iter().map(|t| t.device_us)),
        runs: cold_times.len() as u32,
        bytes: setup.bytes,
        flops: prepared.flops,
        gb_per_s: setup.bytes as f64 / cold_us / 1e3,
        gflop_per_s: prepared.flops as f64 / cold_us / 1e3,
        matrices: prepared.matrices,
        share: 0.0,
        bound: String::new(),
        programs: Vec::new(),
    }
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
            Ceilings { copy_gb_s, read_gb_s, f32_gflop_s: 100.0, f16_gflop_s: Some(200.0), ..Ceilings::default() };
        let ceilings = plain.max(Ceilings { matrix_gflop_s: Some(400.0), ..Ceilings::default() });
        assert_eq!(ceilings, Ceilings { matrix_gflop_s: Some(400.0), ..plain });
        let share = |row, ceilings| -> (f64, String) {
            let row = with_share(row, ceilings);
            (row.share, row.bound)
        };
        assert_eq!(share(row(false, 1.0), &ceilings), (0.8, "arithmetic".into()));
        assert_eq!(share(row(true, 1.0), &ceilings), (0.2, "arithmetic".into()));
        assert_eq!(share(row(true, 5.0), &ceilings), (0.5, "memory".into()));
        let mut outcome = Outcome { ceilings: plain, rows: vec![row(false, 12.0)], refused: Vec::new(), lost: None };
        outcome.judge();
        let refused = &outcome.refused;
        assert!(outcome.rows.is_empty() && refused[0].contains("10.0 GB/s, 100.0 GFLOP/s"), "{refused:?}");
    }
}
