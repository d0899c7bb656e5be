//! Times each kernel at shapes of real models, after checking what it computes.
//!
//! ```text
//! cargo bench --bench kernels -- [FILTER…] [--runs N | --quick] [--portable] [--checked] [--csv FILE]
//! ```
//!
//! `--portable` times the forms that every GPU can run, `--checked` keeps the shaders' runtime checks.
//!
//! Every case is checked against f64 at sampled outputs; a wrong kernel ends the program with no time printed.
//! Weights rotate over several copies, so that a last-level cache does not pass for memory.
//!
//! A filter never takes away the cases that the peaks come from: one copy, one decode and one prefill layer.

mod support;

use anyhow::{Result, ensure};
use instructblip::runtime::{
    Caps, Category, Device, DeviceOptions, Heads, KvLayer, Linear, Mask, Matrix, Norm, Plan, Recorder, Rows, Step,
    Tensor, WeightFormat,
};
use support::{Arguments, append_csv, median, milliseconds, noise};

const HEADER: &str = "version,device,kernel,op,shape,gpu_us,wall_us,gb_per_s,gflop_per_s,percent_of_peak";
/// Copies of a case's weights are made until they hold this many bytes together: no GPU has such a cache.
const ROTATED_BYTES: u64 = 128 << 20;
/// Outputs of a linear layer that are checked.
const SAMPLES: u32 = 64;

/// Records the op over one copy of its weights.
type Record<'a> = Box<dyn Fn(&mut Recorder, usize) -> Tensor + 'a>;
/// The relative error of an output.
type Check<'a> = Box<dyn Fn(&[f32]) -> Result<f64> + 'a>;

/// What a case is called, and how to set it up; `reference` cases run whatever the filter.
struct Entry<'a> {
    op: &'static str,
    shape: String,
    reference: bool,
    make: Box<dyn Fn() -> Result<Case<'a>> + 'a>,
}

impl Entry<'_> {
    fn is_wanted(&self, filters: &[String]) -> bool {
        let name = format!("{} {}", self.op, self.shape);
        self.reference || filters.is_empty() || filters.iter().any(|f| name.contains(f.as_str()))
    }
}

/// Something to time: `record` writes the op once; `check` compares its output with f64.
struct Case<'a> {
    /// Least traffic: every operand once.
    bytes: u64,
    /// Least arithmetic, where what the op counts is only a bound.
    flops: Option<u64>,
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
    let usual = if arguments.flag("--quick") { 2 } else { 5 };
    let runs = arguments.number("--runs")?.unwrap_or(usual).max(1) as usize;
    let options =
        DeviceOptions { portable: arguments.flag("--portable"), checked: arguments.flag("--checked"), adapter: None };
    let filters = arguments.finish()?;
    let device = Device::open(&options)?;
    println!("{}", device.name());
    let caps = if options.portable { Caps::PORTABLE } else { device.caps() };
    let bench = Bench { device: &device, caps };
    let mut rows = Vec::new();
    for entry in bench.cases().iter().filter(|entry| entry.is_wanted(&filters)) {
        eprintln!("{} {}", entry.op, entry.shape);
        rows.push(bench.time(entry, runs)?);
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
        let name = device.name();
        csv.push(format!("{version},\"{name}\",{},{},{},{numbers}", row.kernel, row.op, row.shape));
    }
    csv
}

struct Bench<'a> {
    device: &'a Device,
    /// What kernel forms are chosen by.
    caps: Caps,
}

