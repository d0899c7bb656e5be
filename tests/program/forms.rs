//! The answers do not depend on which forms of kernels run.

use crate::support;
use std::collections::BTreeMap;

use crate::support::program::{refused, run, sample, text};
use instructblip::runtime::kernels;
use serde_json::Value;

/// Runs one question of the embedded model.
fn ask(kernels: &str) -> Value {
    let picture = sample("11.png");
    let arguments = ["--kernels", kernels, "ask", &picture, "Which is the smallest shape?", "--json", "--quiet"];
    let output = run(&arguments);
    assert!(output.status.success(), "{kernels}: {}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Asks greedily and with every form that a kernel has. Where this adapter cannot run a form, the kernel's usual form
/// runs.
#[test]
fn the_answer_is_the_same_with_every_form_of_the_kernels() {
    let Some(device) = support::device() else { return };
    let usual = ask("auto");
    assert_eq!(usual["text"], "green star");
    let several =
        kernels::all().filter(|kernel| kernel.form.starts_with("linear") || kernel.form.starts_with("attention"));
    let forms: BTreeMap<&str, Option<String>> =
        several.map(|kernel| (kernel.form, device.caps().obstacle(kernel))).collect();
    for (form, why) in &forms {
        why.iter().for_each(|why| eprintln!("NOT RUN: answers by {form}: {why}"));
    }
    for kernels in forms.into_keys().chain(["portable"]) {
        let other = ask(kernels);
        assert_eq!((&other["text"], &other["token_ids"]), (&usual["text"], &usual["token_ids"]), "{kernels}");
    }
}

#[test]
fn a_kernel_that_there_is_not_is_refused_with_the_ones_there_are() {
    refused(&["--kernels", "linear_fast", "selftest"], 3, &["linear_fast", "linear_tile", "norm"]);
}
