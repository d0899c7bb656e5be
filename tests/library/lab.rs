//! The laboratory is fair: it checks a custom kernel, and then times it as it times ours.

use std::time::Duration;

use instructblip::lab::kernels::{Custom, Options, measure};
use instructblip::runtime::isa::Compiler;
use instructblip::runtime::kernels;
use instructblip::{Device, DeviceOptions, Error};

use crate::support;

const OURS: &str = include_str!("../../shaders/linear_tile.wgsl");

/// Times our `linear_tile` and a custom one with this text at one shape.
fn timed(text: &str) -> instructblip::Result<instructblip::lab::kernels::Outcome> {
    let opened = DeviceOptions::default();
    let device = Device::open(&DeviceOptions { trusts_custom: true, ..opened.clone() })?;
    let options = Options {
        filter: Some("linear 6".into()),
        shapes: vec![(64, 256, 512)],
        variants: vec!["linear_tile".into()],
        runs: 9,
        all_shapes: false,
        custom: Some(Custom {
            file: "mine.wgsl".into(),
            text: text.into(),
            replaces: "linear_tile".into(),
            time_out: Duration::from_secs(60),
        }),
        isa: false,
    };
    measure(&options, &device, &opened, &mut |_| {})
}

/// A machine may be busy, so one of several attempts must do; a custom kernel with bounds checks took twice as long in
/// every one.
#[test]
#[ignore = "needs a machine that does nothing else; make test-lab runs it"]
fn our_own_text_as_a_custom_kernel_takes_the_same_time() {
    if support::device().is_none() {
        return;
    }
    let mut ratios = Vec::new();
    for _ in 0..8 {
        let outcome = timed(OURS).expect("measured");
        let us = |variant: &str| {
            let row = outcome.rows.iter().find(|row| row.variant == variant);
            row.unwrap_or_else(|| panic!("{variant}: {outcome:?}")).cold_us
        };
        let ratio = us("custom") / us("linear_tile");
        if (ratio - 1.0).abs() < 0.1 {
            return;
        }
        ratios.push(ratio);
    }
    panic!("custom over ours: {ratios:?}");
}

/// Drivers that tell what they make of kernels are not on every machine; one that does not is named.
#[test]
fn a_driver_tells_what_it_makes_of_a_kernel_or_is_named() {
    if support::device().is_none() {
        return;
    }
    match Compiler::open(&DeviceOptions::default()) {
        Ok(compiler) => {
            let made = compiler.compile(&kernels::NORM, &[("WG", 64.0), ("CENTER", 0.0)]).expect("a program");
            assert!(made[0].subgroup_size > 0 && !made[0].statistics.is_empty(), "{made:?}");
        }
        Err(e) => assert!(matches!(e, Error::Request { .. }) && e.to_string().contains("does not tell"), "{e}"),
    }
}

#[test]
fn a_custom_kernel_that_is_wrong_is_refused_and_not_timed() {
    if support::device().is_none() {
        return;
    }
    let outcome = timed(&OURS.replacen("store4(row, column, acc0);", "store4(row, column, 2.0 * acc0);", 1));
    let outcome = outcome.expect("measured");
    assert!(outcome.rows.is_empty() && outcome.refused.iter().all(|one| one.contains("wrong by")), "{outcome:?}");
    assert_eq!(outcome.refused.len(), 1);
    assert!(matches!(timed("fn main( {"), Err(Error::Kernel { .. })));
}
