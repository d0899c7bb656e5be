//! `instructblip ls` and `rm`: the models in the hub's cache.

use std::io::Write;

use anyhow::Result;
use clap::Args;
use indicatif::DecimalBytes;
use instructblip::Error;
use instructblip::hub::{CachedModel, Hub};
use serde_json::json;

use crate::common::Common;
use crate::progress::say;

/// Arguments of `ls`.
#[derive(Args, Debug)]
pub struct Ls {
    /// Print a JSON array
    #[arg(long)]
    pub json: bool,
    /// Models of kinds that this program does not run, too
    #[arg(long)]
    pub all: bool,
}

/// Arguments of `rm`.
#[derive(Args, Debug)]
pub struct Rm {
    /// The repository, owner/name, as `ls` shows it; all its revisions are removed
    pub repo: String,
}

/// The table of models. The cache is shared with other programs, whose models are shown only when asked for.
pub fn list(common: &Common, ls: &Ls) -> Result<()> {
    let hub = Hub::from_env()?;
    let (models, others): (Vec<_>, Vec<_>) = hub.list()?.into_iter().partition(|model| ls.all || model.is_ours());
    let mut out = std::io::stdout().lock();
    if ls.json {
        writeln!(out, "{}", serde_json::Value::from(models.iter().map(to_json).collect::<Vec<_>>()))?;
        return Ok(());
    }
    let rows: Vec<[String; 6]> = models.iter().map(row).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    for row in &rows {
        let cells = row.iter().enumerate().map(|(i, cell)| match i {
            5 => cell.clone(),
            2 => format!("{cell:>0$}", width(i)),
            _ => format!("{cell:<0$}", width(i)),
        });
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  "))?;
    }
    if !common.quiet && models.is_empty() {
        say(&format!("no models in {}; instructblip pull fetches them", hub.cache.display()));
    }
    if !common.quiet && !others.is_empty() {
        say(&format!("{} of other kinds not shown; --all shows them", others.len()));
    }
    Ok(())
}

/// Repository, revision, size, state, licence, folder.
fn row(model: &CachedModel) -> [String; 6] {
    let commit = model.commit.get(..8).unwrap_or("-");
    let revision = match model.revisions.is_empty() {
        true => commit.to_string(),
        false => format!("{} ({commit})", model.revisions.join(", ")),
    };
    let state = if model.complete { "complete" } else { "incomplete" };
    let licence = model.licence.as_deref().unwrap_or("-");
    [
        model.repo.clone(),
        revision,
        DecimalBytes(model.bytes).to_string(),
        state.into(),
        licence.into(),
        model.path.display().to_string(),
    ]
}

fn to_json(model: &CachedModel) -> serde_json::Value {
    let CachedModel { repo, revisions, commit, bytes, complete, licence, kind, path, .. } = model;
    json!({
        "repo": repo, "revisions": revisions, "commit": commit, "bytes": bytes, "complete": complete,
        "licence": licence, "model_type": kind, "path": path.display().to_string(),
    })
}

/// Removes a model and says what that frees.
pub fn remove(common: &Common, rm: &Rm) -> Result<()> {
    let bytes = Hub::from_env()?.remove(&rm.repo).map_err(|error| match error {
        Error::NotCached { repo, cache, .. } => {
            Error::Request { problem: format!("{repo} is not in {}; instructblip ls shows what is", cache.display()) }
        }
        other => other,
    })?;
    if !common.quiet {
        say(&format!("removed {}, {} freed", rm.repo, DecimalBytes(bytes)));
    }
    Ok(())
}
