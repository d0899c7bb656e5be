//! One file: fetched beside its final name, taken up where it was left, and moved there only when its bytes are right.
//!
//! An unfinished file has a name of its own for each process, `<blob>.ib-<random>.incomplete`, and is locked while it is
//! written. What a dead process left is taken over by a rename, which one of several takers wins. Should the file system
//! only pretend to lock, a process whose file was taken notices that its name is gone and stops; and the bytes that count
//! are those read back from the disk at the end.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use ureq::Body;
use ureq::http::Response;

use super::client::{Client, Failure, header, reason};
use super::listing::{Identity, Item};
use super::{Event, Report, tell};
use crate::error::{Error, Result};

/// Bytes read at a time; between two reads a process looks whether its file is still its own.
const PIECE: usize = 1 << 20;
const UNFINISHED: &str = ".incomplete";

/// A transfer of one file.
pub(super) struct Transfer<'a> {
    /// The connection.
    pub client: &'a Client,
    /// The file's name in messages.
    pub what: &'a str,
    /// The file's address.
    pub url: &'a str,
    /// The file's name, size and identity.
    pub item: &'a Item,
    /// The folder of blobs.
    pub blobs: &'a Path,
    /// Bytes of the files before this one, and of all; not told if unknown.
    pub counted: Option<(u64, u64)>,
}

/// An unfinished file of this process.
struct Partial {
    path: PathBuf,
    file: File,
    len: u64,
    /// The most bytes that the file has had: repeating bytes is no progress.
    reached: u64,
}

