//! The answers of every route.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::support::program::{run, sample, text};
use crate::support::serving::{QUESTION, Serving, chat, chat_with, picture};

const CHAT: &str = "/v1/chat/completions";

fn content(reply: &Value) -> &str {
    reply["choices"][0]["message"]["content"].as_str().unwrap_or_else(|| panic!("{reply}"))
}

#[test]
fn a_question_is_answered() {
    let serving = Serving::shared();
    let reply = serving.post(CHAT, &chat()).json();
    assert_eq!(content(&reply), QUESTION.1);
    assert_eq!((&reply["object"], &reply["choices"][0]["finish_reason"]), (&json!("chat.completion"), &json!("stop")));
    let usage = &reply["usage"];
    assert_eq!(usage["total_tokens"].as_u64(), Some(usage["prompt_tokens"].as_u64().unwrap_or(0) + 2), "{usage}");
    assert_eq!(reply["model"], "instructblip-shapes");
    // As the program answers.
    let asked = run(&["ask", &sample("00.png"), QUESTION.0, "--quiet"]);
    assert_eq!(text(&asked.stdout).trim(), QUESTION.1);
}

#[test]
fn a_stream_has_the_same_answer_in_pieces() {
    let serving = Serving::shared();
    for beams in [1, 3] {
        let asked = json!({"stream": true, "stream_options": {"include_usage": true}, "num_beams": beams});
        let response = serving.post(CHAT, &chat_with(asked));
        assert_eq!(response.header("content-type"), Some("text/event-stream; charset=utf-8"));
        let (pieces, ended) = response.pieces();
        assert!(ended, "{}", response.text());
        let delta = |piece: &Value| piece["choices"][0]["delta"]["content"].as_str().unwrap_or("").to_string();
        assert_eq!(pieces.iter().map(delta).collect::<String>(), QUESTION.1);
        assert_eq!(pieces[0]["choices"][0]["delta"]["role"], "assistant");
        let [.., last, usage] = pieces.as_slice() else { panic!("{pieces:?}") };
        assert_eq!(last["choices"][0]["finish_reason"], "stop");
        assert_eq!((&usage["choices"], &usage["usage"]["completion_tokens"]), (&json!([]), &json!(2)));
    }
}

#[test]
fn tokens_come_with_their_probabilities() {
    let serving = Serving::shared();
    let asked = json!({"logprobs": true, "top_logprobs": 3});
    let reply = serving.post(CHAT, &chat_with(asked.clone())).json();
    let tokens = reply["choices"][0]["logprobs"]["content"].as_array().expect("tokens").clone();
    assert_eq!(tokens.len(), 1, "the end is no token of the text: {reply}");
    let bytes: Vec<u8> = serde_json::from_value(tokens[0]["bytes"].clone()).expect("bytes");
    assert_eq!(String::from_utf8(bytes).expect("a text").trim(), QUESTION.1);
    assert_eq!(tokens[0]["top_logprobs"][0]["logprob"], tokens[0]["logprob"], "the likeliest is taken");
    assert_eq!(tokens[0]["top_logprobs"].as_array().map(Vec::len), Some(3));
    let streamed = serving.post(CHAT, &chat_with(json!({"logprobs": true, "top_logprobs": 3, "stream": true})));
    let (pieces, _) = streamed.pieces();
    let told = pieces.iter().filter_map(|piece| piece["choices"][0]["logprobs"]["content"].as_array()).flatten();
    assert_eq!(told.cloned().collect::<Vec<Value>>(), tokens);
}

/// Tokens behind the place where an answer is cut are none of it.
#[test]
fn probabilities_end_with_the_answer() {
    let serving = Serving::shared();
    let image = chat()["messages"][0]["content"][1].clone();
    let content = json!([{"type": "text", "text": "Describe everything you see in the image."}, image]);
    let asked = |stop: &str, stream: bool| {
        let messages = json!([{"role": "user", "content": content}]);
        serving.post(CHAT, &json!({"messages": messages, "logprobs": true, "stop": stop, "stream": stream}))
    };
    let plain = asked("nothing that is there", false).json();
    let words: Vec<String> = plain["choices"][0]["message"]["content"]
        .as_str()
        .map(|text| text.split(' ').map(String::from).collect())
        .unwrap_or_else(|| panic!("{plain}"));
    assert!(words.len() > 4, "{plain}");
    let spaced = format!(" {}", words[0]);
    for stop in [spaced.as_str(), words[0].as_str(), &words[2], &words[words.len() - 1][1..]] {
        let whole = asked(stop, false).json();
        let tokens = whole["choices"][0]["logprobs"]["content"].as_array().cloned().unwrap_or_default();
        let text: String = tokens.iter().filter_map(|token| token["token"].as_str()).collect();
        let told = whole["choices"][0]["message"]["content"].as_str().unwrap_or_default();
        assert!(text.trim().starts_with(told) && text.len() < told.len() + 12, "{stop}: {text:?} of {told:?}");
        let (pieces, _) = asked(stop, true).pieces();
        let streamed =
            pieces.iter().filter_map(|piece| piece["choices"][0]["logprobs"]["content"].as_array()).flatten();
        assert_eq!(streamed.cloned().collect::<Vec<Value>>(), tokens, "{stop}");
    }
}

