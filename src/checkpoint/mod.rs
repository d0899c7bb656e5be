//! The source of a checkpoint's files: a directory, or bytes in memory.

mod impostor;
mod mapped;
pub mod names;

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mapped::Map;

use self::names::{ADAPTER_CONFIG, CONFIG};
use crate::error::{Error, Result};

/// Largest configuration or tokenizer file that is read whole.
const MAX_SMALL_FILE: u64 = 64 << 20;

/// The files of one checkpoint.
#[derive(Clone, Debug)]
pub enum Checkpoint {
    /// A directory in the layout of `save_pretrained`.
    Directory(PathBuf),
    /// Named files compiled into the program.
    Embedded {
        /// The checkpoint's name in messages.
        name: &'static str,
        /// The files: name (with `/` for folders) and contents.
        files: &'static [(&'static str, &'static [u8])],
    },
    /// Named files in memory; see [`Checkpoint::memory`].
    Memory {
        /// The checkpoint's name in messages.
        name: PathBuf,
        /// The files by their names, with `/` for folders.
        files: Arc<BTreeMap<String, Arc<Vec<u8>>>>,
    },
}

/// The model that an adapter was made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdapterBase {
    /// A folder on this machine.
    Folder(PathBuf),
    /// A name that is no folder here: a repository on the hub, `owner/name`.
    Repository(String),
}

/// A file that is read piece by piece.
#[derive(Debug)]
pub enum Source {
    /// An open file.
    File(File),
    /// A file mapped into memory.
    Mapped(Map),
    /// A file compiled into the program.
    Embedded(&'static [u8]),
    /// A file in memory.
    Memory(Arc<Vec<u8>>),
}

impl Checkpoint {
    /// A checkpoint directory.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when there is no such directory; [`Error::Request`] for an empty path.
    pub fn directory(path: impl Into<PathBuf>) -> Result<Checkpoint> {
        directory(path.into(), "model", CONFIG)
    }

    /// The directory of an adapter, as peft saves it.
    ///
    /// # Errors
    /// As [`Checkpoint::directory`].
    pub fn adapter_directory(path: impl Into<PathBuf>) -> Result<Checkpoint> {
        directory(path.into(), "adapter", ADAPTER_CONFIG)
    }

    /// A checkpoint of files in memory, by their names in a checkpoint directory (`/` for folders), for programs that have
    /// them from somewhere else than a disk. `name` stands for it in messages. The bytes are read in place, and may be
    /// dropped, with the checkpoint, once a model is loaded that does not offload.
    pub fn memory(name: impl Into<PathBuf>, files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Checkpoint {
        let files = files.into_iter().map(|(name, bytes)| (name, Arc::new(bytes))).collect();
        Checkpoint::Memory { name: name.into(), files: Arc::new(files) }
    }

    /// The checkpoint's name: its directory, or the name of one in memory.
    pub fn root(&self) -> &Path {
        match self {
            Checkpoint::Directory(path) => path,
            Checkpoint::Embedded { name, .. } => Path::new(name),
            Checkpoint::Memory { name, .. } => name,
        }
    }

    /// The settings of this adapter.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when this is no adapter, or its settings are damaged.
    pub fn adapter_config(&self) -> Result<serde_json::Value> {
        let wrong = |problem: &str| Error::checkpoint(self.root().join(ADAPTER_CONFIG), problem);
        let bytes = self.read(ADAPTER_CONFIG)?.ok_or_else(|| wrong("is missing; give the folder that peft saved"))?;
        serde_json::from_slice(&bytes).map_err(|_| wrong("is not valid JSON"))
    }

    /// The model that this adapter was made for (`base_model_name_or_path`): a folder, also one beside the adapter, or a
    /// repository.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when this is no adapter, or one that does not name its model.
    pub fn adapter_base(&self) -> Result<AdapterBase> {
        let json = self.adapter_config()?;
        let name = json.get("base_model_name_or_path").and_then(|name| name.as_str()).filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| {
            let problem = "has no \"base_model_name_or_path\"; name the model it was made for";
            Error::checkpoint(self.root().join(ADAPTER_CONFIG), problem)
        })?;
        // An absolute path stays what it is.
        let places = [self.root().join(name), PathBuf::from(name)];
        Ok(match places.into_iter().find(|place| place.is_dir()) {
            Some(folder) => AdapterBase::Folder(folder),
            None => AdapterBase::Repository(name.into()),
        })
    }

