//! A hub on this machine that misbehaves when told to.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// A disturbance in place of a good answer to a request.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// Close the connection after this many bytes of the body.
    Cut(usize),
    /// Say that the body has this many bytes more than it has.
    Longer(i64),
    /// Send other bytes, as many.
    WrongBytes,
    /// Answer with this status and these headers.
    Status(u16, &'static [(&'static str, &'static str)]),
    /// Send a web page.
    Page,
    /// Send the whole file whatever the range.
    IgnoreRange,
    /// Send the whole file, whatever the range, but only its first bytes.
    CutWhole(usize),
    /// Take a new etag from here on.
    NewEtag,
    /// Pause after each 16 KiB.
    Slow(Duration),
    /// Send something that is not HTTP.
    Garbage,
    /// Redirect to this.
    Redirect(String),
}

/// A request, as it came.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub path: String,
    pub range: Option<String>,
    pub if_range: Option<String>,
    pub authorization: Option<String>,
    /// Bytes of the body that were sent.
    pub sent: usize,
}

/// The server. It serves one repository at one commit.
pub struct Server {
    address: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    repo: String,
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    listing: Mutex<Option<Value>>,
    elsewhere: Mutex<Option<String>>,
    troubles: Mutex<Vec<(String, usize, Trouble)>>,
    seen: Mutex<Vec<Seen>>,
    etags: Mutex<usize>,
}

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no request panicked")
}

impl Server {
    /// Serves the files of a folder as repository `repo`, with a model card and a pickle.
    pub fn start(repo: &str, folder: &Path) -> Server {
        let mut files = BTreeMap::new();
        read(folder, "", &mut files);
        files.retain(|name, _| !name.starts_with("golden") && !name.starts_with("generation."));
        files.insert("README.md".into(), b"---\nlicense: other\nlicense_name: test-licence\n---\n# A model\n".to_vec());
        files.insert("pytorch_model.bin".into(), b"pickle".to_vec());
        let shared = Shared { repo: repo.into(), files: Mutex::new(files), ..Shared::default() };
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let shared = Arc::new(shared);
        let server = Server { address, shared: shared.clone() };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                // A client that goes away is part of the tests.
                std::thread::spawn(move || shared.serve(stream).unwrap_or_default());
            }
        });
        server
    }

    /// The server's address.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Gives this trouble to the next `times` requests whose path ends so.
    pub fn misbehave(&self, path: &str, times: usize, trouble: Trouble) {
        lock(&self.shared.troubles).push((path.into(), times, trouble));
    }

    /// Behaves well from here on, and forgets what it has seen.
    pub fn behave(&self) {
        lock(&self.shared.troubles).clear();
        lock(&self.shared.seen).clear();
    }

    /// Sends readers of large files to another server.
    pub fn send_elsewhere(&self, other: &Server) {
        *lock(&self.shared.elsewhere) = Some(other.address.clone());
    }

    /// Changes what the repository is said to have.
    pub fn edit_listing(&self, edit: impl Fn(&mut Value)) {
        let mut listing = self.shared.listing();
        edit(&mut listing);
        *lock(&self.shared.listing) = Some(listing);
    }

    /// Changes the files.
    pub fn edit_files(&self, edit: impl Fn(&mut BTreeMap<String, Vec<u8>>)) {
        edit(&mut lock(&self.shared.files));
    }

    /// A file's bytes.
    pub fn file(&self, name: &str) -> Vec<u8> {
        lock(&self.shared.files)[name].clone()
    }

    /// All requests whose path ends so.
    pub fn seen(&self, path: &str) -> Vec<Seen> {
        lock(&self.shared.seen).iter().filter(|seen| seen.path.ends_with(path)).cloned().collect()
    }
}

fn read(folder: &Path, inside: &str, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = format!("{inside}{}", path.file_name().expect("a name").to_string_lossy());
        match path.is_dir() {
            true => read(&path, &format!("{name}/"), files),
            false => drop(files.insert(name, std::fs::read(&path).expect("a file"))),
        }
    }
}

/// sha256 as text.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn git_hash(bytes: &[u8]) -> String {
    let digest = Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize();
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".bin")
}

