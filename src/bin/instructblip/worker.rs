//! `instructblip worker`: rows on standard input, answers on standard output.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;

use crate::batch::{Asking, serve_rows};
use crate::common::{Common, Gpu};
use crate::options::Model;

/// Arguments of `worker`.
#[derive(Args, Debug)]
pub struct Worker {
    /// Folder that relative paths of pictures begin at
    #[arg(long, value_name = "DIR")]
    pub folder: Option<PathBuf>,
    #[command(flatten)]
    pub asking: Asking,
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub gpu: Gpu,
}

pub fn run(common: &Common, worker: &Worker) -> Result<()> {
    let defaults = worker.asking.defaults(&worker.model)?;
    let folder = worker.folder.as_deref().unwrap_or(Path::new(""));
    serve_rows(common, &worker.model, &worker.asking, &defaults, folder)
}
