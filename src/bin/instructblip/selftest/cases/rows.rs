//! Norms, copies, rows by index, patches, the largest column, synthetic weights.

use instructblip::runtime::{AdapterClass, Caps, Matrix, Recorder, WeightFormat};

use super::super::case::{Case, Recording};
use super::super::oracle::{self, wide};
use super::super::place::Rng;
use super::BOUND;
use crate::bench::MatrixProbe;

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for shape in [(257, 1408), (2, 4096), (1, 1), (1, 8), (3, 7)] {
        cases.extend([true, false].map(|center| norm(shape, center, [30.0, 1.0])));
    }
    // Small enough for eps to count.
    cases.extend([true, false].map(|center| norm((3, 768), center, [0.0, 0.003])));
    cases.extend([(257, 1408), (1, 1), (3, 7), (65, 64)].into_iter().flat_map(|shape| [copy(shape), add(shape)]));
    cases.extend([(32, 768, 32), (9, 40, 3), (3, 1, 1)].map(put_rows));
    cases.extend([(224, 224, 14), (28, 28, 14), (8, 24, 8), (45, 31, 14)].map(patches));
    cases.extend([32_064, 1, 2, 255, 257].map(argmax));
    cases.extend([(32_064, 64), (1, 1), (255, 64), (257, 256)].map(top_k));
    cases.extend([(7, 1408), (64, 64)].map(fill));
    // Workgroups, and what is in an output, differ from class to class.
    let classes = [AdapterClass::Gpu, AdapterClass::Cpu];
    cases.extend(classes.into_iter().flat_map(|class| {
        [multiply_adds(class), multiply_adds_f16(class), matrix_multiply_adds(class), read_sums(class)]
    }));
    cases
}

/// Rows far from zero: a variance computed as a difference of squares would be lost there.
fn norm((t, d): (u32, u32), center: bool, [mean, deviation]: [f32; 2]) -> Case {
    let op = if center { "layer_norm" } else { "rms_norm" };
    Case::new(format!("{op} {t}x{d} of {mean} ± {deviation}"), BOUND, move |place| {
        let mut rng = Rng::new(1);
        let x: Vec<f32> = rng.normals(t * d).iter().map(|v| mean + deviation * v).collect();
        let (norm, weight, bias) = place.norm(&mut rng, d, 1e-5, center)?;
        let input = place.tensor(t, d, &x)?;
        let mut r = place.recorder();
        let y = if center { r.layer_norm(&input, &norm) } else { r.rms_norm(&input, &norm) };
        Ok(Recording::new(r).gives(&y, move || match center {
            true => oracle::norm::layer_norm(&wide(&x), &weight, &bias, 1e-5),
            false => oracle::norm::rms_norm(&wide(&x), &weight, 1e-5),
        }))
    })
}

/// Chains with another factor than the benchmarks', so that they move.
fn multiply_adds(class: AdapterClass) -> Case {
    Case::new(format!("multiply_adds of 3 groups for a {class:?}"), BOUND, move |place| {
        let (groups, steps) = (3, 2);
        let mut r = Recorder::new(Caps { class, ..place.caps });
        let y = r.multiply_adds(&place.tensor(1, 2, &[0.75, 0.5])?, groups, steps);
        let count = y.len();
        let chain = move |start: f64| (0..8 * steps).fold(start, |s, _| 0.75 * s + 0.5);
        let one = move |i: u32| (0..12).map(|c| chain(f64::from(i % 256 + c))).sum();
        Ok(Recording::new(r).gives(&y, move || (0..count).map(one).collect()))
    })
}

/// Chains of pairs that add 1 at each of their steps, which f16 holds exactly.
fn multiply_adds_f16(class: AdapterClass) -> Case {
    let case = Case::new(format!("multiply_adds_f16 of 3 groups for a {class:?}"), BOUND, move |place| {
        let (groups, steps) = (3, 2);
        let mut r = Recorder::new(Caps { class, ..place.caps });
        let y = r.multiply_adds_f16(&place.tensor(1, 2, &[1.0, 1.0])?, groups, steps);
        let count = y.len();
        let one = move |i: u32| (0..12).map(|c| 2.0 * f64::from(i % 256 + c + 8 * steps) + 1.0).sum();
        Ok(Recording::new(r).gives(&y, move || (0..count).map(one).collect()))
    });
    case.only(|caps| caps.f16)
}

fn matrix_multiply_adds(class: AdapterClass) -> Case {
    let case = Case::new(format!("matrix_multiply_adds of 3 groups for a {class:?}"), BOUND, move |place| {
        let mut r = Recorder::new(Caps { class, ..place.caps });
        let probe = MatrixProbe::of(&place.caps).expect("a place with matrices");
        let y = r.matrix_multiply_adds(&place.tensor(64, probe.edge, &probe.seed())?, 3, 5);
        let (groups, workgroup) = (y.rows(), y.cols());
        Ok(Recording::new(r).gives(&y, move || (0..groups).flat_map(|_| probe.sums(workgroup, 5)).collect()))
    });
    case.only(|caps| MatrixProbe::of(caps).is_some())
}

fn read_sums(class: AdapterClass) -> Case {
    Case::new(format!("read_sums of 64x1024 for a {class:?}"), BOUND, move |place| {
        let x = Rng::new(9).normals(64 * 1024);
        let mut r = Recorder::new(Caps { class, ..place.caps });
        let y = r.read_sums(&place.tensor(64, 1024, &x)?);
        let lanes = y.cols() as usize;
        // Invocation i of a group reads eights i, i + lanes, …, four of them.
        let sum = move |x: &[f32], i: usize| -> f64 {
            let eights = (0..4).map(|j| &x[8 * (i / lanes * 4 * lanes + j * lanes + i % lanes)..][..8]);
            eights.flatten().map(|&v| f64::from(v)).sum()
        };
        let count = y.len() as usize;
        Ok(Recording::new(r).gives(&y, move || (0..count).map(|i| sum(&x, i)).collect()))
    })
}

