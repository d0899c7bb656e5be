//! What a model takes on a device, before there is one: from the configuration and the headers of the files alone.
//!
//! Nothing here is a second description of the model: shapes come from the same code that loads weights, scratch memory
//! from the same recordings that become plans, and the cache from the room that a session would ask for.

use std::sync::Arc;

use super::load::LoadOptions;
use super::sources::Sources;
use super::{MAX_RUN_ROWS, Parts};
use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::error::{Bytes, Error, Result};
use crate::generate::options::MAX_NEW_TOKENS;
use crate::generate::processors::CANDIDATES;
use crate::generate::session::SessionPlan;
use crate::generate::{Capacity, MAX_PROMPT_TOKENS};
use crate::runtime::ops::attention::Mask;
use crate::runtime::recorder::Recorder;
use crate::runtime::upload::STAGING_BYTES;
use crate::runtime::{Caps, DryPool, Tensor, WeightFormat, whole};
use crate::weights::{Formats, Loaded, Loader, Part, Placement, Resident, TensorFiles};

/// What is asked of a model at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Tokens of a prompt, without the picture's places.
    pub prompt_tokens: u32,
    /// Most new tokens of an answer.
    pub new_tokens: u32,
    /// Beams, or answers, to a question.
    pub rows: u32,
    /// Questions answered at once.
    pub batch: u32,
    /// Pictures of a question.
    pub frames: u32,
}

impl Default for Workload {
    fn default() -> Workload {
        Workload { prompt_tokens: 64, new_tokens: 256, rows: 1, batch: 1, frames: 1 }
    }
}

/// The weights of one part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartBytes {
    /// Format of its linear layers.
    pub format: WeightFormat,
    /// Bytes on the device; of layers that take turns, those of one.
    pub bytes: u64,
    /// Its layers.
    pub layers: u32,
    /// Those that stay on the device.
    pub resident: u32,
}

/// Bytes that a model takes on the device, by what they are for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Formats and places of the weights.
    pub placement: Placement,
    /// Whether the two stages take turns.
    pub offload: bool,
    /// What is asked at most.
    pub workload: Workload,
    /// The vision tower's weights.
    pub vision: PartBytes,
    /// The Q-Former's weights, queries and projection.
    pub qformer: PartBytes,
    /// The language model's weights.
    pub language: PartBytes,
    /// Cached keys and values.
    pub kv_cache: u64,
    /// Intermediate results.
    pub scratch: u64,
    /// Inputs, tables and parameters.
    pub io: u64,
    /// Memory that weights pass through.
    pub staging: u64,
    /// What is taken while pictures are looked at.
    pub seeing: u64,
    /// What is taken while answers are written.
    pub speaking: u64,
    /// The most that is taken at once.
    pub peak: u64,
    /// Bytes of the files that are read.
    pub file_bytes: u64,
}

/// What a plan looks at: the configuration, and the headers of the files.
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
    /// [`Error::OverBudget`]; otherwise as [`super::InstructBlip::load`].
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

    pub(super) fn choose(
        config: &Config,
        files: Option<&Arc<TensorFiles>>,
        options: &LoadOptions,
        caps: &Caps,
    ) -> Result<MemoryPlan> {
        let planner = Planner { config, files, caps, workload: options.workload };
        let plan = planner.plan(options.formats, options.offload, Resident::default())?;
        let Some(budget) = options.budget_bytes.filter(|&budget| plan.peak > budget) else { return Ok(plan) };
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
            options: planner.alternatives(options, budget)?,
        })
    }

    /// Settings that a checkpoint could be loaded with, from the least changed to the smallest, with their plans: for
    /// people to choose from. The first, without a name, is that of `options` with everything on the device.
    ///
    /// # Errors
    /// As [`MemoryPlan::of`].
    pub fn settings(checkpoint: &Checkpoint, options: &LoadOptions, caps: &Caps) -> Result<Vec<(String, MemoryPlan)>> {
        let (config, files) = open(checkpoint, options)?;
        Planner { config: &config, files: Some(&files), caps, workload: options.workload }.settings(options)
    }

    /// [`MemoryPlan::settings`] for a configuration without files.
    ///
    /// # Errors
    /// As [`MemoryPlan::of_config`].
    pub fn settings_of_config(
        config: &Config,
        options: &LoadOptions,
        caps: &Caps,
    ) -> Result<Vec<(String, MemoryPlan)>> {
        Planner { config, files: None, caps, workload: options.workload }.settings(options)
    }

    /// The weights of all parts.
    pub fn weights(&self) -> u64 {
        self.vision.bytes + self.qformer.bytes + self.language.bytes
    }

    /// The larger parts in words.
    pub fn summary(&self) -> String {
        let parts = [
            ("vision tower", self.vision.bytes),
            ("Q-Former", self.qformer.bytes),
            ("language model", self.language.bytes),
            ("cache", self.kv_cache),
            ("the rest", self.scratch + self.io + self.staging),
        ];
        parts.map(|(name, bytes)| format!("{name} {}", Bytes(bytes))).join(", ")
    }
}

