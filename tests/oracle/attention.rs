//! Softmax attention.

/// Queries `q [t, h, d]` over keys and values `[s, g, d]`; row `i` sees key `j` where `visible(i, j)`. `-> [t, h, d]`.
pub fn attention(
    q: &[f64],
    k: &[f64],
    v: &[f64],
    (h, g, d): (usize, usize, usize),
    visible: impl Fn(usize, usize) -> bool,
) -> Vec<f64> {
    let (t, s) = (q.len() / (h * d), k.len() / (g * d));
    let mut out = vec![0.0; t * h * d];
    for i in 0..t {
        for head in 0..h {
            let group = head / (h / g);
            let score = |j: usize| -> f64 {
                let products = (0..d).map(|c| q[(i * h + head) * d + c] * k[(j * g + group) * d + c]);
                products.sum::<f64>() / (d as f64).sqrt()
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
