//! The choice of formats and places by which a model fits into a budget, and what else would.

use std::sync::Arc;

use super::plan::{MemoryPlan, PartBytes};
use super::working::Working;
use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::error::{Error, Result, Setting};
use crate::model::sources::Sources;
use crate::model::{LoadOptions, Parts, Workload};
use crate::runtime::upload::STAGING_BYTES;
use crate::runtime::{Caps, WeightFormat};
use crate::weights::{Formats, Part, Placement, Resident, TensorFiles};

/// The configuration of a checkpoint and the headers of its files: all that a plan looks at.
fn open(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<(Config, Arc<TensorFiles>)> {
    let sources = Sources::of(checkpoint, options.adapter.as_ref())?;
    let config = sources.config()?;
    let files = sources.files(&config, false)?;
    Ok((config, files))
}

impl MemoryPlan {
    /// The plan for a checkpoint, of which only `config.json` and the headers are read. A budget in `options` places
    /// the weights so that it holds.
    ///
    /// # Errors
    /// [`Error::OverBudget`]; otherwise as [`InstructBlip::load`](crate::InstructBlip::load).
    pub fn of(checkpoint: &Checkpoint, options: &LoadOptions, caps: &Caps) -> Result<MemoryPlan> {
        let (config, files) = open(checkpoint, options)?;
        MemoryPlan::choose(&config, Some(&files), options, caps)
    }

    /// The plan for a configuration without files: weights of f16, if `options` say nothing else.
    ///
    /// # Errors
    /// [`Error::OverBudget`].
    pub fn of_config(config: &Config, options: &LoadOptions, caps: &Caps) -> Result<MemoryPlan> {
        MemoryPlan::choose(config, None, options, caps)
    }

    pub(in crate::model) fn choose(
        config: &Config,
        files: Option<&Arc<TensorFiles>>,
        options: &LoadOptions,
        caps: &Caps,
    ) -> Result<MemoryPlan> {
        let planner = Planner::new(config, files, options, caps);
        let plan = planner.plan(options.formats, options.offload, Resident::default())?;
        let Some(budget) = options.budget_bytes.filter(|&budget| !plan.fits(budget)) else { return Ok(plan) };
        if options.offload
            && let Some(plan) = planner.streamed(options.formats, &plan, budget)?
        {
            return Ok(plan);
        }
        Err(Error::OverBudget {
            what: "the model".into(),
            parts: plan.summary(),
            need_bytes: plan.peak,
            budget_bytes: budget,
            settings: planner.alternatives(options, budget)?,
        })
    }

    /// Settings that a checkpoint could be loaded with, from the least changed to the smallest, with their plans: for
    /// people to choose from. The first is that of `options` with everything on the device.
    ///
    /// # Errors
    /// As [`MemoryPlan::of`].
    pub fn settings(checkpoint: &Checkpoint, options: &LoadOptions, caps: &Caps) -> Result<Vec<(Setting, MemoryPlan)>> {
        let (config, files) = open(checkpoint, options)?;
        Planner::new(&config, Some(&files), options, caps).settings(options)
    }

    /// [`MemoryPlan::settings`] for a configuration without files.
    ///
    /// # Errors
    /// As [`MemoryPlan::of_config`].
    pub fn settings_of_config(
        config: &Config,
        options: &LoadOptions,
        caps: &Caps,
    ) -> Result<Vec<(Setting, MemoryPlan)>> {
        Planner::new(config, None, options, caps).settings(options)
    }
}

struct Planner<'a> {
    config: &'a Config,
    files: Option<&'a Arc<TensorFiles>>,
    caps: Caps,
    workload: Workload,
}

