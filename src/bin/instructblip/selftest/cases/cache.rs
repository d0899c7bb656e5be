//! What reads and writes the paged cache, and learned positions.

use std::rc::Rc;

use instructblip::runtime::{Caps, Heads, KvLayer, Recorder, Rows, Step, Tensor, Tuning, WeightFormat};

use super::super::case::{Case, Recording};
use super::super::oracle::attention::{attention, biased};
use super::super::oracle::linear::linear;
use super::super::oracle::norm::rms_norm;
use super::super::oracle::rope::rope;
use super::super::oracle::wide;
use super::super::place::{Pages, Rng};
use super::BOUND;

/// New rows, position of the first, query heads, key-value heads, channels. One row takes the split form on a GPU, unless
/// there are 128 heads, and several take tiles; both take 64 keys at a time: as many, and one more.
const SHAPES: [(u32, u32, u32, u32, u32); 15] = [
    (1, 399, 4, 4, 128),
    (1, 63, 2, 2, 128),
    (1, 128, 4, 2, 128),
    (1, 64, 128, 16, 64),
    (1, 5, 6, 2, 128),
    (1, 45, 4, 4, 80),
    (1, 700, 2, 1, 64),
    (1, 0, 1, 1, 64),
    (33, 310, 4, 1, 128),
    (16, 48, 4, 2, 80),
    (17, 48, 2, 2, 128),
    (40, 90, 128, 16, 64),
    (7, 3, 6, 3, 80),
    (4, 0, 2, 2, 128),
    (5, 11, 1, 1, 128),
];

/// On pages that hold nothing: large enough to be seen in any result that it gets into.
const GARBAGE: f32 = 1e9;

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = SHAPES.map(cached).into();
    cases.extend([(1, 30, 3, 64, 9), (9, 0, 2, 64, 3), (1, 0, 1, 64, 4)].map(cached_bias));
    cases.extend([(6, 2, 64), (1, 1, 64), (4, 4, 128)].map(sequences));
    cases.extend([(65, 100, 4, 1, 128), (1, 0, 1, 1, 8), (1, 511, 6, 2, 24), (7, 3, 2, 2, 32)].map(rope_store));
    for format in WeightFormat::ALL {
        for form in ["linear_vec", "linear_vec_subgroup"] {
            cases.extend([(1, 511, 6, 2, 24), (5, 3, 2, 2, 64)].map(|shape| norm_rope_store(form, format, shape)));
        }
    }
    cases.extend([(33, 100, 2, 80), (1, 0, 1, 8), (7, 3, 3, 24)].map(store));
    cases.extend([(33, 2560), (1, 8), (3, 40)].map(positions));
    cases
}

fn cached((t, pos, h, g, d): (u32, u32, u32, u32, u32)) -> Case {
    let shape = format!("attention_cached {t} rows at {pos}, {h} over {g} heads of {d}");
    Case::new(shape, BOUND, move |place| {
        let (mut rng, len) = (Rng::new(1), pos + t);
        let pages = Pages { heads: g, dim: d, capacity: len + 9, garbage: GARBAGE };
        let (q, k, v) = (rng.normals(t * h * d), rng.normals(len * g * d), rng.normals(len * g * d));
        let (input, kv, rows) = (place.tensor(t, h * d, &q)?, place.cache(&pages, &k, &v)?, place.rows(t, &pages)?);
        let mut r = place.recorder();
        let out = r.attention_cached(&input, &kv, Heads::grouped(h, g, d), &rows, None);
        Ok(Recording::new(r).at(Step::new(pos, t)).gives(&out, move || {
            let sizes = (h as usize, g as usize, d as usize);
            attention(&wide(&q), &wide(&k), &wide(&v), sizes, |i, j| j <= pos as usize + i)
        }))
    })
}

/// T5's decoder: no scale, a bias by distance.
fn cached_bias((t, pos, h, d, far): (u32, u32, u32, u32, u32)) -> Case {
    Case::new(format!("attention_cached {t} rows at {pos}, {h} heads of {d}, biased"), BOUND, move |place| {
        let (mut rng, len, width) = (Rng::new(2), pos + t, h * d);
        let pages = Pages { heads: h, dim: d, capacity: len + 3, garbage: GARBAGE };
        let bias = rng.normals((2 * far + 1) * h);
        let mut small = |n: u32| -> Vec<f32> { rng.normals(n).iter().map(|v| v / (d as f32).sqrt()).collect() };
        let (q, k, v) = (small(t * width), small(len * width), small(len * width));
        let (input, kv, rows) = (place.tensor(t, width, &q)?, place.cache(&pages, &k, &v)?, place.rows(t, &pages)?);
        let table = place.tensor(2 * far + 1, h, &bias)?;
        let mut r = place.recorder();
        let out = r.attention_cached(&input, &kv, Heads::full(h, d).unscaled(), &rows, Some(&table));
        Ok(Recording::new(r).at(Step::new(pos, t)).gives(&out, move || {
            let (sizes, far, pos) = ((h as usize, h as usize, d as usize), i64::from(far), pos as usize);
            let added = |i: usize, j: usize, head: usize| {
                let distance = (j as i64 - (pos + i) as i64).clamp(-far, far) + far;
                f64::from(bias[distance as usize * h as usize + head])
            };
            biased(&wide(&q), &wide(&k), &wide(&v), sizes, 1.0, |i, j| j <= pos + i, added)
        }))
    })
}

