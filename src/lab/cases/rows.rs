//! Norms, copies, rows by index, patches, the largest columns, and the kernels that measure ceilings.

use super::{Table, each};
use crate::lab::case::{Case, Depth, Setup};
use crate::lab::ceilings::MatrixProbe;
use crate::lab::operands::Known;
use crate::lab::oracle::{self, wide};
use crate::runtime::{AdapterClass, Caps};

use Depth::{Published, Quick, Ragged, Small};

/// Rows and columns; centered or not. The mean of values near 30 is rounded to 2e-6, of a deviation of about one.
#[rustfmt::skip]
const NORMS: Table<(u32, u32)> = &[
    (Quick, &[(257, 1408)]),
    (Small, &[(2, 4096), (1, 1), (1, 8), (3, 7)]),
    (Ragged, &[(257, 33), (5, 64), (2, 1408), (4, 4096)]),
];

/// Rows, columns.
#[rustfmt::skip]
const ELEMENTWISE: Table<(u32, u32)> = &[
    (Quick, &[(257, 1408)]),
    (Small, &[(1, 1), (3, 7), (65, 64)]),
    (Ragged, &[(300, 257)]),
];

/// Rows, columns, rows that are put.
#[rustfmt::skip]
const PUT: Table<(u32, u32, u32)> = &[
    (Quick, &[(32, 768, 32)]),
    (Small, &[(9, 40, 3), (3, 1, 1)]),
    (Published, &[(32, 4096, 32)]),
];

/// Height, width, side of a patch: square, oblong, with pixels left over at both edges.
#[rustfmt::skip]
const PATCHES: Table<(u32, u32, u32)> = &[
    (Quick, &[(224, 224, 14)]),
    (Small, &[(28, 28, 14), (8, 24, 8), (45, 31, 14)]),
    (Ragged, &[(3, 3, 1)]),
];

/// Rows, columns.
#[rustfmt::skip]
const ARGMAX: Table<(u32, u32)> = &[
    (Quick, &[(3, 32_064)]),
    (Small, &[(3, 1), (3, 2), (3, 255), (3, 257)]),
    (Ragged, &[(3, 7), (3, 256)]),
    (Published, &[(1, 32_064)]),
];

/// Columns, and how many of them are taken of 3 rows; of 7 rows in the tests.
#[rustfmt::skip]
const TOP_K: Table<(u32, u32)> = &[
    (Quick, &[(32_064, 64)]),
    (Small, &[(1, 1), (255, 64), (257, 256)]),
    (Ragged, &[
        (1, 1), (2, 1), (7, 7), (255, 64), (256, 256), (257, 64), (640, 64), (5000, 256), (32_064, 64), (256_000, 64),
    ]),
];

/// Rows, groups of columns, columns of a group before and after.
const FITTED: [(u32, u32, u32, u32); 5] =
    [(1, 1, 1, 4), (3, 5, 37, 40), (7, 2, 40, 37), (300, 1, 250, 256), (2, 3, 8, 8)];

/// Every case of this family.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (depth, shape) in each(NORMS) {
        cases.extend([true, false].map(|center| norm(depth, shape, center, [30.0, 1.0])));
    }
    // Small enough for eps to count.
    cases.extend([true, false].map(|center| norm(Small, (3, 768), center, [0.0, 0.003])));
    cases.extend(
        [(257, 1408, true), (1, 4096, false)].map(|(t, d, center)| norm(Published, (t, d), center, [0.0, 1.0])),
    );
    cases.push(norm_into());
    cases.extend(each(ELEMENTWISE).flat_map(|(depth, shape)| [scaled(depth, shape), add(depth, shape)]));
    cases.extend([copy(96 << 10, 256), add(Published, (257, 1408))]);
    cases.extend(FITTED.map(fit_columns));
    cases.extend([(Quick, 257, 1408), (Small, 1, 2), (Small, 33, 8)].map(halved));
    cases.extend(each(PUT).map(|(depth, shape)| put_rows(depth, shape)));
    cases.extend(each(PATCHES).map(|(depth, shape)| patches(depth, 1, shape)));
    cases.extend([patches(Small, 3, (21, 15, 4)), patches(Published, 1, (224, 224, 14))]);
    cases.extend(each(ARGMAX).map(|(depth, shape)| argmax(depth, shape)));
    cases.extend(each(TOP_K).map(|(depth, shape)| top_k(depth, shape)));
    cases.push(top_k(Published, (32_064, 64)));
    // Workgroups, and the elements of an output, differ from class to class.
    let classes = [AdapterClass::Gpu, AdapterClass::Cpu];
    cases.extend(classes.into_iter().flat_map(|class| {
        [multiply_adds(class), multiply_adds_f16(class), matrix_multiply_adds(class), read_sums(class)]
    }));
    cases
}

