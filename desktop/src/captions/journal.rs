//! A captioning job on disk: which pictures, how, and every caption before it goes into its file. From it an
//! interrupted job goes on, and nothing is lost or asked twice.
//!
//! A program that runs holds a lock on its journal, so another one leaves it alone.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::prompt::CaptionOptions;
use super::{files, paths as as_text};

/// Jobs that may run at once, each of another window.
const MOST: usize = 32;

/// A job: the pictures and the way to caption them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// The folder or the files that were open.
    #[serde(with = "as_text::list")]
    pub sources: Vec<PathBuf>,
    /// The way to caption them.
    pub options: CaptionOptions,
    /// The pictures.
    #[serde(with = "as_text::list")]
    pub pictures: Vec<PathBuf>,
}

/// A picture that is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Done {
    #[serde(with = "as_text")]
    picture: PathBuf,
    /// The caption; none where there was an error.
    caption: Option<String>,
    /// The text that its file had before.
    over: Option<String>,
}

/// The journal of a job that runs.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
}

/// A job that was interrupted.
#[derive(Debug)]
pub struct Interrupted {
    journal: Journal,
    /// The job.
    pub job: Job,
    done: Vec<Done>,
}

impl Journal {
    /// Begins the journal of a job in a folder.
    ///
    /// # Errors
    /// A description of why it cannot be written, for people.
    pub fn begin(folder: &Path, job: &Job) -> Result<Journal, String> {
        std::fs::create_dir_all(folder).map_err(|e| format!("{}: cannot be made ({e})", folder.display()))?;
        let told = |path: &Path, e: std::io::Error| format!("{}: cannot be written ({e})", path.display());
        for path in paths(folder) {
            let file = open(&path).map_err(|e| told(&path, e))?;
            // One that another window holds, or that waits for somebody to go on with it, stays.
            let is_free = file.try_lock().is_ok() && file.metadata().is_ok_and(|metadata| metadata.len() == 0);
            if is_free {
                let mut journal = Journal { path, file };
                journal.line(job)?;
                return Ok(journal);
            }
        }
        Err(format!("{}: {MOST} jobs are unfinished; go on with one, or forget it", folder.display()))
    }

    /// Notes a caption before it goes into its file, over the text that is there.
    ///
    /// # Errors
    /// As [`Journal::begin`].
    pub fn note(&mut self, picture: &Path, caption: Option<&str>, over: Option<&str>) -> Result<(), String> {
        let done = Done { picture: picture.into(), caption: caption.map(Into::into), over: over.map(Into::into) };
        self.line(&done)
    }

