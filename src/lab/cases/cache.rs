//! Reads and writes of the paged cache, and learned positions.

use std::rc::Rc;

use super::attention::by_distance;
use super::linear::fusing_norms;
use super::{Table, columns, each, sampled};
use crate::error::Result;
use crate::lab::case::{BOUND, Case, Depth, Output, Setup};
use crate::lab::operands::{Known, Operands, Pages};
use crate::lab::oracle::attention::{Scores, attention, biased, weights};
use crate::lab::oracle::linear::linear;
use crate::lab::oracle::norm::rms_norm;
use crate::lab::oracle::rope::rope;
use crate::lab::oracle::wide;

use crate::runtime::{Heads, KvFormat, KvLayer, Recorder, Rotary, Rows, Step, Tensor, WeightFormat};

use Depth::{Published, Quick, Ragged, Small};
use KvFormat::{F16, F32};

/// New rows, position of the first, query heads, key-value heads, channels.
type Shape = (u32, u32, u32, u32, u32);

/// One row takes the form in shares on most GPUs, unless there are 128 heads, and several take tiles; both take 64 keys at a time:
/// as many, one more, and over two; rows whose last keys are in a step of their own, or the last of one; channels that no
/// form reads as they are.
#[rustfmt::skip]
const SHAPES: Table<Shape> = &[
    (Quick, &[(1, 399, 4, 4, 128)]),
    (Small, &[
        (1, 63, 2, 2, 128), (1, 128, 4, 2, 128), (1, 64, 128, 16, 64), (1, 5, 6, 2, 128), (1, 45, 4, 4, 80),
        (1, 700, 2, 1, 64), (1, 0, 1, 1, 64), (33, 310, 4, 1, 128), (16, 48, 4, 2, 80), (17, 48, 2, 2, 128),
        (40, 90, 128, 16, 64), (7, 3, 6, 3, 80), (4, 0, 2, 2, 128), (5, 11, 1, 1, 128),
    ]),
    (Ragged, &[
        (1, 0, 1, 1, 8), (1, 5, 6, 2, 24), (1, 2, 1, 1, 4), (1, 14, 2, 2, 12), (1, 15, 2, 1, 20), (1, 62, 3, 3, 36),
        (1, 63, 2, 2, 80), (1, 64, 2, 2, 88), (1, 128, 128, 128, 4), (1, 130, 2, 1, 100), (1, 257, 2, 2, 256),
        (4, 0, 2, 2, 32), (7, 3, 6, 3, 88), (33, 310, 4, 1, 16), (5, 11, 1, 1, 256), (15, 0, 2, 2, 80),
        (16, 33, 4, 2, 80), (17, 31, 4, 2, 80), (2, 62, 1, 1, 4), (2, 63, 2, 2, 100), (16, 48, 2, 1, 20),
        (17, 48, 2, 1, 36), (40, 90, 128, 2, 12), (1, 5, 6, 2, 6), (1, 130, 2, 1, 35), (7, 3, 6, 3, 5),
        (17, 31, 1, 1, 255),
    ]),
    (Published, &[(1, 299, 32, 32, 128), (64, 0, 32, 32, 128)]),
];

/// Shapes as of [`SHAPES`], with keys and values of f16.
#[rustfmt::skip]
const HALVES: Table<Shape> = &[
    (Quick, &[(1, 399, 4, 4, 128), (33, 310, 4, 1, 128)]),
    (Small, &[(1, 700, 2, 1, 64), (1, 64, 128, 16, 64), (16, 48, 4, 2, 80)]),
    (Ragged, &[
        (1, 0, 1, 1, 8), (1, 130, 2, 1, 100), (1, 62, 3, 3, 36), (1, 257, 2, 2, 256), (7, 3, 6, 3, 88), (5, 11, 1, 1, 256),
        (16, 48, 2, 1, 20), (40, 90, 128, 2, 12), (40, 90, 128, 16, 64),
    ]),
    (Published, &[(1, 299, 32, 32, 128), (64, 0, 32, 32, 128)]),
];

