//! Answers about pictures: `ask`, `caption` and `score`.

use serde_json::Value;

use super::{json, recorded, stdout, str_of, tensor};
use crate::support;
use crate::support::golden::{Golden, checkpoint_folder, golden_image, tests_folder};
use crate::support::program::{refused, sample};

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
