//! Checks before anything is timed.

use super::prompt::Prompt;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::generate::session::{Placed, Request};
use crate::generate::{Capacity, GenerateOptions, Limits, PromptInputs, Prompted, Room, Session, Slots};
use crate::language::Language;
use crate::model::{InstructBlip, LoadOptions};
use crate::processor::Image;
use crate::runtime::{Device, Tensor};
use crate::weights::Formats;

/// Tokens that are generated one by one and then all at once.
const CHECKED_TOKENS: u32 = 8;

/// The embedded model's answer to a recorded question.
pub fn answer(device: &Device, embedded: &Checkpoint, formats: Formats) -> Result<()> {
    let bytes = include_bytes!("../../../tests/shapes/samples/11.png");
    let image = Image::decode("11.png", bytes)?;
    let options = LoadOptions { formats, ..LoadOptions::default() };
    let mut model = InstructBlip::load_with(device, embedded, &options)?;
    let reply = model.ask(&image, "Which is the smallest shape?", &GenerateOptions::default())?;
    match reply.text.as_str() {
        "green star" => Ok(()),
        other => Err(incorrect(format!("the embedded model answers {other:?} where green star is right"))),
    }
}

/// Every value is a number.
pub fn finite(device: &Device, tensor: &Tensor, stage: &str) -> Result<()> {
    match device.read::<f32>(tensor)?.iter().all(|v| v.is_finite()) {
        true => Ok(()),
        false => Err(incorrect(format!("{stage} gives values that are not finite"))),
    }
}

/// The refusal to time a model that is wrong.
pub fn incorrect(problem: String) -> Error {
    Error::Incorrect { what: "before anything is timed".into(), problem }
}

/// Decoding step by step gives what one long prompt gives.
pub fn decoding(device: &Device, language: &Language, features: &[f32], prompt: &Prompt) -> Result<()> {
    let left = language.max_positions().map_or(u32::MAX, |context| context - prompt.len());
    let count = left.min(CHECKED_TOKENS);
    let need = Capacity::of(&[Room::of(language, prompt.len(), 1, count)]);
    let mut slots = Slots::new(Session::new(device, language, need)?);
    let prompted = Prompted { inputs: prompt.inputs(features), history: prompt.ids.clone(), counted: 0 };
    let limits = Limits::new(count, &[]);
    let tokens = slots.start(language, &prompted, &GenerateOptions::default(), limits)?;
    let generated = tokens.collect::<Result<Vec<u32>, _>>()?;
    // All that was said at once: after the prompt, or by T5's decoder after its first token.
    let said = &generated[..generated.len() - 1];
    let decoder_ids = language.decoder_start().map_or(Vec::new(), |start| [&[start], said].concat());
    let whole = if decoder_ids.is_empty() { [&prompt.ids, said].concat() } else { prompt.ids.clone() };
    let rows = if decoder_ids.is_empty() { whole.len() } else { decoder_ids.len() };
    let inputs = PromptInputs { ids: &whole, features };
    let placed = Placed::first(language, whole.len() as u32, &decoder_ids);
    let request = Request { rows: rows as u32, decoder_ids: &decoder_ids, ..Request::default() };
    let pass = slots.session().prefill(language, &inputs, &placed, request)?;
    pass.submit()?;
    tokens_are_likeliest(&device.read(&pass.logits)?, pass.logits.cols() as usize, rows - generated.len(), &generated)
}

/// Each token generated step by step is the largest logit, or all but it, of everything run at once, whose row `first`
/// gives the first token.
fn tokens_are_likeliest(logits: &[f32], columns: usize, first: usize, generated: &[u32]) -> Result<()> {
    for (i, &token) in generated.iter().enumerate() {
        let row = &logits[(first + i) * columns..][..columns];
        let (low, high) = row.iter().fold((f32::MAX, f32::MIN), |(low, high), &v| (low.min(v), high.max(v)));
        if !row.iter().all(|v| v.is_finite()) {
            return Err(incorrect("the language model gives values that are not finite".into()));
        }
        let short = (high - row[token as usize]) / (high - low);
        if short > 1e-4 {
            return Err(incorrect(format!("token {i} of the answer is {short:e} of the range below the best")));
        }
    }
    Ok(())
}
