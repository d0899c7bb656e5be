//! The log-probabilities that are told with a token.

use super::processors::{best, log_softmax};

/// A new token, its log-probability, and the likeliest tokens in its place.
///
/// They are the model's own: the log-softmax of its logits (of f32, their sum in f64), before any penalty, ban, beginning
/// or temperature. So the token need not be among the likeliest.
///
/// Reference: `compute_transition_scores(sequences, logits, normalize_logits=True)` of the `logits` that `generate` gives
/// with `output_logits=True`.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub token_id: u32,
    /// Its log-probability.
    pub logprob: f32,
    /// The likeliest tokens and their log-probabilities, likeliest first, and the lowest id first among equals.
    pub top: Vec<(u32, f32)>,
}

/// The log-probabilities of all tokens in one place of an answer, of which the `wanted` likeliest are told.
pub(super) struct Logprobs {
    all: Vec<f32>,
    wanted: u32,
}

impl Logprobs {
    /// The log-probabilities that the model's `logits` say.
    pub fn new(logits: &[f32], wanted: u32) -> Logprobs {
        Logprobs { all: log_softmax(logits), wanted }
    }

    /// The part of them that is told with `token`.
    pub fn of(&self, token: u32) -> TokenLogprob {
        let likeliest = best(self.wanted as usize, self.all.len(), |id| self.all[id]);
        let top = likeliest.into_iter().map(|id| (id as u32, self.all[id])).collect();
        TokenLogprob { token_id: token, logprob: self.all[token as usize], top }
    }
}