/// Rows far from zero: a variance computed as a difference of squares would be lost there.
fn norm(depth: Depth, (t, d): (u32, u32), center: bool, [mean, deviation]: [f32; 2]) -> Case {
    let op = if center { "layer_norm" } else { "rms_norm" };
    let shape =
        if (mean, deviation) == (0.0, 1.0) { format!("{t}x{d}") } else { format!("{t}x{d} of {mean} ± {deviation}") };
    let case = Case::new(op, shape, move |o| {
        let x: Vec<f32> = o.normals(t * d).iter().map(|v| mean + deviation * v).collect();
        let Known { operand: norm, weights, bias } = o.norm(d, 1e-5, center)?;
        let input = o.tensor(t, d, &x)?;
        let setup =
            Setup::new(move |r, _| if center { r.layer_norm(&input, &norm) } else { r.rms_norm(&input, &norm) });
        let values = move || match center {
            true => oracle::norm::layer_norm(&wide(&x), &weights, &bias, 1e-5),
            false => oracle::norm::rms_norm(&wide(&x), &weights, 1e-5),
        };
        Ok(setup.gives(values).moving(8 * u64::from(t * d)).in_copies(8))
    });
    case.at(depth)
}

/// A norm written into rows of a larger tensor, which keeps the others.
fn norm_into() -> Case {
    let case = Case::new("layer_norm_into", "2x24 rows from 5 of 9", |o| {
        let Known { operand: norm, weights, bias } = o.norm(24, 1e-12, true)?;
        let ((source, x), (out, y0)) = (o.noise(6, 24)?, o.noise(9, 24)?);
        let (y, before) = (out.clone(), y0.clone());
        let setup = Setup::new(move |r, _| {
            r.layer_norm_into(&mut y.slice_rows(5, 2), &source.slice_rows(3, 2), &norm);
            y.clone()
        });
        Ok(setup.over(&out, before).gives(move || {
            let mut want = wide(&y0);
            let rows = oracle::norm::layer_norm(&wide(&x[3 * 24..5 * 24]), &weights, &bias, 1e-12);
            want[5 * 24..7 * 24].copy_from_slice(&rows);
            want
        }))
    });
    case.at(Ragged)
}

/// Invocations of a workgroup of the kernels that measure ceilings.
fn lanes(class: AdapterClass) -> u32 {
    if class == AdapterClass::Gpu { 256 } else { 8 }
}

fn for_class(case: Case, class: AdapterClass) -> Case {
    case.with(&format!("for a {class:?}")).with_caps(move |caps| Caps { class, ..caps })
}

/// Chains with another factor than the ceiling's, so that they move.
fn multiply_adds(class: AdapterClass) -> Case {
    let (groups, steps) = (3, 2);
    let case = Case::new("multiply_adds", "of 3 groups", move |o| {
        let seed = o.tensor(1, 2, &[0.75, 0.5])?;
        let chain = move |start: u32| (0..8 * steps).fold(f64::from(start), |s, _| 0.75 * s + 0.5);
        let one = move |i: u32| (0..12).map(|c| chain(i % 256 + c)).sum();
        let setup = Setup::new(move |r, _| r.multiply_adds(&seed, groups, steps));
        Ok(setup.gives(move || (0..groups * lanes(class)).map(one).collect()))
    });
    for_class(case, class)
}

