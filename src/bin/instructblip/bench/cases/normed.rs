//! An RMSNorm, the linear layer after it, and what becomes of q, k and v, which may be one kernel.

use anyhow::Result;
use instructblip::runtime::{Category, Heads, KvLayer, Norm, Recorder, Step, WeightFormat};

use super::rows::normalised;
use super::{Case, Entry, Lab, ROTATED_BYTES, SAMPLES, entry, relative, spread};

impl<'a> Lab<'a> {
    /// One row through both, as in a step of decoding.
    pub fn normed_case(&'a self, n: u32, k: u32) -> Entry<'a> {
        entry("norm_linear", format!("1x{n}x{k}"), move || self.norm_linear(n, k))
    }

    fn norm_linear(&self, n: u32, k: u32) -> Result<Case<'_>> {
        let weight_bytes = 2 * u64::from(n) * u64::from(k);
        let copies = ROTATED_BYTES.div_ceil(weight_bytes).clamp(2, 64) as usize;
        let layers = self.weights(n, k, WeightFormat::F16, copies)?;
        let (x, values) = self.tensor(2, 1, k)?;
        let (gain, gains) = self.tensor(8, 1, k)?;
        let norm = Norm { label: "bench".into(), weight: gain, bias: None, eps: 1e-6 };
        let sampled = spread(n, SAMPLES);
        let weights = self.weight_rows(&layers[0].weight, &sampled)?;
        let normed = normalised(&values, &gains, false);
        let check = move |got: &[f32]| {
            let dot = |row: &[f32]| normed.iter().zip(row).map(|(&a, &b)| a * f64::from(b)).sum::<f64>();
            let want = weights.chunks(k as usize).map(dot);
            Ok(relative(sampled.iter().map(|&column| f64::from(got[column as usize])).zip(want)))
        };
        Ok(Case {
            bytes: weight_bytes + 4 * u64::from(2 * k + n),
            flops: None,
            copies,
            step: Step::default(),
            record: Box::new(move |r, copy| r.norm_linear(&x, &norm, &layers[copy])),
            check: Box::new(check),
        })
    }

    /// One row of `h` heads of `d` through norm, layer, rotation and store, as in a step of decoding.
    pub fn turned_case(&'a self, h: u32, d: u32) -> Entry<'a> {
        entry("norm_rope_store", format!("1x{}x{}", 3 * h * d, h * d), move || self.norm_rope_store(h, d))
    }

    fn norm_rope_store(&self, h: u32, d: u32) -> Result<Case<'_>> {
        let (k, n, position, heads) = (h * d, 3 * h * d, 9, Heads::full(h, d));
        let weight_bytes = 2 * u64::from(n) * u64::from(k);
        let copies = ROTATED_BYTES.div_ceil(weight_bytes).clamp(2, 64) as usize;
        let layers = self.weights(n, k, WeightFormat::F16, copies)?;
        let (x, values) = self.tensor(2, 1, k)?;
        let (gain, gains) = self.tensor(8, 1, k)?;
        let norm = Norm { label: "bench".into(), weight: gain, bias: None, eps: 1e-6 };
        // The angle of channel j at position p is p * j / d, as good as any.
        let angle = move |p: u32, j: u32| f64::from(p * j) / f64::from(d);
        let row = |p| (0..d / 2).flat_map(move |j| [angle(p, j).cos() as f32, angle(p, j).sin() as f32]);
        let table: Vec<f32> = (0..=position).flat_map(row).collect();
        let angles = self.device.tensor(Category::Io, "angles", position + 1, d, &table)?;
        let room = || self.device.zeros(Category::Io, "cache", h * (position + 1), d);
        let kv = KvLayer { keys: room()?, values: room()?, capacity: position + 1 };
        let mut r = Recorder::new(self.caps);
        let step = Step::new(position, 1);
        let turns = r.turns(&angles, &self.rows(1, 1, position + 1)?);
        let turns = self.run(r, step)?.output(&turns);
        // Of some heads of q the first half of the channels, each with its partner.
        let sampled: Vec<u32> = spread(k / 2, SAMPLES / 2).iter().map(|i| i / (d / 2) * d + i % (d / 2)).collect();
        let rows: Vec<u32> = sampled.iter().flat_map(|&a| [a, a + d / 2]).collect();
        let weights = self.weight_rows(&layers[0].weight, &rows)?;
        let normed = normalised(&values, &gains, false);
        let check = move |got: &[f32]| {
            let dot = |row: &[f32]| normed.iter().zip(row).map(|(&a, &b)| a * f64::from(b)).sum::<f64>();
            let sums: Vec<f64> = weights.chunks(k as usize).map(dot).collect();
            let pairs = sampled.iter().zip(sums.chunks(2)).flat_map(|(&at, pair)| {
                let (sin, cos) = angle(position, at % d).sin_cos();
                let of = |at: u32| f64::from(got[at as usize]);
                [(of(at), pair[0] * cos - pair[1] * sin), (of(at + d / 2), pair[1] * cos + pair[0] * sin)]
            });
            Ok(relative(pairs))
        };
        Ok(Case {
            bytes: weight_bytes + 4 * u64::from(2 * k + n),
            flops: None,
            copies,
            step,
            record: Box::new(move |r, copy| r.norm_rope_store(&x, &norm, &layers[copy], &turns, &kv, heads)),
            check: Box::new(check),
        })
    }
}
