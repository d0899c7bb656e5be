//! Tests of the commands and flags for the whole family, run as users run them.

use crate::support;
use std::path::Path;

use crate::support::golden::{Golden, checkpoint_folder, golden_image, tests_folder};
use crate::support::program::{program, refused, run, sample, text};
use instructblip::runtime::WeightFormat;
use instructblip::runtime::ops::linear::choose;
use serde_json::Value;

/// The output of a run that succeeds.
fn stdout(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout).to_owned()
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&stdout(arguments)).expect("one JSON object")
}

/// Rows of the embedded model's recorded questions.
fn recorded() -> Vec<Value> {
    let rows = std::fs::read_to_string(tests_folder().join("shapes/samples.jsonl")).expect("the samples");
    rows.lines().map(|line| serde_json::from_str(line).expect("a row")).collect()
}

fn str_of(value: &Value) -> &str {
    value.as_str().expect("a text")
}

fn tensor(path: &Path, name: &str) -> (Vec<usize>, Vec<f32>) {
    let bytes = std::fs::read(path).expect("the file");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("a valid file");
    let view = file.tensor(name).unwrap_or_else(|_| panic!("no {name} in {:?}", file.names()));
    let values = view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    (view.shape().to_vec(), values)
}

#[test]
fn ask_with_beams_gives_the_recorded_answers_best_first() {
    if support::device().is_none() {
        return;
    }
    for row in recorded().iter().step_by(9) {
        let image = tests_folder().join("shapes").join(str_of(&row["image"])).display().to_string();
        let flags = ["--num-beams", "5", "--num-return-sequences", "3", "--json"];
        let reply = json(&[&["ask", &image, str_of(&row["prompt"])][..], &flags].concat());
        assert_eq!(reply["text"], row["hf_beam5"], "{}", row["prompt"]);
        let sequences = reply["sequences"].as_array().expect("a list");
        assert_eq!((sequences.len(), &sequences[0]["text"]), (3, &reply["text"]));
        let scores: Vec<f64> = sequences.iter().map(|s| s["score"].as_f64().expect("a score")).collect();
        assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
    }
}

#[test]
fn the_same_seed_draws_the_same_answers() {
    if support::device().is_none() {
        return;
    }
    let image = sample("01.png");
    let draw = |seed: &str| {
        let flags = ["--do-sample", "--temperature", "3", "--top-k", "0", "--num-return-sequences", "4", "-q"];
        stdout(&[&["ask", &image, "Please describe the photo in detail.", "--seed", seed][..], &flags].concat())
    };
    assert_eq!(draw("7").lines().count(), 4);
    assert_eq!(draw("7"), draw("7"));
    assert_ne!(draw("7"), draw("8"));
}

#[test]
fn processors_and_stops_act_from_the_command_line() {
    if support::device().is_none() {
        return;
    }
    let (image, prompt) = (sample("01.png"), "Please describe the photo in detail.");
    let ask = |flags: &[&str]| json(&[&["ask", &image, prompt, "--json"][..], flags].concat());
    let usual = ask(&[]);
    let ids = |reply: &Value| reply["token_ids"].as_array().expect("ids").clone();
    assert_eq!(usual["finish_reason"], "eos");
    let stopped = ask(&["--stop", "background"]);
    assert_eq!(stopped["finish_reason"], "stop");
    assert!(ids(&usual).starts_with(&ids(&stopped)) && str_of(&stopped["text"]).ends_with("background:"), "{stopped}");
    let longer = ask(&["--min-new-tokens", "40", "--max-new-tokens", "41"]);
    assert_eq!(longer["finish_reason"], "length");
    assert_eq!(ids(&longer).len(), 41);
    let grams = ids(&ask(&["--no-repeat-ngram-size", "2"]));
    let mut pairs: Vec<String> = grams.windows(2).map(|pair| format!("{pair:?}")).collect();
    let count = pairs.len();
    pairs.sort();
    pairs.dedup();
    assert_eq!(pairs.len(), count, "no pair of tokens comes twice");
    assert_ne!(ids(&usual), grams, "which the usual answer has");
    let whole = usual["prompt_tokens"].as_u64().expect("a number") + 3;
    assert_eq!(ids(&ask(&["--max-length", &whole.to_string()])).len(), 3, "max_length counts the prompt");
}

