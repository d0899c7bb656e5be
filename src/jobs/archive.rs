//! Archives in the layout of WebDataset: a tar file whose members of one name, but for what follows its first dot, are one
//! row: a picture, and where there are some a prompt (`.txt`) and other fields (`.json`).

use std::fs::File;
use std::io::{Read, Seek};
use std::ops::ControlFlow;
use std::path::Path;

use serde_json::{Map, Value};
use tar::Entry;

use super::row::{Defaults, Each, Given, Id, Row};
use crate::error::{Error, Result};

/// Ends of the names of pictures.
const PICTURES: [&str; 9] = ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "jfif"];
/// Bytes of a block: headers and contents begin at multiples of it, and a block of zeros ends the archive.
const BLOCK: u64 = 512;
/// Largest picture and largest text that are read.
const MOST_BYTES: [u64; 2] = [1 << 30, 1 << 20];

/// The members of one row so far.
#[derive(Default)]
struct Sample {
    key: String,
    picture: Option<Given>,
    fields: Map<String, Value>,
    problem: Option<String>,
}

/// Goes through the rows of an archive.
pub fn each(path: &Path, defaults: &Defaults, wanted: &dyn Fn(&Id) -> bool, each: Each<'_>) -> Result<ControlFlow<()>> {
    let failed = |source| Error::io(path, source);
    let file = File::open(path).map_err(failed)?;
    let have = file.metadata().map_err(failed)?.len();
    let mut archive = tar::Archive::new(file);
    let mut sample = Sample::default();
    let mut end = 0;
    for entry in archive.entries_with_seek().map_err(failed)? {
        let entry = entry.map_err(|_| Error::io(path, std::io::Error::other("is damaged, or no tar file")))?;
        end = entry.raw_file_position() + entry.size().next_multiple_of(BLOCK);
        check_whole(path, have, end)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let Some((key, ending)) = split(&name) else { continue };
        if key != sample.key {
            let before = std::mem::replace(&mut sample, Sample { key: key.into(), ..Sample::default() });
            if let Some(row) = before.into_row(defaults)
                && each(row)?.is_break()
            {
                return Ok(ControlFlow::Break(()));
            }
        }
        sample.take(&name, &ending.to_ascii_lowercase(), entry, wanted).map_err(failed)?;
    }
    // One that was cut between two members has lost the block of zeros behind the last.
    check_whole(path, have, end + BLOCK)?;
    sample.into_row(defaults).map_or(Ok(ControlFlow::Continue(())), each)
}

/// Refuses an archive of `have` bytes that ends before `end`.
fn check_whole(path: &Path, have: u64, end: u64) -> Result<()> {
    match have < end {
        true => {
            let problem = format!("ends early, after {have} bytes: it was cut, or is still being written");
            Err(Error::io(path, std::io::Error::other(problem)))
        }
        false => Ok(()),
    }
}

/// A member's key and ending: `a/0001.seg.png` is `seg.png` of `a/0001`. Hidden files are no members.
fn split(name: &str) -> Option<(&str, &str)> {
    let name = name.strip_prefix("./").unwrap_or(name);
    let file = name.rfind('/').map_or(0, |at| at + 1);
    let dot = file + name[file..].find('.').filter(|&at| at > 0)?;
    Some((&name[..dot], &name[dot + 1..]))
}

impl Sample {
    fn take<R: Read + Seek>(
        &mut self,
        name: &str,
        ending: &str,
        mut entry: Entry<'_, R>,
        wanted: &dyn Fn(&Id) -> bool,
    ) -> std::io::Result<()> {
        let size = entry.size();
        let is_picture = PICTURES.contains(&ending);
        if !is_picture && !["txt", "json"].contains(&ending) {
            return Ok(());
        }
        if size > MOST_BYTES[usize::from(!is_picture)] {
            self.problem = Some(format!("{name} has {size} bytes, which is too much"));
            return Ok(());
        }
        let mut bytes = Vec::new();
        if !is_picture || wanted(&Id::Text(self.key.clone())) {
            entry.read_to_end(&mut bytes)?;
        }
        match ending {
            "txt" => match String::from_utf8(bytes) {
                Ok(text) => drop(self.fields.insert("prompt".into(), text.trim().into())),
                Err(_) => self.problem = Some(format!("{name} is not UTF-8 text")),
            },
            "json" => match serde_json::from_slice(&bytes) {
                Ok(Value::Object(fields)) => self.fields.extend(fields),
                _ => self.problem = Some(format!("{name} is not a JSON object")),
            },
            _ => match &self.picture {
                Some(Given::Member { name: first, .. }) => {
                    self.problem = Some(format!("has two pictures, {first} and {name}; give each a name of its own"));
                }
                _ => self.picture = Some(Given::Member { name: name.into(), size, bytes }),
            },
        }
        Ok(())
    }

    fn into_row(self, defaults: &Defaults) -> Option<Row> {
        let Sample { key, picture, fields, problem } = self;
        if key.is_empty() {
            return None;
        }
        let mut row = Row::of(&key, picture.into_iter().collect(), &fields, defaults);
        if let Some(problem) = problem {
            row.asked = Err(super::Failure::new("row", problem));
        }
        Some(row)
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn members_are_told_by_their_first_dot() {
        assert_eq!(split("./a.b/0001.seg.png"), Some(("a.b/0001", "seg.png")));
        assert_eq!(split("0001.JPG"), Some(("0001", "JPG")));
        assert_eq!([split("a/.hidden"), split("README"), split("")], [None; 3]);
    }
}
