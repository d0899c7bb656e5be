//! A whole model: what it needs is listed, announced, fetched file by file, and named last.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::cache::{MAX_LOOK, look};
use super::client::{Client, Failure};
use super::listing::{Item, Listing, licence_in_readme, printable};
use super::names::{check_repo, check_revision, is_hex};
use super::transfer::{Transfer, unfinished_bytes};
use super::{Event, Hub, Plan, Report, tell};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::names::{ADAPTER_CONFIG, CONFIG, INDEX, README, is_shard};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::processor::{Processor, PromptLimits};

/// A pull under way.
struct Pull<'a> {
    hub: &'a Hub,
    client: Client,
    listing: Listing,
    folder: PathBuf,
    blobs: PathBuf,
}

impl Hub {
    /// Fetches what a model needs of a repository into the cache, at `revision` or `main`, and returns the folder of the
    /// snapshot. What is there is not fetched again; what an earlier call left unfinished is taken up.
    ///
    /// Offline, a complete model that is in the cache is returned as it is.
    ///
    /// `report` hears of it, often while bytes come, and ends it with [`ControlFlow::Break`](std::ops::ControlFlow::Break);
    /// the next call goes on from there.
    ///
    /// # Errors
    /// [`Error::Download`], with `again` set where trying later may help; [`Error::Request`] for names that are none;
    /// [`Error::Io`]; [`Error::Cancelled`].
    pub fn pull(&self, repo: &str, revision: Option<&str>, report: &mut Report<'_>) -> Result<PathBuf> {
        check_repo(repo)?;
        revision.map_or(Ok(()), check_revision)?;
        if self.offline {
            return self.find(repo, revision)?.ok_or_else(|| {
                let problem = "is not in the cache, and HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) forbids to fetch it; unset it \
                               and pull again";
                Error::download(repo, problem, false)
            });
        }
        let client = Client::new(self)?;
        let revision = revision.unwrap_or("main");
        let listing = client.retrying(repo, report, &mut |_| match Listing::ask(&client, repo, revision) {
            // Nothing has begun that would be worth waiting for.
            Err(Failure::Unreachable(problem)) => Err(Error::download(repo, problem, true).into()),
            listing => listing,
        })?;
        listing.check()?;
        let (folder, blobs) = (self.snapshot(repo, &listing.commit), self.repo_folder(repo).join("blobs"));
        let _lock = self.lock(repo, report)?;
        for folder in [&folder, &blobs] {
            std::fs::create_dir_all(folder).map_err(|e| self.unwritable(e))?;
        }
        let pull = Pull { hub: self, client, listing, folder, blobs };
        pull.run(revision, report)?;
        Ok(pull.folder)
    }

    /// Waits until no other process pulls the repository.
    fn lock(&self, repo: &str, report: &mut Report<'_>) -> Result<File> {
        let path = self.lock_path(repo);
        let parent = path.parent().unwrap_or(&self.cache);
        std::fs::create_dir_all(parent).map_err(|e| self.unwritable(e))?;
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|e| self.unwritable(e))?;
        // A file system without locks is no reason to stop.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            tell(report, Event::Waiting)?;
            let _ = file.lock();
        }
        Ok(file)
    }

    fn unwritable(&self, reason: io::Error) -> Error {
        let problem = format!("cannot be written to ({reason}); set HF_HUB_CACHE to a folder that can");
        Error::download(self.cache.display().to_string(), problem, false)
    }
}

