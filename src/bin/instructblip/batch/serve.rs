//! Rows over pipes: `worker`, and `batch` for its parent.

use std::path::Path;
use std::sync::atomic::Ordering;

use anyhow::Result;
use instructblip::jobs::{Defaults, Service, VERSION, serve};
use serde_json::json;

use super::answering::Answering;
use super::ended::Ended;
use super::identity::identity;
use crate::common::Common;
use crate::options::Model;
use crate::progress::say;
use crate::session::{load_model, workload};
use crate::signals::asked_to_end;

/// Loads the model, says so, and answers rows until there are no more.
pub fn serve_rows(common: &Common, model: &Model, defaults: &Defaults, folder: &Path, in_flight: u32) -> Result<()> {
    let stop = asked_to_end()?;
    let identity = identity(model)?;
    let loaded = load_model(common, model, workload(&defaults.options, 1, 1))?;
    let ready = json!({
        "event": "ready", "model": identity.model, "name": identity.name, "settings": identity.settings,
        "device": loaded.device().name(), "v": VERSION,
    });
    let answering = Answering::new(loaded, &model.picture_options);
    say(&ready.to_string());
    let service = Service { defaults, folder, model: &identity.model, in_flight: in_flight as usize, stop: &stop };
    let stopped = serve(&service, &answering, std::io::stdin(), &mut std::io::stdout().lock())?;
    if let Some(failure) = stopped {
        return Err(Ended::by(&failure, "").into());
    }
    match stop.load(Ordering::Relaxed) {
        true => Err(Ended::new(75, "stopped as asked; rows that were read are answered".into()).into()),
        false => Ok(()),
    }
}
