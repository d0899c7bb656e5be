//! Models on this machine: those in the cache, and what a model takes of the memory before it is loaded.

use std::path::Path;

use instructblip::checkpoint::AdapterBase;
use instructblip::checkpoint::names::{ADAPTER_CONFIG, CONFIG};
use instructblip::embedded::SHAPES;
use instructblip::hub::{CachedModel, Hub};
use instructblip::model::MemoryPlan;
use instructblip::runtime::Caps;
use instructblip::shapes::{PUBLISHED, Shape};
use instructblip::{Checkpoint, Result};

use super::words::words;
use super::{Setup, Source, model};

/// The checkpoint of a source, and the adapter that it is where it is one.
pub(super) fn checkpoint(source: &Source) -> Result<(Checkpoint, Option<Checkpoint>)> {
    let checkpoint = match source {
        Source::Embedded => return Ok((SHAPES.clone(), None)),
        Source::Folder(path) => Checkpoint::directory(path)?,
        Source::Cached(repo) => Hub::from_env()?.checkpoint(Path::new(repo))?,
    };
    // An adapter alone brings the model that it was made for.
    if checkpoint.open(CONFIG)?.is_none()
        && checkpoint.open(ADAPTER_CONFIG)?.is_some()
        && let AdapterBase::Repository(base) = checkpoint.adapter_base()?
    {
        return Ok((Hub::from_env()?.checkpoint(Path::new(&base))?, Some(checkpoint)));
    }
    Ok((checkpoint, None))
}

/// The cache: its folder, and the models in it that this program runs.
#[derive(Clone, Debug)]
pub struct Cache {
    /// The folder.
    pub folder: String,
    /// The models.
    pub models: Vec<CachedModel>,
    /// True if nothing may be fetched.
    pub offline: bool,
}

impl Cache {
    /// Looks into the cache: for a thread of its own.
    ///
    /// # Errors
    /// A description of why it cannot be read, for people.
    pub fn look() -> Result<Cache, String> {
        let look = || -> Result<Cache> {
            let hub = Hub::from_env()?;
            let mut models = hub.list()?;
            models.retain(CachedModel::is_ours);
            Ok(Cache { folder: hub.cache.display().to_string(), models, offline: hub.offline })
        };
        look().map_err(|error| words(&error))
    }

    /// Removes a model and tells how many bytes that freed: for a thread of its own.
    ///
    /// # Errors
    /// A description of why it cannot be removed, for people.
    pub fn remove(repo: &str) -> Result<u64, String> {
        Hub::from_env().and_then(|hub| hub.remove(repo)).map_err(|error| words(&error))
    }
}

/// Names of published models that can be fetched, with their repositories.
pub fn published() -> impl Iterator<Item = (&'static str, String)> {
    PUBLISHED.iter().map(|shape| (shape.name(), shape.repo()))
}

/// A way to load a model and the bytes that it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// The way in words.
    pub name: String,
    /// The setup's `weights`.
    pub weights: Option<String>,
    /// The setup's `offload`.
    pub offload: bool,
    /// Bytes of the vision tower, the Q-Former, the language model, and everything else, when most is taken.
    pub parts: [u64; 4],
    /// The most bytes that are taken at once.
    pub peak: u64,
}

/// Ways to load a model: weights in f16, q8 and q4, and q4 with stages that take turns. Nothing is loaded: for a thread
/// of its own.
///
/// # Errors
/// A description of what is wrong with the model, for people.
pub fn ways(setup: &Setup) -> Result<Vec<Way>, String> {
    let of = |format: &str, offload| -> Result<Way> {
        let setup = Setup { weights: Some(format.into()), offload, ..setup.clone() };
        let plan = plan(&setup)?;
        let turns = if offload { ", stages take turns" } else { "" };
        let [vision, qformer, language] = [plan.vision.bytes, plan.qformer.bytes, plan.language.bytes];
        // Of stages that take turns, the one that takes most.
        let parts = match offload {
            true if plan.vision_stage > plan.language_stage => [vision, qformer, 0],
            true => [0, 0, language],
            false => [vision, qformer, language],
        };
        let rest = plan.peak.saturating_sub(parts.iter().sum());
        Ok(Way {
            name: format!("{format}{turns}"),
            weights: setup.weights,
            offload,
            parts: [parts[0], parts[1], parts[2], rest],
            peak: plan.peak,
        })
    };
    let all = [("f16", false), ("q8", false), ("q4", false), ("q4", true)];
    all.into_iter().map(|(format, offload)| of(format, offload)).collect::<Result<_>>().map_err(|error| words(&error))
}

/// The memory that a model takes on any adapter: from its files or, for a published one that is not there, its shape.
fn plan(setup: &Setup) -> Result<MemoryPlan> {
    let options = model::load_options(setup);
    match checkpoint(&setup.source) {
        Ok((checkpoint, adapter)) => {
            MemoryPlan::of(&checkpoint, &instructblip::model::LoadOptions { adapter, ..options }, &Caps::PORTABLE)
        }
        Err(error) => {
            let Source::Cached(repo) = &setup.source else { return Err(error) };
            let shape = repo.rsplit('/').next().and_then(Shape::named).ok_or(error)?;
            MemoryPlan::of_config(&shape.config(), &options, &Caps::PORTABLE)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_models_ways_take_less_and_less() {
        let published = |name: &str| Setup { source: Source::Cached(name.into()), slots: 1, ..Setup::default() };
        let ways = ways(&published("Salesforce/instructblip-flan-t5-xl")).expect("a published shape");
        let peaks: Vec<u64> = ways.iter().map(|way| way.peak).collect();
        assert_eq!(ways.len(), 4);
        assert!(peaks.is_sorted_by(|a, b| a > b) && peaks[0] > 8_000_000_000, "{peaks:?}");
        assert!(super::ways(&published("nobody/nothing")).is_err_and(|told| told.contains("Models fetches it")));
        assert!(super::ways(&Setup::default()).is_ok_and(|ways| ways[0].peak < 100_000_000));
    }
}
