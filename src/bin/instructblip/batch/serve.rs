//! Rows over pipes: `worker`, and `batch` for its parent.

use std::path::Path;
use std::sync::atomic::Ordering;

use anyhow::Result;
use instructblip::jobs::{Defaults, Service, VERSION, serve};
use serde_json::json;

use super::answering::Answering;
use super::apart::SERVE;
use super::asking::Asking;
use super::identity::identity;
use crate::common::Common;
use crate::ended::Ended;
use crate::options::Model;
use crate::progress::say;
use crate::signals::asked_to_end;

/// Loads the model, says so, and answers rows until there are no more.
pub fn serve_rows(common: &Common, model: &Model, asking: &Asking, defaults: &Defaults, folder: &Path) -> Result<()> {
    let stop = asked_to_end()?;
    let identity = identity(model, asking.slots.slots)?;
    let answering = Answering::open(common, model, asking)?;
    let ready = json!({
        "event": "ready", "model": identity.model, "name": identity.name, "settings": identity.settings,
        "device": answering.device(), "v": VERSION,
    });
    // A parent is not told, and its user has nothing to do with it.
    if std::env::var_os(SERVE).is_none() {
        say(&ready.to_string());
    }
    let service =
        Service { defaults, folder, model: &identity.model, in_flight: asking.inflight as usize, stop: &stop };
    let stopped = serve(&service, &answering, std::io::stdin(), &mut std::io::stdout().lock())?;
    if let Some(failure) = stopped {
        return Err(Ended::by(&failure, "").into());
    }
    match stop.load(Ordering::Relaxed) {
        true => Err(Ended::new(75, "stopped as asked; rows that were read are answered".into()).into()),
        false => Ok(()),
    }
}
