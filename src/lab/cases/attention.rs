//! Attention without a cache.

use super::{Table, columns, each};
use crate::lab::case::{Case, Depth, Output, Setup};
use crate::lab::oracle::attention::{Scores, attention, biased, weights};
use crate::lab::oracle::{halves, wide};
use crate::runtime::{Heads, Mask, Segment, Segments, Span};

use Depth::{Published, Quick, Ragged, Small};

/// Rows, heads, channels: 88 of the vision tower, 64 of the Q-Former, 80 of OPT, 128 of LLaMA, the least and the most that
/// kernels take, and less. A tile for GPUs is 16 rows by 64 keys, in parts of 16 channels, or of 16 keys and 64 channels;
/// where many heads make enough of them it is 32 rows. 20 channels are not for the wide form, and 1, 3, 5, 15, 35 and 255
/// are for no form as they are. Each number of channels is a pipeline, which takes longer to make than to run.
#[rustfmt::skip]
const SHAPES: Table<(u32, u32, u32)> = &[
    (Quick, &[(257, 2, 88)]),
    (Small, &[
        (1, 1, 64), (32, 3, 64), (65, 1, 64), (16, 2, 64), (65, 86, 64), (33, 4, 80), (325, 1, 88), (33, 2, 128),
        (5, 2, 4), (5, 3, 3), (9, 1, 256),
    ]),
    (Ragged, &[
        (1, 1, 8), (2, 3, 24), (5, 2, 12), (7, 2, 88), (15, 1, 4), (17, 1, 36), (31, 1, 100), (32, 1, 128),
        (63, 1, 20), (64, 1, 68), (66, 1, 132), (129, 1, 196), (257, 1, 88), (325, 1, 16), (15, 2, 88), (16, 3, 20),
        (17, 3, 20), (33, 128, 4), (65, 86, 20), (97, 64, 68), (1, 1, 1), (9, 3, 5), (33, 2, 35), (65, 1, 255),
        (18, 64, 15),
    ]),
    (Published, &[(257, 16, 88), (44, 12, 64)]),
];

/// Rows, keys, heads, channels.
#[rustfmt::skip]
const CROSS: Table<(u32, u32, u32, u32)> = &[
    (Small, &[(32, 257, 2, 64), (1, 1, 1, 64), (5, 19, 3, 64)]),
    (Ragged, &[
        (1, 1, 1, 8), (5, 19, 3, 20), (17, 63, 1, 4), (16, 64, 2, 100), (40, 65, 128, 8), (5, 19, 3, 5),
        (17, 63, 1, 35),
    ]),
];

/// Rows, heads, channels, and the distance from which on all keys have one bias.
#[rustfmt::skip]
const BIASED: Table<(u32, u32, u32, u32)> = &[
    (Small, &[(9, 2, 64, 3), (40, 2, 64, 128)]),
    (Ragged, &[(1, 1, 8, 4), (9, 2, 16, 3), (70, 90, 12, 40), (9, 2, 35, 3)]),
];

