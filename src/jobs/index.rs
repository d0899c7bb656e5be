//! An index of lines: for each row, by a hash of its id, the place of its line. Sixteen bytes a line, and nothing of the
//! lines themselves.
//!
//! Hashes have 64 bits. Two of a million ids share one once in 37 million jobs, two of a hundred million once in 3,700
//! (the square of their number over 2^65). That is no row lost: both are in one input, so the later one is told as a row
//! with the id of an earlier one, and the job is refused before it begins.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::path::PathBuf;

use crate::error::{Error, Result};

/// Bits of an entry that whoever keeps the index may set.
const MARKS: u32 = 2;

/// The place of a row's line.
struct Entry {
    hash: u64,
    /// The offset of the line, and behind it the marks.
    place: u64,
}

/// The places of lines.
#[derive(Default)]
pub struct Index(Vec<Entry>);

impl Index {
    /// Adds the line that begins at `offset`. Before lines are looked for, they are put in order.
    pub fn add(&mut self, hash: u64, offset: u64, marks: u64) {
        self.0.push(Entry { hash, place: offset << MARKS | marks });
    }

    /// Puts the lines in order and leaves of each row the first. Gives the hashes of rows that had several.
    pub fn sort(&mut self) -> Vec<u64> {
        self.0.sort_unstable_by_key(|entry| (entry.hash, entry.place));
        let mut doubled = Vec::new();
        self.0.dedup_by(|later, first| {
            let is_same = later.hash == first.hash;
            doubled.extend(is_same.then_some(later.hash));
            is_same
        });
        doubled
    }

    /// The number of a row's line.
    pub fn find(&self, hash: u64) -> Option<usize> {
        self.0.binary_search_by_key(&hash, |entry| entry.hash).ok()
    }

    /// The offset of a line.
    pub fn offset(&self, line: usize) -> u64 {
        self.0[line].place >> MARKS
    }

    /// True if a line has a mark.
    pub fn has(&self, line: usize, mark: u64) -> bool {
        self.0[line].place & mark > 0
    }

    /// Gives a line a mark.
    pub fn mark(&mut self, line: usize, mark: u64) {
        self.0[line].place |= mark;
    }

    /// Number of lines.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// Outputs whose lines are read wherever they are, counted as if one followed the other.
pub struct Outputs<'a> {
    /// Each with the offset at which it begins.
    files: Vec<(&'a PathBuf, u64, BufReader<File>)>,
    line: Vec<u8>,
}

impl<'a> Outputs<'a> {
    /// Opens outputs.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(paths: &'a [PathBuf]) -> Result<Outputs<'a>> {
        let (mut files, mut begin) = (Vec::new(), 0);
        for path in paths {
            let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
            let (bytes, file) = opened.map_err(|error| Error::io(path, error))?;
            files.push((path, begin, BufReader::new(file)));
            begin += bytes;
        }
        Ok(Outputs { files, line: Vec::new() })
    }

    /// The line that begins at `offset`, with its end.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn line(&mut self, offset: u64) -> Result<&[u8]> {
        let file = self.files.partition_point(|(_, begin, _)| *begin <= offset).saturating_sub(1);
        let (path, begin, reader) = &mut self.files[file];
        self.line.clear();
        let read = seek(reader, offset - *begin).and_then(|()| reader.read_until(b'\n', &mut self.line));
        read.map_err(|error| Error::io(path.as_path(), error))?;
        Ok(&self.line)
    }
}

/// Goes to an offset. Lines mostly follow each other: what was read ahead stays.
fn seek(reader: &mut BufReader<File>, offset: u64) -> io::Result<()> {
    let here = reader.stream_position()?;
    match offset.checked_sub(here) {
        Some(ahead) => reader.seek_relative(ahead as i64),
        None => reader.seek(SeekFrom::Start(offset)).map(drop),
    }
}