/// Rows, position of the first, heads, channels, and the distance from which on all keys have one bias.
#[rustfmt::skip]
const BIASED: Table<Shape> = &[
    (Small, &[(1, 30, 3, 64, 9), (9, 0, 2, 64, 3), (1, 0, 1, 64, 4)]),
    (Ragged, &[
        (1, 0, 1, 8, 4), (1, 30, 3, 24, 9), (9, 0, 2, 16, 3), (40, 0, 2, 64, 128), (70, 0, 90, 12, 40),
        (1, 30, 3, 5, 9), (9, 0, 2, 35, 3),
    ]),
];

/// Query heads, key-value heads, channels, pages.
#[rustfmt::skip]
const SEQUENCES: Table<(u32, u32, u32, u32)> = &[
    (Small, &[(6, 2, 64, 40), (1, 1, 64, 40), (4, 4, 128, 40)]),
    (Ragged, &[(1, 1, 8, 40), (6, 2, 24, 40), (6, 2, 20, 150), (6, 2, 5, 150)]),
];

#[rustfmt::skip]
const ROPE: Table<Shape> = &[
    (Quick, &[(65, 100, 4, 1, 128)]),
    (Small, &[(1, 0, 1, 1, 8), (1, 511, 6, 2, 24), (7, 3, 2, 2, 32)]),
    (Ragged, &[(7, 3, 6, 2, 6), (2, 1, 1, 1, 250)]),
    (Published, &[(1, 16, 32, 32, 128), (64, 16, 32, 32, 128)]),
];

/// New rows, position of the first, inputs, query heads, key-value heads, channels. The channels of the seventh are in no
/// two pairs of neighbours; inputs of the last two are not read as they are.
const NORMED_ROPE: [(u32, u32, u32, u32, u32, u32); 10] = [
    (1, 0, 64, 1, 1, 8),
    (1, 511, 96, 6, 2, 24),
    (1, 9, 32, 1, 1, 4),
    (2, 5, 160, 3, 1, 20),
    (5, 3, 1408, 2, 2, 64),
    (8, 30, 128, 2, 1, 128),
    (1, 2, 64, 4, 4, 6),
    (9, 1, 64, 2, 2, 16),
    (5, 3, 37, 2, 1, 8),
    (1, 7, 101, 3, 1, 10),
];

/// Rows, position of the first, heads, channels.
#[rustfmt::skip]
const STORED: Table<(u32, u32, u32, u32)> = &[
    (Quick, &[(33, 100, 2, 80)]),
    (Small, &[(1, 0, 1, 8), (7, 3, 3, 24)]),
    (Ragged, &[(7, 3, 3, 5)]),
    (Published, &[(64, 0, 32, 64)]),
];

/// Large enough to be seen in any result that it gets into.
const LARGE: f32 = 1e9;
/// Small enough not to outweigh what is stored.
const SMALL: f32 = 0.5;

/// Every case of this family.
pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = each(SHAPES).map(|(depth, shape)| cached(depth, shape, F32)).collect();
    cases.extend(each(HALVES).map(|(depth, shape)| cached(depth, shape, F16)));
    cases.push(beams(5, 300, 32, 128));
    let shared = [(1, 130, 4, 2, 128), (1, 700, 2, 1, 64), (3, 500, 4, 4, 80)].map(|shape| cached(Small, shape, F32));
    let shared = shared.into_iter().chain([cached(Small, (1, 700, 4, 2, 64), F16)]);
    cases.extend(shared.map(|case| case.by("attention_decode_shares").only(|caps| caps.coherent)));
    cases.extend(each(BIASED).map(|(depth, shape)| cached_bias(depth, shape)));
    cases.extend(each(SEQUENCES).map(|(depth, shape)| sequences(depth, shape, F32)));
    cases.extend([(Small, (6, 2, 64, 40)), (Ragged, (6, 2, 20, 150))].map(|(depth, s)| sequences(depth, s, F16)));
    cases.extend([30, 300].map(no_keys));
    cases.extend([(Ragged, 20, F32), (Ragged, 5, F32), (Small, 20, F16)].map(|(depth, d, f)| weight_taps(depth, d, f)));
    cases.extend(each(ROPE).map(|(depth, shape)| rope_store(depth, shape, F32)));
    let halves = [(Quick, (65, 100, 4, 1, 128)), (Small, (7, 3, 2, 2, 32)), (Ragged, (2, 1, 3, 1, 36))];
    cases.extend(halves.map(|(depth, shape)| rope_store(depth, shape, F16)));
    let published = (1, 9, 4096, 32, 32, 128);
    cases.push(norm_rope_store(Published, (WeightFormat::F16, F16), published));
    for format in WeightFormat::ALL {
        for form in ["linear_vec", "linear_vec_subgroup"] {
            let shapes = [(Quick, F16, (1, 511, 160, 6, 2, 24)), (Small, F32, (5, 3, 160, 2, 2, 64))];
            cases.extend(shapes.map(|(depth, kv, shape)| norm_rope_store(depth, (format, kv), shape).by(form)));
        }
    }
    for (i, shape) in NORMED_ROPE.into_iter().enumerate() {
        for (f, form) in ["linear_vec", "linear_vec_subgroup", "linear_tile"].into_iter().enumerate() {
            let format = WeightFormat::ALL[(i + f) % 3].for_cols(shape.2);
            let kv_format = KvFormat::ALL[i % 2].for_head_dim(shape.5);
            cases.push(norm_rope_store(Ragged, (format, kv_format), shape).by(form));
        }
    }
    cases.extend(each(STORED).map(|(depth, shape)| store(depth, shape, F32)));
    let halves = [(Quick, (33, 100, 2, 80)), (Small, (7, 3, 3, 24))].map(|(depth, shape)| store(depth, shape, F16));
    cases.extend(halves);
    let positioned = [(Quick, (33, 2560)), (Small, (1, 8)), (Small, (3, 40)), (Published, (64, 2560))];
    cases.extend(positioned.map(|(depth, shape)| positions(depth, shape)));
    cases
}

