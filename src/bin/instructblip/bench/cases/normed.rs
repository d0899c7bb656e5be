//! An RMSNorm and the linear layer after it, which may be one kernel.

use anyhow::Result;
use instructblip::runtime::{Norm, Step, WeightFormat};

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
}
