//! The cache's folders: where things are, what is complete, how large it is, and how it goes away.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use hf_hub::{Cache, Repo};
use serde_json::Value;

use super::listing::licence_in_readme;
use super::names::{check_repo, check_revision, is_hex};
use super::{Hub, bytes_text};
use crate::checkpoint::names::{
    ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG, INDEX, README, Weights, is_adapter_alone, is_shard, shards,
};
use crate::error::{Error, Result};

/// Kinds of model that the checkpoint loader runs.
const KINDS: [&str; 3] = ["instructblip", "instructblipvideo", "blip-2"];
/// Largest small file that is read for a look at it.
pub(super) const MAX_LOOK: u64 = 64 << 20;
const MAIN: &str = "main";

/// A revision of a repository in the cache.
#[derive(Clone, Debug)]
pub struct CachedModel {
    /// The repository, `owner/name`.
    pub repo: String,
    /// Branches and tags that are at this commit.
    pub revisions: Vec<String>,
    /// The commit; empty when nothing of the repository has arrived yet.
    pub commit: String,
    /// Bytes on the disk, those of unfinished files included. Revisions may share files.
    pub bytes: u64,
    /// True if configuration and weights are there.
    pub complete: bool,
    /// The licence its model card states.
    pub licence: Option<String>,
    /// `model_type` of its configuration.
    pub kind: Option<String>,
    /// The snapshot's folder.
    pub path: PathBuf,
}

impl CachedModel {
    /// True if this library runs models of this kind, or if there is no configuration yet that says the kind.
    pub fn is_ours(&self) -> bool {
        self.kind.as_deref().is_none_or(|kind| KINDS.contains(&kind))
    }
}

impl Hub {
    /// The folder of a repository.
    pub(super) fn repo_folder(&self, repo: &str) -> PathBuf {
        self.cache.join(Repo::model(repo.into()).folder_name())
    }

    /// The folder of a snapshot.
    pub(super) fn snapshot(&self, repo: &str, commit: &str) -> PathBuf {
        Cache::new(self.cache.clone()).model(repo.into()).pointer_path(commit)
    }

    /// The lock that keeps two pulls of a repository from doing the same work. Correctness does not rest on it.
    pub(super) fn lock_path(&self, repo: &str) -> PathBuf {
        self.cache.join(".locks").join(Repo::model(repo.into()).folder_name()).join("instructblip.lock")
    }

    /// The folder of a complete model in the cache: of `revision`, or of `main`, or of the only one there is.
    ///
    /// # Errors
    /// [`Error::Request`] when a name is none, or several revisions are there and none is `main`.
    pub fn find(&self, repo: &str, revision: Option<&str>) -> Result<Option<PathBuf>> {
        check_repo(repo)?;
        if let Some(revision) = revision {
            check_revision(revision)?;
            return Ok(self.at(repo, revision).filter(|folder| is_complete(folder)));
        }
        if let Some(folder) = self.at(repo, MAIN) {
            return Ok(Some(folder).filter(|folder| is_complete(folder)));
        }
        let mut complete = self.commits(repo).into_iter().map(|commit| self.snapshot(repo, &commit));
        let mut complete = complete.by_ref().filter(|folder| is_complete(folder));
        match (complete.next(), complete.next()) {
            (Some(_), Some(_)) => Err(Error::request(format!(
                "several revisions of {repo} are in the cache and none is main; name one: {repo}@REVISION"
            ))),
            (only, _) => Ok(only),
        }
    }

    /// The snapshot that a branch, a tag or a commit is at.
    fn at(&self, repo: &str, revision: &str) -> Option<PathBuf> {
        let file = self.repo_folder(repo).join("refs").join(revision);
        let commit = std::fs::read_to_string(file).ok().map(|text| text.trim().to_string());
        let commit = commit.unwrap_or_else(|| revision.into());
        Some(self.snapshot(repo, &commit)).filter(|folder| is_hex(&commit, 40) && folder.is_dir())
    }