impl<'a> Bench<'a> {
    fn time(&self, entry: &Entry<'_>, runs: usize) -> Result<Row> {
        let case = (entry.make)()?;
        let mut r = Recorder::new(self.caps);
        let out = (case.record)(&mut r, 0);
        let kernel = r.dispatches()[0].kernel.name.to_string();
        let flops = case.flops.unwrap_or(r.flops());
        let plan = self.run(r, case.step)?;
        let error = (case.check)(&self.device.read(&plan.output(&out))?)?;
        ensure!(error <= 1e-4, "{} {} is wrong: off by {error:e}", entry.op, entry.shape);
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
        Ok(Row { kernel, op: entry.op, shape: entry.shape.clone(), gpu_us, wall_us, bytes: case.bytes, flops })
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

    fn cases(&'a self) -> Vec<Entry<'a>> {
        let mut cases = self.matrix_cases();
        cases.extend(self.attention_cases());
        cases.extend(self.row_cases());
        cases
    }

    fn matrix_cases(&'a self) -> Vec<Entry<'a>> {
        // Vision tower, Q-Former, LLaMA-7B decode, with one row and five beams, and prefill.
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
            (5, 12288, 4096),
            (5, 4096, 11008),
            (64, 4096, 4096),
        ];
        let named = |m, n, k, swiglu, format| {
            let op = match (swiglu, format) {
                (true, _) => "swiglu",
                (false, WeightFormat::F16) => "linear",
                (false, WeightFormat::Q8) => "linear q8",
                (false, WeightFormat::Q4) => "linear q4",
            };
            let reference = op == "linear" && ((m, n) == (1, 12288) || (m, n, k) == (64, 4096, 4096));
            let make = move || self.linear(m, n, k, swiglu, format);
            Entry { reference, ..entry(op, format!("{m}x{n}x{k}"), make) }
        };
        let copy = Entry { reference: true, ..entry("copy", "96 MiB".into(), || self.elementwise(96 << 18, false)) };
        let mut cases = vec![copy];
        cases.extend(linear.map(|(m, n, k)| named(m, n, k, false, WeightFormat::F16)));
        for format in [WeightFormat::Q8, WeightFormat::Q4] {
            let some = linear.into_iter().filter(|&(m, n, _)| (m, n) != (44, 768) && (m, n) != (1, 32064));
            cases.extend(some.map(|(m, n, k)| named(m, n, k, false, format)));
        }
        cases.extend([1, 64].map(|m| named(m, 22016, 4096, true, WeightFormat::F16)));
        cases.push(entry("fill", "12288x4096".into(), || self.fill(12288, 4096)));
        cases
    }

    fn attention_cases(&'a self) -> Vec<Entry<'a>> {
        let full = |t, h, d| entry("attention", format!("{t} rows {h} heads of {d}"), move || self.attention(t, h, d));
        let cached = |t, len| {
            let shape = format!("{t} rows {len} keys 32 heads of 128");
            entry("attention_cached", shape, move || self.attention_cached(t, 1, len, 32, 128))
        };
        let beams = |beams, len| {
            let shape = format!("{beams} beams {len} keys 32 heads of 128");
            entry("attention_cached", shape, move || self.attention_cached(beams, beams, len, 32, 128))
        };
        let rope = |t| entry("rope_store", format!("{t} rows 32 heads of 128"), move || self.rope(t, 32, 128));
        let store = entry("store", "64 rows 32 heads of 64".into(), || self.store(64, 32, 64));
        vec![
            full(257, 16, 88),
            full(44, 12, 64),
            cached(1, 300),
            beams(5, 300),
            cached(64, 64),
            rope(1),
            rope(64),
            store,
        ]
    }

    fn row_cases(&'a self) -> Vec<Entry<'a>> {
        vec![
            entry("layer_norm", "257x1408".into(), || self.norm(257, 1408, true)),
            entry("rms_norm", "1x4096".into(), || self.norm(1, 4096, false)),
            entry("add", "257x1408".into(), || self.elementwise(257 * 1408, true)),
            entry("embed", "64 of 32064x4096".into(), || self.embed(64, 32064, 4096)),
            entry("patches", "224/14".into(), || self.patches(224, 14)),
            entry("add_positions", "64x2560".into(), || self.add_positions(64, 2560)),
            entry("put_rows", "32x4096".into(), || self.put_rows(32, 4096)),
            entry("argmax", "32064".into(), || self.argmax(32064)),
        ]
    }

    /// `y = x`, or `y += x` over zeros that `x` is added to again with every run.
    fn elementwise(&self, words: u32, add: bool) -> Result<Case<'_>> {
        let (x, values) = self.tensor(1, words / 256, 256)?;
        let sum = self.device.zeros(Category::Io, "sum", words / 256, 256)?;
        Ok(Case {
            bytes: if add { 12 } else { 8 } * u64::from(words),
            flops: None,
            copies: 2,
            step: Step::default(),
            record: Box::new(move |r, _| match add {
                true => {
                    r.add(&mut sum.clone(), &x);
                    sum.clone()
                }
                false => {
                    let mut y = r.empty(x.rows(), x.cols());
                    r.copy(&mut y, &x);
                    y
                }
            }),
            check: Box::new(move |got| Ok(unequal(got, &values))),
        })
    }

    fn fill(&self, n: u32, k: u32) -> Result<Case<'_>> {
        let weight = Matrix::uninit(self.device, "bench", n, k, WeightFormat::F16)?;
        let filled = weight.clone();
        let rows = [0, n / 2, n - 1];
        let check = move |_: &[f32]| {
            let got = self.weight_rows(&filled, &rows)?;
            let first = rows.map(|row| u64::from(row) * u64::from(k));
            let want = first.iter().flat_map(|&first| (0..u64::from(k)).map(move |i| filled_value(first + i, 1)));
            // GPUs may round either way when they make halves.
            let error = relative(got.iter().map(|&g| f64::from(g)).zip(want));
            Ok(if error < 1e-3 { 0.0 } else { error })
        };
        Ok(Case {
            bytes: weight.bytes(),
            flops: None,
            copies: 2,
            step: Step::default(),
            record: Box::new(move |r, _| {
                r.fill(&weight, 1, 1.0);
                r.empty(1, 1) // the matrix is the output: the check reads it itself
            }),
            check: Box::new(check),
        })
    }

    /// Random weights, filled on the device.
    fn weights(&self, n: u32, k: u32, format: WeightFormat, copies: usize) -> Result<Vec<Linear>> {
        let make = |copy: usize| -> Result<Linear> {
            let weight = Matrix::uninit(self.device, "bench", n, k, format)?;
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

    /// Rows of a quantised matrix, written anew: its own cannot be read back.
    fn written_rows(&self, weight: &Matrix, rows: &[u32]) -> Result<Vec<f32>> {
        let mut seen = Vec::new();
        for &row in rows {
            let values = noise(u64::from(row), weight.cols);
            weight.write_rows(self.device, row, &values);
            let (mut packed, mut scales) = (Vec::new(), Vec::new());
            weight.format.pack(&values, &mut packed, &mut scales);
            weight.format.unpack(&packed, &scales, &mut seen);
        }
        Ok(seen)
    }

    fn linear(&self, m: u32, n: u32, k: u32, swiglu: bool, format: WeightFormat) -> Result<Case<'_>> {
        let weight_bytes = u64::from(n) * (format.row_bytes(k) + format.scale_bytes(k));
        let copies = ROTATED_BYTES.div_ceil(weight_bytes).clamp(1, 64) as usize;
        let layers = self.weights(n, k, format, copies)?;
        let (x, values) = self.tensor(2, m, k)?;
        let outputs = if swiglu { n / 2 } else { n };
        let sampled_rows = spread(m, m.min(8));
        let sampled = spread(outputs, SAMPLES / m.min(8));
        let rows = if swiglu { sampled.iter().flat_map(|&f| [2 * f, 2 * f + 1]).collect() } else { sampled.clone() };
        let weights = match format {
            WeightFormat::F16 => self.weight_rows(&layers[0].weight, &rows)?,
            _ => self.written_rows(&layers[0].weight, &rows)?,
        };
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
            let points = sampled_rows.iter().flat_map(|&i| (0..sampled.len()).map(move |j| (i as usize, j)));
            let pairs = points.map(|(i, j)| (f64::from(got[i * width + sampled[j] as usize]), expected(i, j)));
            Ok(relative(pairs))
        };
        Ok(Case {
            bytes: weight_bytes + 4 * u64::from(m) * u64::from(k + outputs),
            flops: None,
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
            bytes: 4 * 4 * u64::from(t * width),
            flops: None,
            copies: 4,
            step: Step::default(),
            record: Box::new(move |r, _| r.attention(&qkv, Heads::full(h, d), Mask::None)),
            check: Box::new(check),
        })
    }

    /// `t` rows of one sequence, or each of its own, whose pages lie in order.
    fn rows(&self, t: u32, sequences: u32, pages: u32) -> Result<Rows> {
        let places: Vec<u32> = (0..t).flat_map(|i| if sequences == 1 { [i, 0] } else { [0, i] }).collect();
        let table: Vec<u32> = (0..sequences).flat_map(|_| 0..pages).collect();
        Ok(Rows {
            places: self.device.tensor(Category::Io, "places", t, 2, &places)?,
            pages: self.device.tensor(Category::Io, "pages", sequences, pages, &table)?,
        })
    }

    /// `t` new rows that end `len` cached ones: of one sequence, or of beams that share all pages.
    fn attention_cached(&self, t: u32, sequences: u32, len: u32, h: u32, d: u32) -> Result<Case<'_>> {
        // Row i of one sequence sees the keys up to its own, a beam all of them.
        let new = if sequences == 1 { t } else { 1 };
        let seen = move |row: u32| if sequences == 1 { len - t + row + 1 } else { len };
        let heads = Heads::full(h, d);
        let (q, q_values) = self.tensor(4, t, h * d)?;
        let (keys, k_values) = self.tensor(5, h * len, d)?;
        let (values, v_values) = self.tensor(6, h * len, d)?;
        let kv = KvLayer { keys, values, capacity: len };
        let rows = self.rows(t, sequences, len)?;
        let dd = d as usize;
        let check = move |got: &[f32]| {
            let mut pairs = Vec::new();
            for (row, head) in [(0, 0), (t as usize / 2, h as usize / 2), (t as usize - 1, h as usize - 1)] {
                let at = |s: usize| (head * len as usize + s) * dd;
                let keys: Vec<_> = (0..seen(row as u32) as usize)
                    .map(|s| (&k_values[at(s)..][..dd], &v_values[at(s)..][..dd]))
                    .collect();
                let first = (row * h as usize + head) * dd;
                let want = attend(&q_values[first..][..dd], &keys);
                pairs.extend(got[first..][..dd].iter().map(|&g| f64::from(g)).zip(want));
            }
            Ok(relative(pairs.into_iter()))
        };
        Ok(Case {
            bytes: 4 * u64::from(2 * len * h * d + 2 * t * h * d),
            flops: Some(4 * (0..t).map(|row| u64::from(seen(row))).sum::<u64>() * u64::from(h * d)),
            copies: 4,
            step: Step::new(len - new, new),
            record: Box::new(move |r, _| r.attention_cached(&q, &kv, heads, &rows, None)),
            check: Box::new(check),
        })
    }

    fn store(&self, t: u32, h: u32, d: u32) -> Result<Case<'_>> {
        let (kv_rows, values) = self.tensor(13, t, 2 * h * d)?;
        let room = || self.device.zeros(Category::Io, "cache", h * t, d);
        let kv = KvLayer { keys: room()?, values: room()?, capacity: t };
        let rows = self.rows(t, 1, t)?;
        let (keys, cached) = (kv.keys.clone(), kv.values.clone());
        let (width, dd) = ((h * d) as usize, d as usize);
        let check = move |_: &[f32]| {
            let part = |first: usize| -> Vec<f32> {
                let of_head = |head: usize| {
                    values.chunks(2 * width).flat_map(move |row| &row[first + head * dd..][..dd]).copied()
                };
                (0..h as usize).flat_map(of_head).collect()
            };
            let (keys, cached) = (self.device.read::<f32>(&keys)?, self.device.read::<f32>(&cached)?);
            Ok(unequal(&keys, &part(0)).max(unequal(&cached, &part(width))))
        };
        Ok(Case {
            bytes: 8 * u64::from(kv_rows.len()),
            flops: None,
            copies: 4,
            step: Step::new(0, t),
            record: Box::new(move |r, _| {
                r.store(&kv_rows, &kv, Heads::full(h, d), &rows);
                kv.keys.clone()
            }),
            check: Box::new(check),
        })
    }

