//! LayerNorm and RMSNorm of the rows of `x [_, d]`.

/// `(x − mean) / √(var + eps) · weight + bias`, biased variance.
pub fn layer_norm(x: &[f64], weight: &[f64], bias: &[f64], eps: f64) -> Vec<f64> {
    let d = weight.len();
    let row = |row: &[f64]| -> Vec<f64> {
        let mean = row.iter().sum::<f64>() / d as f64;
        let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / d as f64;
        (0..d).map(|i| (row[i] - mean) / (variance + eps).sqrt() * weight[i] + bias[i]).collect()
    };
    x.chunks(d).flat_map(row).collect()
}

/// `x / √(mean(x²) + eps) · weight`.
pub fn rms_norm(x: &[f64], weight: &[f64], eps: f64) -> Vec<f64> {
    let d = weight.len();
    let row = |row: &[f64]| -> Vec<f64> {
        let mean_square = row.iter().map(|v| v * v).sum::<f64>() / d as f64;
        (0..d).map(|i| row[i] / (mean_square + eps).sqrt() * weight[i]).collect()
    };
    x.chunks(d).flat_map(row).collect()
}