#[test]
fn options_out_of_range_or_against_each_other_are_refused() {
    if support::device().is_none() {
        return;
    }
    let image = sample("01.png");
    let wrong = |flags: &[&str], code: i32, part: &str| {
        refused(&[&["ask", &image, "a"][..], flags].concat(), code, &[part]);
    };
    wrong(&["--num-beams", "0"], 3, "num_beams is 0");
    wrong(&["--num-beams", "1000000"], 3, "num_beams is 1000000");
    wrong(&["--num-beams", "2", "--num-return-sequences", "3"], 3, "num_return_sequences 3 is more than num_beams 2");
    wrong(&["--num-return-sequences", "3"], 3, "do_sample or num_beams");
    wrong(&["--do-sample", "--temperature", "0"], 3, "temperature is 0");
    wrong(&["--do-sample", "--temperature", "nan"], 3, "temperature is NaN");
    wrong(&["--do-sample", "--top-p", "1.5"], 3, "top_p is 1.5");
    wrong(&["--do-sample", "--min-p", "2"], 3, "min_p is 2");
    wrong(&["--do-sample", "--typical-p", "0"], 3, "typical_p is 0");
    wrong(&["--repetition-penalty", "0"], 3, "repetition_penalty is 0");
    wrong(&["--min-new-tokens", "9", "--max-new-tokens", "3"], 3, "min_new_tokens 9 is more than max_new_tokens 3");
    wrong(&["--max-length", "3"], 3, "max_length 3");
    wrong(&["--stop", ""], 3, "stop string is empty");
    wrong(&["--temperature", "0.5"], 2, "--do-sample");
    wrong(&["--length-penalty", "-1"], 2, "--num-beams");
    wrong(&["--early-stopping", "sometimes", "--num-beams", "2"], 2, "never");
    wrong(&["--exponential-decay-length-penalty", "3"], 2, "two numbers");
    wrong(&["--attention", &image], 3, "not a folder");
}

#[test]
fn tasks_word_prompts_as_the_paper_does() {
    let image = sample("01.png");
    let shown = |flags: &[&str]| stdout(&[&["ask", &image][..], flags, &["--show-prompt"]].concat());
    assert_eq!(shown(&["--task", "caption"]), "A short image description.\n");
    assert_eq!(shown(&["How many?", "--task", "vqa-short"]), "Question: How many? Short answer:\n");
    let choices = ["Which?", "--task", "multiple-choice", "--choice", "one", "--choice", "two"];
    assert_eq!(shown(&choices), "Question: Which? Options: one, two. Short answer:\n");
    refused(&["ask", &image, "a", "--task", "vqa"], 2, &["vqa-short", "detail"]);
    refused(&["ask", &image, "--task", "vqa-short"], 3, &["needs a text"]);
    refused(&["ask", &image, "a", "--task", "science"], 3, &["choices"]);
}

#[test]
fn frames_are_for_video_models_and_image_marks_for_nobody() {
    if support::device().is_none() {
        return;
    }
    let folder = checkpoint_folder("video-llama");
    let golden = Golden::of("video-llama");
    let images = tests_folder().join("golden/images");
    let frames: Vec<String> =
        golden.about("0.image").split(',').map(|name| images.join(name).display().to_string()).collect();
    let frames: Vec<&str> = frames.iter().map(String::as_str).collect();
    let [first, rest @ ..] = frames.as_slice() else { panic!("frames") };
    let rest: Vec<&str> = rest.iter().flat_map(|frame| ["--image", frame]).collect();
    let n = golden.about("max_new_tokens");
    let asked = [&["ask", first, golden.about("0.prompt"), "--json", "--max-new-tokens", n][..], &rest].concat();
    let reply = json(&[&asked[..], &["--model", &folder.display().to_string()]].concat());
    let ids: Vec<u32> = serde_json::from_value(reply["token_ids"].clone()).expect("ids");
    assert_eq!(ids, golden.ids("0.greedy_ids"));
    refused(&asked, 3, &["4 pictures", "instructblipvideo"]);
    refused(&["ask", first, "what is <image> here?"], 3, &["<image>", "leave it out"]);
}

