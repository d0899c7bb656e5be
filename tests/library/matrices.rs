//! Kernels by matrices of 16 x 16, which most GPUs have and no driver for the CPU: the same texts, in which loops over
//! workgroup memory stand in for the matrices, on any adapter with 16-bit floats. All that is ours is run, at the lanes of
//! subgroups that GPUs have; that a GPU multiplies matrices rightly is seen on it alone.

use std::collections::BTreeSet;

use crate::support;
use instructblip::lab::selftest::{self, Target};
use instructblip::lab::{Case, Depth, cases};
use instructblip::runtime::kernels::{self, Kernel};
use instructblip::runtime::{AdapterClass, Caps, CustomKernel, MatrixSize};

/// Pieces of both kernels, and those that stand in for them.
const BOTH: &[(&str, &str)] = &[
    ("enable wgpu_cooperative_matrix;", ""),
    ("alias Left = coop_mat16x16<f16, A>;", ""),
    ("alias Right = coop_mat16x16<f16, B>;", ""),
    ("alias Sum = coop_mat16x16<f32, C>;", ""),
    ("coopMultiplyAdd(", "multiply_add("),
    ("    @builtin(subgroup_id) block: u32,\n", ""),
];

/// Pieces of `linear_matrix16`.
const LINEAR: &[(&str, &str)] = &[
    ("coopLoadT<Left>(&x_tile[at], ROW)", "left_of_x_tile(at, ROW)"),
    ("coopLoad<Right>(&w_tile[at], ROW)", "Right(at, ROW)"),
    ("coopStoreT(sums.a, &staged[at], EDGE)", "store_sums(sums.a, at, EDGE)"),
    ("coopStoreT(sums.b, &staged[at], EDGE)", "store_sums(sums.b, at, EDGE)"),
    (") {\n    let m0 = ", ") {\n    BEGIN(group.x);\n    let m0 = "),
];

/// Pieces of `attention_matrix16`.
const ATTENTION: &[(&str, &str)] = &[
    ("coopLoadT<Left>(&tile[at], stride)", "left_of_tile(at, stride)"),
    ("coopLoad<Right>(&tile[at], stride)", "Right(at, stride)"),
    ("coopLoadT<Left>(&weights[at], stride)", "left_of_weights(at, stride)"),
    ("coopLoadT<Sum>(&sums[at], stride)", "load_sums(at, stride)"),
    ("coopStoreT(values, &sums[at], stride)", "store_sums(values, at, stride)"),
    ("subgroupShuffleXor(", "shuffled("),
    ("    @builtin(subgroup_invocation_id) sublane: u32,\n", ""),
    (
        ") {\n    let t0 = ",
        ") {\n    BEGIN(workgroup.x);\n    invocation = lane;\n    let sublane = matrix_lane;\n    let t0 = ",
    ),
];

/// The kernel with stand-ins for its matrices.
fn stand_in(kernel: &'static Kernel) -> CustomKernel {
    let (pieces, lefts, rights, sums): (_, &[&str], _, _) = match kernel.file {
        "linear_matrix" => (LINEAR, &["x_tile"], "w_tile", include_str!("wgsl/linear_sums.wgsl")),
        _ => (ATTENTION, &["tile", "weights"], "tile", include_str!("wgsl/attention_sums.wgsl")),
    };
    let mut text = kernel.source();
    for (piece, stand_in) in BOTH.iter().chain(pieces) {
        assert!(text.contains(piece), "{} has no {piece:?}", kernel.name);
        text = text.replace(piece, stand_in);
    }
    // Nothing but zero, which no compiler knows.
    let (before, begun) = text.split_once("BEGIN(").expect("the beginning of `main`");
    let (group, after) = begun.split_once(");").expect("its argument");
    let unknown = format!("({group} >> 31u)");
    let begin = format!(
        "let block = lane / LANES;\n    matrix_lane = lane % LANES;\n    lane_sums = LANE_SUMS + {unknown};\n    \
         edge = 16u + {unknown};"
    );
    let lefts: String = lefts.iter().map(|left| include_str!("wgsl/left.wgsl").replace("LEFTS", left)).collect();
    let matrices = include_str!("wgsl/matrices.wgsl").replace("RIGHTS", rights);
    let text = format!("{before}{begin}{after}\n{matrices}{lefts}{sums}");
    let mut code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    assert!(!code.any(|line| line.contains("coop") || line.contains("subgroup")), "{}", kernel.name);
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
