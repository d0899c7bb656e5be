//! Runs over many inputs: `eval`, and pictures and files of questions that are bad.

use std::path::Path;

use serde_json::Value;

use super::{json, recorded, stdout, str_of, tensor};
use crate::support;
use crate::support::golden::tests_folder;
use crate::support::program::{program, refused, run, sample, text};

#[test]
fn eval_counts_by_group_and_goes_on_where_it_was_left() {
    if support::device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let rows = recorded();
    let mut lines: Vec<String> = Vec::new();
    for (i, row) in rows.iter().take(6).enumerate() {
        let name = Path::new(str_of(&row["image"])).file_name().expect("a name");
        std::fs::copy(tests_folder().join("shapes").join(str_of(&row["image"])), folder.path().join(name))
            .expect("copied");
        // Every third is given an answer that is wrong.
        let answer = if i % 3 == 0 { "nothing like it" } else { str_of(&row["hf_greedy"]) };
        let line = serde_json::json!({
            "image": name.to_string_lossy(), "prompt": row["prompt"], "answers": [answer.to_uppercase()],
            "kind": if i < 3 { "first" } else { "second" }, "id": i,
        });
        lines.push(line.to_string());
    }
    std::fs::write(path("questions.jsonl"), lines.join("\n")).expect("written");
    let (questions, output) = (path("questions.jsonl"), path("predictions.jsonl"));
    let eval =
        |flags: &[&str]| json(&[&["eval", &questions, "-o", &output, "--group", "kind", "--json"][..], flags].concat());
    let wanted: Value = serde_json::json!({
        "all": {"count": 6, "exact_match": 4.0 / 6.0, "vqa_accuracy": 4.0 / 6.0},
        "groups": {
            "first": {"count": 3, "exact_match": 2.0 / 3.0, "vqa_accuracy": 2.0 / 3.0},
            "second": {"count": 3, "exact_match": 2.0 / 3.0, "vqa_accuracy": 2.0 / 3.0},
        },
        "ungrouped": null,
        "skipped": 0,
    });
    assert_eq!(eval(&["--batch-size", "4"]), wanted);
    let written = std::fs::read_to_string(&output).expect("predictions");
    let ids = written.lines().map(|line| serde_json::from_str::<Value>(line).expect("an object")["id"].as_u64());
    assert_eq!(ids.collect::<Vec<_>>(), (0..6).map(Some).collect::<Vec<_>>());

    // Torn in the fourth line, as by an interruption: three answers are kept, three asked again.
    let keep: usize = written.lines().take(3).map(|line| line.len() + 1).sum();
    std::fs::write(&output, &written[..keep + 20]).expect("torn");
    assert_eq!(eval(&[]), wanted);
    let again = std::fs::read_to_string(&output).expect("predictions");
    assert!(again.starts_with(&written[..keep]));
    assert!(written.lines().skip(3).all(|line| again.lines().any(|other| other == line)), "{again}");
    assert!(again.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "the torn line is gone: {again}");

    // Nothing is left to ask, so no device is looked for.
    assert_eq!(eval(&["--adapter", "no such adapter"]), wanted);
    let other = ["eval", &questions, "-o", &output, "--num-beams", "2"];
    refused(&other, 3, &["other settings", "num_beams: 2", "--force"]);
    assert_eq!(json(&[&other[..], &["--force", "--json"]].concat())["all"]["count"], 6);

    for (line, part) in [
        ("no JSON", "line 2: is not a JSON object"),
        (r#"{"image": "x.png", "answers": []}"#, r#"line 2: lacks "prompt" (or "question") and "answers""#),
        (r#"{"image": "missing.png", "question": "a", "answer": "a"}"#, "missing.png"),
    ] {
        std::fs::write(path("bad.jsonl"), format!("{}\n{line}\n", lines[0])).expect("written");
        refused(&["eval", &path("bad.jsonl"), "-o", &path("none.jsonl"), "--strict"], 3, &[part, "line 2"]);
        assert!(!folder.path().join("none.jsonl").exists(), "nothing is begun");
    }
    refused(&["eval", &questions, "-o", &questions], 3, &["is the file of questions"]);
    refused(&["eval", &questions, "-o", &questions, "--force"], 3, &["is the file of questions"]);
    // Choices for tasks that need them, an answer that is a number.
    let science = ["eval", &path("choices.jsonl"), "-o", &path("chosen.jsonl"), "--task", "science"];
    let image = str_of(&rows[0]["image"]).rsplit('/').next().expect("a name");
    let line =
        |choices: Value| serde_json::json!({"image": image, "prompt": "Which?", "answers": 2, "choices": choices});
    std::fs::write(path("choices.jsonl"), line(serde_json::json!([1, "two"])).to_string()).expect("written");
    assert_eq!(json(&[&science[..], &["--json"]].concat())["all"]["count"], 1);
    std::fs::write(path("choices.jsonl"), line(Value::Null).to_string()).expect("written");
    refused(&[&science[..], &["--force"]].concat(), 3, &["needs choices"]);
    assert!(!std::fs::read(path("chosen.jsonl")).expect("a file").is_empty(), "nothing is lost");
}

#[test]
fn runs_over_many_inputs_skip_bad_ones_and_say_so() {
    if support::device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    for name in ["00.png", "01.png"] {
        std::fs::copy(sample(name), folder.path().join(name)).expect("copied");
    }
    let whole = std::fs::read(sample("02.png")).expect("a picture");
    std::fs::write(path("00-cut.png"), &whole[..60]).expect("written");
    std::fs::write(path("notes.txt"), "no picture").expect("written");
    let skipping = |arguments: &[&str], parts: &[&str]| {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(3), "{arguments:?}: {}", text(&output.stderr));
        for part in parts {
            assert!(text(&output.stderr).contains(part), "{arguments:?}: no {part:?} in {}", text(&output.stderr));
        }
        text(&output.stdout).to_owned()
    };
    let told = ["skipped: ", "00-cut.png: not a decodable picture"];
    let one_of = |all: &'static str| [&told[..], &[all]].concat();

    let lines = skipping(
        &["caption", &path(""), &path("none.png"), "-q"],
        &[&told[..], &["none.png", "2 of 4 pictures were"]].concat(),
    );
    let names: Vec<_> = lines.lines().map(|line| line.split_once('\t').expect("a name").0).collect();
    assert_eq!(names, [path("00.png"), path("01.png")]);
    refused(&["caption", &path(""), "--strict"], 3, &[told[1]]);
    refused(&["caption", &path("none.png"), &path("*.gif")], 3, &["none.png", "*.gif", "all 2 pictures were skipped"]);

    let output = path("out.safetensors");
    skipping(&["embed", &path("*.png"), "--prompt", "a", "-o", &output], &one_of("1 of 3 pictures was skipped"));
    let bytes = std::fs::read(&output).expect("the file");
    let (_, about) = safetensors::SafeTensors::read_metadata(&bytes).expect("a valid file");
    let about = about.metadata().clone().expect("metadata");
    let images: Vec<String> = serde_json::from_str(&about["images"]).expect("names");
    assert_eq!(images, [path("00.png"), path("01.png")]);
    let (shape, rows) = tensor(Path::new(&output), "image_features");
    assert_eq!(shape[0], 2);
    let alone = path("alone.safetensors");
    stdout(&["embed", &path("01.png"), "--prompt", "a", "-o", &alone, "-q"]);
    assert_eq!(tensor(Path::new(&alone), "image_features").1, rows[shape[1]..], "rows are those of the names");

    // What is read is not written over.
    for arguments in [
        &["embed", &path("00.png"), "-o", &path("00.png")][..],
        &["forward", &path("00.png"), "a", "-o", &path("00.png")],
    ] {
        refused(arguments, 3, &["00.png", "is one of the pictures"]);
    }
    let asked = r#"{"image": "00.png", "question": "What?", "answer": "x"}"#;
    std::fs::write(path("one.jsonl"), asked).expect("written");
    refused(&["eval", &path("one.jsonl"), "-o", &path("00.png"), "--force"], 3, &["is one of the pictures"]);
    refused(&["eval", &path("one.jsonl"), "-o", &path("notes.txt")], 3, &["notes.txt line 1: is no prediction"]);
    assert_eq!(std::fs::read(path("00.png")).ok(), std::fs::read(sample("00.png")).ok());
    std::fs::remove_file(path("one.jsonl")).expect("removed");

    // Names that end lines, or are no text.
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::ffi::OsStrExt;
        let odd = tempfile::tempdir().expect("a folder");
        for name in [&b"a\nb.png"[..], b"c\xff.png"] {
            std::fs::copy(sample("00.png"), odd.path().join(std::ffi::OsStr::from_bytes(name))).expect("copied");
        }
        let lines = stdout(&["caption", &odd.path().join("*.png").display().to_string(), "-q"]);
        let names: Vec<&str> = lines.lines().filter_map(|line| line.split_once('\t')).map(|(name, _)| name).collect();
        assert_eq!((names.len(), lines.lines().count()), (2, 2), "{lines}");
        assert!(names[0].ends_with("a\\nb.png"), "{lines}");
    }

    // From a Windows editor; the first two differ in their choices only, the third is the first again.
    let questions = [
        r#"{"id": 1.0, "image": "00.png", "prompt": "Which one is in the picture?", "choices": ["circle", "square"], "answers": ["purple circle"]}"#,
        r#"{"id": 2, "image": "00.png", "prompt": "Which one is in the picture?", "choices": ["red", "purple"], "answers": ["no"]}"#,
        r#"{"id": 3, "image": "00.png", "question": "Which one is in the picture?", "choices": ["circle", "square"], "answer": "purple circle"}"#,
        r#"{"id": 4, "image": "00-cut.png", "question": "What?", "choices": ["a"], "answer": "x"}"#,
        r#"{"id": 5, "image": "00.png", "question": "What?", "answer": "x"}"#,
        &format!(
            r#"{{"id": 6, "image": "00.png", "question": "{}", "choices": ["a"], "answer": "x"}}"#,
            "very ".repeat(300)
        ),
        r#"{"id": 7, "question": "What?"}"#,
    ];
    std::fs::write(path("q.jsonl"), format!("\u{feff}{}\r\n", questions.join("\r\n"))).expect("written");
    let (questions, output) = (path("q.jsonl"), path("out.jsonl"));
    let eval = ["eval", &questions, "-o", &output, "--task", "multiple-choice", "--json"];
    let bad = [
        "00-cut.png",
        "line 5",
        "needs choices",
        "line 6",
        "too long",
        r#"line 7: lacks "image" and "answers""#,
        "4 of 7",
    ];
    let results = skipping(&[&eval[..], &["--batch-size", "4"]].concat(), &bad);
    let wanted = r#"{"all":{"count":3,"exact_match":1.0,"vqa_accuracy":1.0},"groups":{},"skipped":4,"ungrouped":{"count":3,"exact_match":1.0,"vqa_accuracy":1.0}}"#;
    assert_eq!(results.trim(), wanted);
    let written = std::fs::read_to_string(&output).expect("answers");
    assert!(written.starts_with(r#"{"id": 1.0, "image": "00.png","#), "as it was: {written}");
    let ids = |text: &str| {
        text.lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("an object")["id"].as_f64())
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&written), [1.0, 2.0, 3.0].map(Some));
    // One answer is left of two rows with the same question: one of them is asked again.
    let first = written.lines().next().expect("a line");
    std::fs::write(&output, format!("\u{feff}{first}\r\n")).expect("written");
    assert_eq!(skipping(&eval, &["1 of 7 answers", "4 of 7"]).trim(), wanted);
    let again = std::fs::read_to_string(&output).expect("answers");
    assert_eq!(
        again.lines().skip(1).map(str::to_owned).collect::<Vec<_>>(),
        written.lines().skip(1).collect::<Vec<_>>()
    );
    // Another picture of the same name has not been asked about.
    std::fs::copy(sample("02.png"), folder.path().join("00.png")).expect("copied");
    refused(&[&eval[..], &["--adapter", "no such adapter"]].concat(), 4, &["no such adapter"]);
}