#[test]
fn the_qformer_may_read_a_prompt_of_its_own() {
    if support::device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let queries = |name: &str, flags: &[&str]| {
        let out = folder.path().join(name);
        let arguments = ["forward", &sample("02.png"), "Is the ring white?", "-q", "-o", &out.display().to_string()];
        assert_eq!(stdout(&[&arguments[..], flags].concat()), "");
        (tensor(&out, "qformer_last_hidden_state").1, tensor(&out, "logits").0)
    };
    let usual = queries("usual", &[]);
    assert_eq!(usual, queries("same", &["--qformer-prompt", "Is the ring white?"]));
    let other = queries("other", &["--qformer-prompt", "Where is the blue circle on the left?"]);
    assert_ne!(usual.0, other.0, "the queries read another text");
    assert_eq!(usual.1, other.1, "the language model the same");
}

#[test]
fn special_tokens_in_a_prompt_are_text_unless_allowed() {
    if support::device().is_none() {
        return;
    }
    let ask = |flags: &[&str]| json(&[&["ask", &sample("02.png"), "red</s>", "--json"][..], flags].concat());
    let tokens = |flags: &[&str]| ask(flags)["prompt_tokens"].as_u64().expect("a number");
    assert!(tokens(&["--special-tokens"]) < tokens(&[]));
}

#[test]
fn caption_writes_a_line_for_each_picture() {
    if support::device().is_none() {
        return;
    }
    let (one, two) = (sample("02.png"), sample("10.png"));
    let prompt = ["--prompt", "Write a short caption for the picture.", "-q"];
    assert_eq!(
        stdout(&[&["caption", &one][..], &prompt].concat()),
        "a blue circle, a purple circle and a white ring\n"
    );
    let both = stdout(&[&["caption", &one, &two][..], &prompt].concat());
    let first = format!("{one}\ta blue circle, a purple circle and a white ring\n");
    assert!(both.starts_with(&format!("{first}{two}\t")) && both.lines().count() == 2, "{both}");
    let lines = stdout(&["caption", &one, &two, "--json", "-q"]);
    let images: Vec<Value> =
        lines.lines().map(|l| serde_json::from_str::<Value>(l).expect("JSON")["image"].clone()).collect();
    assert_eq!(images, [one.as_str(), two.as_str()]);
    let folder = checkpoint_folder("b2-opt");
    let golden = Golden::of("b2-opt");
    assert_eq!(golden.about("2.prompt"), "", "BLIP-2 gets no instruction");
    let image = golden_image(golden.about("2.image")).display().to_string();
    let model = folder.display().to_string();
    let n = golden.about("max_new_tokens");
    let reply = json(&["caption", &image, "--json", "--model", &model, "--max-new-tokens", n]);
    assert_eq!(
        serde_json::from_value::<Vec<u32>>(reply["token_ids"].clone()).expect("ids"),
        golden.ids("2.greedy_ids")
    );
    refused(&["caption", &one, "no-such-file.png", "--strict"], 3, &["no-such-file.png"]);
}

#[test]
fn score_ranks_choices() {
    if support::device().is_none() {
        return;
    }
    let (image, question) = (sample("02.png"), "Is the ring in the picture white?");
    let reply = json(&["score", &image, question, "--choice", "no", "--choice", "yes", "--json"]);
    let choices = reply["choices"].as_array().expect("a list");
    assert_eq!((&choices[0]["choice"], &choices[1]["choice"]), (&"yes".into(), &"no".into()));
    for choice in choices {
        let parts = choice["log_probabilities"].as_array().expect("a list");
        let sum: f64 = parts.iter().filter_map(Value::as_f64).sum();
        assert_eq!(parts.len(), choice["token_ids"].as_array().map_or(0, Vec::len));
        assert!((sum - choice["sum_log_probability"].as_f64().expect("a sum")).abs() < 1e-9);
        assert!((sum / parts.len() as f64 - choice["mean_log_probability"].as_f64().expect("a mean")).abs() < 1e-9);
    }
    let shown = stdout(&["score", &image, question, "--choice", "no", "--choice", "yes"]);
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines.len() == 2 && lines[0].ends_with("yes") && lines[1].ends_with("no"), "{shown}");
    refused(&["score", &image, question], 3, &["--choice"]);
    refused(&["score", &image, question, "--choice", "yes", "--choice", ""], 3, &["makes no token"]);
}

