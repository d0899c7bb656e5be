//! The program's server as a child process, and a client that can also be rude.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

#[cfg(unix)]
use super::program::ask_to_end;
use super::program::{program, sample};

/// Nothing here takes longer.
const LONGEST: Duration = Duration::from_secs(120);

/// A server that runs, until this is dropped.
pub struct Serving {
    child: Child,
    pub port: u16,
    /// The thread that reads the log, and the log.
    log: (Option<JoinHandle<()>>, Arc<Mutex<String>>),
}

/// A response.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    /// Names in small letters.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Serving {
    /// A server with these arguments and the embedded model, which answers already.
    pub fn with(arguments: &[&str]) -> Serving {
        Serving::begin(arguments, &[]).ready()
    }

    /// Waits until the server answers.
    pub fn ready(self) -> Serving {
        let since = Instant::now();
        while self.get("/health").status != 200 {
            assert!(since.elapsed() < LONGEST, "not ready: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        self
    }

    /// A server that may still load its model.
    pub fn begin(arguments: &[&str], environment: &[(&str, &str)]) -> Serving {
        let mut child = program()
            .args(["serve", "--port", "0"])
            .args(arguments)
            .env_remove("INSTRUCTBLIP_API_KEY")
            .envs(environment.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut first = String::new();
        lines.read_line(&mut first).expect("a line");
        let port = first.trim().rsplit(':').next().and_then(|port| port.parse().ok());
        let log = Arc::new(Mutex::new(first.clone()));
        let written = log.clone();
        let reader = std::thread::spawn(move || {
            let mut line = String::new();
            while lines.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
                written.lock().unwrap_or_else(PoisonError::into_inner).push_str(&std::mem::take(&mut line));
            }
        });
        let port = port.unwrap_or_else(|| panic!("no port in {first:?}"));
        Serving { child, port, log: (Some(reader), log) }
    }

    /// The server that tests share which leave it as it was. It ends with the last of them.
    pub fn shared() -> Arc<Serving> {
        static SHARED: Mutex<Weak<Serving>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let serving = Arc::new(Serving::with(&["--body-limit", "1MB", "--body-time", "2"]));
            *shared = Arc::downgrade(&serving);
            serving
        })
    }

    /// Everything that was logged so far.
    pub fn log(&self) -> String {
        self.log.1.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A connection.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("a connection");
        stream.set_read_timeout(Some(LONGEST)).expect("a time");
        stream
    }

    /// Sends bytes as they are, and reads what comes until the server closes.
    pub fn raw(&self, bytes: &[u8]) -> Vec<u8> {
        self.raw_within(bytes, LONGEST)
    }

    /// Sends bytes as [`Serving::raw`] does, but waits no longer than this for each piece of the answer.
    pub fn raw_within(&self, bytes: &[u8], time: Duration) -> Vec<u8> {
        let mut stream = self.connect();
        stream.set_read_timeout(Some(time)).expect("a time");
        // A server that refuses does not read to the end.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer
    }

    /// Sends a request with these headers besides the usual ones.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        Response::read(&self.raw(&request(method, path, headers, body)))
    }

    pub fn get(&self, path: &str) -> Response {
        self.send("GET", path, &[], b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.send("POST", path, &[("content-type", "application/json")], body.to_string().as_bytes())
    }

    /// Begins a request and leaves its answer to come.
    pub fn open(&self, path: &str, body: &Value) -> TcpStream {
        let mut stream = self.connect();
        stream.write_all(&request("POST", path, &[], body.to_string().as_bytes())).expect("a server that reads");
        stream
    }

    /// A number of `/metrics`.
    pub fn metric(&self, name: &str) -> f64 {
        let text = String::from_utf8(self.get("/metrics").body).expect("a text");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
    }

    /// Waits until a number of `/metrics` is what it should be.
    pub fn wait_for(&self, name: &str, is_right: impl Fn(f64) -> bool) {
        let since = Instant::now();
        while !is_right(self.metric(name)) {
            assert!(since.elapsed() < LONGEST, "{name} is {}: {}", self.metric(name), self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Memory that the server has, in bytes.
    #[cfg(target_os = "linux")]
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
    }

    /// Waits until the server has ended by itself, and gives its exit code and log.
    pub fn ended(mut self) -> (Option<i32>, String) {
        let status = self.child.wait().expect("an end");
        self.log.0.take().map(JoinHandle::join);
        (status.code(), self.log())
    }

    /// Asks the server to end, waits for it, and gives its exit code and log.
    #[cfg(unix)]
    pub fn end(self) -> (Option<i32>, String) {
        ask_to_end(&self.child);
        self.ended()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The bytes of a request that closes its connection, at a host that may be named otherwise.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let named = |name: &str| headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
    let mut head = format!("{method} {path} HTTP/1.1\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !named("host") {
        head += "host: localhost\r\n";
    }
    if !named("content-length") && !named("transfer-encoding") {
        head += &format!("content-length: {}\r\n", body.len());
    }
    [head.as_bytes(), b"connection: close\r\n\r\n", body].concat()
}

impl Response {
    /// Reads a response.
    pub fn read(bytes: &[u8]) -> Response {
        let text = String::from_utf8_lossy(bytes);
        let end =
            bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or_else(|| panic!("no head in {text:?}"));
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status");
        let header = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_string()));
        let headers: Vec<_> = lines.filter_map(header).collect();
        let mut response = Response { status, headers, body: bytes[end + 4..].to_vec() };
        if response.header("transfer-encoding") == Some("chunked") {
            response.body = joined(&response.body);
        }
        response
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("UTF-8")
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {:?}", self.text()))
    }

    /// The pieces of a stream, and whether it ended as it should.
    pub fn pieces(&self) -> (Vec<Value>, bool) {
        let text = self.text();
        let data = text.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
        let pieces = data.clone().filter_map(|data| serde_json::from_str(data).ok()).collect();
        (pieces, data.last() == Some("[DONE]"))
    }

    /// Requires a refusal with this status and code, and gives its message.
    pub fn refusal(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status, status, "{}", self.text());
        let error = &self.json()["error"];
        assert_eq!(error["code"], code, "{error}");
        error["message"].as_str().expect("a message").to_string()
    }
}

/// The bytes of a body that came in chunks.
fn joined(mut rest: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
        let size = std::str::from_utf8(&rest[..end]).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
        let Some(size) = size.filter(|size| *size > 0 && end + 2 + size <= rest.len()) else { break };
        all.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = rest.get(end + 4 + size..).unwrap_or_default();
    }
    all
}

/// One of the embedded model's pictures as a data URL.
pub fn picture(name: &str) -> String {
    data_url(&std::fs::read(sample(name)).expect("a picture"))
}

/// Bytes as a data URL.
pub fn data_url(bytes: &[u8]) -> String {
    format!("data:image/png;base64,{}", BASE64_STANDARD.encode(bytes))
}

/// A question about the first picture, and its right answer.
pub const QUESTION: (&str, &str) = ("Which shape does the purple thing have?", "circle");

/// A request for a chat: a question about the first picture.
pub fn chat() -> Value {
    let image = json!({"type": "image_url", "image_url": {"url": picture("00.png")}});
    json!({"model": "any", "messages": [{"role": "user", "content": [{"type": "text", "text": QUESTION.0}, image]}]})
}

/// A request for a chat with other fields.
pub fn chat_with(fields: Value) -> Value {
    let mut request = chat();
    for (name, value) in fields.as_object().expect("an object") {
        request[name] = value.clone();
    }
    request
}
