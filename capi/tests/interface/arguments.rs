//! Mistakes of callers: each gives a code and a text.

use std::ffi::{CString, c_char};
use std::ptr::{null, null_mut};

use instructblip_c::{Load, Picture, Question, Status};

use crate::support::{ask, c, embedded, file, json, last_error, model, nothing_asked, open, sample, score};

/// The result of a call, held to a code and to words of its text.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(result: Result<T, (Status, String)>, status: Status, words: &str) {
    let (found, text) = result.expect_err("a refusal");
    assert!(found == status && text.contains(words), "{found:?} and not {status:?}: {text}");
}

#[test]
fn questions_that_cannot_be_read_or_asked_are_refused() {
    let bytes = std::fs::read(sample("10.png")).expect("a picture");
    let (picture, prompt) = (file(&bytes), c("Can you count the things?"));
    let good =
        || Question { pictures: &raw const picture, picture_count: 1, prompt: prompt.as_ptr(), ..nothing_asked() };
    assert_eq!(ask(&good()).expect("an answer")["text"], "2");
    let not_utf8 = CString::new(vec![b'a', 0xff, b'b']).expect("no NUL");
    let texts =
        ["{\"num_beamz\": 2}", "{\"num_beams\": 0}", "{\"num_beams\": ", "[1]", "no such task", "caption", "word "]
            .map(c);
    let [unknown, beams, broken, list, no_task, caption, _] = texts.each_ref().map(|text| text.as_ptr());
    let long = c(&"word ".repeat(2000));
    use Status::{Argument, Image, PromptTooLong, Request};
    let two = [file(&bytes), file(&bytes)];
    for (question, status, words) in [
        (nothing_asked(), Argument, "prompt is NULL"),
        (Question { pictures: null(), ..good() }, Argument, "pictures is NULL"),
        (Question { picture_count: 0, ..good() }, Request, "no picture"),
        (Question { picture_count: usize::MAX, ..good() }, Argument, "cannot have"),
        (Question { pictures: two.as_ptr(), picture_count: 2, ..good() }, Request, "takes one"),
        (Question { prompt: not_utf8.as_ptr(), ..good() }, Argument, "prompt is no UTF-8 from byte 1 on"),
        (Question { task: not_utf8.as_ptr(), ..good() }, Argument, "task is no UTF-8"),
        (Question { params: not_utf8.as_ptr(), ..good() }, Argument, "params is no UTF-8"),
        (Question { params: unknown, ..good() }, Request, "num_beamz"),
        (Question { params: beams, ..good() }, Request, "num_beams is 0"),
        (Question { params: broken, ..good() }, Request, "line 1, column 14"),
        (Question { params: list, ..good() }, Request, "params is JSON, but no object"),
        (Question { task: no_task, ..good() }, Request, "there is no task \"no such task\""),
        (Question { task: caption, ..good() }, Request, "takes no prompt"),
        (Question { choices: null(), choice_count: 3, ..good() }, Argument, "choices is NULL"),
        (Question { prompt: long.as_ptr(), ..good() }, PromptTooLong, "room for"),
    ] {
        refused(ask(&question), status, words);
    }
    let cut = file(&bytes[..bytes.len() / 2]);
    let pixels = Picture { data: bytes.as_ptr(), length: 5, width: 4, height: 4 };
    let without = Picture { data: null(), length: 5, width: 0, height: 0 };
    let flat = Picture { data: bytes.as_ptr(), length: 12, width: 4, height: 0 };
    for (picture, status, words) in [
        (cut, Image, "not a decodable picture (PNG)"),
        (file(b"text"), Image, "not a picture of a known format"),
        (file(b""), Image, "empty"),
        (pixels, Image, "needs 48 bytes, got 5"),
        (without, Argument, "the data of picture is NULL"),
        (flat, Image, "no pixels"),
    ] {
        refused(ask(&Question { pictures: &raw const picture, ..good() }), status, words);
    }
    let choices: [*const c_char; 2] = [null(), not_utf8.as_ptr()];
    refused(score(&good()), Request, "no choices");
    refused(score(&Question { choices: choices.as_ptr(), choice_count: 1, ..good() }), Argument, "a choice is NULL");
    refused(score(&Question { choices: &raw const choices[1], choice_count: 1, ..good() }), Argument, "no UTF-8");
    assert_eq!(ask(&good()).expect("an answer")["text"], "2");
}

