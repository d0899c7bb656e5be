//! The structure: who may use whom, where wgpu may be named, how large a room may be, and the kernel headers.

use std::path::{Path, PathBuf};

/// Each room and the rooms it may use. `runtime::ops` is a room inside `runtime`.
const ROOMS: [(&str, &[&str]); 22] = [
    ("error", &[]),
    ("fields", &["error"]),
    ("hash", &[]),
    ("quiet", &[]),
    ("config", &["error"]),
    ("shapes", &["config"]),
    ("checkpoint", &["error"]),
    ("embedded", &["checkpoint"]),
    ("jobs", &["error", "hash", "generate"]),
    ("hub", &["error", "checkpoint", "config", "processor"]),
    ("processor", &["error", "quiet", "config", "checkpoint"]),
    ("runtime", &["error", "hash", "quiet"]),
    ("weights", &["error", "checkpoint", "runtime"]),
    ("vision", &["error", "config", "weights", "runtime"]),
    ("qformer", &["error", "config", "weights", "runtime"]),
    ("language", &["error", "config", "weights", "runtime"]),
    ("generate", &["error", "fields", "language", "runtime"]),
    (
        "model",
        &[
            "error",
            "checkpoint",
            "config",
            "embedded",
            "weights",
            "processor",
            "vision",
            "qformer",
            "language",
            "generate",
            "runtime",
        ],
    ),
    ("engine", &["error", "processor", "generate", "model", "runtime"]),
    ("lab", &["error", "checkpoint", "config", "weights", "processor", "language", "generate", "model", "runtime"]),
    ("synthesize", &["error", "hash", "config", "embedded", "weights", "model", "runtime"]),
    ("lib", &[]),
];

/// Names that the ops may not use: a recording knows no device.
const NOT_IN_OPS: [&str; 4] = ["runtime::plan", "device::Device", "Pipelines", "wgpu::"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn files(folder: &str, extension: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                let text = std::fs::read_to_string(&path).expect("a text file");
                found.push((path.strip_prefix(root()).expect("inside").to_path_buf(), text));
            }
        }
    }
    found.sort();
    found
}

/// `src/runtime/ops/norm.rs` is in room `runtime`.
fn room(path: &Path) -> String {
    let first = path.components().nth(1).expect("a file under src").as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_string()
}

/// The code of a file, without its unit tests and comments.
pub fn code(text: &str) -> impl Iterator<Item = &str> {
    let tests = text.find("#[cfg(test)]").unwrap_or(text.len());
    text[..tests].lines().map(|line| line.split("//").next().unwrap_or(""))
}

#[test]
fn rooms_use_only_the_rooms_they_may() {
    let mut checked = 0;
    for (path, text) in files("src", "rs") {
        let own = room(&path);
        if own == "bin" || own == "lib" {
            continue;
        }
        let (_, allowed) = ROOMS.iter().find(|(name, _)| *name == own).unwrap_or_else(|| panic!("no rule for {own}"));
        for line in code(&text) {
            for used in line.split("crate::").skip(1) {
                let used: String = used.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                let known = ROOMS.iter().any(|(name, _)| *name == used);
                assert!(
                    used == own || !known || allowed.contains(&used.as_str()),
                    "{}: room {own} may not use {used}: {line}",
                    path.display()
                );
                checked += 1;
            }
        }
    }
    assert!(checked > 50, "the test found {checked} uses only");
}

/// Oracles share nothing with what they judge, not even a mistake; the cases of the lab know the runtime alone.
#[test]
fn oracles_use_nothing_of_the_crate_and_cases_the_runtime_alone() {
    let mut checked = 0;
    for (path, text) in files("src/lab", "rs") {
        let oracle = path.starts_with("src/lab/oracle");
        if oracle || path.starts_with("src/lab/cases") {
            let may = |used: &str| !oracle && ["lab", "runtime", "error"].iter().any(|room| used.starts_with(room));
            let bad = code(&text).find(|line| line.split("crate::").skip(1).any(|used| !may(used)));
            assert!(bad.is_none(), "{}: {}", path.display(), bad.unwrap_or_default());
            checked += 1;
        }
    }
    assert!(checked >= 12, "{checked} files");
}