#[test]
fn embed_writes_what_forward_writes() {
    if support::device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (forward, embed) = (folder.path().join("forward"), folder.path().join("embed"));
    let (one, two, question) = (sample("02.png"), sample("10.png"), "Which shape is red?");
    stdout(&["forward", &two, question, "-o", &forward.display().to_string()]);
    let weights = "qformer.encoder.layer.0.cross_attention.weights";
    let taps = ["--taps", weights, "-o", &embed.display().to_string()];
    stdout(&[&["embed", &one, &two, "--prompt", question][..], &taps].concat());
    assert_eq!(tensor(&embed, weights).0, [2, 5 * 16, 145]);
    refused(&["embed", &one, "--taps", "language_model.model.norm", "-o", taps[3]], 3, &["language_model.model.norm"]);
    for (name, stage, row) in [
        ("image_features", "vision_last_hidden_state", 192),
        ("query_features", "qformer_last_hidden_state", 16 * 160),
        ("projected_features", "language_model_inputs", 16 * 192),
    ] {
        let (shape, values) = tensor(&embed, name);
        assert_eq!((shape[0], values.len()), (2, 2 * row), "{name}");
        // Of the vision tower's rows the first is the class token's, of the Q-Former's the first sixteen are queries.
        assert_eq!(values[row..], tensor(&forward, stage).1[..row], "{name}");
    }
}

#[test]
fn forward_gives_the_recorded_loss() {
    if support::device().is_none() {
        return;
    }
    let out = tempfile::tempdir().expect("a folder");
    for name in ["ib-t5-erf", "ib-llama"] {
        let folder = checkpoint_folder(name);
        let golden = Golden::of(name);
        let image = golden_image(golden.about("0.image"));
        let list = |values: &[f64]| values.iter().map(f64::to_string).collect::<Vec<_>>().join(",");
        let target = out.path().join(name);
        let mut command = program();
        command.arg("forward").arg(&image).arg(golden.about("0.prompt")).arg("--model").arg(&folder);
        command.arg("--labels").arg(list(&golden.tensor("0.labels").1)).arg("-o").arg(&target);
        if let Some((_, ids)) = golden.find("0.decoder_input_ids") {
            command.arg("--decoder-input-ids").arg(list(ids));
        }
        let output = command.output().expect("the program runs");
        assert!(output.status.success(), "{}", text(&output.stderr));
        let (got, want) = (f64::from(tensor(&target, "loss").1[0]), golden.tensor("0.loss").1[0]);
        assert!((got - want).abs() <= 1e-4 * want, "{name}: {got} for {want}");
        assert!(text(&output.stderr).contains("loss "));
    }
    let target = out.path().join("none").display().to_string();
    refused(&["forward", &sample("00.png"), "a", "--labels", "1,2", "-o", &target], 3, &["labels"]);
    refused(&["forward", &sample("00.png"), "a", "--decoder-input-ids", "1", "-o", &target], 3, &["decoder"]);
}

