//! Times the server with many clients against one: does anybody wait much longer than others, and what do all get
//! together?
//!
//! ```text
//! cargo bench --bench serve -- [--clients N] [--seconds S] [--new-tokens N] [MORE ARGUMENTS OF serve]
//! ```
//!
//! It starts `instructblip serve` with the embedded model. Each client asks one question after another about the bundled
//! pictures, on a connection each, and waits for the whole answer, as usual clients do; every answer must be the right
//! one as far as both go. One client asks alone first and last, for a quarter of the time each.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use instructblip::lab::clock::median;
use serde_json::{Value, json};
use support::Arguments;

/// A question, as the body of a request, and its right answer.
struct Question {
    body: String,
    answer: String,
}

/// The answers that clients saw.
#[derive(Default)]
struct Seen {
    seconds: Vec<f64>,
    tokens: u64,
    /// Refusals that say when to come again.
    later: u64,
}

fn main() -> Result<()> {
    let mut arguments = Arguments::new();
    let clients = arguments.number("--clients")?.unwrap_or(64).max(1) as usize;
    let time = Duration::from_secs(arguments.number("--seconds")?.unwrap_or(60).into());
    let tokens = arguments.number("--new-tokens")?.unwrap_or(32).max(2);
    let questions = questions(tokens)?;
    let (mut server, port) = start(&arguments.finish()?)?;
    let measured = (|| {
        let before = run(port, &questions, 1, time / 4)?;
        let together = run(port, &questions, clients, time)?;
        let after = run(port, &questions, 1, time / 4)?;
        Ok::<_, anyhow::Error>((before, together, after))
    })();
    let _ = server.kill();
    let _ = server.wait();
    let ((before, alone_s), (together, all_s), (after, again_s)) = measured?;
    println!("clients,seconds,answers,tokens_per_s,median_s,worst_s,worst_of_median,told_to_wait");
    let line = |clients: usize, seen: &Seen, seconds: f64| {
        let (middle, worst) = (median(seen.seconds.iter().copied()), seen.seconds.iter().copied().fold(0.0, f64::max));
        let (answers, rate) = (seen.seconds.len(), seen.tokens as f64 / seconds);
        println!(
            "{clients},{seconds:.1},{answers},{rate:.1},{middle:.3},{worst:.3},{:.2},{}",
            worst / middle,
            seen.later
        );
    };
    line(1, &before, alone_s);
    line(clients, &together, all_s);
    line(1, &after, again_s);
    let alone = (before.tokens + after.tokens) as f64 / (alone_s + again_s);
    println!("{clients} clients together get {:.2} times the tokens of one", together.tokens as f64 / all_s / alone);
    Ok(())
}

/// The questions about the bundled pictures, each with an answer of so many tokens.
fn questions(tokens: u32) -> Result<Vec<Question>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/shapes");
    let lines = std::fs::read_to_string(format!("{folder}/samples.jsonl")).context("tests/shapes/samples.jsonl")?;
    let question = |line: &str| {
        let sample: Value = serde_json::from_str(line)?;
        let [image, prompt, answer] = ["image", "prompt", "hf_greedy"].map(|name| sample[name].as_str().unwrap_or(""));
        let data = BASE64_STANDARD.encode(std::fs::read(format!("{folder}/{image}"))?);
        let picture = json!({"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{data}")}});
        let content = json!([{"type": "text", "text": prompt}, picture]);
        let body = json!({
            "messages": [{"role": "user", "content": content}], "max_tokens": tokens, "min_tokens": tokens,
        });
        Ok(Question { body: body.to_string(), answer: answer.into() })
    };
    lines.lines().map(question).collect()
}

/// Starts the server, and waits until it answers.
fn start(more: &[String]) -> Result<(Child, u16)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_instructblip"));
    command.args(["serve", "--port", "0", "--log", "off"]).args(more).stderr(Stdio::piped());
    let mut child = command.spawn().context("the program")?;
    let mut lines = BufReader::new(child.stderr.take().context("its messages")?);
    let mut line = String::new();
    lines.read_line(&mut line)?;
    let port = line.trim().rsplit(':').next().and_then(|port| port.parse().ok());
    let port = port.with_context(|| format!("the server says {line:?}"))?;
    std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
    while ask(port, "GET", "/health", "")?.0 != 200 {
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok((child, port))
}

/// Has so many clients ask for a while; gives what they saw, and the seconds until the last had its answer.
fn run(port: u16, questions: &[Question], clients: usize, time: Duration) -> Result<(Seen, f64)> {
    let (all, since) = (Mutex::new(Seen::default()), Instant::now());
    std::thread::scope(|scope| {
        let client = |first: usize| {
            let all = &all;
            move || -> Result<()> {
                let mut at = first;
                while since.elapsed() < time {
                    let (seconds, tokens) = one(port, &questions[at % questions.len()])?;
                    let mut all = all.lock().expect("no client panics");
                    match tokens {
                        Some(tokens) => {
                            all.seconds.push(seconds);
                            all.tokens += tokens;
                        }
                        None => all.later += 1,
                    }
                    at += 7;
                }
                Ok(())
            }
        };
        let asking: Vec<_> = (0..clients).map(|first| scope.spawn(client(first))).collect();
        asking.into_iter().try_for_each(|one| one.join().expect("no client panics"))
    })?;
    let seconds = since.elapsed().as_secs_f64();
    let seen = all.into_inner().expect("no client panics");
    ensure!(!seen.seconds.is_empty(), "no answer came in time");
    Ok((seen, seconds))
}

/// Asks a question: the seconds until its answer, and the answer's tokens; none if the server says to come later.
fn one(port: u16, question: &Question) -> Result<(f64, Option<u64>)> {
    let since = Instant::now();
    let (status, reply) = ask(port, "POST", "/v1/chat/completions", &question.body)?;
    let seconds = since.elapsed().as_secs_f64();
    if status == 503 {
        std::thread::sleep(Duration::from_secs(1));
        return Ok((seconds, None));
    }
    ensure!(status == 200, "status {status}: {reply}");
    let reply: Value = serde_json::from_str(&reply)?;
    let text = reply["choices"][0]["message"]["content"].as_str().unwrap_or("");
    // A long answer is cut, a short one gone on with.
    if text.is_empty() || !text.starts_with(&question.answer) && !question.answer.starts_with(text) {
        bail!("{text:?} is not {:?}", question.answer);
    }
    Ok((seconds, reply["usage"]["completion_tokens"].as_u64()))
}

/// Sends a request; gives the status and the body.
fn ask(port: u16, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).context("a status")?;
    let (_, body) = answer.split_once("\r\n\r\n").context("a body")?;
    Ok((status, body.into()))
}
