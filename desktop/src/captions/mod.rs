//! The captions of a folder: pictures, their texts and files, every change and how it is taken back. Nothing here knows
//! windows or models.
//!
//! ```text
//! files     pictures in folders, caption files, written at once or not at all
//! tags      captions as lists of tags, counted and changed
//! search    filters, find and replace
//! paths     paths in JSON
//! prompt    how the model is asked, and what becomes of old captions
//! journal   a job's pictures and captions on disk, from which an interrupted one goes on
//! export    all captions in one file
//! ```

pub mod export;
pub mod files;
pub mod journal;
pub mod paths;
pub mod prompt;
pub mod search;
pub mod tags;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use self::tags::Counts;

/// A picture and its caption.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The picture's file.
    pub picture: PathBuf,
    /// The name that is shown: its path in the folder.
    pub name: String,
    /// The caption; empty if there is none.
    pub caption: String,
    /// The text of the caption file as it was read or written last.
    pub disk: Option<String>,
}

impl Entry {
    /// A picture without a caption.
    pub fn new(picture: PathBuf, name: String) -> Entry {
        Entry { picture, name, ..Entry::default() }
    }

    /// True if the file has the caption.
    pub fn is_saved(&self) -> bool {
        self.disk.as_deref().map_or("", files::caption_of) == self.caption
    }
}

/// A change to one caption.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Change {
    index: usize,
    before: String,
    after: String,
}

/// Changes that are taken back together.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Edit {
    name: String,
    kind: Kind,
    changes: Vec<Change>,
}

/// The origin of an edit, by which later changes may join it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Changes of one moment.
    Whole,
    /// Letters typed into one caption.
    Typed(usize),
    /// Captions of a job, as they come.
    Job(u64),
}

/// Pictures with their captions.
#[derive(Debug, Default)]
pub struct Document {
    /// The folder or the files that were opened.
    pub sources: Vec<PathBuf>,
    entries: Vec<Entry>,
    by_path: HashMap<PathBuf, usize>,
    counts: Counts,
    undo: Vec<Edit>,
    redo: Vec<Edit>,
    version: u64,
}

impl Document {
    /// Looks into folders and reads captions: for a thread of its own. What could not be read is told beside it.
    pub fn open(sources: Vec<PathBuf>) -> (Document, Vec<String>) {
        let (pictures, mut problems) = files::pictures(&sources);
        let root = sources.first().filter(|root| sources.len() == 1 && root.is_dir()).cloned();
        let mut document = Document { sources, version: 1, ..Document::default() };
        for picture in pictures {
            let shown = root.as_deref().and_then(|root| picture.strip_prefix(root).ok());
            let shown = shown.or_else(|| picture.file_name().map(Path::new)).unwrap_or(&picture);
            let disk = files::read(&picture).unwrap_or_else(|problem| {
                problems.push(problem);
                None
            });
            let caption = disk.as_deref().map(files::caption_of).unwrap_or_default().to_string();
            document.counts.add(&caption);
            document.by_path.insert(picture.clone(), document.entries.len());
            document.entries.push(Entry { caption, disk, ..Entry::new(picture.clone(), shown.display().to_string()) });
        }
        (document, problems)
    }

    /// All pictures.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The number of a picture.
    pub fn find(&self, picture: &Path) -> Option<usize> {
        self.by_path.get(picture).copied()
    }

    /// A number that grows with every change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The number of captions that have each tag.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Numbers of the pictures whose caption is not in its file.
    pub fn unsaved(&self) -> Vec<usize> {
        (0..self.entries.len()).filter(|&i| !self.entries[i].is_saved()).collect()
    }

    /// Changes captions, which [`Document::undo`] takes back together. Tells how many are others than before.
    pub fn change(&mut self, name: &str, captions: impl IntoIterator<Item = (usize, String)>) -> usize {
        let changes = self.changes(captions);
        let count = changes.len();
        self.apply(name, Kind::Whole, changes);
        count
    }

    /// Changes a caption as it is typed: what is typed into one is taken back together.
    pub fn type_into(&mut self, index: usize, caption: String) {
        let changes = self.changes([(index, caption)]);
        let name = format!("edit of {}", self.entries[index].name);
        self.apply(&name, Kind::Typed(index), changes);
    }

    /// Ends the typing: what is typed next is taken back by itself.
    pub fn end_typing(&mut self) {
        if let Some(edit) = self.undo.last_mut().filter(|edit| matches!(edit.kind, Kind::Typed(_))) {
            edit.kind = Kind::Whole;
        }
    }

    /// Takes a caption of a job, whose captions are taken back together, and the text that its file has.
    pub fn take_from_job(&mut self, job: u64, picture: &Path, caption: String, disk: Option<String>) {
        let Some(index) = self.find(picture) else { return };
        let changes = self.changes([(index, caption)]);
        self.apply("captions by the model", Kind::Job(job), changes);
        self.note_disk(index, disk);
    }

    /// Notes the text that a caption file has.
    pub fn note_disk(&mut self, index: usize, disk: Option<String>) {
        self.entries[index].disk = disk;
        self.version += 1;
    }

    fn changes(&self, captions: impl IntoIterator<Item = (usize, String)>) -> Vec<Change> {
        let change = |(index, after): (usize, String)| {
            let before = self.entries.get(index)?.caption.clone();
            (before != after).then_some(Change { index, before, after })
        };
        captions.into_iter().filter_map(change).collect()
    }

