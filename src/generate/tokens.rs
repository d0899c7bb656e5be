//! One answer, token after token as they come.

use std::collections::VecDeque;

use super::limits::{FinishReason, Limits};
use super::logprobs::TokenLogprob;
use super::options::GenerateOptions;
use super::row::Prompted;
use super::slots::{AnswerId, News, Slots};
use crate::error::Result;
use crate::language::Language;

/// The tokens of one answer, in order; the end-of-text token is the last one.
pub struct Tokens<'a> {
    slots: &'a mut Slots,
    id: AnswerId,
    news: VecDeque<News>,
    logprobs: Vec<TokenLogprob>,
    finish: Option<FinishReason>,
    failed: bool,
}

impl Slots {
    /// Starts generating one answer after `prompt`, token by token; its options are not for beams. There must be room for
    /// it, and nobody else's answer among the slots.
    ///
    /// # Errors
    /// Whatever went wrong on the GPU.
    pub fn start(
        &mut self,
        language: &Language,
        prompt: &Prompted<'_>,
        options: &GenerateOptions,
        limits: Limits,
    ) -> Result<Tokens<'_>> {
        let id = self.join(language, prompt, options, limits)?;
        Ok(Tokens { slots: self, id, news: VecDeque::new(), logprobs: Vec::new(), finish: None, failed: false })
    }
}

impl Tokens<'_> {
    /// The reason why generation ended; `None` while it goes on.
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.finish
    }

    /// Takes the log-probabilities of the tokens so far, where they are wanted.
    pub fn take_logprobs(&mut self) -> Vec<TokenLogprob> {
        std::mem::take(&mut self.logprobs)
    }

    fn advance(&mut self) -> Result<News> {
        loop {
            if let Some(news) = self.news.pop_front() {
                return Ok(news);
            }
            self.news.extend(self.slots.step()?);
        }
    }
}

impl Iterator for Tokens<'_> {
    type Item = Result<u32>;

    fn next(&mut self) -> Option<Result<u32>> {
        if self.finish.is_some() || self.failed {
            return None;
        }
        let news = self.advance();
        self.failed = news.is_err();
        let token = news.map(|news| {
            self.logprobs.extend(news.logprob);
            self.finish = news.finished.and_then(|sequences| Some(sequences.first()?.finish_reason));
            news.token.expect("an answer of one row has a newest token")
        });
        Some(token)
    }
}

impl Drop for Tokens<'_> {
    fn drop(&mut self) {
        self.slots.leave(self.id);
    }
}