/// Rows of three sequences that share pages, at positions of their own, as beams and batches are decoded; causal and
/// over the keys of an encoder.
fn sequences((h, g, d): (u32, u32, u32)) -> Case {
    Case::new(format!("rows of three sequences, {h} over {g} heads of {d}"), BOUND, move |place| {
        let (mut rng, heads, lens) = (Rng::new(3), Heads::grouped(h, g, d), [1u32, 7, 30]);
        let pages = Pages { heads: g, dim: d, capacity: 40, garbage: GARBAGE };
        let (k, v) = (rng.normals(40 * g * d), rng.normals(40 * g * d));
        let q = rng.normals(3 * h * d);
        let (input, kv) = (place.tensor(3, h * d, &q)?, place.cache(&pages, &k, &v)?);
        // Sequence i has its keys where another permutation says.
        let at = |i: u32, s: u32| (s * 7 + i * 3) % 40;
        let table: Vec<u32> = (0..3).flat_map(|i| (0..40).map(move |s| pages.page(at(i, s)))).collect();
        let table = place.table(3, 40, &table)?;
        let places =
            |more: u32| -> Vec<u32> { lens.iter().zip(0..).flat_map(|(&len, i)| [len + more - 1, i]).collect() };
        let own = Rows { places: place.table(3, 2, &places(0))?, pages: table.clone() };
        // Here the number of keys is told, not the position, and the step's two are among them.
        let cross = Rows { places: place.table(3, 2, &places(3))?, pages: table };
        let mut r = place.recorder();
        let out = r.attention_cached(&input, &kv, heads, &own, None);
        let crossed = r.cross_attention_cached(&input, &kv, heads, &cross);
        let want = move || -> Vec<f64> {
            let row = |(i, len): (u32, u32)| {
                let gather = |x: &[f32]| -> Vec<f64> {
                    let width = (g * d) as usize;
                    (0..len + 2).flat_map(|s| wide(&x[at(i, s) as usize * width..][..width])).collect()
                };
                let q = wide(&q[(i * h * d) as usize..][..(h * d) as usize]);
                attention(&q, &gather(&k), &gather(&v), (h as usize, g as usize, d as usize), |_, _| true)
            };
            (0..3).zip(lens).flat_map(row).collect()
        };
        let again = want.clone();
        Ok(Recording::new(r).at(Step::new(2, 1)).gives(&out, want).gives(&crossed, again))
    })
}

const THETA: f64 = 10_000.0;

/// cos and sin of every angle of `positions` positions, alternating.
fn angles(positions: u32, d: u32) -> Vec<f32> {
    let angle = |p: u32, j: u32| f64::from(p) * THETA.powf(-2.0 * f64::from(j) / f64::from(d));
    let row = |p| (0..d / 2).flat_map(move |j| [angle(p, j).cos() as f32, angle(p, j).sin() as f32]);
    (0..positions).flat_map(row).collect()
}

/// What becomes of `qkv`: q rotated, and the cache's keys and values after the store.
fn turned(recording: Recording, q: &Tensor, kv: &KvLayer, heads: Heads, pages: Pages, pos: u32, qkv: Qkv) -> Recording {
    let Heads { query: h, key_value: g, dim: d, .. } = heads;
    let width = (h + 2 * g) * d;
    let part = move |first: u32, n: u32| {
        let qkv = qkv.clone();
        let (first, width, count) = ((first * d) as usize, width as usize, (n * d) as usize);
        move || -> Vec<f64> { qkv().chunks(width).flat_map(|row| row[first..][..count].to_vec()).collect() }
    };
    let rotated = move |x: Vec<f64>, n: u32| rope(&x, (n as usize, d as usize), pos as usize, THETA);
    let stored = move |rows: Vec<f64>| {
        let rows: Vec<f32> = rows.into_iter().map(|v| v as f32).collect();
        wide(&pages.lay_out_from(pos, &rows))
    };
    let (of_q, of_k, of_v) = (part(0, h), part(h, g), part(h + g, g));
    recording
        .gives(q, move || rotated(of_q(), h))
        .gives(&kv.keys, move || stored(rotated(of_k(), g)))
        .gives(&kv.values, move || stored(of_v()))
}

/// Computes packed rows of q, k and v.
type Qkv = Rc<dyn Fn() -> Vec<f64>>;

