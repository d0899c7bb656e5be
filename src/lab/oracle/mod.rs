//! Every op again as plain loops in f64, row by row. Clarity over speed; nothing is shared with the library.
//!
//! Weights come already rounded to f16, so only the order of summation differs from the kernels.

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

/// Widens a slice.
pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| v.into()).collect()
}
