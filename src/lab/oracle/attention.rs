//! Softmax attention.

/// The sizes of an attention, and the factor of its scores.
#[derive(Clone, Copy, Debug)]
pub struct Scores {
    /// Query heads, the key-value heads that they share, channels of a head.
    pub sizes: (usize, usize, usize),
    /// The factor.
    pub scale: f64,
}

/// Queries `q [t, h, d]` over keys and values `[s, g, d]`; row `i` sees key `j` where `visible(i, j)`. `-> [t, h, d]`.
pub fn attention(
    q: &[f64],
    k: &[f64],
    v: &[f64],
    sizes: (usize, usize, usize),
    visible: impl Fn(usize, usize) -> bool,
) -> Vec<f64> {
    biased(q, k, v, Scores { sizes, scale: 1.0 / (sizes.2 as f64).sqrt() }, visible, |_, _, _| 0.0)
}

/// Attention with scores as described, and `bias(i, j, head)` added to them.
pub fn biased(
    q: &[f64],
    k: &[f64],
    v: &[f64],
    Scores { sizes: (h, g, d), scale }: Scores,
    visible: impl Fn(usize, usize) -> bool,
    bias: impl Fn(usize, usize, usize) -> f64,
) -> Vec<f64> {
    let (t, s) = (q.len() / (h * d), k.len() / (g * d));
    let mut out = vec![0.0; t * h * d];
    for i in 0..t {
        for head in 0..h {
            let group = head / (h / g);
            let score = |j: usize| -> f64 {
                let products = (0..d).map(|c| q[(i * h + head) * d + c] * k[(j * g + group) * d + c]);
                scale * products.sum::<f64>() + bias(i, j, head)
            };
            let keys: Vec<usize> = (0..s).filter(|&j| visible(i, j)).collect();
            let scores: Vec<f64> = keys.iter().map(|&j| score(j)).collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
            for (j, score) in keys.into_iter().zip(scores) {
                let weight = (score - largest).exp() / total;
                for c in 0..d {
                    out[(i * h + head) * d + c] += weight * v[(j * g + group) * d + c];
                }
            }
        }
    }
    out
}

/// The weights of one head's values: `q [t, d]` over `k [s, d]`, `-> [t, s]`.
pub fn weights(q: &[f64], k: &[f64], d: usize) -> Vec<f64> {
    let row = |q: &[f64]| -> Vec<f64> {
        let score = |k: &[f64]| q.iter().zip(k).map(|(a, b)| a * b).sum::<f64>() / (d as f64).sqrt();
        let scores: Vec<f64> = k.chunks(d).map(score).collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
        scores.iter().map(|score| (score - largest).exp() / total).collect()
    };
    q.chunks(d).flat_map(row).collect()
}