fn rope_store((t, pos, h, g, d): (u32, u32, u32, u32, u32)) -> Case {
    Case::new(format!("rope_store {t} rows at {pos}, {h} over {g} heads of {d}"), BOUND, move |place| {
        let (width, heads) = ((h + 2 * g) * d, Heads::grouped(h, g, d));
        // The whole cache is compared, so what lies on other pages must not outweigh what was stored.
        let pages = Pages { heads: g, dim: d, capacity: pos + t + 2, garbage: 0.5 };
        let qkv = Rng::new(4).normals(t * width);
        let (input, kv) = (place.tensor(t, width, &qkv)?, place.cache(&pages, &[], &[])?);
        let mut r = place.recorder();
        let angles = place.tensor(pages.capacity, d, &angles(pages.capacity, d))?;
        let turns = r.turns(&angles, &place.rows(t, &pages)?);
        let q = r.rope_store(&input, &turns, &kv, heads);
        let recording = Recording::new(r).at(Step::new(pos, t));
        Ok(turned(recording, &q, &kv, heads, pages, pos, Rc::new(move || wide(&qkv))))
    })
}

/// A norm, the layer that makes q, k and v, and [`rope_store`] in one dispatch, whatever the adapter likes best.
fn norm_rope_store(form: &'static str, format: WeightFormat, (t, pos, h, g, d): (u32, u32, u32, u32, u32)) -> Case {
    let shape = format!("norm_rope_store {format} {t} rows at {pos}, {h} over {g} heads of {d} by {form}");
    Case::new(shape, BOUND, move |place| {
        let (mut rng, k, n, heads) = (Rng::new(9), 160, (h + 2 * g) * d, Heads::grouped(h, g, d));
        let pages = Pages { heads: g, dim: d, capacity: pos + t + 2, garbage: 0.5 };
        let (layer, w, _) = place.linear(&mut rng, format, (n, k), false)?;
        let (norm, gain, _) = place.norm(&mut rng, k, 1e-5, false)?;
        let x = rng.normals(t * k);
        let kv = place.cache(&pages, &[], &[])?;
        let tuning = Tuning { fuse_norm: true, ..place.caps.tuning };
        let mut r = Recorder::new(Caps { preferred: Some(form), tuning, ..place.caps });
        let angles = place.tensor(pages.capacity, d, &angles(pages.capacity, d))?;
        let turns = r.turns(&angles, &place.rows(t, &pages)?);
        let q = r.norm_rope_store(&place.tensor(t, k, &x)?, &norm, &layer, &turns, &kv, heads);
        let qkv = move || {
            let h = rms_norm(&wide(&x), &gain, 1e-5);
            linear(&h, &w, &[], t as usize, n as usize, k as usize)
        };
        let recording = Recording::new(r).at(Step::new(pos, t));
        Ok(turned(recording, &q, &kv, heads, pages, pos, Rc::new(qkv)))
    })
}

fn store((t, pos, h, d): (u32, u32, u32, u32)) -> Case {
    Case::new(format!("store {t} rows at {pos}, {h} heads of {d}"), 0.0, move |place| {
        let width = h * d;
        let pages = Pages { heads: h, dim: d, capacity: pos + t + 2, garbage: 0.5 };
        let qkv = Rng::new(5).normals(t * 3 * width);
        let (kv, rows) = (place.cache(&pages, &[], &[])?, place.rows(t, &pages)?);
        let mut r = place.recorder();
        r.store(&place.tensor(t, 3 * width, &qkv)?, &kv, Heads::full(h, d), &rows);
        let part = |qkv: &[f32], i: u32| -> Vec<f32> {
            qkv.chunks(3 * width as usize)
                .flat_map(|row| row[(i * width) as usize..][..width as usize].to_vec())
                .collect()
        };
        let (keys, values) = (part(&qkv, 1), part(&qkv, 2));
        Ok(Recording::new(r)
            .at(Step::new(pos, t))
            .gives(&kv.keys, move || wide(&pages.lay_out_from(pos, &keys)))
            .gives(&kv.values, move || wide(&pages.lay_out_from(pos, &values))))
    })
}

fn positions((t, d): (u32, u32)) -> Case {
    Case::new(format!("add_positions {t}x{d} at 5"), BOUND, move |place| {
        let (mut rng, len) = (Rng::new(6), t + 9);
        let pages = Pages { heads: 1, dim: 8, capacity: len, garbage: 0.0 };
        // The first two rows of the table are no positions, as in OPT.
        let (x, table) = (rng.normals(t * d), rng.normals((len + 2) * d));
        let (mut sum, rows) = (place.tensor(t, d, &x)?, place.rows(t, &pages)?);
        let mut r = place.recorder();
        r.add_positions(&mut sum, &place.tensor(len + 2, d, &table)?.slice_rows(2, len), &rows);
        Ok(Recording::new(r).at(Step::new(5, t)).gives(&sum, move || {
            x.iter().zip(&table[(7 * d) as usize..]).map(|(&x, &p)| f64::from(x) + f64::from(p)).collect()
        }))
    })
}
