//! Pictures of folders, and the caption files beside them.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Ends of the names of picture files, in small letters. What is refused by its kind is a picture, too, and is told.
const EXTENSIONS: [&str; 18] = [
    "png", "apng", "jpg", "jpeg", "jpe", "jfif", "webp", "gif", "bmp", "dib", "tif", "tiff", "heic", "heif", "hif",
    "avif", "jxl", "jp2",
];

/// Largest caption file that is read, in bytes.
const MAX_CAPTION: u64 = 1 << 20;

/// The mark that some programs begin UTF-8 with.
const MARK: char = '\u{feff}';

/// The file that holds a picture's caption.
pub fn caption_path(picture: &Path) -> PathBuf {
    picture.with_extension("txt")
}

/// The caption that a file's text is: without the mark in front and the ends of lines behind.
pub fn caption_of(text: &str) -> &str {
    text.trim_start_matches(MARK).trim_end_matches(['\n', '\r'])
}

/// The pictures among files and in folders, those of folders sorted by name, each once, and what was wrong.
pub fn pictures(paths: &[PathBuf]) -> (Vec<PathBuf>, Vec<String>) {
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    for path in paths {
        match path.is_dir() {
            true => walk(path, &mut found, &mut problems),
            false if path.is_file() => found.push(path.clone()),
            false => problems.push(format!("{}: there is no such file or folder", path.display())),
        }
    }
    let mut seen = std::collections::HashSet::new();
    found.retain(|path| seen.insert(path.clone()));
    problems.extend(shared_files(&found));
    (found, problems)
}

/// The pictures in a folder and in those below it. Links to folders are not followed: they may lead back.
fn walk(folder: &Path, found: &mut Vec<PathBuf>, problems: &mut Vec<String>) {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) => return problems.push(format!("{}: cannot be looked into ({e})", folder.display())),
    };
    let mut entries: Vec<_> = entries.flatten().collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    let mut folders = Vec::new();
    for entry in entries {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => folders.push(path),
            Ok(_) if is_picture(&path) && path.is_file() => found.push(path),
            _ => {}
        }
    }
    folders.iter().for_each(|folder| walk(folder, found, problems));
}

fn is_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
    extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str()))
}

/// Tells of pictures whose captions would be in one file.
fn shared_files(pictures: &[PathBuf]) -> Vec<String> {
    let mut first: HashMap<PathBuf, &PathBuf> = HashMap::new();
    let mut told = Vec::new();
    for picture in pictures {
        if let Some(other) = first.insert(caption_path(picture), picture) {
            let (other, file) = (other.display(), caption_path(picture));
            told.push(format!("{other} and {} share the caption file {}", picture.display(), file.display()));
        }
    }
    told
}

/// The text of a picture's caption file; `None` where there is none.
///
/// # Errors
/// A description of why it cannot be read, for people.
pub fn read(picture: &Path) -> Result<Option<String>, String> {
    let path = caption_path(picture);
    let told = |problem: &str| format!("{}: {problem}", path.display());
    let size = match std::fs::metadata(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(told(&format!("cannot be read ({e})"))),
        Ok(metadata) if !metadata.is_file() => return Err(told("is no regular file, so there is no caption in it")),
        Ok(metadata) => metadata.len(),
    };
    if size > MAX_CAPTION {
        return Err(told(&format!("has {size} bytes, captions have at most {MAX_CAPTION}; it is left alone")));
    }
    let bytes = std::fs::read(&path).map_err(|e| told(&format!("cannot be read ({e})")))?;
    String::from_utf8(bytes).map(Some).map_err(|_| told("is not UTF-8 text; it is left alone, save it as UTF-8"))
}

/// The outcome of saving a caption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Saved {
    /// The file has the caption now: this text, or none where the file went away.
    Written(Option<String>),
    /// The file has a text that this program neither read nor wrote, and was left as it is.
    Foreign(String),
}

