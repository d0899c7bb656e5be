//! Disks that fail, one operation after another, and outputs that end anywhere.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use instructblip::Error;
use instructblip::jobs::Disk;

use super::{Bench, Wanted, ids, others};

/// A disk whose `n`-th operation fails, and with `for_good` all after it; and the count of operations.
fn failing(n: u64, for_good: bool) -> (Disk, Arc<AtomicU64>) {
    let count = Arc::new(AtomicU64::new(0));
    let counted = count.clone();
    let disk = Disk::with_faults(Arc::new(move |_, _| {
        let now = counted.fetch_add(1, Ordering::Relaxed);
        match now == n || (for_good && now > n) {
            true => Err(io::Error::from(io::ErrorKind::StorageFull)),
            false => Ok(()),
        }
    }));
    (disk, count)
}

/// Has every operation of a job fail in turn: the job ends with an error, and done again it is as if nothing had been.
fn every_operation_fails_once(prepare: &dyn Fn(&Bench), for_good: bool, ordered: bool) -> u64 {
    let whole = Bench::new(10);
    prepare(&whole);
    whole.run(&Wanted::default()).expect("an outcome");
    let merged = whole.merged(&["out.jsonl"]);
    for n in 0.. {
        let bench = Bench::new(10);
        prepare(&bench);
        let (disk, count) = failing(n, for_good);
        let wanted = Wanted { sidecar: Some("txt".into()), status: true, ordered, ..Wanted::default() };
        let result = bench.run(&Wanted { disk, ..wanted.clone() });
        if count.load(Ordering::Relaxed) <= n {
            assert!(result.is_ok_and(|outcome| outcome.complete));
            return n;
        }
        if let Err(error) = &result {
            let is_full = matches!(error, Error::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull);
            assert!(is_full, "operation {n}: {error}");
        }
        let again = bench.run(&wanted).unwrap_or_else(|error| panic!("after operation {n}: {error}"));
        assert!(again.complete && again.counts.failed == 0, "after operation {n}: {again:?}");
        assert_eq!(bench.merged(&["out.jsonl"]), merged, "after operation {n}");
        assert!(!ordered || ids(&bench.read("out.jsonl")) == ids(&merged), "after operation {n}");
        assert_eq!(bench.read("3.txt").lines().count(), 1, "after operation {n}");
        let rest = others(bench.folder.path(), &["rows.jsonl", "merged.jsonl", "status.json"]);
        let rest: Vec<_> = rest.iter().filter(|name| !name.ends_with(".txt")).collect();
        assert_eq!(rest, ["out.jsonl", "out.jsonl.done", "out.jsonl.manifest.json"], "after operation {n}");
    }
    unreachable!("a job has an end")
}

#[test]
fn every_operation_of_a_job_may_fail() {
    let nothing = |_: &Bench| {};
    for (for_good, ordered) in [(false, false), (true, false), (false, true), (true, true)] {
        let operations = every_operation_fails_once(&nothing, for_good, ordered);
        assert!(operations > 40, "{operations} operations only");
    }
}

#[test]
fn every_operation_of_a_job_that_goes_on_may_fail() {
    let torn = |bench: &Bench| {
        std::fs::write(bench.path("rows.jsonl"), bench.read("rows.jsonl").replace("is 4?", "was 4?")).expect("written");
        bench.run(&Wanted { sidecar: Some("txt".into()), ..Wanted::default() }).expect("an outcome");
        // Asked otherwise now, and a line is torn.
        std::fs::write(bench.path("rows.jsonl"), bench.read("rows.jsonl").replace("was 4?", "is 4?")).expect("written");
        let output = bench.read("out.jsonl");
        std::fs::write(bench.path("out.jsonl"), &output[..output.len() - 20]).expect("written");
    };
    for (for_good, ordered) in [(false, false), (true, false), (false, true), (true, true)] {
        assert!(every_operation_fails_once(&torn, for_good, ordered) > 30);
    }
}

#[test]
fn a_full_disk_says_what_is_needed() {
    let bench = Bench::new(10);
    let disk = Disk::with_faults(Arc::new(|operation, path| {
        let is_line = operation == instructblip::jobs::Operation::Write && path.ends_with("out.jsonl");
        if is_line { Err(io::Error::from(io::ErrorKind::StorageFull)) } else { Ok(()) }
    }));
    let error = bench.run(&Wanted { disk, ..Wanted::default() }).expect_err("no space").to_string();
    for part in ["out.jsonl", "no space is left", "the 10 rows that are left need about", "kB", "goes on"] {
        assert!(error.contains(part), "no {part:?} in {error}");
    }
    assert_eq!(bench.read("out.jsonl"), "", "half a line is cut");
}

#[test]
fn a_disk_without_room_for_a_second_file_keeps_the_first() {
    let bench = Bench::new(10);
    let disk = Disk::with_faults(Arc::new(|operation, path| {
        let is_copy = operation == instructblip::jobs::Operation::Write && path.ends_with("out.jsonl.unfinished");
        if is_copy { Err(io::Error::from(io::ErrorKind::StorageFull)) } else { Ok(()) }
    }));
    // Out of order by a row that is asked again.
    bench.run(&Wanted::default()).expect("an outcome");
    let lines = bench.read("out.jsonl");
    let (first, rest) = lines.split_once('\n').expect("lines");
    std::fs::write(bench.path("out.jsonl"), format!("{rest}{first}\n")).expect("written");
    let ordered = Wanted { ordered: true, ..Wanted::default() };
    let error = bench.run(&Wanted { disk, ..ordered.clone() }).expect_err("no space").to_string();
    for part in ["out.jsonl", "no space is left; the end needs about", "kB", "goes on"] {
        assert!(error.contains(part), "no {part:?} in {error}");
    }
    assert_eq!(bench.read("out.jsonl"), format!("{rest}{first}\n"));
    assert!(!bench.path("out.jsonl.done").exists());
    assert_eq!(bench.run(&ordered).expect("an outcome").counts.now, 0);
    assert_eq!(ids(&bench.read("out.jsonl")), ids(&bench.merged(&["out.jsonl"])));
}

#[test]
fn an_output_that_ends_anywhere_is_gone_on_with() {
    let bench = Bench::new(12);
    bench.run(&Wanted::default()).expect("an outcome");
    let (output, merged) = (bench.read("out.jsonl"), bench.merged(&["out.jsonl"]));
    let lines: Vec<&str> = output.split_inclusive('\n').collect();
    let last_two = lines[10].len() + lines[11].len();
    for end in output.len() - last_two..output.len() {
        std::fs::write(bench.path("out.jsonl"), &output.as_bytes()[..end]).expect("written");
        let outcome = bench.run(&Wanted::default()).expect("an outcome");
        assert_eq!(outcome.counts.now, if end < output.len() - lines[11].len() { 2 } else { 1 }, "cut at {end}");
        assert_eq!(bench.merged(&["out.jsonl"]), merged, "cut at {end}");
    }
    // A machine that ended leaves zeros where it had not written yet, and two processes leave lines twice.
    let zeros = format!("{}\0\0\0\0\n{}{}", lines[..4].concat(), lines[6..].concat(), lines[7]);
    std::fs::write(bench.path("out.jsonl"), zeros).expect("written");
    assert_eq!(bench.run(&Wanted::default()).expect("an outcome").counts.now, 2);
    assert_eq!(bench.merged(&["out.jsonl"]), merged);
}
