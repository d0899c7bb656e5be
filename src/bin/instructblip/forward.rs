//! `instructblip forward`: every stage's tensors in a file, for whoever compares implementations.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use instructblip::model::{ForwardOptions, Values, Workload};
use instructblip::{Image, Question};

use crate::common::{Common, Gpu};
use crate::files::{check_is_no_input, check_target, write_tensors};
use crate::options::Model;
use crate::progress::say;
use crate::session::{check_order, load_model, note_empty_prompt, note_unread_words, say_last};

/// Arguments of `forward`.
#[derive(Args, Debug)]
pub struct Forward {
    /// The picture, or - for standard input
    pub image: PathBuf,
    /// The question or instruction
    pub prompt: String,
    /// File to write
    #[arg(long, short, value_name = "OUT.safetensors")]
    pub output: PathBuf,
    /// Labels of further outputs to write (of the last frame), for example vision_model.encoder.layers.0.mlp.fc1
    #[arg(long, value_name = "LABEL,…", value_delimiter = ',')]
    pub taps: Vec<String>,
    /// Ids that T5's decoder reads, for logits of more than its first token
    #[arg(long, value_name = "ID,…", value_delimiter = ',')]
    pub decoder_input_ids: Vec<u32>,
    /// Wanted tokens, for the loss: one for each of the prompt's, or for T5 of the answer's; -100 does not count
    #[arg(long, value_name = "ID,…", value_delimiter = ',', allow_hyphen_values = true)]
    pub labels: Vec<i64>,
    /// Further frames, for video models; may be repeated
    #[arg(long = "image", value_name = "FRAME")]
    pub frames: Vec<PathBuf>,
    /// The text that the Q-Former reads instead of the prompt
    #[arg(long, value_name = "TEXT")]
    pub qformer_prompt: Option<String>,
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub gpu: Gpu,
}

pub fn run(common: &Common, forward: &Forward) -> Result<()> {
    check_target(&forward.output)?;
    check_order(&forward.image, &forward.prompt)?;
    check_is_no_input(&forward.output, std::iter::once(&forward.image).chain(&forward.frames))?;
    let paths = std::iter::once(&forward.image).chain(&forward.frames);
    let images = paths
        .map(|path| forward.model.picture_options.read(common, path))
        .collect::<instructblip::Result<Vec<Image>>>()?;
    let mut model = load_model(common, &forward.model, Workload::default())?;
    note_empty_prompt(common, &model, &forward.prompt);
    note_unread_words(common, &model, forward.qformer_prompt.as_deref().unwrap_or_default());
    let qformer_prompt = forward.qformer_prompt.as_deref();
    let question = Question { images: &images, prompt: &forward.prompt, qformer_prompt };
    let options = ForwardOptions {
        taps: forward.taps.clone(),
        decoder_input_ids: forward.decoder_input_ids.clone(),
        labels: forward.labels.clone(),
    };
    let tensors = model.forward(&question, &options)?;
    let about = HashMap::from([
        ("prompt".to_string(), forward.prompt.clone()),
        ("model".to_string(), model.name().to_string()),
        ("device".to_string(), model.device().name().to_string()),
        ("program".to_string(), concat!("instructblip ", env!("CARGO_PKG_VERSION")).to_string()),
    ]);
    write_tensors(&forward.output, &tensors, about)?;
    forward.model.overrides.tell_unused(common, model.device());
    if !common.quiet {
        for tensor in &tensors {
            match (&tensor.values, tensor.name.as_str()) {
                (Values::F32(values), "loss") => say(&format!("loss {}", values[0])),
                _ => say(&format!("{} {:?}", tensor.name, tensor.shape)),
            }
        }
    }
    say_last(common, &model, "");
    Ok(())
}
