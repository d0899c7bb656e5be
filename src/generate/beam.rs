//! Beam search over one prompt, on the CPU: the vectorised search of `transformers` 5 (`_beam_search`), per prompt.
//!
//! Prompts of a batch do not influence each other here; in the reference a batch ends as a whole, which can only
//! change a search that has already ended.

use super::options::{EarlyStopping, GenerateOptions};
use super::processors::{best, draw, softmax};

/// The amount that a score is lowered by instead of being forgotten: the reference's number, and in f32 as there.
const NEVER: f32 = -1.0e9;

/// A finished answer and its score.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Log-probability over length to the power of the length penalty.
    pub score: f32,
    /// New tokens.
    pub tokens: Vec<u32>,
    done: bool,
}

/// The beam that a row continues, and the token it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// The beam that is continued.
    pub source: usize,
    /// The token it is continued with.
    pub token: u32,
}

/// A beam search between two continuations.
#[derive(Debug)]
pub struct BeamSearch {
    options: GenerateOptions,
    eos: usize,
    max_new_tokens: usize,
    running: Vec<Vec<u32>>,
    scores: Vec<f32>,
    pool: Vec<Candidate>,
    alive: bool,
    ended: bool,
}

/// A beam with one more token.
struct Continuation {
    score: f32,
    tokens: Vec<u32>,
    from: Move,
    hit: bool,
}

impl BeamSearch {
    /// A search with `options.num_beams` beams, all of them the prompt, for at most `max_new_tokens`; `eos` is the
    /// number of end-of-text ids.
    pub fn new(options: &GenerateOptions, eos: usize, max_new_tokens: usize) -> BeamSearch {
        let beams = options.num_beams as usize;
        let nothing = Candidate { score: NEVER, tokens: Vec::new(), done: false };
        BeamSearch {
            options: options.clone(),
            eos,
            max_new_tokens,
            running: vec![Vec::new(); beams],
            scores: (0..beams).map(|i| if i == 0 { 0.0 } else { NEVER }).collect(),
            pool: vec![nothing; beams],
            alive: true,
            ended: false,
        }
    }

    /// The beams' new tokens so far.
    pub fn beams(&self) -> &[Vec<u32>] {
        &self.running
    }

    /// Tells whether the search is over.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// The best answers, best first.
    pub fn answers(&self) -> &[Candidate] {
        &self.pool[..self.options.num_return_sequences as usize]
    }

    /// Takes the processed log-probabilities of every beam's next token, `[beams, V]`, and returns how the beams go on.
    /// `stops` says whether new tokens end an answer.
    pub fn advance(
        &mut self,
        log_probabilities: &[Vec<f32>],
        stops: &dyn Fn(&[u32]) -> bool,
        random: &mut fastrand::Rng,
    ) -> Vec<Move> {
        let beams = self.running.len();
        let continuations = self.best_continuations(log_probabilities, stops, random);
        let length = self.running[0].len() + 1;
        self.keep_finished(&continuations, length);
        let order = best(beams, continuations.len(), |i| {
            continuations[i].score + if continuations[i].hit { NEVER } else { 0.0 }
        });
        self.scores =
            order.iter().map(|&i| continuations[i].score + if continuations[i].hit { NEVER } else { 0.0 }).collect();
        self.running = order.iter().map(|&i| continuations[i].tokens.clone()).collect();
        self.update_alive(length);
        let full = self.options.early_stopping == EarlyStopping::True && self.pool.iter().all(|c| c.done);
        self.ended = !self.alive || full || continuations.iter().all(|s| s.hit);
        order.iter().map(|&i| continuations[i].from).collect()
    }

    /// The best continuations of all beams, best first (or as drawn).
    fn best_continuations(
        &self,
        log_probabilities: &[Vec<f32>],
        stops: &dyn Fn(&[u32]) -> bool,
        random: &mut fastrand::Rng,
    ) -> Vec<Continuation> {
        let vocabulary = log_probabilities[0].len();
        let sums = log_probabilities.iter().zip(&self.scores);
        let sums: Vec<f32> = sums.flat_map(|(row, score)| row.iter().map(move |p| p + score)).collect();
        let wanted = (2.max(1 + self.eos) * self.running.len()).min(sums.len());
        let chosen = match self.options.do_sample {
            true => draw_distinct(&sums, wanted, random),
            false => best(wanted, sums.len(), |i| sums[i]),
        };
        let continuation = |i: usize| {
            let from = Move { source: i / vocabulary, token: (i % vocabulary) as u32 };
            let mut tokens = self.running[from.source].clone();
            tokens.push(from.token);
            let hit = tokens.len() >= self.max_new_tokens || stops(&tokens);
            Continuation { score: sums[i], tokens, from, hit }
        };
        chosen.into_iter().map(continuation).collect()
    }

    fn keep_finished(&mut self, continuations: &[Continuation], length: usize) {
        let beams = self.running.len();
        let divisor = (length as f64).powf(self.options.length_penalty.into()) as f32;
        let closed = self.options.early_stopping == EarlyStopping::True && self.pool.iter().all(|c| c.done);
        let mut all = std::mem::take(&mut self.pool);
        all.extend(continuations.iter().enumerate().map(|(rank, step)| {
            let done = step.hit && rank < beams;
            let forbidden = [closed, !self.alive, !done].into_iter().filter(|&f| f).count();
            let score = (0..forbidden).fold(step.score / divisor, |score, _| score + NEVER);
            Candidate { score, tokens: step.tokens.clone(), done }
        }));
        let order = best(beams, all.len(), |i| all[i].score);
        self.pool = order.into_iter().map(|i| all[i].clone()).collect();
    }

    /// Notes whether the best beam may still become better than what is finished.
    fn update_alive(&mut self, length: usize) {
        let penalty = f64::from(self.options.length_penalty);
        let never = self.options.early_stopping == EarlyStopping::Never && penalty > 0.0;
        let length = if never { self.max_new_tokens } else { length };
        let reachable = self.scores[0] / (length as f64).powf(penalty) as f32;
        let worst = self.pool.iter().map(|c| c.score).fold(f32::INFINITY, f32::min);
        self.alive &= self.pool.iter().any(|c| reachable > if c.done { worst } else { NEVER });
    }
}

/// `k` different indices, drawn one after the other by the probability of their scores.
fn draw_distinct(scores: &[f32], k: usize, random: &mut fastrand::Rng) -> Vec<usize> {
    let mut p = softmax(scores);
    let mut chosen = Vec::with_capacity(k);
    while chosen.len() < k {
        // Where fewer than k can be drawn at all, the rest are impossible ones in order.
        let i = match p.iter().any(|p| *p > 0.0) {
            true => draw(&p, random) as usize,
            false => (0..p.len()).find(|i| !chosen.contains(i)).unwrap_or(0),
        };
        p[i] = 0.0;
        chosen.push(i);
    }
    chosen
}
