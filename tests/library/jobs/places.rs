//! Jobs that would write over what they read, over each other, or over what is somebody else's; and inputs that are cut.

use std::path::{Path, PathBuf};

use instructblip::jobs::{Defaults, Disk, Input, Job, Merge, Shard, asked_with, merge};

use super::{Bench, Wanted};

/// The refusal of a job, after which its input is as it was.
fn refusal(bench: &Bench, output: PathBuf, status: Option<PathBuf>) -> String {
    let (input, before) = (bench.input(), bench.read("rows.jsonl"));
    let setup = bench.setup(&input, &Wanted { force: true, ..Wanted::default() });
    let Err(error) = Job::open(instructblip::jobs::Setup { output, status, ..setup }) else { panic!("it was taken") };
    assert_eq!(bench.read("rows.jsonl"), before);
    error.to_string()
}

#[test]
fn nothing_is_written_over_what_is_read() {
    let bench = Bench::new(3);
    let (rows, out) = (bench.path("rows.jsonl"), bench.path("out.jsonl"));
    assert!(refusal(&bench, rows.clone(), None).contains("which is read"));
    assert!(refusal(&bench, out.clone(), Some(rows.clone())).contains("which is read"));
    assert!(refusal(&bench, out.clone(), Some(out.clone())).contains("is the output"));
    std::fs::write(bench.path("notes.txt"), "mine").expect("written");
    assert!(refusal(&bench, out.clone(), Some(bench.path("notes.txt"))).contains("something else"));
    assert_eq!(bench.read("notes.txt"), "mine");
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&rows, bench.path("link.jsonl")).expect("a link");
        std::fs::hard_link(&rows, bench.path("hard.jsonl")).expect("a link");
        assert!(refusal(&bench, bench.path("link.jsonl"), None).contains("which is read"));
        assert!(refusal(&bench, bench.path("hard.jsonl"), None).contains("which is read"));
    }
    let pictures = Input::Pictures(vec![("a".into(), rows.clone())]);
    let setup = bench.setup(&pictures, &Wanted { force: true, ..Wanted::default() });
    assert!(Job::open(instructblip::jobs::Setup { output: rows, ..setup }).is_err(), "a picture of that name");
    // A status file of an earlier run is no such thing.
    let wanted = Wanted { status: true, ..Wanted::default() };
    bench.run(&wanted).expect("an outcome");
    bench.run(&wanted).expect("once more");
}

#[cfg(unix)]
#[test]
fn two_names_of_one_output_have_one_lock() {
    let bench = Bench::new(3);
    let (input, wanted) = (bench.input(), Wanted::default());
    std::fs::write(bench.path("out.jsonl"), "").expect("written");
    std::os::unix::fs::symlink(bench.path("out.jsonl"), bench.path("other.jsonl")).expect("a link");
    let held = Job::open(bench.setup(&input, &wanted)).expect("a job");
    let setup = bench.setup(&input, &wanted);
    let second = Job::open(instructblip::jobs::Setup { output: bench.path("other.jsonl"), ..setup });
    assert!(matches!(second, Err(instructblip::Error::InUse { .. })));
    drop(held);
}

fn merging(input: &Input, parts: &[PathBuf], output: &Path) -> instructblip::Result<instructblip::jobs::Merged> {
    let defaults = Defaults::default();
    let disk = Disk::default();
    merge(&Merge { input, defaults: Some(&defaults), parts: parts.to_vec(), output: Some(output), times: false, disk })
}

