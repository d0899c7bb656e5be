//! Requests that are wrong: each is refused with the status, the code and the field that clients look at.

use serde_json::{Value, json};

use crate::support::serving::{Serving, chat, chat_with, data_url, picture};

const CHAT: &str = "/v1/chat/completions";

#[test]
fn a_value_out_of_range_is_refused_by_its_name() {
    let serving = Serving::shared();
    for (field, value) in [
        ("temperature", json!(-0.1)),
        ("temperature", json!(2.1)),
        ("temperature", json!("hot")),
        ("top_p", json!(1.5)),
        ("top_k", json!(-1)),
        ("n", json!(0)),
        ("n", json!(9)),
        ("n", json!(1.5)),
        ("max_tokens", json!(0)),
        ("max_tokens", json!(-1)),
        ("max_completion_tokens", json!("many")),
        ("num_beams", json!(1000)),
        ("repetition_penalty", json!(0)),
        ("seed", json!(1.5)),
        ("stop", json!([""])),
        ("stop", json!(3)),
        ("stop", json!(vec!["x"; 17])),
        ("stream", json!("yes")),
        ("logprobs", json!(3)),
        ("top_logprobs", json!(5)),
        ("min_tokens", json!(257)),
        ("task", json!("dance")),
        ("choices", json!(["a"])),
        ("bad_words", json!("a")),
        ("prefix", json!(["a"])),
        ("messages", json!("hello")),
        ("messages", json!([])),
    ] {
        let response = serving.post(CHAT, &chat_with(json!({field: value})));
        let message = response.refusal(400, "invalid_value");
        assert!(message.starts_with(field), "{field}: {message}");
        assert_eq!(response.json()["error"]["param"], field, "{message}");
    }
    let response = serving.post(CHAT, &chat_with(json!({"prefix": "a red", "stop": ["blue", "red"]})));
    assert!(response.refusal(400, "invalid_value").starts_with("prefix: has \"red\" in it"));
    for (field, value) in [
        ("tools", json!([{"type": "function"}])),
        ("functions", json!([{}])),
        ("response_format", json!({"type": "json_object"})),
        ("modalities", json!(["audio"])),
        ("logit_bias", json!({"5": 1})),
        ("lora", json!("x")),
        ("max_tokns", json!(5)),
    ] {
        let response = serving.post(CHAT, &chat_with(json!({field: value})));
        response.refusal(400, "unsupported_parameter");
        assert_eq!(response.json()["error"]["param"], field);
    }
}

#[test]
fn pictures_that_are_none_are_refused_by_their_place() {
    let serving = Serving::shared();
    let place = "messages[0].content[0].image_url";
    let asked = |picture: Value| {
        let image = json!({"type": "image_url", "image_url": picture});
        serving.post(CHAT, &json!({"messages": [{"role": "user", "content": [image, {"type": "text", "text": "a"}]}]}))
    };
    let bytes = std::fs::read(crate::support::program::sample("00.png")).expect("a picture");
    for (picture, code) in [
        (json!({"url": data_url(b"no picture")}), "invalid_image"),
        (json!({"url": data_url(&bytes[..bytes.len() / 2])}), "invalid_image"),
        (json!({"url": "data:image/png;base64,"}), "invalid_value"),
        (json!({"url": "data:image/png;base64,%%%"}), "invalid_value"),
        (json!({"url": "data:image/png,abc"}), "invalid_value"),
        (json!({"url": "https://images.example/a.png"}), "invalid_value"),
        (json!({"url": "file:///etc/passwd"}), "invalid_value"),
        (json!({"url": "/etc/passwd"}), "invalid_value"),
        (json!({"url": 3}), "invalid_value"),
        (json!(3), "invalid_value"),
    ] {
        let response = asked(picture.clone());
        let message = response.refusal(400, code);
        assert_eq!(response.json()["error"]["param"], place, "{picture}: {message}");
        assert!(message.starts_with(place), "{message}");
    }
    let two = json!([{"type": "image_url", "image_url": picture("00.png")}, {"type": "image_url", "image_url": picture("01.png")}]);
    let two = serving.post(CHAT, &json!({"messages": [{"role": "user", "content": two}]}));
    assert!(two.refusal(400, "invalid_value").contains("has 2 pictures"));
    let none = serving.post(CHAT, &json!({"messages": [{"role": "user", "content": "What is it?"}]}));
    assert!(none.refusal(400, "invalid_value").contains("no picture"));
}

#[test]
fn a_prompt_that_is_too_long_is_refused_with_both_numbers() {
    let serving = Serving::shared();
    let mut long = chat();
    long["messages"][0]["content"][0]["text"] = json!("red ".repeat(5000));
    let message = serving.post(CHAT, &long).refusal(400, "context_length_exceeded");
    assert!(message.contains("has room for") && message.contains("needs"), "{message}");
    long["messages"][0]["content"][0]["text"] = json!("red ".repeat(50_000));
    let message = serving.post(CHAT, &long).refusal(400, "invalid_value");
    assert!(message.contains("200000 bytes"), "before it is made tokens of: {message}");
}

#[test]
fn special_tokens_of_a_prompt_are_text() {
    let serving = Serving::shared();
    for words in ["</s>", "[PAD] [DEC]", "<s>", "\u{0}", "\u{202e}abc", "👩‍👩‍👧"] {
        let mut asked = chat();
        asked["messages"][0]["content"][0]["text"] = json!(words);
        assert_eq!(serving.post(CHAT, &asked).status, 200, "{words}");
    }
    let mut asked = chat();
    asked["messages"][0]["content"][0]["text"] = json!("<image> what?");
    assert!(serving.post(CHAT, &asked).refusal(400, "invalid_value").contains("<image>"));
}
