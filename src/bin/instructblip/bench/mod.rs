//! `instructblip bench`: what kernels and models take, pictures of it and comparisons.

mod append;
mod kernels;
mod model;
mod report;
mod run;
#[cfg(feature = "server")]
mod serve;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use instructblip::Error;
use instructblip::lab::Results;

pub use run::today;

use crate::common::{Adapter, Common, Gpu};
use crate::files;

/// Columns of what is drawn in a terminal: wider ones are rare, and files have no width.
const WIDTH: usize = 80;

/// Arguments of `bench`.
#[derive(Args, Debug)]
pub struct Bench {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Time every kernel at the shapes of published models, beside what the GPU can do at most
    ///
    /// Every kernel is first compared with 64-bit references; one that is wrong is not timed. Bandwidth and arithmetic
    /// are measured in the same run, and what lies above them is refused. `cold` has operands that no cache holds,
    /// `hot` the same ones again and again.
    Kernels(kernels::Kernels),
    /// Time a model stage by stage: loading, picture, vision tower, Q-Former, prompts and steps of decoding
    ///
    /// Nothing is timed before it is checked: the embedded model's answer, step-by-step decoding against one long prompt,
    /// finite values. A published shape needs no files: its weights are made on the GPU.
    Model(model::Model),
    /// Have many clients ask the server at once, and one alone
    ///
    /// The server is started for it, and ends with it: `bench serve -- --model DIR --slots 8`. Each client asks one question
    /// after another about bundled pictures, on a connection each, and waits for the whole answer. The embedded model's
    /// answers must be the recorded ones; of other models, those in other words than the answer to one who asks alone are
    /// counted.
    #[cfg(feature = "server")]
    Serve(serve::Serve),
    /// Show results as tables and pictures
    Report(Report),
    /// Compare two runs, row by row
    ///
    /// A difference within twice the spreads of both runs is called noise, and so is one below 5 %, or below what
    /// the ceilings changed by. Fewer than 5 runs are too few to tell.
    Compare(Compare),
}

impl Bench {
    /// The GPU that is to be measured, if one is.
    pub fn gpu(&self) -> Gpu {
        match &self.command {
            Command::Kernels(kernels) => kernels.gpu.clone(),
            Command::Model(model) => model.gpu.clone(),
            #[cfg(feature = "server")]
            Command::Serve(serve) => serve.gpu.clone(),
            Command::Report(_) | Command::Compare(_) => Adapter::default().into(),
        }
    }
}

/// Arguments of `bench report`.
#[derive(Args, Debug)]
pub struct Report {
    /// Results of a benchmark: the folder that --output wrote, or the file results.json in it
    pub results: PathBuf,
    /// Folder to write results.json, results.csv, results.md, report.html and its pictures to
    #[arg(long, short, value_name = "DIR")]
    pub output: Option<PathBuf>,
}

/// Arguments of `bench compare`.
#[derive(Args, Debug)]
pub struct Compare {
    /// Results of the run to compare with: the folder that --output wrote, or the file results.json in it
    pub before: PathBuf,
    /// Results of the other run
    pub after: PathBuf,
    /// Form of the comparison
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// File to write to instead of standard output
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Form of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for a terminal.
    Table,
    /// One JSON object.
    Json,
    /// A page for a browser.
    Html,
}

/// Findings that no benchmark may pass over: kernels that are wrong, and figures that cannot be.
#[derive(Debug)]
pub struct Refused(Vec<String>);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Refused {}

pub fn run(common: &Common, arguments: &Bench) -> Result<()> {
    match &arguments.command {
        Command::Kernels(kernels::Kernels { output, .. }) | Command::Model(model::Model { output, .. }) => {
            output.append.as_deref().map_or(Ok(()), append::check)?;
            let is_of_model = matches!(arguments.command, Command::Model(_));
            output.output.as_deref().map_or(Ok(()), |folder| check_output(folder, is_of_model))?;
        }
        _ => {}
    }
    match &arguments.command {
        Command::Kernels(arguments) => kernels::run(common, arguments),
        Command::Model(arguments) => model::run(common, arguments),
        #[cfg(feature = "server")]
        Command::Serve(arguments) => serve::run(common, arguments),
        Command::Report(arguments) => show(arguments),
        Command::Compare(arguments) => compare(arguments),
    }
}

/// Refuses, before anything is measured, a folder that is none, or that has results of the other kind, which would go.
fn check_output(folder: &Path, is_of_model: bool) -> Result<()> {
    files::check_folder(folder)?;
    match Results::read(folder) {
        Ok(results) if results.model.is_some() != is_of_model && !results.unfinished => {
            let kind = if is_of_model { "kernels" } else { "a model" };
            let problem = format!("{}: has results of {kind}; name another folder", folder.display());
            Err(Error::Request { problem }.into())
        }
        _ => Ok(()),
    }
}

fn show(arguments: &Report) -> Result<()> {
    let results = Results::read(&arguments.results)?;
    if let Some(folder) = &arguments.output {
        files::check_folder(folder)?;
        report::write_all(folder, &results)?;
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", report::table(&results))?;
    write!(out, "{}", report::sketch(&results, WIDTH))?;
    Ok(())
}

fn compare(arguments: &Compare) -> Result<()> {
    if let Some(path) = &arguments.output {
        files::check_target(path)?;
    }
    let comparison = report::compare(&Results::read(&arguments.before)?, &Results::read(&arguments.after)?);
    let text = match arguments.format {
        Format::Table => comparison.text(),
        Format::Json => format!("{:#}\n", comparison.json()),
        Format::Html => report::compare_page::html(&comparison),
    };
    match &arguments.output {
        Some(path) => files::write_bytes(path, text.as_bytes()),
        None => Ok(std::io::stdout().lock().write_all(text.as_bytes())?),
    }
}
