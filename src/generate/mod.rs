//! Generation: a prompt through the language model once, then one token after another.
//!
//! The plain case, one likeliest token after another, never leaves the device: the chosen token stays in a buffer, where
//! the next step reads it, and the host reads it back one step later. Where a token is drawn from the few likeliest, the
//! device finds these, and the host draws. Everything else (penalties, beams, draws from all tokens) looks at all of a
//! step's logits on the host; either way it writes the tokens that the next step reads.

pub mod beam;
pub mod options;
pub mod processors;
pub mod scores;
pub mod session;

use std::rc::Rc;

pub use options::{EarlyStopping, GenerateOptions};
pub use session::{PromptInputs, Room, Session};

use crate::error::{Error, Result};
use crate::language::Language;
use crate::runtime::plan::Plan;
use beam::BeamSearch;
use processors::{Processors, log_softmax};
use scores::Scores;
use session::{Placed, Request};

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model produced an end-of-text token.
    Eos,
    /// The text has a stop string.
    Stop,
    /// The most tokens asked for, or the end of the context, was reached.
    Length,
}

/// Says whether the text of new tokens has a stop string.
pub type HasStop = Rc<dyn Fn(&[u32]) -> bool>;

/// What ends an answer.
#[derive(Clone)]
pub struct Limits {
    /// Most new tokens.
    pub max_new_tokens: u32,
    /// End-of-text ids.
    pub eos: Vec<u32>,
    /// Whether the text of these new tokens has a stop string; `None` if there are no stop strings.
    pub has_stop: Option<HasStop>,
}

impl Limits {
    /// At most `max_new_tokens`, ending at any of `eos`.
    pub fn new(max_new_tokens: u32, eos: &[u32]) -> Limits {
        Limits { max_new_tokens, eos: eos.to_vec(), has_stop: None }
    }

    /// Why an answer of these tokens is finished; `None` if it is not.
    fn reason(&self, tokens: &[u32]) -> Option<FinishReason> {
        let stopped = || self.has_stop.as_ref().is_some_and(|has_stop| has_stop(tokens));
        match tokens.last() {
            Some(last) if self.eos.contains(last) => Some(FinishReason::Eos),
            _ if stopped() => Some(FinishReason::Stop),
            _ if tokens.len() >= self.max_new_tokens as usize => Some(FinishReason::Length),
            _ => None,
        }
    }
}

/// A prompt, and what the rules that look back see of it.
pub struct Prompted<'a> {
    /// On the device.
    pub inputs: PromptInputs<'a>,
    /// Its ids, or T5's start token.
    pub history: Vec<u32>,
    /// Where the tokens that penalties count begin in `history`.
    pub counted: usize,
}

impl Prompted<'_> {
    fn tokens(&self) -> u32 {
        self.inputs.ids.len()
    }
}

/// A finished answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequence {
    /// New tokens; an end-of-text token is the last one.
    pub token_ids: Vec<u32>,
    /// The score beams are ranked by; `None` without beams.
    pub score: Option<f32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// The likeliest of scores that are no numbers is no answer.
