//! The answers do not depend on which forms of kernels run.

use crate::support;
use std::collections::BTreeSet;

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
    if support::device().is_none() {
        return;
    }
    let usual = ask("auto");
    assert_eq!(usual["text"], "green star");
    let forms: BTreeSet<&str> = kernels::all().map(|kernel| kernel.form).collect();
    let several = forms.iter().filter(|form| form.starts_with("linear") || form.starts_with("attention"));
    for kernels in several.copied().chain(["portable"]) {
        let other = ask(kernels);
        assert_eq!((&other["text"], &other["token_ids"]), (&usual["text"], &usual["token_ids"]), "{kernels}");
    }
}

#[test]
fn a_kernel_that_there_is_not_is_refused_with_the_ones_there_are() {
    refused(&["--kernels", "linear_fast", "selftest"], 3, &["linear_fast", "linear_tile", "norm"]);
}