#[test]
fn attention_is_drawn_and_written() {
    if support::device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let target = folder.path().join("new");
    let arguments = ["ask", &sample("11.png"), "Which is the smallest shape?", "--attention"];
    assert_eq!(stdout(&[&arguments[..], &[&target.display().to_string()]].concat()), "green star\n");
    for name in ["mean", "layer-00", "layer-02", "head-04", "query-15", "sheet"] {
        let picture = instructblip::Image::open(target.join(format!("{name}.png"))).expect("a picture");
        assert!(name == "sheet" || (picture.width(), picture.height()) == (96, 96), "{name}");
    }
    let (shape, weights) = tensor(&target.join("weights.safetensors"), "qformer.encoder.layer.2.crossattention");
    assert_eq!(shape, [5, 16, 145]);
    weights.chunks(145).for_each(|row| assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-4, "weights sum to one"));
}

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
fn bench_model_times_every_stage() {
    if support::device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("results").display().to_string();
    let model = ["bench", "model", "--runs", "1", "-q"];
    let lines = folder.path().join("runs.csv").display().to_string();
    let small = ["--rows", "1,2", "--keys", "16", "--prompt-tokens", "16", "--format", "json", "--output", &output];
    let results = json(&[&model[..], &small, &["--append", &lines]].concat());
    let lines = std::fs::read_to_string(&lines).expect("the file");
    assert!(lines.starts_with("date,version,commit,adapter,") && lines.contains(",embedded,f16,"), "{lines}");
    refused(&[&model[..], &["--append", &sample("11.png")]].concat(), 3, &["11.png"]);
    assert_eq!((&results["format"], results["date"].as_str().map(str::len)), (&1.into(), Some(10)));
    assert!(str_of(&results["command"]).starts_with("instructblip bench model --runs 1"), "{}", results["command"]);
    let list = |name: &str| results["model"][name].as_array().expect("a list").clone();
    let number = |row: &Value, name: &str| row[name].as_f64().unwrap_or_else(|| panic!("no number {name}: {row}"));
    let stages = list("stages");
    assert_eq!(stages.iter().map(|s| str_of(&s["name"])).collect::<Vec<_>>(), ["load", "image", "vision", "qformer"]);
    assert!(stages.iter().all(|s| number(s, "ms") > 0.0), "{stages:?}");
    let (prefill, decode) = (list("prefill"), list("decode"));
    // The embedded model's pictures take 16 places of a prompt.
    assert_eq!((prefill.len(), number(&prefill[0], "tokens")), (1, 32.0));
    assert_eq!(
        decode.iter().map(|d| (number(d, "rows"), number(d, "keys"))).collect::<Vec<_>>(),
        [(1.0, 16.0), (2.0, 16.0)]
    );
    for name in ["ms", "tokens_per_s", "encode_us", "dispatches", "bytes"] {
        assert!(decode.iter().all(|d| number(d, name) > 0.0), "{name}: {decode:?}");
    }
    // What two rows read beyond one are keys and values: of 16 positions, 3 layers and 2 heads of 32 channels in f32.
    assert_eq!(number(&decode[1], "bytes") - number(&decode[0], "bytes"), f64::from(16 * 2 * 3 * 2 * 32 * 4));
    let labels = list("labels");
    let of_stage = |stage: &str| labels.iter().filter(|l| l["stage"] == stage).cloned().collect::<Vec<_>>();
    if !labels.is_empty() {
        for stage in ["vision", "qformer", "prefill", "decode"] {
            assert!(of_stage(stage).is_sorted_by(|a, b| number(a, "us") >= number(b, "us")), "{stage}");
        }
        let launches: f64 = of_stage("decode").iter().map(|l| number(l, "count")).sum();
        assert_eq!(launches, number(&decode[0], "dispatches"));
        let qkv = of_stage("decode").into_iter().find(|l| l["label"] == "self_attn.qkv").expect("a label");
        assert_eq!(number(&qkv, "count"), 3.0);
    }
    let file = std::fs::read(Path::new(&output).join("results.json")).expect("a file");
    let written: Value = serde_json::from_slice(&file).expect("JSON");
    assert_eq!(written, results);
}

#[test]
fn bench_model_refuses_what_cannot_be_timed() {
    let context = "the language model's context";
    refused(&["bench", "model", "--keys", "513"], 3, &[context, "513", "512"]);
    refused(&["bench", "model", "--prompt-tokens", "496"], 3, &[context, "513", "512"]);
    refused(&["bench", "model", "--model", "no/such folder"], 3, &["no/such folder"]);
    refused(&["bench", "model", "--shape", "no-such-shape"], 2, &["vicuna-7b", "embedded"]);
    refused(&["bench", "model", "--shape", "vicuna-7b", "--model", "."], 2, &["--shape"]);
}

/// A file with a kernel, in a folder of its own.
fn kernel_file(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("mine.wgsl");
    std::fs::write(&path, text).expect("written");
    let path = path.display().to_string();
    (folder, path)
}

const NORM: &str = include_str!("../../shaders/norm.wgsl");
const NAIVE: &str = include_str!("../../examples/wgsl/linear_naive.wgsl");

