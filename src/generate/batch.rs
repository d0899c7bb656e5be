//! Answers to several prompts side by side, one row of a step for each answer or beam.

use super::beam::{BeamSearch, Candidate};
use super::limits::{FinishReason, Limits};
use super::options::GenerateOptions;
use super::processors::{Processors, log_softmax};
use super::row::{Prompted, Row, Sequence};
use super::scores::{Scores, check_finite};
use super::session::{Placed, Request, Session};
use crate::error::Result;
use crate::language::Language;

/// Prompts in the cache, and how to answer them.
struct Batch<'a> {
    session: &'a Session,
    prompts: &'a [Prompted<'a>],
    placed: Vec<Placed>,
    /// The logits after each prompt.
    first: Vec<Vec<f32>>,
    options: &'a GenerateOptions,
    limits: &'a Limits,
}

impl Session {
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
        let placed = Placed::in_order(language, &sizes);
        let first = prompts.iter().zip(&placed).map(|(prompt, &placed)| {
            let prefill = self.prefill(language, &prompt.inputs, placed, Request::last_row())?;
            prefill.submit()?;
            let logits = self.device().read::<f32>(&prefill.logits)?;
            check_finite(&logits).map(|()| logits)
        });
        let first = first.collect::<Result<Vec<_>>>()?;
        let batch = Batch { session: self, prompts, placed, first, options, limits };
        match options.num_beams {
            1 => batch.by_rows(progress),
            _ => batch.with_beams(progress),
        }
    }
}

impl Batch<'_> {
    /// The prompt of each row, when every prompt has `each` rows.
    fn prompt_of_row(&self, each: usize) -> Vec<usize> {
        (0..self.prompts.len()).flat_map(|b| std::iter::repeat_n(b, each)).collect()
    }

    fn processors(&self, prompt: usize) -> Processors {
        self.prompts[prompt].processors(self.options, self.limits)
    }

    /// Answers of which each is a row of its own.
    fn by_rows(&self, progress: &mut dyn FnMut(u32)) -> Result<Vec<Vec<Sequence>>> {
        let (session, each) = (self.session, self.options.num_return_sequences as usize);
        let prompts = self.prompt_of_row(each);
        session.continue_from(&prompts.iter().map(|&b| self.placed[b]).collect::<Vec<_>>());
        // A row draws from numbers of its own, whoever its neighbours are.
        let seed = |r: usize| self.options.seed.wrapping_add((r % each) as u64);
        let row = |(r, &b): (usize, &usize)| Row::new(&self.prompts[b], self.processors(b), seed(r));
        let mut rows: Vec<Row> = prompts.iter().enumerate().map(row).collect();
        let mut scores: Vec<Scores> = prompts.iter().map(|&b| Scores::of_all(self.first[b].clone())).collect();
        let mut finished: Vec<Option<FinishReason>> = vec![None; rows.len()];
        // Where nothing changes the scores a step has found the likeliest tokens already.
        let on_device = rows.iter().all(|row| row.processors().are_idle());
        let mut tokens = vec![0; rows.len()];
        for n in 0.. {
            for r in (0..rows.len()).filter(|&r| finished[r].is_none()).collect::<Vec<_>>() {
                match on_device && n > 0 {
                    true => rows[r].push(tokens[r]),
                    false => tokens[r] = rows[r].choose(&mut scores[r]),
                }
                finished[r] = self.limits.reason(rows[r].new_tokens());
            }
            progress(n + 1);
            if finished.iter().all(Option::is_some) {
                break;
            }
            session.write_tokens(&tokens);
            session.submit(n)?;
            match on_device {
                true => tokens = session.read_tokens()?,
                false => scores = Scores::read(session, &rows.iter().map(Row::processors).collect::<Vec<_>>())?,
            }
        }
        let mut answers = rows.iter().zip(&finished).map(|(row, finished)| Sequence {
            token_ids: row.new_tokens().to_vec(),
            score: None,
            finish_reason: finished.unwrap_or(FinishReason::Length),
        });
        Ok(self.prompts.iter().map(|_| answers.by_ref().take(each).collect()).collect())
    }

    /// Answers of which each is searched for with beams, all of them rows.
    fn with_beams(&self, progress: &mut dyn FnMut(u32)) -> Result<Vec<Vec<Sequence>>> {
        let Batch { session, prompts, options, limits, .. } = self;
        let beams = options.num_beams as usize;
        let prompt_of_row = self.prompt_of_row(beams);
        let rows: Vec<Placed> = prompt_of_row.iter().map(|&b| self.placed[b]).collect();
        let mut table = session.continue_from(&rows);
        let processors: Vec<Processors> = (0..prompts.len()).map(|b| self.processors(b)).collect();
        let stops = |tokens: &[u32]| limits.reason(tokens).is_some();
        let search = || BeamSearch::new(options, limits.eos.len(), limits.max_new_tokens as usize);
        let mut searches: Vec<BeamSearch> = prompts.iter().map(|_| search()).collect();
        let mut random: Vec<_> = prompts.iter().map(|_| fastrand::Rng::with_seed(options.seed)).collect();
        let mut logits: Vec<Vec<f32>> = prompt_of_row.iter().map(|&b| self.first[b].clone()).collect();
        for n in 0.. {
            let (mut sources, mut tokens): (Vec<usize>, Vec<u32>) = ((0..rows.len()).collect(), vec![0; rows.len()]);
            for (b, search) in searches.iter_mut().enumerate().filter(|(_, s)| !s.has_ended()) {
                let rows = logits[b * beams..][..beams].iter().zip(search.beams());
                let scores = rows.map(|(row, tokens)| beam_scores(&prompts[b], &processors[b], row, tokens));
                let scores: Vec<Vec<f32>> = scores.collect();
                for (i, go) in search.advance(&scores, &stops, &mut random[b]).into_iter().enumerate() {
                    (sources[b * beams + i], tokens[b * beams + i]) = (b * beams + go.source, go.token);
                }
            }
            progress(n + 1);
            if searches.iter().all(BeamSearch::has_ended) {
                break;
            }
            table.reorder(&sources, n);
            session.write_pages(&table);
            session.write_tokens(&tokens);
            session.submit(n)?;
            logits = session.read_logits()?;
        }
        let sequence = |candidate: &Candidate| Sequence {
            token_ids: candidate.tokens.clone(),
            score: Some(candidate.score),
            finish_reason: limits.reason(&candidate.tokens).unwrap_or(FinishReason::Length),
        };
        Ok(searches.iter().map(|search| search.answers().iter().map(sequence).collect()).collect())
    }
}

/// Processed log-probabilities of the token after a beam's `tokens`.
fn beam_scores(prompt: &Prompted<'_>, processors: &Processors, logits: &[f32], tokens: &[u32]) -> Vec<f32> {
    let mut scores = log_softmax(logits);
    processors.process(&[&prompt.history, tokens].concat(), prompt.counted, &mut scores);
    scores
}
