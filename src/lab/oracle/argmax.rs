//! The column of the largest value.

/// The lowest column of the largest value in each row of `x [_, n]`.
pub fn argmax(x: &[f64], n: usize) -> Vec<u32> {
    let row = |row: &[f64]| (0..n).fold(0, |best, i| if row[i] > row[best] { i } else { best }) as u32;
    x.chunks(n).map(row).collect()
}