#[test]
fn a_users_kernel_takes_part_in_answers_and_is_told_of() {
    if support::device().is_none() {
        return;
    }
    let (image, prompt) = (sample("11.png"), "Which is the smallest shape?");
    let ask = |name: &str, text: &str, flags: &[&str]| {
        let (_folder, file) = kernel_file(text);
        let flag = format!("{name}={file}");
        run(&[&["ask", &image, prompt, "--wgsl-override", &flag][..], flags].concat())
    };
    let same = ask("norm", NORM, &[]);
    assert!(same.status.success(), "{}", text(&same.stderr));
    assert_eq!(text(&same.stdout), "green star\n");
    assert!(text(&same.stderr).contains("the same answer as without your norm"), "{}", text(&same.stderr));
    assert!(text(&ask("norm", NORM, &["-q"]).stderr).is_empty());
    // The tutorial's kernel runs where it is asked for, in every layer.
    let naive = ask("linear_tile", NAIVE, &["--kernels", "linear_tile", "--json"]);
    let reply: Value = serde_json::from_slice(&naive.stdout).expect("one JSON object");
    assert_eq!(reply["text"], "green star");
    assert_eq!(reply["override"], serde_json::json!({"kernels": ["linear_tile"], "same": true, "ours": "green star"}));
    let wrong = NORM.replace("y[to + i] = value;", "y[to + i] = value * -3.0;");
    let other = ask("norm", &wrong, &[]);
    assert!(other.status.success(), "{}", text(&other.stderr));
    assert_ne!(text(&other.stdout), "green star\n");
    assert!(text(&other.stderr).contains("ANOTHER ANSWER"), "{}", text(&other.stderr));
}