/// Pages of `heads` for `capacity` positions; in order where they are timed.
fn pages(depth: Depth, heads: u32, dim: u32, capacity: u32, garbage: f32) -> Pages {
    Pages { heads, dim, capacity, garbage, format: KvFormat::F32, in_order: depth == Published }
}

impl Pages {
    /// Pages like these, in another format.
    fn in_format(self, format: KvFormat) -> Pages {
        Pages { format, ..self }
    }
}

/// Adds a cache's format to a shape in words, where it is not f32.
fn in_format(shape: String, format: KvFormat) -> String {
    if format == KvFormat::F32 { shape } else { format!("{shape} in {}", format.name()) }
}

/// Heads in words: how many, and of how many key-value heads if they share them.
fn heads_of(h: u32, g: u32, d: u32) -> String {
    if h == g { format!("{h} heads of {d}") } else { format!("{h}/{g} heads of {d}") }
}

fn cached(depth: Depth, (t, pos, h, g, d): Shape, format: KvFormat) -> Case {
    let keys = pos + t;
    let shape = in_format(format!("{t} rows {keys} keys {}", heads_of(h, g, d)), format);
    let case = Case::new("attention_cached", shape, move |o| {
        let spare = if depth == Published { 0 } else { 9 };
        let pages = pages(depth, g, d, keys + spare, LARGE).in_format(format);
        let ((input, q), k, v) = (o.noise(t, h * d)?, o.normals(keys * g * d), o.normals(keys * g * d));
        let (kv, rows) = (o.cache(&pages, &k, &v)?, o.rows(t, &pages)?);
        let setup = Setup::new(move |r, _| r.attention_cached(&input, &kv, Heads::grouped(h, g, d), &rows, None));
        let values = move || {
            let sizes = (h as usize, g as usize, d as usize);
            attention(&wide(&q), &pages.held(&k), &pages.held(&v), sizes, |i, j| j <= pos as usize + i)
        };
        let seen: u64 = (0..t).map(|row| u64::from(pos + row + 1)).sum();
        let cached = u64::from(keys * g * d / format.channels_in_word());
        let setup = setup.at(Step::new(pos, t)).gives(values).moving(8 * (cached + u64::from(t * h * d)));
        Ok(setup.computing(4 * seen * u64::from(h * d)))
    });
    case.costing(4 * u64::from(t * keys) * u64::from(h * d)).at(depth)
}