    /// The whole of a small file, or `None` when the checkpoint has no such file.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Checkpoint`] when it is absurdly large.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some((source, size)) = self.open(name)? else { return Ok(None) };
        if size > MAX_SMALL_FILE {
            let file = self.root().join(name);
            return Err(Error::checkpoint(file, format!("has {size} bytes; at most {MAX_SMALL_FILE} are expected")));
        }
        let mut bytes = vec![0; size as usize];
        source.read_at(0, &mut bytes).map_err(|e| Error::io(self.root().join(name), e))?;
        Ok(Some(bytes))
    }

    /// A file and its size, or `None` when the checkpoint has no such file.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be opened, [`Error::Checkpoint`] when it is not a regular file, a link to a file that
    /// is gone, or something else that was saved under its name: a git-lfs pointer, a web page.
    pub fn open(&self, name: &str) -> Result<Option<(Source, u64)>> {
        match self {
            Checkpoint::Embedded { files, .. } => {
                let found = files.iter().find(|(file, _)| *file == name);
                Ok(found.map(|&(_, bytes)| (Source::Embedded(bytes), bytes.len() as u64)))
            }
            Checkpoint::Memory { files, .. } => {
                let Some(bytes) = files.get(name) else { return Ok(None) };
                let source = Source::Memory(bytes.clone());
                impostor::check(&self.root().join(name), &source, bytes.len() as u64)?;
                Ok(Some((source, bytes.len() as u64)))
            }
            Checkpoint::Directory(root) => {
                let path = root.join(name);
                // Ask before opening: opening a pipe would wait for a writer.
                let metadata = match std::fs::metadata(&path) {
                    Ok(metadata) => metadata,
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                        return if path.is_symlink() { Err(dangling(&path)) } else { Ok(None) };
                    }
                    Err(e) => return Err(Error::io(path, e)),
                };
                if !metadata.is_file() {
                    return Err(Error::checkpoint(path, "is not a regular file"));
                }
                let source = Source::File(File::open(&path).map_err(|e| Error::io(&path, e))?);
                impostor::check(&path, &source, metadata.len())?;
                Ok(Some((source, metadata.len())))
            }
        }
    }

    /// The names of all files small enough for [`Checkpoint::read`] that hold no weights, in subfolders too.
    ///
    /// # Errors
    /// [`Error::Io`] when a folder cannot be read.
    pub fn small_files(&self) -> Result<Vec<String>> {
        let no_weights = |name: &str| {
            let ends = [
                ".safetensors",
                ".safetensors.index.json",
                ".bin",
                ".bin.index.json",
                ".pt",
                ".pth",
                ".msgpack",
                ".h5",
            ];
            !ends.iter().any(|end| name.ends_with(end)) && !name.split('/').any(|part| part.starts_with('.'))
        };
        let mut names = Vec::new();
        match self {
            Checkpoint::Embedded { files, .. } => names.extend(files.iter().map(|(name, _)| name.to_string())),
            Checkpoint::Memory { files, .. } => {
                let small = files.iter().filter(|(_, bytes)| bytes.len() as u64 <= MAX_SMALL_FILE);
                names.extend(small.map(|(name, _)| name.clone()));
            }
            Checkpoint::Directory(root) => {
                let mut folders = vec![String::new()];
                while let Some(folder) = folders.pop() {
                    let path = root.join(&folder);
                    let failed = |e| Error::io(&path, e);
                    for entry in std::fs::read_dir(&path).map_err(failed)? {
                        let name = format!("{folder}{}", entry.map_err(failed)?.file_name().to_string_lossy());
                        match std::fs::metadata(root.join(&name)) {
                            Ok(m) if m.is_dir() && folder.is_empty() => folders.push(format!("{name}/")),
                            Ok(m) if m.is_file() && m.len() <= MAX_SMALL_FILE => names.push(name),
                            _ => {}
                        }
                    }
                }
            }
        }
        names.retain(|name| no_weights(name));
        names.sort();
        Ok(names)
    }

    /// Tells if some file's name satisfies `wanted`. Used for better messages only.
    pub fn has_file(&self, wanted: impl Fn(&str) -> bool) -> bool {
        match self {
            Checkpoint::Embedded { files, .. } => files.iter().any(|(name, _)| wanted(name)),
            Checkpoint::Memory { files, .. } => files.keys().any(|name| wanted(name)),
            Checkpoint::Directory(root) => std::fs::read_dir(root)
                .is_ok_and(|entries| entries.flatten().any(|e| e.file_name().to_str().is_some_and(&wanted))),
        }
    }
}

