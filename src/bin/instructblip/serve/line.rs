//! The log's line of a request, written when everything of it is done.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::extract::Request;
use axum::http::StatusCode;
use instructblip::Reply;

use super::failure::Failure;

/// Longest path that is logged.
const LONGEST_PATH: usize = 128;

/// A request, for the log. The line is written when the last that work for the request let go of this.
#[derive(Debug)]
pub struct Line {
    pub id: String,
    method: String,
    path: String,
    since: Instant,
    found: Mutex<Found>,
}

/// The end that a request came to.
#[derive(Debug, Default)]
struct Found {
    status: Option<u16>,
    tokens: Option<usize>,
    problem: Option<String>,
}

/// Letters and digits that no other request has.
pub fn random_id() -> String {
    format!("{:016x}{:08x}", fastrand::u64(..), fastrand::u32(..))
}

impl Line {
    /// The line of a request, which it carries from now on.
    pub fn begin(request: &mut Request) -> Arc<Line> {
        let line = Arc::new(Line {
            id: format!("req_{}", random_id()),
            method: request.method().as_str().chars().take(16).collect(),
            path: request.uri().path().chars().take(LONGEST_PATH).collect(),
            since: Instant::now(),
            found: Mutex::default(),
        });
        request.extensions_mut().insert(line.clone());
        line
    }

    /// The line that a request carries.
    pub fn of(request: &Request) -> Arc<Line> {
        request.extensions().get::<Arc<Line>>().cloned().expect("every request begins with its line")
    }

    /// Notes the response.
    pub fn answered(&self, status: StatusCode) {
        self.note(|found| found.status = Some(status.as_u16()));
    }

    /// Notes why there is no answer, or no whole one.
    pub fn failed(&self, failure: &Failure) {
        let detail = failure.detail.as_ref().map_or(String::new(), |detail| format!(" ({detail})"));
        self.note(|found| found.problem = Some(format!("{}{detail}", failure.message())));
    }

    /// Notes that the client has gone.
    pub fn left(&self) {
        self.note(|found| found.problem = Some("the client left".into()));
    }

    /// Notes the tokens of all answers.
    pub fn tokens(&self, reply: &Reply) {
        let tokens = reply.sequences.iter().map(|answer| answer.token_ids.len()).sum();
        self.note(|found| found.tokens = Some(tokens));
    }

    fn note(&self, change: impl FnOnce(&mut Found)) {
        change(&mut self.found.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let Found { status, tokens, problem } =
            std::mem::take(self.found.get_mut().unwrap_or_else(PoisonError::into_inner));
        let problem = match (status, problem) {
            (None, None) => Some("the client left".into()),
            (_, problem) => problem,
        };
        let (ms, id) = (self.since.elapsed().as_millis() as u64, &self.id);
        let status = status.map_or("-".into(), |status| status.to_string());
        let tokens = tokens.map_or(String::new(), |tokens| format!(", {tokens} tokens"));
        // Nothing that a client wrote begins a line of its own, or paints a terminal.
        let plain = |text: String| text.replace(|letter: char| letter.is_control(), "?");
        let problem = problem.map(plain).map_or(String::new(), |problem| format!(": {problem}"));
        tracing::info!("{id} {} {} {status}, {ms} ms{tokens}{problem}", self.method, self.path);
    }
}
