//! `instructblip plan`: what a model takes of a GPU's memory, and how it takes less, before there is a GPU.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use instructblip::error::{Bytes, Setting};
use instructblip::generate::options::MAX_NEW_TOKENS;
use instructblip::model::{LoadOptions, MemoryPlan, PartBytes, Workload};
use instructblip::runtime::Caps;
use instructblip::shapes::{PUBLISHED, Shape};
use instructblip::{Checkpoint, EngineOptions, Error};
use serde_json::{Value, json};

use crate::options::Weights;
use crate::session::{Chosen, adapter, chosen, embedded};
use crate::wording;

/// Arguments of `plan`.
#[derive(Args, Debug)]
#[command(mut_arg("no_mmap", |option| option.hide(true)))]
pub struct Plan {
    /// Directory of a checkpoint, or the name of one in the cache, or of a published one, whose shape is known; the
    /// embedded model if left out
    pub model: Option<String>,
    /// LoRA adapter to merge into the weights: a folder that peft saved, or owner/name of one that was pulled. An adapter
    /// in the model's own folder is merged without being asked for
    #[arg(long, value_name = "DIR|REPO")]
    pub lora: Option<PathBuf>,
    /// Most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_NEW_TOKENS)))]
    pub max_new_tokens: u32,
    /// Beams to search with
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub num_beams: u32,
    /// Questions asked at once: the slots of `batch`, `worker`, `caption` and `eval`
    #[arg(long, visible_alias = "slots", value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub batch: u32,
    /// Tokens of a prompt
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub prompt_tokens: u32,
    /// Pictures of a question, for video models
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub frames: u32,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub weights: Weights,
}

/// The model that is planned for.
enum Target {
    Checkpoint(Checkpoint),
    Shape(Shape),
}

pub fn run(arguments: &Plan) -> Result<()> {
    let Plan { max_new_tokens, num_beams, batch, prompt_tokens, frames, .. } = *arguments;
    let workload = Workload {
        prompt_tokens,
        new_tokens: max_new_tokens,
        rows: num_beams,
        batch,
        frames,
        at_once: batch.min(EngineOptions::default().at_once),
    };
    let (target, adapter) = target(arguments.model.as_deref(), arguments.lora.as_deref())?;
    let options = LoadOptions { adapter, ..arguments.weights.options(workload) };
    // The GPU is not known: that of WebGPU's default limits, with memory of its own.
    let caps = Caps::PORTABLE;
    let unbounded = LoadOptions { budget_bytes: None, ..options.clone() };
    let settings = target.settings(&unbounded, &caps)?;
    let chosen = target.plan(&options, &caps);
    // What does not fit is shown all the same.
    let (plan, refused) = match chosen {
        Ok(plan) => (plan, None),
        Err(error @ Error::OverBudget { .. }) => (target.plan(&unbounded, &caps)?, Some(error)),
        Err(other) => return Err(other.into()),
    };
    let mut out = std::io::stdout().lock();
    if arguments.json {
        writeln!(out, "{}", as_json(&target, &plan, &settings, &options))?;
    } else {
        show(&mut out, &target, &plan, &settings, &options)?;
    }
    refused.map_or(Ok(()), |error| Err(error.into()))
}

fn target(name: Option<&str>, lora: Option<&Path>) -> Result<(Target, Option<Checkpoint>)> {
    let Some(name) = name else {
        return Ok((Target::Checkpoint(embedded()?), lora.map(adapter).transpose()?));
    };
    // A model that is there is looked at; of a published one that is not, the shape is known.
    match chosen(Path::new(name), lora) {
        Ok(Chosen { checkpoint, adapter }) => return Ok((Target::Checkpoint(checkpoint), adapter)),
        Err(error) if lora.is_some() => return Err(error.into()),
        Err(_) => {}
    }
    let published = name.rsplit('/').next().and_then(Shape::named);
    published.map(|shape| (Target::Shape(shape), None)).ok_or_else(|| {
        let names = PUBLISHED.map(|shape| shape.name()).join(", ");
        Error::Checkpoint {
            file: name.into(),
            problem: format!("is no directory, no model in the cache and no published one; those are {names}"),
        }
        .into()
    })
}

impl Target {
    fn name(&self) -> String {
        match self {
            Target::Checkpoint(checkpoint) => checkpoint.root().display().to_string(),
            Target::Shape(shape) => format!("{} (its published shape, in f16)", shape.name()),
        }
    }

