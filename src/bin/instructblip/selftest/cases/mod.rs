//! The cases: every op at one row, ragged, aligned, and at a size of the published models.

mod attention;
mod cache;
mod linear;
mod rows;

use super::case::Case;

/// Relative L2 error of a sum of f32 in another order.
const BOUND: f64 = 1e-5;

/// Every case. The first that reaches a kernel is at a published model's size: `doctor` runs no other.
pub fn all() -> Vec<Case> {
    [linear::cases(), attention::cases(), cache::cases(), rows::cases()].into_iter().flatten().collect()
}

/// Columns `first .. first + count` of rows of `width`.
fn columns(rows: &[f32], width: u32, first: u32, count: u32) -> Vec<f64> {
    let (first, count) = (first as usize, count as usize);
    rows.chunks(width as usize).flat_map(|row| super::oracle::wide(&row[first..first + count])).collect()
}
