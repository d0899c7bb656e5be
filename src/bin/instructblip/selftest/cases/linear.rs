//! Linear layers, their epilogues and embeddings.

use instructblip::runtime::{Activation, Caps, Recorder, Tuning, WeightFormat};

use super::super::case::{Case, Recording};
use super::super::oracle::{self, activation, wide};
use super::super::place::{Place, Rng};
use super::BOUND;

/// Rows, outputs, inputs. K is whole groups of 32, which every format can store.
const SHAPES: [(u32, u32, u32); 9] = [
    (257, 264, 1408),
    (1, 512, 4096),
    (1, 130, 1408),
    (1, 1, 32),
    (4, 63, 160),
    (5, 1, 32),
    (7, 65, 224),
    (33, 130, 192),
    (64, 64, 64),
];

/// The same with any K.
const RAGGED: [(u32, u32, u32); 6] = [(1, 4, 8), (2, 5, 24), (7, 3, 16), (65, 97, 592), (1, 101, 37), (9, 37, 101)];

type Function = fn(f64) -> f64;

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for format in WeightFormat::ALL {
        cases.extend(SHAPES.map(|shape| linear(format, shape)));
        cases.extend([(1, 33, 96), (7, 96, 64), (33, 65, 160)].map(|shape| swiglu(format, shape)));
        cases.extend([(9, 2, 5, 24, 64), (3, 1, 1, 8, 32), (40, 7, 33, 64, 96)].map(|shape| added(format, shape)));
        cases.extend([1, 5].map(|m| split(format, m)));
        for form in ["linear_vec", "linear_vec_subgroup", "linear_tile"] {
            cases.extend([(1, 9, 64), (5, 70, 96), (19, 66, 64)].map(|shape| by_form(form, format, shape)));
        }
        cases.extend([(1, 9, 160), (5, 33, 96)].map(|shape| normed(format, shape)));
    }
    cases.extend([(640, 4), (1, 1), (131, 33)].map(|(rows, ids)| embed(rows, ids)));
    cases.extend(RAGGED.map(|shape| linear(WeightFormat::F16, shape)));
    let activations: [(Activation, Function); 4] = [
        (Activation::Gelu, activation::gelu),
        (Activation::GeluTanh, activation::gelu_tanh),
        (Activation::Silu, activation::silu),
        (Activation::Relu, activation::relu),
    ];
    for (activation, function) in activations {
        cases.push(activated(activation, function, (1, 33, 64)));
        // Tiles with SiLU are gated ones in every model; a pipeline takes a second to make on a software adapter.
        if activation != Activation::Silu {
            cases.push(activated(activation, function, (37, 66, 64)));
        }
    }
    cases
}

fn linear(format: WeightFormat, (m, n, k): (u32, u32, u32)) -> Case {
    Case::new(format!("linear {format} {m}x{n}x{k}"), BOUND, move |place| {
        let mut rng = Rng::new(1);
        let (layer, w, b) = place.linear(&mut rng, format, (n, k), m % 2 == 1)?;
        let x = rng.normals(m * k);
        let mut r = place.recorder();
        let y = r.linear(&place.tensor(m, k, &x)?, &layer);
        Ok(Recording::new(r).gives(&y, move || sums(&x, &w, &b, (m, n, k))))
    })
}

/// By a form that is not the adapter's first choice, where it can run.
fn by_form(form: &'static str, format: WeightFormat, (m, n, k): (u32, u32, u32)) -> Case {
    Case::new(format!("linear {format} {m}x{n}x{k} by {form}"), BOUND, move |place| {
        let mut rng = Rng::new(7);
        let (layer, w, b) = place.linear(&mut rng, format, (n, k), true)?;
        let x = rng.normals(m * k);
        let mut r = Recorder::new(Caps { preferred: Some(form), ..place.caps });
        let y = r.linear(&place.tensor(m, k, &x)?, &layer);
        Ok(Recording::new(r).gives(&y, move || sums(&x, &w, &b, (m, n, k))))
    })
}

/// An RMSNorm and a layer in one dispatch.
fn normed(format: WeightFormat, (m, n, k): (u32, u32, u32)) -> Case {
    Case::new(format!("norm_linear {format} {m}x{n}x{k}"), BOUND, move |place| {
        let mut rng = Rng::new(8);
        let (layer, w, b) = place.linear(&mut rng, format, (n, k), true)?;
        let (norm, gain, _) = place.norm(&mut rng, k, 1e-5, false)?;
        let x = rng.normals(m * k);
        let mut r = Recorder::new(Caps { tuning: Tuning { fuse_norm: true, ..place.caps.tuning }, ..place.caps });
        let y = r.norm_linear(&place.tensor(m, k, &x)?, &norm, &layer);
        Ok(Recording::new(r).gives(&y, move || {
            let h = oracle::norm::rms_norm(&wide(&x), &gain, 1e-5);
            oracle::linear::linear(&h, &w, &b, m as usize, n as usize, k as usize)
        }))
    })
}

