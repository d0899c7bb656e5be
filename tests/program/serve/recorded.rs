//! Requests as OpenAI's clients really sent them once, sent again: `tests/serve/README.md` has the format.

use serde_json::{Map, Value};

use crate::support::golden::tests_folder;
use crate::support::serving::{Response, Serving, picture};

/// Puts the pictures' data in the place of their names.
fn with_pictures(text: &str) -> String {
    let mut parts = text.split("data:image/png;base64,@samples/");
    let first = parts.next().unwrap_or_default().to_string();
    parts.fold(first, |all, part| {
        let (name, rest) = part.split_at(part.find(".png").expect("a picture's name") + 4);
        all + &picture(name) + rest
    })
}

/// Tells whether a response has everything that was recorded.
fn has(found: &Value, wanted: &Value) -> bool {
    match wanted {
        Value::String(kind) if kind == "@text" => found.is_string(),
        Value::String(kind) if kind == "@number" => found.is_number(),
        Value::String(kind) if kind == "@value" => !found.is_null(),
        Value::Object(fields) => fields.iter().all(|(name, wanted)| has(&found[name], wanted)),
        Value::Array(wanted) => found.as_array().is_some_and(|found| {
            found.len() == wanted.len() && found.iter().zip(wanted).all(|(found, wanted)| has(found, wanted))
        }),
        wanted => found == wanted,
    }
}

/// The pieces of a stream as one: texts of deltas are joined, of all else the last that is something counts.
fn as_one(response: &Response) -> Value {
    let (pieces, ended) = response.pieces();
    assert!(ended, "{}", response.text());
    let mut all = Value::Null;
    pieces.into_iter().for_each(|piece| add(&mut all, piece, ""));
    all
}

fn add(all: &mut Value, piece: Value, name: &str) {
    match (all, piece) {
        (_, Value::Null) => {}
        (Value::String(text), Value::String(more)) if name == "content" => text.push_str(&more),
        (Value::Object(all), Value::Object(piece)) => {
            piece
                .into_iter()
                .for_each(|(name, value)| add(all.entry(name.clone()).or_insert(Value::Null), value, &name));
        }
        (Value::Array(all), Value::Array(piece)) => {
            piece.into_iter().enumerate().for_each(|(i, value)| match all.get_mut(i) {
                Some(one) => add(one, value, ""),
                None => all.push(value),
            });
        }
        (all, piece) => *all = piece,
    }
}

fn headers(recorded: &Map<String, Value>) -> Vec<(&str, &str)> {
    recorded.iter().map(|(name, value)| (name.as_str(), value.as_str().expect("a text"))).collect()
}

#[test]
fn recorded_requests_are_answered() {
    let folder = tests_folder().join("serve/recorded");
    let files = std::fs::read_dir(&folder).expect("recorded requests").flatten().map(|file| file.path());
    let files: Vec<_> = files.filter(|file| file.extension().is_some_and(|ending| ending == "json")).collect();
    assert!(files.len() >= 16, "{}", files.len());
    let serving = Serving::shared();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a text");
        let recorded: Value = serde_json::from_str(&text).expect("JSON");
        let name = file.display();
        let body =
            if recorded["body"].is_null() { String::new() } else { with_pictures(&recorded["body"].to_string()) };
        let text = |field: &str| recorded[field].as_str().expect("a text");
        let sent = headers(recorded["headers"].as_object().expect("headers"));
        let response = serving.send(text("method"), text("path"), &sent, body.as_bytes());
        let wanted = &recorded["response"];
        assert_eq!(Value::from(response.status), wanted["status"], "{name}: {}", response.text());
        let kind = wanted["content_type"].as_str().expect("a type");
        assert!(response.header("content-type").is_some_and(|found| found.starts_with(kind)), "{name}: {response:?}");
        let found = if kind.starts_with("text/event-stream") { as_one(&response) } else { response.json() };
        assert!(has(&found, &wanted["body"]), "{name}: {found} is not {}", wanted["body"]);
    }
}
