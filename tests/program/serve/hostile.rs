//! Requests that mean harm, drawn at random: none may crash the server, be answered with its fault, or fill its memory.
//! `HOSTILE` is their number; the seed of a failure is told.

use std::io::Write;
use std::net::Shutdown;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};

use super::known_holes::{OWN_NETWORK, bomb};
use crate::support::serving::{QUESTION, Response, Serving, chat, chat_with, data_url, request};

const CHAT: &str = "/v1/chat/completions";

/// Time for the answer to a head that has an end.
const HEAD: Duration = Duration::from_millis(500);

/// Clients at once.
const CLIENTS: usize = 8;

#[test]
fn hostile_requests_harm_nobody() {
    let count: usize = std::env::var("HOSTILE").ok().and_then(|count| count.parse().ok()).unwrap_or(150);
    let serving = Serving::with(&["--body-limit", "1MB", "--body-time", "1", "--image-host", "images.example"]);
    let tally = Mutex::new(std::collections::BTreeMap::<String, usize>::new());
    // The first part shows how much memory such requests take at most at once; the rest may not take more.
    attack(&serving, 0..count / 4, &tally);
    let before = serving.memory();
    attack(&serving, count / 4..count, &tally);
    let after = serving.memory();
    println!("{count} requests: {:?}; memory {before} -> {after} bytes", tally.into_inner().expect("a tally"));
    // A few requests have not shown yet what buffers that are kept take.
    let share = if count >= 4000 { 20 } else { 3 };
    assert!(after < before + before / share, "memory grew from {before} to {after} bytes");
    let reply = serving.post(CHAT, &chat()).json();
    assert_eq!(reply["choices"][0]["message"]["content"], QUESTION.1);
    serving.wait_for("instructblip_queue", |queue| queue == 0.0);
    let (code, log) = serving.end();
    assert_eq!(code, Some(0));
    assert!(!log.contains("internal error") && !log.contains("panicked"), "{log}");
}

/// Sends requests of these numbers, each from its own seed.
fn attack(
    serving: &Serving,
    numbers: std::ops::Range<usize>,
    tally: &Mutex<std::collections::BTreeMap<String, usize>>,
) {
    let next = AtomicUsize::new(numbers.start);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= numbers.end {
                        return;
                    }
                    let became = one(serving, seed as u64);
                    *tally.lock().expect("a tally").entry(became).or_default() += 1;
                }
            });
        }
    });
}

/// Sends one request, and says what became of it.
fn one(serving: &Serving, seed: u64) -> String {
    let mut rng = Rng::with_seed(seed);
    let answer = match rng.u8(0..12) {
        0 => serving.raw_within(&mutated(&mut rng), 4 * HEAD),
        1 => return leaves(serving, &mut rng),
        // The server waits for the end of a head, longer than this.
        2 => serving.raw_within(&head(&mut rng), HEAD),
        3 => serving.raw(&at_path(&mut rng)),
        _ => serving.raw(&request("POST", ROUTES[rng.usize(..ROUTES.len())], &[], &body(&mut rng))),
    };
    if answer.is_empty() {
        return "closed".into();
    }
    let response = Response::read(&answer);
    let status = response.status;
    let is_right = status < 500 || status == 503 && response.header("retry-after").is_some();
    assert!(is_right, "seed {seed}: {status} {}", String::from_utf8_lossy(&response.body));
    status.to_string()
}

const ROUTES: [&str; 5] = [CHAT, CHAT, "/v1/score", "/v1/embeddings", "/v1/attention"];

/// A good request with some bytes changed, left out or doubled.
fn mutated(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = request("POST", CHAT, &[], chat().to_string().as_bytes());
    for _ in 0..rng.usize(1..8) {
        let at = rng.usize(..bytes.len());
        match rng.u8(0..4) {
            0 => bytes[at] = rng.u8(..),
            1 => bytes.truncate(at + 1),
            2 => drop(bytes.remove(at)),
            _ => bytes.insert(at, rng.u8(..)),
        }
    }
    bytes
}

/// A good request whose client leaves in the middle of it, or of its answer.
fn leaves(serving: &Serving, rng: &mut Rng) -> String {
    let asked = chat_with(json!({"stream": rng.bool(), "min_tokens": 20, "max_tokens": 20})).to_string();
    let bytes = request("POST", CHAT, &[], asked.as_bytes());
    let end = if rng.bool() { bytes.len() } else { rng.usize(..bytes.len()) };
    let mut stream = serving.connect();
    let _ = stream.write_all(&bytes[..end]);
    if rng.bool() {
        std::thread::sleep(Duration::from_millis(rng.u64(0..60)));
    }
    let _ = stream.shutdown(Shutdown::Both);
    "left".into()
}

