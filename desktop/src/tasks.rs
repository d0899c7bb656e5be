//! Things that take a while and need no model: each on a thread of its own, its result told as an event.

use std::future::Future;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use rfd::{AsyncFileDialog, FileHandle};

use crate::captions::Document;
use crate::captions::export::{self, Format};
use crate::captions::files::{self, Saved};
use crate::captions::journal::Interrupted;
use crate::settings::Settings;
use crate::work::device::Survey;
use crate::work::pull::News;
use crate::work::store::{Cache, Way};
use crate::work::{Setup, Source, Wake, store};

/// A caption to be put into its file.
#[derive(Clone, Debug)]
pub struct ToSave {
    /// The picture.
    pub picture: PathBuf,
    /// The caption.
    pub caption: String,
    /// The text that the file had when it was read or written last.
    pub known: Option<String>,
}

/// A result.
pub enum Done {
    /// Folders were looked into.
    Opened(Box<Document>, Vec<String>),
    /// There is no program that shows dialogs.
    NoDialog,
    /// A dialog ended with these files or folders, for what they were wanted.
    Picked(Wanted, Vec<PathBuf>),
    /// Captions were put into their files, or not.
    Saved(Vec<(ToSave, Result<Saved, String>)>),
    /// Captions were written into one file.
    Exported(Result<PathBuf, String>),
    /// Settings were kept, or not.
    Kept(Result<(), String>),
    /// Adapters were looked at.
    Survey(Survey),
    /// The cache was looked into.
    Cache(Result<Cache, String>),
    /// A model was removed, which freed so many bytes.
    Removed(Result<u64, String>),
    /// The ways to load a model are known.
    Ways(Source, Result<Vec<Way>, String>),
    /// News of a pull.
    Pull(News),
    /// A job that was interrupted, if there is one.
    Interrupted(Option<Box<Interrupted>>),
}

/// The purpose of a dialog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Pictures to be opened.
    Pictures,
    /// A folder of pictures to be opened.
    Folder,
    /// A model's folder.
    Model,
    /// A file to export to.
    Export(Format),
}

/// True where dialogs are other programs, which may not be there. Then they end at once, as if nothing was chosen.
const CAN_LACK_DIALOGS: bool = cfg!(all(unix, not(target_os = "macos")));

/// The time in which nobody closes a dialog.
const AT_ONCE: Duration = Duration::from_millis(300);

/// Threads, and the results that they told.
pub struct Tasks {
    to: Sender<Done>,
    done: Receiver<Done>,
    wake: Wake,
}

impl Tasks {
    /// Nothing is done yet; `wake` is called after every result.
    pub fn new(wake: Wake) -> Tasks {
        let (to, done) = channel();
        Tasks { to, done, wake }
    }

    /// The next result, if there is one.
    pub fn next(&self) -> Option<Done> {
        self.done.try_recv().ok()
    }

    /// A function that tells results, for other threads.
    pub fn teller(&self) -> impl Fn(Done) + Send + 'static {
        let (to, wake) = (self.to.clone(), self.wake.clone());
        move |done| {
            let _ = to.send(done);
            wake();
        }
    }

    fn start(&self, work: impl FnOnce() -> Done + Send + 'static) {
        let tell = self.teller();
        std::thread::spawn(move || tell(work()));
    }

    /// Looks into folders for pictures.
    pub fn open(&self, sources: Vec<PathBuf>) {
        self.start(|| {
            let (document, problems) = Document::open(sources);
            Done::Opened(Box::new(document), problems)
        });
    }

    /// Puts captions into their files; where `over` is set, also over what somebody else wrote.
    pub fn save(&self, captions: Vec<ToSave>, over: bool) {
        self.start(move || {
            let save = |to_save: ToSave| {
                let saved = match over {
                    true => files::overwrite(&to_save.picture, &to_save.caption),
                    false => files::save(&to_save.picture, &to_save.caption, to_save.known.as_deref()),
                };
                (to_save, saved)
            };
            Done::Saved(captions.into_iter().map(save).collect())
        });
    }

    /// Writes names and captions into one file.
    pub fn export(&self, path: PathBuf, format: Format, rows: Vec<(String, String)>) {
        self.start(move || Done::Exported(export::export(&path, format, &rows).map(|()| path)));
    }

    /// Keeps settings.
    pub fn keep(&self, settings: Settings, folder: PathBuf) {
        self.start(move || Done::Kept(settings.keep(&folder)));
    }

    /// Looks at the adapters.
    pub fn survey(&self, wanted: Option<String>) {
        self.start(move || Done::Survey(Survey::look(wanted.as_deref())));
    }

    /// Looks into the cache of models.
    pub fn cache(&self) {
        self.start(|| Done::Cache(Cache::look()));
    }

    /// Removes a model from the cache.
    pub fn remove(&self, repo: String) {
        self.start(move || Done::Removed(Cache::remove(&repo)));
    }

    /// Finds out what a model takes of the memory.
    pub fn ways(&self, setup: Setup) {
        self.start(move || Done::Ways(setup.source.clone(), store::ways(&setup)));
    }

    /// Looks for a job that was interrupted.
    pub fn interrupted(&self, folder: PathBuf) {
        self.start(move || Done::Interrupted(Interrupted::look(&folder).map(Box::new)));
    }

    /// Shows a dialog. It is made on this thread, as some systems want it, and waited for on another.
    pub fn pick(&self, wanted: Wanted, start: Option<PathBuf>) {
        let dialog = AsyncFileDialog::new();
        let dialog = match start {
            Some(folder) => dialog.set_directory(folder),
            None => dialog,
        };
        let one = |file: Option<FileHandle>| file.into_iter().collect::<Vec<_>>();
        match wanted {
            Wanted::Pictures => self.wait(wanted, dialog.pick_files(), Option::unwrap_or_default),
            Wanted::Folder | Wanted::Model => self.wait(wanted, dialog.pick_folder(), one),
            Wanted::Export(format) => {
                let name = if format == Format::Csv { "captions.csv" } else { "metadata.jsonl" };
                self.wait(wanted, dialog.set_file_name(name).save_file(), one);
            }
        }
    }

    fn wait<T>(
        &self,
        wanted: Wanted,
        dialog: impl Future<Output = T> + Send + 'static,
        files: impl FnOnce(T) -> Vec<FileHandle> + Send + 'static,
    ) {
        self.start(move || {
            let begun = Instant::now();
            let picked = files(pollster::block_on(dialog));
            if CAN_LACK_DIALOGS && picked.is_empty() && begun.elapsed() < AT_ONCE {
                return Done::NoDialog;
            }
            Done::Picked(wanted, picked.iter().map(|file| file.path().to_path_buf()).collect())
        });
    }
}

#[cfg(all(test, unix, not(target_os = "macos")))]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn dialogs_that_never_came_are_told_from_those_that_were_closed() {
        let tasks = Tasks::new(Arc::new(|| {}));
        let done = |pause: Duration| {
            let closed = async move { std::thread::sleep(pause) };
            tasks.wait(Wanted::Folder, closed, |()| Vec::new());
            tasks.done.recv().expect("a result")
        };
        assert!(matches!(done(Duration::ZERO), Done::NoDialog));
        assert!(matches!(done(AT_ONCE), Done::Picked(Wanted::Folder, files) if files.is_empty()));
    }
}