/// Such files are refused before anything is read or a device is looked for: pipes would wait, some devices never end.
#[cfg(unix)]
#[test]
fn devices_and_pipes_are_no_files_of_questions_or_answers() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("q.jsonl"), r#"{"image": "a.png", "prompt": "a", "answers": ["b"]}"#).expect("written");
    let pipe = path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().is_ok_and(|status| status.success()));
    for special in ["/dev/stdout", "/dev/full", "/dev/null", &pipe] {
        refused(&["eval", &path("q.jsonl"), "-o", special], 3, &[special, "not a regular file"]);
        refused(&["eval", special, "-o", &path("out.jsonl")], 3, &[special, "a device or a pipe"]);
    }
    // Standard output that goes to a file is one, but not one for answers.
    let target = std::fs::File::create(path("results.txt")).expect("a file");
    let arguments = ["eval", &path("q.jsonl"), "-o", "/dev/stdout"];
    let output = program().args(arguments).stdout(target).output().expect("the program runs");
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("standard output"), "{}", text(&output.stderr));
    std::fs::write(path("wide.jsonl"), b"\xff\xfe{\0}\0").expect("written");
    refused(&["eval", &path("wide.jsonl"), "-o", &path("out.jsonl")], 3, &["wide.jsonl", "UTF-16", "UTF-8"]);
    std::fs::write(path("array.json"), "[{}]").expect("written");
    refused(&["eval", &path("array.json"), "-o", &path("out.jsonl")], 3, &["array.json", "JSON array", "jq"]);
    std::fs::write(path("bad.jsonl"), "{}\nx").expect("written");
    refused(&["eval", &path("bad.jsonl"), "-o", &path("out.jsonl")], 3, &["line 1: lacks", "for example: {\"image\""]);
}

