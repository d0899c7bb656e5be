//! Every case of the lab's tables that a self-test leaves to the tests, in every kernel form; how forms are chosen; and
//! rounding.
//!
//! Forms meant for GPUs run on a software adapter too: a form is chosen by the recorder's `Caps`, not by the device. The
//! cases of a self-test are run as a user runs them, by `tests/program/checkup.rs`.

use std::collections::BTreeSet;

use crate::support::{self, Lent, Rng};
use instructblip::DeviceOptions;
use instructblip::lab::operands::{Known, Operands};
use instructblip::lab::oracle::{self, wide};
use instructblip::lab::selftest::{self, Target};
use instructblip::lab::{Case, Depth, cases};
use instructblip::runtime::ops::linear::{Blocks, Shape, choose, forms};
use instructblip::runtime::{
    Activation, AdapterClass, Caps, Category, CustomKernel, Device, Heads, KvFormat, KvLayer, Linear, Mask, Matrix,
    MatrixSize, Norm, Recorder, Rotary, Rows, Tensor, Tuning, WeightFormat,
};

/// Runs these cases with kernels chosen by `caps`; all must be right.
fn check(
    device: Option<Lent>,
    form: &'static str,
    caps: impl Fn(Caps) -> Caps,
    cases: &[Case],
) -> BTreeSet<&'static str> {
    let Some(device) = device else { return BTreeSet::new() };
    let target = Target { form, caps: caps(device.caps()), device: (*device).clone() };
    let outcome = selftest::run(cases, &[target], "", &mut |_| {});
    assert!(outcome.ended.is_none(), "{:?}", outcome.ended);
    let wrong: Vec<_> = outcome.rows.iter().filter(|row| !row.ok()).collect();
    assert!(wrong.is_empty() && outcome.rows.len() > 10, "{form}: of {}: {wrong:#?}", outcome.rows.len());
    outcome.rows.iter().flat_map(|row| row.kernels.iter().copied()).collect()
}

/// Cases whose operation contains `op`.
fn ragged(op: &str) -> Vec<Case> {
    let mut cases = cases::of(Depth::Ragged);
    cases.retain(|case| case.op.contains(op));
    cases
}

#[test]
fn ragged_cases_are_right_in_the_devices_own_forms() {
    check(support::shared_device(), "own", |caps| caps, &ragged(""));
}

#[test]
fn ragged_cases_are_right_in_portable_forms_under_default_limits() {
    check(support::portable_device(), "portable", |_| Caps::PORTABLE, &ragged(""));
}

/// Every third of these cases: alignments and sizes of every kind.
fn third(cases: Vec<Case>) -> Vec<Case> {
    cases.into_iter().step_by(3).collect()
}

/// Checks change what a driver gets, not what a kernel computes, and their shaders take the longest to compile: they take
/// every third case.
#[test]
fn ragged_cases_are_right_in_checked_shaders() {
    check(support::checked_device(), "checked", |_| Caps::PORTABLE, &third(ragged("")));
}

/// Vulkan's drivers do without looking after indices where that was asked for and our kernels alone run.
#[test]
fn kernels_are_right_without_robust_access() {
    let bare = DeviceOptions { robust_access: Some(false), ..Default::default() };
    let Some(device) = support::device_with(&bare) else { return };
    let backend = device.name().contains("(Vulkan");
    assert_eq!(device.caps().tuning.robust_access, !backend, "{}", device.name());
    check(Some(device), "without robust access", |caps| caps, &cases::of(Depth::Quick));
    let custom = CustomKernel::of("argmax", "argmax.wgsl", include_str!("../../shaders/argmax.wgsl")).expect("ours");
    for options in [
        DeviceOptions { checked: true, ..bare.clone() },
        DeviceOptions { portable: true, ..bare.clone() },
        DeviceOptions { custom, trusts_custom: true, ..bare },
    ] {
        let device = support::device_with(&options).expect("it was there before");
        assert!(device.caps().tuning.robust_access, "{options:?}");
    }
}

