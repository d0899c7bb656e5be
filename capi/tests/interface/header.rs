//! The header is that of the crate.

use std::path::Path;

use instructblip::GenerateOptions;
use instructblip::processor::Task;
use serde_json::Value;

/// The header is what cbindgen makes of the crate; `UPDATE_HEADER=1` writes it.
#[test]
fn header_is_that_of_the_functions() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("settings");
    let bindings = cbindgen::Builder::new().with_crate(root).with_config(config).generate().expect("a header");
    let mut made = Vec::new();
    bindings.write(&mut made);
    let (made, path) = (String::from_utf8(made).expect("UTF-8"), root.join("include/instructblip.h"));
    if std::env::var_os("UPDATE_HEADER").is_some() {
        std::fs::write(&path, &made).expect("a file");
    }
    let is = std::fs::read_to_string(&path).expect("the header");
    assert!(is == made, "include/instructblip.h is not up to date; UPDATE_HEADER=1 writes it anew");
}

/// The comments list all parameters with their defaults, and all tasks. Those of the options are held to it in `settings.rs`.
#[test]
fn comments_have_every_parameter_and_task() {
    let comments = include_str!("../../src/question.rs");
    let Ok(Value::Object(all)) = serde_json::to_value(GenerateOptions::default()) else { panic!("an object") };
    let params = all.iter().map(|(name, default)| format!("/// \"{name}\": {default}, "));
    let tasks = Task::ALL.iter().map(|(name, _)| format!("/// \"{name}\": "));
    for line in params.chain(tasks) {
        assert!(comments.contains(&line), "the comments lack {line}");
    }
}
