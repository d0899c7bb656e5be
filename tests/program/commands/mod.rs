//! Tests of the commands and flags for the whole family, run as users run them.

mod ask;
mod bench;
mod custom;
mod many;
mod stages;

use std::path::Path;

use serde_json::Value;

use crate::support::golden::tests_folder;
use crate::support::program::{run, text};

/// The output of a run that succeeds.
fn stdout(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout).to_owned()
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&stdout(arguments)).expect("one JSON object")
}

/// Rows of the embedded model's recorded questions.
fn recorded() -> Vec<Value> {
    let rows = std::fs::read_to_string(tests_folder().join("shapes/samples.jsonl")).expect("the samples");
    rows.lines().map(|line| serde_json::from_str(line).expect("a row")).collect()
}

fn str_of(value: &Value) -> &str {
    value.as_str().expect("a text")
}

fn tensor(path: &Path, name: &str) -> (Vec<usize>, Vec<f32>) {
    let bytes = std::fs::read(path).expect("the file");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("a valid file");
    let view = file.tensor(name).unwrap_or_else(|_| panic!("no {name} in {:?}", file.names()));
    let values = view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    (view.shape().to_vec(), values)
}
