//! Where a checkpoint's files come from: a directory, or bytes compiled into the program.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::error::{Error, Result};

/// Largest configuration or tokenizer file that is read whole.
const MAX_SMALL_FILE: u64 = 64 << 20;

/// The files of one checkpoint.
#[derive(Clone, Debug)]
pub enum Checkpoint {
    /// A directory in the layout of `save_pretrained`.
    Directory(PathBuf),
    /// Named files in memory.
    Embedded {
        /// What the checkpoint is called in messages.
        name: &'static str,
        /// File name (with `/` for folders) and contents.
        files: &'static [(&'static str, &'static [u8])],
    },
}

/// A file that is read piece by piece.
#[derive(Debug)]
pub enum Source {
    /// An open file.
    File(Mutex<File>),
    /// A file in memory.
    Memory(&'static [u8]),
}

impl Checkpoint {
    /// A checkpoint directory.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when there is no such directory.
    pub fn directory(path: impl Into<PathBuf>) -> Result<Checkpoint> {
        let path = path.into();
        match path.is_dir() {
            true => Ok(Checkpoint::Directory(path)),
            false => Err(Error::checkpoint(path, "no such directory; give the folder that holds config.json")),
        }
    }

    /// The checkpoint's name: its directory, or the name of the embedded one.
    pub fn root(&self) -> &Path {
        match self {
            Checkpoint::Directory(path) => path,
            Checkpoint::Embedded { name, .. } => Path::new(name),
        }
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
    /// [`Error::Io`] when it cannot be opened, [`Error::Checkpoint`] when it is not a regular file.
    pub fn open(&self, name: &str) -> Result<Option<(Source, u64)>> {
        match self {
            Checkpoint::Embedded { files, .. } => {
                let found = files.iter().find(|(file, _)| *file == name);
                Ok(found.map(|&(_, bytes)| (Source::Memory(bytes), bytes.len() as u64)))
            }
            Checkpoint::Directory(root) => {
                let path = root.join(name);
                // Ask before opening: opening a pipe would wait for a writer.
                let metadata = match std::fs::metadata(&path) {
                    Ok(metadata) => metadata,
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                    Err(e) => return Err(Error::io(path, e)),
                };
                if !metadata.is_file() {
                    return Err(Error::checkpoint(path, "is not a regular file"));
                }
                let file = File::open(&path).map_err(|e| Error::io(&path, e))?;
                Ok(Some((Source::File(Mutex::new(file)), metadata.len())))
            }
        }
    }

    /// Whether some file's name satisfies `wanted`. Only for better messages.
    pub fn has_file(&self, wanted: impl Fn(&str) -> bool) -> bool {
        match self {
            Checkpoint::Embedded { files, .. } => files.iter().any(|(name, _)| wanted(name)),
            Checkpoint::Directory(root) => std::fs::read_dir(root)
                .is_ok_and(|entries| entries.flatten().any(|e| e.file_name().to_str().is_some_and(&wanted))),
        }
    }
}

impl Source {
    /// Fills `buffer` from byte `offset` on.
    ///
    /// # Errors
    /// The operating system's, or an unexpected end of file.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        match self {
            Source::File(file) => {
                let mut file = file.lock().map_err(|_| std::io::Error::other("an earlier read failed"))?;
                file.seek(SeekFrom::Start(offset))?;
                file.read_exact(buffer).map_err(|e| match e.kind() {
                    std::io::ErrorKind::UnexpectedEof => {
                        let end = offset.saturating_add(buffer.len() as u64);
                        let problem = format!("ends before byte {end}; it was cut while it was being read");
                        std::io::Error::new(e.kind(), problem)
                    }
                    _ => e,
                })
            }
            Source::Memory(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let end = start.saturating_add(buffer.len());
                let part = bytes.get(start..end).ok_or(std::io::ErrorKind::UnexpectedEof)?;
                buffer.copy_from_slice(part);
                Ok(())
            }
        }
    }
}
