//! Timing plans on the device and by the wall.

use std::time::{Duration, Instant};

use crate::error::Result;
use crate::runtime::{Device, Plan};

/// Times plans on one device.
pub struct Clock<'a> {
    device: &'a Device,
}

/// Times of a plan in microseconds: of two runs where the device has a clock, one by each.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// The time of all dispatches by the device's clock; wall time where it has none.
    pub device_us: f64,
    /// The time from submit to done.
    pub wall_us: f64,
}

impl<'a> Clock<'a> {
    /// A clock for plans of this device.
    pub fn new(device: &'a Device) -> Clock<'a> {
        Clock { device }
    }

    /// Runs a plan, and once more for the device's clock where there is one: reading it makes small kernels slower.
    pub fn time(&self, plan: &Plan) -> Result<Times> {
        let start = Instant::now();
        plan.submit()?;
        self.device.wait()?;
        let wall_us = start.elapsed().as_secs_f64() * 1e6;
        let device_us = match self.device.has_timestamps() {
            true => plan.profile()?.iter().map(|timing| timing.microseconds).sum(),
            false => wall_us,
        };
        Ok(Times { device_us, wall_us })
    }

    /// Runs a plan `runs` times: fewer if that takes more than a second, but twice at least.
    pub fn times(&self, plan: &Plan, runs: usize) -> Result<Vec<Times>> {
        let start = Instant::now();
        let mut times = Vec::new();
        while times.len() < runs && (times.len() < 2 || start.elapsed() < Duration::from_secs(1)) {
            times.push(self.time(plan)?);
        }
        Ok(times)
    }
}

/// The least time on the device; infinite of none.
pub fn least(times: &[Times]) -> f64 {
    times.iter().map(|t| t.device_us).fold(f64::INFINITY, f64::min)
}

/// The result of `work`, and the milliseconds it takes.
///
/// # Errors
/// Those of `work`.
pub fn milliseconds<T, E>(work: impl FnOnce() -> Result<T, E>) -> Result<(T, f64), E> {
    let start = Instant::now();
    let value = work()?;
    Ok((value, start.elapsed().as_secs_f64() * 1e3))
}

/// CPU time of this thread so far in microseconds.
#[cfg(unix)]
pub fn thread_us() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    now.tv_sec as f64 * 1e6 + now.tv_nsec as f64 / 1e3
}

/// Wall time in microseconds, where a thread's own is not known.
#[cfg(not(unix))]
pub fn thread_us() -> f64 {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    START.elapsed().as_secs_f64() * 1e6
}

/// The middle one; 0 of none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let sorted = sorted(values);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// Half the distance between the quartiles, in per cent of the median.
pub fn spread_percent(values: impl IntoIterator<Item = f64>) -> f64 {
    let sorted = sorted(values);
    let at = |share: f64| sorted.get((share * (sorted.len() as f64 - 1.0)).round() as usize).copied();
    match (at(0.25), at(0.5), at(0.75)) {
        (Some(low), Some(middle), Some(high)) if middle > 0.0 => 50.0 * (high - low) / middle,
        _ => 0.0,
    }
}

fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_spreads_are_those_of_the_sorted_values() {
        assert_eq!((median([3.0, 1.0, 2.0]), median([])), (2.0, 0.0));
        assert_eq!(spread_percent([1.0, 2.0, 3.0, 4.0, 5.0]), 50.0 * 2.0 / 3.0);
        assert_eq!((spread_percent([7.0]), spread_percent([])), (0.0, 0.0));
    }

    #[test]
    fn a_thread_that_computes_uses_its_time() {
        let before = thread_us();
        let sum: u64 = (0..1_000_000u64).map(std::hint::black_box).sum();
        assert!(sum > 0 && thread_us() > before);
    }
}