/// Beams that share all their pages, each a sequence whose row sees all keys.
fn beams(count: u32, keys: u32, h: u32, d: u32) -> Case {
    let case = Case::new("attention_cached", format!("{count} beams {keys} keys {h} heads of {d}"), move |o| {
        let pages = pages(Published, h, d, keys, LARGE);
        let ((input, q), k, v) = (o.noise(count, h * d)?, o.normals(keys * h * d), o.normals(keys * h * d));
        let kv = o.cache(&pages, &k, &v)?;
        let places: Vec<u32> = (0..count).flat_map(|i| [keys - 1, i]).collect();
        let table: Vec<u32> = (0..count).flat_map(|_| 0..keys).collect();
        let rows = Rows { places: o.table(count, 2, &places)?, pages: o.table(count, keys, &table)?, prompts: None };
        let setup = Setup::new(move |r, _| r.attention_cached(&input, &kv, Heads::full(h, d), &rows, None));
        let sizes = (h as usize, h as usize, d as usize);
        let values = move || attention(&wide(&q), &wide(&k), &wide(&v), sizes, |_, _| true);
        let setup = setup.at(Step::new(0, 1)).gives(values).moving(8 * u64::from(keys * h * d + count * h * d));
        Ok(setup.computing(4 * u64::from(count * keys) * u64::from(h * d)))
    });
    case.costing(4 * u64::from(count * keys) * u64::from(h * d)).at(Published)
}

/// T5's decoder: no scale, a bias by distance.
fn cached_bias(depth: Depth, (t, pos, h, d, far): Shape) -> Case {
    let keys = pos + t;
    let shape = format!("{t} rows {keys} keys {h} heads of {d} to {far} away");
    let case = Case::new("attention_cached biased", shape, move |o| {
        let width = h * d;
        let pages = pages(depth, h, d, keys + 3, LARGE);
        let (table, bias) = o.noise(2 * far + 1, h)?;
        let mut small = |n: u32| -> Vec<f32> { o.normals(n).iter().map(|v| v / (d as f32).sqrt()).collect() };
        let (q, k, v) = (small(t * width), small(keys * width), small(keys * width));
        let (input, kv, rows) = (o.tensor(t, width, &q)?, o.cache(&pages, &k, &v)?, o.rows(t, &pages)?);
        let heads = Heads::full(h, d).unscaled();
        let setup = Setup::new(move |r, _| r.attention_cached(&input, &kv, heads, &rows, Some(&table)));
        Ok(setup.at(Step::new(pos, t)).gives(move || {
            let scores = Scores { sizes: (h as usize, h as usize, d as usize), scale: 1.0 };
            let pos = pos as usize;
            let added = |i: usize, j: usize, head| by_distance(&bias, far, h, (pos + i) as i64 - j as i64, head);
            biased(&wide(&q), &wide(&k), &wide(&v), scores, |i, j| j <= pos + i, added)
        }))
    });
    case.at(depth)
}

/// Rows of three sequences that share pages, at positions of their own, as beams and batches are decoded; causal and
/// over the keys of an encoder.
fn sequences(depth: Depth, (h, g, d, capacity): (u32, u32, u32, u32), format: KvFormat) -> Case {
    let shape = in_format(format!("three sequences {capacity} pages {}", heads_of(h, g, d)), format);
    let case = Case::new("attention_cached", shape, move |o| {
        let (heads, lens) = (Heads::grouped(h, g, d), [1, 7, capacity - 10]);
        let pages = pages(depth, g, d, capacity, LARGE).in_format(format);
        let ((input, q), k, v) = (o.noise(3, h * d)?, o.normals(capacity * g * d), o.normals(capacity * g * d));
        let kv = o.cache(&pages, &k, &v)?;
        // Sequence i has its keys where another permutation says.
        let at = move |i: u32, s: u32| (s * 7 + i * 3) % capacity;
        let table: Vec<u32> = (0..3).flat_map(|i| (0..capacity).map(move |s| pages.page(at(i, s)))).collect();
        let table = o.table(3, capacity, &table)?;
        let places =
            |more: u32| lens.iter().zip(0..).flat_map(move |(&len, i)| [len + more - 1, i]).collect::<Vec<_>>();
        let own = Rows { places: o.table(3, 2, &places(0))?, pages: table.clone(), prompts: None };
        // Here the number of keys is told, not the position, and the step's two are among them.
        let cross = Rows { places: o.table(3, 2, &places(3))?, pages: table, prompts: None };
        let setup = Setup::of_several(move |r, _| {
            let own = r.attention_cached(&input, &kv, heads, &own, None);
            vec![own.into(), r.cross_attention_cached(&input, &kv, heads, &cross).into()]
        });
        let values = move || -> Vec<f64> {
            let row = |(i, len): (u32, u32)| {
                let width = (g * d) as usize;
                let gather = |x: &[f32]| -> Vec<f64> {
                    (0..len + 2).flat_map(|s| pages.held(&x[at(i, s) as usize * width..][..width])).collect()
                };
                let q = wide(&q[(i * h * d) as usize..][..(h * d) as usize]);
                attention(&q, &gather(&k), &gather(&v), (h as usize, g as usize, d as usize), |_, _| true)
            };
            (0..3).zip(lens).flat_map(row).collect()
        };
        Ok(setup.at(Step::new(2, 1)).gives(values.clone()).gives(values))
    });
    case.at(depth)
}

