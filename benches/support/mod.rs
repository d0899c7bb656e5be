//! What both benches need: arguments, medians, tables and CSV rows.
#![allow(dead_code)] // each bench uses its part

use std::io::Write;
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// `--name value` pairs and plain words of the command line.
pub struct Arguments {
    words: Vec<String>,
}

impl Arguments {
    /// The process's arguments, without what `cargo bench` adds.
    pub fn new() -> Arguments {
        Arguments { words: std::env::args().skip(1).filter(|a| a != "--bench").collect() }
    }

    /// Takes `--name value` out.
    pub fn value(&mut self, name: &str) -> Result<Option<String>> {
        let Some(at) = self.words.iter().position(|w| w == name) else { return Ok(None) };
        self.words.remove(at);
        if at >= self.words.len() {
            bail!("{name} wants a value");
        }
        Ok(Some(self.words.remove(at)))
    }

    /// Takes `--name N` out.
    pub fn number(&mut self, name: &str) -> Result<Option<u32>> {
        self.value(name)?.map(|text| text.parse().with_context(|| format!("{name} {text}"))).transpose()
    }

    /// Takes `--name` out; whether it was there.
    pub fn flag(&mut self, name: &str) -> bool {
        let before = self.words.len();
        self.words.retain(|w| w != name);
        self.words.len() < before
    }

    /// The words that are left; options among them are unknown.
    pub fn finish(self) -> Result<Vec<String>> {
        match self.words.iter().find(|w| w.starts_with('-')) {
            Some(unknown) => bail!("unknown option {unknown}"),
            None => Ok(self.words),
        }
    }
}

/// Seeded values, uniform in (-1, 1).
pub fn noise(seed: u64, count: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Milliseconds that `work` takes.
pub fn milliseconds<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let start = Instant::now();
    let value = work()?;
    Ok((value, start.elapsed().as_secs_f64() * 1000.0))
}

/// CPU time of this thread so far in microseconds; NaN where the system does not tell.
pub fn thread_cpu_us() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).map_or(f64::NAN, |ns| ns / 1e3)
}

/// Appends rows to a CSV file, with the header if the file is new.
pub fn append_csv(path: &str, header: &str, rows: &[String]) -> Result<()> {
    let new = !std::path::Path::new(path).exists();
    let mut file =
        std::fs::OpenOptions::new().create(true).append(true).open(path).with_context(|| path.to_string())?;
    if new {
        writeln!(file, "{header}")?;
    }
    rows.iter().try_for_each(|row| writeln!(file, "{row}"))?;
    Ok(())
}
