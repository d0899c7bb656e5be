//! Options for rows that do not say what they ask, which `batch` and `worker` share.

use std::path::Path;

use anyhow::Result;
use clap::Args;
use instructblip::checkpoint::names::CONFIG;
use instructblip::config::Config;
use instructblip::jobs::{Defaults, Worded};
use instructblip::processor::Task;

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
        let options = self.generation.options();
        options.check()?;
        let wording = self.wording.task.map(|task| {
            let word = move |text: &str, choices: &[String]| {
                let listed: Vec<&str> = choices.iter().map(String::as_str).collect();
                // Words that were read in a picture are no answers.
                let scored = if task == Task::VqaOcr { Vec::new() } else { choices.to_vec() };
                Ok(Worded { prompt: task.prompt(text, &listed)?, choices: scored })
            };
            Box::new(word) as instructblip::jobs::Wording
        });
        let prompt = match &self.prompt {
            Some(prompt) => prompt.clone(),
            None if self.wording.task.is_none() && reads_text(model)? => Task::Caption.prompt("", &[])?,
            None => String::new(),
        };
        let Wording { task: _, choices, qformer_prompt } = &self.wording;
        Ok(Defaults { prompt, qformer_prompt: qformer_prompt.clone(), choices: choices.clone(), options, wording })
    }
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
