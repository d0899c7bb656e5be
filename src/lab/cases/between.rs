//! LayerNorms between two layers, which layers by matrices begin and end themselves.

use crate::lab::case::{Case, Depth, Setup};
use crate::lab::oracle::norm::layer_norm;
use crate::lab::oracle::{elementwise, halves, wide};
use crate::runtime::{Activation, Recorder, WeightFormat};

use super::linear::{Shape, fusing_norms, in_tiles, product};
use Depth::{Ragged, Small};
use WeightFormat::{F16, Q4, Q8};

/// Every case of this family: two rows of tiles and shares of the inputs of both layers, ragged, and the smallest; then
/// rows that are hard to norm.
pub fn cases() -> Vec<Case> {
    let even = Rows { mean: 1.0, outlier: 1.0 };
    let mut cases = vec![
        between(Small, F16, (70, 72, 104), 136, even),
        between(Ragged, F16, (257, 264, 1408), 88, even),
        between(Ragged, F16, (33, 1408, 40), 72, even),
        between(Ragged, F16, (16, 8, 8), 8, even),
        between(Ragged, Q8, (37, 96, 64), 40, even),
        between(Ragged, Q4, (37, 352, 352), 40, even),
        // Of a number of columns that no layer by matrices has.
        between(Ragged, F16, (33, 37, 24), 40, even),
        between(Ragged, F16, (3, 64, 64), 64, even),
        between(Ragged, F16, (40, 328, 64), 72, Rows { mean: 47.0, ..even }),
        between(Ragged, F16, (40, 328, 64), 72, Rows { mean: 0.0, outlier: 100.0 }),
    ];
    let tiles = [(32, 128), (64, 64), (64, 128), (96, 64), (96, 128), (128, 128)];
    cases.extend(tiles.map(|tile| in_tiles(between(Ragged, F16, (tile.0 + 29, 136, 680), 264, even), tile, 32)));
    cases
}

/// Added to the variance.
const EPS: f32 = 1e-5;

/// The rows that are normed: their mean in deviations, and the factor of every fortieth column.
#[derive(Clone, Copy)]
struct Rows {
    mean: f32,
    outlier: f32,
}

/// `y += x W1ᵀ + b1` and `gelu(LayerNorm(y) W2ᵀ + b2)` of `next` columns.
fn between(depth: Depth, format: WeightFormat, (m, n, k): Shape, next: u32, rows: Rows) -> Case {
    let Rows { mean, outlier } = rows;
    let shape = format!("{m}x{n}x{k}, x{next} of {mean} ± 1, some x{outlier}");
    let op = if format == F16 { "linear_add_before".into() } else { format!("linear_add_before {format}") };
    let case = Case::new(op, shape, move |o| {
        let all = |n| (0..n).collect::<Vec<u32>>();
        let first = o.linear(format, (n, k), &all(n), true)?;
        let second = o.linear(format, (next, n), &all(next), true)?;
        let norm = o.norm(n, EPS, true)?;
        let folded = o.fold(norm.operand, &second.operand)?;
        let (input, x) = o.noise(m, k)?;
        let spread = |(i, v): (usize, &f32)| mean + v * if i % 40 == 7 { outlier } else { 1.0 };
        let y0: Vec<f32> = o.normals(m * n).iter().enumerate().map(spread).collect();
        let before = o.tensor(m, n, &y0)?;
        let (one, two) = (first.operand, second.operand);
        let record = move |r: &mut Recorder, _| {
            let mut y = r.empty(m, n);
            r.copy(&mut y, &before);
            r.linear_add_before(&mut y, &input, &one, Some(&folded));
            let out = r.norm_linear_act(&y, &folded, &two, Activation::Gelu);
            vec![y.into(), out.into()]
        };
        let sums = move |rounds| {
            let more = product(rounds, &wide(&x), &first.weights, &first.bias, k);
            wide(&y0).iter().zip(more).map(|(y, more)| y + more).collect::<Vec<f64>>()
        };
        let (y, gains, shift) = (sums.clone(), norm.weights, norm.bias);
        let ended = move |rounds| {
            // Layers by matrices round what goes through the norm.
            let y = y(rounds);
            let normed =
                if rounds { begun_norm(&y, &gains, &shift) } else { layer_norm(&y, &gains, &shift, EPS.into()) };
            let sums = product(false, &normed, &second.weights, &second.bias, n);
            sums.into_iter().map(elementwise::gelu).collect()
        };
        Ok(Setup::of_several(record).gives_sample(None, sums).gives_sample(None, ended))
    });
    case.with_caps(fusing_norms).at(depth)
}

/// [`layer_norm`] of rows that were multiplied by the gains and rounded to halves: mean and deviation are of those before.
fn begun_norm(y: &[f64], gains: &[f64], shift: &[f64]) -> Vec<f64> {
    let row = |y: &[f64]| -> Vec<f64> {
        let mean = y.iter().sum::<f64>() / y.len() as f64;
        let variance = y.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / y.len() as f64;
        let gained: Vec<f64> = y.iter().zip(gains).map(|(y, gain)| y * gain).collect();
        let rounded = halves(&gained, 16.0).into_iter().zip(gains.iter().zip(shift));
        rounded.map(|(v, (gain, shift))| (v - mean * gain) / (variance + f64::from(EPS)).sqrt() + shift).collect()
    };
    y.chunks(gains.len()).flat_map(row).collect()
}