#[test]
fn a_users_kernel_that_does_not_run_is_told_with_what_makes_it_run() {
    let Some(device) = support::device() else { return };
    let (image, (_folder, file)) = (sample("11.png"), kernel_file(NAIVE));
    // The adapter may have a better form of its own.
    let is_idle = choose(33, WeightFormat::F16, &device.caps()).kernel.form != "linear_tile";
    let told = |arguments: &[&str]| {
        let output = run(&[arguments, &["--wgsl-override", &format!("linear_tile={file}")]].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        let line = "your linear_tile did not run for this; --kernels linear_tile makes it run";
        text(&output.stderr).lines().filter(|said| said.starts_with(line)).count()
    };
    let ask = ["ask", &image, "What is left of the cross, and what is the smallest shape?"];
    assert_eq!(told(&ask), usize::from(is_idle));
    assert_eq!(told(&["score", &image, "a", "--choice", "b"]), usize::from(is_idle));
    assert_eq!(told(&[&ask[..], &["-q"]].concat()), 0);
    assert_eq!(told(&[&ask[..], &["--kernels", "linear_tile"]].concat()), 0);
}

#[test]
fn a_users_kernel_that_cannot_run_is_refused_with_the_place() {
    if support::device().is_none() {
        return;
    }
    let image = sample("11.png");
    let wrong = |flag: &str, code: i32, parts: &[&str]| {
        refused(&["ask", &image, "a", "--wgsl-override", flag], code, parts);
    };
    let (_folder, file) = kernel_file(&NORM.replace("var mean = 0.0;", "var mean = nothing;"));
    let line = NORM.lines().position(|line| line.contains("var mean")).expect("there is one") + 1;
    wrong(&format!("norm={file}"), 3, &[&format!("{file}:{line}:"), "nothing"]);
    wrong(&format!("nrom={file}"), 3, &["\"nrom\"", "norm", "linear_tile"]);
    wrong("norm=no such file", 3, &["no such file"]);
    wrong("norm", 2, &["norm=my_norm.wgsl"]);
}

#[test]
fn a_users_kernel_without_end_is_given_up() {
    if support::device().is_none() {
        return;
    }
    // Mesa's software adapter ends a loop after 65,535 rounds: long ones keep it for minutes.
    let rounds = "y[to] += 1.0; ".repeat(64);
    let endless = format!("var mean = 0.0;\n    loop {{ if p.d == 0u {{ break; }} {rounds} }}");
    let endless = NORM.replace("var mean = 0.0;", &endless);
    let (_folder, file) = kernel_file(&endless);
    let flag = format!("norm={file}");
    let limit = ["--wgsl-override", &flag, "--time-out", "5"];
    refused(&[&["ask", &sample("11.png"), "a"][..], &limit].concat(), 7, &[&file, "5 s", "--time-out"]);
    let score = ["score", &sample("11.png"), "a", "--choice", "b"];
    refused(&[&score[..], &limit].concat(), 7, &[&file, "5 s"]);
}

#[test]
fn bench_kernels_times_a_users_right_kernel_and_refuses_others() {
    if support::device().is_none() {
        return;
    }
    let (_folder, right) = kernel_file(NAIVE);
    let folder = tempfile::tempdir().expect("a folder");
    let lines = folder.path().join("runs.csv").display().to_string();
    let shape = ["--op", "linear", "--shape", "33,64,96", "--runs", "2", "--format", "json", "-q", "--append", &lines];
    let bench = |file: &str| run(&[&["bench", "kernels", "--wgsl", file][..], &shape].concat());
    let output = bench(&right);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let results: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    let rows = results["kernels"].as_array().expect("a list");
    let custom: Vec<_> = rows.iter().filter(|row| row["variant"] == "custom").collect();
    assert_eq!(custom.iter().map(|row| str_of(&row["op"])).collect::<Vec<_>>(), ["linear", "linear q8", "linear q4"]);
    assert!(custom.iter().all(|row| row["cold_us"].as_f64().is_some_and(|us| us > 0.0)), "{custom:?}");
    assert!(rows.iter().any(|row| row["variant"] == "auto"));
    let (_folder, wrong) = kernel_file(&NAIVE.replace("store4(row, n0, sums)", "store4(row, n0, 2.0 * sums)"));
    let output = bench(&wrong);
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("wrong by"), "{}", text(&output.stderr));
    let lines = std::fs::read_to_string(&lines).expect("the file");
    assert_eq!(lines.lines().map(|line| line.starts_with("date,version")).collect::<Vec<_>>(), [true, false, false]);
    // A loop that did nothing would be no work to a compiler.
    let endless = NAIVE.replace("var sums", "loop { if p.m == 0u { break; } y[p.y_offset] += 1.0; }\n    var sums");
    let (_folder, endless) = kernel_file(&endless);
    let started = std::time::Instant::now();
    // Mesa's software adapter ends a loop after 65,535 rounds: it takes many workgroups to keep it.
    let large = ["--op", "linear", "--shape", "4096,4096,32", "--time-out", "3", "-q"];
    let output = run(&[&["bench", "kernels", "--wgsl", &endless][..], &large].concat());
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("did not end within 3 s"), "{}", text(&output.stderr));
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
}

#[test]
fn bench_kernels_times_the_variants_that_are_asked_for() {
    if support::device().is_none() {
        return;
    }
    let shape = ["--shape", "33,64,96", "--runs", "2", "--format", "json", "-q"];
    let bench = |variant: &str| -> Vec<(String, String)> {
        let results = json(&[&["bench", "kernels", "--variant", variant][..], &shape].concat());
        let rows = results["kernels"].as_array().expect("a list").iter();
        rows.map(|row| (str_of(&row["variant"]).to_owned(), str_of(&row["kernel"]).to_owned())).collect()
    };
    let named = |variant: &str| -> Vec<(String, String)> {
        ["linear_tile", "linear_tile_q8", "linear_tile_q4"].map(|kernel| (variant.into(), kernel.into())).into()
    };
    for variant in ["portable", "linear_tile"] {
        assert_eq!(bench(variant), named(variant));
    }
    // The adapter's own choice has its name, too.
    let own: Vec<String> = bench("auto").into_iter().map(|(_, kernel)| kernel).collect();
    let again = bench(&own[0]);
    assert!(again.len() == 3 && again.iter().all(|(variant, _)| variant == &own[0]), "{again:?}");
    refused(&["bench", "kernels", "--variant", "fast"], 3, &["\"fast\"", "linear_tile"]);
}

