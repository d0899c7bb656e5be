//! `instructblip forward`: every stage's tensors in a file, for whoever compares implementations.

use std::collections::HashMap;

use anyhow::Result;
use instructblip::model::Workload;
use instructblip::model::{ForwardOptions, Values};
use instructblip::{Image, Question};

use crate::args::{Common, Forward};
use crate::files::{check_target, write_tensors};
use crate::progress::say;
use crate::session::{check_order, load_model, note_empty_prompt, say_last};

pub fn run(common: &Common, forward: &Forward) -> Result<()> {
    check_target(&forward.output)?;
    check_order(&forward.image, &forward.prompt)?;
    let paths = std::iter::once(&forward.image).chain(&forward.frames);
    let images = paths
        .map(|path| forward.model.picture_options.read(common, path))
        .collect::<instructblip::Result<Vec<Image>>>()?;
    let mut model = load_model(common, &forward.model, Workload::default())?;
    note_empty_prompt(common, &model, &forward.prompt);
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