fn activated(activation: Activation, function: Function, (m, n, k): (u32, u32, u32)) -> Case {
    Case::new(format!("linear_act {activation:?} {m}x{n}x{k}"), BOUND, move |place| {
        let mut rng = Rng::new(2);
        let (layer, w, b) = place.linear(&mut rng, WeightFormat::F16, (n, k), true)?;
        // Wide enough to reach the flat ends of every function.
        let x: Vec<f32> = rng.normals(m * k).iter().map(|v| 4.0 * v).collect();
        let mut r = place.recorder();
        let y = r.linear_act(&place.tensor(m, k, &x)?, &layer, activation);
        let want = move || sums(&x, &w, &b, (m, n, k)).into_iter().map(function).collect();
        Ok(Recording::new(r).gives(&y, want))
    })
}

fn swiglu(format: WeightFormat, (m, f, k): (u32, u32, u32)) -> Case {
    Case::new(format!("swiglu {format} {m}x{f}x{k}"), BOUND, move |place| {
        let mut rng = Rng::new(3);
        let (layer, w, b) = place.linear(&mut rng, format, (2 * f, k), m % 2 == 0)?;
        let x = rng.normals(m * k);
        let mut r = place.recorder();
        let y = r.swiglu(&place.tensor(m, k, &x)?, &layer);
        Ok(Recording::new(r).gives(&y, move || oracle::linear::swiglu(&sums(&x, &w, &b, (m, 2 * f, k)))))
    })
}

/// Into some rows of a larger tensor, which keeps the others.
fn added(format: WeightFormat, (rows, first, m, n, k): (u32, u32, u32, u32, u32)) -> Case {
    Case::new(format!("linear_add {format} {m}x{n}x{k}, rows from {first} of {rows}"), BOUND, move |place| {
        let mut rng = Rng::new(4);
        let (layer, w, b) = place.linear(&mut rng, format, (n, k), true)?;
        let (x, y0) = (rng.normals(rows * k), rng.normals(rows * n));
        let (source, y) = (place.tensor(rows, k, &x)?, place.tensor(rows, n, &y0)?);
        let mut r = place.recorder();
        r.linear_add(&mut y.slice_rows(first, m), &source.slice_rows(first, m), &layer);
        Ok(Recording::new(r).gives(&y, move || {
            let part = &x[(first * k) as usize..][..(m * k) as usize];
            let mut want = wide(&y0);
            let changed = want[(first * n) as usize..].iter_mut();
            changed.zip(sums(part, &w, &b, (m, n, k))).for_each(|(y, more)| *y += more);
            want
        }))
    })
}

/// Weights over the binding limit are split by rows; under 16 KiB these are.
fn split(format: WeightFormat, m: u32) -> Case {
    let (n, k) = (650, 96);
    Case::new(format!("linear {format} {m}x{n}x{k}, split"), BOUND, move |place: &Place| {
        let mut rng = Rng::new(5);
        let place = place.with_binding_limit(16 << 10);
        let (layer, w, b) = place.linear(&mut rng, format, (n, k), true)?;
        let x = rng.normals(m * k);
        let mut r = place.recorder();
        let y = r.linear(&place.tensor(m, k, &x)?, &layer);
        Ok(Recording::new(r).gives(&y, move || sums(&x, &w, &b, (m, n, k))))
    })
}

fn embed(rows: u32, count: u32) -> Case {
    let d = 192;
    Case::new(format!("embed {count} of {rows}x{d}"), 0.0, move |place| {
        let mut rng = Rng::new(6);
        let (table, w) = place.matrix(&mut rng, WeightFormat::F16, rows, d)?;
        // The last row, too, and one of them twice.
        let mut ids: Vec<u32> = (0..count).map(|_| rng.below(rows)).collect();
        ids[0] = rows - 1;
        ids[count as usize - 1] = rows - 1;
        let mut r = place.recorder();
        let out = r.embed(&place.ids(&ids)?, &table);
        let want = move || ids.iter().flat_map(|&id| w[(id * d) as usize..][..d as usize].to_vec()).collect();
        Ok(Recording::new(r).gives(&out, want))
    })
}

fn sums(x: &[f32], w: &[f64], b: &[f64], (m, n, k): (u32, u32, u32)) -> Vec<f64> {
    oracle::linear::linear(&wide(x), w, b, m as usize, n as usize, k as usize)
}
