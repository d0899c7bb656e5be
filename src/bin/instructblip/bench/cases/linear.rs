//! Linear layers and what makes their weights.

use anyhow::Result;
use instructblip::runtime::{AdapterClass, Category, Linear, Matrix, Recorder, Step, WeightFormat};

use super::{Case, Entry, Lab, ROTATED_BYTES, SAMPLES, entry, filled_value, noise, relative, spread};

impl<'a> Lab<'a> {
    /// Linear layers of these shapes, else of the published models.
    pub(super) fn linear_cases(&'a self, shapes: &[(u32, u32, u32)]) -> Vec<Entry<'a>> {
        // Vision tower, Q-Former, LLaMA-7B decode, with one row and five beams, and prefill.
        let published = [
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
        let named = |op, (m, n, k): (u32, u32, u32), swiglu, format| {
            let make = move || self.linear(m, n, k, swiglu, format);
            Entry { linear: Some((m, format)), ..entry(op, format!("{m}x{n}x{k}"), make) }
        };
        let formats = [("linear", WeightFormat::F16), ("linear q8", WeightFormat::Q8), ("linear q4", WeightFormat::Q4)];
        let mut cases = Vec::new();
        for (op, format) in formats {
            let wanted = if shapes.is_empty() { &published[..] } else { shapes };
            cases.extend(wanted.iter().map(|&shape| named(op, shape, false, format)));
        }
        if shapes.is_empty() {
            cases.extend([1, 64].map(|m| named("swiglu", (m, 22016, 4096), true, WeightFormat::F16)));
            cases.push(entry("fill", "12288x4096".into(), || self.fill(12288, 4096)));
        }
        cases
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
    pub(super) fn weights(&self, n: u32, k: u32, format: WeightFormat, copies: usize) -> Result<Vec<Linear>> {
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
    pub(super) fn weight_rows(&self, weight: &Matrix, rows: &[u32]) -> Result<Vec<f32>> {
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
        let copies = ROTATED_BYTES.div_ceil(weight_bytes).clamp(1, 64);
        // Where arithmetic takes the time, weights need not be new each time.
        let flops = 2 * u64::from(m) * u64::from(n) * u64::from(k);
        let affordable = match self.device.caps().class {
            AdapterClass::Gpu => 400_000_000_000 / flops,
            AdapterClass::Cpu => 3_000_000_000 / flops,
        };
        let copies = copies.min(affordable.max(2)) as usize;
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
}
