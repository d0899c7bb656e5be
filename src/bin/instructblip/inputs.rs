//! Runs over many inputs: which pictures are meant, and what becomes of the bad ones.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use instructblip::Error;
use walkdir::WalkDir;

use crate::common::Common;
use crate::progress::Progress;
use crate::wording::in_words;

/// Ends of the names of picture files, in small letters. What is refused by its kind is a picture, too, and is told.
const EXTENSIONS: [&str; 18] = [
    "png", "apng", "jpg", "jpeg", "jpe", "jfif", "webp", "gif", "bmp", "dib", "tif", "tiff", "heic", "heif", "hif",
    "avif", "jxl", "jp2",
];

/// The pictures of a run.
#[derive(Args, Debug)]
pub struct Pictures {
    /// The pictures: files, or folders for the picture files in them, sorted by name
    #[arg(required = true, value_name = "IMAGE|FOLDER")]
    pub images: Vec<PathBuf>,
    /// Look into the folders of folders, too
    #[arg(long, short)]
    pub recursive: bool,
    /// Stop at the first picture that cannot be used, instead of telling of it and going on
    #[arg(long)]
    pub strict: bool,
}

impl Pictures {
    /// The files that are meant and exist; the others are reported and skipped.
    ///
    /// # Errors
    /// The first problem with `strict` or with one picture alone, and [`Error::Request`] when nothing is left.
    pub fn files(&self, common: &Common) -> Result<(Vec<PathBuf>, Skipped)> {
        let mut skipped = Skipped::new(common, "picture", self.strict);
        let mut files = Vec::new();
        for argument in &self.images {
            for found in expand(argument, self.recursive) {
                match found.and_then(|path| is_there(&path).map(|()| path)) {
                    Ok(path) => files.push(path),
                    Err(error) if self.is_one() => return Err(error.into()),
                    Err(error) => skipped.add(error.into(), &Progress::Quiet)?,
                }
            }
        }
        // What one picture's problem is says it all.
        skipped.strict |= self.is_one();
        match files.is_empty() {
            true => Err(skipped.nothing_left()),
            false => Ok((files, skipped)),
        }
    }

    /// True if one file is asked for, by its name.
    pub fn is_one(&self) -> bool {
        matches!(self.images.as_slice(), [only] if !only.is_dir() && !is_pattern(only))
    }
}

/// Inputs that could not be used: told at once, counted, and said again at the end.
pub struct Skipped {
    what: &'static str,
    strict: bool,
    label: String,
    count: usize,
}

impl Skipped {
    /// A count of none so far. `what` is the name of one input; `strict` ends the run at the first.
    pub fn new(common: &Common, what: &'static str, strict: bool) -> Skipped {
        Skipped { what, strict, label: common.paint("skipped:", "33;1"), count: 0 }
    }

    /// Tells of one, also where notes are not wanted: a row that is missing must not go unnoticed.
    ///
    /// # Errors
    /// The problem itself where the run is strict.
    pub fn add(&mut self, problem: anyhow::Error, progress: &Progress) -> Result<()> {
        if self.strict {
            return Err(problem);
        }
        self.count += 1;
        progress.tell(&format!("{} {}", self.label, in_words(&problem)));
        Ok(())
    }

    /// Tells of a picture that could not be used.
    ///
    /// # Errors
    /// The problem itself where the run is strict, or where it is not the picture's.
    pub fn add_picture(&mut self, path: &Path, problem: Error, progress: &Progress) -> Result<()> {
        match problem {
            Error::Image { .. } | Error::ImageTooLarge { .. } | Error::Io { .. } => self.add(problem.into(), progress),
            Error::NotFinite { .. } => {
                self.add(anyhow::Error::from(problem).context(path.display().to_string()), progress)
            }
            other => Err(other.into()),
        }
    }

    /// The number of them.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The end of a run that used `used` inputs.
    ///
    /// # Errors
    /// [`Error::Request`] with the count if any was skipped.
    pub fn verdict(&self, used: usize) -> Result<()> {
        match (self.count, used) {
            (0, _) => Ok(()),
            (_, 0) => Err(self.nothing_left()),
            (skipped, _) => {
                let (all, what) = (skipped + used, self.what);
                let were = if skipped == 1 { "was" } else { "were" };
                Err(Error::Request { problem: format!("{skipped} of {all} {what}s {were} skipped") }.into())
            }
        }
    }

    /// The error of a run that has nothing to do.
    pub fn nothing_left(&self) -> anyhow::Error {
        let what = self.what;
        let problem = match self.count {
            0 => format!("there is no {what}"),
            1 => format!("the only {what} was skipped"),
            count => format!("all {count} {what}s were skipped"),
        };
        Error::Request { problem }.into()
    }
}

/// The files that an argument names. Patterns are for Windows, whose shells leave them to programs; elsewhere what arrives
/// here is a pattern in quotes, which may stand for more names than a command line holds.
pub fn expand(argument: &Path, recursive: bool) -> Vec<instructblip::Result<PathBuf>> {
    if argument.is_dir() {
        return in_folder(argument, recursive);
    }
    match is_pattern(argument) {
        true => matching(argument),
        false => vec![Ok(argument.to_path_buf())],
    }
}

/// True if this is a pattern of names and not a file that is called so.
fn is_pattern(argument: &Path) -> bool {
    argument.to_str().is_some_and(|text| text.contains(['*', '?', '['])) && !argument.exists()
}

