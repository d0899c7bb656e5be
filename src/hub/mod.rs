//! Models of the Hugging Face hub: fetched into the cache that the hub's own tools share, found, listed and removed there.
//!
//! The cache has the layout of `huggingface_hub`: `models--owner--name/` with `blobs/` (files by their hash),
//! `snapshots/<commit>/` (links to them by name) and `refs/` (which commit a branch is at). What Python's tools fetched is
//! found here, and the other way round.
//!
//! ```text
//! environment   the variables of the hub's tools
//! names         which names may become paths and addresses
//! client        requests: redirects, the token, and what went wrong in plain words
//! listing       what a repository has, and which of it a model needs
//! transfer      one file: resumed, checked, and only then under its name
//! cache         the folders: snapshots, complete or not, their sizes, removal
//! ```
//!
//! Nothing is fetched unless [`Hub::pull`] is called.

mod cache;
mod client;
mod encryption;
mod environment;
mod listing;
mod names;
mod pull;
mod transfer;

use std::fmt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};

pub use cache::CachedModel;
#[doc(hidden)]
pub use encryption::encryption;
pub use environment::cache_folder;

/// A server of models and the cache that keeps them.
#[derive(Clone)]
pub struct Hub {
    /// Folder of the cache, which has a folder for each repository.
    pub cache: PathBuf,
    /// Address of the server, without a slash at its end.
    pub endpoint: String,
    /// The token that says who asks. It is sent to `endpoint`'s host only.
    pub token: Option<String>,
    /// True to never touch the network.
    pub offline: bool,
    /// True to link snapshots to blobs. Otherwise, or where links cannot be made, files move into the snapshot.
    pub links: bool,
    /// Pause before the first retry; it doubles from try to try.
    pub pause: Duration,
    /// The time that a server may say nothing before it counts as gone.
    pub silence: Duration,
}

/// The files that [`Hub::pull`] will fetch, told before it does.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The repository, `owner/name`.
    pub repo: String,
    /// The branch, tag or commit that was asked for.
    pub revision: String,
    /// The commit it is at.
    pub commit: String,
    /// The licence the repository states.
    pub licence: Option<String>,
    /// The model that an adapter is for, as its configuration names it: a repository, or its author's folder. It is not
    /// fetched.
    pub base: Option<String>,
    /// Number of files.
    pub files: usize,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes of them that are in the cache.
    pub present_bytes: u64,
    /// The snapshot's folder.
    pub folder: PathBuf,
}

/// News of a running [`Hub::pull`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Another process pulls the same repository; this one waits for its end.
    Waiting,
    /// The plan of what will be fetched.
    Plan(&'a Plan),
    /// The bytes that are there, of all.
    Bytes {
        /// Bytes in the cache.
        done: u64,
        /// Bytes of all files.
        total: u64,
    },
    /// A file is there and its hash is being computed.
    Checking {
        /// The file.
        file: &'a str,
    },
    /// A connection failed and will be tried again.
    Retry {
        /// The file that was being fetched.
        file: &'a str,
        /// A description of the fault.
        problem: &'a str,
        /// Pause before the next try.
        pause: Duration,
    },
}

/// A listener for the news of a pull, which says whether to go on.
type Report<'a> = dyn FnMut(Event<'_>) -> ControlFlow<()> + 'a;

/// Tells news of a pull.
///
/// # Errors
/// [`Error::Cancelled`], if it is to end.
fn tell(report: &mut Report<'_>, event: Event<'_>) -> Result<()> {
    match report(event) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Cancelled),
    }
}

impl Hub {
    /// The hub with a cache in this folder and no token.
    pub fn new(cache: impl Into<PathBuf>) -> Hub {
        Hub {
            cache: cache.into(),
            endpoint: "https://huggingface.co".into(),
            token: None,
            offline: false,
            links: true,
            pause: Duration::from_millis(500),
            silence: Duration::from_secs(60),
        }
    }

    /// The checkpoint in a directory or, if there is no such directory, of a repository `owner/name` in the cache;
    /// `owner/name@revision` for another revision than `main`.
    ///
    /// # Errors
    /// [`Error::NotCached`] when there is neither, [`Error::Checkpoint`] where the name is none of a repository.
    pub fn checkpoint(&self, name: &Path) -> Result<Checkpoint> {
        Checkpoint::directory(self.folder(name)?)
    }

    /// The adapter in a directory or of a repository, as [`Hub::checkpoint`] finds a model.
    ///
    /// # Errors
    /// As [`Hub::checkpoint`].
    pub fn adapter(&self, name: &Path) -> Result<Checkpoint> {
        Checkpoint::adapter_directory(self.folder(name)?)
    }

    /// The folder of a repository in the cache; any other name as it is.
    fn folder(&self, name: &Path) -> Result<PathBuf> {
        let text = name.to_str().unwrap_or_default();
        let (repo, revision) = text.split_once('@').map_or((text, None), |(repo, revision)| (repo, Some(revision)));
        if name.is_dir() || names::check_repo(repo).is_err() {
            return Ok(name.into());
        }
        self.find(repo, revision)?.ok_or_else(|| self.not_cached(repo, revision))
    }

    fn not_cached(&self, repo: &str, revision: Option<&str>) -> Error {
        let revision = revision.map(str::to_owned);
        Error::NotCached { repo: repo.into(), revision, cache: self.cache.clone() }
    }
}

impl fmt::Debug for Hub {
    /// Shows all fields but the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Hub { cache, endpoint, offline, .. } = self;
        f.debug_struct("Hub").field("cache", cache).field("endpoint", endpoint).field("offline", offline).finish()
    }
}

/// A number of bytes as text for people.
fn bytes_text(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{bytes} bytes"),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}
