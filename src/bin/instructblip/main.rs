//! The `instructblip` program: answers on stdout, everything else on stderr, exit codes that scripts can tell apart.

mod ask;
mod attention;
mod batch;
mod bench;
mod caption;
mod command;
mod common;
mod demo;
mod devices;
mod doctor;
mod embed;
mod ended;
mod environment;
mod eval;
mod files;
mod forward;
mod generation;
mod inputs;
mod machine;
mod manual;
#[cfg(feature = "hub")]
mod models;
mod options;
mod overrides;
mod pictures;
mod plan;
mod progress;
#[cfg(feature = "hub")]
mod pull;
mod quantize;
mod score;
mod selftest;
#[cfg(feature = "server")]
mod serve;
mod session;
mod side_by_side;
mod signals;
#[cfg(feature = "embedded-model")]
mod synthesize;
mod tune;
mod tuned;
mod usage;
mod watching;
mod wording;
mod worker;

use std::process::ExitCode;

use clap::CommandFactory;
use instructblip::Error;

use command::{Arguments, Command};
use progress::say;

fn main() -> ExitCode {
    environment::give_runtime_folder();
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(|l| format!("{}:{}", l.file(), l.line())).unwrap_or_default();
        say(&format!("instructblip: internal error at {place}; please report it with the command that led to it"));
    }));
    let arguments = usage::parse();
    let common = &arguments.common();
    let result = match &arguments.command {
        Command::Ask(ask) => ask::run(common, ask),
        Command::Caption(caption) => caption::run(common, caption),
        Command::Score(score) => score::run(common, score),
        Command::Embed(embed) => embed::run(common, embed),
        Command::Eval(eval) => eval::run(common, eval),
        Command::Batch(batch) => batch::run(common, batch),
        Command::Worker(worker) => worker::run(common, worker),
        #[cfg(feature = "server")]
        Command::Serve(serve) => serve::run(common, serve),
        Command::Forward(forward) => forward::run(common, forward),
        Command::Plan(plan) => plan::run(plan),
        Command::Quantize(quantize) => quantize::run(common, quantize),
        Command::Devices(devices) => devices::run(common, devices),
        #[cfg(feature = "hub")]
        Command::Pull(pull) => pull::run(common, pull),
        #[cfg(feature = "hub")]
        Command::Ls(ls) => models::list(common, ls),
        #[cfg(feature = "hub")]
        Command::Rm(rm) => models::remove(common, rm),
        Command::Doctor(doctor) => doctor::run(common, doctor),
        Command::Selftest(selftest) => selftest::run(common, selftest),
        Command::Tune(tune) => tune::run(common, tune),
        Command::Bench(bench) => bench::run(common, bench),
        Command::Demo(demo) => demo::run(common, demo),
        Command::Completions(completions) => manual::completions(Arguments::command(), completions),
        Command::Man(man) => manual::man(Arguments::command(), man),
        #[cfg(feature = "embedded-model")]
        Command::Synthesize(synthesize) => synthesize::run(common, synthesize),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // What is written to stdout is the only thing that fails without an error type of its own.
            let place = if error.is::<std::io::Error>() { "standard output: " } else { "" };
            say(&format!("{} {place}{}", common.paint("error:", "31;1"), wording::in_words(&error)));
            ExitCode::from(exit_code(&error))
        }
    }
}

/// True if the reader of our output has closed it.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

/// 2 usage (clap), 3 model or input refused, 4 no usable GPU, 5 out of memory, 6 device lost, 7 wrong kernels,
/// 75 try again later (as EX_TEMPFAIL of sysexits.h), 1 anything else.
fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<selftest::Failed>() || error.is::<bench::Refused>() {
        return 7;
    }
    if let Some(ended) = error.downcast_ref::<ended::Ended>() {
        return ended.code;
    }
    if error.downcast_ref::<std::io::Error>().is_some_and(instructblip::error::is_full) {
        return 75;
    }
    match error.downcast_ref::<Error>() {
        Some(Error::NoAdapter { .. }) => 4,
        Some(Error::OutOfMemory { .. } | Error::DoesNotFit { .. } | Error::OverBudget { .. }) => 5,
        Some(Error::DeviceLost { .. }) => 6,
        Some(Error::Incorrect { .. }) => 7,
        Some(Error::Download { again: true, .. } | Error::InUse { .. } | Error::Cancelled) => 75,
        Some(Error::Io { source, .. }) if instructblip::error::is_full(source) => 75,
        Some(
            Error::Download { again: false, .. }
            | Error::Kernel { .. }
            | Error::Checkpoint { .. }
            | Error::NotTheFile { .. }
            | Error::NotCached { .. }
            | Error::NotFinite { .. }
            | Error::MissingTensors { .. }
            | Error::Image { .. }
            | Error::ImageTooLarge { .. }
            | Error::PromptTooLong { .. }
            | Error::OverSlots { .. }
            | Error::Request { .. }
            | Error::Io { .. },
        ) => 3,
        _ => 1,
    }
}