/// Heads, channels, rows of each segment that lie in front, and those behind them. The rows in front are of all segments,
/// one after the other, and so are those behind.
type Sizes = (u32, u32, u32, &'static [u32]);

#[rustfmt::skip]
const SEGMENTS: Table<Sizes> = &[
    (Quick, &[(2, 64, 32, &[7, 0, 12])]),
    (Small, &[(2, 88, 65, &[0, 0]), (1, 64, 1, &[1])]),
    (Ragged, &[(3, 20, 16, &[1, 40, 0, 17]), (2, 5, 3, &[2, 1, 70]), (65, 4, 33, &[3, 31])]),
    (Published, &[(16, 88, 257, &[0, 0]), (12, 64, 32, &[9, 12, 5, 14])]),
];

/// Keys that rows see.
#[derive(Clone, Copy, Debug)]
enum Seen {
    All,
    /// The first, and two of three.
    TwoOfThree,
    /// The keys from the first number to below the second.
    Between(u32, u32),
}

impl Seen {
    fn contains(self, key: u32) -> bool {
        match self {
            Seen::All => true,
            Seen::TwoOfThree => key == 0 || key % 3 != 1,
            Seen::Between(first, end) => (first..end).contains(&key),
        }
    }

    fn in_words(self) -> String {
        match self {
            Seen::All => String::new(),
            Seen::TwoOfThree => " masked".into(),
            Seen::Between(first, end) => format!(" masked but for {first}..{end}"),
        }
    }
}

/// Every case of this family.
pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = each(SHAPES).map(|(depth, shape)| full(depth, shape, Seen::All)).collect();
    let masked = [(42, 2, 64), (1, 1, 64), (33, 128, 64), (325, 1, 88)];
    cases.extend(masked.map(|shape| full(Small, shape, Seen::TwoOfThree)));
    let others = each(SHAPES).filter(|&(depth, shape)| depth < Published && !masked.contains(&shape));
    cases.extend(others.map(|(_, shape)| full(Ragged, shape, Seen::TwoOfThree)));
    // Keys may be hidden for longer than a step of the kernel takes, and from its first on; without any there are zeros.
    let hidden = [((90, 2, 12), 80, 90), ((150, 2, 20), 0, 1), ((90, 1, 8), 0, 0), ((71, 1, 8), 70, 71)];
    cases.extend(hidden.map(|(shape, first, end)| full(Ragged, shape, Seen::Between(first, end))));
    let large = [(Small, 9, 64, 40.0), (Small, 20, 64, 40.0), (Ragged, 9, 16, 60.0)];
    cases.extend(large.map(|(depth, t, d, scale)| large_scores(depth, t, d, scale)));
    cases.extend([(Small, (20, 200, 2, 88)), (Ragged, (1, 150, 2, 64))].map(|(depth, shape)| growing(depth, shape)));
    cases.extend(each(CROSS).map(|(depth, shape)| cross(depth, shape)));
    cases.extend(each(SEGMENTS).map(|(depth, sizes)| in_segments(depth, sizes)));
    let crossed = [(Small, (32, 257, 2, 64)), (Ragged, (5, 19, 3, 20))];
    cases.extend(crossed.map(|(depth, shape)| cross_in_segments(depth, shape)));
    cases.extend(each(BIASED).map(|(depth, shape)| distance_bias(depth, shape)));
    let taps = [(Quick, (32, 257, 2, 64)), (Small, (5, 19, 3, 20)), (Ragged, (5, 19, 3, 5))];
    cases.extend(taps.map(|(depth, shape)| weight_taps(depth, shape)));
    cases
}

/// The rows of packed `qkv`, each split into query, key and value.
fn split(qkv: &[f32], width: u32) -> [Vec<f64>; 3] {
    [0, 1, 2].map(|part| columns(qkv, 3 * width, part * width, width))
}

fn full(depth: Depth, (t, h, d): (u32, u32, u32), seen: Seen) -> Case {
    let shape = format!("{t} rows {h} heads of {d}{}", seen.in_words());
    let case = Case::new("attention", shape, move |o| {
        let width = h * d;
        let (input, qkv) = o.noise(t, 3 * width)?;
        let table = o.ids(&(0..t).map(|key| u32::from(seen.contains(key))).collect::<Vec<_>>())?;
        let setup = Setup::new(move |r, _| {
            let mask = if matches!(seen, Seen::All) { Mask::None } else { Mask::Keys(&table) };
            r.attention(&input, Heads::full(h, d), mask)
        });
        let values = move || {
            let [q, k, v] = split(&qkv, width);
            attention(&q, &k, &v, (h as usize, h as usize, d as usize), |_, key| seen.contains(key as u32))
        };
        Ok(setup.gives(values).moving(4 * 4 * u64::from(t * width)))
    });
    case.costing(4 * u64::from(t * t) * u64::from(h * d)).at(depth)
}

/// Attention of every row to every key, of inputs as kernels by matrices round them where one `rounds`: of scores in the
/// hundreds that changes weights as a whole.
fn rounded(rounds: bool, q: &[f64], k: &[f64], v: &[f64], sizes: (usize, usize, usize)) -> Vec<f64> {
    // Queries are scaled first.
    let [q, k, v] = [(q, (sizes.2 as f64).sqrt()), (k, 1.0), (v, 1.0)]
        .map(|(values, scale)| if rounds { halves(values, scale) } else { values.to_vec() });
    attention(&q, &k, &v, sizes, |_, _| true)
}

