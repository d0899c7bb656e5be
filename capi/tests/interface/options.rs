//! Options and parameters that are not acceptable: each is named, with what it must be.

use std::path::Path;

use instructblip_c::{Load, Model, Question, Status, instructblip_ask, instructblip_close, instructblip_score};
use serde_json::json;

use crate::arguments::refused;
use crate::support::{self, ask, c, embedded, file, last_error, nothing_asked, open, sample};

/// Opens the embedded model with options that must be refused.
#[track_caller]
fn not_opened(options: &str, status: Status, words: &str) {
    let options = c(options);
    refused(open(&Load { options: options.as_ptr(), ..embedded() }), status, words);
    for foreign in ["u64", "u32", "bool", "path string", "enum", "struct", "expected", "field", "config.json;"] {
        assert!(!last_error().contains(foreign), "{}", last_error());
    }
}

#[test]
fn options_are_refused_by_name_with_what_they_must_be() {
    for (options, words) in [
        (r#"{"budget_bytes": -1}"#, "budget_bytes: must be a whole number from 0 to 18446744073709551615; it is -1"),
        (r#"{"budget_bytes": "8GB"}"#, "budget_bytes: must be a whole number from 0"),
        (r#"{"offload": 1}"#, "offload: must be true or false; it is 1"),
        (r#"{"exif_rotate": "yes"}"#, "exif_rotate: must be true or false; it is \"yes\""),
        (r#"{"weights": 8}"#, "weights: must be \"f16\", \"q8\" or \"q4\"; it is 8"),
        (
            r#"{"slots": 4, "language_weights": "q5"}"#,
            "language_weights: must be \"f16\", \"q8\" or \"q4\"; it is \"q5\"",
        ),
        (r#"{"kv_cache": "q8"}"#, "kv_cache: must be \"f32\" or \"f16\"; it is \"q8\""),
        (r#"{"lora": 7}"#, "lora: must be a text, the path of a folder; it is 7"),
        (r#"{"kernel_cache": false}"#, "kernel_cache: must be a text, the path of a folder"),
        (r#"{"slots": 257}"#, "slots: must be a whole number from 1 to 256; it is 257"),
        (r#"{"slots": 2.5}"#, "slots: must be a whole number from 1 to 256; it is 2.5"),
        (r#"{"new_tokens": 0}"#, "new_tokens: must be a whole number from 1 to 65536; it is 0"),
        (r#"{"new_tokens": 65537}"#, "new_tokens: must be a whole number from 1 to 65536"),
        (r#"{"max_pixels": 0}"#, "max_pixels: must be a whole number from 1 to 18446744073709551615; it is 0"),
        (r#"{"new_token": null}"#, "new_token is unknown; there are weights, "),
        ("[]", "options is JSON, but no object: give an object such as"),
        ("{\"slots\": 1e400}", "options has too large a number at line 1, column 15"),
        (&format!("{{\"slots\": {}", "[".repeat(9999)), "options is nested too deeply at line 1"),
        ("{\"slots\":\n oops}", "options is not JSON at line 2, column 2"),
    ] {
        not_opened(options, Status::Request, words);
    }
}

#[test]
fn folders_that_there_are_not_are_told_apart() {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, empty) = (folder.path().join("weights"), folder.path().join("empty"));
    std::fs::write(&file, "").and_then(|()| std::fs::create_dir(&empty)).expect("written");
    let lora = |path: &Path| json!({"lora": path}).to_string();
    use Status::{Checkpoint, Request};
    not_opened(
        &lora(Path::new("/nowhere")),
        Checkpoint,
        "/nowhere: no such directory; give the folder that holds adapter_config.json",
    );
    not_opened(
        &lora(&file),
        Checkpoint,
        "weights: is a file, not a folder; give the folder that holds adapter_config.json",
    );
    not_opened(
        &lora(Path::new("")),
        Request,
        "the path of the adapter is empty; give the folder that holds adapter_config.json",
    );
    not_opened(&lora(&empty), Checkpoint, "adapter_config.json: is missing");
    let path = c(file.to_str().expect("UTF-8"));
    let model = |path| open(&Load { path, ..embedded() });
    refused(
        model(path.as_ptr()),
        Checkpoint,
        "weights: is a file, not a folder; give the folder that holds config.json",
    );
    refused(model(c"".as_ptr()), Request, "the path of the model is empty; give the folder that holds config.json");
    let cache = |path: &Path| json!({"kernel_cache": path}).to_string();
    not_opened(&cache(&file), Request, "kernel_cache: ");
    not_opened(&cache(&file.join("under")), Request, "under cannot be written to (");
    if cfg!(target_os = "linux") {
        not_opened(&cache(Path::new("/proc")), Request, "name another folder, \"\" for none, or leave it out");
    }
}

/// A model with few slots, closed when it is dropped.
struct Small(*mut Model);

impl Small {
    fn open(options: &str) -> Small {
        let options = c(options);
        Small(open(&Load { options: options.as_ptr(), ..embedded() }).expect("a model"))
    }

    fn ask(&self, question: &Question) -> Result<serde_json::Value, (Status, String)> {
        // SAFETY: all pointers of `question` are valid or NULL.
        support::json(|reply| unsafe { instructblip_ask(self.0, question, reply) })
    }

    fn score(&self, question: &Question) -> Result<serde_json::Value, (Status, String)> {
        // SAFETY: as above.
        support::json(|scores| unsafe { instructblip_score(self.0, question, scores) })
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // SAFETY: nobody else has it.
        unsafe { instructblip_close(self.0) };
    }
}

/// An answer that all slots have no room for is a bad request, whatever is asked, and the options that are told make room.
#[test]
fn answers_without_room_are_refused_with_the_options_that_make_room() {
    let bytes = std::fs::read(sample("10.png")).expect("a picture");
    let (picture, prompt) = (file(&bytes), c("Can you count the things?"));
    let good =
        || Question { pictures: &raw const picture, picture_count: 1, prompt: prompt.as_ptr(), ..nothing_asked() };
    let made = |options: &str, params: &str, words: &str| {
        let (small, params) = (Small::open(options), c(params));
        let question = Question { params: params.as_ptr(), ..good() };
        let refusal = small.ask(&question);
        let told = last_error();
        refused(refusal, Status::Request, words);
        drop(small);
        let options = told.split("or open the model with ").nth(1).expect("options");
        let more: serde_json::Value = serde_json::from_str(options).expect("an object");
        assert!(Small::open(options).ask(&question).is_ok(), "{told}");
        more
    };
    let long = r#"{"max_new_tokens": 200}"#;
    let more = made(
        r#"{"slots": 1, "new_tokens": 32}"#,
        long,
        "prompt included, and all slots have room for 113: ask for fewer",
    );
    let new_tokens = more["new_tokens"].as_u64().expect("a number");
    assert!(more["slots"].is_null() && (100..200).contains(&new_tokens), "{more}");
    let beams = r#"{"max_new_tokens": 8, "num_beams": 3}"#;
    let more = made(r#"{"slots": 2}"#, beams, "the answer takes 3 slots, of which there are 2: ask for fewer");
    assert_eq!(more, json!({"slots": 3}));
    let more = made(r#"{"slots": 2, "new_tokens": 16}"#, r#"{"max_new_tokens": 200, "num_beams": 3}"#, "3 slots");
    assert!(more["slots"] == 3 && more["new_tokens"].as_u64() > Some(100), "{more}");
    let (small, choice) = (Small::open(r#"{"slots": 1, "new_tokens": 16}"#), c(&"circle ".repeat(150)));
    let choices = [choice.as_ptr()];
    let scored = small.score(&Question { choices: choices.as_ptr(), choice_count: 1, ..good() });
    refused(scored, Status::Request, "or open the model with {\"new_tokens\": ");
}

#[test]
fn parameters_are_refused_by_name_with_what_they_must_be() {
    let bytes = std::fs::read(sample("10.png")).expect("a picture");
    let (picture, prompt) = (file(&bytes), c("Can you count the things?"));
    let asked = |params: &str| {
        let params = c(params);
        let (prompt, params) = (prompt.as_ptr(), params.as_ptr());
        ask(&Question { pictures: &raw const picture, picture_count: 1, prompt, params, ..nothing_asked() })
    };
    for (params, words) in [
        (r#"{"num_beams": "many"}"#, "params: num_beams: must be a whole number from 0 to 4294967295; it is \"many\""),
        (r#"{"eos_token_id": -1}"#, "params: eos_token_id: must be a token id, which is a whole number"),
        (r#"{"temperature": 1e39, "do_sample": true}"#, "temperature is inf; it must be a finite number above 0"),
        (r#"{"temperature": 1e400}"#, "params has too large a number at line 1"),
        (r#"{"eos_token_id": [2, 640]}"#, "eos_token_id: the model has 640 tokens, there is no token 640"),
        (
            r#"{"min_new_tokens": 300}"#,
            "min_new_tokens is 300, but by max_new_tokens the answer has at most 256 tokens",
        ),
        (r#"{"min_length": 500}"#, "min_length is 500, but by max_new_tokens prompt and answer have at most 2"),
        (
            r#"{"max_length": 100, "min_new_tokens": 99}"#,
            "min_new_tokens is 99, but by max_length the answer has at most ",
        ),
        (
            r#"{"max_new_tokens": 510, "min_new_tokens": 510}"#,
            "min_new_tokens is 510, but by the model's context the answer has",
        ),
        (
            r#"{"max_new_tokens": 510, "min_length": 513}"#,
            "but by the model's context prompt and answer have at most 512 ",
        ),
    ] {
        refused(asked(params), Status::Request, words);
        assert!(!last_error().contains("enum") && !last_error().contains("expected"), "{}", last_error());
    }
    assert_eq!(asked(r#"{"eos_token_id": 2, "num_beams": null}"#).expect("an answer")["text"], "2");
}
