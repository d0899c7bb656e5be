//! Custom kernels: in answers, and against ours in `bench kernels`.

use instructblip::runtime::WeightFormat;
use instructblip::runtime::ops::linear::{Shape, choose};
use serde_json::Value;

use super::str_of;
use crate::support;
use crate::support::program::{refused, run, sample, text};

const NORM: &str = include_str!("../../../shaders/norm.wgsl");
const NAIVE: &str = include_str!("../../../examples/wgsl/linear_naive.wgsl");

/// A file with a kernel, in a folder of its own.
fn kernel_file(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("mine.wgsl");
    std::fs::write(&path, text).expect("written");
    let path = path.display().to_string();
    (folder, path)
}

#[test]
fn a_users_kernel_takes_part_in_answers_and_is_told_of() {
    if support::device().is_none() {
        return;
    }
    let (image, prompt) = (sample("11.png"), "Which is the smallest shape?");
    let ask = |name: &str, text: &str, flags: &[&str]| {
        let (_folder, file) = kernel_file(text);
        let flag = format!("{name}={file}");
        run(&[&["ask", &image, prompt, "--wgsl-override", &flag][..], flags].concat())
    };
    let same = ask("norm", NORM, &[]);
    assert!(same.status.success(), "{}", text(&same.stderr));
    assert_eq!(text(&same.stdout), "green star\n");
    assert!(text(&same.stderr).contains("the same answer as without your norm"), "{}", text(&same.stderr));
    assert!(text(&ask("norm", NORM, &["-q"]).stderr).is_empty());
    // The tutorial's kernel runs where it is asked for, in every layer.
    let naive = ask("linear_tile", NAIVE, &["--kernels", "linear_tile", "--json"]);
    let reply: Value = serde_json::from_slice(&naive.stdout).expect("one JSON object");
    assert_eq!(reply["text"], "green star");
    assert_eq!(
        reply["override"],
        serde_json::json!({"kernels": ["linear_tile"], "unused": [], "same": true, "ours": "green star"})
    );
    let wrong = NORM
        .replace("bitcast<u32>(normed(start, i, mean, scale))", "bitcast<u32>(-3.0 * normed(start, i, mean, scale))");
    let other = ask("norm", &wrong, &[]);
    assert_eq!(other.status.code(), Some(7), "{}", text(&other.stderr));
    assert_ne!(text(&other.stdout), "green star\n");
    assert!(text(&other.stderr).contains("ANOTHER ANSWER"), "{}", text(&other.stderr));
}

