//! The limits of who may ask, how much and how slowly, clients that leave, and the end of the server.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::program::{messages, program, refused, run, text};
use crate::support::serving::{QUESTION, Response, Serving, chat, chat_with, data_url, request};

const CHAT: &str = "/v1/chat/completions";

#[test]
fn a_key_is_wanted_where_one_is_set() {
    let serving = Serving::with(&["--api-key", "s3cret", "--cors-origin", "https://app.example"]);
    let asked = |headers: &[(&str, &str)]| serving.send("GET", "/v1/models", headers, b"");
    asked(&[]).refusal(401, "invalid_api_key");
    asked(&[("authorization", "Bearer s3cre")]).refusal(401, "invalid_api_key");
    assert_eq!(asked(&[("authorization", "Bearer s3cret")]).status, 200);
    serving.get("/metrics").refusal(401, "invalid_api_key");
    serving.get("/v1/nothing").refusal(401, "invalid_api_key");
    assert_eq!(serving.get("/").status, 200, "the page asks for the key");

    let origin = ("origin", "https://app.example");
    let question = [origin, ("access-control-request-method", "POST")];
    let may = serving.send("OPTIONS", CHAT, &question, b"");
    assert_eq!((may.status, may.header("access-control-allow-origin")), (204, Some("https://app.example")));
    let nothing = serving.send("GET", "/v1/nothing", &[origin, ("authorization", "Bearer s3cret")], b"");
    assert_eq!((nothing.status, nothing.header("access-control-allow-origin")), (404, Some("https://app.example")));
    let allowed = asked(&[origin, ("authorization", "Bearer s3cret")]);
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://app.example"));
    let (code, log) = serving.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("s3cret"), "{log}");
}

#[test]
fn only_this_machine_and_its_own_page_may_ask() {
    let serving = Serving::shared();
    let asked = |headers: &[(&str, &str)]| serving.send("GET", "/v1/models", headers, b"");
    asked(&[("host", "evil.example")]).refusal(403, "host_not_allowed");
    let own = format!("http://localhost:{}", serving.port);
    let host = format!("localhost:{}", serving.port);
    assert_eq!(asked(&[("host", &host), ("origin", &own)]).status, 200);
    let other = asked(&[("host", &host), ("origin", "https://evil.example")]);
    other.refusal(403, "origin_not_allowed");
    assert_eq!(other.header("access-control-allow-origin"), None);
    asked(&[("host", "localhost"), ("host", "evil.example")]).refusal(400, "invalid_host");
    for wrong in [
        ["--host", "a.example"],
        ["--cors-origin", "app.example"],
        ["--allow-host", "http://a"],
        ["--image-host", "a/b"],
    ] {
        refused(&["serve", wrong[0], wrong[1]], 2, &[wrong[0]]);
    }
    refused(&["serve", "--host", "0.0.0.0"], 3, &["--api-key", "--insecure"]);
    refused(&["serve", "--host", "192.0.2.1", "--insecure"], 3, &["no address 192.0.2.1"]);
    let port = serving.port.to_string();
    refused(&["serve", "--port", &port], 3, &["is in use", "--port"]);
}

#[test]
fn large_and_compressed_bodies_are_refused_before_they_are_read() {
    let serving = Serving::shared();
    let large = serving.post(CHAT, &chat_with(json!({"user": "x".repeat(1_100_000)})));
    assert!(large.refusal(413, "request_too_large").contains("1000000 bytes"));
    // A promise of much is refused without the bytes.
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999\r\n\r\n");
    let mut stream = serving.connect();
    stream.write_all(head.as_bytes()).expect("a server that reads");
    let mut first = [0; 12];
    stream.read_exact(&mut first).expect("an answer");
    assert_eq!(&first, b"HTTP/1.1 413");
    let encoded = [("content-encoding", "gzip")];
    serving.send("POST", CHAT, &encoded, b"\x1f\x8b").refusal(415, "unsupported_encoding");
    let chunks = [("transfer-encoding", "chunked")];
    let many = [b"100000\r\n".to_vec(), vec![b' '; 1 << 20], b"\r\n0\r\n\r\n".to_vec()].concat();
    serving.send("POST", CHAT, &chunks, &many).refusal(413, "request_too_large");
}