    fn line(&mut self, value: &impl Serialize) -> Result<(), String> {
        let line = serde_json::to_string(value).map_err(|e| format!("{}: {e}", self.path.display()))? + "\n";
        let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data());
        written.map_err(|e| format!("{}: cannot be written ({e}); make room on the disk", self.path.display()))
    }

    /// Ends the journal: there is nothing to go on with.
    pub fn end(self) {
        // What cannot be removed is offered again, and does no harm.
        let _ = self.file.set_len(0);
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Interrupted {
    /// A job in a folder that was interrupted, if there is one that no other window has.
    pub fn look(folder: &Path) -> Option<Interrupted> {
        for path in paths(folder).filter(|path| path.is_file()) {
            let Ok(file) = open(&path) else { continue };
            if file.try_lock().is_err() {
                continue;
            }
            match Interrupted::read(Journal { path, file }) {
                Ok(found) => return Some(found),
                // It was never begun, or it is damaged beyond use.
                Err(journal) => journal.end(),
            }
        }
        None
    }

    fn read(mut journal: Journal) -> Result<Interrupted, Journal> {
        let mut bytes = Vec::new();
        if journal.file.read_to_end(&mut bytes).is_err() {
            return Err(journal);
        }
        // The last line may be torn.
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        let mut lines = bytes[..whole].split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        let Some(job) = lines.next().and_then(|line| serde_json::from_slice::<Job>(line).ok()) else {
            return Err(journal);
        };
        let done = lines.map_while(|line| serde_json::from_slice(line).ok()).collect();
        if whole < bytes.len() && journal.file.set_len(whole as u64).is_err() {
            return Err(journal);
        }
        Ok(Interrupted { journal, job, done })
    }

    /// The number of pictures that are done.
    pub fn done(&self) -> usize {
        self.done.len()
    }

    /// Goes on: writes the caption that was noted last if it did not come into its file any more, and gives the
    /// journal, the pictures that are left, and why that caption cannot be written if so.
    pub fn go_on(self) -> (Journal, Vec<PathBuf>, Result<(), String>) {
        let last = match self.done.last() {
            Some(Done { picture, caption: Some(caption), over }) => {
                files::save(picture, caption, over.as_deref()).map(|_| ())
            }
            _ => Ok(()),
        };
        let done: HashSet<&PathBuf> = self.done.iter().map(|done| &done.picture).collect();
        let left = self.job.pictures.iter().filter(|picture| !done.contains(picture)).cloned().collect();
        (self.journal, left, last)
    }

    /// Forgets the job; captions that it made stay.
    pub fn forget(self) {
        self.journal.end();
    }
}

fn paths(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let folder = folder.to_path_buf();
    (1..=MOST).map(move |i| folder.join(format!("job-{i}.jsonl")))
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(folder: &Path) -> Job {
        let pictures = ["a.png", "b.png", "c.png"].map(|name| folder.join(name)).to_vec();
        Job { sources: vec![folder.into()], options: CaptionOptions::default(), pictures }
    }

    #[test]
    fn an_interrupted_job_goes_on_where_it_was() {
        let folder = tempfile::tempdir().expect("a folder");
        let job = job(folder.path());
        let state = folder.path().join("state");
        assert!(Interrupted::look(&state).is_none());
        let mut journal = Journal::begin(&state, &job).expect("begun");
        let caption = |i: usize| files::read(&job.pictures[i]).expect("readable");
        journal.note(&job.pictures[0], Some("one"), None).expect("noted");
        files::save(&job.pictures[0], "one", None).expect("saved");
        journal.note(&job.pictures[1], Some("two"), None).expect("noted");
        assert!(Interrupted::look(&state).is_none(), "another window does not take what runs");
        // The process ends before the second caption is in its file, and while it notes the third.
        journal.file.write_all(b"{\"picture\": \"c").expect("written");
        drop(journal);
        let found = Interrupted::look(&state).expect("a job");
        assert_eq!((&found.job, found.done()), (&job, 2));
        assert_eq!((caption(0).as_deref(), caption(1)), (Some("one"), None));
        let (mut journal, left, last) = found.go_on();
        assert_eq!((left, last), (vec![job.pictures[2].clone()], Ok(())));
        assert_eq!(caption(1).as_deref(), Some("two"));
        journal.note(&job.pictures[2], None, None).expect("noted");
        drop(journal);
        let found = Interrupted::look(&state).expect("a job");
        assert_eq!(found.done(), 3);
        found.forget();
        assert!(Interrupted::look(&state).is_none());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn names_that_are_no_text_are_kept() {
        use std::os::unix::ffi::OsStringExt;
        let folder = tempfile::tempdir().expect("a folder");
        let mut job = job(folder.path());
        job.pictures[1] = folder.path().join(std::ffi::OsString::from_vec(b"\xff\xfe.png".to_vec()));
        job.sources.clone_from(&job.pictures);
        let mut journal = Journal::begin(folder.path(), &job).expect("begun");
        journal.note(&job.pictures[1], Some("one"), None).expect("noted");
        drop(journal);
        let found = Interrupted::look(folder.path()).expect("a job");
        assert_eq!(found.job, job);
        let (_, left, last) = found.go_on();
        assert_eq!((left, last), (vec![job.pictures[0].clone(), job.pictures[2].clone()], Ok(())));
        assert_eq!(files::read(&job.pictures[1]), Ok(Some("one".into())));
    }

    #[test]
    fn what_somebody_wrote_meanwhile_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let job = job(folder.path());
        let mut journal = Journal::begin(folder.path(), &job).expect("begun");
        journal.note(&job.pictures[0], Some("one"), None).expect("noted");
        drop(journal);
        std::fs::write(files::caption_path(&job.pictures[0]), "somebody's").expect("written");
        let (_, left, last) = Interrupted::look(folder.path()).expect("a job").go_on();
        assert_eq!((left.len(), last), (2, Ok(())));
        assert_eq!(files::read(&job.pictures[0]), Ok(Some("somebody's".into())));
    }

    #[test]
    fn damaged_journals_are_cleared_and_two_jobs_are_apart() {
        let folder = tempfile::tempdir().expect("a folder");
        for damage in ["", "{", "nonsense\n", "{\"sources\": []}\n"] {
            std::fs::write(folder.path().join("job-1.jsonl"), damage).expect("written");
            assert!(Interrupted::look(folder.path()).is_none(), "{damage:?}");
            assert!(!folder.path().join("job-1.jsonl").exists());
        }
        let job = job(folder.path());
        let journals = [0, 1].map(|_| Journal::begin(folder.path(), &job).expect("begun"));
        assert_ne!(journals[0].path, journals[1].path);
        journals.into_iter().for_each(Journal::end);
    }
}
