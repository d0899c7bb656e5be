//! What each GPU's compiler makes of the kernels, without the GPU; see README.md.

mod check;
mod code;
mod dialect;
mod gpus;
mod table;
mod variants;
mod worker;

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use check::Limits;
use gpus::Gpu;
use table::{Row, Table};

const USAGE: &str = "isa [--check] [--filter TEXT] [--code FOLDER] [GPU...]

Compiles the default variants for each GPU (all that are known) and writes tables/GPU.tsv.
  --check        compares instead of writing, and fails on what limits.txt does not allow
  --filter TEXT  of the variants whose names contain TEXT alone; prints rows and writes nothing
  --code FOLDER  also puts the machine code there";

#[derive(Default)]
struct Arguments {
    check: bool,
    filter: Option<String>,
    code: Option<String>,
    gpus: Vec<String>,
    /// True in the process that has the driver.
    worker: bool,
}

fn arguments() -> Result<Arguments> {
    let mut found = Arguments::default();
    let mut all = std::env::args().skip(1);
    while let Some(argument) = all.next() {
        match argument.as_str() {
            "--check" => found.check = true,
            "--worker" => found.worker = true,
            "--filter" => found.filter = Some(all.next().context(USAGE)?),
            "--code" => found.code = Some(all.next().context(USAGE)?),
            name if !name.starts_with('-') => found.gpus.push(name.into()),
            _ => anyhow::bail!(USAGE),
        }
    }
    Ok(found)
}

fn main() -> Result<()> {
    let arguments = arguments()?;
    let gpus = gpus::named(&arguments.gpus)?;
    if arguments.worker {
        return worker::run(gpus[0], arguments.filter.as_deref().unwrap_or(""));
    }
    let limits = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("limits.txt"))?;
    let limits = Limits::parse(&limits)?;
    let mut failed = false;
    for gpu in gpus {
        let now = compile(gpu, &arguments)?;
        if arguments.filter.is_some() {
            println!("{}", now.text());
        } else if arguments.check {
            failed |= !passes(gpu, &now, &limits)?;
        } else {
            now.write(gpu)?;
            eprintln!("{}: {} variants", gpu.name, now.rows.len());
        }
    }
    anyhow::ensure!(!failed, "tools/isa/limits.txt does not allow what is above");
    Ok(())
}

/// Runs a worker under a GPU's driver, and reads what it prints.
fn compile(gpu: &Gpu, arguments: &Arguments) -> Result<Table> {
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("../drivers/run.sh");
    let mut command = Command::new(run);
    command.arg(gpu.driver).arg(std::env::current_exe()?).args(["--worker", gpu.name]);
    command.args(arguments.filter.iter().flat_map(|filter| ["--filter", filter]));
    command.env("MESA_SHADER_CACHE_DISABLE", "1").envs(gpu.dialect.environment());
    let output = command.stderr(std::process::Stdio::inherit()).output().context("tools/drivers/run.sh")?;
    anyhow::ensure!(output.status.success(), "{}: {}", gpu.name, output.status);
    let (mut heading, made) = worker::read(&String::from_utf8_lossy(&output.stdout)).context(gpu.name)?;
    heading.push(format!("buffers' bounds {}", if gpu.robust { "looked after by the driver" } else { "left alone" }));
    if let Some(folder) = &arguments.code {
        let folder = Path::new(folder).join(gpu.name);
        std::fs::create_dir_all(&folder)?;
        for made in &made {
            std::fs::write(folder.join(made.variant.replace([' ', ',', '='], "_") + ".txt"), &made.code)?;
        }
    }
    Ok(Table { heading, rows: made.iter().map(|made| Row::new(made, gpu)).collect() })
}

/// Says what is wrong with what a GPU's compiler makes now, or with the table of it, and whether nothing is.
fn passes(gpu: &Gpu, now: &Table, limits: &Limits) -> Result<bool> {
    let committed = Table::read(gpu)?;
    let is_comparable = now.heading == committed.heading;
    let before = if is_comparable { &committed } else { &Table::default() };
    let (faults, idle) = limits.judge(gpu.name, now, before);
    for fault in &faults {
        println!("{}\t{}\t{}\t{}", gpu.name, fault.rule, fault.variant, fault.how);
    }
    for exception in &idle {
        println!("{}: limits.txt excuses what does not happen: {exception:?}", gpu.name);
    }
    if !is_comparable {
        println!("{}: the table is of another driver, with which nothing is compared", gpu.name);
    } else if now.rows != committed.rows {
        println!("{}: the table is not of today's kernels; `make isa` renews it", gpu.name);
    }
    Ok(faults.is_empty() && idle.is_empty() && now.rows == before.rows)
}
