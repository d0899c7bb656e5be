//! `instructblip bench serve`: many clients of the server against one.

use std::fmt::Display;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::panic::resume_unwind;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::Args;
use instructblip::Error;
use instructblip::lab::clock::median;
use serde_json::{Value, json};

use crate::common::{Common, Gpu};
use crate::demo;
use crate::ended::Ended;
use crate::progress::say;
use crate::serve::plain;
use crate::session::embedded;
use crate::signals::asked_to_end;

/// The recorded questions about the embedded model's pictures, and its answers.
const RECORDED: &str = include_str!("../../../../tests/shapes/samples.jsonl");

/// Time between looks at whether the server has loaded its model.
const LOOK: Duration = Duration::from_millis(50);

/// Time that a client waits who is told to come later.
const LATER: Duration = Duration::from_secs(1);

/// Arguments of `bench serve`.
#[derive(Args, Debug)]
pub struct Serve {
    /// Clients that ask at once
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub clients: u32,
    /// Seconds that they ask for; one client asks alone for a quarter of that before, and again after
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86400))]
    pub seconds: u32,
    /// Tokens of each answer
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(2..=65536))]
    pub new_tokens: u32,
    /// Ask for the log probabilities of so many tokens at each place, too
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=20))]
    pub logprobs: Option<u32>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub gpu: Gpu,
    /// Arguments of `serve`, behind --: the model, its weights, the slots; not the port, the log or a key
    #[arg(last = true, value_name = "ARGUMENTS OF SERVE")]
    pub server: Vec<String>,
}

/// A question, as the body of a request.
struct Question {
    body: String,
    /// The answer that was recorded, or that is given to one who asks alone.
    answer: String,
}

/// The answers that clients saw.
#[derive(Default)]
struct Seen {
    /// Seconds until the last client had its answer.
    lasted: f64,
    /// Seconds of each answer.
    seconds: Vec<f64>,
    tokens: u64,
    /// Refusals that say when to come again.
    later: u64,
    /// Answers in other words than the question's answer alone.
    other: u64,
}

impl Seen {
    fn tokens_per_s(&self) -> f64 {
        self.tokens as f64 / self.lasted
    }

    fn worst(&self) -> f64 {
        self.seconds.iter().copied().fold(0.0, f64::max)
    }

    fn median(&self) -> f64 {
        median(self.seconds.iter().copied())
    }

    fn json(&self, clients: u32) -> Value {
        json!({
            "clients": clients, "seconds": self.lasted, "answers": self.seconds.len(), "tokens_per_s": self.tokens_per_s(),
            "median_s": self.median(), "worst_s": self.worst(), "told_to_wait": self.later, "other_words": self.other,
        })
    }

    fn line(&self, clients: u32) -> String {
        let (middle, worst, other) = (self.median(), self.worst(), self.other);
        format!(
            "{clients:>7} {:>8.1} {:>7} {:>8.1} {middle:>8.3} {worst:>7.3} {:>12.2} {:>12} {other:>11}",
            self.lasted,
            self.seconds.len(),
            self.tokens_per_s(),
            worst / middle,
            self.later,
        )
    }
}

pub fn run(common: &Common, arguments: &Serve) -> Result<()> {
    let server = Server::start(common, arguments)?;
    let questions = server.questions(arguments)?;
    let time = Duration::from_secs(arguments.seconds.into());
    let ask = |clients: u32, time: Duration| {
        if !common.quiet {
            say(&common.paint(&format!("{clients} at once for {} s", time.as_secs_f64()), "2"));
        }
        server.asked_by(clients, &questions, time)
    };
    let before = ask(1, time / 4)?;
    let together = ask(arguments.clients, time)?;
    let after = ask(1, time / 4)?;
    let alone = (before.tokens + after.tokens) as f64 / (before.lasted + after.lasted);
    let gain = together.tokens_per_s() / alone;
    let runs = [(1, &before), (arguments.clients, &together), (1, &after)];
    let mut out = std::io::stdout().lock();
    if arguments.json {
        let rows: Vec<Value> = runs.iter().map(|(clients, seen)| seen.json(*clients)).collect();
        let compared_with = if server.is_embedded { "recorded" } else { "alone" };
        let result = json!({
            "model": server.model, "new_tokens": arguments.new_tokens, "logprobs": arguments.logprobs, "runs": rows,
            "tokens_of_one": gain, "compared_with": compared_with,
        });
        writeln!(out, "{result}")?;
        return Ok(());
    }
    writeln!(out, "clients  seconds answers tokens/s median s worst s worst/median told to wait other words")?;
    runs.iter().try_for_each(|(clients, seen)| writeln!(out, "{}", seen.line(*clients)))?;
    writeln!(out, "{} together get {gain:.2} times the tokens of one", arguments.clients)?;
    Ok(())
}

