//! The cases: one table for each family of ops, which self-test, tests and benchmarks share.

mod attention;
mod between;
mod cache;
pub mod linear;
mod rows;

use super::case::{Case, Depth};
use super::oracle::wide;

/// Every case. The quick ones of a kernel come first.
pub fn all() -> Vec<Case> {
    [linear::cases(), between::cases(), attention::cases(), cache::cases(), rows::cases()]
        .into_iter()
        .flatten()
        .collect()
}

/// The cases of runs of one depth.
pub fn of(depth: Depth) -> Vec<Case> {
    let mut cases = all();
    cases.retain(|case| case.depth == depth);
    cases
}

/// Shapes by depth.
type Table<T> = &'static [(Depth, &'static [T])];

/// The rows of a table.
fn each<T: Copy>(table: Table<T>) -> impl Iterator<Item = (Depth, T)> {
    table.iter().flat_map(|(depth, shapes)| shapes.iter().map(|&shape| (*depth, shape)))
}

/// `count` of the indices below `n`, from the first to the last.
fn spread(n: u32, count: u32) -> Vec<u32> {
    let last = u64::from(n - 1);
    (0..count).map(|i| (last * u64::from(i) / u64::from((count - 1).max(1))) as u32).collect()
}

/// Indices of these rows and columns of an output `[_, width]` at published shapes; all of it at others.
fn sampled(depth: Depth, rows: &[u32], columns: &[u32], width: u32) -> Option<Vec<usize>> {
    let at = |&row: &u32| columns.iter().map(move |&column| row as usize * width as usize + column as usize);
    (depth == Depth::Published).then(|| rows.iter().flat_map(at).collect())
}

/// Columns `first .. first + count` of rows of `width`.
fn columns(rows: &[f32], width: u32, first: u32, count: u32) -> Vec<f64> {
    let (first, count) = (first as usize, count as usize);
    rows.chunks(width as usize).flat_map(|row| wide(&row[first..first + count])).collect()
}