fn large_scores(depth: Depth, t: u32, d: u32, scale: f32) -> Case {
    let case = Case::new("attention", format!("{t} rows 1 heads of {d} with scores in the thousands"), move |o| {
        let qkv: Vec<f32> = o.normals(t * 3 * d).iter().map(|v| scale * v).collect();
        let input = o.tensor(t, 3 * d, &qkv)?;
        let values = move |rounds| {
            let [q, k, v] = split(&qkv, d);
            rounded(rounds, &q, &k, &v, (1, 1, d as usize))
        };
        Ok(Setup::new(move |r, _| r.attention(&input, Heads::full(1, d), Mask::None)).gives_sample(None, values))
    });
    // Scores in the thousands carry an f32 rounding of 1e-4 into the exponent.
    case.within(1e-3).at(depth)
}

/// Scores grow with the key, so that every step of a kernel has the largest so far.
fn growing(depth: Depth, (t, s, h, d): (u32, u32, u32, u32)) -> Case {
    let case =
        Case::new("cross_attention", format!("{t} rows {s} keys {h} heads of {d} with growing scores"), move |o| {
            let (width, heads) = (h * d, Heads::full(h, d));
            let ((queries, q), (_, mut kv)) = (o.noise(t, width)?, o.noise(s, 2 * width)?);
            for (key, row) in kv.chunks_mut(2 * width as usize).enumerate() {
                row[..width as usize].iter_mut().for_each(|k| *k *= 1.0 + key as f32 / 16.0);
            }
            let keys = o.tensor(s, 2 * width, &kv)?;
            let values = move |rounds| {
                let [k, v] = [0, 1].map(|part| columns(&kv, 2 * width, part * width, width));
                rounded(rounds, &wide(&q), &k, &v, (h as usize, h as usize, d as usize))
            };
            Ok(Setup::new(move |r, _| r.cross_attention(&queries, &keys, heads, Mask::None)).gives_sample(None, values))
        });
    // Scores in the hundreds carry an f32 rounding of 1e-5 into the exponent.
    case.within(1e-4).at(depth)
}

fn cross(depth: Depth, (t, s, h, d): (u32, u32, u32, u32)) -> Case {
    let case = Case::new("cross_attention", format!("{t} rows {s} keys {h} heads of {d}"), move |o| {
        let width = h * d;
        let ((queries, q), (keys, kv)) = (o.noise(t, width)?, o.noise(s, 2 * width)?);
        let values = move || {
            let [k, v] = [0, 1].map(|part| columns(&kv, 2 * width, part * width, width));
            attention(&wide(&q), &k, &v, (h as usize, h as usize, d as usize), |_, _| true)
        };
        Ok(Setup::new(move |r, _| r.cross_attention(&queries, &keys, Heads::full(h, d), Mask::None)).gives(values))
    });
    case.at(depth)
}

/// T5's encoder: scores without scale, with a bias by distance that is clamped.
/// The segments of `sizes`, and of each row the number of its own.
fn segments_of((_, _, head, tails): Sizes) -> (Vec<Segment>, Vec<usize>) {
    let count = tails.len() as u32;
    let mut tail = count * head;
    let mut owners: Vec<usize> = (0..tails.len()).flat_map(|i| vec![i; head as usize]).collect();
    let segments = (0..).zip(tails).map(|(i, &more)| {
        let span = Span::of(i * head, head).and(tail, more);
        tail += more;
        owners.extend(vec![i as usize; more as usize]);
        Segment::of(span)
    });
    let segments = segments.collect();
    (segments, owners)
}

fn in_segments(depth: Depth, sizes: Sizes) -> Case {
    let (h, d, head, tails) = sizes;
    let (segments, owners) = segments_of(sizes);
    let pairs: u64 = segments.iter().map(|of| u64::from(of.rows.count).pow(2)).sum();
    let case = Case::new("attention_segments", format!("{head} rows and {tails:?} {h} heads of {d}"), move |o| {
        let (input, qkv) = o.noise(owners.len() as u32, 3 * h * d)?;
        let segments = Segments::new(&segments, |numbers| o.ids(numbers))?;
        let owners = owners.clone();
        let values = move || {
            let [q, k, v] = split(&qkv, h * d);
            attention(&q, &k, &v, (h as usize, h as usize, d as usize), |row, key| owners[row] == owners[key])
        };
        let setup = Setup::new(move |r, _| r.attention(&input, Heads::full(h, d), segments.as_mask()));
        Ok(setup.gives(values))
    });
    case.costing(4 * pairs * u64::from(h * d)).at(depth)
}

