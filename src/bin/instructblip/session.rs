//! The first steps of every command that runs a model: read the picture, open the device, load the model.

use std::path::Path;

use anyhow::Result;
use instructblip::checkpoint::AdapterBase;
use instructblip::checkpoint::names::{ADAPTER_CONFIG, CONFIG};
use instructblip::error::Bytes;
use instructblip::model::{LoadOptions, Workload};
use instructblip::processor::PassOrder;
use instructblip::runtime::{AdapterClass, CustomKernel, Forms, kernel_cache};
#[cfg(feature = "hub")]
use instructblip::shapes::Shape;
use instructblip::weights::LoadReport;
use instructblip::{Checkpoint, Device, DeviceOptions, Error, GenerateOptions, InstructBlip, Reply};
use serde_json::json;

use crate::common::Common;
use crate::machine::available_bytes;
use crate::options::{Model, Resize};
use crate::progress::say;
use crate::tuned;
use crate::watching;

/// The options of a device, with the user's folder of compiled kernels, progress of its work and the sizes that `tune`
/// found.
///
/// # Errors
/// [`Error::Request`] for kernels that there are not.
pub fn device_options(common: &Common) -> instructblip::Result<DeviceOptions> {
    Ok(DeviceOptions {
        adapter: common.adapter.clone(),
        portable: common.portable,
        checked: common.checked,
        robust_access: common.robust_access,
        forms: Forms::parse(&common.kernels)?,
        cache: kernel_cache(),
        watch: watching::watch(common),
        // What was found with an adapter's features says nothing of it without.
        tuning: if common.portable {
            None
        } else {
            tuned::of_chosen(common.adapter.as_deref()).map(|found| found.tuning)
        },
        ..DeviceOptions::default()
    })
}

/// Opens the device the options ask for.
pub fn open_device(common: &Common) -> Result<Device> {
    Ok(Device::open(&device_options(common)?)?)
}

/// The most work that `options` ask for, of `batch` questions at once.
pub fn workload(options: &GenerateOptions, batch: u32, frames: usize) -> Workload {
    let usual = Workload::default();
    let new_tokens = options.max_new_tokens.or(options.max_length).unwrap_or(usual.new_tokens);
    Workload { new_tokens, rows: options.rows(), batch, frames: frames as u32, ..usual }
}

/// Says once that the demo model answers where no model is named: it answers about photographs, too, and is wrong.
pub fn note_demo_model(common: &Common, model: &Model) {
    if cfg!(feature = "embedded-model") && model.model.is_none() && !common.quiet {
        say(
            "note: no --model is named, so the embedded demo model answers, which knows only pictures of coloured shapes; \
             for others: instructblip pull instructblip-flan-t5-xl, then --model instructblip-flan-t5-xl",
        );
    }
}

/// Says that a prompt is empty to whom was taught to follow prompts.
pub fn note_empty_prompt(common: &Common, model: &InstructBlip, prompt: &str) {
    if !common.quiet && prompt.trim().is_empty() && model.config().qformer_reads_text() {
        say("note: the prompt is empty; this model was taught to follow one, such as \"A short image description.\"");
    }
}

/// Tells of words for a Q-Former that reads none.
pub fn note_unread_words(common: &Common, model: &InstructBlip, words: &str) {
    if !common.quiet && !words.is_empty() && !model.config().qformer_reads_text() {
        say("note: this model's Q-Former reads no text; what it was to read changes nothing");
    }
}

/// The last line of a run: what was done, and by which model on which device.
pub fn say_last(common: &Common, model: &InstructBlip, what: &str) {
    if !common.quiet {
        say(&common.paint(&format!("{what}{} on {}", model.name(), model.device().name()), "2"));
    }
}

/// Tells whoever has them the other way round that the picture comes before the question.
///
/// # Errors
/// [`Error::Request`] if that is so.
pub fn check_order(image: &Path, prompt: &str) -> Result<()> {
    if image != Path::new("-") && !image.exists() && Path::new(prompt).is_file() {
        let image = image.display();
        let problem = format!("\"{image}\" is no file, but {prompt} is: picture first, question second");
        return Err(Error::Request { problem }.into());
    }
    Ok(())
}

/// Loads the model the options ask for, with progress, on a device with the custom kernels; those are tried first.
pub fn load_model(common: &Common, model: &Model, workload: Workload) -> Result<InstructBlip> {
    note_demo_model(common, model);
    let custom = model.overrides.custom_kernels()?;
    let loaded = load_with_custom(common, model, workload, custom);
    let mut loaded = loaded.map_err(|error| about_slots(error, workload))?;
    if model.overrides.any() {
        model.overrides.try_once(&mut loaded)?;
    }
    Ok(loaded)
}

/// Adds to the refusal of what takes too much memory that fewer slots take less.
fn about_slots(error: anyhow::Error, most: Workload) -> anyhow::Error {
    match error.downcast_ref() {
        Some(Error::OverBudget { .. }) if most.batch > 1 => {
            error.context(format!("with {} slots (--slots 1 takes less memory)", most.rows * most.batch))
        }
        _ => error,
    }
}

