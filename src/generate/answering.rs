//! One answer on the host while it is made: the rows or beams of it, what chooses their next tokens, and when it is done.

use super::beam::{BeamSearch, Candidate};
use super::limits::{FinishReason, Limits};
use super::logprobs::TokenLogprob;
use super::options::GenerateOptions;
use super::processors::{Processors, log_softmax};
use super::row::{Prompted, Row, Sequence};
use super::scores::Scores;

/// The tokens that an answer's rows go on with.
pub(super) struct Next {
    /// The token of each row.
    pub tokens: Vec<u32>,
    /// The row that each is continued from; its own if there is nothing here.
    pub sources: Vec<usize>,
}

/// An answer, by the way its tokens are chosen.
pub(super) enum Answering {
    /// Sequences that are rows of their own.
    Rows(Rows),
    /// Sequences that are searched for with beams, all of them rows.
    Beams(Box<Beams>),
}

/// Sequences of which each is a row of its own.
pub(super) struct Rows {
    rows: Vec<Row>,
    finished: Vec<Option<FinishReason>>,
    limits: Limits,
}

/// A search with beams.
pub(super) struct Beams {
    search: BeamSearch,
    processors: Processors,
    /// The prompt as rules that look back see it.
    history: Vec<u32>,
    /// The index in `history` of the first token that penalties count.
    counted: usize,
    random: fastrand::Rng,
    limits: Limits,
}

impl Answering {
    /// An answer to `prompt`, of which no token is chosen yet.
    pub fn new(prompt: &Prompted<'_>, options: &GenerateOptions, limits: Limits) -> Answering {
        match options.num_beams {
            1 => Answering::Rows(Rows::new(prompt, options, limits)),
            _ => Answering::Beams(Box::new(Beams::new(prompt, options, limits))),
        }
    }

    /// Chooses the first tokens by the logits after the prompt.
    pub fn begin(&mut self, logits: &[f32]) -> Next {
        match self {
            Answering::Rows(rows) => {
                let scores = std::iter::repeat_with(|| Scores::of_all(logits.to_vec()));
                rows.choose(scores)
            }
            Answering::Beams(beams) => beams.choose(&mut std::iter::repeat_with(|| logits.to_vec())),
        }
    }

    /// Tells whether the device chooses the next token.
    pub fn is_on_device(&self) -> bool {
        match self {
            Answering::Rows(rows) => rows.rows.iter().all(Row::takes_largest),
            Answering::Beams(_) => false,
        }
    }

    /// Most new tokens.
    pub fn max_new_tokens(&self) -> u32 {
        match self {
            Answering::Rows(rows) => rows.limits.max_new_tokens,
            Answering::Beams(beams) => beams.limits.max_new_tokens,
        }
    }

    /// New tokens of its longest sequence.
    pub fn tokens(&self) -> u32 {
        let tokens = match self {
            Answering::Rows(rows) => rows.rows.iter().map(|row| row.new_tokens().len()).max(),
            Answering::Beams(beams) => beams.search.beams().iter().map(Vec::len).max(),
        };
        tokens.unwrap_or(0) as u32
    }

    /// The newest token of an answer that is one row.
    pub fn newest(&self) -> Option<u32> {
        self.only_row().and_then(|row| row.new_tokens().last().copied())
    }

    /// The newest token's log-probability, where it is wanted, of an answer that is one row.
    pub fn newest_logprob(&self) -> Option<&TokenLogprob> {
        self.only_row().and_then(|row| row.logprobs().last())
    }

    fn only_row(&self) -> Option<&Row> {
        match self {
            Answering::Rows(Rows { rows, .. }) if rows.len() == 1 => rows.first(),
            _ => None,
        }
    }

    /// The sequences, best first, once all are finished.
    pub fn finished(&self) -> Option<Vec<Sequence>> {
        match self {
            Answering::Rows(rows) => rows.finished(),
            Answering::Beams(beams) => beams.finished(),
        }
    }
}