#[test]
fn bench_kernels_of_all_adapters_has_a_folder_for_each() {
    if support::device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let lab = folder.path().join("lab");
    let given = lab.display().to_string();
    let bench = ["bench", "kernels", "--all-adapters", "--filter", "argmax", "--runs", "2", "-q", "--output", &given];
    stdout(&bench);
    let entries = || std::fs::read_dir(&lab).expect("the folder").map(|entry| entry.expect("an entry").path());
    let adapters = json(&["devices", "--json"]);
    let usable = adapters.as_array().expect("a list").iter().filter(|adapter| adapter["problem"].is_null());
    assert_eq!(entries().count(), usable.count());
    for of_one in entries() {
        let name = of_one.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), "{name}");
        assert!(of_one.join("results.json").is_file() && of_one.join("report.html").is_file(), "{name}");
    }
    // A file in the place of such a folder is told before anything is measured.
    let of_one = entries().next().expect("one adapter");
    std::fs::remove_dir_all(&of_one).expect("removed");
    std::fs::write(&of_one, "").expect("written");
    let output = run(&bench);
    assert!(!output.status.success() && output.stdout.is_empty(), "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("is not a folder"), "{}", text(&output.stderr));
}

#[test]
fn tune_keeps_what_it_finds_and_answers_stay_the_same() {
    if support::device().is_none() {
        return;
    }
    let cache = tempfile::tempdir().expect("a folder");
    let with_cache = |arguments: &[&str]| {
        let output = program().env("INSTRUCTBLIP_CACHE", cache.path()).args(arguments).output().expect("it runs");
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout).to_owned()
    };
    let adapters = json(&["devices", "--json"]);
    let chosen = adapters.as_array().expect("a list").iter().find(|a| a["chosen"] == true).expect("one is chosen");
    if chosen["type"] == "Cpu" {
        assert!(stdout(&["tune"]).contains("software adapters are not tuned"));
        assert_eq!(json(&["tune", "--json"])["tuned"], false);
    }
    refused(&["tune", "--portable"], 3, &["--portable"]);
    let (image, prompt) = (sample("11.png"), "Which is the smallest shape?");
    let ask = || with_cache(&["ask", &image, prompt, "-q"]);
    assert_eq!(ask(), "green star\n");
    let found: Value = serde_json::from_str(&with_cache(&["tune", "--force", "--json"])).expect("one JSON object");
    let steps = found["steps"].as_array().expect("a list");
    assert_eq!(
        steps.iter().map(|s| str_of(&s["name"])).collect::<Vec<_>>(),
        ["linear_vec", "rows", "norm", "attention"]
    );
    // A machine that does other things as well may have no time for all.
    let is_timed = |step: &Value| step["candidates"][0]["relative"] == 1.0 || step["note"].is_string();
    assert!(steps.iter().all(is_timed), "{steps:?}");
    let file = str_of(&found["file"]);
    let kept = std::fs::read_to_string(file).expect("the file");
    let doctor = || -> Value { serde_json::from_str(&with_cache(&["doctor", "--json"])).expect("one JSON object") };
    assert_eq!(doctor()["tuned"]["tuning"], found["tuning"]);
    assert!(with_cache(&["doctor"]).contains(&format!("tuned on {}: linear_vec", str_of(&found["date"]))));
    assert_eq!(ask(), "green star\n");
    // Sizes that are not the usual ones: they are used, and change nothing.
    let mut other: Value = serde_json::from_str(&kept).expect("JSON");
    other["tuning"] = serde_json::json!({
        "vec_subgroup": false, "vec_workgroup": 32, "vec_columns": 4, "vec_rows": 4, "fuse_norm": true, "decode_splits": 4,
    });
    std::fs::write(file, other.to_string()).expect("written");
    assert_eq!(doctor()["tuned"]["tuning"]["vec_workgroup"], 32);
    assert_eq!(ask(), "green star\n");
    for damage in [&kept[..kept.len() / 2], "", &kept.replace("\"vec_columns\": ", "\"vec_columns\": 1")] {
        std::fs::write(file, damage).expect("written");
        assert!(doctor()["tuned"].is_null(), "{damage:?}");
        assert_eq!(ask(), "green star\n");
    }
}
