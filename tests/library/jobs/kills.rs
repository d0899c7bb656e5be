//! Jobs whose process is killed: nothing is lost, nothing is doubled, and rows that kill it are found.

use std::time::Duration;

use super::stand_in::{run_to_end, spawn};
use super::{Bench, ids, others};
use crate::support::Rng;

/// Kills jobs of so many rows at random instants until there were so many kills; every job is finished in the end.
fn kill(kills: usize, rows: usize, ordered: bool, seed: u64) {
    let whole = Bench::new(rows);
    assert_eq!(run_to_end(whole.folder.path(), false), Some(0));
    let wanted = whole.merged(&["out.jsonl"]);
    let (mut rng, mut killed, mut jobs) = (Rng::new(seed), 0, 0);
    while killed < kills {
        let bench = Bench::new(rows);
        jobs += 1;
        loop {
            let mut process = spawn(bench.folder.path(), 2_000, false, ordered);
            std::thread::sleep(Duration::from_micros(u64::from(rng.below(120_000))));
            let ended = process.try_wait().expect("a process");
            if ended.is_none() && killed < kills {
                process.kill().expect("killed");
                killed += usize::from(!process.wait().expect("a process").success());
                continue;
            }
            assert!(process.wait().expect("a process").success(), "seed {seed}, after {killed} kills");
            break;
        }
        let lines = bench.read("out.jsonl");
        assert_eq!(lines.lines().count(), rows, "seed {seed}: rows in job {jobs}");
        assert!(!ordered || ids(&lines) == ids(&wanted), "seed {seed}: job {jobs} is out of order");
        assert!(bench.merged(&["out.jsonl"]) == wanted, "seed {seed}: job {jobs} has other bytes");
        let known = ["rows.jsonl", "out.jsonl", "out.jsonl.manifest.json", "out.jsonl.done", "merged.jsonl", "memory"];
        assert_eq!(others(bench.folder.path(), &known), [""; 0], "seed {seed}");
    }
    eprintln!("{killed} kills over {jobs} jobs of {rows} rows");
}

#[test]
fn no_row_is_lost_or_doubled_by_kills() {
    kill(40, 2_000, false, 1);
    // Short ones, of which many are killed at their end.
    kill(20, 200, true, 2);
}

#[test]
#[ignore = "takes minutes; make test-jobs runs it"]
fn no_row_is_lost_or_doubled_by_a_thousand_kills() {
    kill(800, 2_000, false, 3);
    kill(200, 200, true, 4);
}

#[test]
fn a_row_that_kills_the_process_twice_becomes_an_error() {
    let bench = Bench::new(40);
    let mut rows = bench.read("rows.jsonl");
    rows += "{\"id\": \"the bad one\", \"image\": \"a.png\", \"prompt\": \"poison\"}\n";
    std::fs::write(bench.path("rows.jsonl"), rows).expect("written");
    let folder = bench.folder.path();
    assert_eq!(run_to_end(folder, true), None, "killed among others");
    let code = run_to_end(folder, true);
    assert_eq!(code, Some(1), "what is suspect is asked apart");
    let output = bench.read("out.jsonl");
    assert_eq!(output.lines().count(), 41);
    let bad: Vec<&str> = output.lines().filter(|line| line.contains("\"ok\":false")).collect();
    assert_eq!(bad.len(), 1, "{bad:?}");
    assert!(bad[0].contains("the bad one") && bad[0].contains("\"code\":\"crashed\""), "{bad:?}");
    assert!(bad[0].contains("\"retry\":false"), "{bad:?}");
    assert_eq!(run_to_end(folder, true), Some(1), "it is not risked again");
}

#[test]
#[ignore = "takes minutes; make test-jobs runs it"]
fn memory_hardly_grows_with_rows() {
    let most = |rows, ordered| {
        let bench = Bench::new(rows);
        // Once more with everything to be compared, which keeps more.
        for _ in 0..2 {
            let code = spawn(bench.folder.path(), 0, false, ordered).wait().expect("a process").code();
            assert_eq!(code, Some(0));
        }
        let line = bench.read("memory");
        line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok())
    };
    // Sixteen bytes a row, twice that while lines are put in order, and as much as 3 MB for what differs from run to run.
    for (ordered, bytes) in [(false, 16), (true, 32)] {
        let few_and_many = most(2_000, ordered).zip(most(200_000, ordered));
        let Some((few, many)) = few_and_many else { return eprintln!("NOT MEASURED: no /proc") };
        eprintln!("most memory, ordered: {ordered}: {few} kB for 2,000 rows, {many} kB for 200,000");
        assert!(many < few + bytes * 200 + 3_000, "{few} kB and {many} kB");
    }
}
