//! Every op against its oracle, in every kernel form, over a table of shapes: aligned, ragged, one, limits.
//!
//! Forms meant for GPUs run on a software adapter too: a form is chosen by the recorder's `Caps`, not by the device.
//! Relative L2 of 1e-5 is allowed unless a test says otherwise.

use crate::oracle;
use crate::support;
use std::sync::Arc;

use crate::oracle::wide;
use crate::support::{Lent, Rng, assert_close};
use half::f16;
use instructblip::runtime::kernels::Needs;
use instructblip::runtime::ops::linear::choose;
use instructblip::runtime::{
    Activation, AdapterClass, Caps, Category, Device, Heads, KvLayer, Linear, Mask, Matrix, MatrixSize, Norm, Plan,
    Recorder, Rows, Step, Tensor, Tuning, WeightFormat,
};

const BOUND: f64 = 1e-5;

/// An activation and its definition.
type Case = (Activation, fn(f64) -> f64);

/// A device and the caps to choose kernel forms by.
#[derive(Clone)]
struct Place {
    name: &'static str,
    device: Arc<Lent>,
    caps: Caps,
}

/// Every kernel form: this device's own, the portable ones under default limits, and the portable ones with every
/// runtime check on.
fn places() -> Vec<Place> {
    let (Some(device), Some(portable), Some(checked)) =
        (support::shared_device(), support::portable_device(), support::checked_device())
    else {
        return Vec::new();
    };
    vec![
        Place { name: "own forms", caps: device.caps(), device: device.into() },
        Place { name: "portable forms", caps: Caps::PORTABLE, device: portable.into() },
        Place { name: "checked portable forms", caps: Caps::PORTABLE, device: checked.into() },
    ]
}

/// The same, and the forms by matrices where the adapter has any: a GPU's own, a software adapter's by pretence.
fn linear_places() -> Vec<Place> {
    let mut places = places();
    let Some(device) = places.first().map(|place| place.device.clone()) else { return places };
    match device.caps().matrix {
        Some(_) => {
            let caps = Caps { class: AdapterClass::Gpu, ..device.caps() };
            places.push(Place { name: "matrix forms", caps, device });
        }
        None => eprintln!("NOT RUN: forms by matrices: {} has no cooperative matrices", device.name()),
    }
    places
}

/// The same, and the portable forms of attention where this device has others.
fn attention_places() -> Vec<Place> {
    let mut places = places();
    let Some(device) = places.first().map(|place| place.device.clone()) else { return places };
    for (name, form) in
        [("attention_tile preferred", "attention_tile"), ("attention_decode preferred", "attention_decode")]
    {
        places.push(Place { name, caps: Caps { preferred: Some(form), ..device.caps() }, device: device.clone() });
    }
    places
}

impl Place {
    /// Whether a long table's row is run here. Checks change what a driver gets, not what a kernel computes, and their
    /// shaders take the longest to compile: they take every third row, alignments and sizes of every kind.
    fn takes(&self, row: usize) -> bool {
        !self.name.starts_with("checked") || row.is_multiple_of(3)
    }

    /// `values` as the form for `m` rows takes them: matrices in f16, after division by `scale`.
    fn seen(&self, m: u32, format: WeightFormat, scale: f32, values: &[f64]) -> Vec<f64> {
        let seen = |&v: &f64| f64::from(scale) * f16::from_f32((v as f32 / scale).clamp(-65504.0, 65504.0)).to_f64();
        match choose(m, format, &self.caps).kernel.needs {
            Needs::Matrices => values.iter().map(seen).collect(),
            _ => values.to_vec(),
        }
    }

    /// Inputs of a layer as its form takes them.
    fn seen_inputs(&self, m: u32, format: WeightFormat, x: &[f64]) -> Vec<f64> {
        self.seen(m, format, 16.0, x)
    }

    /// `x Wᵀ + b` of what the form takes.
    fn product(&self, format: WeightFormat, x: &[f64], w: &[f64], b: &[f64], (m, n, k): (u32, u32, u32)) -> Vec<f64> {
        let (x, w) = (self.seen_inputs(m, format, x), self.seen(m, format, 1.0, w));
        oracle::linear::linear(&x, &w, b, m as usize, n as usize, k as usize)
    }

    fn tensor(&self, rows: u32, cols: u32, values: &[f32]) -> Tensor {
        self.device.tensor(Category::Io, "test", rows, cols, values).expect("a tensor")
    }

    fn ids(&self, ids: &[u32]) -> Tensor {
        self.device.tensor(Category::Io, "ids", 1, ids.len() as u32, ids).expect("a tensor")
    }

    fn recorder(&self) -> Recorder {
        Recorder::new(self.caps)
    }

    fn run(&self, r: Recorder, step: Step) -> Plan {
        let plan = r.finish(&self.device).expect("a plan");
        plan.write_step(step);
        plan.submit().expect("submitted");
        plan
    }

    /// Runs the recording and reads one of its tensors.
    fn read(&self, r: Recorder, tensor: &Tensor) -> Vec<f32> {
        let plan = self.run(r, Step::default());
        self.device.read(&plan.output(tensor)).expect("a result")
    }

    /// A linear layer with random parameters in f16, and those as the oracle wants them.
    fn linear(&self, rng: &mut Rng, n: u32, k: u32, bias: bool) -> (Linear, Vec<f64>, Vec<f64>) {
        self.linear_in(WeightFormat::F16, rng, n, k, bias)
    }

    /// The same in any format.
    fn linear_in(
        &self,
        format: WeightFormat,
        rng: &mut Rng,
        n: u32,
        k: u32,
        bias: bool,
    ) -> (Linear, Vec<f64>, Vec<f64>) {
        let values: Vec<f32> = (0..n * k).map(|_| rng.normal() / (k as f32).sqrt()).collect();
        let weight = Matrix::uninit(&self.device, "test", n, k, format).expect("a matrix");
        weight.write_rows(&self.device, 0, &values);
        let (mut packed, mut scales) = (Vec::new(), Vec::new());
        format.pack(&values, &mut packed, &mut scales);
        let seen = match format {
            WeightFormat::F16 => values.iter().map(|&v| f16::from_f32(v).to_f64()).collect(),
            WeightFormat::Q8 => oracle::quantised::q8(&packed, &scales),
            WeightFormat::Q4 => oracle::quantised::q4(&packed, &scales),
        };
        let b = if bias { rng.normals(n) } else { Vec::new() };
        let layer = Linear { weight, bias: bias.then(|| self.tensor(1, n, &b)) };
        (layer, seen, wide(&b))
    }

    fn norm(&self, rng: &mut Rng, d: u32, eps: f32, bias: bool) -> (Norm, Vec<f64>, Vec<f64>) {
        let (weight, shift) = (rng.normals(d), rng.normals(d));
        let norm = Norm {
            label: "test".into(),
            weight: self.tensor(1, d, &weight),
            bias: bias.then(|| self.tensor(1, d, &shift)),
            eps,
        };
        (norm, wide(&weight), wide(&shift))
    }
}

/// Rows, outputs, inputs: one, ragged and aligned to every tile; from vector, tile and matrix kernels.
const LINEAR_SHAPES: [(u32, u32, u32); 26] = [
    (1, 1, 8),
    (1, 4, 64),
    (1, 130, 1408),
    (2, 5, 24),
    (4, 63, 200),
    (5, 1, 8),
    (5, 65, 48),
    (7, 3, 16),
    (16, 1, 8),
    (16, 32, 64),
    (17, 63, 592),
    (32, 130, 40),
    (33, 130, 176),
    (33, 65, 1544), // K in three shares, by matrices
    (40, 30, 4136), // in eight
    (96, 65, 32),
    (64, 64, 64),
    (65, 192, 592),
    (100, 31, 104),
    (257, 72, 88),
    // Inputs that no kernel reads as they are.
    (1, 1, 1),
    (1, 37, 37),
    (5, 101, 60),
    (9, 5, 3),
    (33, 65, 101),
    (40, 30, 1049),
];

#[test]
fn linear_matches_oracle() {
    for place in linear_places() {
        for (i, (m, n, k)) in LINEAR_SHAPES.into_iter().enumerate() {
            let mut rng = Rng::new(i as u64);
            let bias = i % 2 == 0;
            let (layer, w, b) = place.linear(&mut rng, n, k, bias);
            let x = rng.normals(m * k);
            let mut r = place.recorder();
            let y = r.linear(&place.tensor(m, k, &x), &layer);
            let shared = place.name == "matrix forms" && m >= 16 && k >= 1024;
            let ragged = k % 8 != 0;
            assert_eq!(r.len(), 1 + usize::from(shared) + usize::from(ragged), "{m}x{n}x{k}: dispatches");
            let want = place.product(WeightFormat::F16, &wide(&x), &w, &b, (m, n, k));
            assert_close(&format!("{} {m}x{n}x{k}", place.name), &place.read(r, &y), &want, BOUND);
        }
    }
}

