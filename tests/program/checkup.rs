//! `selftest` and `doctor`: what people are asked to run when something looks wrong.

use crate::support;
use std::collections::BTreeSet;
use std::process::Output;
#[cfg(unix)]
use std::process::Stdio;

use crate::support::fixtures::Fixture;
use crate::support::golden::checkpoint_folder;
#[cfg(unix)]
use crate::support::program::{ask_to_end, messages};
use crate::support::program::{program, refused, run, text};
use instructblip::runtime::kernels::{self, Kernel, Needs};
use instructblip::runtime::{AdapterClass, Device, MatrixSize};
use instructblip::{Checkpoint, Error, InstructBlip};
use serde_json::Value;

/// The only object on stdout of a run that ends with `code`.
fn json(output: &Output, code: i32) -> Value {
    assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

fn keys(value: &Value) -> String {
    value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>().join(" ")
}

/// A strange driver would fail this test: that is what it is for.
#[test]
fn selftest_reaches_every_kernel_in_every_form_and_all_are_right() {
    let Some(device) = support::device() else { return };
    let output = run(&["selftest", "--json", "-q"]);
    // `tools/drivers/test.py` makes its table of this.
    println!("{}", text(&output.stdout));
    let report = json(&output, 0);
    let wanted = "adapter cases failed failures kernels lost machine ms not_run passed stopped version";
    assert_eq!(keys(&report), wanted);
    let cases = report["cases"].as_array().expect("cases");
    assert_eq!((report["passed"].as_u64(), report["failed"].as_u64()), (Some(cases.len() as u64), Some(0)));
    assert!(report["machine"]["os"].is_string() && report["adapter"]["driver"].is_string());
    let names = |form: Option<&str>| -> BTreeSet<&str> {
        let of_form = cases.iter().filter(|case| form.is_none_or(|form| case["form"] == form));
        of_form.flat_map(|case| case["kernels"].as_array().expect("names")).filter_map(Value::as_str).collect()
    };
    let caps = device.caps();
    let runs_here = |kernel: &&Kernel| match kernel.needs {
        Needs::Nothing => true,
        Needs::Subgroups => caps.subgroups,
        Needs::Software => caps.class == AdapterClass::Cpu && caps.int64 && caps.subgroup_size == Some(8),
        Needs::Halves => caps.f16,
        Needs::Coherent => caps.coherent,
        Needs::Matrices => caps.matrix.is_some_and(|size| kernel.form.ends_with(&format!("matrix{}", size.edge()))),
    };
    let all: BTreeSet<&str> = kernels::all().filter(runs_here).map(|kernel| kernel.name).collect();
    assert_eq!(names(None), all);
    let told = report["not_run"].as_array().expect("forms").iter().filter_map(|form| form["form"].as_str()).collect();
    let not_run: BTreeSet<&str> =
        kernels::all().filter(|kernel| !runs_here(kernel)).map(|kernel| kernel.form).collect();
    assert_eq!(not_run, told, "what does not run is told");
    let portable: BTreeSet<&str> =
        kernels::all().filter(|kernel| kernel.needs == Needs::Nothing).map(|kernel| kernel.name).collect();
    assert_eq!((names(Some("portable")), names(Some("portable, checked"))), (portable.clone(), portable));
    for case in cases {
        assert_eq!(keys(case), "bound error failure form kernel kernels ms ok shape");
        let (error, bound) = (case["error"].as_f64().expect("an error"), case["bound"].as_f64().expect("a bound"));
        assert!(case["ok"] == true && error <= bound && bound <= 1e-3, "{case}");
        assert!(case["ms"].as_f64().is_some_and(|ms| ms > 0.0), "{case}");
    }
}

/// The number of forms that everything runs in: a software adapter's forms by matrices are not its own.
fn forms(device: &Device) -> usize {
    let caps = device.caps();
    if caps.matrix.is_some() && caps.class == AdapterClass::Cpu { 4 } else { 3 }
}

#[test]
fn selftest_prints_a_table_and_one_line_about_it() {
    let Some(device) = support::device() else { return };
    let output = run(&["selftest", "--filter", "argmax"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let lines: Vec<&str> = text(&output.stdout).lines().collect();
    let words = |line: &str| line.split_whitespace().map(str::to_string).collect::<Vec<_>>();
    assert_eq!(words(lines[0]).join(" "), "kernel form cases worst error bound result ms");
    let forms = forms(&device);
    assert_eq!(lines.len(), 2 + forms, "a heading, the forms, a summary: {lines:?}");
    for line in &lines[1..=forms] {
        let words = words(line);
        assert_eq!((words[0].as_str(), words[words.len() - 2].as_str()), ("argmax", "ok"), "{line}");
    }
    let last = lines.last().expect("a summary");
    let cases = format!("{} cases of 1 kernel in ", 5 * forms);
    assert!(last.starts_with(&cases) && last.ends_with(": all right"), "{last}");
}

/// Matrices have one size, so that a kernel for the other cannot run.
#[cfg(unix)]
#[test]
fn selftest_tells_what_it_found_when_it_is_stopped() {
    if support::device().is_none() {
        return;
    }
    let mut child = program();
    child.args(["selftest", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child.spawn().expect("the program runs");
    let mut said = messages(&mut child);
    assert!(said.any(|line| line.starts_with("testing kernels on ")), "it never begins");
    ask_to_end(&child);
    let report: Value = serde_json::from_reader(child.stdout.take().expect("its report")).expect("one JSON object");
    assert_eq!((&report["stopped"], &report["failed"], &report["lost"]), (&true.into(), &0.into(), &Value::Null));
    assert_eq!(child.wait().expect("it ends").code(), Some(75), "{:?}", said.last());
}

#[test]
fn selftest_tells_what_it_cannot_run_and_why() {
    let Some(device) = support::device() else { return };
    let output = run(&["selftest", "--filter", "ceiling_"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let other = if device.caps().matrix == Some(MatrixSize::Sixteen) { "ceiling_matrix8" } else { "ceiling_matrix16" };
    let told = |line: &str| line.starts_with("not run: ") && line.contains(other) && line.contains(": the adapter");
    assert!(text(&output.stdout).lines().any(told), "{}", text(&output.stdout));
    refused(&["selftest", "--filter", other], 3, &[other, "cannot be tested: the adapter"]);
}

#[test]
fn selftest_is_filtered_by_kernel_form_and_shape() {
    let Some(device) = support::device() else { return };
    let cases = |arguments: &[&str]| {
        let report = json(&run(&[&["selftest", "--json", "-q"], arguments].concat()), 0);
        report["cases"].as_array().expect("cases").clone()
    };
    let by_shape = cases(&["--filter", "norm 257x1408"]);
    assert_eq!(by_shape.len(), 2 * forms(&device), "two norms in every form");
    let checked = cases(&["--filter", "argmax own, checked", "--checked"]);
    assert!(!checked.is_empty() && checked.iter().all(|case| case["form"] == "own, checked"));
    let portable = cases(&["--filter", "argmax", "--portable"]);
    assert!(portable.iter().all(|case| case["form"].as_str().is_some_and(|form| form.starts_with("portable"))));
    refused(&["selftest", "--filter", "no such kernel", "-q"], 3, &["no such kernel", "--filter"]);
    refused(&["selftest", "--adapter", "no such adapter"], 4, &["no such adapter"]);
}

#[test]
fn doctor_tells_what_would_be_used_and_that_it_is_ready() {
    let Some(device) = support::device() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("blob"), [0; 1000]).expect("a file");
    let kept = tempfile::tempdir().expect("a folder");
    let doctor = |arguments: &[&str]| {
        let mut command = program();
        command.args(["doctor", "-q"]).args(arguments).env("HF_HUB_CACHE", folder.path());
        command.env("INSTRUCTBLIP_CACHE", kept.path());
        command.env("HF_TOKEN", "hf_secret").env_remove("INSTRUCTBLIP_MODEL").output().expect("the program runs")
    };
    let output = doctor(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let page = text(&output.stdout);
    let cache = folder.path().display().to_string();
    let parts =
        ["\nGPUs\n", "would be used", "not needed", "HF_HUB_CACHE=", &cache, "1.0 kB", "all right", "\nready\n"];
    parts.iter().for_each(|part| assert!(page.contains(part), "no {part:?} in {page}"));
    let kept_in = format!("compiled ones are kept in {}", kept.path().join("pipelines").display());
    assert!(page.contains(&kept_in), "no {kept_in:?} in {page}");
    assert!(page.ends_with("\nready\n") && !page.contains("hf_secret"), "{page}");
    let output = doctor(&["--json"]);
    assert!(!text(&output.stdout).contains("hf_secret"));
    let json = json(&output, 0);
    let wanted = "adapters cache compiled_kernels embedded_model environment fix_first kernels machine matrix_edge model ready tuned version warnings";
    assert_eq!(keys(&json), wanted);
    assert_eq!(json["matrix_edge"], Value::from(device.caps().matrix.map(MatrixSize::edge)));
    assert!(page.contains("\n    matrices "), "{page}");
    assert_eq!((json["ready"].as_bool(), json["kernels"]["failed"].as_u64()), (Some(true), Some(0)));
    assert_eq!((json["cache"]["bytes"].as_u64(), json["environment"]["HF_TOKEN"].is_string()), (Some(1000), true));
    assert!(json["cache"]["free_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{json}");
    assert!(json["machine"]["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 1 << 20), "{json}");
}

#[test]
fn doctor_checks_a_checkpoint_without_loading_it() {
    if support::device().is_none() {
        return;
    }
    let good = checkpoint_folder("gqa-tied-theta").display().to_string();
    let report = json(&run(&["doctor", "-q", "--json", "--model", &good]), 0);
    assert_eq!((report["model"]["ok"].as_bool(), report["ready"].as_bool()), (Some(true), Some(true)));
    let fixture = Fixture::new();
    fixture.edit_tensors(|name, tensor| (!name.starts_with("qformer.")).then_some(tensor));
    let output = run(&["doctor", "-q", "--model", &fixture.path().display().to_string()]);
    assert_eq!(output.status.code(), Some(3));
    let last = text(&output.stdout).lines().last().unwrap_or_default();
    assert!(last.starts_with("fix first: ") && last.contains("missing"), "{last}");
    assert!(text(&output.stderr).contains("missing"), "{}", text(&output.stderr));
}

/// Everything but the GPU is still told; the exit code is that of every other command.
#[test]
fn doctor_without_an_adapter_prints_the_rest() {
    if !cfg!(target_os = "linux") {
        return;
    }
    let doctor = |arguments: &[&str]| {
        let mut command = program();
        command.args(["doctor", "-q"]).args(arguments).env("WGPU_BACKEND", "vulkan");
        command.env("VK_DRIVER_FILES", "/nonexistent.json").env("VK_ICD_FILENAMES", "/nonexistent.json");
        command.output().expect("the program runs")
    };
    let output = doctor(&[]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output.stderr));
    let page = text(&output.stdout);
    for part in ["none found", "VK_DRIVER_FILES=/nonexistent.json", "\nModels\n", "not tested", "mesa-vulkan-drivers"] {
        assert!(page.contains(part), "no {part:?} in {page}");
    }
    let last = page.lines().last().unwrap_or_default();
    assert!(last.starts_with("fix first: no usable GPU: unset VK_DRIVER_FILES"), "{last}");
    let report = json(&doctor(&["--json"]), 4);
    assert!(report["kernels"].is_null() && report["ready"] == false && report["machine"]["os"].is_string(), "{report}");
}

#[test]
fn checkpoints_are_checked_without_a_device() {
    let check = |folder: &std::path::Path| InstructBlip::check(&Checkpoint::directory(folder).expect("a folder"), None);
    check(&checkpoint_folder("mha-untied-d88")).expect("a good checkpoint");
    let fixture = Fixture::new();
    fixture.remove("config.json");
    assert!(matches!(check(fixture.path()), Err(Error::Checkpoint { .. })));
    let fixture = Fixture::new();
    fixture.edit_tensors(|name, tensor| (name != "query_tokens").then_some(tensor));
    assert!(matches!(check(fixture.path()), Err(Error::MissingTensors { names, .. }) if names == ["query_tokens"]));
}