/// Chains of pairs that add 1 at each of their steps, which f16 holds exactly.
fn multiply_adds_f16(class: AdapterClass) -> Case {
    let (groups, steps) = (3, 2);
    let case = Case::new("multiply_adds_f16", "of 3 groups", move |o| {
        let seed = o.tensor(1, 2, &[1.0, 1.0])?;
        let one = move |i: u32| (0..12).map(|c| 2.0 * f64::from(i % 256 + c + 8 * steps) + 1.0).sum();
        let setup = Setup::new(move |r, _| r.multiply_adds_f16(&seed, groups, steps));
        Ok(setup.gives(move || (0..groups * lanes(class)).map(one).collect()))
    });
    for_class(case.only(|caps| caps.f16), class)
}

fn matrix_multiply_adds(class: AdapterClass) -> Case {
    let case = Case::new("matrix_multiply_adds", "of 3 groups", move |o| {
        let probe = MatrixProbe::of(&o.caps).expect("a device with matrices");
        let seed = o.tensor(64, probe.edge, &probe.seed())?;
        let subgroups = if class == AdapterClass::Gpu { 4 } else { 1 };
        let setup = Setup::new(move |r, _| r.matrix_multiply_adds(&seed, 3, 5));
        Ok(setup.gives(move || (0..3).flat_map(|_| probe.sums(subgroups * probe.lanes, 5)).collect()))
    });
    for_class(case.only(|caps| MatrixProbe::of(caps).is_some()), class)
}

fn read_sums(class: AdapterClass) -> Case {
    let case = Case::new("read_sums", "of 64x1024", move |o| {
        let (input, x) = o.noise(64, 1024)?;
        // Invocation i of a group reads eights i, i + lanes, …, four of them.
        let lanes = lanes(class) as usize;
        let sum = move |i: usize| -> f64 {
            let eights = (0..4).map(|j| &x[8 * (i / lanes * 4 * lanes + j * lanes + i % lanes)..][..8]);
            eights.flatten().map(|&v| f64::from(v)).sum()
        };
        Ok(Setup::new(move |r, _| r.read_sums(&input)).gives(move || (0..64 * 1024 / 32).map(&sum).collect()))
    });
    for_class(case, class)
}

fn scaled(depth: Depth, (rows, cols): (u32, u32)) -> Case {
    let case = Case::new("scaled", format!("{rows}x{cols}"), move |o| {
        let (input, x) = o.noise(rows, cols)?;
        let setup = Setup::new(move |r, _| r.scaled(&input, -0.5));
        Ok(setup.gives(move || x.iter().map(|&v| -0.5 * f64::from(v)).collect()))
    });
    case.within(0.0).at(depth)
}

/// More values than a last-level cache holds.
fn copy(rows: u32, cols: u32) -> Case {
    let case = Case::new("copy", format!("{} MiB", (rows * cols) >> 18), move |o| {
        let (input, x) = o.noise(rows, cols)?;
        let setup = Setup::new(move |r, _| {
            let mut y = r.empty(rows, cols);
            r.copy(&mut y, &input);
            y
        });
        let words = move || x.iter().map(|v| v.to_bits()).collect();
        Ok(setup.gives_words(words).moving(8 * u64::from(rows * cols)).in_copies(2))
    });
    case.within(0.0).at(Published)
}

