//! The files that a job reads and those that it writes, which must not be the same: what is written over cannot be had again.

use std::path::{Path, PathBuf};

use super::source::Input;
use crate::error::{Error, Result};

/// Refuses to write `role`, the file at `path`, over what is read: a file of the input or a picture of it. Links count as
/// what they lead to.
///
/// # Errors
/// [`Error::Request`] naming both.
pub fn check_is_no_input(role: &str, path: &Path, input: &Input) -> Result<()> {
    let read: &[PathBuf] = match input {
        Input::Lines { path, .. } => std::slice::from_ref(path),
        Input::Archives(paths) => paths,
        Input::Pictures(_) => &[],
    };
    let pictures = match input {
        Input::Pictures(pictures) => pictures.as_slice(),
        _ => &[],
    };
    // Of many pictures only those of this name can be it: each look at one may cost a round trip.
    let name = real(path).and_then(|path| path.file_name().map(ToOwned::to_owned));
    let namesakes =
        pictures.iter().map(|(_, picture)| picture).filter(|picture| picture.file_name() == name.as_deref());
    match read.iter().chain(namesakes).find(|read| is_same(read, path)) {
        Some(read) => Err(Error::request(format!(
            "{role} {} would be written over {}, which is read; give it another name",
            path.display(),
            read.display()
        ))),
        None => Ok(()),
    }
}

/// Refuses a status file that would be written over something else than an earlier one.
///
/// # Errors
/// [`Error::Request`].
pub fn check_status(status: &Path, output: &Path) -> Result<()> {
    let refuse = |what: &str| Err(Error::request(format!("the status file {} {what}", status.display())));
    if is_same(status, output) || status == output {
        return refuse("is the output; give it another name");
    }
    let is_status = |bytes: &[u8]| {
        let object = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(bytes);
        object.is_ok_and(|fields| ["state", "rows", "updated"].iter().all(|name| fields.contains_key(*name)))
    };
    match std::fs::metadata(status) {
        // No status is as large.
        Ok(there) if there.len() > 1 << 16 => refuse("is there and is something else; give it another name"),
        Ok(there) if there.len() > 0 => match std::fs::read(status) {
            Ok(bytes) if is_status(&bytes) => Ok(()),
            _ => refuse("is there and is something else; give it another name"),
        },
        _ => Ok(()),
    }
}

/// The file that a path leads to, by its one true name.
pub fn real(path: &Path) -> Option<PathBuf> {
    path.canonicalize().ok()
}

#[cfg(unix)]
fn is_same(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |path: &Path| std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    id(a).is_some_and(|a| id(b) == Some(a))
}

#[cfg(not(unix))]
fn is_same(a: &Path, b: &Path) -> bool {
    real(a).is_some_and(|a| real(b) == Some(a))
}
