//! The search: one size after the other, each at the shapes it matters for, on what the ones before gave.

use std::time::{Duration, Instant};

use anyhow::Result;
use instructblip::Device;
use instructblip::runtime::{AdapterClass, Caps, Plan, Tuning};
use serde::Serialize;

use crate::bench::cases::{Entry, Lab, Launch, Prepared};
use crate::bench::time::{Clock, median};

/// Time for everything.
const LIMIT: Duration = Duration::from_secs(30);

/// Runs of each candidate, time permitting.
const ROUNDS: usize = 15;
/// Runs without which a candidate is not judged.
const FEWEST: usize = 3;

/// How much less time another size must take to be chosen: less is within what a machine does by itself.
const WORTH: f64 = 0.97;

/// What one step of the search looked for and found.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// What it is about.
    pub name: &'static str,
    /// What was compared; the first is what it was before.
    pub candidates: Vec<Candidate>,
    /// The number of the chosen one.
    pub chosen: usize,
    /// Why it was not done, or not done to the end.
    pub note: Option<String>,
}

/// One way to run the same.
#[derive(Clone, Debug, Serialize)]
pub struct Candidate {
    /// In words.
    pub name: String,
    /// Time relative to what it was before, over all shapes; `None` if it was not timed.
    pub relative: Option<f64>,
    /// Largest error against f64.
    pub error: f64,
    /// Whether it was right at every shape.
    pub right: bool,
}

/// A step: the sizes that are tried, each on what is best so far, and where they matter.
struct Plans<'a> {
    name: &'static str,
    entries: Vec<Entry<'a>>,
    candidates: Vec<(String, Tuning)>,
}

/// Looks for the best sizes on a device.
pub fn search(device: &Device, progress: &mut dyn FnMut(u64)) -> Result<(Tuning, Vec<Step>)> {
    let started = Instant::now();
    let lab = Lab { device, caps: device.caps() };
    let mut best = Tuning::of(device.caps().class);
    let mut steps = Vec::new();
    for index in 0..STEPS {
        let plans = plan(&lab, index, best);
        let share = LIMIT.saturating_sub(started.elapsed()) / (STEPS - index) as u32;
        let step = compare(&lab, &plans, Instant::now() + share)?;
        best = plans.candidates[step.chosen].1;
        steps.push(step);
        progress(index as u64 + 1);
    }
    Ok((best, steps))
}

/// Steps of the search.
pub const STEPS: usize = 4;

fn plan<'a>(lab: &'a Lab<'a>, index: usize, best: Tuning) -> Plans<'a> {
    // A software adapter is tuned in tests only, which have no time.
    let width = if lab.caps.class == AdapterClass::Gpu { 4096 } else { 512 };
    let linear = |shapes: &[(u32, u32, u32)]| -> Vec<Entry<'a>> {
        let cases = lab.cases(shapes).into_iter();
        cases.filter(|entry| matches!(entry.op, "linear" | "linear q4")).collect()
    };
    let mut candidates = Vec::new();
    let mut push = |name: String, tuning: Tuning| {
        let there = candidates.iter().any(|(_, other)| *other == tuning);
        if !there {
            candidates.push((name, tuning));
        }
    };
    let (name, entries) = match index {
        0 => {
            let named = |t: Tuning| match t.vec_subgroup && lab.caps.subgroup_size.is_some() {
                true => format!("a subgroup, {} columns", t.vec_columns),
                false => format!("{} invocations, {} columns", t.vec_workgroup, t.vec_columns),
            };
            push(named(best), best);
            for vec_columns in [4, 8] {
                let t = Tuning { vec_columns, ..best };
                push(named(t), t);
                for vec_workgroup in [32, 64, 128, 256] {
                    let t = Tuning { vec_subgroup: false, vec_workgroup, ..t };
                    push(named(t), t);
                }
            }
            ("linear_vec", linear(&[(1, width, width), (1, 3 * width, width)]))
        }
        1 => {
            // Between the two shapes nobody knows: the middle.
            for vec_rows in [best.vec_rows, 8, 6, 4] {
                push(format!("up to {vec_rows} rows by linear_vec"), Tuning { vec_rows, ..best });
            }
            ("rows", linear(&[(5, width, width), (8, width, width)]))
        }
        2 => {
            for fuse_norm in [best.fuse_norm, !best.fuse_norm] {
                let name = if fuse_norm { "norm on the way" } else { "norm by itself" };
                push(name.into(), Tuning { fuse_norm, ..best });
            }
            ("norm", vec![lab.normed_case(3 * width, width)])
        }
        _ => {
            for decode_splits in [best.decode_splits, 1, 4, 8, 16, 32] {
                push(format!("{decode_splits} shares of the keys"), Tuning { decode_splits, ..best });
            }
            let cases = lab.cases(&[]).into_iter();
            ("attention", cases.filter(|e| e.op == "attention_cached" && e.shape.starts_with("1 rows")).collect())
        }
    };
    Plans { name, entries, candidates }
}