/// Every form that this adapter can run, not only its first choice, and `linear_vec` with both widths.
#[test]
fn every_form_of_linear_matches_oracle() {
    use instructblip::runtime::ops::linear::forms;
    let mut tried = std::collections::BTreeSet::new();
    for place in places() {
        for format in WeightFormat::ALL {
            for (i, (m, n, k)) in
                [(1, 37, 96), (5, 65, 160), (21, 70, 96)].into_iter().enumerate().filter(|(i, _)| place.takes(*i))
            {
                let mut rng = Rng::new(100 + i as u64);
                let (layer, w, b) = place.linear_in(format, &mut rng, n, k, true);
                let (norm, gain, _) = place.norm(&mut rng, k, 1e-5, false);
                let x = rng.normals(m * k);
                let input = place.tensor(m, k, &x);
                let sums = |x: &[f64]| oracle::linear::linear(x, &w, &b, m as usize, n as usize, k as usize);
                let normed = oracle::norm::rms_norm(&wide(&x), &gain, 1e-5);
                for form in forms(m, format, &place.caps) {
                    for vec_columns in [4, 8].into_iter().filter(|&c| c == 4 || form.kernel.file == "linear_vec") {
                        let tuning = Tuning { vec_columns, fuse_norm: true, ..place.caps.tuning };
                        let caps = Caps { preferred: Some(form.kernel.form), tuning, ..place.caps };
                        let mut r = Recorder::new(caps);
                        let (y, z) = (r.linear(&input, &layer), r.norm_linear(&input, &norm, &layer));
                        assert_eq!(r.dispatches()[0].kernel, form.kernel);
                        assert_eq!(
                            r.len(),
                            if form.kernel.file == "linear_vec" { 2 } else { 3 },
                            "norms go into vectors only"
                        );
                        let plan = place.run(r, Step::default());
                        let values = |tensor| place.device.read::<f32>(&plan.output(tensor)).expect("a result");
                        let label = format!("{} {} {m}x{n}x{k}", place.name, form.kernel.name);
                        let bound = form.kernel.needs.bound(BOUND);
                        assert_close(&label, &values(&y), &sums(&wide(&x)), bound);
                        assert_close(&format!("{label} normed"), &values(&z), &sums(&normed), bound);
                        tried.insert(form.kernel.name);
                    }
                }
            }
        }
    }
    assert!(support::shared_device().is_none() || tried.len() >= 6, "{tried:?}");
}

/// Rows, outputs, inputs of quantised layers: groups of 32, rows whose scales are padded, the real widths.
const QUANTISED_SHAPES: [(u32, u32, u32); 12] = [
    (1, 1, 32),
    (1, 4, 64),
    (1, 130, 1408),
    (1, 9, 4096),
    (2, 5, 96),
    (4, 63, 160),
    (5, 1, 32),
    (7, 65, 224),
    (17, 63, 96),
    (33, 130, 192),
    (64, 64, 128),
    (257, 72, 1408),
];

#[test]
fn quantised_linear_matches_oracle() {
    for place in linear_places() {
        for format in [WeightFormat::Q8, WeightFormat::Q4] {
            for (i, (m, n, k)) in QUANTISED_SHAPES.into_iter().enumerate() {
                let mut rng = Rng::new(i as u64);
                let bias = i % 2 == 0;
                let (layer, w, b) = place.linear_in(format, &mut rng, n, k, bias);
                let x = rng.normals(m * k);
                let input = place.tensor(m, k, &x);
                let mut r = place.recorder();
                let y = r.linear(&input, &layer);
                let gated = (n % 2 == 0).then(|| r.swiglu(&input, &layer));
                let plan = place.run(r, Step::default());
                let sums = place.product(format, &wide(&x), &w, &b, (m, n, k));
                let label = format!("{} {format} {m}x{n}x{k}", place.name);
                let read = |t: &Tensor| place.device.read::<f32>(&plan.output(t)).expect("a result");
                assert_close(&label, &read(&y), &sums, BOUND);
                if let Some(gated) = gated {
                    assert_close(&format!("{label} gated"), &read(&gated), &oracle::linear::swiglu(&sums), BOUND);
                }
            }
        }
    }
}