    fn plan(&self, options: &LoadOptions, caps: &Caps) -> instructblip::Result<MemoryPlan> {
        match self {
            Target::Checkpoint(checkpoint) => MemoryPlan::of(checkpoint, options, caps),
            Target::Shape(shape) => MemoryPlan::of_config(&shape.config(), options, caps),
        }
    }

    fn settings(&self, options: &LoadOptions, caps: &Caps) -> instructblip::Result<Vec<(Setting, MemoryPlan)>> {
        match self {
            Target::Checkpoint(checkpoint) => MemoryPlan::settings(checkpoint, options, caps),
            Target::Shape(shape) => MemoryPlan::settings_of_config(&shape.config(), options, caps),
        }
    }
}

fn show(
    out: &mut impl Write,
    target: &Target,
    plan: &MemoryPlan,
    settings: &[(Setting, MemoryPlan)],
    options: &LoadOptions,
) -> std::io::Result<()> {
    writeln!(out, "{}", target.name())?;
    let mut line = |name: &str, bytes: u64, note: String| {
        writeln!(out, "  {name:<16}{:>10}  {note}", Bytes(bytes).to_string()).map(|()| ())
    };
    let layers = |part: &PartBytes| match part.layers - part.resident {
        0 if part.layers == 0 => part.format.to_string(),
        0 => format!("{}, {} layers", part.format, part.layers),
        n => format!("{}, {n} of {} layers take turns in the memory of one", part.format, part.layers),
    };
    line("vision tower", plan.vision.bytes, layers(&plan.vision))?;
    line("Q-Former", plan.qformer.bytes, layers(&plan.qformer))?;
    line("language model", plan.language.bytes, layers(&plan.language))?;
    let Workload { prompt_tokens, new_tokens, rows, batch, .. } = plan.workload;
    let runs = if batch * rows > 256 { ", in runs of 256" } else { "" };
    let asked = format!("{batch} x {rows} answers of {new_tokens} tokens to prompts of {prompt_tokens}{runs}");
    line("cache", plan.kv_cache, format!("{}, {asked}", plan.kv_format.name()))?;
    line("scratch", plan.scratch, String::new())?;
    line("inputs, tables", plan.io, String::new())?;
    let turns = [&plan.vision, &plan.language].iter().any(|part| part.resident < part.layers);
    line("staging", plan.staging, if turns { String::new() } else { "only while loading".into() })?;
    let stages = match plan.offload {
        true => format!(
            "{} to look, {} to answer, one after the other",
            Bytes(plan.vision_stage),
            Bytes(plan.language_stage)
        ),
        false => String::new(),
    };
    line("at most", plan.peak, stages)?;
    if plan.file_bytes > 0 {
        line("from files of", plan.file_bytes, String::new())?;
    }
    writeln!(
        out,
        "\nother settings{:>26}",
        options.budget_bytes.map_or(String::new(), |b| format!("in {}", Bytes(b)))
    )?;
    for (setting, plan) in settings {
        let name = Some(wording::options(setting)).filter(|name| !name.is_empty());
        let name = name.as_deref().unwrap_or("as asked, all on the GPU");
        let fits = options.budget_bytes.map_or("", |budget| if plan.fits(budget) { "fits" } else { "no" });
        writeln!(out, "  {name:<44}{:>10}  {fits}", Bytes(plan.peak).to_string())?;
    }
    Ok(())
}

fn as_json(target: &Target, plan: &MemoryPlan, settings: &[(Setting, MemoryPlan)], options: &LoadOptions) -> Value {
    let part = |part: &PartBytes| json!({"format": part.format.name(), "bytes": part.bytes, "layers": part.layers, "resident": part.resident});
    let fits = |plan: &MemoryPlan| options.budget_bytes.map(|budget| plan.fits(budget));
    let settings = settings.iter().map(
        |(setting, plan)| json!({"options": wording::options(setting), "peak_bytes": plan.peak, "fits": fits(plan)}),
    );
    json!({
        "model": target.name(),
        "vision": part(&plan.vision), "qformer": part(&plan.qformer), "language": part(&plan.language),
        "kv_cache_bytes": plan.kv_cache, "kv_cache": plan.kv_format.name(), "scratch_bytes": plan.scratch, "io_bytes": plan.io,
        "staging_bytes": plan.staging, "peak_bytes": plan.peak, "file_bytes": plan.file_bytes,
        "offload": plan.offload, "seeing_bytes": plan.vision_stage, "speaking_bytes": plan.language_stage,
        "budget_bytes": options.budget_bytes, "fits": fits(plan),
        "settings": settings.collect::<Vec<_>>(),
    })
}
