//! `instructblip pull`: a model of the hub into the cache. The folder goes to stdout, the rest to stderr.

use std::io::Write;
use std::ops::ControlFlow;

use anyhow::Result;
use clap::Args;
use indicatif::DecimalBytes;
use instructblip::hub::{Event, Hub, Plan};

use crate::common::Common;
use crate::progress::{Progress, say};
use crate::session::full_name;

/// Arguments of `pull`.
#[derive(Args, Debug)]
pub struct Pull {
    /// The repository, owner/name, for example Salesforce/instructblip-flan-t5-xl; a published model's name alone will do
    pub repo: String,
    /// A branch, a tag or a commit
    #[arg(long, value_name = "REVISION")]
    pub revision: Option<String>,
}

pub fn run(common: &Common, pull: &Pull) -> Result<()> {
    let hub = Hub::from_env()?;
    if hub.offline && !common.quiet {
        say("HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set: looking in the cache only");
    }
    let mut progress = Progress::bytes(common.quiet, "downloading");
    let mut base = None;
    let repo = full_name(&pull.repo);
    let result = hub.pull(&repo, pull.revision.as_deref(), &mut |event| {
        if let Event::Plan(plan) = &event {
            base.clone_from(&plan.base);
        }
        show(event, &mut progress);
        ControlFlow::Continue(())
    });
    progress.clear();
    let folder = result?;
    if let Some(base) = base.filter(|_| !common.quiet) {
        say_base(&hub, &base);
    }
    writeln!(std::io::stdout(), "{}", folder.display())?;
    Ok(())
}

/// An adapter is nothing without its base: says how that is had, if it is not there.
fn say_base(hub: &Hub, base: &str) {
    match hub.find(base, None) {
        Ok(Some(_)) => {}
        Ok(None) => say(&format!("this is an adapter for {base}, which is needed too: instructblip pull {base}")),
        Err(_) => say(&format!("this is an adapter for {base:?}, a folder of its author's; its model is needed too")),
    }
}

fn show(event: Event<'_>, progress: &mut Progress) {
    match event {
        Event::Waiting => progress.note("another process pulls this model; waiting for it"),
        Event::Plan(plan) => announce(plan, progress),
        Event::Bytes { done, total } => progress.report(done, total),
        Event::Retry { file, problem, pause } => {
            progress.note(&format!("{file}: {problem}; trying again in {:.1} s", pause.as_secs_f64()));
        }
        _ => {}
    }
}

fn announce(plan: &Plan, progress: &Progress) {
    let Plan { repo, revision, commit, files, .. } = plan;
    let licence = plan.licence.as_deref().unwrap_or("not stated");
    let commit = commit.get(..8).filter(|_| commit != revision).map_or(String::new(), |commit| format!(" ({commit})"));
    progress
        .note(&format!("{repo}, {revision}{commit}: {files} files, {}; licence: {licence}", DecimalBytes(plan.bytes)));
    progress.note(&format!("to {}", plan.folder.display()));
    match plan.present_bytes {
        0 => {}
        present if present == plan.bytes => progress.note("everything is there"),
        present => progress.note(&format!("{} of it are there already", DecimalBytes(present))),
    }
}