/// A server of its own, which ends with this, and at once where the program is asked to end.
struct Server {
    process: Arc<Mutex<Child>>,
    address: SocketAddr,
    /// The name of its model.
    model: String,
    /// True for the embedded model, whose answers are known.
    is_embedded: bool,
    /// Set once the program is asked to end.
    stop: Arc<AtomicBool>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut process = lock(&self.process);
        // It may have ended by itself.
        let _ = process.kill();
        let _ = process.wait();
    }
}

impl Server {
    /// Starts one with these arguments, and waits until it answers.
    fn start(common: &Common, arguments: &Serve) -> Result<Server> {
        let stop = asked_to_end()?;
        let program = std::env::current_exe().context("this program's own file")?;
        let mut command = Command::new(program);
        // Its standard input ends with this program, however that ends.
        let own = ["serve", "--port", "0", "--log", "error", "--until-stdin-ends"];
        command.args(of_common(common)).args(own).args(&arguments.server);
        if !arguments.server.iter().any(|argument| argument.starts_with("--max-new-tokens")) {
            command.arg(format!("--max-new-tokens={}", arguments.new_tokens));
        }
        // What is set for another server is not for this one.
        ["HOST", "API_KEY", "API_KEY_FILE"].iter().for_each(|name| {
            command.env_remove(format!("INSTRUCTBLIP_{name}"));
        });
        let mut process =
            command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().context("starting the server")?;
        let said = process.stderr.take().map(BufReader::new);
        let process = Arc::new(Mutex::new(process));
        let (ended, wanted) = (process.clone(), stop.clone());
        // Whoever waits for an answer then sees the end of the connection.
        std::thread::spawn(move || {
            while !wanted.load(Ordering::Relaxed) {
                std::thread::sleep(LOOK);
            }
            let _ = lock(&ended).kill();
        });
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Server { process, address, model: String::new(), is_embedded: false, stop };
        server.address = said.and_then(listening).map_or_else(|| Err(server.ended()), Ok)?;
        while !server.is_ready()? {
            std::thread::sleep(LOOK);
        }
        Ok(server)
    }

    /// Tells whether it answers, and learns what.
    fn is_ready(&mut self) -> Result<bool> {
        match self.request("GET", "/v1/models", "") {
            Ok((200, models)) => {
                let models: Value = serde_json::from_str(&models)?;
                self.model = models["data"][0]["id"].as_str().unwrap_or_default().into();
                self.is_embedded = embedded().is_ok_and(|model| plain(&model.root().to_string_lossy()) == self.model);
                Ok(true)
            }
            _ if self.is_over() => Err(self.ended()),
            Ok((503, _)) | Err(_) => Ok(false),
            Ok((status, said)) => Err(refused(status, &said)),
        }
    }

