//! Options for rows that do not say what they ask, which `batch` and `worker` share.

use std::path::Path;

use anyhow::Result;
use clap::Args;
use instructblip::checkpoint::names::CONFIG;
use instructblip::config::Config;
use instructblip::jobs::{Defaults, Worded};
use instructblip::processor::Task;
use instructblip::{Error, GenerateOptions};
use serde::Deserialize;
use serde_json::Value;

use crate::generation::Generation;
use crate::options::{Model, Wording};
use crate::session::{Chosen, chosen, embedded};
use crate::side_by_side::Slots;

/// Options for rows that do not say what is asked.
#[derive(Args, Debug)]
pub struct Asking {
    /// The question or instruction of rows without a prompt; the paper's for captions, or none for BLIP-2, if left out
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,
    #[command(flatten)]
    pub wording: Wording,
    /// Rows that are asked or read ahead at once
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub inflight: u32,
    #[command(flatten)]
    pub slots: Slots,
    #[command(flatten)]
    pub generation: Generation,
}

impl Asking {
    /// The parts that rows are completed with.
    ///
    /// # Errors
    /// Those of the model's configuration, and options out of range.
    pub fn defaults(&self, model: &Model) -> Result<Defaults> {
        let options = self.generation.options_of_one("row")?;
        let wording = self.wording.task.map(wording);
        let prompt = match &self.prompt {
            Some(prompt) => prompt.clone(),
            None if self.wording.task.is_none() && reads_text(model)? => Task::Caption.prompt("", &[])?,
            None => String::new(),
        };
        let Wording { task: _, choices, qformer_prompt } = &self.wording;
        let task = self.wording.task.map(|task| task.name().to_string());
        Ok(Defaults {
            prompt,
            qformer_prompt: qformer_prompt.clone(),
            choices: choices.clone(),
            options,
            wording,
            task,
        })
    }
}

/// The function that makes a prompt of a row's text by the wording of a task.
fn wording(task: Task) -> instructblip::jobs::Wording {
    Box::new(move |text: &str, choices: &[String]| {
        let listed: Vec<&str> = choices.iter().map(String::as_str).collect();
        // Words that were read in a picture are no answers.
        let scored = if task == Task::VqaOcr { Vec::new() } else { choices.to_vec() };
        Ok(Worded { prompt: task.prompt(text, &listed)?, choices: scored })
    })
}

/// The parts that rows were completed with, as a job's manifest keeps them.
///
/// # Errors
/// [`Error::Request`] for those of another version.
pub fn recorded(defaults: &Value) -> Result<Defaults> {
    let Recorded { prompt, qformer_prompt, choices, params, task } = Recorded::deserialize(defaults)
        .map_err(|_| Error::Request { problem: "the manifest is of another version of this program".into() })?;
    let wording = task.as_ref().and_then(|name| Task::named(name)).map(wording);
    Ok(Defaults { prompt, qformer_prompt, choices, options: params, wording, task })
}

/// The manifest's parts.
#[derive(Deserialize)]
struct Recorded {
    prompt: String,
    qformer_prompt: Option<String>,
    choices: Vec<String>,
    params: GenerateOptions,
    task: Option<String>,
}

/// True if the model was taught instructions; BLIP-2 describes pictures by itself.
fn reads_text(model: &Model) -> Result<bool> {
    let checkpoint = match &model.model {
        Some(name) => {
            let Chosen { checkpoint, .. } = chosen(name, model.lora.as_deref())?;
            checkpoint
        }
        None => embedded()?,
    };
    // What is wrong with it is told by who loads it.
    let config = checkpoint.read(CONFIG)?.and_then(|bytes| Config::parse(Path::new(CONFIG), &bytes).ok());
    Ok(config.is_none_or(|config| config.qformer_reads_text()))
}