/// A sum into the second half of the rows.
fn add(depth: Depth, (rows, cols): (u32, u32)) -> Case {
    let case = Case::new("add", format!("{rows}x{cols}"), move |o| {
        let first = if depth == Published { 0 } else { rows / 2 };
        let ((input, x), (sum, y0)) = (o.noise(rows, cols)?, o.noise(rows, cols)?);
        let (y, before) = (sum.clone(), y0.clone());
        let setup = Setup::new(move |r, _| {
            r.add(&mut y.slice_rows(first, rows - first), &input.slice_rows(first, rows - first));
            y.clone()
        });
        let values = move || {
            let added = |(i, y): (usize, f64)| if i >= (first * cols) as usize { y + f64::from(x[i]) } else { y };
            wide(&y0).into_iter().enumerate().map(added).collect()
        };
        Ok(setup.over(&sum, before).gives(values).moving(12 * u64::from(rows * cols)).in_copies(2))
    });
    case.at(depth)
}

/// Values as halves and back: small ones, which lose bits, and some beyond the largest half; from the second row on.
fn halved((depth, rows, cols): (Depth, u32, u32)) -> Case {
    let case = Case::new("halved", format!("{rows}x{cols}"), move |o| {
        let x: Vec<f32> = o.normals((rows + 1) * cols).iter().map(|v| v * v * v * 30_000.0).collect();
        let input = o.tensor(rows + 1, cols, &x)?;
        let setup = Setup::of_several(move |r, _| {
            let halves = r.halved(&input.slice_rows(1, rows));
            let widened = r.widened(&halves);
            vec![halves.into(), widened.into()]
        });
        let want = move || oracle::halves(&wide(&x[cols as usize..]), 16.0);
        Ok(setup.gives(want.clone()).gives(want))
    });
    case.within(1e-6).at(depth)
}

/// Widened with zeros, or cut.
fn fit_columns((rows, groups, from, to): (u32, u32, u32, u32)) -> Case {
    let case = Case::new("fit_columns", format!("{rows} rows {groups} times {from} to {to}"), move |o| {
        let (input, x) = o.noise(rows + 1, groups * from)?;
        let ones = o.tensor(rows, groups * to, &vec![1.0; (rows * groups * to) as usize])?;
        let setup = Setup::new(move |r, _| {
            // Where the result will lie, so that zeros are not there by chance.
            let mut before = r.empty(rows, groups * to);
            r.copy(&mut before, &ones);
            drop(before);
            let fitted = r.fit_columns(&input.slice_rows(1, rows), from, to);
            let mut out = r.empty(rows, groups * to);
            r.copy(&mut out, &fitted);
            out
        });
        let row =
            move |row: &[f32]| (0..to as usize).map(|c| row.get(c).map_or(0.0, |&v| v.into())).collect::<Vec<f64>>();
        Ok(setup.gives(move || x[(groups * from) as usize..].chunks(from as usize).flat_map(row).collect()))
    });
    case.within(0.0).at(Ragged)
}

/// Rows put into every third row of more.
fn put_rows(depth: Depth, (rows, cols, count): (u32, u32, u32)) -> Case {
    let case = Case::new("put_rows", format!("{count} of {rows}x{cols}"), move |o| {
        let ((out, base), (input, x)) = (o.noise(rows, cols)?, o.noise(count + 2, cols)?);
        // 1 and 2 modulo 3 have inverses, so a stride of 3 over other sizes meets every row once.
        let stride = if rows.is_multiple_of(3) { 1 } else { 3 };
        let index: Vec<u32> = (0..count).map(|i| (rows - 1 + i * stride) % rows).collect();
        let (to, on_device, before) = (out.clone(), o.ids(&index)?, base.clone());
        let setup = Setup::new(move |r, _| {
            r.put_rows(&mut to.clone(), &input.slice_rows(2, count), &on_device);
            to.clone()
        });
        let values = move || {
            let (mut want, cols) = (wide(&base), cols as usize);
            for (row, &to) in x.chunks(cols).skip(2).zip(&index) {
                want[to as usize * cols..][..cols].copy_from_slice(&wide(row));
            }
            want
        };
        Ok(setup.over(&out, before).gives(values).moving(8 * u64::from(count * cols)))
    });
    case.within(0.0).at(depth)
}