#[test]
fn slow_bodies_are_ended() {
    let serving = Serving::shared();
    let since = Instant::now();
    let mut stream = serving.connect();
    let head =
        format!("POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\nconnection: close\r\n\r\n{{");
    stream.write_all(head.as_bytes()).expect("a server that reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    Response::read(&answer).refusal(408, "timeout");
    assert!(since.elapsed() >= Duration::from_secs(2));
}

#[test]
fn who_comes_when_all_places_are_taken_is_told_to_wait() {
    let serving = Serving::with(&["--queue", "1", "--slots", "1", "--max-new-tokens", "450"]);
    let long = json!({"min_tokens": 400, "max_tokens": 400});
    let first = serving.open(CHAT, &chat_with(long));
    serving.wait_for("instructblip_queue", |queue| queue == 1.0);
    let response = serving.post(CHAT, &chat());
    assert!(response.refusal(503, "overloaded").contains("wait"));
    let seconds = response.header("retry-after").and_then(|seconds| seconds.parse::<u64>().ok());
    assert!(seconds.is_some_and(|seconds| (1..=60).contains(&seconds)), "{response:?}");
    drop(first);
    serving.wait_for("instructblip_queue", |queue| queue == 0.0);
    assert_eq!(serving.post(CHAT, &chat()).status, 200);
}

/// Steps are counted: after the client has gone there is at most the one that ran, and one that was under way.
#[test]
fn a_client_that_leaves_frees_its_slot_within_a_step() {
    let serving = Serving::with(&["--max-new-tokens", "450", "--slots", "1"]);
    for stream in [true, false] {
        let cancelled = serving.metric("instructblip_answers_cancelled_total");
        let long = json!({"min_tokens": 400, "max_tokens": 400, "stream": stream});
        let client = serving.open(CHAT, &chat_with(long));
        serving.wait_for("instructblip_slots_taken", |taken| taken == 1.0);
        client.shutdown(Shutdown::Both).expect("a connection to end");
        drop(client);
        serving.wait_for("instructblip_answers_cancelled_total", |count| count == cancelled + 1.0);
        assert_eq!(serving.metric("instructblip_slots_taken"), 0.0, "as soon as it is counted");
        let steps = serving.metric("instructblip_steps_total");
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(serving.metric("instructblip_steps_total"), steps, "nobody's answer is made");
    }
    let (code, log) = serving.end();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(log.matches("the client left").count(), 2, "{log}");
}

#[test]
fn answers_under_way_end_before_the_server_does() {
    let serving = Serving::with(&["--max-new-tokens", "200"]);
    let long = json!({"min_tokens": 150, "max_tokens": 150, "stream": true});
    let mut client = serving.open(CHAT, &chat_with(long));
    serving.wait_for("instructblip_slots_taken", |taken| taken == 1.0);
    let (code, log) = serving.end();
    assert_eq!(code, Some(0), "{log}");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).expect("an answer");
    let (pieces, ended) = Response::read(&answer).pieces();
    assert!(ended, "{log}");
    let last = pieces.iter().rev().find_map(|piece| piece["choices"][0]["finish_reason"].as_str());
    assert_eq!(last, Some("length"));
}

#[test]
fn answers_that_take_too_long_at_the_end_are_cut_and_the_program_says_so() {
    let serving = Serving::with(&["--max-new-tokens", "450", "--drain", "0", "--slots", "1"]);
    let mut client = serving.open(CHAT, &chat_with(json!({"min_tokens": 400, "max_tokens": 400})));
    let mut streaming = serving.open(CHAT, &chat_with(json!({"min_tokens": 400, "max_tokens": 400, "stream": true})));
    serving.wait_for("instructblip_slots_taken", |taken| taken == 1.0);
    let (code, log) = serving.end();
    assert_eq!(code, Some(75), "{log}");
    assert!(log.contains("some answers took longer than 0 s"), "{log}");
    assert!(!log.contains("the client left"), "{log}");
    for client in [&mut client, &mut streaming] {
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).expect("last words");
        assert!(String::from_utf8_lossy(&answer).contains("the server is stopping"), "{answer:?}");
    }
}

