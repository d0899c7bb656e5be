//! Two runs side by side, and what of their differences is more than noise.

use serde_json::{Value, json};

use super::numbers::{self, NONE, spread};
use super::table::Table;
use instructblip::lab::results::{Adapter, Ceilings, KernelRow, ModelResults, Results};

/// A difference below this, in per cent, is not to be believed: the spread within a run tells nothing of clocks and memory
/// that differ from run to run, and the spread of a stage's time is not measured.
const NOISE_PERCENT: f64 = 5.0;
/// Runs of a measurement below which its spread is an accident.
const FEW_RUNS: u32 = 5;
/// A ceiling is a property of the adapter: a difference above this, in per cent, is one of clocks or of other work.
const CEILING_NOISE_PERCENT: f64 = 10.0;

/// The meaning of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Faster,
    Slower,
    /// Within the spreads of both.
    Noise,
    /// One of the times is missing.
    Unknown,
}

impl Verdict {
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Faster => "faster",
            Verdict::Slower => "slower",
            Verdict::Noise => "noise",
            Verdict::Unknown => "unknown",
        }
    }
}

/// The same work in both runs.
#[derive(Clone, Debug)]
pub struct Pair {
    /// `kernel`, `stage`, `prefill` or `decode`.
    pub part: &'static str,
    /// The op, its shape and its variant, or the stage.
    pub name: String,
    /// Kernels, where they are not the same.
    pub note: Option<String>,
    /// Times in microseconds.
    pub before_us: f64,
    pub after_us: f64,
    /// The difference that may be chance, in per cent of the first.
    pub noise_percent: f64,
}

impl Pair {
    /// The time after over the time before: less than 1 is faster.
    pub fn ratio(&self) -> Option<f64> {
        let measured = |us: f64| us.is_finite() && us > 0.0;
        (measured(self.before_us) && measured(self.after_us)).then(|| self.after_us / self.before_us)
    }

    pub fn verdict(&self) -> Verdict {
        match self.ratio() {
            None => Verdict::Unknown,
            // A spread that was not measured makes nothing certain.
            Some(_) if !self.noise_percent.is_finite() => Verdict::Noise,
            Some(ratio) if (ratio - 1.0).abs() * 100.0 <= self.noise_percent => Verdict::Noise,
            Some(ratio) if ratio < 1.0 => Verdict::Faster,
            Some(_) => Verdict::Slower,
        }
    }
}

/// The run that results are of.
#[derive(Clone, Debug)]
pub struct Run {
    pub adapter: Adapter,
    pub version: String,
    pub commit: Option<String>,
    pub date: String,
    pub subject: String,
}

impl Run {
    fn of(results: &Results) -> Run {
        let Results { adapter, version, commit, date, .. } = results.clone();
        Run { adapter, version, commit, date, subject: numbers::subject(results) }
    }

    /// Tells it in one line.
    pub fn line(&self) -> String {
        let Run { adapter, version, commit, date, subject } = self;
        let commit = commit.as_ref().map_or(String::new(), |commit| format!(" at {commit}"));
        format!("{date}, instructblip {version}{commit}, {subject} on {} ({})", adapter.name, adapter.driver)
    }

    fn json(&self) -> Value {
        let Run { adapter, version, commit, date, subject } = self;
        json!({"adapter": adapter, "version": version, "commit": commit, "date": date, "subject": subject})
    }
}

/// Two runs.
#[derive(Clone, Debug)]
pub struct Comparison {
    pub before: Run,
    pub after: Run,
    /// Reasons why the runs may not be comparable.
    pub warnings: Vec<String>,
    pub pairs: Vec<Pair>,
    /// Names of what only one of them has.
    pub only_before: Vec<String>,
    pub only_after: Vec<String>,
}

/// Compares run `b` with run `a`.
pub fn compare(a: &Results, b: &Results) -> Comparison {
    let mut comparison = Comparison {
        before: Run::of(a),
        after: Run::of(b),
        warnings: warnings(a, b),
        pairs: Vec::new(),
        only_before: Vec::new(),
        only_after: Vec::new(),
    };
    // A machine that was faster or slower as a whole makes every row so.
    let changes = ceiling_changes(&a.ceilings, &b.ceilings).into_iter().map(|(_, percent)| percent.abs());
    let floor = changes.fold(NOISE_PERCENT, f64::max);
    comparison.match_rows(kernel_entries(a), kernel_entries(b), floor);
    let entries = |results: &Results| results.model.as_ref().map(model_entries).unwrap_or_default();
    comparison.match_rows(entries(a), entries(b), floor);
    if comparison.pairs.is_empty() {
        comparison.warnings.push("the runs have nothing in common".into());
    }
    comparison
}