#[test]
fn ops_know_no_device() {
    let ops: Vec<_> = files("src", "rs").into_iter().filter(|(path, _)| path.starts_with("src/runtime/ops")).collect();
    assert!(ops.len() >= 9);
    for (path, text) in ops {
        for line in code(&text) {
            let bad = NOT_IN_OPS.iter().find(|bad| line.contains(*bad));
            assert!(bad.is_none(), "{}: {line}", path.display());
        }
    }
}

#[test]
fn wgpu_and_naga_are_named_in_the_runtime_only() {
    for (path, text) in files("src", "rs") {
        let inside = path.starts_with("src/runtime");
        let named = code(&text).find(|line| line.contains("wgpu::") || line.contains("naga::"));
        assert!(inside || named.is_none(), "{}: {}", path.display(), named.unwrap_or_default());
    }
}

#[test]
fn no_room_outgrows_its_walls() {
    let limits = [("src", "rs", 600), ("tests", "rs", 800), ("shaders", "wgsl", 250), ("examples", "rs", 80)];
    for (folder, extension, limit) in limits {
        for (path, text) in files(folder, extension) {
            let lines = text.lines().count();
            assert!(lines <= limit, "{} has {lines} lines, more than {limit}", path.display());
        }
    }
}

/// The functions of a formatted file with their lines and parameters, `self` among them.
fn functions(text: &str) -> Vec<(String, usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let words = line.trim_start();
        let indent = &line[..line.len() - words.len()];
        let Some((before, after)) = words.split_once("fn ") else { continue };
        let is_head =
            before.split(' ').all(|word| word.is_empty() || word.starts_with("pub") || word.contains("const"));
        let Some(name) = after.split(['(', '<']).next().filter(|_| is_head && after.contains('(')) else { continue };
        let body = lines[start..].iter().position(|line| line.strip_prefix(indent).is_some_and(|rest| rest == "}"));
        let one_line = line.ends_with('}') || line.ends_with(';');
        let head: String = lines[start..].iter().take_while(|line| !line.ends_with(';')).copied().collect();
        let list = head.split_once('(').map_or("", |(_, rest)| rest);
        // Parameters are as many as there are commas outside of brackets, but for one that ends the list.
        let (mut depth, mut parameters, mut since_comma, mut last) = (1, 0, false, ' ');
        for c in list.chars() {
            depth += i32::from("([{<".contains(c)) - i32::from(")]}".contains(c) || (c == '>' && last != '-'));
            match c {
                _ if depth == 0 => break,
                ',' if depth == 1 => since_comma = false,
                c if !c.is_whitespace() && !since_comma => (since_comma, parameters) = (true, parameters + 1),
                _ => {}
            }
            last = c;
        }
        found.push((name.into(), if one_line { 1 } else { body.map_or(1, |end| end + 1) }, parameters));
    }
    found
}

#[test]
fn functions_are_short_and_take_little() {
    let mut unlike = Vec::new();
    for (path, text) in files("src", "rs") {
        for (name, lines, parameters) in functions(&text) {
            let place = format!("{}: {name}", path.display());
            if lines > 60 || parameters > 6 {
                unlike.push(format!("{place} has {lines} lines and {parameters} parameters"));
            }
        }
    }
    assert!(unlike.is_empty(), "{}", unlike.join("\n"));
}

#[test]
fn nothing_is_left_undone_or_unwrapped() {
    for (path, text) in files("src", "rs") {
        for line in code(&text) {
            let bad = ["todo!(", "unimplemented!(", ".unwrap()", "dbg!("].iter().find(|bad| line.contains(*bad));
            assert!(bad.is_none(), "{}: {line}", path.display());
        }
    }
}
