//! Inside the rooms: no files that use each other in a circle, and the runtime from ground to roof.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::rooms::{code, files};

/// The floors of `src/runtime`: each file uses files of lower floors only.
const RUNTIME: [&[&str]; 12] = [
    &["counters", "kv_format", "loss", "parallel", "robust", "piece", "stream", "user_cache", "watch", "weight_format"],
    &["gpu", "kept", "kernels"],
    &["buffers", "custom"],
    &["caps", "tensor"],
    &["adapter", "pipelines", "recorder"],
    &["device", "ops"],
    &["memory", "pace"],
    &["plan"],
    &["profile", "upload"],
    &["matrix_check"],
    &["open"],
    &["isa"],
];

/// The uses of modules: for each folder its files and folders, with those that each one uses. `mod` is the folder's own
/// file.
type Graph = BTreeMap<Vec<String>, BTreeMap<String, BTreeSet<String>>>;

/// The modules under `root` as a graph.
fn graph(root: &str) -> Graph {
    let folder = Path::new(root);
    let of_root = |path: &Path| root != "src" || !path.starts_with("src/bin");
    let files: Vec<_> = files(root, "rs").into_iter().filter(|(path, _)| of_root(path)).collect();
    let modules: Vec<Vec<String>> =
        files.iter().map(|(path, _)| module(path.strip_prefix(folder).expect("inside"))).collect();
    let known: BTreeSet<&Vec<String>> = modules.iter().collect();
    let mut graph = Graph::new();
    for (module, (_, text)) in modules.iter().zip(&files) {
        for used in paths(&code(text).collect::<Vec<_>>().join("\n")) {
            let used = resolve(module, &used, &known);
            let shared = module.iter().zip(&used).take_while(|(a, b)| a == b).count();
            let child = |path: &[String]| path.get(shared).map_or("mod", String::as_str).to_string();
            let (from, to) = (child(module), child(&used));
            if from != to {
                graph.entry(module[..shared].to_vec()).or_default().entry(from).or_default().insert(to);
            }
        }
    }
    graph
}

/// `runtime/ops/mod.rs` is module `runtime::ops`; the root is the empty path.
fn module(path: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        path.iter().map(|name| name.to_string_lossy().trim_end_matches(".rs").into()).collect();
    if names.last().is_some_and(|name| ["mod", "lib", "main"].contains(&name.as_str())) {
        names.pop();
    }
    names
}

/// The module that a path written in `module` leads to: the longest part of it that is one.
fn resolve(module: &[String], path: &str, known: &BTreeSet<&Vec<String>>) -> Vec<String> {
    let mut found = module.to_vec();
    for segment in path.split("::") {
        match segment {
            "crate" => found.clear(),
            "super" => drop(found.pop()),
            "self" => {}
            name => {
                found.push(name.into());
                if !known.contains(&found) {
                    found.pop();
                    break;
                }
            }
        }
    }
    found
}

/// Every path in a text that begins with `crate`, `super` or `self`, with `{…}` written out.
fn paths(code: &str) -> Vec<String> {
    // Whom an item is visible to is no use of it.
    let code: String = code
        .split("pub(in ")
        .enumerate()
        .map(|(i, part)| if i == 0 { part } else { part.split_once(')').map_or("", |p| p.1) })
        .collect();
    let mut found = Vec::new();
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(start) {
            let is_inside_a_path = code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
            if !is_inside_a_path {
                let mut depth = 0;
                let end = code[at..].find(|c: char| {
                    depth += i32::from(c == '{') - i32::from(c == '}');
                    depth == 0 && !(c.is_alphanumeric() || c == '_' || c == ':' || c == '}')
                });
                found.extend(written_out(&code[at..end.map_or(code.len(), |end| at + end)]));
            }
        }
    }
    found
}

/// `a::{b, c::{d, e as f}}` as `a::b`, `a::c::d`, `a::c::e`.
fn written_out(path: &str) -> Vec<String> {
    let Some((before, rest)) = path.split_once('{') else {
        return vec![path.split(" as ").next().unwrap_or(path).trim().into()];
    };
    let inside = rest.rsplit_once('}').map_or(rest, |(inside, _)| inside);
    let mut depth = 0;
    let at_comma = |c: char| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    };
    let parts = inside.split(at_comma).map(str::trim).filter(|part| !part.is_empty());
    parts.flat_map(|part| written_out(&format!("{}{part}", before.trim()))).collect()
}

/// Names that use each other in a circle, if there are any.
fn circle(graph: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn visit(
        at: &str,
        graph: &BTreeMap<String, BTreeSet<String>>,
        way: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> Option<Vec<String>> {
        if let Some(start) = way.iter().position(|name| name == at) {
            return Some(way[start..].to_vec());
        }
        if done.contains(at) {
            return None;
        }
        way.push(at.into());
        let found = graph.get(at).into_iter().flatten().find_map(|next| visit(next, graph, way, done));
        way.pop();
        done.insert(at.into());
        found
    }
    graph.keys().find_map(|name| visit(name, graph, &mut Vec::new(), &mut BTreeSet::new()))
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    for root in ["src", "src/bin/instructblip"] {
        let graph = graph(root);
        assert!(graph.values().map(BTreeMap::len).sum::<usize>() > 30, "{root}: few modules were found");
        for (folder, uses) in graph {
            assert_eq!(circle(&uses), None, "in {root}/{}", folder.join("/"));
        }
    }
}

#[test]
fn the_runtime_stands_on_lower_floors() {
    let graph = graph("src");
    let uses = &graph[&vec!["runtime".to_string()]];
    let floor = |name: &str| RUNTIME.iter().position(|files| files.contains(&name));
    for (file, used) in uses.iter().filter(|(file, _)| *file != "mod") {
        let own = floor(file).unwrap_or_else(|| panic!("runtime/{file} has no floor"));
        for used in used {
            assert!(floor(used).is_some_and(|below| below < own), "runtime/{file} uses {used}, which is not below it");
        }
    }
}

#[test]
fn circles_are_found() {
    let written = |code: &str| paths(code);
    assert_eq!(
        written("use crate::{a::b, c::{d, e as f}};\nlet x = super::y::Z { w: 1 };"),
        ["crate::a::b", "crate::c::d", "crate::c::e", "super::y::Z"]
    );
    assert_eq!(written("pub(in crate::a) fn b(c: &self::D) {}"), ["self::D"]);
    let uses = |pairs: &[(&str, &str)]| {
        let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (from, to) in pairs {
            graph.entry(from.to_string()).or_default().insert(to.to_string());
        }
        graph
    };
    assert_eq!(circle(&uses(&[("a", "b"), ("b", "c"), ("a", "c")])), None);
    assert_eq!(circle(&uses(&[("a", "b"), ("b", "c"), ("c", "b")])), Some(vec!["b".into(), "c".into()]));
}