/// The files that match a pattern, sorted by name.
fn matching(pattern: &Path) -> Vec<instructblip::Result<PathBuf>> {
    let refused = |problem: String| vec![Err(Error::Request { problem: format!("{}: {problem}", pattern.display()) })];
    let options = glob::MatchOptions {
        case_sensitive: !cfg!(windows),
        require_literal_separator: true,
        require_literal_leading_dot: true,
    };
    // Written as the paths that are found: a folder's name may be followed by several slashes.
    let plain: PathBuf = pattern.components().collect();
    let names = match glob::Pattern::new(&plain.to_string_lossy()) {
        Ok(names) => names,
        Err(error) => return refused(format!("is no file, and no pattern of names: {}", error.msg)),
    };
    // The folders in front of the first part that is a pattern are walked, as deep as the pattern goes. The glob crate's
    // own walk ends the program at a name that is not UTF-8.
    let is_plain = |part: &std::path::Component<'_>| !part.as_os_str().to_string_lossy().contains(['*', '?', '[']);
    let folder: PathBuf = pattern.components().take_while(is_plain).collect();
    let deep = pattern.components().any(|part| part.as_os_str() == "**");
    let depth = if deep { usize::MAX } else { pattern.components().skip_while(is_plain).count() };
    let start = if folder.as_os_str().is_empty() { Path::new(".") } else { &folder };
    let walk = WalkDir::new(start).min_depth(1).max_depth(depth).follow_links(true).sort_by_file_name();
    let named = |path: &Path| names.matches_with(&path.to_string_lossy(), options);
    let found = walk.into_iter().filter_map(|entry| match entry {
        Ok(entry) => {
            let path = folder.join(entry.path().strip_prefix(start).unwrap_or(entry.path()));
            named(&path).then_some(Ok(path))
        }
        // What cannot be read is told where it was meant.
        Err(error) => {
            let path = error.path().unwrap_or(start).to_path_buf();
            (named(&path) || path == start).then(|| Err(Error::Io { path, source: error.into() }))
        }
    });
    let found: Vec<_> = found.collect();
    if found.is_empty() { refused("no file has such a name".into()) } else { found }
}

/// The picture files in a folder, by their names, sorted; those in its folders after that where they are wanted.
fn in_folder(folder: &Path, recursive: bool) -> Vec<instructblip::Result<PathBuf>> {
    let depth = if recursive { usize::MAX } else { 1 };
    let hidden = |entry: &walkdir::DirEntry| entry.depth() > 0 && entry.file_name().to_string_lossy().starts_with('.');
    let walk = WalkDir::new(folder).max_depth(depth).sort_by_file_name().into_iter();
    let found = walk.filter_entry(|entry| !hidden(entry)).filter_map(|entry| match entry {
        Ok(entry) if !entry.path().is_dir() && is_named_as_picture(entry.path()) => Some(Ok(entry.into_path())),
        Ok(_) => None,
        Err(error) => {
            let path = error.path().unwrap_or(folder).to_path_buf();
            Some(Err(Error::Io { path, source: error.into() }))
        }
    });
    let found: Vec<_> = found.collect();
    if found.is_empty() {
        let more = if recursive { "" } else { "; --recursive looks into its folders, too" };
        return vec![Err(Error::Request { problem: format!("{}: no picture files are here{more}", folder.display()) })];
    }
    found
}

/// True if a file's name ends as those of pictures do.
pub fn is_named_as_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(extension))
}

/// Refuses, before a model is loaded, a picture that does not exist. Standard input exists.
pub fn is_there(path: &Path) -> instructblip::Result<()> {
    if path == Path::new("-") {
        return Ok(());
    }
    std::fs::metadata(path).map(drop).map_err(|source| Error::Io { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(folder.path().join("b/deep")).expect("made");
        std::fs::create_dir(folder.path().join("folder.png")).expect("made");
        for name in ["c.png", "a.JPG", "notes.txt", ".hidden.png", "._a.jpg", "b/d.webp", "b/deep/e.tif", "x[1].png"] {
            std::fs::write(folder.path().join(name), "").expect("written");
        }
        folder
    }

    fn names(root: &Path, found: Vec<instructblip::Result<PathBuf>>) -> Vec<String> {
        let name = |path: PathBuf| path.strip_prefix(root).expect("inside").to_string_lossy().replace('\\', "/");
        found.into_iter().map(|path| path.map_or_else(|error| error.to_string(), name)).collect()
    }

    #[test]
    fn folders_stand_for_their_picture_files_in_order() {
        let folder = folder();
        let of = |recursive| names(folder.path(), expand(folder.path(), recursive));
        assert_eq!(of(false), ["a.JPG", "c.png", "x[1].png"]);
        assert_eq!(of(true), ["a.JPG", "b/d.webp", "b/deep/e.tif", "c.png", "x[1].png"]);
        let none = &expand(&folder.path().join("folder.png"), false)[0];
        assert!(none.as_ref().is_err_and(|e| e.to_string().contains("--recursive")), "{none:?}");
    }

    #[test]
    fn patterns_are_expanded_where_no_file_is_called_so() {
        let folder = folder();
        let of = |pattern: &str| names(folder.path(), expand(&folder.path().join(pattern), false));
        assert_eq!(of("*.png"), ["c.png", "folder.png", "x[1].png"]);
        assert_eq!(of("?.png"), ["c.png"]);
        assert_eq!(of("b/*"), ["b/d.webp", "b/deep"]);
        assert_eq!(of("b//*"), of("b/*"));
        assert_eq!(of("x[1].png"), ["x[1].png"], "a file");
        assert!(of("*.gif")[0].contains("no file has such a name"), "{:?}", of("*.gif"));
        assert!(of("[.gif")[0].contains("no pattern"), "{:?}", of("[.gif"));
        assert_eq!(of("none.png"), ["none.png"], "what is wrong with it is told by who opens it");
    }
}
