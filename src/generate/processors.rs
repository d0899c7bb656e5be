//! The treatment of a step's scores before a token is chosen: the reference's logits processors, in its order.
//!
//! Every rule is `transformers.generation.logits_process`'s of the same name, but for presence and frequency penalty, which
//! it lacks: these are OpenAI's, where vLLM has them, after the penalty of repetition.

use std::collections::{HashMap, HashSet};

use super::limits::Limits;
use super::options::GenerateOptions;

/// The number of a row's largest scores that are read back where only such are drawn. It is more than transformers'
/// usual `top_k` of 50, since equals of the last one kept are kept as well.
pub const CANDIDATES: u32 = 64;

/// The processors that a request asks for.
#[derive(Clone, Debug)]
pub struct Processors {
    options: GenerateOptions,
    eos: Vec<u32>,
    prefix: Vec<u32>,
    bad_words: Vec<Vec<u32>>,
    /// Tokens of a sequence that were not generated.
    prompt_len: usize,
}

impl Processors {
    /// Processors of `options` for sequences within `limits` that start with `prompt_len` tokens.
    pub fn new(options: &GenerateOptions, limits: &Limits, prompt_len: usize) -> Processors {
        let Limits { eos, prefix, bad_words, .. } = limits;
        // The end alone cannot be banned, as in the reference.
        let bad_words = bad_words.iter().filter(|word| !matches!(word.as_slice(), [id] if eos.contains(id)));
        Processors {
            options: options.clone(),
            eos: eos.clone(),
            prefix: prefix.clone(),
            bad_words: bad_words.cloned().collect(),
            prompt_len,
        }
    }

    /// Tells whether scores stay as they are after `new` tokens, nobody wants to know them, and the largest is taken.
    pub fn are_idle(&self, new: usize) -> bool {
        !self.options.do_sample && self.options.logprobs.is_none() && self.leave_scores() && new >= self.prefix.len()
    }

    /// The number of likeliest tokens that are told with each new one, where log-probabilities are wanted.
    pub fn logprobs(&self) -> Option<u32> {
        self.options.logprobs
    }

    /// Tells whether tokens are drawn from few of the largest scores, so that the others need not be known. A
    /// penalty, a ban or a rule of length looks at single tokens, whatever their scores; a log-probability at all.
    pub fn draw_among_few(&self) -> bool {
        let o = &self.options;
        let few = o.num_beams == 1 && (1..CANDIDATES).contains(&o.top_k);
        o.do_sample && few && o.logprobs.is_none() && self.leave_scores() && self.prefix.is_empty()
    }

    /// Tells whether only the `largest` of `all` scores, in falling order, can be drawn: `top_k` keeps equals of the
    /// last that it keeps, so there must be a smaller one among them. Compared after the temperature, as `top_k` does:
    /// scores may become equal by it. Any that is no finite number makes all of them count.
    pub(super) fn draw_among(&self, largest: &[f32], all: usize) -> bool {
        let scaled = |score: &f32| score / self.options.temperature;
        let ends = || largest.last().map(scaled) < largest.get(self.options.top_k as usize - 1).map(scaled);
        self.draw_among_few() && largest.iter().all(|score| score.is_finite()) && (largest.len() == all || ends())
    }

    /// Tells whether nothing happens to scores before tokens are drawn or taken.
    fn leave_scores(&self) -> bool {
        let o = &self.options;
        let min = o.min_length as usize > self.prompt_len || o.min_new_tokens > 0;
        o.repetition_penalty == 1.0
            && o.presence_penalty == 0.0
            && o.frequency_penalty == 0.0
            && o.no_repeat_ngram_size == 0
            && self.bad_words.is_empty()
            && !min
            && o.exponential_decay_length_penalty.is_none()
    }

    /// Tells whether tokens are drawn, not taken.
    pub fn draws(&self) -> bool {
        self.options.do_sample
    }

