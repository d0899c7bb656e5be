//! The search: one size after the other, each at the shapes it matters for, on what the ones before gave.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::case::{Case, Depth, Launches, References, Setup};
use super::cases;
use super::clock::{Clock, median};
use super::kernels::Prepared;
use crate::error::Result;
use crate::runtime::{AdapterClass, Caps, Device, Plan, Tuning};

/// Time for everything.
const LIMIT: Duration = Duration::from_secs(30);

/// Runs of each candidate, time permitting.
const ROUNDS: usize = 15;
/// Runs without which a candidate is not judged.
const FEWEST: usize = 3;

/// Another size must take less than this share of the time to be chosen: smaller gains are within what a machine does by
/// itself.
const WORTH: f64 = 0.97;

/// One step of the search: the candidates and the chosen one.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// The kernels it is about.
    pub name: &'static str,
    /// The candidates; the first is the size that it was before.
    pub candidates: Vec<Candidate>,
    /// The number of the chosen one.
    pub chosen: usize,
    /// The reason why it was not done, or not done to the end.
    pub note: Option<String>,
}

/// One way to run the same.
#[derive(Clone, Debug, Serialize)]
pub struct Candidate {
    /// The sizes in words.
    pub name: String,
    /// Time relative to the first candidate's, over all shapes; `None` if it was not timed.
    pub relative: Option<f64>,
    /// Largest error against f64.
    pub error: f64,
    /// True if it was right at every shape.
    pub right: bool,
}

/// The sizes that are tried in a step, each on the best so far, and the cases where they matter.
struct Trial {
    name: &'static str,
    cases: Vec<Case>,
    candidates: Vec<(String, Tuning)>,
}

/// The devices that candidates run on.
#[derive(Clone, Copy, Debug)]
pub struct Devices<'a> {
    /// The one that most run on.
    pub usual: &'a Device,
    /// One of the same adapter without robust access, where it can do without.
    pub bare: Option<&'a Device>,
}

impl<'a> Devices<'a> {
    /// The one that a tuning is for.
    fn of(self, tuning: &Tuning) -> &'a Device {
        self.bare.filter(|_| !tuning.robust_access).unwrap_or(self.usual)
    }
}

/// Looks for the best sizes on an adapter. `progress` hears how many of the [`STEPS`] are done.
///
/// # Errors
/// Whatever went wrong on the GPU.
pub fn search(devices: Devices<'_>, progress: &mut dyn FnMut(u64)) -> Result<(Tuning, Vec<Step>)> {
    let started = Instant::now();
    let caps = devices.usual.caps();
    let mut best = Tuning::of(caps.class);
    let mut steps = Vec::new();
    for (index, trial) in TRIALS.iter().enumerate() {
        let trial = trial(&caps, best);
        let share = LIMIT.saturating_sub(started.elapsed()) / (STEPS - index) as u32;
        let step = compare(devices, &trial, Instant::now() + share)?;
        best = trial.candidates[step.chosen].1;
        steps.push(step);
        progress(index as u64 + 1);
    }
    Ok((best, steps))
}

/// Steps of the search.
pub const STEPS: usize = TRIALS.len();

/// The steps of the search, in this order.
const TRIALS: [fn(&Caps, Tuning) -> Trial; 6] = [vectors, rows, norms, shares, tiles, guards];

/// Rows and columns of the layers; a software adapter is tuned in tests only, which have no time.
fn width(caps: &Caps) -> u32 {
    if caps.class == AdapterClass::Gpu { 4096 } else { 512 }
}

fn layers(shapes: &[(u32, u32, u32)]) -> Vec<Case> {
    let mut cases = cases::linear::published(shapes);
    cases.retain(|case| case.op != "linear q8");
    cases
}

impl Trial {
    /// A trial of these tunings, each once, which `named` puts in words.
    fn new(
        name: &'static str,
        cases: Vec<Case>,
        tunings: impl IntoIterator<Item = Tuning>,
        named: impl Fn(Tuning) -> String,
    ) -> Trial {
        let mut candidates: Vec<(String, Tuning)> = Vec::new();
        for tuning in tunings {
            if !candidates.iter().any(|(_, other)| *other == tuning) {
                candidates.push((named(tuning), tuning));
            }
        }
        Trial { name, cases, candidates }
    }
}

fn vectors(caps: &Caps, best: Tuning) -> Trial {
    let mut tunings = vec![best];
    for vec_subgroup in [true, false] {
        tunings.extend([32, 64, 128, 256].map(|vec_workgroup| Tuning { vec_subgroup, vec_workgroup, ..best }));
    }
    let n = width(caps);
    Trial::new("linear_vec", layers(&[(1, n, n), (1, 3 * n, n)]), tunings, |t| match t.vec_subgroup {
        true => format!("{} invocations, by subgroups", t.vec_workgroup),
        false => format!("{} invocations", t.vec_workgroup),
    })
}

fn rows(caps: &Caps, best: Tuning) -> Trial {
    let n = width(caps);
    // Between the two shapes nobody knows: the middle.
    let tunings = [best.vec_rows, 8, 6, 4].map(|vec_rows| Tuning { vec_rows, ..best });
    let named = |t: Tuning| format!("up to {} rows by linear_vec", t.vec_rows);
    Trial::new("rows", layers(&[(5, n, n), (8, n, n)]), tunings, named)
}

fn norms(caps: &Caps, best: Tuning) -> Trial {
    let n = width(caps);
    let tunings = [best.fuse_norm, !best.fuse_norm].map(|fuse_norm| Tuning { fuse_norm, ..best });
    let named = |t: Tuning| if t.fuse_norm { "norm on the way".into() } else { "norm by itself".into() };
    Trial::new("norm", vec![cases::linear::published_normed(3 * n, n)], tunings, named)
}

