//! `instructblip doctor`: one page about what would be used here, what is missing, and what to do about it.

mod advice;
mod surroundings;

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use instructblip::error::Bytes;
use instructblip::runtime::{AdapterSummary, MatrixSize, kernel_cache, list_adapters};
use instructblip::{Error, InstructBlip};
use serde_json::{Value, json};

use crate::common::{Common, Gpu};
use crate::machine::{self, Machine};
use crate::selftest::{self, Report};
use crate::session::chosen;
use crate::tuned::{self, Tuned};
use crate::wording::{in_words, of_library};

/// Arguments of `doctor`.
#[derive(Args, Debug)]
pub struct Doctor {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Checkpoint directory whose files are to be checked, too; no weights are read
    #[arg(long, value_name = "DIR", env = "INSTRUCTBLIP_MODEL")]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub gpu: Gpu,
}

/// Everything there is to tell.
struct Page {
    machine: Machine,
    adapters: Vec<AdapterSummary>,
    wanted: Option<String>,
    environment: Vec<(String, String)>,
    embedded_model: bool,
    cache: Cache,
    /// The checkpoint that was asked about, and what is wrong with it.
    model: Option<(PathBuf, Option<Error>)>,
    /// The report of a quick test of the kernels, or why there was none.
    kernels: Result<Report>,
    /// The folder that compiled kernels are kept in.
    pipelines: Option<PathBuf>,
    /// The sizes that `tune` found for the adapter that would be used.
    tuned: Option<Tuned>,
}

/// The folder that models are kept in.
struct Cache {
    folder: Option<(PathBuf, &'static str)>,
    bytes: u64,
    free_bytes: Option<u64>,
}

pub fn run(common: &Common, doctor: &Doctor) -> Result<()> {
    let page = Page::look(common, doctor);
    let mut out = std::io::stdout().lock();
    match doctor.json {
        true => writeln!(out, "{}", page.json())?,
        false => page.print(&mut out)?,
    }
    page.verdict()
}

impl Page {
    fn look(common: &Common, doctor: &Doctor) -> Page {
        let set = std::env::var("WGPU_ADAPTER_NAME").ok();
        let folder = surroundings::cache_folder();
        let of_cache = folder.as_ref().map(|(folder, _)| folder.as_path());
        let check = |folder: &PathBuf| {
            chosen(folder, None).and_then(|c| InstructBlip::check(&c.checkpoint, c.adapter.as_ref())).err()
        };
        let adapters = list_adapters(common.adapter.as_deref());
        Page {
            machine: Machine::look(),
            tuned: adapters.iter().find(|adapter| adapter.chosen).and_then(tuned::of),
            adapters,
            wanted: common.adapter.clone().or(set).filter(|name| !name.is_empty()),
            environment: surroundings::process_variables(),
            embedded_model: cfg!(feature = "embedded-model"),
            cache: Cache {
                bytes: of_cache.map_or(0, surroundings::folder_bytes),
                free_bytes: of_cache.and_then(machine::free_bytes),
                folder,
            },
            model: doctor.model.as_ref().map(|folder| (folder.clone(), check(folder))),
            kernels: selftest::quick(common),
            pipelines: kernel_cache(),
        }
    }

    /// The adapter that would be used.
    fn chosen(&self) -> Option<&AdapterSummary> {
        self.adapters.iter().find(|adapter| adapter.chosen)
    }

    /// The matrices that the device multiplies which was opened for the test.
    fn matrix(&self) -> Option<MatrixSize> {
        self.kernels.as_ref().ok().and_then(|report| report.matrix)
    }

    /// The thing to fix first, if there is any.
    fn first(&self) -> Option<String> {
        match (&self.kernels, &self.model) {
            (Err(e), _) if is_no_adapter(e) => {
                let todo = advice::without_adapter(&self.adapters, &self.environment, std::env::consts::OS);
                Some(format!("no usable GPU: {todo}"))
            }
            (Err(e), _) => Some(format!("the GPU cannot be opened: {}", in_words(e))),
            (Ok(report), _) if !report.passed() => Some(format!(
                "kernels fail on this GPU: install a newer driver, choose another GPU with --adapter, or try --portable; \
                 `instructblip selftest --json` has the details ({})",
                report.summary()
            )),
            (Ok(_), Some((_, Some(e)))) => Some(of_library(e)),
            (Ok(_), _) => None,
        }
    }

    /// # Errors
    /// What any other command would end with: no adapter, failing kernels, a bad checkpoint.
    fn verdict(self) -> Result<()> {
        self.kernels?.verdict()?;
        match self.model {
            Some((_, Some(e))) => Err(e.into()),
            _ => Ok(()),
        }
    }

    fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        let m = &self.machine;
        writeln!(out, "instructblip {}", env!("CARGO_PKG_VERSION"))?;
        writeln!(out, "  {}, kernel {}, {}", m.os, m.kernel, m.arch)?;
        let (all, free) = (Bytes(m.memory_bytes), Bytes(m.available_bytes));
        writeln!(out, "  {}, {} threads; {all} of memory, {free} available", m.cpu, m.threads)?;
        writeln!(out, "\nGPUs")?;
        self.print_adapters(out)?;
        writeln!(out, "\nEnvironment")?;
        if self.environment.is_empty() {
            writeln!(out, "  nothing that matters here is set")?;
        }
        self.environment.iter().try_for_each(|(name, value)| writeln!(out, "  {name}={value}"))?;
        writeln!(out, "\nModels")?;
        writeln!(out, "  embedded demo model: {}", if self.embedded_model { "yes" } else { "no" })?;
        writeln!(out, "  {}", self.cache.describe())?;
        if let Some((folder, problem)) = &self.model {
            let verdict = problem.as_ref().map_or("ok".into(), of_library);
            writeln!(out, "  {}: {verdict}", folder.display())?;
        }
        writeln!(out, "\nKernels")?;
        self.print_kernels(out)?;
        let warnings = advice::warnings(self);
        if !warnings.is_empty() {
            writeln!(out, "\nWarnings")?;
            warnings.iter().try_for_each(|warning| writeln!(out, "  {warning}"))?;
        }
        match self.first() {
            None => writeln!(out, "\nready"),
            Some(first) => writeln!(out, "\nfix first: {first}"),
        }
    }

    fn print_adapters(&self, out: &mut impl Write) -> std::io::Result<()> {
        if self.adapters.is_empty() {
            writeln!(out, "  none found")?;
        }
        self.adapters.iter().try_for_each(|adapter| write!(out, "{}", crate::devices::describe(adapter)))?;
        let Some(chosen) = self.chosen() else { return Ok(()) };
        let reason = advice::reason(&self.adapters, self.wanted.as_deref());
        writeln!(out, "  {} would be used: {reason}", chosen.name)?;
        let meaning = advice::meaning(chosen, self.matrix());
        meaning.into_iter().try_for_each(|(name, text)| writeln!(out, "    {name:<24}  {text}"))
    }

    fn print_kernels(&self, out: &mut impl Write) -> std::io::Result<()> {
        match &self.kernels {
            Ok(report) => writeln!(out, "  {}; `instructblip selftest` tests more", report.summary())?,
            Err(_) => writeln!(out, "  not tested: no GPU could be opened")?,
        }
        match &self.pipelines {
            Some(folder) => {
                let bytes = Bytes(surroundings::folder_bytes(folder));
                writeln!(out, "  compiled ones are kept in {}: {bytes}", folder.display())?;
            }
            None => {
                writeln!(out, "  compiled ones are not kept: INSTRUCTBLIP_CACHE is off, or there is no home directory")?
            }
        }
        let tuning = self.chosen().map(|chosen| advice::tuning(chosen, self.tuned.as_ref()));
        tuning.map_or(Ok(()), |tuning| writeln!(out, "  {tuning}"))
    }

    fn json(&self) -> Value {
        let model = |(folder, problem): &(PathBuf, Option<Error>)| {
            let problem = problem.as_ref().map(of_library);
            json!({"folder": folder, "ok": problem.is_none(), "problem": problem})
        };
        let first = self.first();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "machine": self.machine.json(),
            "adapters": self.adapters.iter().map(crate::devices::to_json).collect::<Vec<_>>(),
            "environment": self.environment.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
            "embedded_model": self.embedded_model,
            "cache": {
                "folder": self.cache.folder.as_ref().map(|(folder, _)| folder),
                "bytes": self.cache.bytes,
                "free_bytes": self.cache.free_bytes,
            },
            "model": self.model.as_ref().map(model),
            "kernels": self.kernels.as_ref().ok().map(Report::summary_json),
            "matrix_edge": self.matrix().map(MatrixSize::edge),
            "compiled_kernels": {
                "folder": &self.pipelines,
                "bytes": self.pipelines.as_deref().map_or(0, surroundings::folder_bytes),
            },
            "tuned": self.tuned.as_ref().map(|tuned| json!({"date": tuned.date, "tuning": tuned.tuning})),
            "warnings": advice::warnings(self),
            "ready": first.is_none(),
            "fix_first": first,
        })
    }
}

impl Cache {
    fn describe(&self) -> String {
        let Some((folder, why)) = &self.folder else {
            return match cfg!(feature = "hub") {
                true => "no folder for models: there is no home directory; set HF_HOME to a folder".into(),
                false => "no folder for models: this program was built without the hub".into(),
            };
        };
        let free = self.free_bytes.map_or("unknown space".into(), |n| Bytes(n).to_string());
        let used = if folder.is_dir() { Bytes(self.bytes).to_string() } else { "not there yet".into() };
        format!("folder for models ({why}): {}: {used}, {free} free", folder.display())
    }
}

fn is_no_adapter(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<Error>(), Some(Error::NoAdapter { .. }))
}
