//! The one way to the disk: what a job writes, syncs, renames, cuts and removes.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};

/// A kind of change to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A file is opened to be written to.
    Open,
    /// Bytes are written.
    Write,
    /// Written bytes are brought to the disk.
    Sync,
    /// A finished file gets its name.
    Rename,
    /// A file is cut.
    Cut,
    /// A file is removed.
    Remove,
}

/// A function that hears of every operation first; its error is the operation's.
pub type Hook = Arc<dyn Fn(Operation, &Path) -> io::Result<()> + Send + Sync>;

/// The disk, or one with faults.
#[derive(Clone, Default)]
pub struct Disk {
    hook: Option<Hook>,
}

/// A file that is being written.
pub struct Written {
    disk: Disk,
    file: File,
    path: PathBuf,
}

impl Disk {
    /// A disk whose operations may fail: `hook` hears of each before it is done. A write that fails leaves half of its
    /// bytes behind.
    pub fn with_faults(hook: Hook) -> Disk {
        Disk { hook: Some(hook) }
    }

    fn before(&self, operation: Operation, path: &Path) -> io::Result<()> {
        self.hook.as_ref().map_or(Ok(()), |hook| hook(operation, path))
    }

    /// Opens a file to add to its end, or makes one.
    pub fn append(&self, path: &Path) -> Result<Written> {
        self.open(path, OpenOptions::new().create(true).append(true))
    }

    /// Opens a file as `options` say.
    pub fn open(&self, path: &Path, options: &OpenOptions) -> Result<Written> {
        let opened = self.before(Operation::Open, path).and_then(|()| options.open(path));
        let file = opened.map_err(|source| Error::io(path, source))?;
        Ok(Written { disk: self.clone(), file, path: path.into() })
    }

    /// Writes a whole file under another name, brings it to the disk and renames it: whoever reads the file sees the old
    /// or the new one, never half of it.
    pub fn replace(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        self.rewrite(path, |out| out.write_all(bytes))
    }

    /// Replaces a file by what `write` writes.
    pub fn rewrite(&self, path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
        let unfinished = beside(path, ".unfinished");
        let written = self.write_and_rename(path, &unfinished, write);
        if written.is_err() {
            // What is left behind is written over next time.
            let _ = std::fs::remove_file(&unfinished);
        }
        written
    }

    fn write_and_rename(
        &self,
        path: &Path,
        unfinished: &Path,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<()> {
        let failed = |source| Error::io(path, source);
        let mut file = self.open(unfinished, OpenOptions::new().create(true).write(true).truncate(true))?;
        let mut buffered = BufWriter::new(&mut file);
        write(&mut buffered).and_then(|()| buffered.flush()).map_err(failed)?;
        drop(buffered);
        file.sync()?;
        drop(file);
        self.before(Operation::Rename, path).and_then(|()| std::fs::rename(unfinished, path)).map_err(failed)?;
        self.sync_folder(path)
    }

    /// Brings a new name in a folder to the disk, where systems have that.
    fn sync_folder(&self, path: &Path) -> Result<()> {
        if !cfg!(unix) {
            return Ok(());
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        self.before(Operation::Sync, folder).map_err(|source| Error::io(folder, source))?;
        // Some file systems have no such thing, and their files are none the worse for it.
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
        Ok(())
    }

    /// Cuts a file to a length.
    pub fn cut(&self, path: &Path, bytes: u64) -> Result<()> {
        let cut = self.before(Operation::Cut, path).and_then(|()| {
            let file = OpenOptions::new().write(true).open(path)?;
            file.set_len(bytes)?;
            file.sync_all()
        });
        cut.map_err(|source| Error::io(path, source))
    }

    /// Removes a file; one that is not there is gone already.
    pub fn remove(&self, path: &Path) -> Result<()> {
        match self.before(Operation::Remove, path).and_then(|()| std::fs::remove_file(path)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(|source| Error::io(path, source)),
        }
    }
}

impl Written {
    /// Writes bytes, all of them in one call where the system allows it.
    pub fn add(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_all(bytes).map_err(|source| Error::io(&self.path, source))
    }

    /// Brings what was written to the disk.
    pub fn sync(&self) -> Result<()> {
        let synced = self.disk.before(Operation::Sync, &self.path).and_then(|()| self.file.sync_data());
        synced.map_err(|source| Error::io(&self.path, source))
    }

    /// The file itself.
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.disk.before(Operation::Write, &self.path) {
            self.file.write_all(&bytes[..bytes.len() / 2])?;
            return Err(error);
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The name of a file that lies beside another: its name and `ending`.
pub fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}
