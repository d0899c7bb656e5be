//! Kernels by matrices of 16 x 16, which most GPUs have and no driver for the CPU: the same texts, in which loops over
//! workgroup memory stand in for the matrices, on any adapter with 16-bit floats. All that is ours is run, at the lanes of
//! subgroups that GPUs have; that a GPU multiplies matrices rightly is seen on it alone.

use std::collections::BTreeSet;

use crate::support;
use instructblip::lab::selftest::{self, Target};
use instructblip::lab::{Case, Depth, cases};
use instructblip::runtime::kernels::{self, Kernel};
use instructblip::runtime::{AdapterClass, Caps, CustomKernel, MatrixSize};

/// Pieces of `linear_matrix16`, and those that stand in for them.
const MATRIX16: &[(&str, &str)] = &[
    ("enable wgpu_cooperative_matrix;", ""),
    ("alias Left = coop_mat16x16<f16, A>;", "alias Left = array<f16, 16>;"),
    ("alias Right = coop_mat16x16<f16, B>;", ""),
    ("alias Sum = coop_mat16x16<f32, C>;", "alias Sum = array<f32, 16>;"),
    ("coopLoadT<Left>(&x_tile[at], ROW)", "load_left(at, ROW)"),
    ("coopLoad<Right>(&w_tile[at], ROW)", "load_right(at, ROW)"),
    ("coopMultiplyAdd(", "multiply_add("),
    ("coopStoreT(sums.a, &staged[at], EDGE)", "store_sums(sums.a, at, EDGE)"),
    ("coopStoreT(sums.b, &staged[at], EDGE)", "store_sums(sums.b, at, EDGE)"),
    ("    @builtin(subgroup_id) block: u32,\n", ""),
];

/// Pieces of `attention_matrix16`, and those that stand in for them.
const ATTENTION_MATRIX16: &[(&str, &str)] = &[
    ("enable wgpu_cooperative_matrix;", ""),
    ("alias Left = coop_mat16x16<f16, A>;", "alias Left = array<f16, 16>;"),
    ("alias Right = coop_mat16x16<f16, B>;", ""),
    ("alias Sum = coop_mat16x16<f32, C>;", "alias Sum = array<f32, 16>;"),
    ("coopLoadT<Left>(&tile[at], stride)", "load_rows(at, stride)"),
    ("coopLoad<Right>(&tile[at], stride)", "load_columns(at, stride)"),
    ("coopLoadT<Left>(&weights[at], stride)", "load_weights(at, stride)"),
    ("coopLoadT<Sum>(&sums[at], stride)", "load_sums(at, stride)"),
    ("coopStoreT(values, &sums[at], stride)", "store_sums(values, at, stride)"),
    ("coopMultiplyAdd(", "multiply_add("),
    ("subgroupShuffleXor(", "shuffled("),
    ("    @builtin(subgroup_id) block: u32,\n    @builtin(subgroup_invocation_id) sublane: u32,\n", ""),
    (") {\n    let t0 = ", ") {\n    invocation = lane;\n    let sublane = lane % LANES;\n    let t0 = "),
];

/// The kernel with stand-ins for its matrices.
fn stand_in(kernel: &'static Kernel) -> CustomKernel {
    let is_attention = kernel.file == "attention_matrix";
    let (pairs, stand_ins) = match is_attention {
        true => (ATTENTION_MATRIX16, include_str!("wgsl/attention_matrix16.wgsl")),
        false => (MATRIX16, include_str!("wgsl/matrix16.wgsl")),
    };
    let mut text = kernel.source();
    for (matrices, plain) in pairs {
        assert!(text.contains(matrices), "{} has no {matrices:?}", kernel.name);
        text = text.replace(matrices, plain);
    }
    let (before, body) = text.split_once("fn main(").expect("an entry point");
    let (builtins, body) = body.split_once(") {\n").expect("its body");
    let group = if is_attention { "workgroup" } else { "group" };
    let begin = format!(
        "    let block = lane / LANES;\n    matrix_lane = lane % LANES;\n    \
         lane_sums = LANE_SUMS + ({group}.x >> 31u);\n    edge = 16u + ({group}.x >> 31u);\n"
    );
    let text = format!("{before}fn main({builtins}) {{\n{begin}{body}\n{stand_ins}");
    let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    assert!(!code.clone().any(|line| line.contains("coop") || line.contains("subgroup")), "{}", kernel.name);
    let sources: &'static [&'static str] = Box::leak(Box::new([&*text.leak()]));
    CustomKernel { name: kernel.name, kernel: Kernel { sources, ..*kernel }, tile: None }
}

