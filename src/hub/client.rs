//! Requests to the hub: redirects are followed by hand, the token stays with the hub's own host, and faults are
//! described in plain words.

use std::io::ErrorKind;
use std::net::ToSocketAddrs;
use std::time::Duration;

use ureq::http::{Response, Uri};
use ureq::{Agent, Body};

use super::encryption::encryption;
use super::{Event, Hub, Report, tell};
use crate::error::{Error, Result};

/// Redirects followed for one request.
const MAX_REDIRECTS: usize = 6;
/// Tries without a byte of progress.
const MAX_TRIES: u32 = 5;
/// The longest pause a server may ask for with 429.
const MAX_WAIT: Duration = Duration::from_secs(30);
const CONNECT_TIME: Duration = Duration::from_secs(15);

/// A connection to the hub.
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
    encrypts: bool,
    pause: Duration,
}

/// The reason that a request failed.
pub(super) enum Failure {
    /// Another try would end the same way.
    Final(Error),
    /// A failure that is worth another try, after the time that the server asks for, if it asks.
    Again {
        /// A description of the fault.
        problem: String,
        /// The time to wait, if the server says one.
        wait: Option<Duration>,
        /// True if bytes came before the failure.
        progress: bool,
    },
    /// There is no way to the server. In the middle of a download it may come back.
    Unreachable(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Final(error)
    }
}

impl Client {
    pub(super) fn new(hub: &Hub) -> Result<Client> {
        if let Some(token) = &hub.token
            && (token.is_empty() || !token.chars().all(|c| c.is_ascii_graphic()))
        {
            return Err(Error::request("the token (HF_TOKEN or the token file) has characters that no token has"));
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT_TIME))
            .timeout_per_read(Some(hub.silence))
            .timeout_per_write(Some(hub.silence))
            .user_agent(concat!("instructblip/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity");
        let encryption = encryption()?;
        let encrypts = encryption.is_some();
        let config = match encryption {
            Some(encryption) => config.tls_config(encryption),
            None => config,
        };
        let agent = config.build().new_agent();
        Ok(Client { agent, endpoint: hub.endpoint.clone(), token: hub.token.clone(), encrypts, pause: hub.pause })
    }

    /// The address of something on the hub.
    pub(super) fn address(&self, path: &str) -> String {
        format!("{}/{path}", self.endpoint)
    }

    /// Asks for something, following redirects.
    pub(super) fn get(&self, what: &str, url: &str, headers: &[(&str, &str)]) -> Result<Response<Body>, Failure> {
        self.send(false, what, url, headers)
    }

    /// Asks about a file. Stops where the hub redirects readers of large files, since that response describes the file.
    pub(super) fn head(&self, what: &str, url: &str) -> Result<Response<Body>, Failure> {
        self.send(true, what, url, &[])
    }

