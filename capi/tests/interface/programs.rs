//! The examples, built and run as their comments say.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::{root, sample};

const QUESTION: &str = "Can you count the things?";

/// The folder that cargo has built the library in for this test.
fn built() -> PathBuf {
    let test = std::env::current_exe().expect("a path");
    test.parent().expect("a folder").into()
}

/// Builds a program, against the shared library or the static one.
fn build(source: &Path, to: &Path, is_static: bool) -> PathBuf {
    let (program, built) = (to.join(if is_static { "ask-static" } else { "ask" }), built());
    let mut cc = Command::new("cc");
    cc.args(["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-g", "-o"]).arg(&program);
    cc.arg(source).arg("-I").arg(root().join("include"));
    match is_static {
        true => cc.arg(built.join("libinstructblip_c.a")).args(["-lm", "-ldl"]),
        false => cc.arg("-L").arg(&built).arg("-linstructblip_c").arg(format!("-Wl,-rpath,{}", built.display())),
    };
    let made = cc.arg("-lpthread").output().expect("a C compiler");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    program
}

/// The output of a program, which has to end well.
fn said(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("a program");
    let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{status}\n{out}\n{err}");
    out.into_owned()
}

/// The lines that the comment at the top of an example promises.
fn promised(example: &str) -> String {
    let text = std::fs::read_to_string(root().join("examples").join(example)).expect("an example");
    let after = text.split("prints\n\n").nth(1).expect("a promise");
    let lines = after.split("\n\n").next().unwrap_or_default().lines();
    lines.map(|line| format!("{}\n", line.trim_start())).collect()
}

#[test]
fn c_example_says_what_it_promises() {
    let folder = tempfile::tempdir().expect("a folder");
    for is_static in [false, true] {
        let program = build(&root().join("examples/ask.c"), folder.path(), is_static);
        let out = said(Command::new(&program).arg(sample("10.png")).arg(QUESTION));
        assert_eq!(out, promised("ask.c"), "static: {is_static}");
    }
    let mut wrong = Command::new(folder.path().join("ask"));
    let out = wrong.arg(sample("10.png")).args([QUESTION, "/nowhere"]).output().expect("a program");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.code() == Some(1) && said.contains("opening failed: /nowhere: no such directory"), "{said}");
}

/// Memory is used as it may be and freed; `tests/valgrind.supp` names what is not ours. Kernels are compiled without
/// optimisations, which take most of the time.
#[test]
#[ignore = "takes minutes; `make test-capi` runs it"]
fn c_example_is_clean_under_valgrind() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        return eprintln!("SKIPPED, NOTHING WAS TESTED: there is no valgrind");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let program = build(&root().join("examples/ask.c"), folder.path(), false);
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--error-exitcode=9", "--leak-check=full", "--errors-for-leak-kinds=definite", "--num-callers=30"]);
    valgrind.args(["--show-leak-kinds=definite"]);
    valgrind.arg(format!("--suppressions={}", root().join("tests/valgrind.supp").display()));
    valgrind.env("GALLIVM_PERF", "nopt").arg(program).arg(sample("10.png")).arg(QUESTION);
    assert_eq!(said(&mut valgrind), promised("ask.c"));
}

/// The program in the README is a whole one.
#[test]
fn readme_program_answers() {
    let folder = tempfile::tempdir().expect("a folder");
    let readme = std::fs::read_to_string(root().join("../README.md")).expect("the README");
    let program = readme.split("```c\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a program");
    let source = folder.path().join("ask.c");
    std::fs::write(&source, program).expect("a file");
    let program = build(&source, folder.path(), false);
    assert_eq!(said(Command::new(program).current_dir(root().join(".."))), "2");
}

#[test]
fn python_example_says_what_it_promises() {
    let mut python = Command::new("python3");
    python.env("INSTRUCTBLIP_LIBRARY", built().join("libinstructblip_c.so"));
    python.arg(root().join("examples/ask.py")).arg(sample("10.png")).arg(QUESTION);
    assert_eq!(said(&mut python), promised("ask.py"));
}