#[test]
fn null_is_refused_or_nothing() {
    use instructblip_c::*;
    let (question, load) = (nothing_asked(), embedded());
    // SAFETY: the calls say what NULL is.
    unsafe {
        refused(json(|reply| instructblip_ask(null(), &raw const question, reply)), Status::Argument, "model is NULL");
        refused(json(|reply| instructblip_ask(model(), null(), reply)), Status::Argument, "question is NULL");
        assert_eq!(instructblip_ask(null(), null(), null_mut()), Status::Argument);
        assert_eq!(instructblip_score(model(), &raw const question, null_mut()), Status::Argument);
        assert_eq!(instructblip_attention(model(), &raw const question, null_mut()), Status::Argument);
        assert_eq!(instructblip_adapters(null(), null_mut()), Status::Argument);
        assert_eq!(last_error(), "list is NULL");
        assert_eq!(instructblip_open(&raw const load, null_mut()), Status::Argument);
        let mut model = null_mut();
        assert_eq!(instructblip_open(null(), &raw mut model), Status::Argument);
        assert_eq!(last_error(), "load is NULL");
        instructblip_close(null_mut());
        instructblip_cancel(null());
        instructblip_canceller_free(null_mut());
        instructblip_text_free(null_mut());
        instructblip_floats_free(null_mut());
        let mut none = Floats::NONE;
        instructblip_floats_free(&raw mut none);
    }
}

#[test]
fn models_that_cannot_be_opened_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("config.json"), "{").expect("a file");
    let (empty, name) = (c(folder.path().to_str().expect("UTF-8")), c("config.json"));
    let texts =
        ["/nowhere", "no such GPU", "{\"weight\": \"q4\"}", "{\"weights\": \"q5\"}", "{\"slots\": 0}", "{"].map(c);
    let [nowhere, gpu, unknown, format, slots, broken] = texts.each_ref().map(|text| text.as_ptr());
    let budget = c("{\"budget_bytes\": 1000000}");
    let nameless = instructblip_c::File { name: null(), data: null(), length: 0 };
    let alone = instructblip_c::File { name: name.as_ptr(), data: b"{".as_ptr(), length: 1 };
    use Status::{Argument, Checkpoint, NoAdapter, OverBudget, Request};
    for (load, status, words) in [
        (Load { path: nowhere, ..embedded() }, Checkpoint, "/nowhere: no such directory"),
        (Load { path: empty.as_ptr(), ..embedded() }, Checkpoint, "config.json"),
        (Load { adapter: gpu, ..embedded() }, NoAdapter, "no such GPU"),
        (
            Load { options: unknown, ..embedded() },
            Request,
            "options: weight is unknown; there are weights, vision_weights",
        ),
        (
            Load { options: format, ..embedded() },
            Request,
            "options: weights: must be \"f16\", \"q8\" or \"q4\"; it is \"q5\"",
        ),
        (
            Load { options: slots, ..embedded() },
            Request,
            "options: slots: must be a whole number from 1 to 256; it is 0",
        ),
        (Load { options: broken, ..embedded() }, Request, "options is not JSON at line 1"),
        (Load { options: budget.as_ptr(), ..embedded() }, OverBudget, "may take 1.0 MB"),
        (Load { file_count: 1, ..embedded() }, Argument, "files is NULL"),
        (Load { files: &raw const nameless, file_count: 1, ..embedded() }, Argument, "the name of a file is NULL"),
        (Load { files: &raw const alone, file_count: 1, ..embedded() }, Checkpoint, "the model in memory/config.json"),
    ] {
        refused(open(&load), status, words);
    }
}