#[test]
fn a_server_may_end_with_the_program_that_began_it() {
    let mut child = program();
    child.args(["serve", "--port", "0", "--until-stdin-ends"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child.spawn().expect("the program runs");
    let mut log = messages(&mut child);
    assert!(log.any(|line| line.contains("ready")), "it ends before it is ready");
    drop(child.stdin.take());
    let rest: Vec<String> = log.collect();
    assert_eq!(child.wait().expect("it ends").code(), Some(0), "{rest:?}");
}

#[test]
fn a_server_that_is_asked_to_end_while_it_loads_ends() {
    let serving = Serving::begin(&["--host", "localhost"], &[]);
    let health = serving.get("/health");
    assert!([(503, json!("loading")), (200, json!("ok"))].contains(&(health.status, health.json()["status"].clone())));
    assert_eq!(serving.end().0, Some(0));
    let output = run(&["serve", "--port", "0", "--model", "/nowhere"]);
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(3) && said.contains("/nowhere") && !said.contains("listening"), "{said}");
}

/// Each device is lost after so many submits, of which a slow machine needs more for an answer: requests then are told to come again, and the model is loaded again.
#[test]
fn a_lost_gpu_is_told_and_the_model_loaded_again() {
    let lose = |at: &'static str| Serving::begin(&[], &[("INSTRUCTBLIP_TEST_LOSE_GPU", at)]);
    let serving = lose("submit 150").ready();
    let (mut right, mut later) = (0, 0);
    while right < 6 || later < 2 {
        let response = serving.post(CHAT, &chat());
        match response.status {
            200 => right += 1,
            503 => {
                let code = response.json()["error"]["code"].clone();
                assert!(["gpu_lost", "loading"].contains(&code.as_str().unwrap_or_default()), "{}", response.text());
                assert!(response.header("retry-after").is_some());
                later += 1;
                std::thread::sleep(Duration::from_millis(50));
            }
            _ => panic!("{}", response.text()),
        }
        if response.status == 200 {
            assert_eq!(response.json()["choices"][0]["message"]["content"], QUESTION.1);
        }
        assert!(right + later < 2000, "{}", serving.log());
    }
    let (code, log) = serving.end();
    assert!(code == Some(0) && log.contains("the model is loaded again (1 of 3)"), "{code:?}: {log}");
    let (code, log) = lose("submit 0").ended();
    assert_eq!(code, Some(6), "a GPU that cannot even load it: {log}");
}

/// Pictures and words of one request reach no other: each of many at once gets its own answer, the same every time.
#[test]
fn answers_do_not_depend_on_who_else_asks() {
    let serving = Serving::shared();
    let names = ["00.png", "01.png", "02.png", "03.png"];
    let asked = |name: &str, words: &str| {
        let mut body = chat();
        let bytes = std::fs::read(crate::support::program::sample(name)).expect("a picture");
        body["messages"][0]["content"][0]["text"] = json!(words);
        body["messages"][0]["content"][1]["image_url"]["url"] = json!(data_url(&bytes));
        let reply = serving.post(CHAT, &body).json();
        reply["choices"][0]["message"]["content"].as_str().unwrap_or_else(|| panic!("{reply}")).to_string()
    };
    let words = ["How many things are there?", QUESTION.0];
    let alone: Vec<String> = names.iter().flat_map(|name| words.map(|words| asked(name, words))).collect();
    let together: Vec<String> = std::thread::scope(|scope| {
        let asking: Vec<_> =
            names.iter().flat_map(|name| words.map(|words| scope.spawn(move || asked(name, words)))).collect();
        asking.into_iter().map(|asking| asking.join().expect("an answer")).collect()
    });
    assert_eq!(alone, together);
}

/// Two requests on one connection, and one that expects to be told to go on, as `curl` sends large bodies.
#[test]
fn connections_are_kept_and_expectations_met() {
    let serving = Serving::shared();
    let body = chat().to_string();
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n", body.len());
    let mut stream = serving.connect();
    write!(stream, "{head}\r\n{body}").expect("a server that reads");
    let mut seen = Vec::new();
    while !seen.windows(3).any(|end| end == b"}}\n" || end == b"\"}}" || end.ends_with(b"}}")) {
        let mut some = [0; 4096];
        let read = stream.read(&mut some).expect("an answer");
        assert!(read > 0, "{}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&some[..read]);
    }
    write!(stream, "{head}expect: 100-continue\r\nconnection: close\r\n\r\n").expect("a connection that was kept");
    let mut told = [0; 25];
    stream.read_exact(&mut told).expect("a word to go on");
    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(body.as_bytes()).expect("a server that reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let reply: Value = Response::read(&answer).json();
    assert_eq!(reply["choices"][0]["message"]["content"], QUESTION.1);
    assert!(!request("GET", "/", &[], b"").is_empty());
}