struct Planner<'a> {
    config: &'a Config,
    files: Option<&'a Arc<TensorFiles>>,
    caps: &'a Caps,
    workload: Workload,
}

/// Memory that is not weights.
struct Working {
    kv_cache: u64,
    scratch: u64,
    io: u64,
    /// Scratch, inputs and tables of either stage alone.
    seeing: u64,
    speaking: u64,
}

impl Planner<'_> {
    fn survey(&self, placement: Placement) -> Result<(Parts, Loaded)> {
        let mut survey = Loader::survey(self.files, placement);
        let parts = Parts::load(&mut survey, self.config)?;
        Ok((parts, survey.finish()?))
    }

    fn plan(&self, formats: Formats, offload: bool, resident: Resident) -> Result<MemoryPlan> {
        let placement = Placement { formats, resident };
        let (parts, loaded) = self.survey(placement)?;
        let part = |part: Part| {
            let (bytes, layers) = (loaded.weight_bytes[part as usize], loaded.layers[part as usize]);
            let format = loaded.formats[part as usize];
            PartBytes { format, bytes, layers, resident: resident.layers(part).unwrap_or(layers).min(layers) }
        };
        let [vision, qformer, language] = Part::ALL.map(part);
        let working = self.working(&parts, offload);
        // Shared memory is written in place; what takes turns is always staged.
        let streams = [&vision, &language].iter().any(|part| part.resident < part.layers);
        let staging = if self.caps.shares_memory && !streams { 0 } else { STAGING_BYTES };
        let kept = if streams { staging } else { 0 };
        let seeing = vision.bytes + qformer.bytes + working.seeing;
        let speaking = language.bytes + working.kv_cache + working.speaking;
        let weights = vision.bytes + qformer.bytes + language.bytes;
        let peak = match offload {
            // The ring is given back after loading; what a stage works with comes after.
            true => (seeing + kept)
                .max(vision.bytes + qformer.bytes + staging)
                .max(speaking + kept)
                .max(language.bytes + staging),
            false => (weights + working.kv_cache + working.scratch + working.io + kept).max(weights + staging),
        };
        Ok(MemoryPlan {
            placement,
            offload,
            workload: self.workload,
            vision,
            qformer,
            language,
            kv_cache: working.kv_cache,
            scratch: working.scratch,
            io: working.io,
            staging,
            seeing,
            speaking,
            peak,
            file_bytes: loaded.source_bytes,
        })
    }

    /// Scratch as the pool would hand it out for two questions, one after the other; inputs and tables.
    fn working(&self, parts: &Parts, offload: bool) -> Working {
        let Workload { prompt_tokens, new_tokens, rows, batch, frames } = self.workload;
        // What is longer than any prompt may be is refused when it is asked.
        let longest = self.config.text.max_positions().unwrap_or(MAX_PROMPT_TOKENS).min(MAX_PROMPT_TOKENS);
        let features = self.config.num_query_tokens.saturating_mul(frames).min(longest);
        let prompt_tokens = prompt_tokens.min(longest);
        let tokens = prompt_tokens.saturating_add(features).min(longest);
        // The end of the context ends an answer, too.
        let new_tokens = match parts.language.is_encoder_decoder() {
            true => new_tokens.min(MAX_NEW_TOKENS),
            false => new_tokens.min(longest.saturating_sub(tokens).max(1)),
        };
        let (side, width) = (self.config.vision.image_size, self.config.text.hidden_size());
        let pixels = Tensor::unbacked(3 * side, side);
        let mut vision = Recorder::new(*self.caps);
        let seen = parts.vision.record(&mut vision, &pixels);
        let mut qformer = Recorder::new(*self.caps);
        let words = Tensor::unbacked(1, prompt_tokens.clamp(1, self.config.qformer.max_position_embeddings));
        let words = Some(&words).filter(|_| self.config.qformer_reads_text());
        let image = Tensor::unbacked(seen.last_hidden_state.rows(), seen.last_hidden_state.cols());
        let looked = parts.qformer.record(&mut qformer, &image, words, Mask::None);
        // Without places of their own the features come in front; either way they are part of the prompt.
        let batch = batch.min((MAX_RUN_ROWS as u32 / rows).max(1));
        let need = Capacity::of(&parts.language, &vec![tokens; batch as usize], rows, new_tokens);
        let session = SessionPlan::new(*self.caps, &parts.language, need, tokens, features).with_largest(CANDIDATES);

        let outputs = [&looked.last_hidden_state, &looked.language_model_inputs].map(|t| qformer.slot_of(t));
        let mut pool = DryPool::default();
        pool.take(&vision.slot_bytes());
        let (mut seeing, mut first) = (0, 0);
        let mut held = Vec::new();
        for question in 0..2 * batch {
            if question == batch {
                pool.free(std::mem::take(&mut held)); // with what was asked first
            }
            let slots = pool.take(&qformer.slot_bytes());
            let (kept, free): (Vec<_>, Vec<_>) =
                slots.into_iter().enumerate().partition(|(i, _)| outputs.contains(&Some(*i)));
            pool.give_back(free.into_iter().map(|(_, bytes)| bytes));
            held.extend(kept.into_iter().map(|(_, bytes)| bytes));
            if question + 1 == batch {
                seeing = pool.bytes();
                pool.take(&session.decode.slot_bytes());
                let prompt = pool.take(&session.prefill.slot_bytes());
                pool.give_back(prompt);
                first = pool.bytes();
            }
        }
        let scratch = pool.bytes().max(first);
        let kept: u64 = held.iter().sum();
        let mut alone = DryPool::default();
        alone.take(&session.decode.slot_bytes());
        alone.take(&session.prefill.slot_bytes());
        let bytes = |elements: u32| whole(4 * u64::from(elements));
        let prompt_io = whole(4 * u64::from(features) * u64::from(width)) + bytes(features) + bytes(tokens);
        let seeing_io = pixels.buffer_bytes() + vision.io_bytes() + qformer.io_bytes() + bytes(prompt_tokens);
        let questions_io = u64::from(batch) * prompt_io;
        // Logits are read back through memory of their own, a token through less.
        let readback = bytes(rows * batch * parts.language.head_rows());
        let speaking_io = session.io_bytes + readback;
        Working {
            kv_cache: session.kv_bytes,
            scratch: if offload { seeing.max(alone.bytes() + kept) } else { scratch },
            io: if offload {
                questions_io + seeing_io.max(speaking_io)
            } else {
                questions_io + seeing_io + speaking_io
            },
            seeing: seeing + seeing_io + questions_io,
            speaking: alone.bytes() + kept + speaking_io + questions_io,
        }
    }

    /// The stages in turn, with as many layers of each on the device as the budget allows; `None` if none is few enough.
    fn streamed(&self, formats: Formats, whole: &MemoryPlan, budget: u64) -> Result<Option<MemoryPlan>> {
        let mut resident = Resident::default();
        // If one part's layers take turns the ring stays, and takes room from the other stage as well.
        let over = |stage: u64| stage + STAGING_BYTES > budget;
        for (part, over) in [(Part::Vision, over(whole.seeing)), (Part::Language, over(whole.speaking))] {
            if !over {
                continue;
            }
            let layers = if part == Part::Vision { whole.vision.layers } else { whole.language.layers };
            let with = |count: u32| match part {
                Part::Vision => Resident { vision: Some(count), ..resident },
                _ => Resident { language: Some(count), ..resident },
            };
            let fits = |count: u32| -> Result<bool> {
                let plan = self.plan(formats, true, with(count))?;
                let stage = if part == Part::Vision { plan.seeing } else { plan.speaking };
                Ok(stage + plan.staging <= budget)
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
        Ok((plan.peak <= budget).then_some(plan))
    }

    fn settings(&self, options: &LoadOptions) -> Result<Vec<(String, MemoryPlan)>> {
        let mut found = Vec::new();
        let formats = [
            (String::new(), options.formats),
            ("--weights q8".into(), Formats::usual(WeightFormat::Q8)),
            ("--weights q4".into(), Formats::usual(WeightFormat::Q4)),
        ];
        for offload in [false, true] {
            for (name, formats) in &formats {
                let plan = self.plan(*formats, offload, Resident::default())?;
                let name = format!("{name}{}", if offload { " --offload" } else { "" });
                found.push((name.trim().to_string(), plan));
            }
        }
        let least = Resident { vision: Some(0), language: Some(0) };
        let smallest = self.plan(Formats::usual(WeightFormat::Q4), true, least)?;
        found.push((format!("--weights q4 --offload --budget {}MB", smallest.peak.div_ceil(1_000_000)), smallest));
        Ok(found)
    }

    /// Those settings that fit, in words.
    fn alternatives(&self, options: &LoadOptions, budget: u64) -> Result<Vec<String>> {
        let fits = |(name, plan): &(String, MemoryPlan)| plan.peak <= budget && !name.is_empty();
        let mut fitting: Vec<String> = self
            .settings(options)?
            .iter()
            .filter(|setting| fits(setting))
            .map(|(name, plan)| format!("{name} ({})", Bytes(plan.peak)))
            .collect();
        let current = self.plan(options.formats, true, Resident::default())?;
        if !options.offload
            && let Some(streamed) = self.streamed(options.formats, &current, budget)?
            && (streamed.language.resident < streamed.language.layers
                || streamed.vision.resident < streamed.vision.layers)
        {
            let turns = streamed.language.layers - streamed.language.resident;
            let total = streamed.language.layers;
            let turns = format!("--offload with {turns} of {total} layers read again for every token, slow");
            fitting.push(format!("{turns} ({})", Bytes(streamed.peak)));
        }
        Ok(fitting)
    }
}