    fn add_positions(&self, t: u32, d: u32) -> Result<Case<'_>> {
        let (table, values) = self.tensor(14, t, d)?;
        let rows = self.rows(t, 1, t)?;
        let x = self.device.zeros(Category::Io, "x", t, d)?;
        Ok(Case {
            bytes: 12 * u64::from(t * d),
            flops: None,
            copies: 1,
            step: Step::new(0, t),
            record: Box::new(move |r, _| {
                let mut x = x.clone();
                r.add_positions(&mut x, &table, &rows);
                x
            }),
            // Every run adds them once more.
            check: Box::new(move |got| {
                let runs = (got[0] / values[0]).round();
                Ok(relative(got.iter().zip(&values).map(|(&g, &v)| (f64::from(g), f64::from(runs * v)))))
            }),
        })
    }

    fn norm(&self, rows: u32, d: u32, center: bool) -> Result<Case<'_>> {
        let (x, values) = self.tensor(7, rows, d)?;
        let (weight, scale) = self.tensor(8, 1, d)?;
        let bias = if center { Some(weight.clone()) } else { None };
        let norm = Norm { label: "bench".into(), weight, bias, eps: 1e-6 };
        let check = move |got: &[f32]| {
            let pairs = spread(rows, rows.min(8)).into_iter().flat_map(|row| {
                let at = (row * d) as usize;
                let want = normalised(&values[at..][..d as usize], &scale, center);
                got[at..].iter().map(|&g| f64::from(g)).zip(want).collect::<Vec<_>>()
            });
            Ok(relative(pairs))
        };
        Ok(Case {
            bytes: 8 * u64::from(rows * d),
            flops: None,
            copies: 8,
            step: Step::default(),
            record: Box::new(move |r, _| if center { r.layer_norm(&x, &norm) } else { r.rms_norm(&x, &norm) }),
            check: Box::new(check),
        })
    }

    fn rope(&self, t: u32, h: u32, d: u32) -> Result<Case<'_>> {
        let (first, (qkv, values)) = (16, self.tensor(9, t, 3 * h * d)?);
        let capacity = first + t;
        // Any angles will do: cos and sin of p * j / d.
        let angle = move |p: u32, j: u32| f64::from(p * j) / f64::from(d);
        let table: Vec<f32> = (0..capacity)
            .flat_map(|p| (0..d / 2).flat_map(move |j| [angle(p, j).cos() as f32, angle(p, j).sin() as f32]))
            .collect();
        let angles = self.device.tensor(Category::Io, "angles", capacity, d, &table)?;
        let room = || self.device.zeros(Category::Io, "cache", h * capacity, d);
        let kv = KvLayer { keys: room()?, values: room()?, capacity };
        let rows = self.rows(t, 1, capacity)?;
        let (keys, cached) = (kv.keys.clone(), kv.values.clone());
        let (half, width) = ((d / 2) as usize, (h * d) as usize);
        let check = move |got: &[f32]| {
            let (keys, cached) = (self.device.read::<f32>(&keys)?, self.device.read::<f32>(&cached)?);
            let (row, head) = (t as usize - 1, h as usize - 1);
            let mut pairs = Vec::new();
            for j in 0..half {
                let (sin, cos) = angle(capacity - 1, j as u32).sin_cos();
                let pair = |part: usize| {
                    let at = (row * 3 + part) * width + head * 2 * half + j;
                    (f64::from(values[at]), f64::from(values[at + half]))
                };
                let rotated = |(a, b): (f64, f64)| (a * cos - b * sin, b * cos + a * sin);
                let (to, slot) =
                    (row * width + head * 2 * half + j, ((head + 1) * capacity as usize - 1) * 2 * half + j);
                let outputs = [(got, to, rotated(pair(0))), (&keys, slot, rotated(pair(1))), (&cached, slot, pair(2))];
                for (got, at, (first, second)) in outputs {
                    pairs.extend([(f64::from(got[at]), first), (f64::from(got[at + half]), second)]);
                }
            }
            Ok(relative(pairs.into_iter()))
        };
        Ok(Case {
            bytes: 8 * u64::from(qkv.len()),
            flops: None,
            copies: 4,
            step: Step::new(first, t),
            record: Box::new(move |r, _| r.rope_store(&qkv, &angles, &kv, Heads::full(h, d), &rows)),
            check: Box::new(check),
        })
    }

    fn embed(&self, t: u32, rows: u32, d: u32) -> Result<Case<'_>> {
        let table = self.weights(rows, d, WeightFormat::F16, 1)?.remove(0).weight;
        let ids: Vec<u32> = (0..t).map(|i| i * 7919 % rows.min(15_000)).collect(); // in the first part
        let seed = 0; // of the only copy
        let first: Vec<u64> = ids.iter().map(|&id| u64::from(id) * u64::from(d)).collect();
        let ids = self.device.tensor(Category::Io, "ids", 1, t, &ids)?;
        Ok(Case {
            bytes: 6 * u64::from(t * d),
            flops: None,
            copies: 4,
            step: Step::default(),
            record: Box::new(move |r, _| r.embed(&ids, &table)),
            check: Box::new(move |got| {
                let want =
                    first.iter().flat_map(|&first| (0..u64::from(d)).map(move |i| filled_value(first + i, seed)));
                let error = relative(got.iter().map(|&g| f64::from(g)).zip(want));
                Ok(if error < 1e-3 { 0.0 } else { error }) // halves, as in `fill`
            }),
        })
    }

    fn patches(&self, side: u32, patch: u32) -> Result<Case<'_>> {
        let (pixels, values) = self.tensor(10, 3 * side, side)?;
        let want = patch_rows(&values, side as usize, patch as usize);
        Ok(Case {
            bytes: 8 * u64::from(pixels.len()),
            flops: None,
            copies: 4,
            step: Step::default(),
            record: Box::new(move |r, _| r.patches(&pixels, patch)),
            check: Box::new(move |got| Ok(unequal(got, &want))),
        })
    }

    fn put_rows(&self, rows: u32, d: u32) -> Result<Case<'_>> {
        let (x, values) = self.tensor(11, rows, d)?;
        let index: Vec<u32> = (0..rows).rev().collect();
        let index = self.device.tensor(Category::Io, "index", 1, rows, &index)?;
        let want: Vec<f32> = values.chunks(d as usize).rev().flatten().copied().collect();
        Ok(Case {
            bytes: 8 * u64::from(rows * d),
            flops: None,
            copies: 4,
            step: Step::default(),
            record: Box::new(move |r, _| {
                let mut out = r.empty(rows, d);
                r.put_rows(&mut out, &x, &index);
                out
            }),
            check: Box::new(move |got| Ok(unequal(got, &want))),
        })
    }

    fn argmax(&self, n: u32) -> Result<Case<'_>> {
        let (x, values) = self.tensor(12, 1, n)?;
        let largest = (0..n).max_by(|&a, &b| values[a as usize].total_cmp(&values[b as usize]));
        Ok(Case {
            bytes: 4 * u64::from(n),
            flops: None,
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

fn entry<'a>(op: &'static str, shape: String, make: impl Fn() -> Result<Case<'a>> + 'a) -> Entry<'a> {
    Entry { op, shape, reference: false, make: Box::new(make) }
}