    /// The commits of a repository that have a folder.
    fn commits(&self, repo: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.repo_folder(repo).join("snapshots"));
        let names = entries.into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut commits: Vec<String> = names.filter(|name| is_hex(name, 40)).collect();
        commits.sort();
        commits
    }

    /// The models in the cache, one for each revision, whatever kind they are of.
    ///
    /// # Errors
    /// [`Error::Io`] when the cache cannot be read. A cache that does not exist is empty.
    pub fn list(&self) -> Result<Vec<CachedModel>> {
        let entries = match std::fs::read_dir(&self.cache) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|e| Error::io(&self.cache, e))?,
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let repos = names.filter_map(|name| {
            let (owner, name) = name.strip_prefix("models--")?.split_once("--")?;
            Some(format!("{owner}/{name}")).filter(|repo| check_repo(repo).is_ok())
        });
        let mut repos: Vec<String> = repos.collect();
        repos.sort();
        Ok(repos.iter().flat_map(|repo| self.revisions(repo)).collect())
    }

    fn revisions(&self, repo: &str) -> Vec<CachedModel> {
        let folder = self.repo_folder(repo);
        let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, file) in files(&folder.join("refs"), "") {
            let commit = std::fs::read_to_string(file).unwrap_or_default().trim().to_string();
            names.entry(commit).or_default().push(name);
        }
        let blobs = files(&folder.join("blobs"), "");
        let unfinished = blobs.iter().filter(|(name, _)| name.ends_with(".incomplete"));
        let unfinished: u64 = unfinished.filter_map(|(_, path)| Some(path.metadata().ok()?.len())).sum();
        let model = |commit: String, path: PathBuf| {
            let complete = is_complete(&path);
            let own = files(&path, "").iter().filter_map(|(_, path)| Some(path.metadata().ok()?.len())).sum::<u64>();
            let config = look(&path.join(CONFIG)).and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
            CachedModel {
                repo: repo.into(),
                revisions: names.get(&commit).cloned().unwrap_or_default(),
                bytes: own + if complete { 0 } else { unfinished },
                complete,
                licence: look(&path.join(README)).and_then(|text| licence_in_readme(&String::from_utf8_lossy(&text))),
                kind: config.map(|config| config["model_type"].as_str().unwrap_or_default().to_string()),
                commit,
                path,
            }
        };
        let commits = self.commits(repo);
        if commits.is_empty() {
            return vec![model(String::new(), folder.clone())];
        }
        commits.into_iter().map(|commit| model(commit.clone(), self.snapshot(repo, &commit))).collect()
    }

    /// Removes a repository from the cache, all revisions and unfinished files. Returns the bytes this frees.
    ///
    /// # Errors
    /// [`Error::NotCached`], [`Error::Request`] when the name is none, [`Error::Download`] while it is being pulled,
    /// [`Error::Io`].
    pub fn remove(&self, repo: &str) -> Result<u64> {
        check_repo(repo)?;
        let folder = self.repo_folder(repo);
        let kind = folder.symlink_metadata().map_err(|_| self.not_cached(repo, None))?;
        if !kind.is_dir() {
            return Err(Error::request(format!(
                "{} is not a folder of the cache; remove it by hand",
                folder.display()
            )));
        }
        let lock = File::open(self.lock_path(repo)).ok();
        if lock.as_ref().is_some_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock))) {
            return Err(Error::download(repo, "is being pulled by another process; try again when it is done", true));
        }
        let bytes = files(&folder, "").into_iter().filter_map(|(_, path)| path.symlink_metadata().ok());
        let bytes = bytes.filter(std::fs::Metadata::is_file).map(|m| m.len()).sum();
        std::fs::remove_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
        drop(lock);
        if let Some(locks) = self.lock_path(repo).parent() {
            let _ = std::fs::remove_dir_all(locks);
        }
        Ok(bytes)
    }

    /// Refuses what the disk has no room for.
    pub(super) fn check_space(&self, what: &str, need: u64) -> Result<()> {
        let folder = self.cache.ancestors().find(|folder| folder.is_dir());
        // Some file systems do not tell; then the disk itself will.
        let Some(free) = folder.and_then(|folder| fs4::available_space(folder).ok()) else { return Ok(()) };
        match need <= free {
            true => Ok(()),
            false => Err(Error::download(
                what,
                format!(
                    "needs {} more, {} are free at {}; make room, or set HF_HUB_CACHE to a folder on another disk",
                    bytes_text(need),
                    bytes_text(free),
                    self.cache.display()
                ),
                false,
            )),
        }
    }
}

/// True if configuration and all weights are there: they arrive last, so the rest is there, too.
pub(super) fn is_complete(snapshot: &Path) -> bool {
    let has = |name: &str| snapshot.join(name).is_file();
    if has(ADAPTER_CONFIG) && !has(ADAPTER_WEIGHTS) {
        return false;
    }
    let sharded = || {
        let names = look(&snapshot.join(INDEX)).and_then(|index| shards(&index));
        names.is_some_and(|names| names.iter().all(|name| is_shard(name) && has(name)))
    };
    match Weights::among(has) {
        Some(Weights::Single) => has(CONFIG),
        Some(Weights::Sharded) => has(CONFIG) && sharded(),
        None => is_adapter_alone(has),
    }
}

/// The whole of a small file, if it is there and can be read.
pub(super) fn look(path: &Path) -> Option<Vec<u8>> {
    let metadata = path.metadata().ok()?;
    if !metadata.is_file() || metadata.len() > MAX_LOOK {
        return None;
    }
    std::fs::read(path).ok()
}

/// The files in a folder and in its folders, without following links to folders: path inside it, and path.
fn files(folder: &Path, inside: &str) -> Vec<(String, PathBuf)> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let name = format!("{inside}{}", entry.file_name().to_string_lossy());
        match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            true => found.extend(files(&entry.path(), &format!("{name}/"))),
            false => found.push((name, entry.path())),
        }
    }
    found
}