    fn send(&self, head: bool, what: &str, url: &str, headers: &[(&str, &str)]) -> Result<Response<Body>, Failure> {
        let mut url = url.to_string();
        for _ in 0..MAX_REDIRECTS {
            if url.starts_with("https://") && !self.encrypts {
                let problem = "this processor lacks the instructions that encrypted connections need here; fetch the \
                               model on another machine and give its folder, or set HF_ENDPOINT to an http:// mirror";
                return Err(Error::download(&self.endpoint, problem, false).into());
            }
            let mut request = if head { self.agent.head(&url) } else { self.agent.get(&url) };
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            if let Some(token) = self.token.as_ref().filter(|_| origin(&url) == origin(&self.endpoint)) {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            let response = request.call().map_err(|error| trouble(&url, error))?;
            match response.status().as_u16() {
                301 | 302 | 303 | 307 | 308 => {
                    let next = location(&url, header(&response, "location").unwrap_or_default())
                        .ok_or_else(|| Error::download(what, "the server redirects to no address", true))?;
                    let told = header(&response, "x-linked-etag").is_some() || origin(&next) != origin(&url);
                    if head && told {
                        return Ok(response);
                    }
                    if url.starts_with("https://") && !next.starts_with("https://") {
                        let problem = format!("the server redirects to {}, which is not encrypted", host(&next));
                        return Err(Error::download(what, problem, false).into());
                    }
                    url = next;
                }
                200 | 206 if is_page(&response) => {
                    let problem = "a web page came instead of it: a login page of this network, or a proxy's; open a \
                                   browser and sign in, then try again";
                    return Err(Error::download(what, problem, true).into());
                }
                200 | 206 | 416 => return Ok(response),
                status => return Err(self.refused(what, status, &response)),
            }
        }
        Err(Error::download(what, "the server redirects in a circle", true).into())
    }

    /// The failure that a status other than success means.
    fn refused(&self, what: &str, status: u16, response: &Response<Body>) -> Failure {
        let code = header(response, "x-error-code").unwrap_or_default();
        let repo = what.split([' ', ':']).next().unwrap_or(what);
        let token = if self.token.is_some() { "the token that was sent has no access to it" } else { "set HF_TOKEN" };
        let problem = match (status, code) {
            (401 | 404, "RepoNotFound") => {
                format!("there is no such repository, or it is private ({token}); check the name")
            }
            (401, _) if self.token.is_some() && code != "GatedRepo" => {
                "the server does not accept the token; set HF_TOKEN to a valid one, or to none for public models".into()
            }
            (401 | 403, _) => format!(
                "access is restricted: accept the licence on {}/{repo} in a browser, and set HF_TOKEN to a token of the \
                 account that did",
                self.endpoint
            ),
            (404, "RevisionNotFound") => "the repository has no such revision".into(),
            (404, _) => "the server has no such thing (404); check the name and the revision".into(),
            (429, _) => return self.too_many(what, response),
            (407, _) => "the proxy wants a name and a password; put them into HTTPS_PROXY".into(),
            (408 | 500..=599, _) => {
                let problem = format!("the server has trouble of its own ({status})");
                return Failure::Again { problem, wait: None, progress: false };
            }
            _ => format!("the server refuses with status {status}"),
        };
        Error::download(what, problem, false).into()
    }

    fn too_many(&self, what: &str, response: &Response<Body>) -> Failure {
        let seconds = header(response, "retry-after").and_then(|text| text.trim().parse().ok());
        let wait = seconds.map(Duration::from_secs);
        let problem = match wait {
            Some(wait) if wait > MAX_WAIT => {
                let hint = if self.token.is_none() { ", or set HF_TOKEN" } else { "" };
                let problem = format!("too many requests: the server asks to wait {} seconds{hint}", wait.as_secs());
                return Error::download(what, problem, true).into();
            }
            Some(wait) => format!("too many requests: the server asks to wait {} seconds", wait.as_secs()),
            None => "too many requests".into(),
        };
        Failure::Again { problem, wait, progress: false }
    }

    /// Does `work` until it succeeds, fails for good, or has failed too often without progress.
    pub(super) fn retrying<T>(
        &self,
        what: &str,
        report: &mut Report<'_>,
        work: &mut dyn FnMut(&mut Report<'_>) -> Result<T, Failure>,
    ) -> Result<T> {
        let mut tries = 0;
        loop {
            let (problem, wait, progress) = match work(report) {
                Ok(value) => return Ok(value),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again { problem, wait, progress }) => (problem, wait, progress),
                Err(Failure::Unreachable(problem)) => (problem, None, false),
            };
            tries = if progress { 1 } else { tries + 1 };
            if tries >= MAX_TRIES {
                return Err(Error::download(what, format!("{problem}; tried {tries} times, try again later"), true));
            }
            let pause = wait.unwrap_or(self.pause * 2u32.pow(tries - 1));
            tell(report, Event::Retry { file: what, problem: &problem, pause })?;
            std::thread::sleep(pause);
        }
    }
}

/// A header's value, if it is text.
pub(super) fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

fn is_page(response: &Response<Body>) -> bool {
    header(response, "content-type").is_some_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with("text/html"))
}

/// Scheme, host and port: what a token may be sent to.
fn origin(url: &str) -> Option<(String, String, u16)> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    Some((scheme, uri.host()?.to_ascii_lowercase(), port))
}

fn host(url: &str) -> String {
    origin(url).map_or("the server".into(), |(_, host, _)| host)
}

