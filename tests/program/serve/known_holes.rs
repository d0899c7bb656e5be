//! Holes that others had to close, tried here: each test is named after the report. Those of loaders of other formats are
//! tried with what stands in their place here.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::fixtures::Fixture;
use crate::support::program::{refused, run, text};
use crate::support::serving::{QUESTION, Response, Serving, chat, chat_with, data_url};

const CHAT: &str = "/v1/chat/completions";

/// The answer to a request with a picture at an address.
fn at(serving: &Serving, address: &str) -> Response {
    let image = json!({"type": "image_url", "image_url": {"url": address}});
    serving.post(CHAT, &json!({"messages": [{"role": "user", "content": [image]}]}))
}

/// The checkpoint of a fixture is refused with these words, and nothing of its bytes is told.
fn is_refused(fixture: &Fixture, parts: &[&str]) {
    let folder = fixture.path().display().to_string();
    let sample = crate::support::program::sample("00.png");
    refused(&["ask", &sample, "a", "--quiet", "--model", &folder], 3, parts);
}

/// llama.cpp: a file's header counts more entries than there are, and reading them leaves the buffer.
#[test]
fn cve_2024_23496_a_header_that_counts_more_than_there_is() {
    let fixture = Fixture::new();
    let mut bytes = fixture.read("model.safetensors");
    bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    fixture.write("model.safetensors", bytes);
    is_refused(&fixture, &["model.safetensors"]);
}

/// llama.cpp: a tensor's dimensions overflow where they are multiplied.
#[test]
fn cve_2024_21802_dimensions_that_overflow() {
    let fixture = Fixture::new();
    let bytes = fixture.read("model.safetensors");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).expect("a header");
    let first = header.as_object_mut().and_then(|all| all.values_mut().find(|of| of["shape"].is_array()));
    first.expect("a tensor")["shape"] = json!([u64::MAX, u64::MAX]);
    let header = header.to_string();
    let all = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &bytes[8 + length..]].concat();
    fixture.write("model.safetensors", all);
    is_refused(&fixture, &["model.safetensors"]);
}

/// llama.cpp: a vocabulary's token is longer than its signed length can say.
#[test]
fn cve_2025_49847_a_vocabulary_with_a_very_long_token() {
    let fixture = Fixture::new();
    let name = ["tokenizer.json", "qformer_tokenizer/tokenizer.json"].into_iter().find(|n| fixture.file(n).exists());
    let name = name.expect("a tokenizer");
    let mut tokenizer: Value = serde_json::from_slice(&fixture.read(name)).expect("JSON");
    let vocabulary = tokenizer["model"]["vocab"].as_object_mut();
    vocabulary.map(|vocabulary| vocabulary.insert("x".repeat(3_000_000), json!(4_294_967_295_u32)));
    fixture.write(name, tokenizer.to_string());
    let folder = fixture.path().display().to_string();
    let output = run(&["ask", &crate::support::program::sample("00.png"), "a", "--quiet", "--model", &folder]);
    let stderr = text(&output.stderr);
    assert!(output.status.code().is_some_and(|code| [0, 3].contains(&code)), "{}", &stderr[..stderr.len().min(500)]);
    assert!(!stderr.contains("internal error") && stderr.len() < 2000, "{}", &stderr[..stderr.len().min(500)]);
}

/// llama.cpp: a negative number in a request's JSON writes before a buffer.
#[test]
fn cve_2026_21869_a_negative_number_in_a_request() {
    let serving = Serving::shared();
    let numbers = "n max_tokens max_completion_tokens top_k num_beams min_tokens top_logprobs no_repeat_ngram_size";
    for field in numbers.split(' ') {
        for value in [json!(-1), json!(i64::MIN), json!(-0.5)] {
            serving.post(CHAT, &chat_with(json!({field: value}))).refusal(400, "invalid_value");
        }
    }
    serving.post(CHAT, &chat_with(json!({"n_discard": -1}))).refusal(400, "unsupported_parameter");
}

/// ollama: a tensor is declared larger than its file, and the heap behind it is served.
#[test]
fn cve_2026_7482_a_tensor_that_is_larger_than_its_file() {
    let fixture = Fixture::new();
    let bytes = fixture.read("model.safetensors");
    fixture.write("model.safetensors", &bytes[..bytes.len() - 4096]);
    is_refused(&fixture, &["model.safetensors"]);
}

/// ollama: a digest in a request is a path.
#[test]
fn cve_2026_7020_and_2024_37032_names_that_are_paths() {
    let serving = Serving::shared();
    for path in ["/v1/models/../../etc/passwd", "/v1/models/..%2f..%2fetc%2fpasswd", "/v1/models/%2e%2e/%2e%2e/x"] {
        let response = serving.get(path);
        assert_eq!(response.status, 404, "{path}: {}", response.text());
        assert!(!response.text().contains("root:"), "{path}");
    }
    let fixture = Fixture::new();
    fixture.remove("model.safetensors");
    fixture.write("model.safetensors.index.json", json!({"weight_map": {"a": "../../../etc/passwd"}}).to_string());
    is_refused(&fixture, &["model.safetensors.index.json"]);
}