#[test]
fn answers_to_other_questions_are_not_merged() {
    let mut bench = Bench::new(20);
    let part = |index| Wanted { shard: Shard { index, of: 2 }, ..Wanted::default() };
    let parts = [0, 1].map(|index| bench.path(&Shard { index, of: 2 }.file_name()));
    assert!(bench.run(&part(0)).expect("an outcome").complete && bench.run(&part(1)).expect("an outcome").complete);
    assert_eq!(asked_with(&parts).expect("a manifest").expect("defaults")["prompt"], "");
    assert!(merging(&bench.input(), &parts, &bench.path("rows.jsonl")).is_err(), "over its own input");
    let rows = bench.read("rows.jsonl");
    std::fs::write(bench.path("rows.jsonl"), rows.replace("what is 7?", "who is 7?")).expect("written");
    let merged = merging(&bench.input(), &parts, &bench.path("merged.jsonl")).expect("a merge");
    assert_eq!((merged.other.count, merged.other.first.as_slice()), (1, ["\"row 7\"".to_string()].as_slice()));
    assert!(!merged.is_whole() && !bench.path("merged.jsonl").exists());
    std::fs::write(bench.path("rows.jsonl"), rows).expect("written");
    assert!(merging(&bench.input(), &parts, &bench.path("merged.jsonl")).expect("a merge").is_whole());
    bench.defaults.prompt = "other".into();
    bench.run(&part(1)).expect("an outcome");
    let refused = merging(&bench.input(), &parts, &bench.path("merged.jsonl")).expect_err("two jobs").to_string();
    assert!(refused.contains("not parts of one job") && refused.contains("part-00001"), "{refused}");
}

#[test]
fn captions_of_one_name_and_those_that_cannot_be_written_are_told() {
    let bench = Bench::new(4);
    let rows = bench.read("rows.jsonl").replace("\"3.png\"", "\"2.jpg\"");
    std::fs::write(bench.path("rows.jsonl"), rows).expect("written");
    std::fs::create_dir(bench.path("1.txt")).expect("a folder in the way");
    let wanted = Wanted { sidecar: Some("txt".into()), force: true, ..Wanted::default() };
    let outcome = bench.run(&wanted).expect("an outcome");
    assert!(outcome.complete && outcome.captions.kept == 0);
    let (shared, unwritten) = (&outcome.captions.shared, &outcome.captions.unwritten);
    assert!(shared.count == 1 && shared.first[0].ends_with("2.txt"), "{shared}");
    assert!(unwritten.count == 1 && unwritten.first[0].contains("1.txt"), "{unwritten}");
    assert_eq!(bench.read("2.txt").lines().count(), 1);
}

/// The rows of an archive in which so many bytes are left.
fn rows_of(bench: &Bench, whole: &[u8], bytes: usize) -> instructblip::Result<Vec<bool>> {
    std::fs::write(bench.path("cut.tar"), &whole[..bytes]).expect("written");
    let input = Input::Archives(vec![bench.path("cut.tar")]);
    let mut rows = Vec::new();
    input.each(&Defaults::default(), &|_| true, &mut |row| {
        rows.push(row.asked.is_ok());
        Ok(std::ops::ControlFlow::Continue(()))
    })?;
    Ok(rows)
}

#[test]
fn archives_that_were_cut_are_refused_wherever_it_was() {
    let bench = Bench::new(0);
    let mut archive = tar::Builder::new(Vec::new());
    let twice = ["a.png", "b.png", "b.jpg"];
    for (i, name) in ["0.png", "0.txt", "1.png", "2.png"].iter().chain(&twice).enumerate() {
        let contents = vec![b'x'; 200 * i];
        let mut header = tar::Header::new_gnu();
        header.set_size(contents.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, contents.as_slice()).expect("added");
    }
    let whole = archive.into_inner().expect("bytes");
    let good = [true, true, true, true, false];
    assert_eq!(rows_of(&bench, &whole, whole.len()).expect("rows"), good, "two pictures of one name are no row");
    let mut refused = 0;
    for bytes in (0..whole.len()).step_by(128) {
        match rows_of(&bench, &whole, bytes) {
            // One of the two blocks of zeros is enough.
            Ok(rows) => assert!(rows == good && bytes + 512 >= whole.len(), "cut after {bytes} of {}", whole.len()),
            Err(error) => {
                assert!(error.to_string().contains("cut.tar"), "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 40, "{refused} cuts");
    std::fs::write(bench.path("cut.tar"), "not an archive at all, but a long text\n".repeat(40)).expect("written");
    let error = rows_of(&bench, "garbage that is no archive ".repeat(60).as_bytes(), 1500).expect_err("no tar file");
    assert!(
        error.to_string().contains("damaged, or no tar file") || error.to_string().contains("ends early"),
        "{error}"
    );
}