/// The address that a redirect leads to. Paths that are relative to the current one do not occur.
fn location(url: &str, target: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
    let next = match target {
        _ if target.starts_with("http://") || target.starts_with("https://") => target.to_string(),
        _ if target.starts_with("//") => format!("{scheme}:{target}"),
        _ if target.starts_with('/') => format!("{scheme}://{authority}{target}"),
        _ => return None,
    };
    origin(&next).map(|_| next)
}

/// The failure that an error of the connection means.
fn trouble(url: &str, error: ureq::Error) -> Failure {
    let host = host(url);
    let check = "check the network, and HTTPS_PROXY if you need a proxy";
    let problem = match error {
        ureq::Error::HostNotFound => format!("cannot find {host}; {check}"),
        ureq::Error::ConnectionFailed => format!("cannot connect to {host}; {check}"),
        ureq::Error::Io(e) if connecting(e.kind()) => {
            format!("cannot connect to {host}: {}; {check}", reason(e.kind()))
        }
        ureq::Error::Io(e) if !lost(e.kind()) && !resolves(url) => format!("cannot find {host}; {check}"),
        ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
            format!("{host} does not answer; {check}")
        }
        ureq::Error::ConnectProxyFailed(_) | ureq::Error::InvalidProxyUrl => {
            format!("the proxy does not connect to {host}; check HTTPS_PROXY, or take {host} out with NO_PROXY")
        }
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) => return distrust(&host),
        // Errors of the handshake come as invalid data.
        ureq::Error::Io(e) if e.kind() == ErrorKind::InvalidData => return distrust(&host),
        ureq::Error::Io(e) => return again(format!("{host}: {}", reason(e.kind()))),
        ureq::Error::Timeout(_) => return again(format!("{host} has stopped answering")),
        ureq::Error::Protocol(_) => return again(format!("{host} answers something that is not HTTP")),
        _ => return again(format!("the request to {host} failed")),
    };
    Failure::Unreachable(problem)
}

fn again(problem: String) -> Failure {
    Failure::Again { problem, wait: None, progress: false }
}

fn distrust(host: &str) -> Failure {
    let problem = "the connection cannot be trusted: its certificate is not one of the usual authorities'; if a proxy of \
                   your network opens connections, set SSL_CERT_FILE to its certificates";
    Error::download(host, problem, false).into()
}

/// Errors of a connection that stood.
fn lost(kind: ErrorKind) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, InvalidData, TimedOut, UnexpectedEof, WouldBlock};
    matches!(
        kind,
        BrokenPipe | ConnectionAborted | ConnectionReset | InvalidData | TimedOut | UnexpectedEof | WouldBlock
    )
}

/// True if the host has an address: a failed look-up has no error kind of its own.
fn resolves(url: &str) -> bool {
    origin(url).is_some_and(|(_, host, port)| (host.trim_matches(['[', ']']), port).to_socket_addrs().is_ok())
}

/// Errors of making a connection.
fn connecting(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionRefused
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NetworkDown
            | ErrorKind::AddrNotAvailable
    )
}

/// A description of what broke a connection that had stood.
pub(super) fn reason(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::ConnectionRefused => "connection refused",
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => "no network",
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "it has stopped answering",
        _ => "the connection was cut",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_where_they_say() {
        let from = "https://hub.example:8443/a/b?c";
        for (target, want) in [
            ("/x?y", Some("https://hub.example:8443/x?y")),
            ("//cdn.example/x", Some("https://cdn.example/x")),
            ("http://cdn.example/x", Some("http://cdn.example/x")),
            ("x", None),
            ("", None),
            ("file:///etc/passwd", None),
            ("https://", None),
        ] {
            assert_eq!(location(from, target).as_deref(), want, "{target}");
        }
    }

    #[test]
    fn a_token_is_for_one_origin() {
        assert_eq!(origin("https://Hub.example/x"), origin("https://hub.example:443"));
        for other in ["http://hub.example", "https://hub.example:8443", "https://hub.example@evil.example", "https://x"]
        {
            assert_ne!(origin("https://hub.example/x"), origin(other), "{other}");
        }
    }
}
