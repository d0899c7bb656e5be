//! Every op again as plain loops in f64, row by row. Clarity over speed; nothing is shared with the library.
//!
//! Weights come already rounded to f16, so only the order of summation differs from the kernels.

use half::f16;

pub mod argmax;
pub mod attention;
pub mod elementwise;
pub mod fill;
pub mod linear;
pub mod norm;
pub mod patch_embed;
pub mod quantised;
pub mod rope;
pub mod top_k;

/// Values as kernels by matrices have them: over `scale`, kept within the range of f16 and rounded to it.
pub fn halves(values: &[f64], scale: f64) -> Vec<f64> {
    let halved = |&v: &f64| scale * f16::from_f32((v / scale).clamp(-65504.0, 65504.0) as f32).to_f64();
    values.iter().map(halved).collect()
}

/// Widens a slice.
pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| v.into()).collect()
}
