//! Rotary position embedding, half-split.

/// Rotates every head of `x [t, h, d]`, row `i` at position `first + i`.
pub fn rope(x: &[f64], (h, d): (usize, usize), first: usize, theta: f64) -> Vec<f64> {
    let mut out = x.to_vec();
    for (row, head_values) in out.chunks_mut(h * d).enumerate() {
        for head in head_values.chunks_mut(d) {
            for j in 0..d / 2 {
                let angle = (first + row) as f64 * theta.powf(-2.0 * j as f64 / d as f64);
                let (a, b) = (head[j], head[j + d / 2]);
                head[j] = a * angle.cos() - b * angle.sin();
                head[j + d / 2] = b * angle.cos() + a * angle.sin();
            }
        }
    }
    out
}