/// The forms of attention for GPUs on a device that has others. Where the last workgroup adds up shares is seen here alone;
/// the other two run all cases as portable forms, and so every third here.
#[test]
fn attention_is_right_in_forms_that_are_preferred() {
    let cases = || {
        let mut cases = cases::all();
        cases.retain(|case| case.depth < Depth::Published && case.op.contains("attention"));
        cases
    };
    for (form, cases) in
        [("attention_tile", third(cases())), ("attention_decode", third(cases())), ("attention_decode_shares", cases())]
    {
        let preferred = |caps| Caps { preferred: Some(form), ..caps };
        check(support::shared_device(), form, preferred, &cases);
    }
}

/// A software adapter runs a GPU's forms by pretence, those by matrices where it multiplies them.
#[test]
fn ragged_cases_are_right_in_the_forms_of_a_gpu() {
    let Some(device) = support::shared_device() else { return };
    if device.caps().class == AdapterClass::Gpu {
        return;
    }
    let wanted: &[&str] = match device.caps() {
        Caps { matrix: Some(_), .. } => &["linear_matrix", "attention_matrix"],
        Caps { subgroup_size: Some(_), .. } => {
            eprintln!("NOT RUN: forms by matrices: {} has no cooperative matrices", device.name());
            &["linear_vec_subgroup"]
        }
        _ => &["linear_vec"],
    };
    let kernels = check(Some(device), "as on a GPU", |caps| Caps { class: AdapterClass::Gpu, ..caps }, &ragged(""));
    for form in wanted {
        assert!(kernels.iter().any(|kernel| kernel.starts_with(form)), "{kernels:?}");
    }
}

/// `doctor` runs the quick cases only: they reach every kernel that is in a plan of the models.
#[test]
fn quick_cases_reach_every_kernel_that_models_run() {
    let plans = crate::rooms::files("tests/golden/plans", "txt");
    for (caps, name) in [(Caps::PORTABLE, "portable"), (Caps::SOFTWARE, "software")] {
        let mut quick: BTreeSet<&str> = BTreeSet::new();
        for case in cases::of(Depth::Quick) {
            quick.extend(case.unbacked(caps).expect("a recording").dispatches().iter().map(|d| d.kernel.name));
        }
        let of_caps = plans.iter().filter(|(path, _)| path.to_string_lossy().ends_with(&format!("-{name}.txt")));
        let lines = of_caps.flat_map(|(_, text)| text.lines().skip(1));
        let kernels: BTreeSet<&str> = lines.filter_map(|line| line.split_whitespace().nth(1)).collect();
        assert!(kernels.len() > 5 && kernels.is_subset(&quick), "{name}: {kernels:?} without {quick:?}");
    }
}

