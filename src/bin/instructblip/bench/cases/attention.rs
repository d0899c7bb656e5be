//! Attention and the cache it reads.

use anyhow::Result;
use instructblip::runtime::{Category, Heads, KvLayer, Mask, Recorder, Step};

use super::{Case, Entry, Lab, entry, relative, unequal};

impl<'a> Lab<'a> {
    pub(super) fn attention_cases(&'a self) -> Vec<Entry<'a>> {
        let full = |t, h, d| entry("attention", format!("{t} rows {h} heads of {d}"), move || self.attention(t, h, d));
        let cached = |t, len| {
            let shape = format!("{t} rows {len} keys 32 heads of 128");
            entry("attention_cached", shape, move || self.attention_cached(t, 1, len, 32, 128))
        };
        let beams = |beams, len| {
            let shape = format!("{beams} beams {len} keys 32 heads of 128");
            entry("attention_cached", shape, move || self.attention_cached(beams, beams, len, 32, 128))
        };
        let rope = |t| entry("rope_store", format!("{t} rows 32 heads of 128"), move || self.rope(t, 32, 128));
        let store = entry("store", "64 rows 32 heads of 64".into(), || self.store(64, 32, 64));
        vec![
            full(257, 16, 88),
            full(44, 12, 64),
            cached(1, 300),
            beams(5, 300),
            cached(64, 64),
            rope(1),
            rope(64),
            store,
        ]
    }

    fn attention(&self, t: u32, h: u32, d: u32) -> Result<Case<'_>> {
        let width = h * d;
        let (qkv, values) = self.tensor(3, t, 3 * width)?;
        let (w, dd) = (width as usize, d as usize);
        let check = move |got: &[f32]| {
            let at = |row: usize, part: usize, head: usize| &values[row * 3 * w + part * w + head * dd..][..dd];
            let mut pairs = Vec::new();
            for (row, head) in [(0, 0), (t as usize / 2, h as usize / 2), (t as usize - 1, h as usize - 1)] {
                let keys: Vec<(&[f32], &[f32])> = (0..t as usize).map(|s| (at(s, 1, head), at(s, 2, head))).collect();
                let want = attend(at(row, 0, head), &keys);
                pairs.extend(got[row * w + head * dd..][..dd].iter().map(|&g| f64::from(g)).zip(want));
            }
            Ok(relative(pairs.into_iter()))
        };
        Ok(Case {
            bytes: 4 * 4 * u64::from(t * width),
            flops: None,
            copies: 4,
            step: Step::default(),
            record: Box::new(move |r, _| r.attention(&qkv, Heads::full(h, d), Mask::None)),
            check: Box::new(check),
        })
    }