    fn apply(&mut self, name: &str, kind: Kind, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        changes.iter().for_each(|change| self.put(change.index, &change.after));
        self.redo.clear();
        let joins = |edit: &&mut Edit| edit.kind == kind && kind != Kind::Whole;
        // Captions of a job come between other edits; what is typed follows itself.
        let open = match kind {
            Kind::Job(_) => self.undo.iter_mut().rev().find(joins),
            _ => self.undo.last_mut().filter(joins),
        };
        match (open, changes.as_slice()) {
            (Some(edit), [Change { after, .. }]) if matches!(kind, Kind::Typed(_)) => {
                edit.changes[0].after.clone_from(after);
            }
            (Some(edit), _) => edit.changes.extend(changes),
            (None, _) => self.undo.push(Edit { name: name.into(), kind, changes }),
        }
    }

    fn put(&mut self, index: usize, caption: &str) {
        let entry = &mut self.entries[index];
        self.counts.remove(&entry.caption);
        entry.caption = caption.into();
        self.counts.add(caption);
        self.version += 1;
    }

    /// The edit that [`Document::undo`] takes back.
    pub fn undo_name(&self) -> Option<&str> {
        self.undo.last().map(|edit| edit.name.as_str())
    }

    /// The edit that [`Document::redo`] makes again.
    pub fn redo_name(&self) -> Option<&str> {
        self.redo.last().map(|edit| edit.name.as_str())
    }

    /// Takes the last edit back; a caption that has changed since stays. The caption's file keeps what it has until it
    /// is saved.
    pub fn undo(&mut self) {
        let Some(mut edit) = self.undo.pop() else { return };
        for change in edit.changes.iter().rev() {
            if self.entries[change.index].caption == change.after {
                self.put(change.index, &change.before);
            }
        }
        edit.kind = Kind::Whole;
        self.redo.push(edit);
    }

    /// Makes the edit again that was taken back last.
    pub fn redo(&mut self) {
        let Some(edit) = self.redo.pop() else { return };
        for change in &edit.changes {
            if self.entries[change.index].caption == change.before {
                self.put(change.index, &change.after);
            }
        }
        self.undo.push(edit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(captions: &[&str]) -> (tempfile::TempDir, Document) {
        let folder = tempfile::tempdir().expect("a folder");
        for (i, caption) in captions.iter().enumerate() {
            let picture = folder.path().join(format!("{i}.png"));
            std::fs::write(&picture, "x").expect("written");
            if !caption.is_empty() {
                std::fs::write(files::caption_path(&picture), caption).expect("written");
            }
        }
        let (document, problems) = Document::open(vec![folder.path().into()]);
        assert_eq!(problems, [] as [String; 0]);
        (folder, document)
    }

    fn captions(document: &Document) -> Vec<&str> {
        document.entries().iter().map(|entry| entry.caption.as_str()).collect()
    }

    #[test]
    fn captions_are_read_and_known_to_be_saved() {
        let (folder, mut document) = document(&["a cat\n", ""]);
        assert_eq!(captions(&document), ["a cat", ""]);
        assert_eq!(document.entries()[0].name, "0.png");
        assert_eq!(document.unsaved(), [] as [usize; 0]);
        document.change("edit", [(1, "a dog".into()), (0, "a cat".into())]);
        assert_eq!(document.unsaved(), [1]);
        assert_eq!(document.find(&folder.path().join("1.png")), Some(1));
        assert_eq!((document.counts().of("a cat"), document.counts().of("a dog")), (1, 1));
    }

    #[test]
    fn edits_are_taken_back_and_made_again() {
        let (_folder, mut document) = document(&["a", "b", "c"]);
        assert_eq!(document.change("find", [(0, "x".into()), (1, "b".into()), (2, "z".into())]), 2);
        for text in ["b1", "b12", "b123"] {
            document.type_into(1, text.into());
        }
        assert_eq!(captions(&document), ["x", "b123", "z"]);
        assert_eq!(document.undo_name(), Some("edit of 1.png"));
        document.undo();
        assert_eq!(captions(&document), ["x", "b", "z"]);
        document.undo();
        assert_eq!(captions(&document), ["a", "b", "c"]);
        document.undo();
        (0..3).for_each(|_| document.redo());
        assert_eq!(captions(&document), ["x", "b123", "z"]);
        document.end_typing();
        document.type_into(1, "new".into());
        document.undo();
        assert_eq!(captions(&document), ["x", "b123", "z"]);
        document.change("other", [(0, "y".into())]);
        assert_eq!(document.redo_name(), None);
    }

    #[test]
    fn a_jobs_captions_are_taken_back_together_and_later_edits_stay() {
        let (folder, mut document) = document(&["", "", ""]);
        let at = |i: usize| folder.path().join(format!("{i}.png"));
        document.take_from_job(7, &at(0), "one".into(), Some("one".into()));
        document.type_into(0, "mine".into());
        document.take_from_job(7, &at(1), "two".into(), Some("two".into()));
        document.take_from_job(7, Path::new("gone.png"), "three".into(), None);
        assert_eq!(document.undo_name(), Some("edit of 0.png"));
        document.undo();
        assert_eq!(captions(&document), ["one", "two", ""]);
        document.redo();
        document.end_typing();
        document.undo();
        document.undo();
        assert_eq!(captions(&document), ["", "", ""]);
        assert_eq!(document.unsaved(), [0, 1], "files keep what they have");
    }
}