impl Shared {
    fn listing(&self) -> Value {
        let file = |(name, bytes): (&String, &Vec<u8>)| match is_large(name) {
            true => json!({
                "rfilename": name, "size": bytes.len(), "blobId": git_hash(b"a pointer"),
                "lfs": {"sha256": sha256(bytes), "size": bytes.len(), "pointerSize": 130},
            }),
            false => json!({"rfilename": name, "size": bytes.len(), "blobId": git_hash(bytes)}),
        };
        let siblings: Vec<Value> = lock(&self.files).iter().map(file).collect();
        json!({"sha": COMMIT, "siblings": siblings, "cardData": {"license": "other", "license_name": "test-licence"}})
    }

    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let first = lines.next().transpose()?.unwrap_or_default();
        let mut words = first.split(' ');
        let (head, target) = (words.next() == Some("HEAD"), words.next().unwrap_or_default().to_string());
        let path = target.split('?').next().unwrap_or_default().to_string();
        let mut seen = Seen { path: path.clone(), ..Seen::default() };
        for line in lines {
            let line = line?;
            let Some((name, value)) = line.split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "range" => seen.range = Some(value.into()),
                "if-range" => seen.if_range = Some(value.into()),
                "authorization" => seen.authorization = Some(value.into()),
                _ => {}
            }
        }
        let index = {
            let mut all = lock(&self.seen);
            all.push(seen.clone());
            all.len() - 1
        };
        let trouble = self.trouble(&path);
        let sent = self.answer(&mut stream, head, &path, &seen, trouble)?;
        if let Some(seen) = lock(&self.seen).get_mut(index) {
            seen.sent = sent;
        }
        Ok(())
    }

    fn trouble(&self, path: &str) -> Option<Trouble> {
        let mut troubles = lock(&self.troubles);
        let (_, times, trouble) =
            troubles.iter_mut().find(|(end, times, _)| path.ends_with(end.as_str()) && *times > 0)?;
        *times -= 1;
        Some(trouble.clone())
    }

    fn answer(
        &self,
        stream: &mut TcpStream,
        head: bool,
        path: &str,
        seen: &Seen,
        trouble: Option<Trouble>,
    ) -> std::io::Result<usize> {
        let mut reply = |status: u16, headers: &[(&str, &str)], body: &[u8]| {
            let mut text = format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
            headers.iter().for_each(|(name, value)| text += &format!("{name}: {value}\r\n"));
            stream.write_all(format!("{text}\r\n").as_bytes())?;
            if !head {
                stream.write_all(body)?;
            }
            Ok(body.len())
        };
        match &trouble {
            Some(Trouble::Status(status, headers)) => return reply(*status, headers, b"{\"error\":\"no\"}"),
            Some(Trouble::Page) => {
                return reply(200, &[("Content-Type", "text/html; charset=utf-8")], b"<html>Sign in</html>");
            }
            Some(Trouble::Redirect(to)) => return reply(302, &[("Location", to)], b""),
            Some(Trouble::Garbage) => {
                stream.write_all(b"SSH-2.0-OpenSSH_9.6\r\n")?;
                return Ok(0);
            }
            Some(Trouble::NewEtag) => *lock(&self.etags) += 1,
            _ => {}
        }
        if path.starts_with(&format!("/api/models/{}/revision/", self.repo)) {
            let listing = lock(&self.listing).clone().unwrap_or_else(|| self.listing());
            return reply(200, &[("Content-Type", "application/json")], listing.to_string().as_bytes());
        }
        let resolved = path.strip_prefix(&format!("/{}/resolve/{COMMIT}/", self.repo));
        let Some(name) = resolved.or_else(|| path.strip_prefix("/cdn/")) else { return reply(404, &[], b"") };
        let Some(bytes) = lock(&self.files).get(name).cloned() else {
            return reply(404, &[("X-Error-Code", "EntryNotFound")], b"");
        };
        let (linked, length) = (format!("\"{}\"", sha256(&bytes)), bytes.len().to_string());
        if let (Some(other), true) = (lock(&self.elsewhere).clone(), is_large(name)) {
            let location = format!("{other}/cdn/{name}");
            return reply(302, &[("Location", &location), ("X-Linked-Etag", &linked), ("X-Linked-Size", &length)], b"");
        }
        let mut etag = if is_large(name) { linked } else { format!("\"{}\"", git_hash(&bytes)) };
        if *lock(&self.etags) > 0 {
            etag = format!("\"version-{}\"", *lock(&self.etags));
        }
        self.send(stream, head, bytes, &etag, seen, trouble)
    }

    /// A file, or the part that was asked for.
    fn send(
        &self,
        stream: &mut TcpStream,
        head: bool,
        mut bytes: Vec<u8>,
        etag: &str,
        seen: &Seen,
        trouble: Option<Trouble>,
    ) -> std::io::Result<usize> {
        let size = bytes.len();
        let start =
            seen.range.as_deref().and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let start = start.filter(|&start: &usize| {
            let same = seen.if_range.as_deref().is_none_or(|wanted| wanted == etag);
            start < size && same && !matches!(trouble, Some(Trouble::IgnoreRange | Trouble::CutWhole(_)))
        });
        if matches!(trouble, Some(Trouble::WrongBytes)) {
            bytes.iter_mut().for_each(|byte| *byte ^= 1);
        }
        let body = &bytes[start.unwrap_or(0)..];
        let extra = if let Some(Trouble::Longer(extra)) = trouble { extra } else { 0 };
        let mut text = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", if start.is_some() { 206 } else { 200 });
        text += &format!("ETag: {etag}\r\nContent-Length: {}\r\n", body.len() as i64 + extra);
        if let Some(start) = start {
            text += &format!("Content-Range: bytes {start}-{}/{size}\r\n", size - 1);
        }
        stream.write_all(format!("{text}\r\n").as_bytes())?;
        if head {
            return Ok(0);
        }
        let body =
            if let Some(Trouble::Cut(n) | Trouble::CutWhole(n)) = trouble { &body[..n.min(body.len())] } else { body };
        let mut sent = 0;
        for piece in body.chunks(16 << 10) {
            stream.write_all(piece)?;
            sent += piece.len();
            if let Some(Trouble::Slow(pause)) = trouble {
                std::thread::sleep(pause);
            }
        }
        Ok(sent)
    }
}