/// A candidate at a shape.
struct Ready {
    candidate: usize,
    plan: Plan,
    times: Vec<f64>,
}

/// Times every candidate that is right at every shape, in turn, so that what the machine does meanwhile befalls all.
fn compare(lab: &Lab<'_>, plans: &Plans<'_>, until: Instant) -> Result<Step> {
    let names = plans.candidates.iter();
    let mut candidates: Vec<Candidate> =
        names.map(|(name, _)| Candidate { name: name.clone(), relative: None, error: 0.0, right: true }).collect();
    // Logarithms of times relative to the first, by shape.
    let mut logs: Vec<Vec<f64>> = vec![Vec::new(); candidates.len()];
    let mut shapes = 0;
    let mut note = None;
    let clock = Clock::new(lab.device);
    for (i, entry) in plans.entries.iter().enumerate() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            note = Some(format!("{} of {} shapes, for want of time", i, plans.entries.len()));
            break;
        }
        let stop = Instant::now() + left / (plans.entries.len() - i) as u32;
        let case = entry.make()?;
        let mut seen: Vec<(Launch, usize)> = Vec::new();
        let mut ready: Vec<Ready> = Vec::new();
        for (number, (_, tuning)) in plans.candidates.iter().enumerate() {
            let caps = Caps { tuning: *tuning, ..lab.caps };
            let prepared = lab.prepare(&case, caps)?;
            let right = prepared.is_right();
            let Prepared { launch, error, cold: plan, .. } = prepared;
            let candidate = &mut candidates[number];
            candidate.error = if error.is_nan() { f64::INFINITY } else { candidate.error.max(error) };
            candidate.right &= right;
            // The same kernels in the same way take the same time.
            if right && !seen.iter().any(|(other, _)| *other == launch) {
                ready.push(Ready { candidate: number, plan, times: Vec::new() });
            }
            seen.push((launch, number));
        }
        for round in 0..ROUNDS {
            if round >= FEWEST && Instant::now() > stop {
                break;
            }
            for made in &mut ready {
                made.times.push(clock.time(&made.plan)?.device_us);
            }
        }
        // Of the kernels that are launched in the same way, the first was timed.
        let time = |number: usize| {
            let (launch, _) = seen.iter().find(|(_, n)| *n == number)?;
            let (_, first) = seen.iter().find(|(other, _)| other == launch)?;
            let made = ready.iter().find(|made| made.candidate == *first)?;
            Some(median(made.times.iter().copied()))
        };
        if let Some(before) = time(0) {
            shapes += 1;
            (0..logs.len()).filter_map(|n| Some((n, time(n)?))).for_each(|(n, us)| logs[n].push((us / before).ln()));
        }
    }
    for (candidate, logs) in candidates.iter_mut().zip(&logs) {
        // One that was wrong anywhere has fewer.
        if shapes > 0 && logs.len() == shapes && candidate.right {
            candidate.relative = Some((logs.iter().sum::<f64>() / shapes as f64).exp());
        }
    }
    let chosen = best_of(&candidates);
    Ok(Step { name: plans.name, candidates, chosen, note })
}

/// The fastest if it is worth it, else the first.
fn best_of(candidates: &[Candidate]) -> usize {
    let timed = candidates.iter().enumerate().filter_map(|(i, c)| Some((i, c.relative?)));
    match timed.min_by(|a, b| a.1.total_cmp(&b.1)) {
        // Where the usual one is wrong or was not timed there is nothing to compare with.
        Some((i, relative)) if relative <= WORTH => i,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_size_must_be_worth_it() {
        let candidates = |relative: &[Option<f64>]| -> Vec<Candidate> {
            let candidate = |&relative| Candidate { name: String::new(), relative, error: 0.0, right: true };
            relative.iter().map(candidate).collect()
        };
        assert_eq!(best_of(&candidates(&[Some(1.0), Some(0.98), Some(1.2)])), 0);
        assert_eq!(best_of(&candidates(&[Some(1.0), Some(0.9), Some(0.8), None])), 2);
        assert_eq!(best_of(&candidates(&[None, None])), 0);
    }
}