#[test]
fn a_users_kernel_that_does_not_run_is_told_with_what_makes_it_run() {
    let Some(device) = support::device() else { return };
    let (image, (_folder, file)) = (sample("11.png"), kernel_file(NAIVE));
    // The adapter may have a better form of its own.
    let layer = Shape { m: 33, n: 64, k: 64, format: WeightFormat::F16 };
    let is_idle = choose(layer, &device.caps()).kernel.form != "linear_tile";
    let told = |arguments: &[&str]| {
        let output = run(&[arguments, &["--wgsl-override", &format!("linear_tile={file}")]].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        let line = "your linear_tile did not run for this; --kernels linear_tile makes it run";
        let count = text(&output.stderr).lines().filter(|said| said.starts_with(line)).count();
        // A kernel that did not run proves nothing of the answer.
        assert!(count == 0 || !text(&output.stderr).contains("the same answer"), "{}", text(&output.stderr));
        count
    };
    let ask = ["ask", &image, "What is left of the cross, and what is the smallest shape?"];
    assert_eq!(told(&ask), usize::from(is_idle));
    assert_eq!(told(&["score", &image, "a", "--choice", "b"]), usize::from(is_idle));
    assert_eq!(told(&[&ask[..], &["-q"]].concat()), 0);
    assert_eq!(told(&[&ask[..], &["--kernels", "linear_tile"]].concat()), 0);
}

#[test]
fn a_users_kernel_that_cannot_run_is_refused_with_the_place() {
    if support::device().is_none() {
        return;
    }
    let image = sample("11.png");
    let wrong = |flag: &str, code: i32, parts: &[&str]| {
        refused(&["ask", &image, "a", "--wgsl-override", flag], code, parts);
    };
    let (_folder, file) = kernel_file(&NORM.replace("var mean = 0.0;", "var mean = nothing;"));
    let line = NORM.lines().position(|line| line.contains("var mean")).expect("there is one") + 1;
    wrong(&format!("norm={file}"), 3, &[&format!("{file}:{line}:"), "nothing"]);
    wrong(&format!("nrom={file}"), 3, &["\"nrom\"; did you mean norm;", "linear_tile"]);
    wrong("norm=no such file", 3, &["no such file"]);
    let twice = format!("norm={file}");
    refused(&["ask", &image, "a", "--wgsl-override", &twice, "--wgsl-override", &twice], 3, &["twice for norm"]);
    let (_folder, empty) = kernel_file("// nothing");
    wrong(&format!("norm={empty}"), 3, &[&empty, "no entry point `main`"]);
    wrong("norm", 2, &["norm=my_norm.wgsl"]);
}

#[test]
fn a_users_kernel_without_end_is_given_up() {
    if support::device().is_none() {
        return;
    }
    // Mesa's software adapter ends a loop after 65,535 rounds: long ones keep it for minutes.
    let rounds = "y[to] += 1u; ".repeat(64);
    let endless = format!("var mean = 0.0;\n    loop {{ if p.d == 0u {{ break; }} {rounds} }}");
    let endless = NORM.replace("var mean = 0.0;", &endless);
    let (_folder, file) = kernel_file(&endless);
    let flag = format!("norm={file}");
    let limit = ["--wgsl-override", &flag, "--time-out", "5"];
    refused(&[&["ask", &sample("11.png"), "a"][..], &limit].concat(), 7, &[&file, "5 s", "--time-out"]);
    let score = ["score", &sample("11.png"), "a", "--choice", "b"];
    refused(&[&score[..], &limit].concat(), 7, &[&file, "5 s"]);
}

#[test]
fn bench_kernels_times_a_users_right_kernel_and_refuses_others() {
    if support::device().is_none() {
        return;
    }
    let (_folder, right) = kernel_file(NAIVE);
    let folder = tempfile::tempdir().expect("a folder");
    let lines = folder.path().join("runs.csv").display().to_string();
    let shape = ["--op", "linear", "--shape", "33,64,96", "--runs", "2", "--format", "json", "-q", "--append", &lines];
    let bench = |file: &str| run(&[&["bench", "kernels", "--wgsl", file][..], &shape].concat());
    let output = bench(&right);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let results: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    let rows = results["kernels"].as_array().expect("a list");
    let custom: Vec<_> = rows.iter().filter(|row| row["variant"] == "custom").collect();
    assert_eq!(custom.iter().map(|row| str_of(&row["op"])).collect::<Vec<_>>(), ["linear", "linear q8", "linear q4"]);
    assert!(custom.iter().all(|row| row["cold_us"].as_f64().is_some_and(|us| us > 0.0)), "{custom:?}");
    assert!(rows.iter().any(|row| row["variant"] == "auto"));
    let (_folder, wrong) = kernel_file(&NAIVE.replace("store4(row, n0, sums)", "store4(row, n0, 2.0 * sums)"));
    let output = bench(&wrong);
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("wrong by"), "{}", text(&output.stderr));
    // Samples of a large layer may miss the rows that are wrong; small cases are compared whole.
    let some_rows = "store4(row, n0, select(sums, vec4<f32>(), row % 8u == 7u))";
    let (_folder, in_places) = kernel_file(&NAIVE.replace("store4(row, n0, sums)", some_rows));
    let output = run(&["bench", "kernels", "--wgsl", &in_places, "--shape", "257,64,64", "--runs", "2", "-q"]);
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("wrong by"), "{}", text(&output.stderr));
    let lines = std::fs::read_to_string(&lines).expect("the file");
    assert_eq!(lines.lines().map(|line| line.starts_with("date,version")).collect::<Vec<_>>(), [true, false, false]);
    // A loop that did nothing would be no work to a compiler.
    let endless = NAIVE.replace("var sums", "loop { if p.m == 0u { break; } y[p.y_offset] += 1.0; }\n    var sums");
    let (_folder, endless) = kernel_file(&endless);
    let started = std::time::Instant::now();
    // Mesa's software adapter ends a loop after 65,535 rounds: it takes many workgroups to keep it.
    let large = ["--op", "linear", "--shape", "4096,4096,32", "--time-out", "3", "-q"];
    let output = run(&[&["bench", "kernels", "--wgsl", &endless][..], &large].concat());
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("did not end within 3 s"), "{}", text(&output.stderr));
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
}
