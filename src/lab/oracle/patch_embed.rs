//! Patches of an image as rows.

/// `pixels [3, height, width]` `-> [1 + (height / side)(width / side), 3 side²]`, columns in the order channel, y, x,
/// padded with zeros to a multiple of 8, behind a row of zeros; pixels left over at the lower and right edges are in no patch.
pub fn patches(pixels: &[f64], (height, width): (usize, usize), side: usize) -> Vec<f64> {
    let mut out = vec![0.0; (3 * side * side).next_multiple_of(8)];
    for (top, left) in (0..height / side).flat_map(|py| (0..width / side).map(move |px| (py * side, px * side))) {
        for channel in 0..3 {
            for y in 0..side {
                for x in 0..side {
                    out.push(pixels[(channel * height + top + y) * width + left + x]);
                }
            }
        }
        out.resize(out.len().next_multiple_of(8), 0.0);
    }
    out
}
