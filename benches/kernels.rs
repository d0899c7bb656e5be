//! Times each kernel at shapes of real models, after checking what it computes.
//!
//! ```text
//! cargo bench --bench kernels -- [FILTER…] [--runs N] [--portable] [--checked] [--csv FILE]
//! ```
//!
//! `--portable` times the forms that every GPU can run, `--checked` keeps the shaders' runtime checks.
//!
//! Every case is checked against f64 at sampled outputs; a wrong kernel ends the program with no time printed.
//! Weights rotate over several copies, so that a last-level cache does not pass for memory.

mod support;

use anyhow::{Result, ensure};
use instructblip::runtime::{
    Caps, Category, Device, DeviceOptions, Heads, KvLayer, Linear, Mask, Matrix, Norm, Plan, Recorder, Step, Tensor,
};
use support::{Arguments, append_csv, median, milliseconds, noise};

const HEADER: &str = "version,device,kernel,op,shape,gpu_us,wall_us,gb_per_s,gflop_per_s,percent_of_peak";
/// Copies of a case's weights are made up to this many bytes together.
const ROTATED_BYTES: u64 = 512 << 20;

/// Records the op over one copy of its weights.
type Record<'a> = Box<dyn Fn(&mut Recorder, usize) -> Tensor + 'a>;
/// The relative error of an output.
type Check<'a> = Box<dyn Fn(&[f32]) -> Result<f64> + 'a>;

/// Something to time: `record` writes the op once; `check` compares its output with f64.
struct Case<'a> {
    op: &'static str,
    shape: String,
    /// Least traffic: every operand once.
    bytes: u64,
    copies: usize,
    step: Step,
    record: Record<'a>,
    check: Check<'a>,
}

struct Row {
    kernel: String,
    op: &'static str,
    shape: String,
    gpu_us: f64,
    wall_us: f64,
    bytes: u64,
    flops: u64,
}

fn main() -> Result<()> {
    let mut arguments = Arguments::new();
    let csv = arguments.value("--csv")?;
    let runs = arguments.number("--runs")?.unwrap_or(5) as usize;
    let options =
        DeviceOptions { portable: arguments.flag("--portable"), checked: arguments.flag("--checked"), adapter: None };
    let filters = arguments.finish()?;
    let device = Device::open(&options)?;
    println!("{}", device.name());
    let caps = if options.portable { Caps::PORTABLE } else { device.caps() };
    let bench = Bench { device: &device, caps };
    let mut rows = Vec::new();
    for make in bench.cases() {
        let wanted = |case: &Case<'_>| {
            filters.is_empty() || filters.iter().any(|f| format!("{} {}", case.op, case.shape).contains(f.as_str()))
        };
        let case = make()?;
        if wanted(&case) {
            eprintln!("{} {}", case.op, case.shape);
            rows.push(bench.time(&case, runs)?);
        }
    }
    let csv_rows = print(&device, &rows);
    if let Some(path) = csv {
        append_csv(&path, HEADER, &csv_rows)?;
    }
    Ok(())
}

/// Prints the table; peaks are the fastest transfer and the fastest arithmetic of this run.
fn print(device: &Device, rows: &[Row]) -> Vec<String> {
    let best = |row: &Row| if row.gpu_us.is_nan() { row.wall_us } else { row.gpu_us };
    let gb = |row: &Row| row.bytes as f64 / best(row) / 1e3;
    let gflop = |row: &Row| row.flops as f64 / best(row) / 1e3;
    let peak_gb = rows.iter().map(gb).fold(0.0, f64::max);
    let peak_gflop = rows.iter().map(gflop).fold(0.0, f64::max);
    println!("peaks of this run: {peak_gb:.1} GB/s, {peak_gflop:.1} GFLOP/s");
    println!(
        "{:<18} {:<22} {:<34} {:>10} {:>10} {:>8} {:>9} {:>6}",
        "op", "kernel", "shape", "gpu us", "wall us", "GB/s", "GFLOP/s", "% peak"
    );
    let mut csv = Vec::new();
    for row in rows {
        let percent = 100.0 * (gb(row) / peak_gb).max(gflop(row) / peak_gflop);
        let numbers = [row.gpu_us, row.wall_us, gb(row), gflop(row), percent];
        println!(
            "{:<18} {:<22} {:<34} {:>10.1} {:>10.1} {:>8.2} {:>9.1} {:>6.1}",
            row.op, row.kernel, row.shape, numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
        );
        let numbers = numbers.map(|n| format!("{n:.2}")).join(",");
        let version = env!("CARGO_PKG_VERSION");
        csv.push(format!("{version},\"{}\",{},{},{},{numbers}", device.name(), row.kernel, row.op, row.shape));
    }
    csv
}