fn patches(depth: Depth, count: u32, (height, width, side): (u32, u32, u32)) -> Case {
    let of_several = if count > 1 { format!("{count} of ") } else { String::new() };
    let case = Case::new("patches", format!("of {side} from {of_several}{height}x{width}"), move |o| {
        let (input, pixels) = o.noise(3 * count * height, width)?;
        let moved = 8 * u64::from(input.len());
        let setup = Setup::new(move |r, _| r.patches(&input, count, side));
        let size = (height as usize, width as usize);
        let values = move || {
            let pictures = pixels.chunks(3 * size.0 * size.1);
            pictures.flat_map(|pixels| oracle::patch_embed::patches(&wide(pixels), size, side as usize)).collect()
        };
        Ok(setup.gives(values).moving(moved))
    });
    // Where they are made as halves, those below the least normal one lose a bit.
    case.within(1e-7).at(depth)
}

fn argmax(depth: Depth, (rows, n): (u32, u32)) -> Case {
    let case = Case::new("argmax", format!("{rows}x{n}"), move |o| {
        let mut x: Vec<f32> = o.normals(rows * n).iter().map(|v| v.min(3.0)).collect();
        // Ties of the largest value, the first at a random column; all values negative in the last row.
        x[o.below(n) as usize] = 9.0;
        x[(n - 1) as usize] = 9.0;
        x[((rows - 1) * n) as usize..].iter_mut().for_each(|v| *v -= 100.0);
        let (input, out) = (o.tensor(rows, n, &x)?, o.ids(&vec![u32::MAX; rows as usize])?);
        let setup = Setup::new(move |r, _| {
            r.argmax(&mut out.clone(), &input);
            out.clone()
        });
        let moved = 4 * u64::from(rows * n);
        let words = move || oracle::argmax::argmax(&wide(&x), n as usize);
        Ok(setup.gives_words(words).moving(moved).in_copies(8))
    });
    case.within(0.0).at(depth)
}

/// Rows without order, in order, of few different numbers (zeros of both signs among them), of values that are all in one
/// group, of one value only, and with infinities and what are no numbers: gathered at once, after halving values, and
/// after halving columns.
fn top_k(depth: Depth, (n, k): (u32, u32)) -> Case {
    let rows = match depth {
        Quick | Small => 3,
        Ragged => 7,
        Published => 1,
    };
    let case = Case::new("top_k", format!("{k} of {rows}x{n}"), move |o| {
        let first = o.normals(n);
        let few = first.iter().map(|v| v.round()).collect();
        let mut falling = first.clone();
        falling.sort_by(|a, b| b.total_cmp(a));
        // The largest values all in one group, more of them than can be gathered.
        let crowded = first.iter().zip(0..).map(|(&v, i)| if i % 256 < 70 { 1e6 + v } else { v }).collect();
        let mut odd = first.clone();
        for value in [f32::NEG_INFINITY, f32::INFINITY, -f32::NAN, f32::NAN, f32::from_bits(1), f32::MAX, f32::MIN] {
            odd[o.below(n) as usize] = value;
        }
        let (one, none) = (vec![-0.5; n as usize], vec![f32::NAN; n as usize]);
        let x: Vec<f32> =
            [first, few, one, falling, crowded, odd, none].into_iter().take(rows as usize).flatten().collect();
        let whole = o.tensor(rows + 1, n, &[&x[..n as usize], &x].concat())?;
        let ones = o.tensor(rows, 2 * k, &vec![1.0; (rows * 2 * k) as usize])?;
        let setup = Setup::new(move |r, _| {
            if depth != Published {
                // Where the result will lie, so that none of an earlier one is left.
                let mut before = r.empty(rows, 2 * k);
                r.copy(&mut before, &ones);
            }
            r.top_k(&whole.slice_rows(1, rows), k)
        });
        let words = move || oracle::top_k::top_k(&x, n as usize, k as usize);
        Ok(setup.judging("top_k").gives_words(words).moving(8 * u64::from(rows * n)).in_copies(8))
    });
    case.within(0.0).at(depth)
}