    /// `t` new rows that end `len` cached ones: of one sequence, or of beams that share all pages.
    fn attention_cached(&self, t: u32, sequences: u32, len: u32, h: u32, d: u32) -> Result<Case<'_>> {
        // Row i of one sequence sees the keys up to its own, a beam all of them.
        let new = if sequences == 1 { t } else { 1 };
        let seen = move |row: u32| if sequences == 1 { len - t + row + 1 } else { len };
        let heads = Heads::full(h, d);
        let (q, q_values) = self.tensor(4, t, h * d)?;
        let (keys, k_values) = self.tensor(5, h * len, d)?;
        let (values, v_values) = self.tensor(6, h * len, d)?;
        let kv = KvLayer { keys, values, capacity: len };
        let rows = self.rows(t, sequences, len)?;
        let dd = d as usize;
        let check = move |got: &[f32]| {
            let mut pairs = Vec::new();
            for (row, head) in [(0, 0), (t as usize / 2, h as usize / 2), (t as usize - 1, h as usize - 1)] {
                let at = |s: usize| (head * len as usize + s) * dd;
                let keys: Vec<_> = (0..seen(row as u32) as usize)
                    .map(|s| (&k_values[at(s)..][..dd], &v_values[at(s)..][..dd]))
                    .collect();
                let first = (row * h as usize + head) * dd;
                let want = attend(&q_values[first..][..dd], &keys);
                pairs.extend(got[first..][..dd].iter().map(|&g| f64::from(g)).zip(want));
            }
            Ok(relative(pairs.into_iter()))
        };
        Ok(Case {
            bytes: 4 * u64::from(2 * len * h * d + 2 * t * h * d),
            flops: Some(4 * (0..t).map(|row| u64::from(seen(row))).sum::<u64>() * u64::from(h * d)),
            copies: 4,
            step: Step::new(len - new, new),
            record: Box::new(move |r, _| r.attention_cached(&q, &kv, heads, &rows, None)),
            check: Box::new(check),
        })
    }

    fn store(&self, t: u32, h: u32, d: u32) -> Result<Case<'_>> {
        let (kv_rows, values) = self.tensor(13, t, 2 * h * d)?;
        let room = || self.device.zeros(Category::Io, "cache", h * t, d);
        let kv = KvLayer { keys: room()?, values: room()?, capacity: t };
        let rows = self.rows(t, 1, t)?;
        let (keys, cached) = (kv.keys.clone(), kv.values.clone());
        let (width, dd) = ((h * d) as usize, d as usize);
        let check = move |_: &[f32]| {
            let part = |first: usize| -> Vec<f32> {
                let of_head = |head: usize| {
                    values.chunks(2 * width).flat_map(move |row| &row[first + head * dd..][..dd]).copied()
                };
                (0..h as usize).flat_map(of_head).collect()
            };
            let (keys, cached) = (self.device.read::<f32>(&keys)?, self.device.read::<f32>(&cached)?);
            Ok(unequal(&keys, &part(0)).max(unequal(&cached, &part(width))))
        };
        Ok(Case {
            bytes: 8 * u64::from(kv_rows.len()),
            flops: None,
            copies: 4,
            step: Step::new(0, t),
            record: Box::new(move |r, _| {
                r.store(&kv_rows, &kv, Heads::full(h, d), &rows);
                kv.keys.clone()
            }),
            check: Box::new(check),
        })
    }

    fn rope(&self, t: u32, h: u32, d: u32) -> Result<Case<'_>> {
        let (first, (qkv, values)) = (16, self.tensor(9, t, 3 * h * d)?);
        let capacity = first + t;
        // Any angles will do: cos and sin of p * j / d.
        let angle = move |p: u32, j: u32| f64::from(p * j) / f64::from(d);
        let table: Vec<f32> = (0..capacity)
            .flat_map(|p| (0..d / 2).flat_map(move |j| [angle(p, j).cos() as f32, angle(p, j).sin() as f32]))
            .collect();
        let angles = self.device.tensor(Category::Io, "angles", capacity, d, &table)?;
        let room = || self.device.zeros(Category::Io, "cache", h * capacity, d);
        let kv = KvLayer { keys: room()?, values: room()?, capacity };
        let mut r = Recorder::new(self.caps);
        let turns = r.turns(&angles, &self.rows(t, 1, capacity)?);
        let turns = self.run(r, Step::new(first, t))?.output(&turns);
        let (keys, cached) = (kv.keys.clone(), kv.values.clone());
        let (half, width) = ((d / 2) as usize, (h * d) as usize);
        let check = move |got: &[f32]| {
            let (keys, cached) = (self.device.read::<f32>(&keys)?, self.device.read::<f32>(&cached)?);
            let (row, head) = (t as usize - 1, h as usize - 1);
            let mut pairs = Vec::new();
            for j in 0..half {
                let (sin, cos) = angle(capacity - 1, j as u32).sin_cos();
                let pair = |part: usize| {
                    let at = (row * 3 + part) * width + head * 2 * half + j;
                    (f64::from(values[at]), f64::from(values[at + half]))
                };
                let rotated = |(a, b): (f64, f64)| (a * cos - b * sin, b * cos + a * sin);
                let (to, slot) =
                    (row * width + head * 2 * half + j, ((head + 1) * capacity as usize - 1) * 2 * half + j);
                let outputs = [(got, to, rotated(pair(0))), (&keys, slot, rotated(pair(1))), (&cached, slot, pair(2))];
                for (got, at, (first, second)) in outputs {
                    pairs.extend([(f64::from(got[at]), first), (f64::from(got[at + half]), second)]);
                }
            }
            Ok(relative(pairs.into_iter()))
        };
        Ok(Case {
            bytes: 8 * u64::from(qkv.len()),
            flops: None,
            copies: 4,
            step: Step::new(first, t),
            record: Box::new(move |r, _| r.rope_store(&qkv, &turns, &kv, Heads::full(h, d))),
            check: Box::new(check),
        })
    }
}

/// Softmax attention of one query over keys and values.
fn attend(q: &[f32], keys: &[(&[f32], &[f32])]) -> Vec<f64> {
    let dot = |k: &[f32]| q.iter().zip(k).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let weights: Vec<f64> = keys.iter().map(|(k, _)| (dot(k) / (q.len() as f64).sqrt()).exp()).collect();
    let total: f64 = weights.iter().sum();
    let channel = |c: usize| keys.iter().zip(&weights).map(|((_, v), w)| w * f64::from(v[c])).sum::<f64>() / total;
    (0..q.len()).map(channel).collect()
}
