//! Questions that an engine answers side by side. Their replies come in the order of the questions.

use std::collections::VecDeque;

use anyhow::Result;
use clap::Args;
use instructblip::engine::{Outcome, Request};
use instructblip::model::Workload;
use instructblip::{Engine, EngineOptions, Error, GenerateOptions, InstructBlip, Reply};

use crate::session::workload;

/// Questions that are asked, and whose pictures are read, before those in front of them have their replies.
const AHEAD: usize = 64;

/// The size of an engine.
#[derive(Args, Clone, Copy, Debug)]
pub struct Slots {
    /// Answers, or beams of one, that are made side by side; fewer take less memory. An answer may depend on it where two
    /// words are nearly equally likely
    #[arg(long, alias = "batch-size", value_name = "N", default_value_t = 8,
          value_parser = clap::value_parser!(u32).range(1..=256))]
    pub slots: u32,
}

impl Slots {
    /// The most work that as many questions ask for: a question with more beams than there are slots has the slots it needs,
    /// and one alone takes no memory for others.
    pub fn workload(self, options: &GenerateOptions, questions: usize, frames: usize) -> Workload {
        let batch = (self.slots / options.rows()).clamp(1, questions.clamp(1, 256) as u32);
        let at_once = batch.saturating_mul(frames as u32).min(EngineOptions::default().at_once);
        Workload { at_once, ..workload(options, batch, frames) }
    }
}

/// Tokens of a slot for work of this size, the places of the pictures included.
pub fn slot_tokens(model: &InstructBlip, most: &Workload) -> u32 {
    let places = model.config().num_query_tokens.saturating_mul(most.frames);
    most.prompt_tokens.saturating_add(places).saturating_add(most.new_tokens)
}

/// Has an engine answer `questions`, as many at once as `most` says, and gives the model back. `hear` is told each reply,
/// or why there is none, in the order of the questions.
///
/// # Errors
/// Those of starting an engine, and those of `hear`, after which nothing more is asked.
pub fn answer_all<T>(
    model: InstructBlip,
    most: &Workload,
    questions: Vec<T>,
    request: impl Fn(&T) -> Request,
    mut hear: impl FnMut(T, instructblip::Result<Reply>) -> Result<()>,
) -> Result<InstructBlip> {
    ask_all(model, most, questions, request, |question, outcome| {
        let reply = outcome.map(|outcome| match outcome {
            Outcome::Reply(reply) => *reply,
            Outcome::Scores(_) | Outcome::Features(_) => unreachable!("answers are asked for"),
        });
        hear(question, reply)
    })
}

/// Has an engine do what [`answer_all`] does, whatever is asked for.
///
/// # Errors
/// As [`answer_all`].
pub fn ask_all<T>(
    model: InstructBlip,
    most: &Workload,
    questions: Vec<T>,
    request: impl Fn(&T) -> Request,
    mut hear: impl FnMut(T, instructblip::Result<Outcome>) -> Result<()>,
) -> Result<InstructBlip> {
    let (slots, ahead) = (most.rows * most.batch, AHEAD + most.batch as usize);
    let tokens = tokens_for(&model, most, questions.iter().map(&request));
    let sizes = EngineOptions { slots, tokens, at_once: most.at_once, queue: ahead, ..EngineOptions::default() };
    let engine = Engine::start(model, &sizes)?;
    let (mut questions, mut asked) = (questions.into_iter(), VecDeque::new());
    loop {
        for question in questions.by_ref().take(ahead - asked.len()) {
            let pending = engine.submit(request(&question));
            asked.push_back((question, pending));
        }
        let Some((question, pending)) = asked.pop_front() else { return Ok(engine.finish()?) };
        let outcome = match pending.wait() {
            // Nobody here cancels: the engine is gone, and says why.
            Err(Error::Cancelled) => return Err(engine.finish().err().unwrap_or(Error::Cancelled).into()),
            outcome => outcome,
        };
        hear(question, outcome)?;
    }
}

/// Tokens that each slot gets: as many as were planned, more where the prompts are longer than that on average, and so many
/// that the longest of them has room among all slots.
fn tokens_for(model: &InstructBlip, most: &Workload, requests: impl Iterator<Item = Request>) -> u32 {
    let tokenizers = model.processor().tokenizers();
    let prompt_tokens = |request: Request| {
        let words = request.qformer_prompt.as_ref().unwrap_or(&request.prompt);
        // The engine tells what cannot be asked.
        tokenizers.encode(&request.prompt, words, request.pictures.len()).map_or(0, |prompt| prompt.input_ids.len())
    };
    let (mut all, mut count, mut longest) = (0, 0, 0);
    for tokens in requests.map(prompt_tokens) {
        (all, count, longest) = (all + tokens, count + 1, longest.max(tokens));
    }
    let usual = (all.div_ceil(count.max(1)) as u32).saturating_add(most.new_tokens);
    let alone = most.rows.saturating_mul(most.new_tokens).saturating_add(longest as u32);
    slot_tokens(model, most).max(usual).max(alone.div_ceil(most.rows * most.batch))
}
