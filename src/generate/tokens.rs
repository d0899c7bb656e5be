//! One answer, token after token as they come.

use super::limits::{FinishReason, Limits};
use super::options::GenerateOptions;
use super::row::{Prompted, Row};
use super::scores::{Scores, check_finite};
use super::session::{Placed, Request, Session};
use crate::error::Result;
use crate::language::Language;
use crate::runtime::plan::Plan;

/// The side that takes the next token: device or host.
enum Chooser {
    /// The device takes the likeliest one.
    Device {
        /// The plan of the prompt, until its token was read.
        prefill: Option<Box<Plan>>,
        submitted: u32,
    },
    /// The host takes one by its scores.
    Host { row: Box<Row>, scores: Scores },
}

/// The tokens of one answer, in order; the end-of-text token is the last one.
pub struct Tokens<'a> {
    session: &'a Session,
    chooser: Chooser,
    tokens: Vec<u32>,
    limits: Limits,
    finish: Option<FinishReason>,
    failed: bool,
}

impl Session {
    /// Starts generating one answer after `prompt`, token by token; its options are not for beams.
    ///
    /// # Errors
    /// Whatever went wrong on the GPU.
    pub fn start<'a>(
        &'a self,
        language: &Language,
        prompt: &Prompted<'_>,
        options: &GenerateOptions,
        limits: Limits,
    ) -> Result<Tokens<'a>> {
        let placed = Placed::in_order(language, &[prompt.tokens()])[0];
        let processors = prompt.processors(options, &limits);
        let request = Request { choose: true, ..Request::last_row() };
        let mut prefill = self.prefill(language, &prompt.inputs, placed, request)?;
        self.continue_from(&[placed]);
        let on_device = processors.are_idle();
        if on_device {
            prefill.plan = prefill.plan.with_token(self.token())?;
        }
        prefill.submit()?;
        let logits = self.device().read(&prefill.logits)?;
        check_finite(&logits)?;
        let chooser = match on_device {
            true => Chooser::Device { prefill: Some(Box::new(prefill.plan)), submitted: 1 },
            false => {
                let row = Box::new(Row::new(prompt, processors, options.seed));
                Chooser::Host { row, scores: Scores::of_all(logits) }
            }
        };
        Ok(Tokens { session: self, chooser, tokens: Vec::new(), limits, finish: None, failed: false })
    }
}

impl Tokens<'_> {
    /// The reason why generation ended; `None` while it goes on.
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.finish
    }

    fn advance(&mut self) -> Result<u32> {
        let session = self.session;
        let read = self.tokens.len() as u32;
        let token = match &mut self.chooser {
            Chooser::Device { prefill, submitted } => {
                // The next step goes to the device before this one's token is waited for.
                if *submitted < self.limits.max_new_tokens {
                    session.submit(*submitted - 1)?;
                    *submitted += 1;
                }
                prefill.take().as_deref().unwrap_or(session.decode_plan()).read_token()?
            }
            Chooser::Host { row, scores } => {
                if read > 0 {
                    session.write_tokens(&self.tokens[read as usize - 1..]);
                    session.submit(read - 1)?;
                    *scores = Scores::read(session, &[row.processors()])?.swap_remove(0);
                }
                row.choose(scores)
            }
        };
        self.tokens.push(token);
        self.finish = self.limits.reason(&self.tokens);
        Ok(token)
    }
}

impl Iterator for Tokens<'_> {
    type Item = Result<u32>;

    fn next(&mut self) -> Option<Result<u32>> {
        if self.finish.is_some() || self.failed || self.limits.max_new_tokens == 0 {
            return None;
        }
        let token = self.advance();
        self.failed = token.is_err();
        Some(token)
    }
}

impl Drop for Tokens<'_> {
    fn drop(&mut self) {
        // The session's next answer must not find this one's tokens. An error here will show again there.
        let _ = self.session.decode_plan().drain_tokens();
    }
}