type MakeCase<'a> = Box<dyn Fn() -> Result<Case<'a>> + 'a>;

struct Bench<'a> {
    device: &'a Device,
    /// What kernel forms are chosen by.
    caps: Caps,
}

impl<'a> Bench<'a> {
    fn time(&self, case: &Case<'_>, runs: usize) -> Result<Row> {
        let mut r = Recorder::new(self.caps);
        let out = (case.record)(&mut r, 0);
        let kernel = r.dispatches()[0].kernel.name.to_string();
        let flops = r.flops();
        let plan = self.run(r, case.step)?;
        let error = (case.check)(&self.device.read(&plan.output(&out))?)?;
        ensure!(error <= 1e-4, "{} {} is wrong: off by {error:e}", case.op, case.shape);
        let mut r = Recorder::new(self.caps);
        for copy in 0..case.copies {
            (case.record)(&mut r, copy);
        }
        let plan = self.run(r, case.step)?;
        let calls = case.copies as f64;
        let wall = |_| -> Result<f64> {
            let ((), ms) = milliseconds(|| {
                plan.submit()?;
                Ok(self.device.wait()?)
            })?;
            Ok(ms * 1e3 / calls)
        };
        let gpu = |_| -> Result<f64> { Ok(plan.profile()?.iter().map(|t| t.microseconds).sum::<f64>() / calls) };
        let gpu_us = match self.device.has_timestamps() {
            true => median((0..runs).map(gpu).collect::<Result<_>>()?),
            false => f64::NAN,
        };
        let wall_us = median((0..runs).map(wall).collect::<Result<_>>()?);
        Ok(Row { kernel, op: case.op, shape: case.shape.clone(), gpu_us, wall_us, bytes: case.bytes, flops })
    }

    fn run(&self, r: Recorder, step: Step) -> Result<Plan> {
        let plan = r.finish(self.device)?;
        plan.write_step(step);
        plan.submit()?;
        self.device.wait()?;
        Ok(plan)
    }

    fn tensor(&self, seed: u64, rows: u32, cols: u32) -> Result<(Tensor, Vec<f32>)> {
        let values = noise(seed, rows * cols);
        Ok((self.device.tensor(Category::Io, "bench", rows, cols, &values)?, values))
    }