impl<'a> Planner<'a> {
    fn new(config: &'a Config, files: Option<&'a Arc<TensorFiles>>, options: &LoadOptions, caps: &Caps) -> Planner<'a> {
        Planner { config, files, caps: caps.with_kv_cache(options.kv_cache), workload: options.workload }
    }

    fn plan(&self, formats: Formats, offload: bool, resident: Resident) -> Result<MemoryPlan> {
        let placement = Placement { formats, resident };
        let (parts, loaded) = Parts::survey(self.files, self.config, placement)?;
        let part = |part: Part| {
            let (bytes, layers) = (loaded.weight_bytes[part as usize], loaded.layers[part as usize]);
            let format = loaded.formats[part as usize];
            PartBytes { format, bytes, layers, resident: resident.layers(part).unwrap_or(layers).min(layers) }
        };
        let [vision, qformer, language] = Part::ALL.map(part);
        let working = Working::of(self.config, &self.caps, &parts, self.workload, offload);
        // Shared memory is written in place; what takes turns is always staged.
        let streams = [&vision, &language].iter().any(|part| part.resident < part.layers);
        let staging = if self.caps.shares_memory && !streams { 0 } else { STAGING_BYTES };
        let kept = if streams { staging } else { 0 };
        // The ring is given back after loading, unless layers take turns; what a stage works with comes after.
        let peak_of = |weights: u64, working: u64| (weights + working + kept).max(weights + staging);
        let vision_weights = vision.bytes + qformer.bytes;
        let answering = working.kv_cache + working.language_stage;
        let peak = match offload {
            true => peak_of(vision_weights, working.vision_stage).max(peak_of(language.bytes, answering)),
            false => peak_of(vision_weights + language.bytes, working.kv_cache + working.scratch + working.io),
        };
        Ok(MemoryPlan {
            placement,
            offload,
            workload: self.workload,
            vision_stage: vision_weights + working.vision_stage,
            language_stage: language.bytes + answering,
            vision,
            qformer,
            language,
            kv_cache: working.kv_cache,
            kv_format: parts.language.kv_format(&self.caps),
            scratch: working.scratch,
            io: working.io,
            staging,
            peak,
            file_bytes: loaded.source_bytes,
        })
    }

    /// The stages in turn, with as many layers of each on the device as the budget allows; `None` if none is few
    /// enough.
    fn streamed(&self, formats: Formats, whole: &MemoryPlan, budget: u64) -> Result<Option<MemoryPlan>> {
        let mut resident = Resident::default();
        // If one part's layers take turns the ring stays, and takes room from the other stage as well.
        let stage = |part: Part, plan: &MemoryPlan| match part {
            Part::Language => plan.language_stage,
            _ => plan.vision_stage,
        };
        for (part, layers) in [(Part::Vision, whole.vision.layers), (Part::Language, whole.language.layers)] {
            if stage(part, whole) + STAGING_BYTES <= budget {
                continue;
            }
            let with = |count: u32| match part {
                Part::Vision => Resident { vision: Some(count), ..resident },
                _ => Resident { language: Some(count), ..resident },
            };
            let fits = |count: u32| -> Result<bool> {
                let plan = self.plan(formats, true, with(count))?;
                Ok(stage(part, &plan) + plan.staging <= budget)
            };
            // Most layers that fit; more layers never take less.
            let (mut low, mut high) = (0, layers);
            while low < high {
                let middle = low + (high - low).div_ceil(2);
                match fits(middle)? {
                    true => low = middle,
                    false => high = middle - 1,
                }
            }
            resident = with(low);
        }
        let plan = self.plan(formats, true, resident)?;
        Ok(plan.fits(budget).then_some(plan))
    }

    fn settings(&self, options: &LoadOptions) -> Result<Vec<(Setting, MemoryPlan)>> {
        let mut found = Vec::new();
        let formats = [
            (None, options.formats),
            (Some(8), Formats::usual(WeightFormat::Q8)),
            (Some(4), Formats::usual(WeightFormat::Q4)),
        ];
        for offload in [false, true] {
            for (weight_bits, formats) in formats {
                let plan = self.plan(formats, offload, Resident::default())?;
                let setting = Setting { weight_bits, offload, peak_bytes: plan.peak, ..Setting::default() };
                found.push((setting, plan));
            }
        }
        let least = Resident { vision: Some(0), language: Some(0) };
        let plan = self.plan(Formats::usual(WeightFormat::Q4), true, least)?;
        // In whole megabytes, as people write it.
        let budget_bytes = Some(plan.peak.next_multiple_of(1_000_000));
        let setting = Setting { weight_bits: Some(4), offload: true, budget_bytes, peak_bytes: plan.peak, turns: None };
        found.push((setting, plan));
        Ok(found)
    }

    /// The settings that fit, but for the one that was asked for.
    fn alternatives(&self, options: &LoadOptions, budget: u64) -> Result<Vec<Setting>> {
        let settings = self.settings(options)?;
        let fits = |(_, plan): &&(Setting, MemoryPlan)| plan.fits(budget);
        let mut fitting: Vec<Setting> = settings.iter().skip(1).filter(fits).map(|(setting, _)| *setting).collect();
        let current = self.plan(options.formats, true, Resident::default())?;
        if !options.offload
            && let Some(streamed) = self.streamed(options.formats, &current, budget)?
            && (streamed.language.resident < streamed.language.layers
                || streamed.vision.resident < streamed.vision.layers)
        {
            let layers = streamed.language.layers;
            let turns = Some((layers - streamed.language.resident, layers));
            fitting.push(Setting { offload: true, turns, peak_bytes: streamed.peak, ..Setting::default() });
        }
        Ok(fitting)
    }
}