#[test]
fn several_answers_are_drawn_or_equal() {
    let serving = Serving::shared();
    let answers = |fields: Value| {
        let reply = serving.post(CHAT, &chat_with(fields)).json();
        let choices = reply["choices"].as_array().unwrap_or_else(|| panic!("{reply}")).clone();
        let indices: Vec<u64> = choices.iter().filter_map(|choice| choice["index"].as_u64()).collect();
        assert_eq!(indices, (0..choices.len() as u64).collect::<Vec<_>>());
        choices.iter().map(|choice| choice["message"]["content"].to_string()).collect::<Vec<String>>()
    };
    assert_eq!(answers(json!({"n": 3, "temperature": 0})), vec![format!("\"{}\"", QUESTION.1); 3]);
    // A question that has many answers, unlike the others.
    let image = chat()["messages"][0]["content"][1].clone();
    let content = json!([{"type": "text", "text": "Write a description."}, image]);
    let drawn = |seed: i64| {
        json!({
            "messages": [{"role": "user", "content": content}], "n": 4, "temperature": 2, "seed": seed, "max_tokens": 12,
        })
    };
    assert_eq!(answers(drawn(-5)), answers(drawn(-5)), "the same seed draws the same");
    assert_ne!(answers(drawn(-5)), answers(drawn(7)), "another seed draws others");
    assert_eq!(answers(json!({"n": 2, "num_beams": 4})).len(), 2);
    assert_eq!(answers(json!({"n": 2})).len(), 2, "drawn where nothing says how");
}

#[test]
fn answers_end_where_they_are_to_end() {
    let serving = Serving::shared();
    let reply = serving.post(CHAT, &chat_with(json!({"max_tokens": 1}))).json();
    assert_eq!(reply["choices"][0]["finish_reason"], "length");
    for stream in [false, true] {
        let asked = json!({"stop": "le", "stream": stream});
        let response = serving.post(CHAT, &chat_with(asked));
        let told = match stream {
            false => content(&response.json()).to_string(),
            true => {
                let delta = |piece: &Value| piece["choices"][0]["delta"]["content"].as_str().unwrap_or("").to_string();
                response.pieces().0.iter().map(delta).collect()
            }
        };
        assert_eq!(told, "circ");
    }
    let large = serving.post(CHAT, &chat_with(json!({"max_completion_tokens": 1_000_000}))).json();
    assert_eq!(content(&large), QUESTION.1, "clients ask for thousands to be safe");
    let begun = serving.post(CHAT, &chat_with(json!({"prefix": "square"}))).json();
    assert!(content(&begun).starts_with("square"), "{begun}");
}

#[test]
fn fields_that_change_nothing_are_taken() {
    let serving = Serving::shared();
    let asked = json!({
        "user": "x", "metadata": {"a": "b"}, "store": false, "service_tier": "auto", "tools": [], "tool_choice": "none",
        "response_format": {"type": "text"}, "logit_bias": {}, "presence_penalty": 0, "frequency_penalty": 0,
        "parallel_tool_calls": true, "modalities": ["text"], "stop": null, "seed": null, "n": 1.0, "top_p": 1,
    });
    assert_eq!(content(&serving.post(CHAT, &chat_with(asked)).json()), QUESTION.1);
}

#[test]
fn a_task_words_the_prompt() {
    let serving = Serving::shared();
    let asked = |fields: Value| content(&serving.post(CHAT, &chat_with(fields)).json()).to_string();
    assert_eq!(asked(json!({"task": "vqa-short"})), QUESTION.1);
    let image = chat()["messages"][0]["content"][1].clone();
    let caption = json!({"messages": [{"role": "user", "content": [image]}]});
    assert!(asked(caption).contains(QUESTION.1), "a picture alone is described");
}