/// Puts a caption into its file, at once or not at all. `known` is the file's text as it was read or written last:
/// where it has another, it is left alone. An empty caption removes the file.
///
/// # Errors
/// A description of why it cannot be written, for people.
pub fn save(picture: &Path, caption: &str, known: Option<&str>) -> Result<Saved, String> {
    let there = read(picture)?;
    if there.as_deref() != known && there.as_deref().map(caption_of) != Some(caption) {
        // A file that went away is no reason to lose the caption.
        if let Some(foreign) = there {
            return Ok(Saved::Foreign(foreign));
        }
    }
    overwrite(picture, caption)
}

/// Puts a caption into its file, whatever is there.
///
/// # Errors
/// As [`save`].
pub fn overwrite(picture: &Path, caption: &str) -> Result<Saved, String> {
    let path = caption_path(picture);
    if caption.is_empty() {
        return match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(format!("{}: cannot be removed ({e})", path.display()))
            }
            _ => Ok(Saved::Written(None)),
        };
    }
    write_at_once(&path, caption.as_bytes())?;
    Ok(Saved::Written(Some(caption.into())))
}

/// Writes beside the target and renames: nobody sees half a file, whatever ends the program.
///
/// # Errors
/// A description of why it cannot be written, for people.
pub fn write_at_once(path: &Path, bytes: &[u8]) -> Result<(), String> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    // A name of its own: the file's with an end may be longer than the system takes.
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let unfinished = path.with_file_name(format!(".{}-{count}.unfinished", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(&unfinished)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        drop(file);
        std::fs::rename(&unfinished, path)
    };
    write().map_err(|e| {
        let _ = std::fs::remove_file(&unfinished);
        format!("{}: cannot be written ({e}); make room, or choose a folder that can be written to", path.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_give_their_pictures_in_order_and_each_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("below")).expect("a folder");
        for name in ["b.PNG", "a.jpg", "notes.md", "below/c.webp", "a.png"] {
            std::fs::write(at(name), "x").expect("written");
        }
        let (found, problems) = pictures(&[folder.path().into(), at("a.jpg"), at("gone")]);
        assert_eq!(found, [at("a.jpg"), at("a.png"), at("b.PNG"), at("below/c.webp")]);
        assert!(problems[0].contains("no such file") && problems[1].contains("share the caption file"), "{problems:?}");
    }

    #[test]
    fn foreign_captions_are_never_written_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let picture = folder.path().join("a.png");
        let text = || std::fs::read_to_string(caption_path(&picture)).ok();
        assert_eq!(save(&picture, "a cat", None), Ok(Saved::Written(Some("a cat".into()))));
        assert_eq!(save(&picture, "a dog", None), Ok(Saved::Foreign("a cat".into())), "nobody read it");
        assert_eq!(save(&picture, "a dog", Some("a cat")), Ok(Saved::Written(Some("a dog".into()))));
        std::fs::write(caption_path(&picture), "somebody's\n").expect("written");
        assert_eq!(save(&picture, "a bird", Some("a dog")), Ok(Saved::Foreign("somebody's\n".into())));
        assert_eq!(text().as_deref(), Some("somebody's\n"));
        assert_eq!(save(&picture, "somebody's", Some("a dog")), Ok(Saved::Written(Some("somebody's".into()))));
        assert_eq!(save(&picture, "", Some("somebody's")), Ok(Saved::Written(None)));
        assert_eq!(text(), None);
        std::fs::write(caption_path(&picture), b"\xff\xfe\0").expect("written");
        assert!(save(&picture, "a bird", None).is_err_and(|e| e.contains("UTF-8")));
        let left: Vec<_> = std::fs::read_dir(folder.path()).expect("a folder").collect();
        assert_eq!(left.len(), 1, "nothing unfinished is left");
    }

    #[test]
    fn the_longest_names_have_captions() {
        let folder = tempfile::tempdir().expect("a folder");
        let picture = folder.path().join(format!("{}.png", "x".repeat(251)));
        assert_eq!(save(&picture, "a cat", None), Ok(Saved::Written(Some("a cat".into()))));
    }

    #[test]
    fn captions_are_texts_without_marks_and_ends_of_lines() {
        assert_eq!(caption_of("\u{feff}a cat, é\r\n\n"), "a cat, é");
        let problem = write_at_once(Path::new("/nonexistent/a.txt"), b"x").expect_err("no such folder");
        assert!(problem.starts_with("/nonexistent/a.txt: cannot be written"), "{problem}");
    }
}
