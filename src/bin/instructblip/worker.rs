//! `instructblip worker`: rows on standard input, answers on standard output.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use instructblip::jobs::{Defaults, Service, serve};
use serde_json::{Value, json};

use crate::batch::{Answering, Asking, Ended, as_json, identity};
use crate::common::{Common, Gpu};
use crate::options::Model;
use crate::progress::say;
use crate::session::{load_model, workload};
use crate::signals::asked_to_end;

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

/// Loads the model, says so, and answers rows until there are no more.
pub fn serve_rows(common: &Common, model: &Model, defaults: &Defaults, folder: &Path, in_flight: u32) -> Result<()> {
    let stop = asked_to_end()?;
    let identity = identity(model)?;
    let loaded = load_model(common, model, workload(&defaults.options, 1, 1))?;
    let mut ready = json!({"event": "ready", "device": loaded.device().name(), "v": instructblip::jobs::VERSION});
    if let (Value::Object(ready), Value::Object(model)) = (&mut ready, as_json(&identity)) {
        ready.extend(model);
    }
    let answering = Answering::new(loaded, &model.picture_options);
    say(&ready.to_string());
    let service = Service { defaults, folder, model: &identity.model, in_flight: in_flight as usize, stop: &stop };
    let stopped = serve(&service, &answering, std::io::stdin(), &mut std::io::stdout().lock())?;
    if let Some(failure) = stopped {
        return Err(Ended::by(&failure, "").into());
    }
    match stop.load(std::sync::atomic::Ordering::Relaxed) {
        true => Err(Ended::new(75, "stopped as asked; rows that were read are answered".into()).into()),
        false => Ok(()),
    }
}