    fn cases(self: &'a Bench<'a>) -> Vec<MakeCase<'a>> {
        let mut cases: Vec<MakeCase<'a>> = vec![Box::new(|| self.copy(48 << 18))];
        // Vision tower, Q-Former, LLaMA-7B decode and prefill.
        let linear = [
            (257, 4224, 1408),
            (257, 1408, 1408),
            (257, 6144, 1408),
            (257, 1408, 6144),
            (44, 768, 768),
            (1, 12288, 4096),
            (1, 4096, 4096),
            (1, 4096, 11008),
            (1, 32064, 4096),
            (64, 4096, 4096),
        ];
        for (m, n, k) in linear {
            cases.push(Box::new(move || self.linear(m, n, k, false)));
        }
        for m in [1, 64] {
            cases.push(Box::new(move || self.linear(m, 22016, 4096, true)));
        }
        cases.push(Box::new(|| self.attention(257, 16, 88)));
        cases.push(Box::new(|| self.attention(44, 12, 64)));
        cases.push(Box::new(|| self.attention_cached(1, 300, 32, 128)));
        cases.push(Box::new(|| self.attention_cached(64, 64, 32, 128)));
        cases.push(Box::new(|| self.norm(257, 1408, true)));
        cases.push(Box::new(|| self.norm(1, 4096, false)));
        cases.push(Box::new(|| self.rope(64, 32, 128)));
        cases.push(Box::new(|| self.embed(64, 32064, 4096)));
        cases.push(Box::new(|| self.patches(224, 14)));
        cases.push(Box::new(|| self.put_rows(32, 4096)));
        cases.push(Box::new(|| self.argmax(32064)));
        cases
    }

    fn copy(&self, words: u32) -> Result<Case<'_>> {
        let (x, values) = self.tensor(1, words / 1024, 1024)?;
        Ok(Case {
            op: "copy",
            shape: format!("{} MiB", words >> 18),
            bytes: 8 * u64::from(words),
            copies: 2,
            step: Step::default(),
            record: Box::new(move |r, _| {
                let mut y = r.empty(x.rows(), x.cols());
                r.copy(&mut y, &x);
                y
            }),
            check: Box::new(move |got| Ok(if got == values { 0.0 } else { 1.0 })),
        })
    }

    /// Random weights, filled on the device.
    fn weights(&self, n: u32, k: u32, copies: usize) -> Result<Vec<Linear>> {
        let make = |copy: usize| -> Result<Linear> {
            let weight = Matrix::uninit(self.device, "bench", n, k)?;
            let mut r = Recorder::new(self.caps);
            r.fill(&weight, copy as u32, 1.0);
            r.finish(self.device)?.submit()?;
            Ok(Linear { weight, bias: None })
        };
        (0..copies).map(make).collect()
    }

    /// Some rows of a weight matrix as the device holds them.
    fn weight_rows(&self, weight: &Matrix, rows: &[u32]) -> Result<Vec<f32>> {
        let ids = self.device.tensor(Category::Io, "ids", 1, rows.len() as u32, rows)?;
        let mut r = Recorder::new(self.caps);
        let out = r.embed(&ids, weight);
        let plan = self.run(r, Step::default())?;
        Ok(self.device.read(&plan.output(&out))?)
    }

    fn linear(&self, m: u32, n: u32, k: u32, swiglu: bool) -> Result<Case<'_>> {
        let weight_bytes = u64::from(n) * u64::from(k) * 2;
        let copies = (ROTATED_BYTES / weight_bytes).clamp(1, 4) as usize;
        let layers = self.weights(n, k, copies)?;
        let (x, values) = self.tensor(2, m, k)?;
        let outputs = if swiglu { n / 2 } else { n };
        let sampled: Vec<u32> = [0, 1, 7, outputs / 3, outputs / 2, outputs - 1].to_vec();
        let rows = if swiglu { sampled.iter().flat_map(|&f| [2 * f, 2 * f + 1]).collect() } else { sampled.clone() };
        let weights = self.weight_rows(&layers[0].weight, &rows)?;
        let (kk, width) = (k as usize, outputs as usize);
        let dot = move |i: usize, row: usize| -> f64 {
            let pairs = values[i * kk..][..kk].iter().zip(&weights[row * kk..][..kk]);
            pairs.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
        };
        let check = move |got: &[f32]| {
            let expected = |i: usize, j: usize| match swiglu {
                true => dot(i, 2 * j) / (1.0 + (-dot(i, 2 * j)).exp()) * dot(i, 2 * j + 1),
                false => dot(i, j),
            };
            let points =
                [0, m as usize / 2, m as usize - 1].into_iter().flat_map(|i| (0..sampled.len()).map(move |j| (i, j)));
            let pairs = points.map(|(i, j)| (f64::from(got[i * width + sampled[j] as usize]), expected(i, j)));
            Ok(relative(pairs))
        };
        Ok(Case {
            op: if swiglu { "swiglu" } else { "linear" },
            shape: format!("{m}x{n}x{k}"),
            bytes: weight_bytes + 4 * u64::from(m) * u64::from(k + outputs),
            copies,
            step: Step::default(),
            record: Box::new(move |r, copy| match swiglu {
                true => r.swiglu(&x, &layers[copy]),
                false => r.linear(&x, &layers[copy]),
            }),
            check: Box::new(check),
        })
    }

    fn attention(&self, t: u32, h: u32, d: u32) -> Result<Case<'_>> {
        let width = h * d;
        let (qkv, values) = self.tensor(3, t, 3 * width)?;
        let (w, dd) = (width as usize, d as usize);
        let check = move |got: &[f32]| {
            let at = |row: usize, part: usize, head: usize| &values[row * 3 * w + part * w + head * dd..][..dd];
            let mut pairs = Vec::new();
            for (row, head) in [(0, 0), (t as usize / 2, h as usize / 2), (t as usize - 1, h as usize - 1)] {
                let keys: Vec<(&[f32], &[f32])> = (0..t as usize).map(|s| (at(s, 1, head), at(s, 2, head))).collect();
                let want = attend(at(row, 0, head), &keys);
                pairs.extend(got[row * w + head * dd..][..dd].iter().map(|&g| f64::from(g)).zip(want));
            }
            Ok(relative(pairs.into_iter()))
        };
        Ok(Case {
            op: "attention",
            shape: format!("{t} rows {h} heads of {d}"),
            bytes: 4 * 4 * u64::from(t * width),
            copies: 4,
            step: Step::default(),
            record: Box::new(move |r, _| r.attention(&qkv, Heads::full(h, d), Mask::None)),
            check: Box::new(check),
        })
    }

    /// `t` new rows that end `len` cached ones.
    fn attention_cached(&self, t: u32, len: u32, h: u32, d: u32) -> Result<Case<'_>> {
        let heads = Heads::full(h, d);
        let (q, q_values) = self.tensor(4, t, h * d)?;
        let (keys, k_values) = self.tensor(5, h * len, d)?;
        let (values, v_values) = self.tensor(6, h * len, d)?;
        let kv = KvLayer { keys, values, capacity: len };
        let dd = d as usize;
        let check = move |got: &[f32]| {
            let mut pairs = Vec::new();
            for (row, head) in [(0, 0), (t as usize - 1, h as usize - 1)] {
                let seen = (len - t) as usize + row + 1;
                let at = |s: usize| (head * len as usize + s) * dd;
                let keys: Vec<_> = (0..seen).map(|s| (&k_values[at(s)..][..dd], &v_values[at(s)..][..dd])).collect();
                let first = (row * h as usize + head) * dd;
                let want = attend(&q_values[first..][..dd], &keys);
                pairs.extend(got[first..][..dd].iter().map(|&g| f64::from(g)).zip(want));
            }
            Ok(relative(pairs.into_iter()))
        };
        Ok(Case {
            op: "attention_cached",
            shape: format!("{t} rows {len} keys {h} heads of {d}"),
            bytes: 4 * u64::from(2 * len * h * d + 2 * t * h * d),
            copies: 4,
            step: Step::new(len - t, t),
            record: Box::new(move |r, _| r.attention_cached(&q, &kv, heads)),
            check: Box::new(check),
        })
    }

    fn norm(&self, rows: u32, d: u32, center: bool) -> Result<Case<'_>> {
        let (x, values) = self.tensor(7, rows, d)?;
        let (weight, scale) = self.tensor(8, 1, d)?;
        let bias = if center { Some(weight.clone()) } else { None };
        let norm = Norm { label: "bench".into(), weight, bias, eps: 1e-6 };
        let check = move |got: &[f32]| {
            let last = &values[((rows - 1) * d) as usize..];
            let n = f64::from(d);
            let mean = if center { last.iter().map(|&v| f64::from(v)).sum::<f64>() / n } else { 0.0 };
            let variance = last.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
            let want = last.iter().zip(&scale).map(|(&v, &s)| {
                let s = f64::from(s);
                (f64::from(v) - mean) / (variance + 1e-6).sqrt() * s + if center { s } else { 0.0 }
            });
            Ok(relative(got[((rows - 1) * d) as usize..].iter().map(|&g| f64::from(g)).zip(want)))
        };
        Ok(Case {
            op: if center { "layer_norm" } else { "rms_norm" },
            shape: format!("{rows}x{d}"),
            bytes: 8 * u64::from(rows * d),
            copies: 8,
            step: Step::default(),
            record: Box::new(move |r, _| if center { r.layer_norm(&x, &norm) } else { r.rms_norm(&x, &norm) }),
            check: Box::new(check),
        })
    }

    fn rope(&self, t: u32, h: u32, d: u32) -> Result<Case<'_>> {
        let (qkv, values) = self.tensor(9, t, 3 * h * d)?;
        // Any angles will do: cos and sin of p * j / d.
        let angle = move |p: u32, j: u32| f64::from(p * j) / f64::from(d);
        let table: Vec<f32> = (0..t)
            .flat_map(|p| (0..d / 2).flat_map(move |j| [angle(p, j).cos() as f32, angle(p, j).sin() as f32]))
            .collect();
        let angles = self.device.tensor(Category::Io, "angles", t, d, &table)?;
        let room = || self.device.zeros(Category::Io, "cache", h * t, d);
        let kv = KvLayer { keys: room()?, values: room()?, capacity: t };
        let (half, width) = ((d / 2) as usize, (3 * h * d) as usize);
        let check = move |got: &[f32]| {
            let row = t as usize - 1;
            let pairs = (0..half).map(|j| {
                let (a, b) = (f64::from(values[row * width + j]), f64::from(values[row * width + j + half]));
                let (sin, cos) = angle(t - 1, j as u32).sin_cos();
                (f64::from(got[row * width / 3 + j]), a * cos - b * sin)
            });
            Ok(relative(pairs))
        };
        Ok(Case {
            op: "rope_store",
            shape: format!("{t} rows {h} heads of {d}"),
            bytes: 8 * u64::from(qkv.len()),
            copies: 4,
            step: Step::new(0, t),
            record: Box::new(move |r, _| r.rope_store(&qkv, &angles, &kv, Heads::full(h, d))),
            check: Box::new(check),
        })
    }

    fn embed(&self, t: u32, rows: u32, d: u32) -> Result<Case<'_>> {
        let table = self.weights(rows, d, 1)?.remove(0).weight;
        let ids: Vec<u32> = (0..t).map(|i| i * 7919 % rows).collect();
        let want = self.weight_rows(&table, &ids[t as usize - 1..])?;
        let ids = self.device.tensor(Category::Io, "ids", 1, t, &ids)?;
        Ok(Case {
            op: "embed",
            shape: format!("{t} of {rows}x{d}"),
            bytes: 6 * u64::from(t * d),
            copies: 4,
            step: Step::default(),
            record: Box::new(move |r, _| r.embed(&ids, &table)),
            check: Box::new(move |got| Ok(if got.ends_with(&want) { 0.0 } else { 1.0 })),
        })
    }

    fn patches(&self, side: u32, patch: u32) -> Result<Case<'_>> {
        let (pixels, values) = self.tensor(10, 3 * side, side)?;
        let first_row: Vec<f32> = values[..patch as usize].to_vec();
        Ok(Case {
            op: "patches",
            shape: format!("{side}/{patch}"),
            bytes: 8 * u64::from(pixels.len()),
            copies: 4,
            step: Step::default(),
            record: Box::new(move |r, _| r.patches(&pixels, patch)),
            check: Box::new(move |got| Ok(if got.starts_with(&first_row) { 0.0 } else { 1.0 })),
        })
    }

    fn put_rows(&self, rows: u32, d: u32) -> Result<Case<'_>> {
        let (x, values) = self.tensor(11, rows, d)?;
        let index: Vec<u32> = (0..rows).rev().collect();
        let index = self.device.tensor(Category::Io, "index", 1, rows, &index)?;
        let last = values[((rows - 1) * d) as usize..].to_vec();
        Ok(Case {
            op: "put_rows",
            shape: format!("{rows}x{d}"),
            bytes: 8 * u64::from(rows * d),
            copies: 4,
            step: Step::default(),
            record: Box::new(move |r, _| {
                let mut out = r.empty(rows, d);
                r.put_rows(&mut out, &x, &index);
                out
            }),
            check: Box::new(move |got| Ok(if got.starts_with(&last) { 0.0 } else { 1.0 })),
        })
    }

    fn argmax(&self, n: u32) -> Result<Case<'_>> {
        let (x, values) = self.tensor(12, 1, n)?;
        let largest = (0..n).max_by(|&a, &b| values[a as usize].total_cmp(&values[b as usize]));
        Ok(Case {
            op: "argmax",
            shape: format!("{n}"),
            bytes: 4 * u64::from(n),
            copies: 8,
            step: Step::default(),
            record: Box::new(move |r, _| {
                let mut out = r.empty(1, 1);
                r.argmax(&mut out, &x);
                out
            }),
            check: Box::new(move |got| Ok(if Some(got[0].to_bits()) == largest { 0.0 } else { 1.0 })),
        })
    }
}

/// Softmax attention of one query over keys and values.
fn attend(q: &[f32], keys: &[(&[f32], &[f32])]) -> Vec<f64> {
    let dot = |k: &[f32]| q.iter().zip(k).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let weights: Vec<f64> = keys.iter().map(|(k, _)| (dot(k) / (q.len() as f64).sqrt()).exp()).collect();
    let total: f64 = weights.iter().sum();
    let channel = |c: usize| keys.iter().zip(&weights).map(|((_, v), w)| w * f64::from(v[c])).sum::<f64>() / total;
    (0..q.len()).map(channel).collect()
}

/// Relative L2 of (got, want) pairs.
fn relative(pairs: impl Iterator<Item = (f64, f64)>) -> f64 {
    let (difference, size) = pairs.fold((0.0, 0.0), |(d, s), (g, w)| (d + (g - w).powi(2), s + w * w));
    if difference.is_finite() { (difference / size).sqrt() } else { f64::INFINITY }
}