#[test]
fn bad_pictures_in_the_middle_leave_the_order_as_it_is() {
    if support::device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let names: Vec<String> = (0..8).map(|i| format!("{i:02}.png")).collect();
    for name in &names {
        std::fs::copy(sample(name), folder.path().join(name)).expect("copied");
    }
    std::fs::write(path("05.png"), "no picture").expect("written");
    // Answers of several lengths are made side by side; a search with beams takes more slots than there are.
    let asked = |name: &String| {
        let question = if name < &"03.png".to_string() { "Please describe the photo in detail." } else { "How many?" };
        format!("{}\n", serde_json::json!({"image": name, "question": question, "answer": "x"}))
    };
    std::fs::write(path("q.jsonl"), names.iter().map(asked).collect::<String>()).expect("written");
    let good = |until: usize| names[..until].iter().filter(|name| *name != "05.png").cloned().collect::<Vec<_>>();
    let mut answers = Vec::new();
    for flags in [&["--slots", "1"][..], &["--slots", "3"], &["--num-beams", "3", "--slots", "2"]] {
        let (questions, output) = (path("q.jsonl"), path("out.jsonl"));
        let eval = [&["eval", &questions, "-o", &output, "--force"][..], flags].concat();
        let written = |name: &str| {
            let text = std::fs::read_to_string(path(name)).expect("answers");
            let line = |line: &str| serde_json::from_str::<Value>(line).expect("an object");
            text.lines()
                .map(line)
                .map(|line| (str_of(&line["image"]).to_owned(), str_of(&line["prediction"]).to_owned()))
                .unzip::<_, _, Vec<_>, Vec<_>>()
        };
        if flags.contains(&"3") {
            refused(&[&eval[..], &["--strict"]].concat(), 3, &["error: ", "line 6: ", "05.png"]);
            assert_eq!(written("out.jsonl").0, good(5), "those in front of it are written");
        }
        let run = run(&eval);
        assert_eq!(run.status.code(), Some(3), "{}", text(&run.stderr));
        assert!(text(&run.stderr).contains("1 of 8 questions was skipped"), "{}", text(&run.stderr));
        let (images, predictions) = written("out.jsonl");
        assert_eq!(images, good(8));
        answers.push(predictions);
    }
    assert_eq!(answers[0], answers[1], "answers do not depend on who else asks");

    let caption = ["caption", &path("*.png"), "-q", "--max-new-tokens", "8", "--slots", "3"];
    let strict = run(&[&caption[..], &["--strict"]].concat());
    assert_eq!((strict.status.code(), text(&strict.stdout).lines().count()), (Some(3), 5));
    let lines = run(&[&caption[..], &["--json"]].concat());
    let image = |line: &str| serde_json::from_str::<Value>(line).map(|line| str_of(&line["image"]).to_owned());
    let images: Vec<String> = text(&lines.stdout).lines().map(|line| image(line).expect("an object")).collect();
    assert_eq!(images, good(8).iter().map(|name| path(name)).collect::<Vec<_>>());
    refused(&["caption", &path("*.png"), "--budget", "10MB"], 5, &["with 8 slots (--slots 1 takes less memory)"]);
}