#[test]
fn candidates_are_ranked() {
    let serving = Serving::shared();
    let asked =
        json!({"image": picture("00.png"), "prompt": QUESTION.0, "choices": ["square", QUESTION.1, "triangle"]});
    let reply = serving.post("/v1/score", &asked).json();
    assert_eq!((&reply["data"][0]["choice"], &reply["data"][0]["index"]), (&json!(QUESTION.1), &json!(1)), "{reply}");
    let shares = reply["data"].as_array().expect("rows").iter().filter_map(|row| row["probability"].as_f64());
    assert!((shares.sum::<f64>() - 1.0).abs() < 1e-9);
}

#[test]
fn features_come_as_numbers_and_packed() {
    let serving = Serving::shared();
    let asked = |format: &str, kind: &str| {
        let inputs = json!([picture("00.png"), {"url": picture("01.png")}]);
        let body = json!({"input": inputs, "model": "any", "encoding_format": format, "features": kind});
        serving.post("/v1/embeddings", &body).json()["data"].clone()
    };
    for kind in ["image", "queries", "projected"] {
        let (plain, packed) = (asked("float", kind), asked("base64", kind));
        for at in 0..2 {
            let numbers: Vec<f32> = serde_json::from_value(plain[at]["embedding"].clone()).expect("numbers");
            let bytes = BASE64_STANDARD.decode(packed[at]["embedding"].as_str().expect("base64")).expect("base64");
            let read = bytes.chunks(4).map(|four| f32::from_le_bytes(four.try_into().expect("four bytes")));
            assert_eq!(numbers, read.collect::<Vec<f32>>());
            let shape: Vec<usize> = serde_json::from_value(plain[at]["shape"].clone()).expect("a shape");
            assert_eq!(shape.iter().product::<usize>(), numbers.len());
        }
        assert_ne!(plain[0]["embedding"], plain[1]["embedding"], "two pictures");
    }
}

#[test]
fn attention_is_numbers_or_a_picture() {
    let serving = Serving::shared();
    let asked = |fields: Value| {
        let mut body = json!({"image": picture("00.png"), "prompt": QUESTION.0});
        for (name, value) in fields.as_object().expect("an object") {
            body[name] = value.clone();
        }
        serving.post("/v1/attention", &body)
    };
    let map = asked(json!({"layer": 2, "head": 0})).json();
    let weights: Vec<f64> = serde_json::from_value(map["weights"].clone()).expect("numbers");
    assert_eq!(weights.len(), 144);
    assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-4);
    assert_ne!(asked(json!({"layer": 0})).json()["weights"], map["weights"]);
    let drawn = asked(json!({"format": "png"}));
    assert_eq!((drawn.header("content-type"), &drawn.body[1..4]), (Some("image/png"), b"PNG".as_slice()));
    assert!(asked(json!({"layer": 1})).refusal(400, "invalid_value").contains("[0, 2]"));
    assert!(asked(json!({"head": 5})).refusal(400, "invalid_value").contains("from 0 to 4"));
}

#[test]
fn the_server_tells_of_itself() {
    let serving = Serving::shared();
    let models = serving.get("/v1/models").json();
    let name = models["data"][0]["id"].as_str().expect("a name");
    assert_eq!(serving.get(&format!("/v1/models/{name}")).json(), models["data"][0]);
    serving.get("/v1/models/other/one").refusal(404, "model_not_found");
    assert_eq!(serving.get("/health").json(), json!({"status": "ok"}));
    let props = serving.get("/props").json();
    assert_eq!((&props["slots"], &props["attention"]["layers"]), (&json!(8), &json!([0, 2])));
    serving.post(CHAT, &chat());
    assert!(serving.metric("instructblip_answers_finished_total") >= 1.0);
    assert_eq!(serving.metric("instructblip_ready"), 1.0);
    assert!(serving.metric("instructblip_gpu_memory_bytes") > 1e6);
    let page = serving.get("/");
    assert!(page.text().contains("<!doctype html>") || page.text().contains("<!DOCTYPE html>"));
    assert!(page.header("content-security-policy").is_some_and(|policy| policy.contains("default-src 'none'")));
    serving.get("/v1/nothing").refusal(404, "unknown_url");
    let method = serving.get(CHAT);
    method.refusal(405, "method_not_allowed");
    assert_eq!(method.header("allow"), Some("POST"));
    assert!(method.header("x-request-id").is_some_and(|id| id.starts_with("req_")));
}
