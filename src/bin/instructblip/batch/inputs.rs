//! The rows of a job: what the names on the command line stand for.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Result;
use instructblip::Error;
use instructblip::jobs::Input;

use crate::files::{check_source, read_lines, unwritable};
use crate::inputs::expand;

/// The rows that the names stand for.
///
/// # Errors
/// [`Error::Request`] for names that do not go together or stand for nothing, [`Error::Io`].
pub fn input(names: &[PathBuf]) -> Result<Input> {
    let refuse = |problem: &str| Err(Error::Request { problem: problem.into() }.into());
    let ending = |path: &Path| path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let is_folder = |path: &PathBuf| path.is_dir();
    let kinds: Vec<String> = names.iter().map(|name| ending(name)).collect();
    let is_lines = |kind: &String| ["jsonl", "ndjson", "json"].contains(&kind.as_str());
    match names {
        [only] if !is_folder(only) && is_lines(&kinds[0]) => {
            check_source(only)?;
            let folder = only.parent().unwrap_or(Path::new("")).to_path_buf();
            Ok(Input::Lines { path: only.clone(), folder })
        }
        [only] if !is_folder(only) && kinds[0] == "txt" => listed(only),
        _ if kinds.iter().all(|kind| kind == "tar") && !names.iter().any(is_folder) => {
            names.iter().try_for_each(|name| check_source(name))?;
            Ok(Input::Archives(names.to_vec()))
        }
        _ if kinds.iter().zip(names).any(|(kind, name)| !is_folder(name) && (is_lines(kind) || kind == "tar")) => {
            refuse("give one JSONL file, or tar files, or pictures and folders, not some of each")
        }
        _ => pictures(names),
    }
}

/// Picture files and those in folders. An id is the path as it was given; in one folder, the path from there.
fn pictures(names: &[PathBuf]) -> Result<Input> {
    let within = match names {
        [only] if only.is_dir() => Some(only),
        _ => None,
    };
    let mut all = Vec::new();
    for name in names {
        for path in expand(name, true) {
            let path = path?;
            let shown = within.and_then(|folder| path.strip_prefix(folder).ok()).unwrap_or(&path);
            let id = shown.to_string_lossy().replace(std::path::MAIN_SEPARATOR, "/");
            all.push((id, path));
        }
    }
    Ok(Input::Pictures(all))
}

/// The pictures of a list: a path a line.
fn listed(list: &Path) -> Result<Input> {
    let folder = list.parent().unwrap_or(Path::new(""));
    let mut all = Vec::new();
    for line in read_lines(list)? {
        let line = String::from_utf8(line)
            .map_err(|_| Error::Request { problem: format!("{} is not UTF-8 text", list.display()) })?;
        let name = line.trim_end_matches('\r');
        if !name.trim().is_empty() {
            all.push((name.to_string(), folder.join(name)));
        }
    }
    Ok(Input::Pictures(all))
}

/// Standard input in a file, as a job goes through its rows more than once. Paths in it begin at the current folder. The
/// file goes when this is dropped.
pub struct Spooled {
    path: PathBuf,
}

impl Spooled {
    /// Reads standard input to its end, into a file beside the output.
    pub fn read(output: &Path) -> Result<Spooled> {
        let mut name = output.as_os_str().to_owned();
        name.push(format!(".stdin-{}", std::process::id()));
        let path = PathBuf::from(name);
        let copied = std::fs::File::create(&path)
            .and_then(|mut file| std::io::copy(&mut std::io::stdin().lock().by_ref(), &mut file));
        let spooled = Spooled { path };
        copied.map_err(|error| unwritable(&spooled.path, error))?;
        Ok(spooled)
    }

    /// The rows.
    pub fn input(&self) -> Input {
        Input::Lines { path: self.path.clone(), folder: PathBuf::new() }
    }
}

impl Drop for Spooled {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