/// Loads the model the options ask for, with progress, on a device with these custom kernels.
pub fn load_with_custom(
    common: &Common,
    model: &Model,
    workload: Workload,
    custom: Vec<&'static CustomKernel>,
) -> Result<InstructBlip> {
    let Chosen { checkpoint, adapter } = match &model.model {
        Some(name) => chosen(name, model.lora.as_deref())?,
        None => Chosen { checkpoint: embedded()?, adapter: model.lora.as_deref().map(adapter).transpose()? },
    };
    let device = Device::open(&DeviceOptions { custom, ..device_options(common)? })?;
    let options = bounded(&device, LoadOptions { adapter, ..model.weights.options(workload) });
    let loaded = InstructBlip::load_with(&device, &checkpoint, &options)?;
    if !common.quiet && loaded.load_report().bytes > NOTED_BYTES {
        say(&common.paint(&load_note(&loaded), "2"));
    }
    let loaded = loaded.with_pass_order(match model.resize {
        Resize::Pillow12 => PassOrder::HorizontalFirst,
        Resize::Pillow13 => PassOrder::Pillow13,
    });
    let loaded = if model.special_tokens { loaded.with_special_tokens() } else { loaded };
    match model.image_size {
        Some(side) => Ok(loaded.with_image_size(side)?),
        None => Ok(loaded),
    }
}

/// These options with a budget where the library would set none, or a wrong one: a software adapter counts memory that
/// all programs share as its own.
pub fn bounded(device: &Device, options: LoadOptions) -> LoadOptions {
    match device.caps().class {
        AdapterClass::Cpu => LoadOptions { budget_bytes: options.budget_bytes.or_else(available_bytes), ..options },
        _ => options,
    }
}

/// Bytes of a checkpoint whose loading is worth a line.
const NOTED_BYTES: u64 = 100_000_000;

fn load_note(model: &InstructBlip) -> String {
    let LoadReport { bytes, time, scan, largest } = model.load_report();
    let rate = *bytes as f64 / time.as_secs_f64() / 1e9;
    let lost = match scan.flushed {
        0 => String::new(),
        n => format!(", {n} too small for 16 bits became zero"),
    };
    format!(
        "read {} in {:.1} s ({rate:.2} GB/s), {} on the device; largest weight {} ({largest}){lost}",
        Bytes(*bytes),
        time.as_secs_f64(),
        Bytes(model.memory().weights()),
        scan.max_abs
    )
}

/// A checkpoint, and the adapter to merge into it, if there is one that the checkpoint's folder does not hold.
pub struct Chosen {
    pub checkpoint: Checkpoint,
    pub adapter: Option<Checkpoint>,
}

/// The checkpoint and adapter that `--model` and `--lora` name. An adapter given as the model brings the model that it
/// was made for.
pub fn chosen(model: &Path, lora: Option<&Path>) -> instructblip::Result<Chosen> {
    let checkpoint = named(model)?;
    let adapter = lora.map(adapter).transpose()?;
    if adapter.is_none()
        && checkpoint.open(CONFIG)?.is_none()
        && checkpoint.open(ADAPTER_CONFIG)?.is_some()
        && let AdapterBase::Repository(base) = checkpoint.adapter_base()?
    {
        return Ok(Chosen { checkpoint: named(Path::new(&base))?, adapter: Some(checkpoint) });
    }
    Ok(Chosen { checkpoint, adapter })
}

/// The checkpoint that `--model` names: a directory, or a repository in the hub's cache.
pub fn named(name: &Path) -> instructblip::Result<Checkpoint> {
    #[cfg(feature = "hub")]
    if !name.is_dir() {
        let full = name.to_str().map(|name| full_name(name).into()).unwrap_or_else(|| name.to_path_buf());
        return instructblip::hub::Hub::from_env()?.checkpoint(&full);
    }
    Checkpoint::directory(name)
}

/// The adapter that `--lora` names: a directory, or a repository in the hub's cache.
pub fn adapter(name: &Path) -> instructblip::Result<Checkpoint> {
    #[cfg(feature = "hub")]
    if !name.is_dir() {
        return instructblip::hub::Hub::from_env()?.adapter(name);
    }
    Checkpoint::adapter_directory(name)
}

/// The repository that a published model's name stands for, as `plan` takes it; other names stay as they are.
#[cfg(feature = "hub")]
pub fn full_name(name: &str) -> String {
    let (short, revision) = name.split_at(name.find('@').unwrap_or(name.len()));
    Shape::named(short).map_or_else(|| name.into(), |shape| shape.repo() + revision)
}

#[cfg(feature = "embedded-model")]
pub fn embedded() -> Result<Checkpoint> {
    Ok(instructblip::embedded::SHAPES.clone())
}

#[cfg(not(feature = "embedded-model"))]
pub fn embedded() -> Result<Checkpoint> {
    anyhow::bail!("this build has no embedded model; give a checkpoint directory with --model")
}

/// An answer of a model on a device, both in words, as JSON.
pub fn reply_json(reply: &Reply, model: &str, device: &str) -> serde_json::Value {
    let mut object = reply.to_json(model, device);
    object["tokens_per_second"] = json!(tokens_per_second(reply));
    object
}

/// Speed of the decode steps; the first token is the prompt's. `None` when there was no step.
pub fn tokens_per_second(reply: &Reply) -> Option<f64> {
    let steps = reply.token_ids.len().checked_sub(1).filter(|&n| n > 0)?;
    Some(steps as f64 * 1000.0 / reply.timings.decode)
}
