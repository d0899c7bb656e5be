//! Paths in JSON: a text, or what the system has where it is none, as a file's name may be any bytes.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Kept {
    Text(String),
    Other(OsString),
}

impl From<&Path> for Kept {
    fn from(path: &Path) -> Kept {
        match path.to_str() {
            Some(text) => Kept::Text(text.into()),
            None => Kept::Other(path.into()),
        }
    }
}

impl From<Kept> for PathBuf {
    fn from(kept: Kept) -> PathBuf {
        match kept {
            Kept::Text(text) => text.into(),
            Kept::Other(name) => name.into(),
        }
    }
}

/// Writes a path.
///
/// # Errors
/// The serializer's.
pub fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    Kept::from(path).serialize(to)
}

/// Reads a path.
///
/// # Errors
/// The deserializer's.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
    Kept::deserialize(from).map(PathBuf::from)
}

/// Lists of paths.
pub mod list {
    use super::{Deserialize, Deserializer, Kept, PathBuf, Serializer};

    /// Writes paths.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(paths: &[PathBuf], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(paths.iter().map(|path| Kept::from(path.as_path())))
    }

    /// Reads paths.
    ///
    /// # Errors
    /// The deserializer's.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<PathBuf>, D::Error> {
        Ok(Vec::<Kept>::deserialize(from)?.into_iter().map(PathBuf::from).collect())
    }
}