impl Rows {
    fn new(prompt: &Prompted<'_>, options: &GenerateOptions, limits: Limits) -> Rows {
        // A row draws from numbers of its own, whoever its neighbours are.
        let seed = |r: u32| options.seed.wrapping_add(u64::from(r));
        let row = |r| Row::new(prompt, prompt.processors(options, &limits), seed(r));
        let rows: Vec<Row> = (0..options.num_return_sequences).map(row).collect();
        Rows { finished: vec![None; rows.len()], rows, limits }
    }

    /// The processors of each row.
    pub fn processors(&self) -> impl Iterator<Item = &Processors> {
        self.rows.iter().map(Row::processors)
    }

    /// Takes the tokens that the device has chosen.
    pub fn take(&mut self, tokens: impl Iterator<Item = u32>) {
        for ((row, finished), token) in self.rows.iter_mut().zip(&mut self.finished).zip(tokens) {
            if finished.is_none() {
                row.push(token);
                *finished = self.limits.reason(row.new_tokens());
            }
        }
    }

    /// Chooses each row's next token by its scores.
    pub fn choose(&mut self, scores: impl Iterator<Item = Scores>) -> Next {
        let choose = |((row, finished), mut scores): ((&mut Row, &mut Option<FinishReason>), Scores)| {
            if finished.is_some() {
                return 0; // any: nobody looks at what becomes of it
            }
            let token = row.choose(&mut scores);
            *finished = self.limits.reason(row.new_tokens());
            token
        };
        let tokens = self.rows.iter_mut().zip(&mut self.finished).zip(scores).map(choose).collect();
        Next { tokens, sources: Vec::new() }
    }

    fn finished(&self) -> Option<Vec<Sequence>> {
        let sequence = |(row, finished): (&Row, &Option<FinishReason>)| {
            let (token_ids, logprobs) = (row.new_tokens().to_vec(), row.logprobs().to_vec());
            finished.map(|finish_reason| Sequence { token_ids, logprobs, score: None, finish_reason })
        };
        self.rows.iter().zip(&self.finished).map(sequence).collect()
    }
}

impl Beams {
    fn new(prompt: &Prompted<'_>, options: &GenerateOptions, limits: Limits) -> Beams {
        Beams {
            search: BeamSearch::new(options, limits.eos.len(), limits.max_new_tokens as usize),
            processors: prompt.processors(options, &limits),
            history: prompt.history.clone(),
            counted: prompt.counted,
            random: fastrand::Rng::with_seed(options.seed),
            limits,
        }
    }

    /// Chooses how each beam goes on by its logits.
    pub fn choose(&mut self, logits: &mut dyn Iterator<Item = Vec<f32>>) -> Next {
        let beam_scores = |(tokens, logits): (&Vec<u32>, Vec<f32>)| {
            let mut scores = log_softmax(&logits);
            self.processors.process(&[&self.history, tokens.as_slice()].concat(), self.counted, &mut scores);
            scores
        };
        let scores: Vec<Vec<f32>> = self.search.beams().iter().zip(logits).map(beam_scores).collect();
        let limits = &self.limits;
        let moves = self.search.advance(&scores, &|tokens| limits.reason(tokens).is_some(), &mut self.random);
        Next { tokens: moves.iter().map(|go| go.token).collect(), sources: moves.iter().map(|go| go.source).collect() }
    }

    fn finished(&self) -> Option<Vec<Sequence>> {
        let sequence = |candidate: &Candidate| Sequence {
            token_ids: candidate.tokens.clone(),
            logprobs: Vec::new(),
            score: Some(candidate.score),
            finish_reason: self.limits.reason(&candidate.tokens).unwrap_or(FinishReason::Length),
        };
        self.search.has_ended().then(|| self.search.answers().iter().map(sequence).collect())
    }
}