fn shares(_: &Caps, best: Tuning) -> Trial {
    let tunings = [best.decode_splits, 1, 4, 8, 16, 32].map(|decode_splits| Tuning { decode_splits, ..best });
    let mut cases = cases::of(Depth::Published);
    cases.retain(|case| case.op == "attention_cached" && case.shape.starts_with("1 rows"));
    Trial::new("attention", cases, tunings, |t| format!("{} shares of the keys", t.decode_splits))
}

/// Tiles of `linear_matrix` and shares of their inputs, at shapes of a vision tower and of a prompt. Where it does not run
/// all candidates are launched in the same way.
fn tiles(caps: &Caps, best: Tuning) -> Trial {
    let n = width(caps);
    let tile = |(matrix_rows, matrix_columns)| Tuning { matrix_rows, matrix_columns, ..best };
    let by_tile = [(0, 0), (128, 128), (96, 128), (64, 128), (64, 64)].map(tile);
    let all = by_tile.into_iter().flat_map(|by| [4, 2, 8].map(|matrix_splits| Tuning { matrix_splits, ..by }));
    let named = |t: Tuning| match t.matrix_rows {
        0 => format!("tiles by shape, up to {} shares", t.matrix_splits),
        rows => format!("{rows} x {}, up to {} shares", t.matrix_columns, t.matrix_splits),
    };
    let shapes = [(257, n, n / 4), (257, n / 4, n), (257, n / 4, n / 4), (512, n, n)];
    Trial::new("linear_matrix", layers(&shapes), [best].into_iter().chain(all), named)
}

fn guards(caps: &Caps, best: Tuning) -> Trial {
    let n = width(caps);
    let tunings = [true, false].map(|robust_access| Tuning { robust_access, ..best });
    let named = |t: Tuning| if t.robust_access { "with".into() } else { "without".into() };
    Trial::new("robust access", layers(&[(1, 3 * n, n), (64, n, n)]), tunings, named)
}

/// A candidate at a shape.
struct Ready<'a> {
    candidate: usize,
    clock: Clock<'a>,
    plan: Plan,
    times: Vec<f64>,
}

/// Times every candidate that is right at every shape.
fn compare(devices: Devices<'_>, trial: &Trial, until: Instant) -> Result<Step> {
    let names = trial.candidates.iter();
    let mut candidates: Vec<Candidate> =
        names.map(|(name, _)| Candidate { name: name.clone(), relative: None, error: 0.0, right: true }).collect();
    // Logarithms of times relative to the first, by shape.
    let mut logs: Vec<Vec<f64>> = vec![Vec::new(); candidates.len()];
    let mut shapes = 0;
    let mut note = None;
    for (i, case) in trial.cases.iter().enumerate() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            note = Some(format!("{} of {} shapes, for want of time", i, trial.cases.len()));
            break;
        }
        let stop = Instant::now() + left / (trial.cases.len() - i) as u32;
        let times = time_all(devices, case, trial, &mut candidates, stop)?;
        if let Some(before) = times[0] {
            shapes += 1;
            let each = times.iter().enumerate().filter_map(|(n, us)| Some((n, (*us)?)));
            each.for_each(|(n, us)| logs[n].push((us / before).ln()));
        }
    }
    for (candidate, logs) in candidates.iter_mut().zip(&logs) {
        // One that was wrong anywhere has fewer.
        if shapes > 0 && logs.len() == shapes && candidate.right {
            candidate.relative = Some((logs.iter().sum::<f64>() / shapes as f64).exp());
        }
    }
    let chosen = best_of(&candidates);
    Ok(Step { name: trial.name, candidates, chosen, note })
}

/// Median times of the candidates at one shape, taken in turns, so that whatever the machine does meanwhile befalls all;
/// `None` of those that are wrong there.
fn time_all(
    devices: Devices<'_>,
    case: &Case,
    trial: &Trial,
    candidates: &mut [Candidate],
    stop: Instant,
) -> Result<Vec<Option<f64>>> {
    let mut known = References::default();
    let mut setups: Vec<(bool, Setup)> = Vec::new();
    let mut launched: Vec<(bool, Launches)> = Vec::new();
    let mut ready: Vec<Ready<'_>> = Vec::new();
    for (number, (candidate, (_, tuning))) in candidates.iter_mut().zip(&trial.candidates).enumerate() {
        let device = devices.of(tuning);
        let caps = Caps { tuning: *tuning, ..device.caps() };
        let robust = device.caps().tuning.robust_access;
        if !setups.iter().any(|(of, _)| *of == robust) {
            setups.push((robust, case.setup(device)?));
        }
        let setup = setups.iter().find(|(of, _)| *of == robust).map(|(_, setup)| setup).expect("one was just made");
        let prepared = Prepared::new(case, setup, device, caps, &mut known)?;
        let right = prepared.is_right();
        candidate.error = candidate.error.max(prepared.error);
        candidate.right &= right;
        // The same kernels in the same way take the same time.
        let launches = (robust, prepared.launches);
        if right && !launched.contains(&launches) {
            ready.push(Ready { candidate: number, clock: Clock::new(device), plan: prepared.cold, times: Vec::new() });
        }
        launched.push(launches);
    }
    for round in 0..ROUNDS {
        if round >= FEWEST && Instant::now() > stop {
            break;
        }
        for one in &mut ready {
            one.times.push(one.clock.time(&one.plan)?.device_us);
        }
    }
    let time = |launches| {
        // Of the candidates that are launched in the same way, the first was timed.
        let first = launched.iter().position(|other| other == launches)?;
        let timed = ready.iter().find(|one| one.candidate == first)?;
        Some(median(timed.times.iter().copied()))
    };
    Ok(launched.iter().map(time).collect())
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
