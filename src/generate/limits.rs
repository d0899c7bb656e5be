//! The limits of an answer: what ends it, and what it may say; and the end of the context.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The reason why generation ended.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model produced an end-of-text token.
    Eos,
    /// The text has a stop string.
    Stop,
    /// The most tokens asked for, or the end of the context, was reached.
    Length,
    /// Whoever asked did not wait for the rest.
    Stopped,
}

impl FinishReason {
    /// The reason as a word: `eos`, `stop`, `length`, `stopped`.
    pub fn name(self) -> &'static str {
        match self {
            FinishReason::Eos => "eos",
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Stopped => "stopped",
        }
    }
}

/// A function that says whether the text of new tokens has a stop string.
pub type HasStop = Arc<dyn Fn(&[u32]) -> bool + Send + Sync>;

/// The limits of an answer.
#[derive(Clone)]
pub struct Limits {
    /// Most new tokens.
    pub max_new_tokens: u32,
    /// End-of-text ids.
    pub eos: Vec<u32>,
    /// The test for stop strings; `None` if there are none.
    pub has_stop: Option<HasStop>,
    /// Tokens that the answer begins with.
    pub prefix: Vec<u32>,
    /// Runs of tokens that it may not have.
    pub bad_words: Vec<Vec<u32>>,
}

impl Limits {
    /// Limits of at most `max_new_tokens` tokens, ending at any of `eos`.
    pub fn new(max_new_tokens: u32, eos: &[u32]) -> Limits {
        Limits { max_new_tokens, eos: eos.to_vec(), has_stop: None, prefix: Vec::new(), bad_words: Vec::new() }
    }

    /// The reason why an answer of these tokens is finished; `None` if it is not.
    pub(super) fn reason(&self, tokens: &[u32]) -> Option<FinishReason> {
        let stopped = || self.has_stop.as_ref().is_some_and(|has_stop| has_stop(tokens));
        match tokens.last() {
            Some(last) if self.eos.contains(last) => Some(FinishReason::Eos),
            _ if stopped() => Some(FinishReason::Stop),
            _ if tokens.len() >= self.max_new_tokens as usize => Some(FinishReason::Length),
            _ => None,
        }
    }
}

/// Longest prompt in one recording: its rows times any width are counted in 32 bits.
pub const MAX_PROMPT_TOKENS: u32 = 16_384;

/// The number of tokens, at most `wanted`, that fit after a prompt of `prompt` tokens in a context of `context`.
///
/// # Errors
/// [`Error::PromptTooLong`] when not a single one does.
pub fn new_tokens_that_fit(prompt: usize, context: Option<u32>, wanted: u32) -> Result<u32> {
    check_fits(prompt + 1, context)?;
    let left = |context: u32| context - prompt as u32;
    Ok(context.map_or(wanted, |context| wanted.min(left(context))))
}

/// Refuses more positions than the context has.
///
/// # Errors
/// [`Error::PromptTooLong`].
pub fn check_fits(need: usize, context: Option<u32>) -> Result<()> {
    let have = context.map_or(MAX_PROMPT_TOKENS, |context| MAX_PROMPT_TOKENS.min(context)) as usize;
    match need <= have {
        true => Ok(()),
        false => Err(Error::PromptTooLong { what: "the language model's context", need, have }),
    }
}