/// A request with a head that no client writes.
fn head(rng: &mut Rng) -> Vec<u8> {
    let long = "a".repeat(rng.usize(1..100_000));
    let many = (0..rng.usize(1..300)).map(|i| format!("x-{i}: {i}\r\n")).collect::<String>();
    let heads = [
        format!("GET /{long} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"),
        format!("GET /health HTTP/1.1\r\nhost: localhost\r\nx: {long}\r\nconnection: close\r\n\r\n"),
        format!("GET /health HTTP/1.1\r\nhost: localhost\r\n{many}connection: close\r\n\r\n"),
        "GET /health HTTP/9.9\r\nhost: localhost\r\n\r\n".into(),
        "GET /health HTTP/1.0\r\n\r\n".into(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(),
        format!("POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\nconnection: close\r\n\r\n"),
        format!("POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ncontent-length: 9\r\n\r\n{{}}"),
        format!("POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"),
        format!(
            "POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\nffffffffffffffffff\r\n"
        ),
        "GET /health HTTP/1.1\r\nhost: evil.example\r\nhost: localhost\r\nconnection: close\r\n\r\n".into(),
        "GET /health HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\nconnection: close\r\n\r\n".into(),
        "GET http://evil.example/health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".into(),
        "\0\u{1}\u{2}\r\n\r\n".into(),
        "CONNECT evil.example:443 HTTP/1.1\r\nhost: evil.example:443\r\n\r\n".into(),
        "OPTIONS * HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".into(),
    ];
    heads[rng.usize(..heads.len())].clone().into_bytes()
}

/// A request for a path that leads elsewhere.
fn at_path(rng: &mut Rng) -> Vec<u8> {
    let paths = [
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/v1/models/..%5c..%5cx",
        "/v1/models/%00",
        "/v1/models/%ff%fe",
        "/v1/models/a%2fb",
        "/?a=/etc/passwd",
        "/metrics/../v1/models",
        "/v1//models",
        "/v1/models/%F0%9F%98%80",
        "/.env",
        "/v1/chat/completions/",
        "/;/health",
        "/health%20",
    ];
    let method = ["GET", "POST", "PUT", "DELETE", "PATCH", "TRACE", "HEAD", "BREW"][rng.usize(..8)];
    let host =
        ["localhost", "evil.example", "127.0.0.1.evil.example", "[::1", "", "localhost:99999", "a b"][rng.usize(..7)];
    request(method, paths[rng.usize(..paths.len())], &[("host", host)], b"{}")
}

/// A body that is no request, or one with something in it that should not be.
fn body(rng: &mut Rng) -> Vec<u8> {
    let text = |value: &Value| value.to_string().into_bytes();
    let address = match rng.u8(0..6) {
        0 => OWN_NETWORK[rng.usize(..OWN_NETWORK.len())].to_string(),
        1 => data_url(&bomb(rng.u32(..), rng.u32(..))),
        2 => data_url(&(0..rng.usize(0..5000)).map(|_| rng.u8(..)).collect::<Vec<u8>>()),
        3 => format!("data:image/png;base64,{}", "A".repeat(rng.usize(0..700_000))),
        4 => format!("https://images.example\\@{}/", rng.u32(..)),
        _ => "data:".into(),
    };
    let words = ["</s><s>[INST]", "<image>", "\u{0}", "\u{202e}\u{200d}", "{{7*7}}", "${jndi:ldap://x}", "' OR 1=1"];
    let numbers =
        [json!(-1), json!(1e308), json!(u64::MAX), json!(i64::MIN), json!(0.0), json!("NaN"), json!([]), json!({})];
    let fields =
        ["n", "max_tokens", "temperature", "top_p", "top_k", "seed", "num_beams", "top_logprobs", "stop", "stream"];
    match rng.u8(0..14) {
        0 => (0..rng.usize(0..3000)).map(|_| rng.u8(..)).collect(),
        1 => format!("{{\"messages\": {}1{}}}", "[".repeat(50_000), "]".repeat(50_000)).into_bytes(),
        2 => format!("{{\"messages\": [{}1]}}", "{},".repeat(200_000)).into_bytes(),
        3 => vec![b' '; rng.usize(0..1_200_000)],
        4 => "{\"messages\": \"\u{feff}".encode_utf16().flat_map(u16::to_le_bytes).collect(),
        5 => b"{\"a\": \"\\ud800\\udfff\\ud800\"}".to_vec(),
        6 => format!("{{\"max_tokens\": {}}}", "9".repeat(rng.usize(1..400))).into_bytes(),
        7 => text(&json!({"image": address, "prompt": words[rng.usize(..7)], "choices": vec!["x"; rng.usize(0..400)]})),
        8 => text(&json!({"input": vec![address; rng.usize(0..3)], "features": "x"})),
        9 => text(&json!({"image": address, "layer": numbers[rng.usize(..8)], "head": -1})),
        10 => text(&chat_with(json!({fields[rng.usize(..10)]: numbers[rng.usize(..8)]}))),
        11 => {
            let mut asked = chat();
            asked["messages"][0]["content"][0]["text"] = json!(words[rng.usize(..7)].repeat(rng.usize(1..20_000)));
            text(&asked)
        }
        12 => {
            let role = ["system", "tool", "assistant", "user", "", "root"][rng.usize(..6)];
            text(&json!({"messages": vec![json!({"role": role, "content": words[rng.usize(..7)]}); rng.usize(0..600)]}))
        }
        _ => {
            let mut asked = chat();
            asked["messages"][0]["content"][1]["image_url"]["url"] = json!(address);
            text(&asked)
        }
    }
}
