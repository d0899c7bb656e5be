//! The way of every request to its route: its log line, the rules about who may ask, and the shape of refusals.
//!
//! A page of another site that a user looks at can send requests here, too, with the user's browser: `Origin` tells such
//! requests, and `Host` those of a site whose name suddenly leads to this machine.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::Server;
use super::failure::Failure;
use super::line::Line;

/// The header that names a request.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Paths that need no key: the page asks for it, and whoever looks after the server knows none.
const OPEN: [&str; 2] = ["/", "/health"];

/// The rules about who may ask.
#[derive(Debug)]
pub struct Rules {
    /// The hash of the key.
    key: Option<[u8; 32]>,
    /// Names of this machine besides its addresses and `localhost`.
    hosts: Vec<String>,
    /// Origins of pages that may ask; `*` for any.
    origins: Vec<String>,
}

impl Rules {
    pub fn new(key: Option<&str>, hosts: &[String], origins: &[String]) -> Rules {
        let lower = |names: &[String]| names.iter().map(|name| name.to_ascii_lowercase()).collect();
        Rules { key: key.map(hash), hosts: lower(hosts), origins: lower(origins) }
    }

    /// Tells whether a key is wanted.
    pub fn want_key(&self) -> bool {
        self.key.is_some()
    }

    /// Refuses a request that the rules do not allow. A page's question whether it may ask needs no key.
    fn check(&self, request: &Request) -> Result<(), Failure> {
        let headers = request.headers();
        if headers.get_all(header::HOST).iter().count() > 1 {
            return Err(Failure::new(StatusCode::BAD_REQUEST, "invalid_host", "the request has several Host headers"));
        }
        let host = request.uri().authority().map(|host| host.as_str()).or_else(|| text(headers, header::HOST));
        if !host.is_some_and(|host| self.is_own(host)) {
            let problem = "this server does not answer under this name; add it with --allow-host";
            return Err(Failure::new(StatusCode::FORBIDDEN, "host_not_allowed", problem));
        }
        if let Some(origin) = headers.get(header::ORIGIN) {
            let origin = origin.to_str().unwrap_or_default();
            if !self.allows(origin) && !is_same(origin, host.unwrap_or_default()) {
                let problem = "pages of other sites may not ask this server; allow one with --cors-origin";
                return Err(Failure::new(StatusCode::FORBIDDEN, "origin_not_allowed", problem));
            }
        }
        match &self.key {
            Some(key) if !OPEN.contains(&request.uri().path()) && request.method() != Method::OPTIONS => {
                let given = text(headers, header::AUTHORIZATION).and_then(bearer).map(hash).unwrap_or_default();
                match bool::from(given.ct_eq(key)) {
                    true => Ok(()),
                    false => {
                        let problem = "the API key is missing or wrong; send it as Authorization: Bearer KEY";
                        Err(Failure::new(StatusCode::UNAUTHORIZED, "invalid_api_key", problem))
                    }
                }
            }
            _ => Ok(()),
        }
    }

    /// Tells whether a `Host` is this machine. A name could lead here by a trick; an address cannot.
    fn is_own(&self, host: &str) -> bool {
        let name = without_port(host).to_ascii_lowercase();
        let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(&name);
        name == "localhost" || address.parse::<IpAddr>().is_ok() || self.hosts.contains(&name)
    }

    fn allows(&self, origin: &str) -> bool {
        self.origins.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin))
    }
}

fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Tells whether a page is the server's own.
fn is_same(origin: &str, host: &str) -> bool {
    ["http://", "https://"]
        .iter()
        .any(|scheme| origin.strip_prefix(scheme).is_some_and(|of| of.eq_ignore_ascii_case(host)))
}

