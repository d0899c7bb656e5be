//! Sources of rows: a file of lines, pictures, archives. Each can be gone through again, and none is held in memory.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::archive;
use super::row::{Defaults, Each, Id, MAX_LINE_BYTES, Row};
use crate::error::{Error, Result};

/// The rows of a job.
#[derive(Clone, Debug)]
pub enum Input {
    /// A file of lines, a JSON object each. Relative paths in it begin at `folder`.
    Lines {
        /// The file.
        path: PathBuf,
        /// The folder that paths begin at.
        folder: PathBuf,
    },
    /// Picture files with the ids of their rows.
    Pictures(Vec<(String, PathBuf)>),
    /// Archives in the layout of WebDataset.
    Archives(Vec<PathBuf>),
}

impl Input {
    /// Goes through the rows in order. Pictures inside of an archive are read where `wanted` says so of their row.
    ///
    /// # Errors
    /// [`Error::Io`] where the input cannot be read, and whatever `each` gives. Bad rows are rows.
    pub fn each(&self, defaults: &Defaults, wanted: &dyn Fn(&Id) -> bool, each: Each<'_>) -> Result<()> {
        match self {
            Input::Lines { path, folder } => each_line(path, folder, defaults, each),
            Input::Pictures(pictures) => {
                for (id, path) in pictures {
                    if each(Row::picture(id, path, defaults))?.is_break() {
                        break;
                    }
                }
                Ok(())
            }
            Input::Archives(paths) => {
                for path in paths {
                    if archive::each(path, defaults, wanted, each)?.is_break() {
                        break;
                    }
                }
                Ok(())
            }
        }
    }
}

fn each_line(path: &Path, folder: &Path, defaults: &Defaults, each: Each<'_>) -> Result<()> {
    let failed = |source| Error::io(path, source);
    let mut lines = Lines::new(BufReader::with_capacity(1 << 16, File::open(path).map_err(failed)?));
    while let Some((number, line)) = lines.next().map_err(failed)? {
        let row = match line {
            Ok(line) if line.trim_ascii().is_empty() => continue,
            Ok(line) => Row::parse(line, &place(number), folder, defaults),
            Err(TooLong) => Row::too_long(&place(number)),
        };
        if each(row)?.is_break() {
            break;
        }
    }
    Ok(())
}

/// The name of a line, which is the id of rows that have none.
pub fn place(number: u64) -> String {
    format!("line {number}")
}

/// Lines of a reader, none longer than rows may be.
pub struct Lines<R> {
    reader: R,
    line: Vec<u8>,
    number: u64,
}

/// A line with its number.
pub type Numbered<'a> = (u64, Result<&'a [u8], TooLong>);

/// A line that is longer than rows may be; it was skipped.
pub struct TooLong;

impl<R: BufRead> Lines<R> {
    /// The lines of `reader`.
    pub fn new(reader: R) -> Lines<R> {
        Lines { reader, line: Vec::new(), number: 0 }
    }

    /// The next line without its end, with its number from 1; `None` after the last.
    pub fn next(&mut self) -> io::Result<Option<Numbered<'_>>> {
        self.line.clear();
        let mut long = false;
        loop {
            let there = self.reader.fill_buf()?;
            if there.is_empty() {
                break;
            }
            let end = there.iter().position(|&byte| byte == b'\n');
            let bytes = &there[..end.unwrap_or(there.len())];
            long |= self.line.len() + bytes.len() > MAX_LINE_BYTES;
            if long {
                self.line.clear();
            } else {
                self.line.extend_from_slice(bytes);
            }
            let read = end.map_or(there.len(), |end| end + 1);
            self.reader.consume(read);
            if end.is_some() {
                return Ok(Some(self.last(long)));
            }
        }
        match self.line.is_empty() && !long {
            true => Ok(None),
            false => Ok(Some(self.last(long))),
        }
    }

    fn last(&mut self, long: bool) -> Numbered<'_> {
        self.number += 1;
        let mark: &[u8] = b"\xef\xbb\xbf";
        // Some programs begin UTF-8 with a mark.
        let line = self.line.strip_prefix(mark).filter(|_| self.number == 1).unwrap_or(&self.line);
        let line = if long { Err(TooLong) } else { Ok(line.strip_suffix(b"\r").unwrap_or(line)) };
        (self.number, line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_as_on_any_system() {
        let mut lines = Lines::new(BufReader::with_capacity(3, &b"\xef\xbb\xbfab\r\n\ncdefg"[..]));
        let mut all = Vec::new();
        while let Some((number, line)) = lines.next().expect("memory") {
            all.push((number, line.map_err(drop).expect("short").to_vec()));
        }
        assert_eq!(all, [(1, b"ab".to_vec()), (2, b"".to_vec()), (3, b"cdefg".to_vec())]);
    }
}