/// Kernels by these matrices, as GPUs with so many lanes in a subgroup choose and launch them.
fn of_gpu(caps: Caps, lanes: u32) -> Caps {
    // A ceiling is no part of a model.
    let is_ours = |kernel: &&Kernel| ["linear_matrix16", "attention_matrix16"].contains(&kernel.form);
    let matrices = kernels::all().filter(is_ours);
    let custom: Vec<_> = matrices.map(|kernel| &*Box::leak(Box::new(stand_in(kernel)))).collect();
    let (matrix, subgroup_size) = (Some(MatrixSize::Sixteen), Some(lanes));
    Caps { class: AdapterClass::Gpu, matrix, subgroup_size, custom: custom.leak(), ..caps }
}

/// Runs those of `cases` that such kernels have a part in, which are kernels of these names.
fn check(lanes: u32, cases: &[Case], wanted: &[&str]) {
    let Some(device) = support::shared_device() else { return };
    if !device.caps().f16 {
        eprintln!("NOT RUN: matrices of 16 x 16: {} has no 16-bit floats", device.name());
        return;
    }
    let caps = of_gpu(device.caps(), lanes);
    let is_by_matrices = |name: &str| caps.custom.iter().any(|custom| custom.name == name);
    let has_matrices = |case: &&Case| {
        let recorded = case.can_run(&caps).then(|| case.unbacked(caps).expect("a recording"));
        recorded.is_some_and(|recorder| recorder.dispatches().iter().any(|d| is_by_matrices(d.kernel.name)))
    };
    let target = Target { form: "with stand-ins", caps, device: (*device).clone() };
    let mut names = BTreeSet::new();
    for case in cases.iter().filter(has_matrices) {
        let outcome = selftest::run(std::slice::from_ref(case), std::slice::from_ref(&target), "", &mut |_| {});
        assert!(outcome.ended.is_none(), "{:?}", outcome.ended);
        for row in outcome.rows {
            assert!(row.ok(), "{lanes} lanes: {row:#?}");
            println!("{lanes} lanes: {}, {}: {:.1e}", row.kernel, row.shape, row.error.unwrap_or_default());
            names.extend(row.kernels.iter().copied().filter(|name| is_by_matrices(name)));
        }
    }
    assert_eq!(names.into_iter().collect::<Vec<_>>(), wanted, "{lanes} lanes");
}

#[test]
fn kernels_by_matrices_are_right_but_for_the_matrices() {
    let is_wanted = |case: &Case| match case.depth {
        Depth::Quick => case.op == "linear",
        Depth::Small => case.shape.contains("growing scores"),
        _ => false,
    };
    let mut cases = cases::all();
    cases.retain(is_wanted);
    check(32, &cases, &["attention_matrix16", "linear_matrix16"]);
}

/// Every variant is compiled for itself, in five seconds each.
#[test]
#[ignore = "takes twenty minutes; make test-lab runs it"]
fn all_cases_are_right_but_for_the_matrices() {
    let mut cases = cases::all();
    cases.retain(|case| case.depth < Depth::Published);
    let weights = ["linear_matrix16", "linear_matrix16_q4", "linear_matrix16_q8"];
    let all = [&["attention_matrix16", "attention_matrix16_f16"][..], &weights].concat();
    for lanes in [32, 64] {
        check(lanes, &cases, &all);
    }
}
