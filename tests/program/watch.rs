//! `bench kernels --watch`: a custom kernel is measured anew whenever its file is saved.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use crate::support;
use crate::support::program::program;

const NAIVE: &str = include_str!("../../examples/wgsl/linear_naive.wgsl");

#[test]
fn every_version_of_a_watched_kernel_is_measured() {
    if support::device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("mine.wgsl");
    std::fs::write(&file, NAIVE).expect("written");
    let mut command = program();
    command
        .args(["bench", "kernels", "--shape", "33x64x96", "--filter", "linear 3", "--runs", "2", "--watch", "--wgsl"]);
    let mut child = command.arg(&file).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs");
    // Both streams are read by threads of their own, so that neither fills up.
    let (say, heard) = mpsc::channel();
    let streams: [Box<dyn std::io::Read + Send>; 2] =
        [Box::new(child.stdout.take().expect("stdout")), Box::new(child.stderr.take().expect("stderr"))];
    for stream in streams {
        let say = say.clone();
        std::thread::spawn(move || {
            BufReader::new(stream).lines().map_while(Result::ok).for_each(|line| drop(say.send(line)));
        });
    }
    let hear = |wanted: &str| {
        let mut lines = Vec::new();
        loop {
            let line =
                heard.recv_timeout(Duration::from_secs(120)).unwrap_or_else(|_| panic!("no {wanted}: {lines:?}"));
            let found = line.contains(wanted);
            lines.push(line);
            if found {
                return;
            }
        }
    };
    hear("custom");
    hear("to be saved");
    std::fs::write(&file, NAIVE.replace("var sums", "var sum")).expect("written");
    hear("mine.wgsl:");
    hear("to be saved");
    std::fs::write(&file, NAIVE).expect("written");
    hear("custom");
    child.kill().expect("the program is there");
    child.wait().expect("the program ends");
}