impl Pull<'_> {
    fn run(&self, revision: &str, report: &mut Report<'_>) -> Result<()> {
        let (mut items, mut fetched) = (Vec::new(), 0);
        let mut names = self.listing.small_files();
        // What the rest depends on comes first.
        for name in [CONFIG, INDEX, ADAPTER_CONFIG].iter().filter(|&&first| names.iter().any(|name| name == first)) {
            let item = self.item(name, report)?;
            fetched += if self.has(&item) { 0 } else { item.size };
            self.fetch(&item, None, report)?;
            items.push(item);
        }
        let config = if self.listing.is_adapter_alone() { None } else { Some(self.config()?) };
        names.retain(|name| items.iter().all(|item| item.name != *name));
        let small = items.len() + names.len();
        // Weights last: a snapshot that has them is complete.
        names.extend(self.listing.weights(look(&self.folder.join(INDEX)).as_deref())?);
        for name in &names {
            items.push(self.item(name, report)?);
        }
        let mut plan = self.plan(revision, &items);
        plan.present_bytes = plan.present_bytes.saturating_sub(fetched);
        self.hub.check_space(&self.listing.repo, plan.bytes - plan.present_bytes)?;
        tell(report, Event::Plan(&plan))?;
        let total = plan.bytes;
        let mut done = 0;
        for (i, item) in items.iter().enumerate() {
            if let Some(config) = config.as_ref().filter(|_| i == small) {
                self.check_processor(config)?;
            }
            self.fetch(item, Some((done, total)), report)?;
            done += item.size;
            tell(report, Event::Bytes { done, total })?;
        }
        if is_hex(revision, 40) { Ok(()) } else { self.name(revision) }
    }

    fn item(&self, name: &str, report: &mut Report<'_>) -> Result<Item> {
        let item = self.client.retrying(&self.what(name), report, &mut |_| self.listing.item(&self.client, name))?;
        match item.size > MAX_LOOK && !is_shard(name) {
            true => Err(Error::download(
                self.what(name),
                format!("has {} bytes, far too many for such a file", item.size),
                false,
            )),
            false => Ok(item),
        }
    }

    fn what(&self, name: &str) -> String {
        format!("{}: {name}", self.listing.repo)
    }

    fn plan(&self, revision: &str, items: &[Item]) -> Plan {
        let present = items.iter().map(|item| match self.has(item) {
            true => item.size,
            false => unfinished_bytes(&self.blobs, item.identity.name()).min(item.size),
        });
        let card = || licence_in_readme(&String::from_utf8_lossy(&look(&self.folder.join(README))?));
        Plan {
            repo: self.listing.repo.clone(),
            revision: revision.into(),
            commit: self.listing.commit.clone(),
            licence: self.listing.licence.clone().or_else(card),
            base: self.base(),
            files: items.len(),
            // Sizes are a server's word: they may be anything.
            bytes: items.iter().fold(0, |sum, item| sum.saturating_add(item.size)),
            present_bytes: present.fold(0, u64::saturating_add),
            folder: self.folder.clone(),
        }
    }

    /// The configuration. Refuses, before its weights are fetched, a model that the loader would refuse.
    fn config(&self) -> Result<Config> {
        let bytes = Checkpoint::directory(&self.folder)?.read(CONFIG).map_err(|error| self.told(error))?;
        let config = Config::parse(Path::new(CONFIG), &bytes.unwrap_or_default());
        let config = config.map_err(|error| self.told(error))?;
        if config.qformer_reads_text() {
            self.listing.check_qformer()?;
        }
        Ok(config)
    }

    /// Refuses, before its weights are fetched, a model whose tokenizers and settings the loader would refuse.
    fn check_processor(&self, config: &Config) -> Result<()> {
        let checkpoint = Checkpoint::directory(&self.folder)?;
        // How many rows the embeddings have is in the weights.
        let limits = PromptLimits::of(config, u32::MAX, if config.qformer_reads_text() { u32::MAX } else { 0 });
        let processor = Processor::from_files(&|name| checkpoint.read(name), checkpoint.root(), limits);
        processor.map(|_| ()).map_err(|error| self.told(error))
    }

    /// Turns an error of a file in the snapshot into one about the repository.
    fn told(&self, error: Error) -> Error {
        match error {
            Error::Checkpoint { file, problem } => self.refused(&file, problem),
            Error::NotTheFile { file, problem } => self.refused(&file, format!("{problem} again")),
            other => other,
        }
    }

    fn refused(&self, file: &Path, problem: String) -> Error {
        let name = file.strip_prefix(&self.folder).unwrap_or(file).display();
        Error::download(self.what(&name.to_string().replace('\\', "/")), problem, false)
    }

    /// The base that an adapter's configuration names.
    fn base(&self) -> Option<String> {
        let config = look(&self.folder.join(ADAPTER_CONFIG)).filter(|_| self.listing.is_adapter_alone())?;
        let config: serde_json::Value = serde_json::from_slice(&config).ok()?;
        printable(config.get("base_model_name_or_path")?.as_str()?)
    }

    /// True if a file is among the blobs or, where links cannot be made, in the snapshot.
    fn has(&self, item: &Item) -> bool {
        [self.blobs.join(item.identity.name()), self.folder.join(&item.name)].iter().any(|path| holds(path, item))
    }

    /// Fetches a file unless it is there, and gives it its name in the snapshot. `counted` are the bytes of the files
    /// before it and of all, if known.
    fn fetch(&self, item: &Item, counted: Option<(u64, u64)>, report: &mut Report<'_>) -> Result<()> {
        if !self.has(item) {
            let (what, url) = (self.what(&item.name), self.listing.url(&self.client, &item.name));
            let blobs = &self.blobs;
            let transfer = Transfer { client: &self.client, what: &what, url: &url, item, blobs, counted };
            transfer.run(report)?;
        }
        let target = self.folder.join(&item.name);
        self.show(item, &target).map_err(|e| Error::io(target, e))
    }

    /// Gives a blob its name in the snapshot: a link or, where links cannot be made, the file itself.
    fn show(&self, item: &Item, target: &Path) -> io::Result<()> {
        let blob = self.blobs.join(item.identity.name());
        let linked = std::fs::read_link(target).is_ok_and(|to| to.ends_with(item.identity.name()));
        if holds(target, item) && (linked || !holds(&blob, item)) {
            return Ok(());
        }
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent)?;
        }
        // From snapshots/<commit>/ to blobs/, and from the folders in it.
        let up = "../".repeat(2 + item.name.matches('/').count());
        let link = self.blobs.join(format!("{}.ib-{:016x}.link", item.identity.name(), fastrand::u64(..)));
        let made = if self.hub.links {
            symlink(&format!("{up}blobs/{}", item.identity.name()), &link)
        } else {
            Err(io::ErrorKind::Unsupported.into())
        };
        match made {
            Ok(()) => std::fs::rename(&link, target).inspect_err(|_| drop(std::fs::remove_file(&link))),
            Err(_) => std::fs::rename(&blob, target),
        }
    }

    /// Makes the branch or tag say that this is its commit.
    fn name(&self, revision: &str) -> Result<()> {
        let path = self.hub.repo_folder(&self.listing.repo).join("refs").join(revision);
        let written = || {
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            let new = self.blobs.join(format!("{:016x}.ref", fastrand::u64(..)));
            std::fs::write(&new, &self.listing.commit)?;
            std::fs::rename(&new, &path)
        };
        written().map_err(|e| Error::io(&path, e))
    }
}

/// True if there is a file of the right size. Its bytes were checked before it got the name.
fn holds(path: &Path, item: &Item) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() == item.size)
}

#[cfg(unix)]
fn symlink(to: &str, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(to, link)
}

#[cfg(windows)]
fn symlink(to: &str, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(to.replace('/', "\\"), link)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_: &str, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