    /// Applies everything to the `scores` of the token that follows `sequence`. `counted` is where the tokens that
    /// penalties count begin: with an `inputs_embeds` prompt the reference knows only the new ones.
    pub fn process(&self, sequence: &[u32], counted: usize, scores: &mut [f32]) {
        let o = &self.options;
        let seen = &sequence[counted..];
        if o.repetition_penalty != 1.0 {
            penalize_repetition(seen, o.repetition_penalty, scores);
        }
        if o.presence_penalty != 0.0 || o.frequency_penalty != 0.0 {
            penalize_counts(&sequence[self.prompt_len..], o.presence_penalty, o.frequency_penalty, scores);
        }
        if o.no_repeat_ngram_size > 0 {
            ban_repeated_ngrams(seen, o.no_repeat_ngram_size as usize, scores);
        }
        ban_words(seen, &self.bad_words, scores);
        let new = sequence.len() - self.prompt_len;
        if sequence.len() < o.min_length as usize {
            self.ban_end(scores);
        }
        if new < o.min_new_tokens as usize {
            self.ban_end(scores);
        }
        if let Some(&next) = self.prefix.get(new) {
            allow_only(next, scores);
        }
        if let Some((start, factor)) = o.exponential_decay_length_penalty.filter(|(start, _)| new > *start as usize) {
            let growth = factor.powi((new - start as usize) as i32) - 1.0;
            for score in self.ends(scores).filter(|score| score.is_finite() && **score != 0.0) {
                *score += score.abs() * growth;
            }
        }
        if o.do_sample {
            self.warp(scores);
        }
    }

    /// Narrows the scores to those that may be drawn.
    fn warp(&self, scores: &mut [f32]) {
        let o = &self.options;
        let keep = if o.num_beams > 1 { self.eos.len() + 1 } else { 1 };
        if o.temperature != 1.0 {
            scores.iter_mut().for_each(|score| *score /= o.temperature);
        }
        if o.top_k > 0 {
            top_k(scores, (o.top_k as usize).max(keep));
        }
        if o.top_p < 1.0 {
            top_p(scores, o.top_p, keep);
        }
        if let Some(share) = o.min_p {
            let p = softmax(scores);
            let least = f64::from(share) * p.iter().copied().fold(0.0, f64::max);
            drop_below(scores, &p, least, keep);
        }
        if o.typical_p < 1.0 {
            typical_p(scores, o.typical_p, keep);
        }
        if o.epsilon_cutoff > 0.0 {
            let p = softmax(scores);
            drop_below(scores, &p, o.epsilon_cutoff.into(), keep);
        }
        if o.eta_cutoff > 0.0 {
            let p = softmax(scores);
            let eta = f64::from(o.eta_cutoff);
            drop_below(scores, &p, eta.min(eta.sqrt() * (-entropy(&p)).exp()), keep);
        }
    }

    fn ends<'a>(&'a self, scores: &'a mut [f32]) -> impl Iterator<Item = &'a mut f32> {
        scores.iter_mut().enumerate().filter(|(id, _)| self.eos.contains(&(*id as u32))).map(|(_, score)| score)
    }

    fn ban_end(&self, scores: &mut [f32]) {
        self.ends(scores).for_each(|score| *score = f32::NEG_INFINITY);
    }
}

fn penalize_repetition(sequence: &[u32], penalty: f32, scores: &mut [f32]) {
    let distinct: HashSet<u32> = sequence.iter().copied().collect();
    for id in distinct {
        if let Some(score) = scores.get_mut(id as usize) {
            *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
        }
    }
}

/// Lowers the score of each token by `presence` if it is among the `new` ones, and by `frequency` each time it is.
fn penalize_counts(new: &[u32], presence: f32, frequency: f32, scores: &mut [f32]) {
    let mut counts: HashMap<u32, f32> = HashMap::new();
    new.iter().for_each(|&id| *counts.entry(id).or_default() += 1.0);
    for (id, count) in counts {
        if let Some(score) = scores.get_mut(id as usize) {
            *score -= presence + frequency * count;
        }
    }
}

fn ban_repeated_ngrams(sequence: &[u32], n: usize, scores: &mut [f32]) {
    let Some(start) = (sequence.len() + 1).checked_sub(n) else { return };
    let last = &sequence[start..];
    for run in sequence.windows(n).filter(|run| run[..n - 1] == *last) {
        if let Some(score) = scores.get_mut(run[n - 1] as usize) {
            *score = f32::NEG_INFINITY;
        }
    }
}

/// Bans the last token of each run whose others end the sequence. One longer than the sequence is not looked at.
fn ban_words(sequence: &[u32], words: &[Vec<u32>], scores: &mut [f32]) {
    for word in words {
        let Some((last, before)) = word.split_last() else { continue };
        let begun = before.is_empty() || (word.len() <= sequence.len() && sequence.ends_with(before));
        if let Some(score) = scores.get_mut(*last as usize).filter(|_| begun) {
            *score = f32::NEG_INFINITY;
        }
    }
}