/// `count` of the indices below `n`, from the first to the last.
fn spread(n: u32, count: u32) -> Vec<u32> {
    let last = u64::from(n - 1);
    (0..count).map(|i| (last * u64::from(i) / u64::from((count - 1).max(1))) as u32).collect()
}

/// 0 when both hold the same values, else 1.
fn unequal(got: &[f32], want: &[f32]) -> f64 {
    f64::from(u8::from(got != want))
}

/// Element `i` of what `shaders/fill.wgsl` makes from a seed with range 1.
fn filled_value(i: u64, seed: u32) -> f64 {
    let hash = |value: u32| {
        let mut h = value;
        h = (h ^ (h >> 16)).wrapping_mul(0x85eb_ca6b);
        h = (h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35);
        h ^ (h >> 16)
    };
    let bits = hash((i / 2) as u32 ^ hash(seed));
    f64::from(if i.is_multiple_of(2) { bits & 0xffff } else { bits >> 16 }) / 32768.0 - 1.0
}

/// LayerNorm with a shift equal to the scale, or RMSNorm.
fn normalised(row: &[f32], scale: &[f32], center: bool) -> Vec<f64> {
    let n = row.len() as f64;
    let mean = if center { row.iter().map(|&v| f64::from(v)).sum::<f64>() / n } else { 0.0 };
    let variance = row.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
    let shift = if center { 1.0 } else { 0.0 };
    let one = |(&v, &s): (&f32, &f32)| ((f64::from(v) - mean) / (variance + 1e-6).sqrt() + shift) * f64::from(s);
    row.iter().zip(scale).map(one).collect()
}

/// The patches of three planes as rows, padded to a multiple of 8.
fn patch_rows(pixels: &[f32], side: usize, patch: usize) -> Vec<f32> {
    let (across, k) = (side / patch, (3 * patch * patch).next_multiple_of(8));
    let mut rows = vec![0.0; across * across * k];
    for (i, row) in rows.chunks_mut(k).enumerate() {
        for (c, value) in row.iter_mut().take(3 * patch * patch).enumerate() {
            let (plane, y, x) = (c / (patch * patch), c / patch % patch, c % patch);
            *value = pixels[(plane * side + i / across * patch + y) * side + i % across * patch + x];
        }
    }
    rows
}