/// Leads a request to its route, unless the rules forbid it.
pub async fn guard(State(server): State<Arc<Server>>, mut request: Request, next: Next) -> Response {
    let line = Line::begin(&mut request);
    let route = request.extensions().get::<MatchedPath>().map_or("none".into(), |path| path.as_str().to_string());
    let origin = request.headers().get(header::ORIGIN).cloned();
    let is_question = request.method() == Method::OPTIONS;
    let mut response = match server.rules.check(&request) {
        Err(failure) => failure.into_response(),
        Ok(()) if is_question => StatusCode::NO_CONTENT.into_response(),
        Ok(()) => AssertUnwindSafe(next.run(request)).catch_unwind().await.unwrap_or_else(|_| mistake()),
    };
    response = in_shape(response);
    if let Some(origin) = origin.filter(|_| response.status() != StatusCode::FORBIDDEN) {
        let allowed = origin.to_str().is_ok_and(|origin| server.rules.allows(origin));
        share(response.headers_mut(), allowed.then_some(origin), is_question);
    }
    if let Some(failure) = response.extensions_mut().remove::<Failure>() {
        line.failed(&failure);
    }
    line.answered(response.status());
    server.metrics.request(&route, response.status());
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&line.id) {
        headers.insert(REQUEST_ID, id);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Tells a browser what a page of another site may do.
fn share(headers: &mut HeaderMap, origin: Option<HeaderValue>, is_question: bool) {
    headers.insert(header::VARY, HeaderValue::from_static("Origin"));
    let Some(origin) = origin else { return };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("x-request-id, retry-after"));
    if is_question {
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
        // Clients of OpenAI's API tell their version and system in headers of their own.
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("*, authorization"));
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    }
}

/// A panic of ours: nothing of it reaches the client.
fn mistake() -> Response {
    let problem = "a mistake in the server; its log says where, under this request's id";
    Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", problem).into_response()
}

/// Refusals that the router makes by itself have no body; clients read one.
fn in_shape(response: Response<Body>) -> Response<Body> {
    let status = response.status();
    let refused = |code, problem: &str| Failure::new(status, code, problem).into_response();
    match status.as_u16() {
        404 if response.headers().get(header::CONTENT_TYPE).is_none() => {
            refused("unknown_url", "there is nothing at this address; the API is under /v1, without a slash at the end")
        }
        405 => {
            let allow = response.headers().get(header::ALLOW).cloned();
            let mut shaped = refused("method_not_allowed", "this address takes another method");
            if let Some(allow) = allow {
                shaped.headers_mut().insert(header::ALLOW, allow);
            }
            shaped
        }
        _ => response,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(rules: &Rules, path: &str, headers: &[(&str, &str)]) -> u16 {
        let mut request = Request::builder().uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).expect("a request");
        rules.check(&request).map_or_else(|failure| failure.status.as_u16(), |()| 200)
    }

    #[test]
    fn names_that_lead_here_by_a_trick_are_refused() {
        let rules = Rules::new(None, &["My.Machine".into()], &[]);
        let ports =
            ["localhost", "localhost:8080", "127.0.0.1:80", "[::1]:8080", "192.168.1.4", "my.machine:1", "LOCALHOST"];
        for host in ports {
            assert_eq!(status(&rules, "/", &[("host", host)]), 200, "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "my.machine.evil.example", "", "127.0.0.1.evil.example"]
        {
            assert_eq!(status(&rules, "/", &[("host", host)]), 403, "{host}");
        }
        assert_eq!(status(&rules, "/", &[]), 403);
    }

    #[test]
    fn pages_of_other_sites_may_not_ask() {
        let rules = Rules::new(None, &[], &["https://app.example".into()]);
        for (origin, want) in [
            ("http://localhost:8080", 200),
            ("https://app.example", 200),
            ("https://app.example.evil.example", 403),
            ("http://localhost:9090", 403),
            ("null", 403),
            ("file://", 403),
        ] {
            let got = status(&rules, "/v1/models", &[("host", "localhost:8080"), ("origin", origin)]);
            assert_eq!(got, want, "{origin}");
        }
    }

    #[test]
    fn the_key_opens_everything_but_what_needs_none() {
        let rules = Rules::new(Some("sécret"), &[], &[]);
        let asked = |path, key: &str| status(&rules, path, &[("host", "localhost"), ("authorization", key)]);
        assert_eq!((asked("/", ""), asked("/health", "Bearer x")), (200, 200));
        for wrong in ["", "Bearer", "Bearer ", "Bearer secret", "Bearer sécre", "Basic sécret", "sécret"] {
            assert_eq!(asked("/v1/models", wrong), 401, "{wrong}");
        }
        let rules = Rules::new(Some("secret"), &[], &[]);
        let asked = |key: &str| status(&rules, "/v1/models", &[("host", "localhost"), ("authorization", key)]);
        assert_eq!((asked("Bearer secret"), asked("bearer secret"), asked("Bearer secrets")), (200, 200, 401));
    }
}
