//! The scores that a token is chosen from: all of a row, or the few largest where no other can be drawn.

use super::logprobs::Logprobs;
use super::processors::{CANDIDATES, Processors, argmax, draw, softmax};
use super::session::Session;
use crate::error::{Error, Result};

/// Scores of the next token of one sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    values: Vec<f32>,
    /// The tokens that the scores are of, in rising order; all tokens if there is none.
    tokens: Option<Vec<u32>>,
}

impl Scores {
    /// The scores of all tokens.
    pub fn of_all(values: Vec<f32>) -> Scores {
        Scores { values, tokens: None }
    }

    /// The scores of the tokens with the largest ones among `all`, from `(bits, token)` in falling order as
    /// [`top_k`](crate::runtime::Recorder::top_k) gives them; `None` if `processors` might draw another token.
    ///
    /// Tokens drawn from these are those drawn from all scores, to the bit: the others would have weight 0 in every sum, and
    /// tokens stay in their order.
    pub fn of_largest(pairs: &[u32], all: usize, processors: &Processors) -> Option<Scores> {
        let mut found: Vec<(u32, f32)> = pairs.chunks(2).map(|pair| (pair[1], f32::from_bits(pair[0]))).collect();
        let largest: Vec<f32> = found.iter().map(|&(_, value)| value).collect();
        if !processors.draw_among(&largest, all) {
            return None;
        }
        found.sort_unstable_by_key(|&(token, _)| token);
        let (tokens, values) = found.into_iter().unzip();
        Some(Scores { values, tokens: Some(tokens) })
    }

    /// Reads the scores that the tokens of some rows after a session's last step are chosen from, by the processors of
    /// each: the few largest logits where these are enough, else all logits.
    ///
    /// # Errors
    /// Whatever went wrong on the GPU.
    pub fn read(session: &Session, rows: &[(u32, &Processors)]) -> Result<Vec<Scores>> {
        let all = session.vocab_size();
        let largest = match rows.iter().any(|(_, p)| p.draw_among_few()) {
            true => session.read_largest(CANDIDATES)?,
            false => Vec::new(),
        };
        let few = |&(row, p): &(u32, &Processors)| Scores::of_largest(largest.get(row as usize)?, all, p);
        let mut scores: Vec<Option<Scores>> = rows.iter().map(few).collect();
        let others: Vec<u32> =
            rows.iter().zip(&scores).filter(|(_, s)| s.is_none()).map(|((row, _), _)| *row).collect();
        if !others.is_empty() {
            let logits = session.read_logits(&others)?;
            scores.iter_mut().filter(|s| s.is_none()).zip(logits).for_each(|(s, row)| *s = Some(Scores::of_all(row)));
        }
        Ok(scores.into_iter().flatten().collect())
    }

    /// The log-probabilities of all tokens by these scores, before they are processed, where `processors` are to tell them.
    pub(super) fn logprobs(&self, processors: &Processors) -> Option<Logprobs> {
        processors.logprobs().map(|wanted| Logprobs::new(&self.values, wanted))
    }

    /// Processes the scores and draws or takes the token that follows `sequence`; for `counted` see
    /// [`Processors::process`].
    pub fn choose(
        &mut self,
        processors: &Processors,
        sequence: &[u32],
        counted: usize,
        random: &mut fastrand::Rng,
    ) -> u32 {
        processors.process(sequence, counted, &mut self.values);
        let chosen = if processors.draws() { draw(&softmax(&self.values), random) } else { argmax(&self.values) };
        self.tokens.as_ref().map_or(chosen, |tokens| tokens[chosen as usize])
    }
}

/// Refuses scores that are no numbers: the likeliest of them is no answer.
///
/// # Errors
/// [`Error::NotFinite`].
pub(super) fn check_finite(logits: &[f32]) -> Result<()> {
    match logits.iter().all(|v| v.is_finite()) {
        true => Ok(()),
        false => Err(Error::NotFinite { stage: "language model" }),
    }
}
