//! One answer on the host: the prompt as the rules see it, the tokens so far, and what chooses the next one.

use super::limits::{FinishReason, Limits};
use super::logprobs::TokenLogprob;
use super::options::GenerateOptions;
use super::processors::Processors;
use super::scores::Scores;
use super::session::PromptInputs;

/// A prompt, and the tokens of it that rules which look back see.
pub struct Prompted<'a> {
    /// The ids and features that the model reads.
    pub inputs: PromptInputs<'a>,
    /// The prompt's ids, or T5's start token.
    pub history: Vec<u32>,
    /// The index in `history` of the first token that penalties count.
    pub counted: usize,
}

impl Prompted<'_> {
    /// Tokens of the prompt.
    pub(super) fn tokens(&self) -> u32 {
        self.inputs.ids.len() as u32
    }

    /// The processors of `options` for answers to this prompt.
    pub(super) fn processors(&self, options: &GenerateOptions, limits: &Limits) -> Processors {
        Processors::new(options, limits, self.history.len())
    }
}

/// A finished answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequence {
    /// New tokens; an end-of-text token is the last one.
    pub token_ids: Vec<u32>,
    /// The log-probability of each new token, where they are wanted; else none.
    pub logprobs: Vec<TokenLogprob>,
    /// The score beams are ranked by; `None` without beams.
    pub score: Option<f32>,
    /// The reason why it ended.
    pub finish_reason: FinishReason,
}

/// A row of the decode step whose tokens are not searched for with beams.
pub(super) struct Row {
    /// The prompt's history, then the new tokens.
    tokens: Vec<u32>,
    prompt_len: usize,
    counted: usize,
    processors: Processors,
    random: fastrand::Rng,
    logprobs: Vec<TokenLogprob>,
}

impl Row {
    /// A row that continues `prompt`, drawing from the numbers that `seed` starts.
    pub fn new(prompt: &Prompted<'_>, processors: Processors, seed: u64) -> Row {
        Row {
            tokens: prompt.history.clone(),
            prompt_len: prompt.history.len(),
            counted: prompt.counted,
            processors,
            random: fastrand::Rng::with_seed(seed),
            logprobs: Vec::new(),
        }
    }

    /// The rules for the row's tokens.
    pub fn processors(&self) -> &Processors {
        &self.processors
    }

    /// Tells whether the largest score is the next token's, as it comes from the model.
    pub fn takes_largest(&self) -> bool {
        self.processors.are_idle(self.new_tokens().len())
    }

    /// The row's answer so far.
    pub fn new_tokens(&self) -> &[u32] {
        &self.tokens[self.prompt_len..]
    }

    /// The log-probability of each new token, where they are wanted; else none.
    pub fn logprobs(&self) -> &[TokenLogprob] {
        &self.logprobs
    }

    /// Appends a token that the device has chosen.
    pub fn push(&mut self, token: u32) {
        self.tokens.push(token);
    }

    /// Chooses the next token from its scores and appends it.
    pub fn choose(&mut self, scores: &mut Scores) -> u32 {
        let logprobs = scores.logprobs(&self.processors);
        let token = scores.choose(&self.processors, &self.tokens, self.counted, &mut self.random);
        self.tokens.push(token);
        self.logprobs.extend(logprobs.map(|all| all.of(token)));
        token
    }
}
