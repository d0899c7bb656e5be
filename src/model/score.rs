//! The likelihood of fixed answers: the paper's evaluation of questions with given choices (`predict_class` in LAVIS).

use super::encode::Encoded;
use super::{InstructBlip, Question};
use crate::error::{Error, Result};
use crate::generate::processors::log_softmax;
use crate::generate::session::{Placed, Prefill, Request};
use crate::generate::{self, Room};
use crate::runtime::Device;

/// The likelihood of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// Log-probability of the whole answer.
    pub sum: f64,
    /// Log-probability per token, which the paper ranks by.
    pub mean: f64,
    /// The answer's tokens; T5's end with the end token.
    pub token_ids: Vec<u32>,
    /// Log-probability of each.
    pub log_probabilities: Vec<f64>,
}

impl Score {
    /// The shares of answers among themselves, by log-probability per token as the paper ranks; they add up to 1.
    pub fn shares(scores: &[Score]) -> Vec<f64> {
        // Of the best's, as those of very unlikely ones alone would all be 0.
        let best = scores.iter().map(|score| score.mean).fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score.mean - best).exp()).collect();
        let total: f64 = weights.iter().sum();
        weights.iter().map(|weight| weight / total).collect()
    }
}

impl InstructBlip {
    /// Scores each of `choices` as the answer to a question. The prompt runs once; choices share its cache.
    ///
    /// Choices are continued as they are written: byte-level tokenizers (OPT) tell `"yes"` from `" yes"`.
    ///
    /// # Errors
    /// [`Error::Request`] for a choice that makes no token; otherwise as [`InstructBlip::answer`].
    pub fn score(&mut self, question: &Question<'_>, choices: &[&str]) -> Result<Vec<Score>> {
        let choices = self.choices(choices)?;
        let prompt = self.prompt(question)?;
        let (tokens, longest) = (prompt.input_ids.len(), longest(&choices));
        generate::check_fits(tokens + longest, self.config.text.max_positions())?;
        let encoded = self.encode(question.images, prompt)?;
        self.bring_language(&[Room::of(&self.shapes.language, tokens as u32, 1, longest as u32)])?;
        self.score_encoded(&encoded, choices)
    }

    /// The tokens of answers, at least one of them, after they were found to be ones that the model can give.
    pub(super) fn choices(&self, choices: &[&str]) -> Result<Vec<Vec<u32>>> {
        // T5's answers were taught with their end.
        let end = self.processor.tokenizers().eos_token_id().or(self.stop.first().copied());
        let end = end.filter(|_| self.shapes.language.is_encoder_decoder());
        let answer = |choice: &&str| self.processor.tokenizers().encode_answer(choice, end, "choice");
        let choices = choices.iter().map(answer).collect::<Result<Vec<_>>>()?;
        let ids = self.shapes.language.head_rows();
        if let Some(id) = choices.iter().flatten().find(|&&id| id >= ids) {
            return Err(Error::request(format!("a choice has token {id}, which the model never gives: it has {ids}")));
        }
        match choices.is_empty() {
            true => Err(Error::request("there are no choices to score")),
            false => Ok(choices),
        }
    }

    /// Scores answers to an encoded question, for which there is room among the slots.
    pub(super) fn score_encoded(&mut self, encoded: &Encoded, choices: Vec<Vec<u32>>) -> Result<Vec<Score>> {
        let (language, slots) = self.language_stage();
        let (tokens, longest) = (encoded.prompt.input_ids.len() as u32, longest(&choices) as u32);
        let (placed, new) = slots.lend(language, tokens, longest);
        let scored = self.score_at(encoded, choices, &placed, &new);
        self.language_stage().1.take_back(&placed, &new);
        scored
    }

    /// Scores answers to a question whose prompt has the pages of `placed`, each on the pages `new`.
    fn score_at(
        &mut self,
        encoded: &Encoded,
        choices: Vec<Vec<u32>>,
        placed: &Placed,
        new: &[u32],
    ) -> Result<Vec<Score>> {
        let (language, slots) = self.language_stage();
        let session = slots.session();
        let pass = session.prefill(language, &encoded.inputs(), placed, Request::last_row())?;
        let first = log_probabilities(session.device(), &pass)?;
        let mut scores = Vec::new();
        for token_ids in choices {
            let mut rows = first.clone();
            if let [before @ .., _] = token_ids.as_slice()
                && !before.is_empty()
            {
                // Every choice is written over the last one: they begin at the same page.
                rows.extend(log_probabilities(session.device(), &session.extend(language, placed, new, before)?)?);
            }
            let log_probabilities: Vec<f64> =
                rows.iter().zip(&token_ids).map(|(row, &id)| row[id as usize].into()).collect();
            let sum: f64 = log_probabilities.iter().sum();
            scores.push(Score { sum, mean: sum / token_ids.len() as f64, token_ids, log_probabilities });
        }
        Ok(scores)
    }
}

/// Tokens of the longest of some answers.
pub(super) fn longest(choices: &[Vec<u32>]) -> usize {
    choices.iter().map(Vec::len).max().unwrap_or(0)
}

/// Log-probabilities of the next token after each of a pass's rows.
fn log_probabilities(device: &Device, pass: &Prefill) -> Result<Vec<Vec<f32>>> {
    pass.submit()?;
    let logits: Vec<f32> = device.read(&pass.logits)?;
    Ok(logits.chunks(pass.logits.cols() as usize).map(log_softmax).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_to_one_whatever_the_scores() {
        let score = |mean| Score { sum: mean, mean, token_ids: Vec::new(), log_probabilities: Vec::new() };
        let shares = |means: &[f64]| Score::shares(&means.iter().map(|mean| score(*mean)).collect::<Vec<_>>());
        assert!(shares(&[]).is_empty());
        let (half, quarter) = (0.5_f64.ln(), 0.25_f64.ln());
        for (shares, wanted) in shares(&[half, quarter, quarter]).iter().zip([0.5, 0.25, 0.25]) {
            assert!((shares - wanted).abs() < 1e-12);
        }
        assert_eq!(shares(&[-2000.0, -2000.0]), [0.5, 0.5], "too small for numbers");
    }
}
