//! The program as a child process.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use super::golden::tests_folder;

/// The program, ready for arguments.
pub fn program() -> Command {
    let program = env!("CARGO_BIN_EXE_instructblip");
    // Under a driver that brings its own C library, each process is begun with that.
    let mut command = match std::env::var_os("INSTRUCTBLIP_TEST_DRIVER") {
        Some(driver) => {
            let mut run = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tools/drivers/run.sh"));
            run.arg(driver).arg(program);
            run
        }
        None => Command::new(program),
    };
    // As in containers and services, where drivers' libraries would complain about it on stderr.
    command.env_remove("XDG_RUNTIME_DIR").env("INSTRUCTBLIP_CACHE", "off").stdin(Stdio::null());
    command
}

/// Runs the program with these arguments.
pub fn run(arguments: &[&str]) -> Output {
    program().args(arguments).output().expect("the program runs")
}

/// Asks a process to end, as services do.
pub fn ask_to_end(child: &Child) {
    let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
    assert!(sent.expect("kill runs").success());
}

/// The lines of a process on its stderr, which is a pipe, as they come.
pub fn messages(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    BufReader::new(child.stderr.take().expect("a pipe")).lines().map(|line| line.expect("a line"))
}

/// Bytes as text.
pub fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

/// Path of one of the embedded model's pictures.
pub fn sample(name: &str) -> String {
    tests_folder().join("shapes/samples").join(name).display().to_string()
}

/// Requires an exit code, an explanation on stderr with all of `parts`, and nothing on stdout.
pub fn refused(arguments: &[&str], code: i32, parts: &[&str]) {
    let output = run(arguments);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{arguments:?} wrote {}", text(&output.stdout));
    parts.iter().for_each(|part| assert!(stderr.contains(part), "{arguments:?}: no {part:?} in {stderr}"));
    assert!(!stderr.contains("panicked") && !stderr.contains("internal error"), "{stderr}");
}
