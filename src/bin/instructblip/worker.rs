//! `instructblip worker`: rows on standard input, answers on standard output.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::batch::{Asking, serve_rows};
use crate::common::{Common, Gpu};
use crate::options::Model;

/// Arguments of `worker`.
#[derive(Args, Debug)]
pub struct Worker {
    /// Folder that relative paths of pictures begin at
    #[arg(long, value_name = "DIR", default_value = "")]
    pub folder: PathBuf,
    #[command(flatten)]
    pub asking: Asking,
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub gpu: Gpu,
}

pub fn run(common: &Common, worker: &Worker) -> Result<()> {
    let defaults = worker.asking.defaults(&worker.model)?;
    serve_rows(common, &worker.model, &defaults, &worker.folder, worker.asking.inflight)
}
