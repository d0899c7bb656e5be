//! Loading: everything that can be refused is refused before anything is uploaded.

use std::sync::Arc;
use std::time::Instant;

use super::reply::milliseconds;
use super::residence::Residence;
use super::sources::Sources;
use super::{InstructBlip, MemoryPlan, Parts, Workload};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::names::CONFIG;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::language::Language;
use crate::processor::{Processor, PromptLimits};
use crate::runtime::Device;
use crate::weights::{Formats, Loaded, Loader, Placement, TensorFiles};

/// How to load a model.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Formats of the weights.
    pub formats: Formats,
    /// Whether files are mapped into memory, not read; either way gives the same.
    pub mmap: bool,
    /// Most bytes to use on the device; its memory, where the driver tells how much there is, if `None`. What needs more
    /// is refused before anything is uploaded.
    pub budget_bytes: Option<u64>,
    /// Whether the vision tower with the Q-Former and the language model take turns on the device, and, if there is a
    /// budget that one of them exceeds, its layers in the memory of one.
    pub offload: bool,
    /// What will be asked at most: the budget has to hold for it.
    pub workload: Workload,
    /// A LoRA adapter, as peft saves it, to be merged into the weights as they are read. Without one, an adapter that
    /// the checkpoint's own folder holds is merged.
    pub adapter: Option<Checkpoint>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        let workload = Workload::default();
        let formats = Formats::default();
        LoadOptions { formats, mmap: true, budget_bytes: None, offload: false, workload, adapter: None }
    }
}

/// A checkpoint that can be loaded.
struct Checked {
    shapes: Parts,
    surveyed: Loaded,
    processor: Processor,
}

/// Checks everything but the weights' values.
fn check(sources: &Sources, config: &Config, files: &Arc<TensorFiles>, placement: Placement) -> Result<Checked> {
    let mut survey = Loader::survey(Some(files), placement);
    let shapes = Parts::load(&mut survey, config)?;
    let surveyed = survey.finish()?;
    check_vocabulary(sources.base(), &shapes.language)?;
    let processor = load_processor(sources, config, &shapes)?;
    Ok(Checked { shapes, surveyed, processor })
}

impl InstructBlip {
    /// Checks a checkpoint as [`InstructBlip::load`] does, without a device: configuration, tokenizers, names, shapes
    /// and sizes of all tensors, with those of `adapter` or its own. Only headers are read, so it takes no longer for a large model.
    ///
    /// # Errors
    /// [`Error::Checkpoint`], [`Error::MissingTensors`], [`Error::Io`].
    pub fn check(checkpoint: &Checkpoint, adapter: Option<&Checkpoint>) -> Result<()> {
        let sources = Sources::of(checkpoint, adapter)?;
        let config = sources.config()?;
        check(&sources, &config, &sources.files(&config, false)?, Placement::default()).map(|_| ())
    }

    /// Loads a checkpoint onto `device`, in the formats it is stored in. `progress` hears (bytes done, bytes in all) as
    /// weights are read.
    ///
    /// # Errors
    /// As [`InstructBlip::load_with`].
    pub fn load(device: &Device, checkpoint: &Checkpoint, progress: &mut dyn FnMut(u64, u64)) -> Result<InstructBlip> {
        InstructBlip::load_with(device, checkpoint, &LoadOptions::default(), progress)
    }

    /// Loads a checkpoint onto `device`. `progress` hears (bytes done, bytes in all) as weights are read.
    ///
    /// Everything but the weights' values is checked before anything is uploaded, the budget included.
    ///
    /// # Errors
    /// [`Error::Checkpoint`], [`Error::MissingTensors`], [`Error::OverBudget`], [`Error::OutOfMemory`], [`Error::Io`].
    pub fn load_with(
        device: &Device,
        checkpoint: &Checkpoint,
        options: &LoadOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<InstructBlip> {
        let start = Instant::now();
        let sources = Sources::of(checkpoint, options.adapter.as_ref())?;
        let config = sources.config()?;
        let files = sources.files(&config, options.mmap)?;
        let bounded = LoadOptions { budget_bytes: options.budget_bytes.or(device.memory_bytes()), ..options.clone() };
        let memory = MemoryPlan::choose(&config, Some(&files), &bounded, &device.caps())?;
        let Checked { shapes, surveyed, processor } = check(&sources, &config, &files, memory.placement)?;
        let (mut done, total) = (0, surveyed.source_bytes);
        let residence = Residence {
            config: config.clone(),
            files,
            placement: memory.placement,
            surveyed,
            offload: options.offload,
        };
        let mut report = |bytes| {
            done += bytes;
            progress(done.min(total), total);
        };
        let (vision, mut loaded) = residence.load_vision(device, None, &mut report)?;
        let language = match options.offload {
            true => None,
            false => {
                let (language, more) = residence.load_language(device, &mut report)?;
                loaded.join(more);
                Some(language)
            }
        };
        progress(total, total);
        let mut stop = config.text.generation().eos_token_ids.clone();
        stop.extend(processor.tokenizers().eos_token_id());
        Ok(InstructBlip {
            device: device.clone(),
            name: checkpoint.root().display().to_string(),
            config,
            processor,
            shapes,
            residence,
            vision: Some(vision),
            language,
            memory,
            side: None,
            stop,
            left_padding: false,
            load_ms: milliseconds(start),
            report: loaded,
        })
    }

    /// Loads the model compiled into the library, which knows pictures of coloured shapes.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] or another failure of the device.
    #[cfg(feature = "embedded-model")]
    pub fn embedded(device: &Device) -> Result<InstructBlip> {
        InstructBlip::load(device, &crate::embedded::SHAPES, &mut |_, _| {})
    }
}

/// The processor, bounded by the model: `shapes` knows how many rows the embeddings really have.
fn load_processor(sources: &Sources, config: &Config, shapes: &Parts) -> Result<Processor> {
    let limits = PromptLimits::of(config, shapes.language.vocab_rows(), shapes.qformer.vocab_rows());
    let root = sources.base().root();
    let processor = Processor::from_files(&|name| sources.read(name), root, limits)?;
    let (width, height, side) = (processor.image().width(), processor.image().height(), config.vision.image_size);
    if (width, height) != (side, side) {
        let problem = format!(
            "the image processor's settings give pictures of {width}x{height} pixels, but vision_config.image_size in \
             config.json is {side}"
        );
        return Err(Error::checkpoint(root, problem));
    }
    Ok(processor)
}

/// Every id that can come out of the language model, and T5's first, must be one that can go in.
fn check_vocabulary(checkpoint: &Checkpoint, language: &Language) -> Result<()> {
    let (ids, rows) = (language.head_rows(), language.vocab_rows());
    if let Some(start) = language.decoder_start().filter(|&start| start >= rows) {
        let problem = format!("text_config.decoder_start_token_id is {start}, but the embedding has {rows} rows");
        return Err(Error::checkpoint(checkpoint.root().join(CONFIG), problem));
    }
    if ids <= rows {
        return Ok(());
    }
    let embedding = language.embedding_name();
    let problem = format!(
        "language_model.lm_head.weight has {ids} rows, {embedding}.weight has {rows} rows: some tokens would have no \
         embedding"
    );
    Err(Error::checkpoint(checkpoint.root(), problem))
}