/// ollama: its updater fetches and runs what it should not. There is none here, and no route that makes or fetches models.
#[test]
fn cve_2026_42248_and_42249_there_is_no_updater() {
    let serving = Serving::shared();
    for path in ["/api/pull", "/api/create", "/api/push", "/api/blobs/sha256:x", "/api/update", "/v1/models"] {
        let response = serving.post(path, &json!({"model": "x", "path": "/etc/passwd"}));
        assert!([404, 405].contains(&response.status), "{path}: {}", response.text());
    }
    let help = run(&["--help"]);
    assert!(!text(&help.stdout).contains("update"));
}

/// vLLM: an address in a request has the server ask hosts of its own network.
#[test]
fn ghsa_3f6c_7fw2_ppm4_addresses_of_the_servers_own_network() {
    let closed = Serving::shared();
    // No host there is allowed, so that nothing is ever looked up or asked.
    let open = Serving::with(&["--image-host", "images.example"]);
    for address in OWN_NETWORK {
        for serving in [&*closed, &open] {
            let message = at(serving, address).refusal(400, "invalid_value");
            assert!(message.starts_with("messages[0].content[0].image_url"), "{address}: {message}");
        }
    }
}

/// Addresses that lead to the server's own machine or network, as they are written to be overlooked.
pub const OWN_NETWORK: [&str; 22] = [
    "http://127.0.0.1:1/",
    "https://127.0.0.1/",
    "https://localhost/",
    "https://localhost./",
    "https://0/",
    "https://0x7f.1/",
    "https://2130706433/",
    "https://017700000001/",
    "https://[::1]/",
    "https://[::]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:7f00:1]/",
    "https://[64:ff9b::7f00:1]/",
    "https://[fe80::1]/",
    "https://[fd00:ec2::254]/",
    "https://10.0.0.1/",
    "https://169.254.169.254/latest/meta-data/",
    "https://192.168.0.1/",
    "https://100.64.0.1/",
    "https://127.0.0.1.nip.example/",
    "https://user:password@127.0.0.1/",
    "file:///etc/passwd",
];

/// vLLM: a backslash that two parsers read otherwise leads past the check of hosts.
#[test]
fn cve_2026_24779_a_backslash_in_an_address() {
    let serving = Serving::with(&["--image-host", "images.example"]);
    for address in [
        "https://images.example\\@127.0.0.1/a.png",
        "https://127.0.0.1\\.images.example/a.png",
        "https:\\\\images.example\\a.png",
        "https://images.example@127.0.0.1/a.png",
        "https://127.0.0.1#@images.example/",
        "https://127.0.0.1?@images.example/",
        "https://images.example%5c@127.0.0.1/",
        "https://images.example\t@127.0.0.1/",
        "https://images.example:443@127.0.0.1/",
    ] {
        at(&serving, address).refusal(400, "invalid_value");
    }
}

/// vLLM: a decoder's words about a bad picture tell an address of memory.
#[test]
fn cve_2026_22778_refusals_tell_nothing_of_the_decoder() {
    let serving = Serving::shared();
    let png = std::fs::read(crate::support::program::sample("00.png")).expect("a picture");
    for seed in 0..60_u64 {
        let mut bad = png.clone();
        let at = 8 + (seed as usize * 7919) % (bad.len() - 8);
        bad[at] ^= 1 << (seed % 8);
        let response = at_data(&serving, &bad);
        if response.status != 200 {
            let message = response.refusal(400, "invalid_image");
            assert!(!message.contains("0x") && !message.contains("Error") && message.len() < 200, "{message}");
        }
    }
}

fn at_data(serving: &Serving, bytes: &[u8]) -> Response {
    at(serving, &data_url(bytes))
}

/// vLLM: a small picture of great size takes all memory.
#[test]
fn cve_2026_22773_pictures_that_grow() {
    let serving = Serving::shared();
    for (width, height) in [(100_000_u32, 100_000_u32), (u32::MAX, 1), (1, u32::MAX), (0x7fff_ffff, 0x7fff_ffff)] {
        let png = bomb(width, height);
        let since = Instant::now();
        let response = at_data(&serving, &png);
        assert_eq!(response.status, 400, "{width}x{height}: {}", response.text());
        assert!(since.elapsed() < Duration::from_secs(20));
    }
    let reply = serving.post(CHAT, &chat()).json();
    assert_eq!(reply["choices"][0]["message"]["content"], QUESTION.1);
}

/// A PNG file that says that it has so many pixels.
pub fn bomb(width: u32, height: u32) -> Vec<u8> {
    let mut head = b"IHDR".to_vec();
    head.extend(width.to_be_bytes());
    head.extend(height.to_be_bytes());
    head.extend([8, 2, 0, 0, 0]);
    let sum = crc32fast::hash(&head);
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    png.extend(head);
    png.extend(sum.to_be_bytes());
    png.extend(b"\0\0\0\x08IDAT\x78\x9c\x63\0\0\0\0\0\0\0\0\0\0\0\0\0\0IEND\xae\x42\x60\x82");
    png
}