/// A row that sees no key at all gives zeros, in one share and in several; so do the keys that the other shares lack.
fn no_keys(capacity: u32) -> Case {
    let case = Case::new("cross_attention_cached", format!("one row without keys of {capacity} pages"), move |o| {
        let (heads, width) = (Heads::full(3, 20), 60);
        let pages = pages(Ragged, 3, 20, capacity, LARGE);
        let ((input, _), k, v) = (o.noise(2, width)?, o.normals(capacity * width), o.normals(capacity * width));
        let kv = o.cache(&pages, &k, &v)?;
        // The first row sees one key, the second none.
        let rows = Rows { places: o.table(2, 2, &[1, 0, 0, 0])?, pages: o.rows(2, &pages)?.pages, prompts: None };
        let setup = Setup::new(move |r, _| r.cross_attention_cached(&input, &kv, heads, &rows));
        Ok(setup.gives(move || [wide(&v[..width as usize]), vec![0.0; width as usize]].concat()))
    });
    case.at(Ragged)
}

/// The weights of cached values come out as taps, of all rows and of a step's own.
fn weight_taps(depth: Depth, d: u32, format: KvFormat) -> Case {
    let shape = in_format(format!("cached 5 rows 19 keys 3 heads of {d}"), format);
    let case = Case::new("attention_weights", shape, move |o| {
        let (t, s, h, width) = (5, 19, 3, 3 * d);
        let labels = ["cross_attention_cached.weights", "attention_cached.weights"];
        let heads = Heads::full(h, d);
        let pages = pages(Ragged, h, d, s, LARGE).in_format(format);
        let ((queries, q), k, v) = (o.noise(t, width)?, o.normals(s * width), o.normals(s * width));
        let (kv, all, one) = (o.cache(&pages, &k, &v)?, o.rows(t, &pages)?, o.rows(1, &pages)?);
        let setup = Setup::of_several(move |r, _| {
            r.cross_attention_cached(&queries, &kv, heads, &all);
            // A step's row at the end sees all keys, too.
            r.attention_cached(&queries.slice_rows(0, 1), &kv, heads, &one, None);
            labels.map(Output::Tap).into()
        });
        let values = move |rows: u32| {
            let (q, k) = (q.clone(), pages.held(&k).iter().map(|&k| k as f32).collect::<Vec<_>>());
            move || -> Vec<f64> {
                let of_head = |x: &[f32], head: u32| columns(x, width, head * d, d);
                let q = &q[..(rows * width) as usize];
                (0..h).flat_map(|head| weights(&of_head(q, head), &of_head(&k, head), d as usize)).collect()
            }
        };
        let setup = setup.judging("attention_weights").tapping(&labels).at(Step::new(s - 1, 1));
        Ok(setup.gives(values(t)).gives(values(1)))
    });
    case.at(depth)
}

const THETA: f64 = 10_000.0;

/// cos and sin of every angle of as many positions as there are pages, alternating.
fn angles(o: &Operands<'_>, pages: &Pages) -> Result<Tensor> {
    let (positions, d) = (pages.capacity, pages.dim);
    let angle = |p: u32, j: u32| f64::from(p) * THETA.powf(-2.0 * f64::from(j) / f64::from(d));
    let row = |p| (0..d / 2).flat_map(move |j| [angle(p, j).cos() as f32, angle(p, j).sin() as f32]);
    o.tensor(positions, d, &(0..positions).flat_map(row).collect::<Vec<_>>())
}

