//! Loading: everything that can be refused is refused before anything is uploaded.

use std::time::Instant;

use super::reply::milliseconds;
use super::residence::Residence;
use super::sources::Sources;
use super::{InstructBlip, LoadOptions, MemoryPlan, Parts};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::names::CONFIG;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::language::Language;
use crate::processor::{Processor, PromptLimits};
use crate::runtime::{Device, Work};
use crate::weights::{Loaded, Loader, Placement};

/// The weights of a checkpoint, found to be those that `config` asks for: where they come from and go, shapes of all
/// parts, and the memory that they take.
fn survey(
    sources: &Sources,
    config: &Config,
    options: &LoadOptions,
    device: &Device,
) -> Result<(Residence, Parts, MemoryPlan)> {
    let files = sources.files(config, options.mmap)?;
    let memory = MemoryPlan::choose(config, Some(&files), options, &device.caps())?;
    let placement = memory.placement;
    let (shapes, surveyed) = Parts::survey(Some(&files), config, placement)?;
    let residence = Residence { config: config.clone(), files, placement, surveyed, offload: options.offload };
    Ok((residence, shapes, memory))
}

/// A listener to bytes that adds them up and tells of it on `device`.
fn adding_up(total: u64, device: &Device) -> impl FnMut(u64) -> Result<()> {
    let mut done = 0;
    move |bytes| {
        done += bytes;
        device.tell(&Work::Loading { done: done.min(total), total })
    }
}

impl Parts {
    /// Loads the parts of `checkpoint` onto `device`, all of them at once, for programs that run them one by one.
    /// `config` is the checkpoint's, or one with fewer layers.
    ///
    /// # Errors
    /// As [`InstructBlip::load_with`], but for what only tokenizers and pictures need.
    pub fn from_checkpoint(
        device: &Device,
        checkpoint: &Checkpoint,
        config: &Config,
        options: &LoadOptions,
    ) -> Result<(Parts, Loaded)> {
        let sources = Sources::of(checkpoint, options.adapter.as_ref())?;
        let options = LoadOptions { offload: false, ..options.clone() }.bounded_by(device);
        let (residence, ..) = survey(&sources, config, &options, device)?;
        residence.load_all(device, &mut adding_up(residence.surveyed.source_bytes, device))
    }

    /// Makes parts of random weights on `device`, for programs that measure a configuration without files.
    ///
    /// # Errors
    /// [`Error::OverBudget`], [`Error::OutOfMemory`].
    pub fn synthetic(device: &Device, config: &Config, options: &LoadOptions) -> Result<(Parts, Loaded)> {
        MemoryPlan::of_config(config, &options.clone().bounded_by(device), &device.caps())?;
        let mut loader = Loader::synthetic(device, options.formats);
        let parts = Parts::load(&mut loader, config)?;
        Ok((parts, loader.finish()?))
    }
}

impl InstructBlip {
    /// Checks a checkpoint as [`InstructBlip::load`] does, without a device: configuration, tokenizers, names, shapes
    /// and sizes of all tensors, with those of `adapter` or its own. Only headers are read, so it takes no longer for a
    /// large model.
    ///
    /// # Errors
    /// [`Error::Checkpoint`], [`Error::MissingTensors`], [`Error::Io`].
    pub fn check(checkpoint: &Checkpoint, adapter: Option<&Checkpoint>) -> Result<()> {
        let sources = Sources::of(checkpoint, adapter)?;
        let config = sources.config()?;
        let files = sources.files(&config, false)?;
        let (shapes, _) = Parts::survey(Some(&files), &config, Placement::default())?;
        load_processor(&sources, &config, &shapes, &|| Ok(())).map(|_| ())
    }

    /// Loads a checkpoint onto `device`, in the formats it is stored in.
    ///
    /// # Errors
    /// As [`InstructBlip::load_with`].
    pub fn load(device: &Device, checkpoint: &Checkpoint) -> Result<InstructBlip> {
        InstructBlip::load_with(device, checkpoint, &LoadOptions::default())
    }

    /// Loads a checkpoint onto `device`, whose watch hears of it: [`Device::watched`]. It hears of the model's later work,
    /// too, until [`InstructBlip::set_watch`] gives the model another.
    ///
    /// Everything but the weights' values is checked before anything is uploaded, the budget included.
    ///
    /// # Errors
    /// [`Error::Checkpoint`], [`Error::MissingTensors`], [`Error::OverBudget`], [`Error::OutOfMemory`], [`Error::Io`],
    /// [`Error::Cancelled`].
    pub fn load_with(device: &Device, checkpoint: &Checkpoint, options: &LoadOptions) -> Result<InstructBlip> {
        let start = Instant::now();
        // Of its own, so that each model can be given a watch of its own.
        let device = &device.with_kv_cache(options.kv_cache).watched(device.watch());
        let sources = Sources::of(checkpoint, options.adapter.as_ref())?;
        let config = sources.config()?;
        let options = options.clone().bounded_by(device);
        let (residence, shapes, memory) = survey(&sources, &config, &options, device)?;
        let total = residence.surveyed.source_bytes;
        let tell = || device.tell(&Work::Loading { done: 0, total });
        let processor = load_processor(&sources, &config, &shapes, &tell)?;
        let mut report = adding_up(total, device);
        let (vision, mut loaded) = residence.load_vision(device, (None, 1), &mut report)?;
        let language = match options.offload {
            true => None,
            false => {
                let (language, more) = residence.load_language(device, &mut report)?;
                loaded.join(more);
                Some(language)
            }
        };
        device.tell(&Work::Loading { done: total, total })?;
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
            slots: None,
            at_once: 1,
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
        InstructBlip::load(device, &crate::embedded::SHAPES)
    }
}

/// The processor, after ids that have no embedding were refused, bounded by the model: `shapes` knows how many rows the
/// embeddings really have. `tell` is called before each file is read.
fn load_processor(
    sources: &Sources,
    config: &Config,
    shapes: &Parts,
    tell: &dyn Fn() -> Result<()>,
) -> Result<Processor> {
    check_vocabulary(sources.base(), &shapes.language)?;
    let limits = PromptLimits::of(config, shapes.language.vocab_rows(), shapes.qformer.vocab_rows());
    let root = sources.base().root();
    let read = |name: &str| tell().and_then(|()| sources.read(name));
    let processor = Processor::from_files(&read, root, limits)?;
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

/// Refuses ids that can come out of the language model but not go in, and such a first one of T5's.
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