/// A time to be matched with one of the other run.
struct Entry {
    part: &'static str,
    name: String,
    kernel: String,
    us: f64,
    /// The spread in per cent of the time; `None` where it was not measured.
    spread: Option<f64>,
}

fn kernel_entries(results: &Results) -> Vec<Entry> {
    let entry = |row: &KernelRow| Entry {
        part: "kernel",
        name: format!("{} {} {}", row.op, row.shape, row.variant),
        kernel: row.kernel.clone(),
        us: row.cold_us,
        spread: Some(row.spread_percent),
    };
    results.kernels.iter().map(entry).collect()
}

fn model_entries(model: &ModelResults) -> Vec<Entry> {
    let entry = |part, name, ms: f64| Entry { part, name, kernel: String::new(), us: ms * 1e3, spread: None };
    let stages = model.stages.iter().map(|row| entry("stage", row.name.clone(), row.ms));
    let prefill = model.prefill.iter().map(|row| entry("prefill", format!("{} tokens", row.tokens), row.ms));
    let decode = model.decode.iter().map(|row| {
        let rows = if row.rows == 1 { "1 row".to_string() } else { format!("{} rows", row.rows) };
        entry("decode", format!("{rows}, {} keys", row.keys), row.ms)
    });
    stages.chain(prefill).chain(decode).collect()
}

impl Comparison {
    /// Matches rows of the same name: first those of the same kernel, then all others in order.
    fn match_rows(&mut self, before: Vec<Entry>, after: Vec<Entry>, floor: f64) {
        let mut partners: Vec<Option<usize>> = vec![None; before.len()];
        let mut free = vec![true; after.len()];
        for same_kernel in [true, false] {
            for (entry, partner) in before.iter().zip(&mut partners).filter(|(_, partner)| partner.is_none()) {
                *partner = (0..after.len()).find(|&j| {
                    let other = &after[j];
                    let same = other.part == entry.part && other.name == entry.name;
                    free[j] && same && (!same_kernel || other.kernel == entry.kernel)
                });
                if let Some(j) = *partner {
                    free[j] = false;
                }
            }
        }
        for (entry, partner) in before.iter().zip(&partners) {
            match partner {
                Some(j) => self.pairs.push(pair(entry, &after[*j], floor)),
                None => self.only_before.push(format!("{} {}", entry.part, entry.name)),
            }
        }
        let left = after.iter().zip(&free).filter(|(_, free)| **free);
        self.only_after.extend(left.map(|(entry, _)| format!("{} {}", entry.part, entry.name)));
    }

    /// Pairs of a verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.pairs.iter().filter(|pair| pair.verdict() == verdict).count()
    }

    /// Geometric mean of the ratios.
    pub fn mean_ratio(&self) -> Option<f64> {
        let logarithms: Vec<f64> = self.pairs.iter().filter_map(Pair::ratio).map(f64::ln).collect();
        (!logarithms.is_empty()).then(|| (logarithms.iter().sum::<f64>() / logarithms.len() as f64).exp())
    }

    /// Tells the outcome in one line.
    pub fn summary(&self) -> String {
        let count = |verdict| self.count(verdict);
        let (faster, slower, noise) = (count(Verdict::Faster), count(Verdict::Slower), count(Verdict::Noise));
        let unknown = match count(Verdict::Unknown) {
            0 => String::new(),
            n => format!(", {n} without a time"),
        };
        let mean =
            self.mean_ratio().map_or(String::new(), |mean| format!("; geometric mean of after/before {mean:.3}"));
        format!("{faster} faster, {slower} slower, {noise} within noise{unknown}{mean}")
    }

    /// Columns, for a terminal.
    pub fn text(&self) -> String {
        let mut text = format!("before  {}\nafter   {}\n", self.before.line(), self.after.line());
        for warning in &self.warnings {
            text += &format!("WARNING {warning}\n");
        }
        if !self.pairs.is_empty() {
            text += &format!("\n{}", self.table().text());
        }
        for (when, names) in [("before", &self.only_before), ("after", &self.only_after)] {
            text += &names.iter().map(|name| format!("only {when}: {name}\n")).collect::<String>();
        }
        text + &format!("\n{}\n", self.summary())
    }

    fn table(&self) -> Table {
        let head = ["part", "name", "before", "after", "after/before", "noise", "verdict", "note"];
        let mut table = Table::new(&head, 2);
        for pair in &self.pairs {
            table.push(vec![
                pair.part.into(),
                pair.name.clone(),
                numbers::time(pair.before_us / 1e3),
                numbers::time(pair.after_us / 1e3),
                pair.ratio().map_or(NONE.into(), |ratio| format!("{ratio:.3}")),
                format!("{} %", spread(pair.noise_percent)),
                pair.verdict().name().into(),
                pair.note.clone().unwrap_or_default(),
            ]);
        }
        table
    }

    /// The comparison for programs.
    pub fn json(&self) -> Value {
        let pair = |pair: &Pair| {
            json!({
                "part": pair.part, "name": pair.name, "note": pair.note, "before_us": pair.before_us,
                "after_us": pair.after_us, "ratio": pair.ratio(), "noise_percent": pair.noise_percent,
                "verdict": pair.verdict().name(),
            })
        };
        json!({
            "before": self.before.json(), "after": self.after.json(), "warnings": self.warnings,
            "faster": self.count(Verdict::Faster), "slower": self.count(Verdict::Slower),
            "noise": self.count(Verdict::Noise), "mean_ratio": self.mean_ratio(),
            "pairs": self.pairs.iter().map(pair).collect::<Vec<_>>(),
            "only_before": self.only_before, "only_after": self.only_after,
        })
    }
}