/// Bans every other token. One that is banned itself comes all the same.
fn allow_only(token: u32, scores: &mut [f32]) {
    for (_, score) in scores.iter_mut().enumerate().filter(|(id, _)| *id != token as usize) {
        *score = f32::NEG_INFINITY;
    }
    if let Some(score) = scores.get_mut(token as usize).filter(|score| **score == f32::NEG_INFINITY) {
        *score = 0.0;
    }
}

fn top_k(scores: &mut [f32], k: usize) {
    let k = k.min(scores.len());
    let mut sorted = scores.to_vec();
    let (_, threshold, _) = sorted.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
    let threshold = *threshold;
    scores.iter_mut().filter(|score| **score < threshold).for_each(|score| *score = f32::NEG_INFINITY);
}

fn top_p(scores: &mut [f32], mass: f32, keep: usize) {
    let p = softmax(scores);
    let order = order_by(scores.len(), |&a, &b| scores[a].total_cmp(&scores[b]));
    let mut sum = 0.0;
    for &id in &order[..order.len().saturating_sub(keep)] {
        sum += p[id];
        if sum > 1.0 - f64::from(mass) {
            break;
        }
        scores[id] = f32::NEG_INFINITY;
    }
}

fn typical_p(scores: &mut [f32], mass: f32, keep: usize) {
    let p = softmax(scores);
    let entropy = entropy(&p);
    let away = |id: usize| if p[id] > 0.0 { (-p[id].ln() - entropy).abs() } else { f64::INFINITY };
    let order = order_by(scores.len(), |&a, &b| away(a).total_cmp(&away(b)));
    let mut sum = 0.0;
    let last = order.iter().take_while(|&&id| {
        sum += p[id];
        sum < f64::from(mass)
    });
    let limit = away(order[last.count().min(order.len() - 1)]);
    for &id in order.iter().skip(keep).filter(|&&id| away(id) > limit) {
        scores[id] = f32::NEG_INFINITY;
    }
}

/// Drops what is less likely than `least`, but never the `keep` likeliest.
fn drop_below(scores: &mut [f32], p: &[f64], least: f64, keep: usize) {
    let order = order_by(scores.len(), |&a, &b| scores[b].total_cmp(&scores[a]));
    for &id in order.iter().skip(keep).filter(|&&id| p[id] < least) {
        scores[id] = f32::NEG_INFINITY;
    }
}

fn order_by(n: usize, compare: impl FnMut(&usize, &usize) -> std::cmp::Ordering) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(compare);
    order
}

fn entropy(p: &[f64]) -> f64 {
    -p.iter().filter(|p| **p > 0.0).map(|p| p * p.ln()).sum::<f64>()
}

/// Probabilities of scores. Scores that grew beyond all numbers share all of it.
pub fn softmax(scores: &[f32]) -> Vec<f64> {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if largest == f32::INFINITY {
        let count = scores.iter().filter(|&&s| s == largest).count() as f64;
        return scores.iter().map(|&s| if s == largest { 1.0 / count } else { 0.0 }).collect();
    }
    let weights: Vec<f64> = scores.iter().map(|&s| f64::from(s - largest).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|w| w / total).collect()
}

/// Log-probabilities of scores.
pub fn log_softmax(scores: &[f32]) -> Vec<f32> {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = scores.iter().map(|&s| f64::from(s - largest).exp()).sum();
    let shift = f64::from(largest) + total.ln();
    scores.iter().map(|&s| (f64::from(s) - shift) as f32).collect()
}

/// The lowest index of the largest score.
pub fn argmax(scores: &[f32]) -> u32 {
    let best = (0..scores.len()).reduce(|best, i| if scores[i] > scores[best] { i } else { best });
    best.unwrap_or(0) as u32
}

/// The `k` indices below `n` with the largest keys, largest first and lowest index first among equals.
pub fn best(k: usize, n: usize, key: impl Fn(usize) -> f32) -> Vec<usize> {
    let compare = |a: &usize, b: &usize| key(*b).total_cmp(&key(*a)).then(a.cmp(b));
    let mut all: Vec<usize> = (0..n).collect();
    if k < n {
        all.select_nth_unstable_by(k, compare);
        all.truncate(k);
    }
    all.sort_by(compare);
    all
}

/// Draws an index by probability.
pub fn draw(p: &[f64], random: &mut fastrand::Rng) -> u32 {
    let total: f64 = p.iter().sum();
    let mut left = random.f64() * total;
    let mut last = 0;
    for (i, &p) in p.iter().enumerate().filter(|(_, p)| **p > 0.0) {
        last = i;
        left -= p;
        if left < 0.0 {
            break;
        }
    }
    last as u32
}