/// Turns of `t` rows: recorded with the op, or, where that alone is timed, made before.
fn turns(
    o: &Operands<'_>,
    depth: Depth,
    t: u32,
    pos: u32,
    pages: &Pages,
) -> Result<impl Fn(&mut Recorder) -> Tensor + use<>> {
    let (angles, rows) = (angles(o, pages)?, o.rows(t, pages)?);
    let alone = depth == Published;
    let made = if alone { Some(o.made(Step::new(pos, t), |r| r.turns(&angles, &rows))?) } else { None };
    Ok(move |r: &mut Recorder| made.clone().unwrap_or_else(|| r.turns(&angles, &rows)))
}

/// Computes packed rows of q, k and v.
type Qkv = Rc<dyn Fn() -> Vec<f64>>;

/// Requires q rotated, and the cache's keys and values after the store, of `qkv` with rows from position `pos`.
fn turned(setup: Setup, heads: Heads, pages: Pages, pos: u32, qkv: Qkv) -> Setup {
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
        wide(&pages.lay_out(pos, &rows))
    };
    let (of_q, of_k, of_v) = (part(0, h), part(h, g), part(h + g, g));
    setup.gives(move || rotated(of_q(), h)).gives(move || stored(rotated(of_k(), g))).gives(move || stored(of_v()))
}

/// q and a cache's tensors as outputs.
fn with_cache(q: Tensor, kv: &KvLayer) -> Vec<Output> {
    let [keys, values] = cache_of(kv);
    vec![q.into(), keys, values]
}

/// A cache's tensors as outputs.
fn cache_of(kv: &KvLayer) -> [Output; 2] {
    [&kv.keys, &kv.values].map(|tensor| match kv.format {
        F32 => Output::Tensor(tensor.clone()),
        F16 => Output::Halves(tensor.clone()),
    })
}

/// The bound of what is stored in a format where it is `bound` in f32: drivers round to f16 either way.
fn stored_within(bound: f64, format: KvFormat) -> f64 {
    if format == F16 { 8e-4 } else { bound }
}

fn rope_store(depth: Depth, (t, pos, h, g, d): Shape, format: KvFormat) -> Case {
    let shape = in_format(format!("{t} rows at {pos} {}", heads_of(h, g, d)), format);
    let case = Case::new("rope_store", shape, move |o| {
        let (width, heads) = ((h + 2 * g) * d, Heads::grouped(h, g, d));
        let spare = if depth == Published { 0 } else { 2 };
        let pages = pages(depth, g, d, pos + t + spare, SMALL).in_format(format);
        let ((input, qkv), kv) = (o.noise(t, width)?, o.cache(&pages, &[], &[])?);
        let turns = turns(o, depth, t, pos, &pages)?;
        let setup = Setup::of_several(move |r, _| {
            let turns = turns(r);
            with_cache(r.rope_store(&input, &Rotary { turns: &turns, kv: &kv, heads }), &kv)
        });
        let setup = setup.at(Step::new(pos, t)).moving(8 * u64::from(t * width));
        Ok(turned(setup, heads, pages, pos, Rc::new(move || wide(&qkv))))
    });
    case.within(stored_within(BOUND, format)).at(depth)
}

