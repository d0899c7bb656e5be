//! The results of a model: answers as they come and when they are done, timings, tensors.

use std::time::Instant;

use serde_json::{Value, json};

use crate::error::Result;
use crate::generate::{FinishReason, TokenLogprob, Tokens};
use crate::processor::{Prompt, StreamDecoder};

/// Wall time of each stage in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timings {
    /// Reading and uploading the weights, once per model.
    pub load: f64,
    /// Resizing and normalising the picture.
    pub image: f64,
    /// The vision tower.
    pub vision: f64,
    /// The Q-Former and the projection.
    pub qformer: f64,
    /// The prompt through the language model, up to the first token.
    pub prefill: f64,
    /// All tokens after the first.
    pub decode: f64,
}

impl Timings {
    /// Milliseconds from the picture to the first token, in which the weights were there already.
    pub fn first_token(&self) -> f64 {
        self.image + self.vision + self.qformer + self.prefill
    }
}

/// Milliseconds of wall time since then.
pub(super) fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

/// One answer to a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct AnswerText {
    /// The text without special tokens, trimmed.
    pub text: String,
    /// The new tokens only; an end-of-text token is the last one.
    pub token_ids: Vec<u32>,
    /// The log-probability of each of them, where [`GenerateOptions::logprobs`](crate::GenerateOptions::logprobs) wants
    /// them; else none.
    pub logprobs: Vec<TokenLogprob>,
    /// The score that beams are ranked by; `None` without beams.
    pub score: Option<f32>,
    /// The reason why the answer ended.
    pub finish_reason: FinishReason,
}

/// The finished answers to a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// The text of the first answer, without special tokens, trimmed.
    pub text: String,
    /// The first answer's new tokens; an end-of-text token is the last one.
    pub token_ids: Vec<u32>,
    /// The reason why the first answer ended.
    pub finish_reason: FinishReason,
    /// All answers, `num_return_sequences` of them, best first.
    pub sequences: Vec<AnswerText>,
    /// Tokens in the prompt, image placeholders included.
    pub prompt_tokens: usize,
    /// Wall time by stage. In a batch, of the whole batch.
    pub timings: Timings,
}

impl Reply {
    pub(super) fn new(sequences: Vec<AnswerText>, prompt_tokens: usize, timings: Timings) -> Reply {
        let first = &sequences[0];
        Reply {
            text: first.text.clone(),
            token_ids: first.token_ids.clone(),
            finish_reason: first.finish_reason,
            prompt_tokens,
            timings,
            sequences,
        }
    }

    /// The reply of a model on a device, both in words, as JSON: what the program and the C interface give. Sequences have
    /// `logprobs` where they were wanted.
    pub fn to_json(&self, model: &str, device: &str) -> Value {
        let sequence = |s: &AnswerText| {
            let finish_reason = s.finish_reason.name();
            let mut object =
                json!({"text": s.text, "token_ids": s.token_ids, "score": s.score, "finish_reason": finish_reason});
            if !s.logprobs.is_empty() {
                let told = |t: &TokenLogprob| json!({"token_id": t.token_id, "logprob": t.logprob, "top": t.top});
                object["logprobs"] = s.logprobs.iter().map(told).collect();
            }
            object
        };
        let Timings { load, image, vision, qformer, prefill, decode } = self.timings;
        json!({
            "text": self.text,
            "token_ids": self.token_ids,
            "finish_reason": self.finish_reason.name(),
            "sequences": self.sequences.iter().map(sequence).collect::<Vec<Value>>(),
            "prompt_tokens": self.prompt_tokens,
            "model": model,
            "device": device,
            "timings_ms": {
                "load": load, "image": image, "vision": vision, "qformer": qformer, "prefill": prefill,
                "decode": decode,
            },
        })
    }
}

/// A tensor brought back from the device, or an input as the model saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// The reference's name for it, or the tapped label.
    pub name: String,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Elements, row by row.
    pub values: Values,
}

/// The elements of a [`NamedTensor`].
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Activations.
    F32(Vec<f32>),
    /// Ids and masks.
    I32(Vec<i32>),
}

/// An answer being generated: an iterator over pieces of text, never half a character.
pub struct Answer<'a> {
    pub(super) tokens: Tokens<'a>,
    pub(super) decoder: Option<StreamDecoder>,
    pub(super) token_ids: Vec<u32>,
    pub(super) text: String,
    pub(super) prompt_tokens: usize,
    pub(super) timings: Timings,
    pub(super) started: Instant,
}

impl Answer<'_> {
    /// The tokens so far.
    pub fn token_ids(&self) -> &[u32] {
        &self.token_ids
    }

    /// Tokens in the prompt, image placeholders included.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    /// The whole answer; what was not iterated over is left out.
    pub fn into_reply(mut self) -> Reply {
        let answer = AnswerText {
            text: self.text.trim().to_string(),
            finish_reason: self.tokens.finish_reason().unwrap_or(FinishReason::Stopped),
            token_ids: self.token_ids,
            logprobs: self.tokens.take_logprobs(),
            score: None,
        };
        Reply::new(vec![answer], self.prompt_tokens, self.timings)
    }

    fn piece(&mut self, token: u32) -> String {
        let first = self.token_ids.is_empty();
        let elapsed = milliseconds(self.started);
        match first {
            true => self.timings.prefill = elapsed,
            false => self.timings.decode = elapsed - self.timings.prefill,
        }
        self.token_ids.push(token);
        self.decoder.as_mut().map_or(String::new(), |decoder| decoder.push(token))
    }
}

impl Iterator for Answer<'_> {
    type Item = Result<String>;

    /// The next piece of text: empty pieces are skipped, so one step may take several tokens.
    fn next(&mut self) -> Option<Result<String>> {
        loop {
            let piece = match self.tokens.next() {
                Some(Ok(token)) => self.piece(token),
                Some(Err(e)) => return Some(Err(e)),
                None => self.decoder.take()?.finish(),
            };
            if !piece.is_empty() {
                self.text.push_str(&piece);
                return Some(Ok(piece));
            }
        }
    }
}

impl NamedTensor {
    /// The rows of an f32 tensor: its last dimension; nothing of others.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        let values = match &self.values {
            Values::F32(values) => values.as_slice(),
            Values::I32(_) => &[],
        };
        values.chunks(self.shape.last().copied().unwrap_or(1).max(1))
    }

    pub(super) fn f32(name: &str, shape: &[usize], values: Vec<f32>) -> NamedTensor {
        NamedTensor { name: name.into(), shape: shape.into(), values: Values::F32(values) }
    }
}

impl Prompt {
    /// Ids and masks as the reference names them, `[1, L]` of i32.
    pub(super) fn named(&self) -> Vec<NamedTensor> {
        let ids = [
            ("input_ids", &self.input_ids),
            ("attention_mask", &self.attention_mask),
            ("qformer_input_ids", &self.qformer_input_ids),
            ("qformer_attention_mask", &self.qformer_attention_mask),
        ];
        let named = |(name, ids): (&str, &Vec<u32>)| NamedTensor {
            name: name.into(),
            shape: vec![1, ids.len()],
            values: Values::I32(ids.iter().map(|&id| id as i32).collect()),
        };
        ids.into_iter().map(named).collect()
    }
}
