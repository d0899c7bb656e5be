//! The values of packed weights, from the layout that is documented, bit by bit.

use half::f16;

/// Values of rows in q8: signed bytes times the scale of their 32.
pub fn q8(packed: &[u8], scales: &[f16]) -> Vec<f64> {
    packed.iter().enumerate().map(|(k, &byte)| f64::from(byte as i8) * scales[k / 32].to_f64()).collect()
}

/// Values of rows in q4: of each four bytes first the low halves, then the high ones, times the scale of their 32, plus
/// the offset behind it.
pub fn q4(packed: &[u8], scales: &[f16]) -> Vec<f64> {
    let value = |k: usize| {
        let byte = packed[k / 8 * 4 + k % 4];
        let nibble = if k % 8 < 4 { byte & 15 } else { byte >> 4 };
        f64::from(nibble) * scales[k / 32 * 2].to_f64() + scales[k / 32 * 2 + 1].to_f64()
    };
    (0..2 * packed.len()).map(value).collect()
}