impl Transfer<'_> {
    /// Fetches the file and puts it under its name among the blobs.
    pub(super) fn run(&self, report: &mut Report<'_>) -> Result<()> {
        let mut partial = self.take_up()?;
        if matches!(self.item.identity, Identity::Version(_)) {
            // Without a hash nobody would notice that two halves are of different versions.
            self.restart(&mut partial)?;
        }
        let mut resumed = partial.len > 0;
        loop {
            self.client.retrying(self.what, report, &mut |report| self.fetch(&mut partial, report))?;
            partial.file.sync_all().map_err(|e| Error::io(&partial.path, e))?;
            tell(report, Event::Checking { file: &self.item.name })?;
            let right = self.item.identity.matches(&mut partial.file, self.item.size);
            if right.map_err(|e| Error::io(&partial.path, e))? {
                break;
            }
            if !resumed {
                let _ = std::fs::remove_file(&partial.path);
                let problem = "the bytes that came are not those the hub has; they were thrown away, try again";
                return Err(Error::download(self.what, problem, true));
            }
            // What an earlier run left may be what is wrong.
            resumed = false;
            self.restart(&mut partial)?;
        }
        let blob = self.blobs.join(self.item.identity.name());
        std::fs::rename(&partial.path, &blob).map_err(|e| Error::io(&blob, e))?;
        self.tidy();
        Ok(())
    }

    /// One request: the rest of the file, or all of it if the server does not give the rest.
    fn fetch(&self, partial: &mut Partial, report: &mut Report<'_>) -> Result<(), Failure> {
        let size = self.item.size;
        if partial.len > size {
            self.restart(partial)?;
        }
        self.count(partial.len, report)?;
        if partial.len == size {
            return Ok(());
        }
        let known = self.saved_etag();
        let range = format!("bytes={}-", partial.len);
        let mut headers = Vec::new();
        if partial.len > 0 {
            headers.push(("Range", range.as_str()));
            headers.extend(known.as_deref().map(|etag| ("If-Range", etag)));
        }
        let response = self.client.get(self.what, self.url, &headers)?;
        let etag = header(&response, "etag").filter(|etag| !etag.starts_with("W/")).map(String::from);
        if response.status().as_u16() == 200 {
            self.restart(partial)?;
        } else if !continues(&response, partial.len, size) || etag.is_some() && known.is_some() && etag != known {
            self.restart(partial)?;
            let problem = "the file has changed on the server; starting it again".into();
            return Err(Failure::Again { problem, wait: None, progress: false });
        }
        let rest = size - partial.len;
        if let Some(length) = response.body().content_length().filter(|&length| length != rest) {
            let problem = format!("the server sends {length} bytes where the hub has {rest}; try again later");
            return Err(Error::download(self.what, problem, true).into());
        }
        self.save_etag(etag.as_deref());
        self.read(response, partial, report)
    }

    /// Appends what comes until the file is whole.
    fn read(&self, response: Response<Body>, partial: &mut Partial, report: &mut Report<'_>) -> Result<(), Failure> {
        let mut reader = response.into_body().into_reader();
        let mut piece = vec![0; PIECE];
        let mut progress = false;
        partial.file.seek(SeekFrom::Start(partial.len)).map_err(|e| Error::io(&partial.path, e))?;
        while partial.len < self.item.size {
            // A byte more than the file has would show that this is not the file.
            let room = (self.item.size - partial.len + 1).min(PIECE as u64) as usize;
            let cut = |problem: &str| Failure::Again { problem: problem.into(), wait: None, progress };
            let n = match reader.read(&mut piece[..room]) {
                Ok(0) => return Err(cut("the connection was cut")),
                Ok(n) => n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(cut(reason(e.kind()))),
            };
            if !partial.path.exists() {
                let problem = "another process has taken the unfinished file over; try again when it is done";
                return Err(Error::download(self.what, problem, true).into());
            }
            if n as u64 > self.item.size - partial.len {
                self.restart(partial)?;
                return Err(Error::download(self.what, "the server sends more bytes than the hub has", true).into());
            }
            partial.file.write_all(&piece[..n]).map_err(|e| Error::io(&partial.path, e))?;
            partial.len += n as u64;
            progress |= partial.len > partial.reached;
            partial.reached = partial.reached.max(partial.len);
            self.count(partial.len, report)?;
        }
        Ok(())
    }

    fn count(&self, bytes: u64, report: &mut Report<'_>) -> Result<()> {
        match self.counted {
            Some((before, total)) => tell(report, Event::Bytes { done: before + bytes, total }),
            None => Ok(()),
        }
    }

    /// Empties the unfinished file.
    fn restart(&self, partial: &mut Partial) -> Result<()> {
        partial.len = 0;
        partial.file.set_len(0).map_err(|e| Error::io(&partial.path, e))
    }

    /// The longest unfinished file that a dead process left, or a new one.
    fn take_up(&self) -> Result<Partial> {
        let mut left = leftovers(self.blobs, self.item.identity.name());
        left.sort_by_key(|path| std::cmp::Reverse(path.metadata().map_or(0, |m| m.len())));
        for path in left {
            let Ok(file) = OpenOptions::new().read(true).write(true).open(&path) else { continue };
            let own = self.own_name();
            if file.try_lock().is_ok() && std::fs::rename(&path, &own).is_ok() {
                let len = file.metadata().map_err(|e| Error::io(&own, e))?.len();
                return Ok(Partial { path: own, file, len, reached: len });
            }
        }
        loop {
            let path = self.own_name();
            let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
            let file = file.map_err(|e| Error::io(&path, e))?;
            // Somebody may have taken the new file for a dead process's. That locks do not work is no reason to stop.
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => continue,
                Ok(()) | Err(TryLockError::Error(_)) => return Ok(Partial { path, file, len: 0, reached: 0 }),
            }
        }
    }

    fn own_name(&self) -> PathBuf {
        self.blobs.join(format!("{}.ib-{:016x}{UNFINISHED}", self.item.identity.name(), fastrand::u64(..)))
    }

    /// The version that the server which sends the bytes gave the file: not always the hub's.
    fn saved_etag(&self) -> Option<String> {
        let etag = std::fs::read_to_string(self.etag_path()).ok()?;
        Some(etag).filter(|etag| !etag.is_empty() && etag.chars().all(|c| c.is_ascii_graphic()))
    }

    /// Saves the version. It only saves time later, so failing is no error.
    fn save_etag(&self, etag: Option<&str>) {
        let _ = match etag {
            Some(etag) => std::fs::write(self.etag_path(), etag),
            None => std::fs::remove_file(self.etag_path()),
        };
    }

    fn etag_path(&self) -> PathBuf {
        self.blobs.join(format!("{}.ib-etag", self.item.identity.name()))
    }

    /// Removes what dead processes left of a file that is complete now.
    fn tidy(&self) {
        let _ = std::fs::remove_file(self.etag_path());
        for path in leftovers(self.blobs, self.item.identity.name()) {
            let dead = File::open(&path).is_ok_and(|file| file.try_lock().is_ok());
            if dead {
                let _ = std::fs::remove_file(&path);
            }
        }
    }
}

/// Bytes of the longest unfinished file of a blob.
pub(super) fn unfinished_bytes(blobs: &Path, blob: &str) -> u64 {
    leftovers(blobs, blob).iter().filter_map(|path| Some(path.metadata().ok()?.len())).max().unwrap_or(0)
}

/// Unfinished files of a blob that this program wrote. Those of other programs have other names and are left alone.
fn leftovers(blobs: &Path, blob: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(blobs) else { return Vec::new() };
    let ours = |name: &str| {
        let rest = name.strip_prefix(blob).and_then(|rest| rest.strip_prefix(".ib-"));
        rest.is_some_and(|rest| rest.ends_with(UNFINISHED))
    };
    let paths = entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(ours));
    paths.map(|entry| entry.path()).collect()
}

/// True if a response is the rest of a file of `size` bytes from byte `start` on.
fn continues(response: &Response<Body>, start: u64, size: u64) -> bool {
    let range = || header(response, "content-range")?.strip_prefix("bytes ")?.split_once('/');
    response.status().as_u16() == 206
        && range().is_some_and(|(span, total)| {
            span.split_once('-').is_some_and(|(first, last)| {
                first.parse() == Ok(start)
                    && last.parse() == Ok(size - 1)
                    && (total == "*" || total.parse() == Ok(size))
            })
        })
}
