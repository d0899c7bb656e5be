//! Adapters: which there are, how one is opened, and what is found out about it.

use std::ops::ControlFlow;

use instructblip::hash::fnv1a;
use instructblip::lab::selftest::{self, Target};
use instructblip::lab::{Depth, cases, tune};
use instructblip::runtime::{
    AdapterClass, AdapterKind, AdapterSummary, Compiling, Tuning, Watch, Work, kernel_cache, kernels, list_adapters,
};
use instructblip::{Device, DeviceOptions, Error, Result};

use super::{Event, Setup, Sink, Stop};

/// The options of a device: what it does is told, and ends where that is wished.
pub(super) fn options(setup: &Setup, tuning: Option<Tuning>, sink: &Sink, stop: &Stop) -> DeviceOptions {
    let (sink, stop) = (sink.clone(), stop.clone());
    let hear = move |work: &Work| {
        match work {
            Work::Opening => sink.tell(Event::Doing("opening the GPU".into(), None)),
            Work::Compiling(Compiling { done, total, longest, .. }) => {
                let what = match longest {
                    Some((kernel, time)) if time.as_secs() > 60 => {
                        format!("compiling kernel {kernel}, which takes long")
                    }
                    _ => "compiling kernels".into(),
                };
                sink.tell(Event::Doing(what, Some((*done as u64, *total as u64))));
            }
            Work::Loading { done, total } => {
                sink.tell(Event::Doing("loading the model".into(), Some((*done, *total))));
            }
            _ => {}
        }
        if stop.is_wanted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    DeviceOptions {
        adapter: setup.adapter.clone(),
        tuning,
        cache: kernel_cache(),
        watch: Watch::new(hear),
        ..DeviceOptions::default()
    }
}

/// Memory that a model may take where the driver does not tell: a software adapter takes what programs may still have.
pub fn budget(device: &Device) -> Option<u64> {
    match device.caps().class {
        AdapterClass::Cpu => available_bytes(),
        _ => device.memory_bytes(),
    }
}

/// Memory that programs may still take, where the system tells in a file.
pub fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

/// The name under which the sizes for an adapter are kept: they are for one driver and these kernels.
pub fn tuning_key(adapter: &AdapterSummary) -> String {
    let texts = kernels::all().flat_map(|kernel| kernel.sources.iter()).flat_map(|text| text.bytes());
    format!("{} | {} | {} | {:016x}", adapter.name, adapter.backend, adapter.driver, fnv1a(texts))
}

/// Everything there is to tell about the adapters.
#[derive(Clone, Debug)]
pub struct Survey {
    /// The adapters, with the one marked that is used.
    pub adapters: Vec<AdapterSummary>,
    /// The name under which sizes for the used one are kept.
    pub key: Option<String>,
    /// Memory that programs may still take.
    pub available_bytes: Option<u64>,
    /// Variables of the environment that decide which adapters there are.
    pub environment: Vec<(String, String)>,
}

/// Beginnings of the names of variables that matter.
const VARIABLES: [&str; 5] = ["VK_", "WGPU_", "INSTRUCTBLIP_", "MESA_", "HF_HUB_CACHE"];

impl Survey {
    /// Looks at the adapters, which takes a while.
    pub fn look(wanted: Option<&str>) -> Survey {
        let adapters = list_adapters(wanted);
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            let matters = VARIABLES.iter().any(|start| name.starts_with(start));
            matters.then(|| (name, value.to_string_lossy().into_owned()))
        });
        Survey {
            key: adapters.iter().find(|adapter| adapter.chosen).map(tuning_key),
            available_bytes: available_bytes(),
            environment: environment.collect(),
            adapters,
        }
    }

    /// The adapter that is used.
    pub fn chosen(&self) -> Option<&AdapterSummary> {
        self.adapters.iter().find(|adapter| adapter.chosen)
    }

    /// The memory that a model may take on it, where it is known.
    pub fn budget(&self) -> Option<u64> {
        let chosen = self.chosen()?;
        if chosen.kind == AdapterKind::Cpu { self.available_bytes } else { chosen.memory_bytes }
    }
}

/// The outcome of a self-test.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Cases that ran and were right.
    pub right: usize,
    /// Cases that were wrong or could not run, in words.
    pub wrong: Vec<String>,
    /// Forms that the adapter cannot run, and why.
    pub not_run: Vec<String>,
    /// True if it was stopped before its end.
    pub stopped: bool,
}

/// Tests every kernel in every form that the adapter can run.
pub(super) fn test(options: &DeviceOptions, sink: &Sink, stop: &Stop) -> Result<Verdict> {
    sink.tell(Event::Doing("opening the GPU for the test".into(), None));
    let (targets, not_run) = Target::all(options)?;
    let mut cases = cases::all();
    cases.retain(|case| case.depth <= Depth::Small);
    let mut verdict = Verdict {
        not_run: not_run.into_iter().map(|(form, why)| format!("{form}: {why}")).collect(),
        ..Verdict::default()
    };
    for (done, case) in cases.iter().enumerate() {
        if stop.is_wanted() {
            verdict.stopped = true;
            break;
        }
        sink.tell(Event::Doing("testing kernels".into(), Some((done as u64, cases.len() as u64))));
        let outcome = selftest::run(std::slice::from_ref(case), &targets, "", &mut |_| {});
        // What was stopped in its middle is not wrong.
        if stop.is_wanted() {
            verdict.stopped = true;
            break;
        }
        if let Some(lost) = outcome.ended {
            return Err(lost);
        }
        for row in outcome.rows {
            match row.ok() {
                true => verdict.right += 1,
                false => verdict.wrong.push(format!("{} ({}), {}: {}", row.kernel, row.form, row.shape, fault(&row))),
            }
        }
    }
    Ok(verdict)
}

fn fault(row: &selftest::Row) -> String {
    let off = || format!("off by {:.1e}, bound {:.1e}", row.error.unwrap_or(f64::INFINITY), row.bound);
    row.failure.clone().unwrap_or_else(off)
}

/// Looks for the fastest sizes, and says in words what was compared.
pub(super) fn tune(options: &DeviceOptions, sink: &Sink) -> Result<(Tuning, Vec<String>)> {
    let adapter = list_adapters(options.adapter.as_deref()).into_iter().find(|adapter| adapter.chosen);
    if adapter.is_some_and(|adapter| adapter.kind == AdapterKind::Cpu) {
        let problem = "software adapters are not tuned: their usual sizes are the best known";
        return Err(Error::Request { problem: problem.into() });
    }
    let untuned = DeviceOptions { tuning: None, robust_access: Some(true), ..options.clone() };
    let device = Device::open(&untuned)?;
    let bare = Device::open(&DeviceOptions { robust_access: Some(false), ..untuned })?;
    let can_do_without = !bare.caps().tuning.robust_access;
    let devices = tune::Devices { usual: &device, bare: can_do_without.then_some(&bare) };
    let tell = |done| sink.tell(Event::Doing("comparing sizes".into(), Some((done, tune::STEPS as u64))));
    tell(0);
    let (tuning, steps) = tune::search(devices, &mut |done| tell(done))?;
    let line = |step: &tune::Step| {
        let chosen = &step.candidates[step.chosen];
        let gain = chosen.relative.map_or(String::new(), |share| format!(", {share:.2} of the time"));
        format!("{}: {}{gain}", step.name, chosen.name)
    };
    Ok((tuning, steps.iter().map(line).collect()))
}
