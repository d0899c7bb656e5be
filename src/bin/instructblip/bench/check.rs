//! What has to be right before anything is timed.

use anyhow::{Result, ensure};
use instructblip::generate::session::Request;
use instructblip::generate::{GenerateOptions, Limits, PromptInputs, Prompted, Room, Session};
use instructblip::language::Language;
use instructblip::model::LoadOptions;
use instructblip::runtime::{Category, Tensor};
use instructblip::weights::Formats;
use instructblip::{Checkpoint, Device, Image, InstructBlip};

use super::prompt::Prompt;

/// Tokens that are generated one by one and then all at once.
const CHECKED_TOKENS: u32 = 8;

/// The embedded model's answer to a recorded question.
pub fn answer(device: &Device, embedded: &Checkpoint, formats: Formats) -> Result<()> {
    let bytes = include_bytes!("../../../../tests/shapes/samples/11.png");
    let image = Image::decode("11.png", bytes)?;
    let options = LoadOptions { formats, ..LoadOptions::default() };
    let mut model = InstructBlip::load_with(device, embedded, &options, &mut |_, _| {})?;
    let reply = model.ask(&image, "Which is the smallest shape?", &GenerateOptions::default())?;
    ensure!(reply.text == "green star", "the embedded model answers {:?} where green star is right", reply.text);
    Ok(())
}

/// Every value is a number.
pub fn finite(device: &Device, tensor: &Tensor, stage: &str) -> Result<()> {
    let finite = device.read::<f32>(tensor)?.iter().all(|v| v.is_finite());
    ensure!(finite, "{stage} gives values that are not finite");
    Ok(())
}

/// Decoding step by step gives what one long prompt gives.
pub fn decoding(device: &Device, language: &Language, features: &Tensor, prompt: &Prompt) -> Result<()> {
    let left = language.max_positions().map_or(u32::MAX, |context| context - prompt.len());
    let count = left.min(CHECKED_TOKENS);
    let room = Room::of(language, &[prompt.len()], 1, count);
    let session = Session::new(device, language, room)?;
    let prompted = Prompted { inputs: prompt.inputs(features), history: prompt.ids.clone(), counted: 0 };
    let limits = Limits::new(count, &[]);
    let tokens = session.start(language, &prompted, &GenerateOptions::default(), limits)?;
    let generated = tokens.collect::<Result<Vec<u32>, _>>()?;
    // All that was said at once: after the prompt, or by T5's decoder after its first token.
    let said = &generated[..generated.len() - 1];
    let decoder_ids = language.as_t5().map_or(Vec::new(), |t5| [&[t5.decoder_start_token_id()], said].concat());
    let whole = if decoder_ids.is_empty() { [&prompt.ids, said].concat() } else { prompt.ids.clone() };
    let rows = if decoder_ids.is_empty() { whole.len() } else { decoder_ids.len() };
    let ids = device.tensor(Category::Io, "ids", 1, whole.len() as u32, &whole)?;
    let inputs = PromptInputs { ids: &ids, ..prompt.inputs(features) };
    let placed = Session::place(language, &[ids.len()])[0];
    let request = Request { rows: rows as u32, decoder_ids: &decoder_ids, ..Request::default() };
    let pass = session.prefill(language, &inputs, placed, request)?;
    pass.submit()?;
    tokens_are_likeliest(&device.read(&pass.logits)?, pass.logits.cols() as usize, rows - generated.len(), &generated)
}

/// Each token generated step by step is the largest logit, or all but it, of everything run at once, whose row `first`
/// gives the first token.
fn tokens_are_likeliest(logits: &[f32], columns: usize, first: usize, generated: &[u32]) -> Result<()> {
    for (i, &token) in generated.iter().enumerate() {
        let row = &logits[(first + i) * columns..][..columns];
        let (low, high) = row.iter().fold((f32::MAX, f32::MIN), |(low, high), &v| (low.min(v), high.max(v)));
        ensure!(row.iter().all(|v| v.is_finite()), "the language model gives values that are not finite");
        let short = (high - row[token as usize]) / (high - low);
        ensure!(short <= 1e-4, "token {i} of the answer is {short:e} of the range below the best");
    }
    Ok(())
}