fn check_finite(logits: &[f32]) -> Result<()> {
    match logits.iter().all(|v| v.is_finite()) {
        true => Ok(()),
        false => Err(Error::NotFinite { stage: "language model" }),
    }
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
        let placed = Session::place(language, &[prompt.tokens()])[0];
        let processors = prompt.processors(options, &limits);
        let on_device = processors.are_idle();
        let request = Request { rows: 1, choose: true, ..Request::default() };
        let mut prefill = self.prefill(language, &prompt.inputs, placed, request)?;
        self.continue_from(&[placed]);
        let chooser = match on_device {
            true => {
                prefill.plan = prefill.plan.with_token(self.token())?;
                prefill.submit()?;
                check_finite(&self.device().read(&prefill.logits)?)?;
                Chooser::Device { prefill: Some(Box::new(prefill.plan)), submitted: 1 }
            }
            false => {
                prefill.submit()?;
                let logits = self.device().read(&prefill.logits)?;
                check_finite(&logits)?;
                let random = fastrand::Rng::with_seed(options.seed);
                let scores = Scores::of_all(logits);
                Chooser::Host { row: Row::new(prompt), processors: Box::new(processors), random, scores }
            }
        };
        Ok(Tokens { session: self, chooser, tokens: Vec::new(), limits, finish: None, failed: false })
    }

    /// Answers all prompts side by side: `num_return_sequences` each, in order.
    ///
    /// Every row has its own positions and sees its own keys only, so that an answer is the same alone and in company.
    ///
    /// # Errors
    /// Whatever went wrong on the GPU.
    pub fn answer(
        &self,
        language: &Language,
        prompts: &[Prompted<'_>],
        options: &GenerateOptions,
        limits: &Limits,
        progress: &mut dyn FnMut(u32),
    ) -> Result<Vec<Vec<Sequence>>> {
        let sizes: Vec<u32> = prompts.iter().map(Prompted::tokens).collect();
        let placed = Session::place(language, &sizes);
        let first = prompts.iter().zip(&placed).map(|(prompt, &placed)| {
            let prefill = self.prefill(language, &prompt.inputs, placed, Request { rows: 1, ..Request::default() })?;
            prefill.submit()?;
            let logits = self.device().read::<f32>(&prefill.logits)?;
            check_finite(&logits).map(|()| logits)
        });
        let first = first.collect::<Result<Vec<_>>>()?;
        match options.num_beams {
            1 => self.answer_rows(prompts, &placed, first, options, limits, progress),
            _ => self.answer_with_beams(prompts, &placed, first, options, limits, progress),
        }
    }

    fn answer_rows(
        &self,
        prompts: &[Prompted<'_>],
        placed: &[Placed],
        first: Vec<Vec<f32>>,
        options: &GenerateOptions,
        limits: &Limits,
        progress: &mut dyn FnMut(u32),
    ) -> Result<Vec<Vec<Sequence>>> {
        let each = options.num_return_sequences as usize;
        let of_row: Vec<usize> = (0..prompts.len()).flat_map(|b| std::iter::repeat_n(b, each)).collect();
        let places: Vec<Placed> = of_row.iter().map(|&b| placed[b]).collect();
        self.continue_from(&places);
        let processors: Vec<Processors> = prompts.iter().map(|p| p.processors(options, limits)).collect();
        // A row draws from numbers of its own, whoever its neighbours are.
        let seed = |r: usize| options.seed.wrapping_add((r % each) as u64);
        let mut random: Vec<_> = (0..of_row.len()).map(|r| fastrand::Rng::with_seed(seed(r))).collect();
        let mut rows: Vec<Row> = of_row.iter().map(|&b| Row::new(&prompts[b])).collect();
        let mut finished: Vec<Option<FinishReason>> = vec![None; rows.len()];
        let of_rows: Vec<&Processors> = of_row.iter().map(|&b| &processors[b]).collect();
        let mut scores: Vec<Scores> = of_row.iter().map(|&b| Scores::of_all(first[b].clone())).collect();
        // Where nothing changes the scores a step has found the likeliest tokens already.
        let on_device = processors.iter().all(Processors::are_idle);
        let mut tokens = vec![0; rows.len()];
        for n in 0.. {
            let unfinished: Vec<usize> = (0..rows.len()).filter(|&r| finished[r].is_none()).collect();
            for r in unfinished {
                match on_device && n > 0 {
                    true => rows[r].sequence.push(tokens[r]),
                    false => tokens[r] = rows[r].choose(of_rows[r], &mut random[r], &mut scores[r]),
                }
                finished[r] = limits.reason(rows[r].new_tokens());
            }
            progress(n + 1);
            if finished.iter().all(Option::is_some) {
                break;
            }
            self.write_tokens(&tokens);
            self.submit(n)?;
            match on_device {
                true => tokens = self.read_tokens()?,
                false => scores = self.read_scores(&of_rows)?,
            }
        }
        let mut answers = rows.iter().zip(&finished).map(|(row, finished)| Sequence {
            token_ids: row.new_tokens().to_vec(),
            score: None,
            finish_reason: finished.unwrap_or(FinishReason::Length),
        });
        Ok(prompts.iter().map(|_| answers.by_ref().take(each).collect()).collect())
    }

    fn answer_with_beams(
        &self,
        prompts: &[Prompted<'_>],
        placed: &[Placed],
        first: Vec<Vec<f32>>,
        options: &GenerateOptions,
        limits: &Limits,
        progress: &mut dyn FnMut(u32),
    ) -> Result<Vec<Vec<Sequence>>> {
        let beams = options.num_beams as usize;
        let rows: Vec<Placed> = placed.iter().flat_map(|&p| std::iter::repeat_n(p, beams)).collect();
        let mut table = self.continue_from(&rows);
        let processors: Vec<Processors> = prompts.iter().map(|p| p.processors(options, limits)).collect();
        let stops = |tokens: &[u32]| limits.reason(tokens).is_some();
        let search = || BeamSearch::new(options, limits.eos.len(), limits.max_new_tokens as usize);
        let mut searches: Vec<BeamSearch> = prompts.iter().map(|_| search()).collect();
        let mut random: Vec<_> = prompts.iter().map(|_| fastrand::Rng::with_seed(options.seed)).collect();
        let mut logits: Vec<Vec<f32>> = first.iter().flat_map(|l| std::iter::repeat_n(l.clone(), beams)).collect();
        for n in 0.. {
            let (mut sources, mut tokens): (Vec<usize>, Vec<u32>) = ((0..rows.len()).collect(), vec![0; rows.len()]);
            for (b, search) in searches.iter_mut().enumerate().filter(|(_, s)| !s.has_ended()) {
                let scores = logits[b * beams..][..beams].iter().zip(search.beams());
                let scores: Vec<Vec<f32>> =
                    scores.map(|(row, tokens)| prompts[b].scores(&processors[b], row, tokens)).collect();
                for (i, go) in search.advance(&scores, &stops, &mut random[b]).into_iter().enumerate() {
                    (sources[b * beams + i], tokens[b * beams + i]) = (b * beams + go.source, go.token);
                }
            }
            progress(n + 1);
            if searches.iter().all(BeamSearch::has_ended) {
                break;
            }
            table.reorder(&sources, n);
            self.write_pages(&table);
            self.write_tokens(&tokens);
            self.submit(n)?;
            logits = self.read_logits()?;
        }
        let sequence = |candidate: &beam::Candidate| Sequence {
            token_ids: candidate.tokens.clone(),
            score: Some(candidate.score),
            finish_reason: limits.reason(&candidate.tokens).unwrap_or(FinishReason::Length),
        };
        Ok(searches.iter().map(|search| search.answers().iter().map(sequence).collect()).collect())
    }
}

impl Prompted<'_> {
    fn processors(&self, options: &GenerateOptions, limits: &Limits) -> Processors {
        Processors::new(options, &limits.eos, self.history.len())
    }

    /// Processed log-probabilities of the token after `tokens` in a search with beams.
    fn scores(&self, processors: &Processors, logits: &[f32], tokens: &[u32]) -> Vec<f32> {
        let mut scores = log_softmax(logits);
        processors.process(&[&self.history, tokens].concat(), self.counted, &mut scores);
        scores
    }
}

/// One answer that is chosen on the host.
struct Row {
    sequence: Vec<u32>,
    prompt_len: usize,
    counted: usize,
}

impl Row {
    fn new(prompt: &Prompted<'_>) -> Row {
        Row { sequence: prompt.history.clone(), prompt_len: prompt.history.len(), counted: prompt.counted }
    }

    fn new_tokens(&self) -> &[u32] {
        &self.sequence[self.prompt_len..]
    }

    fn choose(&mut self, processors: &Processors, random: &mut fastrand::Rng, scores: &mut Scores) -> u32 {
        let token = scores.choose(processors, &self.sequence, self.counted, random);
        self.sequence.push(token);
        token
    }
}

/// Who takes the next token.
enum Chooser {
    /// The device: the likeliest.
    Device {
        /// Until its token was read.
        prefill: Option<Box<Plan>>,
        submitted: u32,
    },
    /// The host, from scores.
    Host { row: Row, processors: Box<Processors>, random: fastrand::Rng, scores: Scores },
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

impl Tokens<'_> {
    /// Why generation ended; `None` while it goes on.
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
            Chooser::Host { row, processors, random, scores } => {
                if read > 0 {
                    session.write_tokens(&self.tokens[read as usize - 1..]);
                    session.submit(read - 1)?;
                    *scores = session.read_scores(&[&**processors])?.swap_remove(0);
                }
                row.choose(processors, random, scores)
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

/// Longest prompt in one recording: its rows times any width are counted in 32 bits.
pub const MAX_PROMPT_TOKENS: u32 = 16_384;

/// How many tokens may be generated after a prompt of `prompt` tokens in a context of `context`.
///
/// # Errors
/// [`Error::PromptTooLong`] when there is no room for a single one.
pub fn room_for(prompt: usize, context: Option<u32>, max_new_tokens: u32) -> Result<u32> {
    check_fits(prompt + 1, context)?;
    let left = |context: u32| context - prompt as u32;
    Ok(context.map_or(max_new_tokens, |context| max_new_tokens.min(left(context))))
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