fn copy((rows, cols): (u32, u32)) -> Case {
    Case::new(format!("scaled {rows}x{cols}"), 0.0, move |place| {
        let x = Rng::new(2).normals(rows * cols);
        let mut r = place.recorder();
        let y = r.scaled(&place.tensor(rows, cols, &x)?, -0.5);
        Ok(Recording::new(r).gives(&y, move || x.iter().map(|&v| -0.5 * f64::from(v)).collect()))
    })
}

/// Into the second half of the rows.
fn add((rows, cols): (u32, u32)) -> Case {
    Case::new(format!("add {rows}x{cols}"), BOUND, move |place| {
        let (mut rng, first) = (Rng::new(3), rows / 2);
        let (x, y0) = (rng.normals(rows * cols), rng.normals(rows * cols));
        let (input, y) = (place.tensor(rows, cols, &x)?, place.tensor(rows, cols, &y0)?);
        let mut r = place.recorder();
        r.add(&mut y.slice_rows(first, rows - first), &input.slice_rows(first, rows - first));
        Ok(Recording::new(r).gives(&y, move || {
            let added = |(i, y): (usize, f64)| if i >= (first * cols) as usize { y + f64::from(x[i]) } else { y };
            wide(&y0).into_iter().enumerate().map(added).collect()
        }))
    })
}

/// Into every third row of more.
fn put_rows((rows, cols, count): (u32, u32, u32)) -> Case {
    Case::new(format!("put_rows {count} of {rows}x{cols}"), 0.0, move |place| {
        let mut rng = Rng::new(4);
        let (base, x) = (rng.normals(rows * cols), rng.normals((count + 2) * cols));
        // 1 and 2 modulo 3 have inverses, so a stride of 3 over other sizes meets every row once.
        let stride = if rows % 3 == 0 { 1 } else { 3 };
        let index: Vec<u32> = (0..count).map(|i| (rows - 1 + i * stride) % rows).collect();
        let mut out = place.tensor(rows, cols, &base)?;
        let mut r = place.recorder();
        r.put_rows(&mut out, &place.tensor(count + 2, cols, &x)?.slice_rows(2, count), &place.ids(&index)?);
        Ok(Recording::new(r).gives(&out, move || {
            let (mut want, cols) = (wide(&base), cols as usize);
            for (row, &to) in x.chunks(cols).skip(2).zip(&index) {
                want[to as usize * cols..][..cols].copy_from_slice(&wide(row));
            }
            want
        }))
    })
}

fn patches((height, width, side): (u32, u32, u32)) -> Case {
    Case::new(format!("patches of {side} from {height}x{width}"), 0.0, move |place| {
        let pixels = Rng::new(5).normals(3 * height * width);
        let mut r = place.recorder();
        let out = r.patches(&place.tensor(3 * height, width, &pixels)?, side);
        let size = (height as usize, width as usize);
        Ok(Recording::new(r).gives(&out, move || oracle::patch_embed::patches(&wide(&pixels), size, side as usize)))
    })
}

fn argmax(n: u32) -> Case {
    Case::new(format!("argmax 3x{n}"), 0.0, move |place| {
        let mut rng = Rng::new(6);
        let mut x: Vec<f32> = rng.normals(3 * n).iter().map(|v| v.min(3.0)).collect();
        // Ties of the largest value, the first at a random column; all values negative in the last row.
        x[rng.below(n) as usize] = 9.0;
        x[(n - 1) as usize] = 9.0;
        x[2 * n as usize..].iter_mut().for_each(|v| *v -= 100.0);
        let mut out = place.ids(&[u32::MAX; 3])?;
        let mut r = place.recorder();
        r.argmax(&mut out, &place.tensor(3, n, &x)?);
        Ok(Recording::new(r).gives_exactly(&out, move || oracle::argmax::argmax(&wide(&x), n as usize)))
    })
}

/// Rows of numbers, of few different ones, and of one only: what is gathered at once, by halving values and columns.
fn top_k((n, k): (u32, u32)) -> Case {
    Case::new(format!("top_k {k} of 3x{n}"), 0.0, move |place| {
        let mut rng = Rng::new(7);
        let mut x = rng.normals(3 * n);
        let (few, one) = x[n as usize..].split_at_mut(n as usize);
        few.iter_mut().for_each(|v| *v = v.round());
        one.fill(-0.5);
        let mut r = place.recorder();
        let out = r.top_k(&place.tensor(3, n, &x)?, k);
        Ok(Recording::new(r).gives_exactly(&out, move || oracle::top_k::top_k(&x, n as usize, k as usize)))
    })
}

fn fill((rows, cols): (u32, u32)) -> Case {
    // How halves are rounded is the driver's choice: half a unit or a whole one of 11 bits.
    Case::new(format!("fill {rows}x{cols}"), 1e-3, move |place| {
        let matrix = Matrix::uninit(&place.device, "selftest", rows, cols, WeightFormat::F16)?;
        let mut r = place.recorder();
        r.fill(&matrix, 7, 0.5);
        let out = r.embed(&place.ids(&(0..rows).collect::<Vec<_>>())?, &matrix);
        let want = move || oracle::fill::fill(rows * cols / 2, 7, 0.5);
        Ok(Recording::new(r).about("fill").gives(&out, want))
    })
}