/// `floor` is the least noise in per cent.
fn pair(before: &Entry, after: &Entry, floor: f64) -> Pair {
    let note = (before.kernel != after.kernel).then(|| format!("{} → {}", before.kernel, after.kernel));
    let noise_percent = match (before.spread, after.spread) {
        // The second spread is in per cent of the second time.
        // Spreads are of the middle half of the times; chance moves a median by as much again.
        (Some(a), Some(b)) if before.us > 0.0 => 2.0 * (a + b * after.us / before.us),
        (Some(a), Some(b)) => 2.0 * (a + b),
        _ => floor,
    };
    // A spread that is no number stays one.
    let noise_percent = if noise_percent < floor { floor } else { noise_percent };
    let (part, name) = (before.part, before.name.clone());
    Pair { part, name, note, before_us: before.us, after_us: after.us, noise_percent }
}

/// Circumstances that make a comparison doubtful.
fn warnings(a: &Results, b: &Results) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut differ = |what: &str, a: &str, b: &str| {
        if a != b {
            warnings.push(format!("{what} differ: {a} and {b}"));
        }
    };
    differ("adapters", &a.adapter.name, &b.adapter.name);
    differ("backends", &a.adapter.backend, &b.adapter.backend);
    differ("drivers", &a.adapter.driver, &b.adapter.driver);
    let [m, n] = [a, b].map(|results| numbers::machine(&results.machine));
    differ("machines", &m, &n);
    if let (Some(m), Some(n)) = (&a.model, &b.model) {
        differ("models", &m.name, &n.name);
        differ("weights", &m.weights, &n.weights);
        let [x, y] = [m, n].map(|model| model.layers.map(|n| n.to_string()).join("+"));
        differ("layers", &x, &y);
    }
    for (when, runs) in [("before", a.runs), ("after", b.runs)] {
        let few = runs.filter(|&runs| runs < FEW_RUNS);
        warnings.extend(
            few.map(|runs| format!("{when} has {runs} runs of some rows: too few to tell noise from a difference")),
        );
    }
    warnings.extend(ceiling_warnings(&a.ceilings, &b.ceilings));
    warnings
}

/// Changes in per cent that are more than noise.
fn ceiling_changes(a: &Ceilings, b: &Ceilings) -> Vec<(&'static str, f64)> {
    let ceilings = [
        ("copying", Some(a.copy_gb_s), Some(b.copy_gb_s)),
        ("reading", Some(a.read_gb_s), Some(b.read_gb_s)),
        ("f32 arithmetic", Some(a.f32_gflop_s), Some(b.f32_gflop_s)),
        ("f16 arithmetic", a.f16_gflop_s, b.f16_gflop_s),
        ("matrix arithmetic", a.matrix_gflop_s, b.matrix_gflop_s),
    ];
    let changes = ceilings.into_iter().filter_map(|(name, a, b)| Some((name, (b? / a? - 1.0) * 100.0)));
    changes.filter(|(_, percent)| percent.is_finite() && percent.abs() > CEILING_NOISE_PERCENT).collect()
}

fn ceiling_warnings(a: &Ceilings, b: &Ceilings) -> Vec<String> {
    let told = |(name, percent): (&str, f64)| {
        format!("the ceiling of {name} changed by {percent:+.0} %: other clocks, or other work on the machine")
    };
    ceiling_changes(a, b).into_iter().map(told).collect()
}
