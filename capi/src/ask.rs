//! Asking, and scoring answers.

use std::ffi::c_char;

use instructblip::Error;
use instructblip::engine::{Event, Outcome, Request};
use instructblip::model::Score;
use serde_json::{Value, json};

use crate::arguments::{place, reference};
use crate::open::Model;
use crate::question::{Question, question};
use crate::results;
use crate::status::{Failure, Status, guard};

impl Model {
    /// Asks, and waits for the result. The question's callback hears of pieces, its canceller is heeded.
    ///
    /// # Safety
    /// The question's pointers are as its fields say.
    pub unsafe fn ask(&self, question: &Question, request: Request) -> Result<Outcome, Failure> {
        // SAFETY: the caller's promise.
        let canceller = unsafe { question.canceller() };
        let pending = self.engine().submit(request);
        let _listed = canceller.map(|canceller| canceller.list(pending.canceller())).transpose()?;
        let mut begun = false;
        for event in pending {
            match event {
                Ok(Event::Done(outcome)) => return Ok(outcome),
                Ok(Event::Text(piece)) => {
                    // Answers begin with the space between prompt and text.
                    let piece = if begun { piece.as_str() } else { piece.trim_start() };
                    begun |= !piece.is_empty();
                    // SAFETY: the caller's promise. Dropping what is pending cancels it.
                    unsafe { tell(question, piece)? };
                }
                Ok(Event::Token(_)) => {} // the result has them all
                // Nobody did: whoever answers is gone.
                Err(Error::Cancelled) if !canceller.is_some_and(|canceller| canceller.is_cancelled()) => break,
                Err(e) => return Err(self.failure(e)),
            }
        }
        Err(Error::DeviceLost { reason: "the model's thread has ended by a fault".into() }.into())
    }
}

/// Tells a piece of an answer.
///
/// # Safety
/// The question's callback may be called.
unsafe fn tell(question: &Question, piece: &str) -> Result<(), Error> {
    let Some(on_text) = question.on_text.filter(|_| !piece.is_empty()) else { return Ok(()) };
    // A NUL in the middle is the caller's to see: it is told the length.
    let mut text = Vec::from(piece);
    text.push(0);
    // SAFETY: the caller's promise; the text ends with a NUL and lives as long as the call.
    match unsafe { on_text(text.as_ptr().cast(), piece.len(), question.user) } {
        0 => Ok(()),
        _ => Err(Error::Cancelled),
    }
}

/// Asks, waits for the whole answer and gives it as a JSON object, to be freed with instructblip_text_free: "text",
/// "token_ids" and "finish_reason" ("eos", "stop" or "length") of the best answer; "sequences", all answers, each with
/// these and a "score" (null without beams), and, where the parameters want "logprobs", a list of them: each token's
/// "token_id", "logprob" and "top", pairs of a token and its log-probability; "prompt_tokens", "model", "device" and
/// "timings_ms".
///
/// Any thread may ask, several at once share the GPU's steps, and no answer depends on the others. `reply` may be NULL,
/// if `on_text` is enough.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn instructblip_ask(
    model: *const Model,
    question: *const Question,
    reply: *mut *mut c_char,
) -> Status {
    guard(|| {
        // SAFETY: the caller's pointers, as the header wants them.
        unsafe {
            let reply = if reply.is_null() { None } else { Some(place(reply, "reply")?) };
            let (model, question) = (reference(model, "model")?, self::question(question)?);
            let outcome = model.ask(question, question.request()?)?;
            if let (Some(reply), Outcome::Reply(answer)) = (reply, outcome) {
                *reply = results::json(&answer.to_json(model.name(), model.device()));
            }
        }
        Ok(())
    })
}

/// Says how likely each of the question's choices is as its answer, as a JSON array in the order of the choices, to
/// be freed with instructblip_text_free. Each has "choice", "mean_log_probability" (by token: what the paper ranks
/// by), "sum_log_probability", "token_ids" and "log_probabilities". `params` must be valid and change nothing;
/// `on_text` hears nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn instructblip_score(
    model: *const Model,
    question: *const Question,
    scores: *mut *mut c_char,
) -> Status {
    guard(|| {
        // SAFETY: the caller's pointers, as the header wants them.
        let (scores, model, question, request) = unsafe {
            let scores = place(scores, "scores")?;
            let (model, question) = (reference(model, "model")?, self::question(question)?);
            (scores, model, question, question.request()?)
        };
        // SAFETY: as above.
        let choices = unsafe { question.choices()? };
        if choices.is_empty() {
            return Err(Failure::request("there are no choices to score"));
        }
        let request = Request { choices: choices.iter().map(|choice| choice.to_string()).collect(), ..request };
        // SAFETY: as above.
        if let Outcome::Scores(found) = unsafe { model.ask(question, request)? } {
            let found: Vec<Value> = choices.iter().zip(&found).map(score_json).collect();
            *scores = results::json(&found.into());
        }
        Ok(())
    })
}

fn score_json((choice, score): (&&str, &Score)) -> Value {
    json!({
        "choice": choice, "mean_log_probability": score.mean, "sum_log_probability": score.sum,
        "token_ids": score.token_ids, "log_probabilities": score.log_probabilities,
    })
}
