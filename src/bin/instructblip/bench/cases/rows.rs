//! Everything that goes row by row.

use anyhow::Result;
use instructblip::runtime::{Category, Norm, Step, WeightFormat};

use super::{Case, Entry, Lab, entry, filled_value, relative, spread, unequal};

impl<'a> Lab<'a> {
    pub(super) fn row_cases(&'a self) -> Vec<Entry<'a>> {
        vec![
            entry("layer_norm", "257x1408".into(), || self.norm(257, 1408, true)),
            entry("rms_norm", "1x4096".into(), || self.norm(1, 4096, false)),
            entry("copy", "96 MiB".into(), || self.elementwise(96 << 18, false)),
            entry("add", "257x1408".into(), || self.elementwise(257 * 1408, true)),
            entry("embed", "64 of 32064x4096".into(), || self.embed(64, 32064, 4096)),
            entry("patches", "224/14".into(), || self.patches(224, 14)),
            entry("add_positions", "64x2560".into(), || self.add_positions(64, 2560)),
            entry("put_rows", "32x4096".into(), || self.put_rows(32, 4096)),
            entry("argmax", "32064".into(), || self.argmax(32064)),
            entry("top_k", "64 of 32064".into(), || self.top_k(32064, 64)),
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

    fn top_k(&self, n: u32, k: u32) -> Result<Case<'_>> {
        let (x, values) = self.tensor(13, 1, n)?;
        let mut order: Vec<u32> = (0..n).collect();
        order.sort_by(|&a, &b| values[b as usize].total_cmp(&values[a as usize]).then(a.cmp(&b)));
        order.truncate(k as usize);
        let want: Vec<u32> = order.into_iter().flat_map(|i| [values[i as usize].to_bits(), i]).collect();
        Ok(Case {
            bytes: 8 * u64::from(n),
            flops: None,
            copies: 8,
            step: Step::default(),
            record: Box::new(move |r, _| r.top_k(&x, k)),
            check: Box::new(move |got| {
                Ok(if got.iter().map(|v| v.to_bits()).eq(want.iter().copied()) { 0.0 } else { 1.0 })
            }),
        })
    }
}

/// LayerNorm with a shift equal to the scale, or RMSNorm.
pub(super) fn normalised(row: &[f32], scale: &[f32], center: bool) -> Vec<f64> {
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
