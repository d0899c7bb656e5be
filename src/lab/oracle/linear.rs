//! `y = x Wᵀ + b` and SwiGLU.

/// `x [m, k]`, `w [n, k]`, `b [n]` or empty `-> [m, n]`.
pub fn linear(x: &[f64], w: &[f64], b: &[f64], m: usize, n: usize, k: usize) -> Vec<f64> {
    let mut y = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            let sum: f64 = (0..k).map(|c| x[i * k + c] * w[j * k + c]).sum();
            y[i * n + j] = sum + b.get(j).copied().unwrap_or(0.0);
        }
    }
    y
}

/// `y [m, 2f]` with gate and up alternating `-> [m, f]`.
pub fn swiglu(y: &[f64]) -> Vec<f64> {
    y.chunks(2).map(|pair| super::elementwise::silu(pair[0]) * pair[1]).collect()
}
