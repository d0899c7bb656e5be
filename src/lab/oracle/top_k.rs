//! The largest values of rows, by sorting.

/// Bits and column of the `k` largest values in each row of `x [_, n]`, the largest first, equals by column. NaN is the
/// largest there is, and always the same one.
pub fn top_k(x: &[f32], n: usize, k: usize) -> Vec<u32> {
    let plain = |v: f32| if v.is_nan() { f32::from_bits(0x7fff_ffff) } else { v };
    let row = |row: &[f32]| {
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| plain(row[b]).total_cmp(&plain(row[a])).then(a.cmp(&b)));
        order.truncate(k);
        order.into_iter().flat_map(|i| [plain(row[i]).to_bits(), i as u32]).collect::<Vec<u32>>()
    };
    x.chunks(n).flat_map(row).collect()
}