/// A norm, the layer that makes q, k and v, and [`rope_store`] in one dispatch of `linear_vec`, or in several where that
/// cannot be.
fn norm_rope_store(
    depth: Depth,
    (format, kv_format): (WeightFormat, KvFormat),
    (t, pos, k, h, g, d): (u32, u32, u32, u32, u32, u32),
) -> Case {
    let op = if format == WeightFormat::F16 { "norm_rope_store".into() } else { format!("norm_rope_store {format}") };
    let shape = in_format(format!("{t}x{}x{k} at {pos} {}", (h + 2 * g) * d, heads_of(h, g, d)), kv_format);
    let case = Case::new(op, shape, move |o| {
        let (n, heads) = ((h + 2 * g) * d, Heads::grouped(h, g, d));
        let spare = if depth == Published { 0 } else { 2 };
        let pages = pages(depth, g, d, pos + t + spare, SMALL).in_format(kv_format);
        // Where weights are large, two heads of q are compared.
        let known: Vec<u32> = match depth {
            Published => (0..d).chain((h - 1) * d..h * d).collect(),
            _ => (0..n).collect(),
        };
        let Known { operand: layer, weights, .. } = o.linear(format, (n, k), &known, false)?;
        let Known { operand: norm, weights: gains, .. } = o.norm(k, 1e-5, false)?;
        let ((input, x), kv, turns) = (o.noise(t, k)?, o.cache(&pages, &[], &[])?, turns(o, depth, t, pos, &pages)?);
        let moved = layer.weight.bytes() + 4 * u64::from(t * (2 * k + n));
        let layers = if depth == Published { o.rotated(layer, t)? } else { vec![layer] };
        let copies = layers.len();
        let record = move |r: &mut Recorder, copy: usize| {
            let turns = turns(r);
            let q = r.norm_rope_store(&input, &norm, &layers[copy], &Rotary { turns: &turns, kv: &kv, heads });
            if depth == Published { vec![q.into()] } else { with_cache(q, &kv) }
        };
        let sample = sampled(depth, &(0..t).collect::<Vec<_>>(), &known, h * d);
        let qkv = move || {
            let normed = rms_norm(&wide(&x), &gains, 1e-5);
            linear(&normed, &weights, &[], t as usize, known.len(), k as usize)
        };
        let setup = Setup::of_several(record).at(Step::new(pos, t)).moving(moved).in_copies(copies);
        Ok(match depth {
            Published => setup.gives_sample(sample, move |_| rope(&qkv(), (2, d as usize), pos as usize, THETA)),
            _ => turned(setup, heads, pages, pos, Rc::new(qkv)),
        })
    });
    let case = case.within(stored_within(BOUND, kv_format)).at(depth);
    if depth == Published { case } else { case.with_caps(fusing_norms) }
}

fn store(depth: Depth, (t, pos, h, d): (u32, u32, u32, u32), format: KvFormat) -> Case {
    let shape = in_format(format!("{t} rows at {pos} {h} heads of {d}"), format);
    let case = Case::new("store", shape, move |o| {
        let width = h * d;
        let spare = if depth == Published { 0 } else { 2 };
        let pages = pages(depth, h, d, pos + t + spare, SMALL).in_format(format);
        // Packed with queries as T5's decoder has them, or keys and values alone, as of its encoder.
        let parts = if depth == Published { 2 } else { 3 };
        let ((input, packed), kv, rows) = (o.noise(t, parts * width)?, o.cache(&pages, &[], &[])?, o.rows(t, &pages)?);
        let setup = Setup::of_several(move |r, _| {
            r.store(&input, &kv, Heads::full(h, d), &rows);
            cache_of(&kv).into()
        });
        let stored = move |part: u32| {
            let values: Vec<f32> = packed
                .chunks((parts * width) as usize)
                .flat_map(|row| row[(part * width) as usize..][..width as usize].to_vec())
                .collect();
            move || wide(&pages.lay_out(pos, &values))
        };
        let moved = 8 * u64::from(t * parts * width);
        Ok(setup.at(Step::new(pos, t)).gives(stored(parts - 2)).gives(stored(parts - 1)).moving(moved))
    });
    case.within(stored_within(0.0, format)).at(depth)
}

fn positions(depth: Depth, (t, d): (u32, u32)) -> Case {
    let case = Case::new("add_positions", format!("{t}x{d}"), move |o| {
        let keys = t + 9;
        let pages = pages(depth, 1, 8, keys, 0.0);
        // The first two rows of the table are no positions, as in OPT.
        let ((sum, x), (table, added), rows) = (o.noise(t, d)?, o.noise(keys + 2, d)?, o.rows(t, &pages)?);
        let (out, before) = (sum.clone(), x.clone());
        let setup = Setup::new(move |r, _| {
            r.add_positions(&mut out.clone(), &table.slice_rows(2, keys), &rows);
            out.clone()
        });
        let values = move || {
            let added = &added[(7 * d) as usize..];
            x.iter().zip(added).map(|(&x, &p)| f64::from(x) + f64::from(p)).collect()
        };
        Ok(setup.over(&sum, before).at(Step::new(5, t)).gives(values).moving(12 * u64::from(t * d)))
    });
    case.at(depth)
}
