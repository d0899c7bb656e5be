//! Answers as OpenAI's clients read them.

use std::sync::Arc;
use std::time::Instant;

use instructblip::generate::TokenLogprob;
use instructblip::model::AnswerText;
use instructblip::processor::Tokenizers;
use instructblip::{FinishReason, Reply};
use serde_json::{Value, json};

use super::cut::Cut;
use super::logprobs;
use super::options::Options;
use crate::serve::line::random_id;
use crate::serve::served::{Ready, now};
use crate::session::tokens_per_second;

/// The parts of an answer that are known before it is made.
#[derive(Debug)]
pub struct Head {
    id: String,
    created: u64,
    model: String,
    pub options: Options,
    pub since: Instant,
    tokenizers: Arc<Tokenizers>,
}

impl Head {
    pub fn new(ready: &Ready, options: Options) -> Head {
        Head {
            id: format!("chatcmpl-{}", random_id()),
            created: now(),
            model: ready.about.model.clone(),
            options,
            since: Instant::now(),
            tokenizers: ready.tokenizers.clone(),
        }
    }

    /// The whole answer.
    pub fn whole(&self, reply: &Reply) -> Value {
        let choice = |(index, answer): (usize, &AnswerText)| {
            json!({
                "index": index,
                "message": {
                    "role": "assistant", "content": Cut::whole(&self.options.stops, &answer.text), "refusal": null,
                    "annotations": [],
                },
                "logprobs": self.logprobs(self.kept(answer)),
                "finish_reason": finish_reason(answer.finish_reason),
            })
        };
        let choices: Vec<Value> = self.answers(reply).enumerate().map(choice).collect();
        json!({
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": fingerprint(),
            "choices": choices,
            "usage": self.usage(reply),
            "timings": self.timings(reply),
        })
    }

    /// The answers that are wanted: where tokens are not drawn, the same several times.
    pub fn answers<'a>(&self, reply: &'a Reply) -> impl Iterator<Item = &'a AnswerText> {
        let copies = self.options.copies();
        reply.sequences.iter().flat_map(move |answer| std::iter::repeat_n(answer, copies))
    }

    /// The tokens of an answer's text, up to where it is cut.
    pub fn kept<'a>(&self, answer: &'a AnswerText) -> &'a [TokenLogprob] {
        &answer.logprobs[..logprobs::kept(&self.tokenizers, &answer.logprobs, &self.options.stops)]
    }

    /// The log-probabilities of tokens, where they are wanted.
    fn logprobs(&self, tokens: &[TokenLogprob]) -> Value {
        match self.options.generate.logprobs {
            Some(_) if !tokens.is_empty() => logprobs::told(&self.tokenizers, tokens),
            _ => Value::Null,
        }
    }

    /// A piece of a stream: what `index` has got new, with its tokens' log-probabilities, and why it ended if it did.
    pub fn piece(&self, index: usize, delta: Value, tokens: &[TokenLogprob], finish: Option<FinishReason>) -> Value {
        let (logprobs, finish) = (self.logprobs(tokens), finish.map(finish_reason));
        self.chunk(vec![json!({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish})])
    }

    /// A piece of a stream with these choices.
    pub fn chunk(&self, choices: Vec<Value>) -> Value {
        let mut chunk = json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": fingerprint(),
            "choices": choices,
        });
        if self.options.usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    pub fn usage(&self, reply: &Reply) -> Value {
        let made: usize = self.answers(reply).map(|answer| answer.token_ids.len()).sum();
        let prompt = reply.prompt_tokens;
        json!({"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made})
    }

    /// The times of an answer on the GPU, waiting for others not counted, and from the request on.
    pub fn timings(&self, reply: &Reply) -> Value {
        json!({
            "first_token_ms": reply.timings.first_token(),
            "total_ms": self.since.elapsed().as_secs_f64() * 1000.0,
            "tokens_per_second": tokens_per_second(reply),
        })
    }
}

fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Length => "length",
        _ => "stop",
    }
}

fn fingerprint() -> &'static str {
    concat!("instructblip-", env!("CARGO_PKG_VERSION"))
}