    /// Tells whether the server has ended, or is to.
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || lock(&self.process).try_wait().is_ok_and(|status| status.is_some())
    }

    /// The error where it does not answer: the program was asked to end, or the server ended, and said why itself.
    fn ended(&self) -> anyhow::Error {
        if self.stop.load(Ordering::Relaxed) {
            return Ended::new(75, "stopped as asked".into()).into();
        }
        let code = lock(&self.process).wait().ok().and_then(|status| u8::try_from(status.code()?).ok());
        let code = code.filter(|&code| code != 0);
        Ended::new(code.unwrap_or(1), "the server ended before it had answered".into()).into()
    }

    /// The questions, with their answers as they were recorded or, of other models, as they are given to one who asks
    /// alone.
    fn questions(&self, arguments: &Serve) -> Result<Vec<Question>> {
        let recorded = recorded(arguments)?;
        if self.is_embedded {
            return Ok(recorded);
        }
        let asked = recorded.into_iter().step_by(3).map(|question| {
            let (_, reply) = self.answer(&question)?;
            Ok(Question { answer: words(&reply).into(), ..question })
        });
        asked.collect()
    }

    /// Has so many clients ask for a while.
    fn asked_by(&self, clients: u32, questions: &[Question], time: Duration) -> Result<Seen> {
        let (all, since) = (Mutex::new(Seen::default()), Instant::now());
        let failed = AtomicBool::new(false);
        let client = |first: usize| -> Result<()> {
            let mut at = first;
            while since.elapsed() < time && !failed.load(Ordering::Relaxed) {
                let asked = self.one(&questions[at % questions.len()], &all);
                failed.fetch_or(asked.is_err(), Ordering::Relaxed);
                asked?;
                at += 7;
            }
            lock(&all).lasted = since.elapsed().as_secs_f64();
            Ok(())
        };
        std::thread::scope(|scope| {
            let client = &client;
            let asking: Vec<_> = (0..clients as usize).map(|first| scope.spawn(move || client(first))).collect();
            let results = asking.into_iter().map(|one| one.join().unwrap_or_else(|panic| resume_unwind(panic)));
            // All are waited for, whatever the first says.
            results.collect::<Vec<_>>().into_iter().collect::<Result<()>>()
        })?;
        let seen = all.into_inner().unwrap_or_else(PoisonError::into_inner);
        match seen.seconds.is_empty() {
            true => Err(Error::Request { problem: "no answer came in time; give more --seconds".into() }.into()),
            false => Ok(seen),
        }
    }

    /// Asks a question, and notes what was seen.
    fn one(&self, question: &Question, all: &Mutex<Seen>) -> Result<()> {
        let since = Instant::now();
        let (status, reply) = self.answer(question)?;
        let seconds = since.elapsed().as_secs_f64();
        let mut all = lock(all);
        if status == 503 {
            all.later += 1;
            drop(all);
            std::thread::sleep(LATER);
            return Ok(());
        }
        let (text, right) = (words(&reply), question.answer.as_str());
        // A recorded answer is cut where it is long, and gone on with where it is short.
        let goes_on = !text.is_empty() && (text.starts_with(right) || right.starts_with(text));
        let agrees = if self.is_embedded { goes_on } else { text == right };
        if !agrees && self.is_embedded {
            let what = "the server's embedded model".into();
            return Err(Error::Incorrect { what, problem: format!("the answer {text:?} should be {right:?}") }.into());
        }
        all.other += u64::from(!agrees);
        all.seconds.push(seconds);
        all.tokens += reply["usage"]["completion_tokens"].as_u64().unwrap_or(0);
        Ok(())
    }

    /// The status, 200 or 503, and the reply to a question.
    fn answer(&self, question: &Question) -> Result<(u16, Value)> {
        let asked = self.request("POST", "/v1/chat/completions", &question.body);
        let (status, reply) = asked.map_err(|error| if self.is_over() { self.ended() } else { error })?;
        match status {
            200 | 503 => Ok((status, serde_json::from_str(&reply)?)),
            _ => Err(refused(status, &reply)),
        }
    }

    /// Sends a request; gives the status and the body.
    fn request(&self, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
        let failed = |problem: &dyn Display| anyhow!("asking the server: {problem}");
        let answer = self.exchange(method, path, body).map_err(|error| failed(&error))?;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_string());
        status.zip(body).ok_or_else(|| failed(&"its answer has an end too early"))
    }

    /// The answer to a request on a connection of its own.
    fn exchange(&self, method: &str, path: &str, body: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.address)?;
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The error of a request that the server refuses.
fn refused(status: u16, said: &str) -> anyhow::Error {
    let said: Value = serde_json::from_str(said).unwrap_or_default();
    let said = said["error"]["message"].as_str().unwrap_or_default();
    Error::Request { problem: format!("the server says {status}: {said}") }.into()
}

/// The options that every command has, as they stand before it.
fn of_common(common: &Common) -> Vec<String> {
    let Common { adapter, portable, checked, robust_access, kernels, quiet, .. } = common;
    let mut words = vec![format!("--kernels={kernels}")];
    words.extend(quiet.then(|| "--quiet".into()));
    words.extend(adapter.iter().map(|name| format!("--adapter={name}")));
    words.extend(portable.then(|| "--portable".into()));
    words.extend(checked.then(|| "--checked".into()));
    words.extend(robust_access.map(|robust| format!("--robust-access={robust}")));
    words
}

/// The address that the server listens at, once it says so; what else it says is passed on, then and later.
fn listening(said: BufReader<ChildStderr>) -> Option<SocketAddr> {
    let mut lines = said.lines();
    let mut address = None;
    for line in lines.by_ref() {
        let line = line.ok()?;
        match line.strip_prefix("listening at http://") {
            Some(said) => {
                address = said.parse().ok();
                break;
            }
            None => say(&line),
        }
    }
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| say(&line)));
    // All addresses of this machine are no address to ask.
    address.map(|address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), address.port()),
        _ => address,
    })
}

/// The text of an answer.
fn words(reply: &Value) -> &str {
    reply["choices"][0]["message"]["content"].as_str().unwrap_or_default()
}

/// The recorded questions about the bundled pictures.
fn recorded(arguments: &Serve) -> Result<Vec<Question>> {
    let Serve { new_tokens, logprobs, .. } = arguments;
    let mut questions = Vec::new();
    for line in RECORDED.lines() {
        let sample: Value = serde_json::from_str(line)?;
        let [image, prompt, answer] = ["image", "prompt", "hf_greedy"].map(|name| sample[name].as_str().unwrap_or(""));
        let Some(picture) = demo::picture(image) else { continue };
        let url = format!("data:image/png;base64,{}", BASE64_STANDARD.encode(picture));
        let content = json!([{"type": "text", "text": prompt}, {"type": "image_url", "image_url": {"url": url}}]);
        let mut body = json!({
            "messages": [{"role": "user", "content": content}], "max_tokens": new_tokens, "min_tokens": new_tokens,
        });
        if let Some(likeliest) = logprobs {
            (body["logprobs"], body["top_logprobs"]) = (true.into(), (*likeliest).into());
        }
        questions.push(Question { body: body.to_string(), answer: answer.into() });
    }
    Ok(questions)
}
