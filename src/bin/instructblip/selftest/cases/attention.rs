//! Attention without a cache.

use instructblip::runtime::{Heads, Mask};

use super::super::case::{Case, Recording};
use super::super::oracle::attention::{attention, biased, weights};
use super::super::oracle::wide;
use super::super::place::Rng;
use super::{BOUND, columns};

/// Rows, heads, channels: 88 of the vision tower, 64 of the Q-Former, 80 of OPT, 128 of LLaMA, the least and the most that
/// kernels take, and less. A tile for GPUs is 16 rows by 64 keys, or 32 rows where many heads make enough of them. Each number of
/// channels is a pipeline, which takes longer than to run it.
const SHAPES: [(u32, u32, u32); 12] = [
    (257, 2, 88),
    (1, 1, 64),
    (32, 3, 64),
    (65, 1, 64),
    (16, 2, 64),
    (65, 86, 64),
    (33, 4, 80),
    (325, 1, 88),
    (33, 2, 128),
    (5, 2, 4),
    (5, 3, 3),
    (9, 1, 256),
];

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = SHAPES.map(|shape| full(shape, false)).into();
    cases.extend([(42, 2, 64), (1, 1, 64), (33, 128, 64), (325, 1, 88)].map(|shape| full(shape, true)));
    cases.push(large_scores());
    cases.extend([(32, 257, 2, 64), (1, 1, 1, 64), (5, 19, 3, 64)].map(cross));
    cases.extend([(9, 2, 64, 3), (40, 2, 64, 128)].map(distance_bias));
    cases.extend([(32, 257, 2, 64), (5, 19, 3, 20)].map(weight_taps));
    cases
}

fn full((t, h, d): (u32, u32, u32), masked: bool) -> Case {
    let mask = if masked { ", masked" } else { "" };
    Case::new(format!("attention {t} rows, {h} heads of {d}{mask}"), BOUND, move |place| {
        let width = h * d;
        let qkv = Rng::new(1).normals(t * 3 * width);
        let seen: Vec<u32> = (0..t).map(|j| u32::from(!masked || j == 0 || j % 3 != 1)).collect();
        let (input, table) = (place.tensor(t, 3 * width, &qkv)?, place.ids(&seen)?);
        let mut r = place.recorder();
        let out = r.attention(&input, Heads::full(h, d), if masked { Mask::Keys(&table) } else { Mask::None });
        Ok(Recording::new(r).gives(&out, move || {
            let [q, k, v] = [0, 1, 2].map(|i| columns(&qkv, 3 * width, i * width, width));
            attention(&q, &k, &v, (h as usize, h as usize, d as usize), |_, j| seen[j] != 0)
        }))
    })
}

fn large_scores() -> Case {
    // Scores in the thousands carry an f32 rounding of 1e-4 into the exponent.
    Case::new("attention 9 rows, scores in the thousands", 1e-3, |place| {
        let qkv: Vec<f32> = Rng::new(2).normals(9 * 192).iter().map(|v| 40.0 * v).collect();
        let mut r = place.recorder();
        let out = r.attention(&place.tensor(9, 192, &qkv)?, Heads::full(1, 64), Mask::None);
        Ok(Recording::new(r).gives(&out, move || {
            let [q, k, v] = [0, 1, 2].map(|i| columns(&qkv, 192, i * 64, 64));
            attention(&q, &k, &v, (1, 1, 64), |_, _| true)
        }))
    })
}

fn cross((t, s, h, d): (u32, u32, u32, u32)) -> Case {
    Case::new(format!("cross_attention {t} over {s}, {h} heads of {d}"), BOUND, move |place| {
        let (mut rng, width) = (Rng::new(3), h * d);
        let (q, kv) = (rng.normals(t * width), rng.normals(s * 2 * width));
        let mut r = place.recorder();
        let (queries, keys) = (place.tensor(t, width, &q)?, place.tensor(s, 2 * width, &kv)?);
        let out = r.cross_attention(&queries, &keys, Heads::full(h, d));
        Ok(Recording::new(r).gives(&out, move || {
            let [k, v] = [0, 1].map(|i| columns(&kv, 2 * width, i * width, width));
            attention(&wide(&q), &k, &v, (h as usize, h as usize, d as usize), |_, _| true)
        }))
    })
}

/// T5's: scores without scale, with a bias by distance that is clamped.
fn distance_bias((t, h, d, far): (u32, u32, u32, u32)) -> Case {
    Case::new(format!("attention_biased {t} rows, {h} heads of {d}, to {far} away"), BOUND, move |place| {
        let (mut rng, width) = (Rng::new(4), h * d);
        let bias = rng.normals((2 * far + 1) * h);
        let qkv: Vec<f32> = rng.normals(t * 3 * width).iter().map(|v| v / (d as f32).sqrt()).collect();
        let (input, table) = (place.tensor(t, 3 * width, &qkv)?, place.tensor(2 * far + 1, h, &bias)?);
        let mut r = place.recorder();
        let out = r.attention_biased(&input, Heads::full(h, d).unscaled(), Mask::None, Some(&table));
        Ok(Recording::new(r).gives(&out, move || {
            let [q, k, v] = [0, 1, 2].map(|i| columns(&qkv, 3 * width, i * width, width));
            let far = far as i64;
            let added = |i: usize, j: usize, head: usize| {
                let distance = (j as i64 - i as i64).clamp(-far, far) + far;
                f64::from(bias[distance as usize * h as usize + head])
            };
            biased(&q, &k, &v, (h as usize, h as usize, d as usize), 1.0, |_, _| true, added)
        }))
    })
}

/// What values are weighed by comes out as a tap.
fn weight_taps((t, s, h, d): (u32, u32, u32, u32)) -> Case {
    Case::new(format!("weights of cross_attention {t} over {s}, {h} heads of {d}"), BOUND, move |place| {
        let (mut rng, width, label) = (Rng::new(5), h * d, "cross_attention.weights");
        let (q, kv) = (rng.normals(t * width), rng.normals(s * 2 * width));
        let mut r = place.recorder().with_taps(&[label.into()]);
        r.cross_attention(&place.tensor(t, width, &q)?, &place.tensor(s, 2 * width, &kv)?, Heads::full(h, d));
        Ok(Recording::new(r).about("attention_weights").taps(label, move || {
            let of_head = |rows: &[f32], width: u32, head: u32| columns(rows, width, head * d, d);
            let want =
                (0..h).map(|head| weights(&of_head(&q, width, head), &of_head(&kv, 2 * width, head), d as usize));
            want.flatten().collect()
        }))
    })
}