/// Rounding loses so much against the values before: of Gaussian weights, and of weights a hundredth of which are twenty
/// times as large. `cargo test --test library ops::rounding -- --nocapture` prints the table.
#[test]
fn rounding_weights_loses_what_the_table_says() {
    println!("{:<28} {:>10} {:>10} {:>12}", "weights [256, 4096]", "weights", "largest", "y of 8 rows");
    for (name, outliers) in [("Gaussian", false), ("with outliers", true)] {
        let mut random = Rng::new(5);
        let (rows, k) = (256, 4096);
        let value =
            |i: u32, random: &mut Rng| random.normal() * if outliers && i.is_multiple_of(100) { 20.0 } else { 1.0 };
        let values: Vec<f32> = (0..rows * k).map(|i| value(i, &mut random)).collect();
        let x = wide(&random.normals(8 * k));
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
fn gelu_is_close_far_out() {
    // A single weight of one makes the layer the activation itself.
    use oracle::elementwise::{gelu, gelu_tanh, silu};
    for device in [support::shared_device(), support::portable_device()].into_iter().flatten() {
        let xs: Vec<f32> = (-800..=800).map(|i| i as f32 / 100.0).collect();
        let x: Vec<f32> = xs.iter().flat_map(|&v| [v, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]).collect();
        let weight = Matrix::uninit(&device, "one", 1, 8, WeightFormat::F16).expect("a matrix");
        weight.write_rows(&device, 0, &[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        let layer = Linear { weight, bias: None };
        let input = device.tensor(Category::Io, "x", xs.len() as u32, 8, &x).expect("a tensor");
        for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Silu] {
            let function = match activation {
                Activation::Gelu => gelu,
                Activation::GeluTanh => gelu_tanh,
                _ => silu,
            };
            let mut r = Recorder::new(device.caps());
            let y = r.linear_act(&input, &layer, activation);
            let plan = r.finish(&device).expect("a plan");
            plan.submit().expect("submitted");
            for (&x, got) in xs.iter().zip(device.read::<f32>(&plan.output(&y)).expect("a result")) {
                // The left tail is a difference of numbers near one: 2^-23 of |x|.
                let off = (f64::from(got) - function(f64::from(x))).abs();
                assert!(off <= 2e-6, "{} {activation:?}({x}) = {got}", device.name());
            }
        }
    }
}

/// The same forms with and without the driver-independent checks give the same bits.
#[test]
fn checked_and_trusted_shaders_agree_to_the_bit() {
    let (Some(trusted), Some(checked)) = (support::shared_device(), support::checked_device()) else { return };
    let run = |device: &Device, caps: Caps| {
        let mut o = Operands::new(device);
        let known: Vec<u32> = (0..3 * 88).collect();
        let Known { operand: layer, .. } = o.linear(WeightFormat::F16, (3 * 88, 88), &known, true).expect("a layer");
        let Known { operand: norm, .. } = o.norm(88, 1e-6, true).expect("a norm");
        let (x, _) = o.noise(37, 88).expect("a tensor");
        let mut r = Recorder::new(caps);
        let h = r.layer_norm(&x, &norm);
        let qkv = r.linear_act(&h, &layer, Activation::Gelu);
        let out = r.attention(&qkv, Heads::full(1, 88), Mask::None);
        let one = r.linear(&out.slice_rows(36, 1), &layer);
        let plan = r.finish(device).expect("a plan");
        plan.submit().expect("submitted");
        let read = |t: &Tensor| device.read::<u32>(&plan.output(t)).expect("bits");
        (read(&out), read(&one))
    };
    let matrix = Caps { class: AdapterClass::Gpu, ..trusted.caps() };
    for caps in [trusted.caps(), matrix, Caps::PORTABLE] {
        assert_eq!(run(&trusted, caps), run(&checked, caps));
    }
}

#[test]
fn synthetic_weights_are_spread_over_their_range() {
    let values = oracle::fill::fill(0..2048, 1, 0.5);
    assert_ne!(values, oracle::fill::fill(0..2048, 2, 0.5));
    assert!(values.iter().all(|v| v.abs() <= 0.5));
    let mean = values.iter().sum::<f64>() / 4096.0;
    let deviation = (values.iter().map(|v| v * v).sum::<f64>() / 4096.0).sqrt();
    assert!(mean.abs() < 0.02 && (deviation - 0.2887).abs() < 0.01, "mean {mean}, deviation {deviation}");
}

/// A layer and a norm that are on no device.
fn unbacked(n: u32, k: u32, format: WeightFormat, binding_bytes: u64) -> (Linear, Norm) {
    let weight = Matrix::unbacked("layer", n, k, format, binding_bytes);
    let norm = Norm { label: "norm".into(), weight: Tensor::unbacked(1, k), bias: None, eps: 1e-5, folded: None };
    (Linear { weight, bias: None }, norm)
}

const MATRIX: Caps = Caps {
    matrix: Some(MatrixSize::Sixteen),
    subgroup_size: Some(32),
    max_workgroup_bytes: 48 << 10,
    ..Caps::PORTABLE
};

/// One for the layer; one that fits ragged inputs; one that makes halves of inputs for matrices; one for each further part
/// of weights over the binding limit; and a norm goes into vectors only, or makes halves itself.
#[test]
fn layers_are_as_few_dispatches_as_can_be() {
    let fused = |form| {
        let tuning = Tuning { fuse_norm: true, ..Caps::PORTABLE.tuning };
        Caps { tuning, preferred: Some(form), ..Caps::PORTABLE }
    };
    for (caps, (m, n, k), binding_bytes, plain, normed) in [
        (Caps::PORTABLE, (1, 37, 96), 1 << 30, 1, 1),
        (Caps::PORTABLE, (33, 65, 101), 1 << 30, 2, 3),
        (MATRIX, (33, 72, 1544), 1 << 30, 2, 2),
        (MATRIX, (40, 32, 1049), 1 << 30, 3, 4),
        (MATRIX, (33, 65, 512), 1 << 30, 1, 2),
        (fused("linear_vec"), (5, 65, 160), 1 << 30, 1, 1),
        (fused("linear_vec"), (5, 65, 101), 1 << 30, 2, 3),
        (fused("linear_tile"), (5, 65, 160), 1 << 30, 1, 2),
        (Caps::PORTABLE, (1, 330, 64), 16 << 10, 3, 3),
        (Caps::PORTABLE, (9, 330, 64), 16 << 10, 3, 4),
    ] {
        let (layer, norm) = unbacked(n, k, WeightFormat::F16, binding_bytes);
        let x = Tensor::unbacked(m, k);
        let count = |record: &dyn Fn(&mut Recorder)| {
            let mut r = Recorder::new(caps);
            record(&mut r);
            r.len()
        };
        let found = (count(&|r| drop(r.linear(&x, &layer))), count(&|r| drop(r.norm_linear(&x, &norm, &layer))));
        assert_eq!(found, (plain, normed), "{m}x{n}x{k} on {caps:?}");
    }
}

/// A LayerNorm between two layers by matrices is a part of both, where it can be, nobody asked for what it gives, and
/// nothing comes between.
#[test]
fn a_norm_between_layers_by_matrices_is_no_dispatch() {
    let norms = |caps, rows, binding_bytes, is_folded: bool, taps: &[String], comes_between: bool| {
        let (first, _) = unbacked(128, 96, WeightFormat::F16, binding_bytes);
        let (second, norm) = unbacked(72, 128, WeightFormat::F16, 1 << 30);
        let folded = is_folded.then(|| Tensor::unbacked(2, 72));
        let norm = Norm { bias: Some(Tensor::unbacked(1, 128)), folded, ..norm };
        let mut r = Recorder::new(caps).with_taps(taps);
        let (mut y, x) = (r.empty(rows, 128), r.empty(rows, 96));
        r.linear_add_before(&mut y, &x, &first, Some(&norm));
        if comes_between {
            r.add(&mut y, &Tensor::unbacked(rows, 128));
        }
        r.norm_linear(&y, &norm, &second);
        r.dispatches().iter().filter(|dispatch| dispatch.kernel.name == "norm").count()
    };
    let (most, tapped) = (1 << 30, ["norm".to_string()]);
    assert_eq!(norms(MATRIX, 33, most, true, &[], false), 0);
    assert_eq!(norms(MATRIX, 33, most, true, &["layer".to_string()], false), 0);
    let custom = CustomKernel::of("argmax", "argmax.wgsl", include_str!("../../shaders/argmax.wgsl")).expect("ours");
    let with_custom = Caps { custom: custom.leak(), ..MATRIX };
    let apart = Caps { tuning: Tuning { fuse_norm: false, ..MATRIX.tuning }, ..MATRIX };
    for (why, count) in [
        ("no matrices", norms(Caps::PORTABLE, 33, most, true, &[], false)),
        ("norms by themselves", norms(apart, 33, most, true, &[], false)),
        ("a custom kernel", norms(with_custom, 33, most, true, &[], false)),
        ("few rows", norms(MATRIX, 9, most, true, &[], false)),
        ("weights in parts", norms(MATRIX, 33, 16 << 10, true, &[], false)),
        ("no sums", norms(MATRIX, 33, most, false, &[], false)),
        ("a tap", norms(MATRIX, 33, most, true, &tapped, false)),
        ("something between", norms(MATRIX, 33, most, true, &[], true)),
    ] {
        assert_eq!(count, 1, "{why}");
    }
}

/// A norm, a linear layer, rotation and store are one dispatch of `linear_vec`; q is cut where channels are padded.
#[test]
fn norm_rope_store_is_as_few_dispatches_as_can_be() {
    for (form, k, d, dispatches) in
        [("linear_vec", 64, 8, 1), ("linear_vec", 64, 6, 2), ("linear_vec", 37, 8, 4), ("linear_tile", 64, 8, 3)]
    {
        let (layer, norm) = unbacked(4 * d, k, WeightFormat::F16, 1 << 30);
        let tuning = Tuning { fuse_norm: true, ..Caps::PORTABLE.tuning };
        let mut r = Recorder::new(Caps { preferred: Some(form), tuning, ..Caps::PORTABLE });
        let cache = Tensor::unbacked(9, d.next_multiple_of(4));
        let kv = KvLayer { keys: cache.clone(), values: cache, capacity: 9, format: KvFormat::F32 };
        let turns = Tensor::unbacked(2, 2 + d);
        let rotary = Rotary { turns: &turns, kv: &kv, heads: Heads::grouped(2, 1, d) };
        r.norm_rope_store(&Tensor::unbacked(2, k), &norm, &layer, &rotary);
        assert_eq!(r.len(), dispatches, "{form} {k} inputs, heads of {d}");
    }
}

/// Cases in forms of one's choice run where these forms do, so every one of them is met.
#[test]
fn every_form_of_a_layer_is_met_by_a_case() {
    let lanes = Some(32);
    let matrix =
        |size| Caps { matrix: Some(size), subgroup_size: lanes, max_workgroup_bytes: 32 << 10, ..Caps::PORTABLE };
    for caps in [Caps::PORTABLE, Caps::SOFTWARE, matrix(MatrixSize::Eight), matrix(MatrixSize::Sixteen)] {
        for form in forms(Shape { m: 21, n: 72, k: 96, format: WeightFormat::Q4 }, &caps) {
            let form = form.kernel.form;
            let is_met = |case: &Case| case.shape.contains(&format!(" by {form} ")) && case.can_run(&caps);
            assert!(ragged("linear q4").iter().any(is_met), "{form}");
        }
    }
}

/// These are the forms that the cases run in, so that each is compared.
#[test]
fn choice_of_attention_form_follows_channels_and_adapter() {
    let kernels = |caps: Caps, d: u32| {
        let (heads, kv) = (Heads::full(2, d), Tensor::unbacked(2 * 65, d));
        let kv = KvLayer { keys: kv.clone(), values: kv, capacity: 65, format: KvFormat::F32 };
        let rows = |t| Rows { places: Tensor::unbacked(t, 2), pages: Tensor::unbacked(1, 65), prompts: None };
        let mut r = Recorder::new(caps);
        r.attention(&Tensor::unbacked(17, 6 * d), heads, Mask::None);
        r.attention_cached(&Tensor::unbacked(17, 2 * d), &kv, heads, &rows(17), None);
        r.attention_cached(&Tensor::unbacked(1, 2 * d), &kv, heads, &rows(1), None);
        [0, 1, 2].map(|i: usize| r.dispatches()[i].kernel.name)
    };
    let software = |kernel: &str| format!("{kernel}_software");
    let preferred = |form| Caps { preferred: Some(form), ..Caps::SOFTWARE };
    let (tile, decode) = ("attention_tile", "attention_decode");
    let (wide_tile, wide_decode, shares) = (software(tile), software(decode), "attention_decode_shares");
    let matrix = Caps { subgroup_size: Some(32), matrix: Some(MatrixSize::Sixteen), ..Caps::PORTABLE };
    let silent = Caps { coherent: false, ..preferred(shares) };
    for (caps, d, want) in [
        (Caps::SOFTWARE, 80, [&*wide_tile, &wide_tile, &wide_decode]),
        (Caps::SOFTWARE, 20, [tile, tile, decode]),
        (preferred(tile), 80, [tile, tile, &wide_decode]),
        (preferred(decode), 80, [&wide_tile, &wide_tile, decode]),
        (preferred(shares), 80, [&wide_tile, &wide_tile, shares]),
        (silent, 80, [&wide_tile, &wide_tile, &wide_decode]),
        (Caps::PORTABLE, 80, [tile, tile, decode]),
        (matrix, 80, ["attention_matrix16", "attention_matrix16", decode]),
        (matrix, 132, [tile, tile, decode]),
        (Caps { preferred: Some(tile), ..matrix }, 80, [tile, tile, decode]),
        // A processor's matrices run where they are asked for.
        (Caps { matrix: Some(MatrixSize::Eight), ..Caps::SOFTWARE }, 80, [&wide_tile, &wide_tile, &wide_decode]),
        (Caps { coherent: true, ..Caps::PORTABLE }, 80, [tile, tile, shares]),
    ] {
        assert_eq!(kernels(caps, d), want, "{d} channels on {caps:?}");
    }
}

/// Shares of at least a chunk of keys, and none where rows and heads fill a GPU or its workgroups cannot tell each other
/// that they are done. Whatever there is to be joined, one dispatch does all.
#[test]
fn shares_of_the_keys_follow_the_room_and_the_rows() {
    let tuning = Tuning { decode_splits: 8, ..Caps::PORTABLE.tuning };
    let eight = Caps { coherent: true, tuning, ..Caps::PORTABLE };
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
        (Caps { coherent: false, ..eight }, 1, 32, 2048, 1),
        (Caps::SOFTWARE, 1, 32, 2048, 1),
    ] {
        let mut r = Recorder::new(caps);
        let unbacked = |pages| KvLayer {
            keys: Tensor::unbacked(heads * pages, 64),
            values: Tensor::unbacked(heads * pages, 64),
            capacity: pages,
            format: KvFormat::F32,
        };
        let at = Rows { places: Tensor::unbacked(rows, 2), pages: Tensor::unbacked(rows, keys), prompts: None };
        let q = Tensor::unbacked(rows, heads * 64);
        r.attention_cached(&q, &unbacked(keys), Heads::full(heads, 64), &at, None);
        let grids: Vec<[u32; 3]> = r.dispatches().iter().map(|d| d.grid).collect();
        let what = format!("{rows} rows of {heads} heads over {keys} keys");
        assert_eq!(grids[0], [heads, shares, rows], "{what}");
        assert_eq!(grids.len(), 1, "{what}");
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
        (Caps { subgroup_size: Some(64), matrix: Some(MatrixSize::Sixteen), ..Caps::PORTABLE }, 257, 16, 9),
    ] {
        let mut r = Recorder::new(caps);
        r.attention(&Tensor::unbacked(rows, 3 * heads * 64), Heads::full(heads, 64), Mask::None);
        assert_eq!(r.dispatches()[0].grid, [tiles, heads, 1], "{rows} rows of {heads} heads");
    }
}

/// A layer of 4224 outputs and 1408 inputs.
fn over(m: u32, format: WeightFormat) -> Shape {
    Shape { m, n: 4224, k: 1408, format }
}

#[test]
fn choice_of_linear_form_follows_rows_and_adapter() {
    let gpu = Caps { subgroups: true, subgroup_size: Some(32), ..Caps::PORTABLE };
    let plain_cpu = Caps { class: AdapterClass::Cpu, subgroup_size: None, ..Caps::PORTABLE };
    let named = |name| Caps { preferred: Some(name), ..gpu };
    let matrix = |size| Caps { matrix: Some(size), max_workgroup_bytes: 48 << 10, ..gpu };
    // A processor's matrices run where they are asked for.
    let software = Caps { matrix: Some(MatrixSize::Eight), ..Caps::SOFTWARE };
    for (m, caps, kernel, workgroup) in [
        (1, Caps::PORTABLE, "linear_vec", Some(128)),
        (8, Caps::PORTABLE, "linear_vec", Some(128)),
        (4, gpu, "linear_vec_subgroup", Some(128)),
        (9, gpu, "linear_tile", None),
        (15, matrix(MatrixSize::Sixteen), "linear_tile", None),
        (16, matrix(MatrixSize::Sixteen), "linear_matrix16", Some(128)),
        (257, matrix(MatrixSize::Eight), "linear_matrix8", Some(192)),
        (257, software, "linear_tile_software", None),
        (257, Caps { preferred: Some("linear_matrix8"), ..software }, "linear_matrix8", Some(48)),
        (257, Caps::PORTABLE, "linear_tile", None),
        (1, Caps::SOFTWARE, "linear_vec_software", None),
        (2, Caps::SOFTWARE, "linear_vec_software", None),
        (9, Caps::SOFTWARE, "linear_tile_software", None),
        (9, Caps::SOFTWARE.portable(), "linear_tile", None),
        (64, plain_cpu, "linear_tile", None),
        (64, named("linear_vec"), "linear_vec", Some(128)),
        (1, named("linear_tile"), "linear_tile", None),
        // What cannot run here is not run.
        (1, named("linear_tile_software"), "linear_vec_subgroup", Some(128)),
    ] {
        let form = choose(over(m, WeightFormat::F16), &caps);
        assert_eq!((form.kernel.name, form.workgroup), (kernel, workgroup), "{m} rows on {caps:?}");
        for (format, suffix) in [(WeightFormat::Q8, "_q8"), (WeightFormat::Q4, "_q4")] {
            let form = choose(over(m, format), &caps);
            assert_eq!((form.kernel.name, form.workgroup), (format!("{kernel}{suffix}").as_str(), workgroup));
        }
    }
    let one = |format| choose(over(1, format), &Caps::SOFTWARE).kernel.name;
    assert_eq!((one(WeightFormat::F16), one(WeightFormat::Q4)), ("linear_vec_software", "linear_vec_software_q4"));
    // Workgroups share the rows evenly.
    for (m, few_registers, rows) in
        [(5, false, 5), (8, false, 8), (9, false, 5), (5, true, 5), (6, true, 3), (8, true, 4)]
    {
        let caps = Caps { few_registers, preferred: Some("linear_vec"), ..gpu };
        assert_eq!(choose(over(m, WeightFormat::Q4), &caps).rows, rows, "{m} rows");
    }
    // Columns are written four at a time, and gates and what they let through by twos.
    let ragged = Shape { n: 4220, ..over(257, WeightFormat::F16) };
    assert_eq!(choose(ragged, &matrix(MatrixSize::Sixteen)).kernel.name, "linear_tile");
}

/// The tile that leaves fewer rows empty, cut into more the smaller the layer is; two buffers where both fit.
#[test]
fn tiles_of_matrices_follow_the_layer_and_the_memory() {
    let caps = |size, kib: u32| {
        let lanes = Some(32);
        Caps { matrix: Some(size), subgroup_size: lanes, max_workgroup_bytes: kib << 10, ..Caps::PORTABLE }
    };
    use MatrixSize::{Eight, Sixteen};
    for (size, kib, (m, n, k), tile, workgroup, strips, buffers) in [
        (Sixteen, 48, (512, 14336, 4096), (128, 128), 256, 4, 2),
        (Sixteen, 32, (512, 14336, 4096), (128, 128), 256, 4, 1),
        (Sixteen, 48, (257, 4224, 1408), (96, 128), 256, 3, 2),
        (Sixteen, 48, (257, 1408, 6144), (96, 128), 256, 3, 2),
        (Sixteen, 48, (64, 4096, 4096), (64, 128), 128, 4, 2),
        (Sixteen, 48, (32, 12288, 4096), (32, 128), 128, 2, 2),
        (Sixteen, 48, (32, 768, 768), (64, 64), 128, 2, 2),
        (Sixteen, 16, (512, 14336, 4096), (64, 64), 128, 2, 1),
        (Eight, 32, (257, 4224, 1408), (96, 64), 192, 4, 2),
        (Eight, 32, (512, 14336, 4096), (64, 128), 256, 4, 2),
    ] {
        let form = choose(Shape { m, n, k, format: WeightFormat::F16 }, &caps(size, kib));
        let blocks = Some(Blocks { strips, buffers });
        let found = ((form.rows, form.columns), form.workgroup, form.blocks);
        assert_eq!(found, (tile, Some(workgroup), blocks), "{m}x{n}x{k} in {kib} KiB");
    }
}