/// Rows of several questions about pictures, of which the last comes first.
fn cross_in_segments(depth: Depth, (t, s, h, d): (u32, u32, u32, u32)) -> Case {
    let (questions, pictures) = (3, 2);
    let of_picture = move |question: u32| pictures - 1 - question % pictures;
    let case = Case::new("cross_attention_segments", format!("3 of {t} rows {s} keys {h} heads of {d}"), move |o| {
        let width = h * d;
        let ((queries, q), (keys, kv)) = (o.noise(questions * t, width)?, o.noise(pictures * s, 2 * width)?);
        let segment = |i: u32| Segment { rows: Span::of(i * t, t), keys: Span::of(of_picture(i) * s, s) };
        let segments: Vec<Segment> = (0..questions).map(segment).collect();
        let segments = Segments::new(&segments, |numbers| o.ids(numbers))?;
        let values = move || {
            let [k, v] = [0, 1].map(|part| columns(&kv, 2 * width, part * width, width));
            attention(&wide(&q), &k, &v, (h as usize, h as usize, d as usize), |row, key| {
                of_picture(row as u32 / t) == key as u32 / s
            })
        };
        let setup = Setup::new(move |r, _| r.cross_attention(&queries, &keys, Heads::full(h, d), segments.as_mask()));
        Ok(setup.gives(values))
    });
    case.costing(4 * u64::from(questions * t * s) * u64::from(h * d)).at(depth)
}

fn distance_bias(depth: Depth, (t, h, d, far): (u32, u32, u32, u32)) -> Case {
    let case = Case::new("attention_biased", format!("{t} rows {h} heads of {d} to {far} away"), move |o| {
        let width = h * d;
        let (table, bias) = o.noise(2 * far + 1, h)?;
        let qkv: Vec<f32> = o.normals(t * 3 * width).iter().map(|v| v / (d as f32).sqrt()).collect();
        let input = o.tensor(t, 3 * width, &qkv)?;
        let setup =
            Setup::new(move |r, _| r.attention_biased(&input, Heads::full(h, d).unscaled(), Mask::None, Some(&table)));
        Ok(setup.gives(move || {
            let [q, k, v] = split(&qkv, width);
            let added = |i, j, head| by_distance(&bias, far, h, i as i64 - j as i64, head);
            let scores = Scores { sizes: (h as usize, h as usize, d as usize), scale: 1.0 };
            biased(&q, &k, &v, scores, |_, _| true, added)
        }))
    });
    case.at(depth)
}

/// The bias of a key that lies `back` positions before a row, from a table `[2 far + 1, heads]`.
pub(super) fn by_distance(table: &[f32], far: u32, heads: u32, back: i64, head: usize) -> f64 {
    let far = i64::from(far);
    f64::from(table[((-back).clamp(-far, far) + far) as usize * heads as usize + head])
}

/// The weights of values come out as a tap, and weigh the values to the output.
fn weight_taps(depth: Depth, (t, s, h, d): (u32, u32, u32, u32)) -> Case {
    let case = Case::new("attention_weights", format!("{t} rows {s} keys {h} heads of {d}"), move |o| {
        let (width, label) = (h * d, "cross_attention.weights");
        let ((queries, q), (keys, kv)) = (o.noise(t, width)?, o.noise(s, 2 * width)?);
        let setup = Setup::of_several(move |r, _| {
            r.cross_attention(&queries, &keys, Heads::full(h, d), Mask::None);
            vec![Output::Tap(label)]
        });
        Ok(setup.judging("attention_weights").tapping(&[label]).gives(move || {
            let of_head = |rows: &[f32], width: u32, head: u32| columns(rows, width, head * d, d);
            let head = |head| weights(&of_head(&q, width, head), &of_head(&kv, 2 * width, head), d as usize);
            (0..h).flat_map(head).collect()
        }))
    });
    case.at(depth)
}