/// The directory of `what`, which holds `file`.
fn directory(path: PathBuf, what: &str, file: &str) -> Result<Checkpoint> {
    let advice = format!("give the folder that holds {file}");
    match path.is_dir() {
        true => Ok(Checkpoint::Directory(path)),
        false if path.as_os_str().is_empty() => {
            Err(Error::request(format!("the path of the {what} is empty; {advice}")))
        }
        false if path.exists() => Err(Error::checkpoint(path, format!("is a file, not a folder; {advice}"))),
        false => Err(Error::checkpoint(path, format!("no such directory; {advice}"))),
    }
}

/// The error for a link whose file is missing, as in a cache whose blobs were removed.
fn dangling(path: &Path) -> Error {
    let target = std::fs::read_link(path).unwrap_or_default();
    let problem = format!(
        "there is no file named {}: it is a link to {}, which is gone; fetch the model again",
        path.file_name().unwrap_or_default().display(),
        target.display()
    );
    Error::NotTheFile { file: path.into(), problem }
}

impl Source {
    /// Maps the same source into memory, where it is a file and the system can.
    #[must_use]
    pub fn mapped(self) -> Source {
        match self {
            Source::File(file) => Map::new(file).map_or_else(Source::File, Source::Mapped),
            other => other,
        }
    }

    /// Bytes `start .. start + count`: in place where they are in memory, else read into `room`. Of a mapped file they
    /// count only if [`Source::check_intact`] finds nothing afterwards.
    ///
    /// # Errors
    /// The operating system's, or an unexpected end of file.
    pub fn bytes<'a>(&'a self, start: u64, count: usize, room: &'a mut Vec<u8>) -> std::io::Result<&'a [u8]> {
        match self {
            Source::File(file) => {
                room.resize(count, 0);
                read_exact_at(file, start, room).map_err(|e| match e.kind() {
                    std::io::ErrorKind::UnexpectedEof => past_end(start, count),
                    _ => e,
                })?;
                Ok(room)
            }
            Source::Mapped(map) => map.bytes(start, count).ok_or_else(|| past_end(start, count)),
            Source::Embedded(bytes) => in_memory(bytes, start, count),
            Source::Memory(bytes) => in_memory(bytes, start, count),
        }
    }

    /// Fills `buffer` from byte `offset` on.
    ///
    /// # Errors
    /// As [`Source::bytes`].
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        let mut room = Vec::new();
        buffer.copy_from_slice(self.bytes(offset, buffer.len(), &mut room)?);
        self.check_intact()
    }

    /// Checks that everything read so far was in the file.
    ///
    /// # Errors
    /// An unexpected end of file, if it was cut while it was mapped.
    pub fn check_intact(&self) -> std::io::Result<()> {
        match self {
            Source::Mapped(map) => map.check_intact(),
            Source::File(_) | Source::Embedded(_) | Source::Memory(_) => Ok(()),
        }
    }

    /// Asks the system to read a part of a mapped file ahead.
    pub fn prefetch(&self, range: Range<u64>) {
        if let Source::Mapped(map) = self {
            map.prefetch(range);
        }
    }

    /// Tells the system that a part of a mapped file will not be read again soon.
    pub fn release(&self, range: Range<u64>) {
        if let Source::Mapped(map) = self {
            map.release(range);
        }
    }
}

fn in_memory(bytes: &[u8], start: u64, count: usize) -> std::io::Result<&[u8]> {
    let first = usize::try_from(start).unwrap_or(usize::MAX);
    bytes.get(first..first.saturating_add(count)).ok_or_else(|| past_end(start, count))
}

fn past_end(start: u64, count: usize) -> std::io::Error {
    let end = start.saturating_add(count as u64);
    let problem = format!("ends before byte {end}; it was cut while it was being read");
    std::io::Error::new(std::io::ErrorKind::UnexpectedEof, problem)
}

/// Reads from byte `start` on. No position in the file is shared, so several threads may read at once.
#[cfg(unix)]
fn read_exact_at(file: &File, start: u64, buffer: &mut [u8]) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, start)
}

/// Reads from byte `start` on. No position in the file is shared, so several threads may read at once.
#[cfg(windows)]
fn read_exact_at(file: &File, mut start: u64, mut buffer: &mut [u8]) -> std::io::Result<()> {
    while !buffer.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buffer, start)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => (buffer, start) = (&mut buffer[count..], start + count as u64),
        }
    }
    Ok(())
}