/// What is lost by rounding, against the values before: of Gaussian weights, and of weights a hundredth of which are
/// twenty times as large. `cargo test --test library ops::rounding -- --nocapture` prints the table.
#[test]
fn rounding_weights_loses_what_the_table_says() {
    println!("{:<28} {:>10} {:>10} {:>12}", "weights [256, 4096]", "weights", "largest", "y of 8 rows");
    for (name, outliers) in [("Gaussian", false), ("with outliers", true)] {
        let mut rng = Rng::new(5);
        let (rows, k) = (256, 4096);
        let value = |i: u32, rng: &mut Rng| rng.normal() * if outliers && i.is_multiple_of(100) { 20.0 } else { 1.0 };
        let values: Vec<f32> = (0..rows * k).map(|i| value(i, &mut rng)).collect();
        let x = wide(&rng.normals(8 * k));
        let exact = oracle::linear::linear(&x, &wide(&values), &[], 8, rows as usize, k as usize);
        // Bounds: 20 % above what this test printed when it was written.
        let bounds = [
            (WeightFormat::F16, [2.5e-4, 2.5e-4]),
            (WeightFormat::Q8, [0.0064, 0.0139]),
            (WeightFormat::Q4, [0.089, 0.125]),
        ];
        for (format, bounds) in bounds {
            let (mut packed, mut scales, mut rounded) = (Vec::new(), Vec::new(), Vec::new());
            format.pack(&values, &mut packed, &mut scales);
            format.unpack(&packed, &scales, &mut rounded);
            let error = |a: &mut dyn Iterator<Item = (f64, f64)>| {
                let (off, size) = a.fold((0.0, 0.0), |(off, size), (got, want)| {
                    (off + (got - want) * (got - want), size + want * want)
                });
                (off / size).sqrt()
            };
            let in_weights = error(&mut wide(&rounded).into_iter().zip(wide(&values)));
            let largest = rounded.iter().zip(&values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let y = oracle::linear::linear(&x, &wide(&rounded), &[], 8, rows as usize, k as usize);
            let in_outputs = error(&mut y.into_iter().zip(exact.iter().copied()));
            println!("{:<28} {in_weights:>10.6} {largest:>10.4} {in_outputs:>12.6}", format!("{name}, {format}"));
            let bound = bounds[usize::from(outliers)];
            assert!(in_weights < bound && in_outputs < bound, "{name} {format}: {in_weights} and {in_outputs}");
        }
    }
}

#[test]
fn linear_act_matches_oracle_for_every_activation() {
    use crate::oracle::activation::{gelu, gelu_tanh, relu, silu};
    let activations: [Case; 5] = [
        (Activation::None, |x| x),
        (Activation::Gelu, gelu),
        (Activation::GeluTanh, gelu_tanh),
        (Activation::Silu, silu),
        (Activation::Relu, relu),
    ];
    for place in linear_places() {
        for (activation, function) in activations {
            for (m, n, k) in [(1, 33, 64), (37, 66, 64)] {
                let mut rng = Rng::new(7);
                let (layer, w, b) = place.linear(&mut rng, n, k, true);
                // Wide enough to reach the flat ends of every function.
                let x: Vec<f32> = rng.normals(m * k).iter().map(|v| 4.0 * v).collect();
                let mut r = place.recorder();
                let y = r.linear_act(&place.tensor(m, k, &x), &layer, activation);
                let sums = place.product(WeightFormat::F16, &wide(&x), &w, &b, (m, n, k));
                let want: Vec<f64> = sums.into_iter().map(function).collect();
                assert_close(&format!("{} {activation:?} {m} rows", place.name), &place.read(r, &y), &want, BOUND);
            }
        }
    }
}

#[test]
fn gelu_is_close_far_out() {
    // A single weight of one makes the layer the activation itself.
    for place in linear_places() {
        let xs: Vec<f32> = (-800..=800).map(|i| i as f32 / 100.0).collect();
        let x: Vec<f32> = xs.iter().flat_map(|&v| [v, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]).collect();
        let weight = Matrix::uninit(&place.device, "one", 1, 8, WeightFormat::F16).expect("a matrix");
        weight.write_rows(&place.device, 0, &[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        let layer = Linear { weight, bias: None };
        let input = place.tensor(xs.len() as u32, 8, &x);
        let functions: [Case; 3] = [
            (Activation::Gelu, oracle::activation::gelu),
            (Activation::GeluTanh, oracle::activation::gelu_tanh),
            (Activation::Silu, oracle::activation::silu),
        ];
        for (activation, function) in functions {
            let mut r = place.recorder();
            let y = r.linear_act(&input, &layer, activation);
            let seen = place.seen_inputs(xs.len() as u32, WeightFormat::F16, &wide(&xs));
            for (&x, &got) in seen.iter().zip(&place.read(r, &y)) {
                let want = function(x);
                let off = (f64::from(got) - want).abs();
                // The left tail is a difference of numbers near one: 2^-23 of |x|.
                assert!(off <= 2e-6, "{} {activation:?}({x}) = {got}, not {want}", place.name);
            }
        }
    }
}

/// Infinite, they would take every output of their row along.
#[test]
fn inputs_too_large_for_f16_are_kept_in_its_range() {
    for place in linear_places() {
        let m = 16;
        let weight = Matrix::uninit(&place.device, "one", 1, 8, WeightFormat::F16).expect("a matrix");
        weight.write_rows(&place.device, 0, &[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        let x: Vec<f32> = (0..m * 8).map(|i| if i % 8 == 0 { 1e6 + 1e5 * i as f32 } else { -1e9 }).collect();
        let mut r = place.recorder();
        let y = r.linear(&place.tensor(m, 8, &x), &Linear { weight, bias: None });
        let first: Vec<f64> = x.chunks(8).map(|row| row[0].into()).collect();
        let want = place.seen_inputs(m, WeightFormat::F16, &first);
        assert_close(place.name, &place.read(r, &y), &want, BOUND);
    }
}

#[test]
fn linear_add_adds_into_rows_of_a_larger_tensor() {
    for place in linear_places() {
        let shapes =
            [(9, 2, 5, 24, 64), (3, 1, 1, 8, 16), (40, 7, 33, 64, 40), (20, 3, 17, 9, 1104), (9, 5, 3, 37, 101)];
        for (rows, first, m, n, k) in shapes {
            let mut rng = Rng::new(3);
            let (layer, w, b) = place.linear(&mut rng, n, k, true);
            let (x, y0) = (rng.normals(rows * k), rng.normals(rows * n));
            let mut r = place.recorder();
            let (source, start) = (place.tensor(rows, k, &x), place.tensor(rows, n, &y0));
            let mut y = r.empty(rows, n);
            r.copy(&mut y, &start);
            r.linear_add(&mut y.slice_rows(first, m), &source.slice_rows(first, m), &layer);
            let from = (first * k) as usize;
            let part = wide(&x[from..from + (m * k) as usize]);
            let added = place.product(WeightFormat::F16, &part, &w, &b, (m, n, k));
            let mut want = wide(&y0);
            want[(first * n) as usize..].iter_mut().zip(added).for_each(|(y, a)| *y += a);
            assert_close(&format!("{} rows {first}+{m}", place.name), &place.read(r, &y), &want, BOUND);
        }
    }
}

#[test]
fn swiglu_matches_oracle() {
    for place in linear_places() {
        let shapes =
            [(1, 1, 8), (1, 33, 96), (3, 7, 16), (7, 96, 64), (33, 65, 48), (17, 33, 1056), (1, 37, 5), (33, 101, 250)];
        for (m, f, k) in shapes {
            for bias in [false, true] {
                let mut rng = Rng::new(5);
                let (layer, w, b) = place.linear(&mut rng, 2 * f, k, bias);
                let x = rng.normals(m * k);
                let mut r = place.recorder();
                let y = r.swiglu(&place.tensor(m, k, &x), &layer);
                let sums = place.product(WeightFormat::F16, &wide(&x), &w, &b, (m, 2 * f, k));
                let want = oracle::linear::swiglu(&sums);
                assert_close(&format!("{} {m}x{f}x{k}", place.name), &place.read(r, &y), &want, BOUND);
            }
        }
    }
}

/// Weights over the binding limit are split by rows; with a limit of 16 KiB every one of these is.
#[test]
fn split_weights_give_what_whole_ones_give() {
    // A device of its own: buffers that other tests leave are larger than this one may bind.
    let Some(device) = support::device() else { return };
    let device = device.with_binding_limit(16 << 10);
    let place = Place { name: "split", caps: device.caps(), device: Arc::new(device.into()) };
    let mut rng = Rng::new(11);
    for (m, format) in [(1, WeightFormat::Q8), (5, WeightFormat::Q4)] {
        let (layer, w, b) = place.linear_in(format, &mut rng, 650, 64, true);
        let x = rng.normals(m * 64);
        let mut r = place.recorder();
        let y = r.linear(&place.tensor(m, 64, &x), &layer);
        assert!(r.len() >= 2, "650 rows are several parts");
        let sums = oracle::linear::linear(&wide(&x), &w, &b, m as usize, 650, 64);
        assert_close(&format!("split {format}"), &place.read(r, &y), &sums, BOUND);
    }
    for m in [1, 9] {
        let (layer, w, b) = place.linear(&mut rng, 330, 64, true);
        let x = rng.normals(m * 64);
        let input = place.tensor(m, 64, &x);
        let mut r = place.recorder();
        let (y, gated) = (r.linear(&input, &layer), r.swiglu(&input, &layer));
        assert!(r.len() >= 6, "330 rows of 128 bytes are three parts");
        let plan = place.run(r, Step::default());
        let sums = oracle::linear::linear(&wide(&x), &w, &b, m as usize, 330, 64);
        let read = |t: &Tensor| place.device.read::<f32>(&plan.output(t)).expect("a result");
        assert_close("split linear", &read(&y), &sums, BOUND);
        assert_close("split swiglu", &read(&gated), &oracle::linear::swiglu(&sums), BOUND);
        // Rows on both sides of every border.
        let ids = [0, 127, 128, 255, 256, 329];
        let mut r = place.recorder();
        let rows = r.embed(&place.ids(&ids), &layer.weight);
        let want: Vec<f64> = ids.iter().flat_map(|&id| w[id as usize * 64..][..64].to_vec()).collect();
        assert_close("split embed", &place.read(r, &rows), &want, 0.0);
    }
}

#[test]
fn norms_match_oracle() {
    for place in places() {
        for (i, (rows, d)) in [(1, 8), (1, 1), (3, 7), (257, 33), (5, 64), (2, 1408), (4, 4096)].into_iter().enumerate()
        {
            let mut rng = Rng::new(i as u64);
            // Far from zero: a variance computed as a difference of squares would be lost here.
            let x: Vec<f32> = rng.normals(rows * d).iter().map(|v| 30.0 + v).collect();
            let input = place.tensor(rows, d, &x);
            let (norm, weight, bias) = place.norm(&mut rng, d, 1e-6, true);
            let mut r = place.recorder();
            let y = r.layer_norm(&input, &norm);
            let want = oracle::norm::layer_norm(&wide(&x), &weight, &bias, 1e-6);
            // The mean of values near 30 is rounded to 2e-6, of a deviation of about one.
            assert_close(&format!("{} layer_norm {rows}x{d}", place.name), &place.read(r, &y), &want, BOUND);
            let (norm, weight, _) = place.norm(&mut rng, d, 1e-5, false);
            let mut r = place.recorder();
            let y = r.rms_norm(&input, &norm);
            let want = oracle::norm::rms_norm(&wide(&x), &weight, 1e-5);
            assert_close(&format!("{} rms_norm {rows}x{d}", place.name), &place.read(r, &y), &want, BOUND);
        }
    }
}

#[test]
fn layer_norm_into_writes_only_its_rows() {
    for place in places() {
        let mut rng = Rng::new(2);
        let (norm, weight, bias) = place.norm(&mut rng, 24, 1e-12, true);
        let (x, y0) = (rng.normals(6 * 24), rng.normals(9 * 24));
        let (source, start) = (place.tensor(6, 24, &x), place.tensor(9, 24, &y0));
        let mut r = place.recorder();
        let mut y = r.empty(9, 24);
        r.copy(&mut y, &start);
        r.layer_norm_into(&mut y.slice_rows(5, 2), &source.slice_rows(3, 2), &norm);
        let mut want = wide(&y0);
        let rows = oracle::norm::layer_norm(&wide(&x[3 * 24..5 * 24]), &weight, &bias, 1e-12);
        want[5 * 24..7 * 24].copy_from_slice(&rows);
        assert_close(place.name, &place.read(r, &y), &want, BOUND);
    }
}

/// A norm is of the columns there are, whatever the layer behind it reads.
#[test]
fn norms_before_layers_of_any_width_match_oracle() {
    for place in linear_places() {
        for (i, (m, n, k)) in [(1, 37, 101), (5, 8, 37), (21, 70, 250)].into_iter().enumerate() {
            let mut rng = Rng::new(i as u64);
            let (layer, w, b) = place.linear(&mut rng, n, k, true);
            let (norm, gain, _) = place.norm(&mut rng, k, 1e-5, false);
            let x = rng.normals(m * k);
            let tuning = Tuning { fuse_norm: true, ..place.caps.tuning };
            let mut r = Recorder::new(Caps { tuning, ..place.caps });
            let y = r.norm_linear(&place.tensor(m, k, &x), &norm, &layer);
            let normed = oracle::norm::rms_norm(&wide(&x), &gain, 1e-5);
            let want = place.product(WeightFormat::F16, &normed, &w, &b, (m, n, k));
            // Matrices round what they take, and the norm's last bit may decide how.
            let bound = choose(m, WeightFormat::F16, &place.caps).kernel.needs.bound(BOUND);
            assert_close(&format!("{} {m}x{n}x{k}", place.name), &place.read(r, &y), &want, bound);
        }
    }
}

#[test]
fn fit_columns_widens_with_zeros_and_cuts() {
    for place in places() {
        for (rows, groups, from, to) in [(1, 1, 1, 4), (3, 5, 37, 40), (7, 2, 40, 37), (300, 1, 250, 256), (2, 3, 8, 8)]
        {
            let x = Rng::new(3).normals((rows + 1) * groups * from);
            let mut r = place.recorder();
            let input = place.tensor(rows + 1, groups * from, &x).slice_rows(1, rows);
            // Where the result will lie, so that zeros are not there by chance.
            let mut before = r.empty(rows, groups * to);
            let ones = place.tensor(rows, groups * to, &vec![1.0; (rows * groups * to) as usize]);
            r.copy(&mut before, &ones);
            drop(before);
            let fitted = r.fit_columns(&input, from, to);
            let mut out = r.empty(rows, groups * to);
            r.copy(&mut out, &fitted);
            let row =
                |row: &[f32]| (0..to as usize).map(|c| row.get(c).map_or(0.0, |&v| v.into())).collect::<Vec<f64>>();
            let want: Vec<f64> = x[(groups * from) as usize..].chunks(from as usize).flat_map(row).collect();
            assert_close(&format!("{} {from} to {to}", place.name), &place.read(r, &out), &want, 0.0);
        }
    }
}

/// Columns `first ..` of packed rows.
fn columns(rows: &[f32], width: usize, first: usize, count: usize) -> Vec<f64> {
    rows.chunks(width).flat_map(|row| wide(&row[first..first + count])).collect()
}

#[test]
fn attention_matches_oracle_with_and_without_mask() {
    // Rows, heads, channels. A tile is 16 rows by 64 keys, in parts of 16 channels, or of 16 keys and 64 channels; the
    // three of many heads have tiles of 32 rows. 20 channels are not for the wide form.
    let shapes = [
        (1, 1, 8),
        (2, 3, 24),
        (5, 2, 12),
        (7, 2, 88),
        (9, 1, 256),
        (15, 1, 4),
        (16, 2, 64),
        (17, 1, 36),
        (31, 1, 100),
        (32, 1, 128),
        (33, 4, 80),
        (63, 1, 20),
        (64, 1, 68),
        (65, 1, 64),
        (66, 1, 132),
        (129, 1, 196),
        (257, 1, 88),
        (325, 1, 16),
        (15, 2, 88),
        (16, 3, 20),
        (17, 3, 20),
        (33, 128, 4),
        (65, 86, 20),
        (97, 64, 68),
        // Channels that no form reads as they are.
        (1, 1, 1),
        (9, 3, 5),
        (33, 2, 35),
        (65, 1, 255),
        (18, 64, 15),
    ];
    for place in attention_places() {
        for (i, (t, h, d)) in shapes.into_iter().enumerate().filter(|(i, _)| place.takes(*i)) {
            let mut rng = Rng::new(i as u64);
            let width = h * d;
            let qkv = rng.normals(t * 3 * width);
            let hidden: Vec<u32> = (0..t).map(|j| u32::from(j == 0 || j % 3 != 1)).collect();
            let (input, mask) = (place.tensor(t, 3 * width, &qkv), place.ids(&hidden));
            let heads = Heads::full(h, d);
            let mut r = place.recorder();
            let full = r.attention(&input, heads, Mask::None);
            let masked = r.attention(&input, heads, Mask::Keys(&mask));
            let plan = place.run(r, Step::default());
            let [q, k, v] = [0, 1, 2].map(|i| columns(&qkv, 3 * width as usize, i * width as usize, width as usize));
            let sizes = (h as usize, h as usize, d as usize);
            let label = format!("{} {t} rows, {h} heads of {d}", place.name);
            let read = |t: &Tensor| place.device.read::<f32>(&plan.output(t)).expect("a result");
            assert_close(&label, &read(&full), &oracle::attention::attention(&q, &k, &v, sizes, |_, _| true), BOUND);
            let want = oracle::attention::attention(&q, &k, &v, sizes, |_, j| hidden[j] != 0);
            assert_close(&format!("{label}, masked"), &read(&masked), &want, BOUND);
        }
    }
}

/// Which forms the rows above run in, so that each is compared.
#[test]
fn choice_of_attention_form_follows_channels_and_adapter() {
    let kernels = |caps: Caps, d: u32| {
        let (heads, kv) = (Heads::full(2, d), Tensor::unbacked(2 * 32, d));
        let kv = KvLayer { keys: kv.clone(), values: kv, capacity: 32 };
        let rows = |t| Rows { places: Tensor::unbacked(t, 2), pages: Tensor::unbacked(1, 32) };
        let mut r = Recorder::new(caps);
        r.attention(&Tensor::unbacked(17, 6 * d), heads, Mask::None);
        r.attention_cached(&Tensor::unbacked(17, 2 * d), &kv, heads, &rows(17), None);
        r.attention_cached(&Tensor::unbacked(1, 2 * d), &kv, heads, &rows(1), None);
        [0, 1, 2].map(|i: usize| r.dispatches()[i].kernel.name)
    };
    let software = |kernel: &str| format!("{kernel}_software");
    let preferred = |form| Caps { preferred: Some(form), ..Caps::SOFTWARE };
    let (tile, decode) = ("attention_tile", "attention_decode");
    let (wide_tile, wide_decode) = (software(tile), software(decode));
    for (caps, d, want) in [
        (Caps::SOFTWARE, 80, [&*wide_tile, &wide_tile, &wide_decode]),
        (Caps::SOFTWARE, 20, [tile, tile, decode]),
        (preferred(tile), 80, [tile, tile, &wide_decode]),
        (preferred(decode), 80, [&wide_tile, &wide_tile, decode]),
        (Caps::PORTABLE, 80, [tile, tile, decode]),
    ] {
        assert_eq!(kernels(caps, d), want, "{d} channels on {caps:?}");
    }
}

#[test]
fn attention_survives_large_scores() {
    for place in places() {
        let mut rng = Rng::new(1);
        let qkv: Vec<f32> = rng.normals(9 * 3 * 16).iter().map(|v| 60.0 * v).collect();
        let mut r = place.recorder();
        let out = r.attention(&place.tensor(9, 48, &qkv), Heads::full(1, 16), Mask::None);
        let [q, k, v] = [0, 1, 2].map(|i| columns(&qkv, 48, i * 16, 16));
        let want = oracle::attention::attention(&q, &k, &v, (1, 1, 16), |_, _| true);
        // Scores in the thousands carry an f32 rounding of 1e-4 into the exponent.
        assert_close(place.name, &place.read(r, &out), &want, 1e-3);
    }
}

#[test]
fn cross_attention_matches_oracle() {
    for place in places() {
        for (t, s, h, d) in [
            (32, 257, 2, 64),
            (1, 1, 1, 8),
            (5, 19, 3, 20),
            (17, 63, 1, 4),
            (16, 64, 2, 100),
            (40, 65, 128, 8),
            (5, 19, 3, 5),
            (17, 63, 1, 35),
        ] {
            let mut rng = Rng::new(4);
            let width = h * d;
            let (q, kv) = (rng.normals(t * width), rng.normals(s * 2 * width));
            let mut r = place.recorder();
            let out =
                r.cross_attention(&place.tensor(t, width, &q), &place.tensor(s, 2 * width, &kv), Heads::full(h, d));
            let [k, v] = [0, 1].map(|i| columns(&kv, 2 * width as usize, i * width as usize, width as usize));
            let want =
                oracle::attention::attention(&wide(&q), &k, &v, (h as usize, h as usize, d as usize), |_, _| true);
            assert_close(&format!("{} {t}x{s}", place.name), &place.read(r, &out), &want, BOUND);
        }
    }
}

/// Position s of a cache lies on this page: backwards, so that a kernel that forgets the table is found out.
fn page(capacity: u32, s: usize) -> usize {
    capacity as usize - 1 - s
}

/// `t` rows of one sequence over a cache of `capacity` pages.
fn rows(place: &Place, t: u32, capacity: u32) -> Rows {
    let places: Vec<u32> = (0..t).flat_map(|i| [i, 0]).collect();
    let pages: Vec<u32> = (0..capacity as usize).map(|s| page(capacity, s) as u32).collect();
    let places = place.device.tensor(Category::Io, "places", t, 2, &places).expect("a tensor");
    Rows { places, pages: place.ids(&pages) }
}

/// A cache holding `keys` and `values [len, g, d]`, laid out head by head, garbage on the other pages. What pages are
/// filled up with is zeros.
fn cache(place: &Place, heads: Heads, capacity: u32, keys: &[f32], values: &[f32]) -> KvLayer {
    let (g, d, stride) = (heads.key_value as usize, heads.dim as usize, heads.padded().dim as usize);
    let lay_out = |rows: &[f32]| {
        let mut out = [vec![1e9f32; d], vec![0.0; stride - d]].concat().repeat(g * capacity as usize);
        for (s, row) in rows.chunks(g * d).enumerate() {
            for (head, values) in row.chunks(d).enumerate() {
                out[(head * capacity as usize + page(capacity, s)) * stride..][..d].copy_from_slice(values);
            }
        }
        place.tensor(heads.key_value * capacity, heads.padded().dim, &out)
    };
    KvLayer { keys: lay_out(keys), values: lay_out(values), capacity }
}

#[test]
fn attention_cached_matches_oracle() {
    // New rows, position of the first, query heads, key-value heads, channels. One row takes the split form on a GPU.
    let shapes = [
        (1, 0, 1, 1, 8),
        (1, 5, 6, 2, 24),
        (1, 399, 4, 4, 128),
        (1, 700, 2, 1, 64),
        // In one share or several: no key but the row's own, part of a chunk, just one, just over one and over two.
        (1, 2, 1, 1, 4),
        (1, 14, 2, 2, 12),
        (1, 15, 2, 1, 20),
        (1, 62, 3, 3, 36),
        (1, 63, 2, 2, 80),
        (1, 64, 2, 2, 88),
        (1, 128, 128, 128, 4),
        (1, 130, 2, 1, 100),
        (1, 257, 2, 2, 256),
        (4, 0, 2, 2, 32),
        (7, 3, 6, 3, 88),
        (33, 310, 4, 1, 16),
        (5, 11, 1, 1, 256),
        (15, 0, 2, 2, 80),
        (16, 33, 4, 2, 80),
        (17, 31, 4, 2, 80),
        // Rows whose last keys are in a step of their own, or the last of one.
        (2, 62, 1, 1, 4),
        (2, 63, 2, 2, 100),
        (16, 48, 2, 1, 20),
        (17, 48, 2, 1, 36),
        (40, 90, 128, 2, 12),
        // Channels that no form reads as they are.
        (1, 5, 6, 2, 6),
        (1, 130, 2, 1, 35),
        (7, 3, 6, 3, 5),
        (17, 31, 1, 1, 255),
    ];
    for place in attention_places() {
        for (i, (t, pos, h, g, d)) in shapes.into_iter().enumerate().filter(|(i, _)| place.takes(*i)) {
            let mut rng = Rng::new(i as u64);
            let heads = Heads::grouped(h, g, d);
            let len = pos + t;
            let (q, k, v) = (rng.normals(t * h * d), rng.normals(len * g * d), rng.normals(len * g * d));
            let kv = cache(&place, heads, len + 9, &k, &v);
            let mut r = place.recorder();
            let out = r.attention_cached(&place.tensor(t, h * d, &q), &kv, heads, &rows(&place, t, len + 9), None);
            let plan = place.run(r, Step::new(pos, t));
            let got = place.device.read::<f32>(&plan.output(&out)).expect("a result");
            let sizes = (h as usize, g as usize, d as usize);
            let visible = |i: usize, j: usize| j <= pos as usize + i;
            let want = oracle::attention::attention(&wide(&q), &wide(&k), &wide(&v), sizes, visible);
            assert_close(&format!("{} {t} rows at {pos}, {heads:?}", place.name), &got, &want, BOUND);
        }
    }
}

/// Angles of `positions` positions for heads of `d` channels: cos and sin alternating.
fn angles(place: &Place, positions: u32, d: u32) -> Tensor {
    let angle = |p: u32, j: u32| f64::from(p) * THETA.powf(-2.0 * f64::from(j) / f64::from(d));
    let row = |p| (0..d / 2).flat_map(move |j| [angle(p, j).cos() as f32, angle(p, j).sin() as f32]);
    place.tensor(positions, d, &(0..positions).flat_map(row).collect::<Vec<_>>())
}

const THETA: f64 = 10_000.0;

/// Whether `q` and the new rows of an empty cache are those of `qkv`, from position `pos` on, and nothing else was
/// written.
fn assert_turned(label: &str, place: &Place, q: &[f32], kv: &KvLayer, qkv: &[f64], heads: Heads, pos: u32) {
    let Heads { query: h, key_value: g, dim: d, .. } = heads;
    let (width, capacity) = (((h + 2 * g) * d) as usize, kv.capacity);
    let t = (qkv.len() / width) as u32;
    let [want_q, want_k, want_v] = [(0, h), (h, g), (h + g, g)].map(|(first, n)| -> Vec<f64> {
        qkv.chunks(width).flat_map(|row| row[(first * d) as usize..][..(n * d) as usize].to_vec()).collect()
    });
    let rotated = |x: &[f64], n: u32| oracle::rope::rope(x, (n as usize, d as usize), pos as usize, THETA);
    assert_close(&format!("{label}: q"), q, &rotated(&want_q, h), BOUND);
    for (name, tensor, want) in [("k", &kv.keys, rotated(&want_k, g)), ("v", &kv.values, want_v)] {
        let stored = place.device.read::<f32>(tensor).expect("the cache");
        let stride = heads.padded().dim as usize;
        let at = |s: usize, head: usize| (head * capacity as usize + page(capacity, s)) * stride;
        let rows = (pos as usize..(pos + t) as usize).flat_map(|s| (0..g as usize).map(move |head| (s, head)));
        let got: Vec<f32> = rows.flat_map(|(s, head)| stored[at(s, head)..][..d as usize].to_vec()).collect();
        assert_close(&format!("{label}: {name}"), &got, &want, BOUND);
        let untouched = stored.iter().filter(|&&value| value == 1e9).count();
        assert_eq!(untouched, ((capacity - t) * g * d) as usize, "{label}: {name} elsewhere");
    }
}

#[test]
fn rope_store_rotates_and_fills_the_cache() {
    for place in places() {
        let shapes = [
            (1, 0, 1, 1, 8),
            (1, 511, 6, 2, 24),
            (7, 3, 2, 2, 32),
            (65, 100, 4, 1, 128),
            (7, 3, 6, 2, 6),
            (2, 1, 1, 1, 250),
        ];
        for (t, pos, h, g, d) in shapes {
            let mut rng = Rng::new(u64::from(pos));
            let heads = Heads::grouped(h, g, d);
            let capacity = pos + t + 2;
            let width = (h + 2 * g) * d;
            let qkv = rng.normals(t * width);
            let kv = cache(&place, heads, capacity, &[], &[]);
            let mut r = place.recorder();
            let turns = r.turns(&angles(&place, capacity, d), &rows(&place, t, capacity));
            let q = r.rope_store(&place.tensor(t, width, &qkv), &turns, &kv, heads);
            let plan = place.run(r, Step::new(pos, t));
            let q = place.device.read::<f32>(&plan.output(&q)).expect("q");
            assert_turned(&format!("{} {t} rows at {pos}", place.name), &place, &q, &kv, &wide(&qkv), heads, pos);
        }
    }
}

/// A norm, a linear layer, rotation and store as one dispatch of `linear_vec`, or as several where it cannot be.
#[test]
fn norm_rope_store_matches_oracle_in_one_dispatch_and_in_several() {
    // Rows, position of the first, inputs, query heads, key-value heads, channels.
    let shapes = [
        (1, 0, 64, 1, 1, 8),
        (1, 511, 96, 6, 2, 24),
        (1, 9, 32, 1, 1, 4),
        (2, 5, 160, 3, 1, 20),
        (5, 3, 1408, 2, 2, 64),
        (8, 30, 128, 2, 1, 128),
        (1, 2, 64, 4, 4, 6), // channels that no two pairs of neighbours hold
        (9, 1, 64, 2, 2, 16),
        (5, 3, 37, 2, 1, 8), // inputs that no kernel reads as they are
        (1, 7, 101, 3, 1, 10),
    ];
    for place in places() {
        for (i, (t, pos, k, h, g, d)) in shapes.into_iter().enumerate().filter(|(i, _)| place.takes(*i)) {
            for (f, form) in ["linear_vec", "linear_vec_subgroup", "linear_tile"].into_iter().enumerate() {
                let mut rng = Rng::new(200 + i as u64);
                let (heads, capacity) = (Heads::grouped(h, g, d), pos + t + 2);
                let format = WeightFormat::ALL[(i + f) % 3].for_cols(k);
                let (layer, w, _) = place.linear_in(format, &mut rng, (h + 2 * g) * d, k, false);
                let (norm, gain, _) = place.norm(&mut rng, k, 1e-5, false);
                let x = rng.normals(t * k);
                let vec_columns = if i % 2 == 0 { 4 } else { 8 };
                let tuning = Tuning { vec_columns, fuse_norm: true, ..place.caps.tuning };
                let kv = cache(&place, heads, capacity, &[], &[]);
                let mut r = Recorder::new(Caps { preferred: Some(form), tuning, ..place.caps });
                let turns = r.turns(&angles(&place, capacity, d), &rows(&place, t, capacity));
                let before = r.len();
                let q = r.norm_rope_store(&place.tensor(t, k, &x), &norm, &layer, &turns, &kv, heads);
                let vec = form != "linear_tile";
                let expected = match k % 8 {
                    0 if vec => 1 + usize::from(d % 4 != 0),
                    0 => 3,
                    _ => 4,
                };
                let label = format!("{} {form} {format} {t}x{k} at {pos}, {heads:?}", place.name);
                // A device without subgroups of one size takes its usual form.
                if form != "linear_vec_subgroup" || place.caps.subgroup_size.is_some() {
                    assert_eq!(r.len() - before, expected, "{label}: dispatches");
                }
                let plan = place.run(r, Step::new(pos, t));
                let q = place.device.read::<f32>(&plan.output(&q)).expect("q");
                let normed = oracle::norm::rms_norm(&wide(&x), &gain, 1e-5);
                let n = layer.weight.rows as usize;
                let qkv = oracle::linear::linear(&normed, &w, &[], t as usize, n, k as usize);
                assert_turned(&label, &place, &q, &kv, &qkv, heads, pos);
            }
        }
    }
}

/// Rows of sequences that share pages, at positions of their own, as beams and batches are decoded.
#[test]
fn rows_of_several_sequences_see_their_own_keys() {
    for place in places() {
        for (h, g, d, capacity) in [(1, 1, 8, 40), (6, 2, 24, 40), (4, 4, 128, 40), (6, 2, 20, 150), (6, 2, 5, 150)] {
            let mut rng = Rng::new(u64::from(h));
            let (heads, lens) = (Heads::grouped(h, g, d), [1usize, 7, capacity as usize - 10]);
            let (k, v) = (rng.normals(capacity * g * d), rng.normals(capacity * g * d));
            let q = rng.normals(3 * h * d);
            let kv = cache(&place, heads, capacity, &k, &v);
            // Sequence i has its keys where another permutation says.
            let at = |i: usize, s: usize| (s * 7 + i * 3) % capacity as usize;
            let table: Vec<u32> =
                (0..3).flat_map(|i| (0..capacity as usize).map(move |s| page(capacity, at(i, s)) as u32)).collect();
            let places: Vec<u32> = lens.iter().zip(0u32..).flat_map(|(&len, i)| [len as u32 - 1, i]).collect();
            let tensor = |rows, cols, values: &[u32]| {
                place.device.tensor(Category::Io, "table", rows, cols, values).expect("a tensor")
            };
            let rows = Rows { places: tensor(3, 2, &places), pages: tensor(3, capacity, &table) };
            let lengths: Vec<u32> = lens.iter().zip(0u32..).flat_map(|(&len, i)| [len as u32 + 2, i]).collect();
            let cross = Rows { places: tensor(3, 2, &lengths), pages: rows.pages.clone() };
            let mut r = place.recorder();
            let input = place.tensor(3, h * d, &q);
            let out = r.attention_cached(&input, &kv, heads, &rows, None);
            let crossed = r.cross_attention_cached(&input, &kv, heads, &cross);
            let plan = place.run(r, Step::new(2, 1));
            for (name, tensor) in [("own", &out), ("cross", &crossed)] {
                let got = place.device.read::<f32>(&plan.output(tensor)).expect("a result");
                for (i, &len) in lens.iter().enumerate() {
                    let gather = |x: &[f32]| -> Vec<f64> {
                        let width = (g * d) as usize;
                        (0..len + 2).flat_map(|s| wide(&x[at(i, s) * width..][..width])).collect()
                    };
                    let width = (h * d) as usize;
                    let sizes = (h as usize, g as usize, d as usize);
                    let row = wide(&q[i * width..][..width]);
                    let want = oracle::attention::attention(&row, &gather(&k), &gather(&v), sizes, |_, _| true);
                    let label = format!("{} {name} row {i}, {heads:?}", place.name);
                    assert_close(&label, &got[i * width..][..width], &want, BOUND);
                }
            }
        }
    }
}

/// Keys may be hidden for longer than a step of the kernel takes, and from its first on; without any, there are zeros.
#[test]
fn a_mask_may_hide_a_step_of_keys_or_all() {
    for place in places() {
        for (shown, (t, h, d)) in
            [(80..90u32, (90, 2, 12)), (0..1, (150, 2, 20)), (0..0, (90, 1, 8)), (70..71, (71, 1, 8))]
        {
            let width = h * d;
            let qkv = Rng::new(9).normals(t * 3 * width);
            let seen: Vec<u32> = (0..t).map(|j| u32::from(shown.contains(&j))).collect();
            let mut r = place.recorder();
            let input = place.tensor(t, 3 * width, &qkv);
            let out = r.attention(&input, Heads::full(h, d), Mask::Keys(&place.ids(&seen)));
            let got = place.read(r, &out);
            let [q, k, v] = [0, 1, 2].map(|i| columns(&qkv, 3 * width as usize, i * width as usize, width as usize));
            let want = match shown.is_empty() {
                true => vec![0.0; (t * width) as usize],
                false => {
                    oracle::attention::attention(&q, &k, &v, (h as usize, h as usize, d as usize), |_, j| seen[j] != 0)
                }
            };
            assert_close(&format!("{} {shown:?} of {t} keys", place.name), &got, &want, BOUND);
        }
    }
}

/// A row that sees no key at all gives zeros, in one share and in several; so do the keys that the other shares lack.
#[test]
fn rows_without_keys_give_zeros() {
    for place in places() {
        for capacity in [30u32, 300] {
            let (heads, width) = (Heads::full(3, 20), 60);
            let mut rng = Rng::new(8);
            let (q, k, v) = (rng.normals(2 * width), rng.normals(capacity * width), rng.normals(capacity * width));
            let kv = cache(&place, heads, capacity, &k, &v);
            // The first row sees one key, the second none.
            let places = place.device.tensor(Category::Io, "places", 2, 2, &[1u32, 0, 0, 0]).expect("a tensor");
            let rows = Rows { places, pages: rows(&place, 2, capacity).pages };
            let mut r = place.recorder();
            let out = r.cross_attention_cached(&place.tensor(2, width, &q), &kv, heads, &rows);
            let mut want = wide(&v[..width as usize]);
            want.resize(2 * width as usize, 0.0);
            assert_close(&format!("{} {capacity} pages", place.name), &place.read(r, &out), &want, BOUND);
        }
    }
}

/// Shares of at least a chunk of keys, and none where rows and heads fill a GPU: then nothing has to be joined.
#[test]
fn shares_of_the_keys_follow_the_room_and_the_rows() {
    let eight = Caps { tuning: Tuning { decode_splits: 8, ..Caps::PORTABLE.tuning }, ..Caps::PORTABLE };
    let sixteen = Caps { tuning: Tuning { decode_splits: 16, ..eight.tuning }, ..eight };
    for (caps, rows, heads, keys, shares) in [
        (eight, 1, 32, 1, 1),
        (eight, 1, 32, 64, 1),
        (eight, 1, 32, 65, 2),
        (eight, 1, 32, 300, 5),
        (eight, 1, 32, 2048, 8),
        (sixteen, 1, 32, 2048, 16),
        (eight, 3, 32, 300, 5),
        (eight, 4, 32, 300, 1),
        (eight, 5, 32, 2048, 1),
        (Caps::SOFTWARE, 1, 32, 2048, 1),
    ] {
        let mut r = Recorder::new(caps);
        let unbacked = |pages| KvLayer {
            keys: Tensor::unbacked(heads * pages, 64),
            values: Tensor::unbacked(heads * pages, 64),
            capacity: pages,
        };
        let at = Rows { places: Tensor::unbacked(rows, 2), pages: Tensor::unbacked(rows, keys) };
        let q = Tensor::unbacked(rows, heads * 64);
        r.attention_cached(&q, &unbacked(keys), Heads::full(heads, 64), &at, None);
        let grids: Vec<[u32; 3]> = r.dispatches().iter().map(|d| d.grid).collect();
        let what = format!("{rows} rows of {heads} heads over {keys} keys");
        assert_eq!(grids[0], [heads, shares, rows], "{what}");
        assert_eq!(grids.len(), if shares > 1 { 2 } else { 1 }, "{what}");
    }
}

/// Tiles of 32 rows where they are enough to keep a GPU busy, else of 16.
#[test]
fn tiles_of_attention_follow_rows_and_heads() {
    for (caps, rows, heads, tiles) in [
        (Caps::PORTABLE, 257, 16, 17),
        (Caps::PORTABLE, 44, 12, 3),
        (Caps::PORTABLE, 224, 32, 14),
        (Caps::PORTABLE, 225, 32, 8),
        (Caps::PORTABLE, 577, 16, 19),
        (Caps::SOFTWARE, 577, 16, 37),
    ] {
        let mut r = Recorder::new(caps);
        r.attention(&Tensor::unbacked(rows, 3 * heads * 64), Heads::full(heads, 64), Mask::None);
        assert_eq!(r.dispatches()[0].grid, [tiles, heads, 1], "{rows} rows of {heads} heads");
    }
}

/// Scores without scale, with a bias by distance that is clamped, in every form: T5's attention.
#[test]
fn biased_attention_matches_oracle() {
    for place in places() {
        for (t, pos, h, d, far) in [
            (1, 0, 1, 8, 4),
            (1, 30, 3, 24, 9),
            (9, 0, 2, 16, 3),
            (40, 0, 2, 64, 128),
            (70, 0, 90, 12, 40),
            (1, 30, 3, 5, 9),
            (9, 0, 2, 35, 3),
        ] {
            let mut rng = Rng::new(u64::from(t + pos));
            let (width, len) = (h * d, pos + t);
            let heads = Heads::full(h, d).unscaled();
            let bias = rng.normals((2 * far + 1) * h);
            let table = place.tensor(2 * far + 1, h, &bias);
            let small: Vec<f32> = rng.normals(len * 3 * width).iter().map(|v| v / (d as f32).sqrt()).collect();
            let [q, k, v] = [0, 1, 2].map(|i| columns(&small, 3 * width as usize, i * width as usize, width as usize));
            let added = |i: usize, j: usize, head: usize| {
                let distance = (j as i32 - i as i32).clamp(-(far as i32), far as i32) + far as i32;
                f64::from(bias[distance as usize * h as usize + head])
            };
            let sizes = (h as usize, h as usize, d as usize);
            let label = format!("{} {t} rows at {pos}", place.name);
            if pos == 0 {
                let mut r = place.recorder();
                let input = place.tensor(t, 3 * width, &small);
                let out = r.attention_biased(&input, heads, Mask::None, Some(&table));
                let want = oracle::attention::biased(&q, &k, &v, sizes, 1.0, |_, _| true, added);
                assert_close(&format!("{label}, full"), &place.read(r, &out), &want, BOUND);
            }
            let narrow = |x: &[f64]| x.iter().map(|&v| v as f32).collect::<Vec<f32>>();
            let kv = cache(&place, heads, len + 3, &narrow(&k), &narrow(&v));
            let queries = &q[(pos * width) as usize..];
            let mut r = place.recorder();
            let input = place.tensor(t, width, &narrow(queries));
            let out = r.attention_cached(&input, &kv, heads, &rows(&place, t, len + 3), Some(&table));
            let plan = place.run(r, Step::new(pos, t));
            let got = place.device.read::<f32>(&plan.output(&out)).expect("a result");
            let pos = pos as usize;
            let want = oracle::attention::biased(
                queries,
                &k,
                &v,
                sizes,
                1.0,
                |i, j| j <= pos + i,
                |i, j, head| added(pos + i, j, head),
            );
            assert_close(&format!("{label}, cached"), &got, &want, BOUND);
        }
    }
}

/// What attention weighs values by comes out as a tap, and weighs them to the output.
#[test]
fn attention_weights_are_taps() {
    for (place, d) in places().into_iter().flat_map(|place| [(place.clone(), 20), (place, 5)]) {
        let (t, s, h) = (5u32, 19u32, 3u32);
        let (heads, width) = (Heads::full(h, d), h * d);
        let mut rng = Rng::new(3);
        let (q, k, v) = (rng.normals(t * width), rng.normals(s * width), rng.normals(s * width));
        let packed: Vec<f32> =
            k.chunks(width as usize).zip(v.chunks(width as usize)).flat_map(|(k, v)| [k, v].concat()).collect();
        let kv = cache(&place, heads, s, &k, &v);
        let labels =
            ["cross_attention", "cross_attention_cached", "attention_cached"].map(|op| format!("test.{op}.weights"));
        let mut r = place.recorder().with_taps(&labels);
        r.scope("test", |r| {
            let queries = place.tensor(t, width, &q);
            r.cross_attention(&queries, &place.tensor(s, 2 * width, &packed), heads);
            r.cross_attention_cached(&queries, &kv, heads, &rows(&place, t, s));
            // A step's row at the end sees all keys, too.
            r.attention_cached(&queries.slice_rows(0, 1), &kv, heads, &rows(&place, 1, s), None);
        });
        let plan = place.run(r, Step::new(s - 1, 1));
        for ((label, tensor), (want_label, t)) in plan.taps().iter().zip(labels.iter().zip([t, t, 1])) {
            assert_eq!((label, tensor.rows(), tensor.cols()), (want_label, h * t, s));
            let got = place.device.read::<f32>(tensor).expect("weights");
            // Weights are the attention over values that are a unit vector for each key.
            for head in 0..h as usize {
                let of_head = |x: &[f32]| columns(x, width as usize, head * d as usize, d as usize);
                let want = oracle::attention::weights(&of_head(&q[..(t * width) as usize]), &of_head(&k), d as usize);
                let got = &got[head * (t * s) as usize..][..(t * s) as usize];
                assert_close(&format!("{} {label} head {head}", place.name), got, &want, BOUND);
            }
        }
    }
}

#[test]
fn store_fills_the_cache_as_it_is() {
    for place in places() {
        for (t, pos, h, d) in [(1, 0, 1, 8), (7, 3, 3, 24), (33, 100, 2, 80), (7, 3, 3, 5)] {
            let mut rng = Rng::new(u64::from(t));
            let (heads, capacity, width) = (Heads::full(h, d), pos + t + 2, h * d);
            let qkv = rng.normals(t * 3 * width);
            let kv = cache(&place, heads, capacity, &[], &[]);
            let mut r = place.recorder();
            r.store(&place.tensor(t, 3 * width, &qkv), &kv, heads, &rows(&place, t, capacity));
            place.run(r, Step::new(pos, t));
            for (part, tensor) in [(1, &kv.keys), (2, &kv.values)] {
                let stored = place.device.read::<f32>(tensor).expect("the cache");
                for i in 0..t as usize {
                    for head in 0..h as usize {
                        let stride = heads.padded().dim as usize;
                        let at = (head * capacity as usize + page(capacity, pos as usize + i)) * stride;
                        let from = (i * 3 + part) * width as usize + head * d as usize;
                        assert_eq!(stored[at..][..d as usize], qkv[from..][..d as usize], "{} row {i}", place.name);
                    }
                }
                let untouched = stored.iter().filter(|&&value| value == 1e9).count();
                assert_eq!(untouched, ((capacity - t) * width) as usize, "{}: elsewhere", place.name);
            }
        }
    }
}

#[test]
fn positions_are_added_where_rows_stand() {
    for place in places() {
        let (t, d, positions) = (3u32, 40u32, 12u32);
        let mut rng = Rng::new(8);
        let (x, table) = (rng.normals(t * d), rng.normals((positions + 2) * d));
        let mut r = place.recorder();
        let input = place.tensor(t, d, &x);
        let mut sum = r.scaled(&input, -0.5);
        let whole = place.tensor(positions + 2, d, &table);
        r.add_positions(&mut sum, &whole.slice_rows(2, positions), &rows(&place, t, positions));
        let plan = place.run(r, Step::new(5, t));
        let got = place.device.read::<f32>(&plan.output(&sum)).expect("a result");
        let want: Vec<f64> = (0..(t * d) as usize)
            .map(|i| -0.5 * f64::from(x[i]) + f64::from(table[(2 + 5) * d as usize + i]))
            .collect();
        assert_close(place.name, &got, &want, BOUND);
    }
}

#[test]
fn embed_gathers_rows() {
    for place in places() {
        for (rows, d, ids) in [
            (1, 8, vec![0]),
            (640, 192, vec![639, 0, 5, 5]),
            (7, 136, vec![6, 3]),
            (101, 37, vec![100, 3]),
            (3, 1, vec![2, 1]),
        ] {
            let mut rng = Rng::new(9);
            let (table, w, _) = place.linear(&mut rng, rows, d, false);
            let mut r = place.recorder();
            let out = r.embed(&place.ids(&ids), &table.weight);
            let want: Vec<f64> = ids.iter().flat_map(|&id| w[(id * d) as usize..][..d as usize].to_vec()).collect();
            assert_close(place.name, &place.read(r, &out), &want, 0.0);
        }
    }
}

#[test]
fn put_rows_replaces_the_indexed_rows() {
    for place in places() {
        let mut rng = Rng::new(8);
        let (base, rows) = (rng.normals(9 * 40), rng.normals(5 * 40));
        let index = [8, 0, 3];
        let mut r = place.recorder();
        let mut out = r.empty(9, 40);
        r.copy(&mut out, &place.tensor(9, 40, &base));
        r.put_rows(&mut out, &place.tensor(5, 40, &rows).slice_rows(2, 3), &place.ids(&index));
        let mut want = wide(&base);
        for (i, &to) in index.iter().enumerate() {
            want[to as usize * 40..][..40].copy_from_slice(&wide(&rows[(2 + i) * 40..][..40]));
        }
        assert_close(place.name, &place.read(r, &out), &want, 0.0);
    }
}

#[test]
fn copy_and_add_work_on_any_rows() {
    for place in places() {
        for (rows, cols) in [(1, 1), (3, 7), (65, 64), (300, 257)] {
            let mut rng = Rng::new(6);
            let (x, y0) = (rng.normals(rows * cols), rng.normals(rows * cols));
            let (input, start) = (place.tensor(rows, cols, &x), place.tensor(rows, cols, &y0));
            let mut r = place.recorder();
            let mut y = r.empty(rows, cols);
            r.copy(&mut y, &start);
            let first = rows / 2;
            r.add(&mut y.slice_rows(first, rows - first), &input.slice_rows(first, rows - first));
            let from = (first * cols) as usize;
            let add = |(i, y): (usize, &f32)| if i >= from { y + x[i] } else { *y };
            let want: Vec<f64> = y0.iter().enumerate().map(add).map(f64::from).collect();
            assert_close(place.name, &place.read(r, &y), &want, 0.0);
        }
    }
}

#[test]
fn patches_are_ordered_as_the_convolution_wants_them() {
    for place in places() {
        // Height, width, patch: square, oblong, with pixels left over at both edges.
        for (height, width, p) in [(28, 28, 14), (8, 24, 8), (45, 31, 14), (3, 3, 1)] {
            let pixels = Rng::new(1).normals(3 * height * width);
            let mut r = place.recorder();
            let out = r.patches(&place.tensor(3 * height, width, &pixels), p);
            let size = (height as usize, width as usize);
            let want = oracle::patch_embed::patches(&wide(&pixels), size, p as usize);
            assert_close(&format!("{} {height}x{width}/{p}", place.name), &place.read(r, &out), &want, 0.0);
        }
    }
}

#[test]
fn argmax_takes_the_lowest_of_equals() {
    for place in places() {
        for n in [1, 2, 7, 255, 256, 257, 32_064] {
            let mut rng = Rng::new(u64::from(n));
            let mut x: Vec<f32> = rng.normals(3 * n).iter().map(|v| v.min(3.0)).collect();
            // Ties of the largest value, the first at a random column; all values negative in the last row.
            let lowest = rng.below(n);
            x[lowest as usize] = 9.0;
            x[(n - 1) as usize] = 9.0;
            x[2 * n as usize..].iter_mut().for_each(|v| *v -= 100.0);
            let out = place.ids(&[77, 77, 77]);
            let mut r = place.recorder();
            r.argmax(&mut out.clone(), &place.tensor(3, n, &x));
            place.run(r, Step::default());
            let want = oracle::argmax::argmax(&wide(&x), n as usize);
            assert_eq!(want[0], lowest);
            assert_eq!(place.device.read::<u32>(&out).expect("ids"), want, "{} {n} columns", place.name);
        }
    }
}

/// Rows of numbers without order, in order, of few different numbers (zeros of both signs among them), of one, and with
/// what are no numbers: gathered at once, after halving values, and after halving columns.
#[test]
fn top_k_gives_the_largest_in_order() {
    for place in places() {
        for (n, k) in [
            (1, 1),
            (2, 1),
            (7, 7),
            (255, 64),
            (256, 256),
            (257, 64),
            (640, 64),
            (5000, 256),
            (32_064, 64),
            (256_000, 64),
        ] {
            let mut rng = Rng::new(u64::from(n + k));
            let first: Vec<f32> = rng.normals(n);
            let mut falling = first.clone();
            falling.sort_by(|a, b| b.total_cmp(a));
            let few: Vec<f32> = first.iter().map(|v| v.round()).collect();
            // The largest values all in one group, more of them than can be gathered.
            let crowded: Vec<f32> =
                (0..n).map(|i| if i % 256 < 70 { 1e6 + first[i as usize] } else { first[i as usize] }).collect();
            let mut odd = first.clone();
            for value in [f32::NEG_INFINITY, f32::INFINITY, -f32::NAN, f32::NAN, f32::from_bits(1), f32::MAX, f32::MIN]
            {
                odd[rng.below(n) as usize] = value;
            }
            let rows = [first.clone(), falling, few, crowded, odd, vec![-0.25; n as usize], vec![f32::NAN; n as usize]];
            let x = rows.concat();
            let whole = place.tensor(8, n, &[first, x.clone()].concat());
            let mut r = place.recorder();
            // Where the result will lie, so that none of an earlier one is left.
            let mut before = r.empty(7, 2 * k);
            r.copy(&mut before, &place.tensor(7, 2 * k, &vec![1.0; 14 * k as usize]));
            drop(before);
            let out = r.top_k(&whole.slice_rows(1, 7), k);
            let plan = place.run(r, Step::default());
            let got = place.device.read::<u32>(&plan.output(&out)).expect("pairs");
            let want = oracle::top_k::top_k(&x, n as usize, k as usize);
            let off = got.iter().zip(&want).position(|(got, want)| got != want);
            assert!(got == want, "{} {k} of {n}: word {off:?}, {} a row", place.name, 2 * k);
        }
    }
}

#[test]
fn fill_is_deterministic_spread_and_in_range() {
    for place in places() {
        let table = |seed| {
            let matrix = Matrix::uninit(&place.device, "test", 64, 64, WeightFormat::F16).expect("a matrix");
            let mut r = place.recorder();
            r.fill(&matrix, seed, 0.5);
            let rows = r.embed(&place.ids(&(0..64).collect::<Vec<_>>()), &matrix);
            place.read(r, &rows)
        };
        let values = table(1);
        assert_eq!(values, table(1));
        assert_ne!(values, table(2));
        assert!(values.iter().all(|v| v.abs() <= 0.5));
        let mean = values.iter().sum::<f32>() / 4096.0;
        let deviation = (values.iter().map(|v| v * v).sum::<f32>() / 4096.0).sqrt();
        assert!(mean.abs() < 0.02 && (deviation - 0.2887).abs() < 0.01, "mean {mean}, deviation {deviation}");
    }
}

/// The same forms with and without the driver-independent checks give the same bits.
#[test]
fn checked_and_trusted_shaders_agree_to_the_bit() {
    let (Some(trusted), Some(checked)) = (support::shared_device(), support::checked_device()) else { return };
    let run = |device: &Device, caps: Caps| {
        let place = Place { name: "", caps, device: Arc::new(device.clone().into()) };
        let mut rng = Rng::new(12);
        let (layer, ..) = place.linear(&mut rng, 3 * 88, 88, true);
        let (norm, ..) = place.norm(&mut rng, 88, 1e-6, true);
        let x = place.tensor(37, 88, &rng.normals(37 * 88));
        let mut r = place.recorder();
        let h = r.layer_norm(&x, &norm);
        let qkv = r.linear_act(&h, &layer, Activation::Gelu);
        let out = r.attention(&qkv, Heads::full(1, 88), Mask::None);
        let one = r.linear(&out.slice_rows(36, 1), &layer);
        let plan = place.run(r, Step::default());
        let read = |t: &Tensor| device.read::<u32>(&plan.output(t)).expect("bits");
        (read(&out), read(&one))
    };
    let matrix = Caps { class: AdapterClass::Gpu, ..trusted.caps() };
    for caps in [trusted.caps(), matrix, Caps::PORTABLE] {
        assert_eq!(run(&trusted, caps), run(&checked, caps));
    }
}

#[test]
fn choice_of_linear_form_follows_rows_and_adapter() {
    let gpu = Caps { subgroup_size: Some(32), ..Caps::PORTABLE };
    let plain_cpu = Caps { class: AdapterClass::Cpu, subgroup_size: None, ..Caps::PORTABLE };
    let named = |name| Caps { preferred: Some(name), ..gpu };
    let matrix = |size| Caps { matrix: Some(size), ..gpu };
    // A processor's matrices run where they are asked for.
    let software = Caps { matrix: Some(MatrixSize::Eight), ..Caps::SOFTWARE };
    for (m, caps, kernel, workgroup) in [
        (1, Caps::PORTABLE, "linear_vec", Some(64)),
        (8, Caps::PORTABLE, "linear_vec", Some(64)),
        (4, gpu, "linear_vec_subgroup", Some(32)),
        (9, gpu, "linear_tile", None),
        (15, matrix(MatrixSize::Sixteen), "linear_tile", None),
        (16, matrix(MatrixSize::Sixteen), "linear_matrix16", Some(128)),
        (257, matrix(MatrixSize::Eight), "linear_matrix8", Some(192)),
        (257, software, "linear_tile_software", None),
        (257, Caps { preferred: Some("linear_matrix8"), ..software }, "linear_matrix8", Some(48)),
        (257, Caps::PORTABLE, "linear_tile", None),
        (2, Caps::SOFTWARE, "linear_vec_software", None),
        (9, Caps::SOFTWARE, "linear_tile_software", None),
        (9, Caps::SOFTWARE.portable(), "linear_tile", None),
        (64, plain_cpu, "linear_tile", None),
        (64, named("linear_vec"), "linear_vec", Some(64)),
        (1, named("linear_tile"), "linear_tile", None),
        // What cannot run here is not run.
        (1, named("linear_tile_software"), "linear_vec_subgroup", Some(32)),
    ] {
        let form = choose(m, WeightFormat::F16, &caps);
        assert_eq!((form.kernel.name, form.workgroup), (kernel, workgroup), "{m} rows on {caps:?}");
        for (format, suffix) in [(WeightFormat::Q8, "_q8"), (WeightFormat::Q4, "_q4")] {
            let form = choose(m, format, &caps);
            assert_eq!((form.kernel.name, form.workgroup), (format!("{kernel}{suffix}").as_str(), workgroup));
        }
    }
    let one = |format| choose(1, format, &Caps::SOFTWARE).kernel.name;
    assert_eq!((one(WeightFormat::F16), one(WeightFormat::Q4)), ("linear_vec_software", "linear_vec_subgroup_q4"));
    for (m, tile) in
        [(16, (32, 128)), (32, (32, 128)), (33, (64, 64)), (96, (96, 64)), (257, (96, 64)), (300, (64, 64))]
    {
        let form = choose(m, WeightFormat::F16, &matrix(MatrixSize::Sixteen));
        assert_eq!((form.rows, form.columns), tile, "{m} rows");
    }
}
