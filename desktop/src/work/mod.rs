//! The model at work: a thread has it, takes commands and tells events. Nothing here knows windows.
//!
//! ```text
//! device    adapters, how one is opened, self-test and the search for sizes
//! model     the thread: loading, asking, looking, ranking
//! run       captions of many pictures, saved as they come
//! store     models on this machine, and what they take of the memory
//! pull      a model of the hub, on a thread that can be ended
//! words     errors in this program's words
//! ```

pub mod device;
mod model;
pub mod pull;
mod run;
pub mod store;
pub mod words;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use instructblip::GenerateOptions;
use instructblip::Image;
use instructblip::model::AttentionMaps;
use instructblip::processor::ImageOptions;
use instructblip::runtime::Tuning;
use serde::{Deserialize, Serialize};

use crate::captions::journal::Journal;
use crate::captions::prompt::Existing;

/// The place that a model comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The small model compiled into the program, which knows pictures of coloured shapes.
    #[default]
    Embedded,
    /// A checkpoint's folder.
    #[serde(with = "crate::captions::paths")]
    Folder(PathBuf),
    /// A repository in the cache, `owner/name`.
    Cached(String),
}

impl Source {
    /// The name that is shown.
    pub fn name(&self) -> String {
        match self {
            Source::Embedded => "the embedded demo model".into(),
            Source::Folder(path) => path.display().to_string(),
            Source::Cached(repo) => repo.clone(),
        }
    }
}

/// A model and the way to load it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Setup {
    /// The model.
    pub source: Source,
    /// The format of its weights, `f16`, `q8` or `q4`; that of its files if `None`.
    pub weights: Option<String>,
    /// Vision tower and language model take turns on the device.
    pub offload: bool,
    /// Part of the adapter's name; the best adapter if `None`.
    pub adapter: Option<String>,
    /// Pictures that are captioned at once.
    pub slots: u32,
    /// Pictures are turned upright as their files say.
    pub upright: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Setup { source: Source::default(), weights: None, offload: false, adapter: None, slots: 8, upright: true }
    }
}

impl Setup {
    /// The options that pictures are read with.
    pub fn pictures(&self) -> ImageOptions {
        ImageOptions { exif_rotate: self.upright, ..ImageOptions::default() }
    }
}

/// A picture of a run.
#[derive(Clone, Debug)]
pub struct Item {
    /// The picture's file.
    pub picture: PathBuf,
    /// The prompt about it.
    pub prompt: String,
    /// The caption it has.
    pub caption: String,
    /// The text that its caption file had when it was read or written last.
    pub disk: Option<String>,
}

/// Pictures to be captioned.
#[derive(Debug)]
pub struct Run {
    /// The number by which the run's events are known.
    pub id: u64,
    /// The pictures.
    pub items: Vec<Item>,
    /// The rule for captions there are.
    pub existing: Existing,
    /// The options of the answers.
    pub options: GenerateOptions,
    /// The journal of the job.
    pub journal: Journal,
}

/// Something that the thread is told to do.
#[derive(Debug)]
pub enum Command {
    /// Loads a model, in the place of the one there is, with sizes found for the adapter.
    Load(Setup, Option<Tuning>),
    /// Asks about a picture.
    Ask {
        /// The number by which its events are known.
        id: u64,
        /// The picture.
        picture: PathBuf,
        /// The prompt.
        prompt: String,
        /// The options of the answer.
        options: Box<GenerateOptions>,
    },
    /// Ranks given answers about a picture.
    Rank {
        /// The picture.
        picture: PathBuf,
        /// The prompt.
        prompt: String,
        /// The answers.
        choices: Vec<String>,
    },
    /// Looks where the Q-Former looks in a picture, for each instruction.
    Look {
        /// The picture.
        picture: PathBuf,
        /// The instructions.
        prompts: Vec<String>,
    },
    /// Captions pictures.
    Caption(Box<Run>),
    /// Tests every kernel on the adapter.
    SelfTest,
    /// Looks for the sizes with which kernels are fastest on the adapter.
    Tune,
}

/// Facts about the model that is loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// The model's name.
    pub name: String,
    /// Its kind, as its configuration has it.
    pub kind: String,
    /// The device: name, backend and driver.
    pub device: String,
    /// True if it was taught to follow instructions, which its Q-Former reads, too.
    pub taught: bool,
    /// Bytes that it takes of the device's memory at most.
    pub bytes: u64,
    /// Milliseconds until it was ready.
    pub ms: f64,
}

/// The probability of a given answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    /// The answer.
    pub choice: String,
    /// Its share among all of them.
    pub share: f64,
    /// Its log-probability per token.
    pub mean: f64,
}

/// Weights of where a model looks in a picture for an instruction.
#[derive(Clone, Debug)]
pub struct Looked {
    /// The instruction.
    pub prompt: String,
    /// The weights.
    pub maps: Arc<AttentionMaps>,
}

/// The outcome of saving a caption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// The file has this text now.
    Saved(Option<String>),
    /// The file has a foreign text and was left alone.
    Foreign(String),
    /// The file cannot be written, and why.
    Failed(String),
}

/// Something that a thread tells.
#[derive(Debug)]
pub enum Event {
    /// The thread does something that takes a while: its name, and how far it is of how much, if known.
    Doing(String, Option<(u64, u64)>),
    /// A model is loaded.
    Ready(Facts),
    /// There is no model, and why.
    NoModel(String),
    /// A piece of an answer.
    Piece(u64, String),
    /// An answer is complete: tokens, milliseconds and the whole text.
    Answered(u64, Result<Answered, String>),
    /// Given answers are ranked, the most probable first.
    Ranked(Result<Vec<Ranked>, String>),
    /// The picture as the model saw it, and where it looked.
    Looked(Result<(Arc<Image>, Vec<Looked>), String>),
    /// A picture of a run has its caption and what became of it, or an error.
    Captioned(u64, PathBuf, Result<(String, Kept), String>),
    /// A run ended: stopped before its end, or by an error.
    RunEnded(u64, Ending),
    /// The self-test's verdict.
    Tested(Result<device::Verdict, String>),
    /// The sizes that were found, in words and figures.
    Tuned(Result<(Tuning, Vec<String>), String>),
    /// The thread waits for commands.
    Idle,
}

/// The way a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Every picture was asked about.
    Complete,
    /// It was stopped.
    Stopped,
    /// An error ended it; it can go on later.
    Failed(String),
}

/// A complete answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    /// The text.
    pub text: String,
    /// New tokens.
    pub tokens: usize,
    /// Milliseconds from the question to the end.
    pub ms: f64,
    /// True if it was stopped before its end.
    pub stopped: bool,
}

/// A function that makes the window look for events.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// The place where events go.
#[derive(Clone)]
pub struct Sink {
    events: Sender<Event>,
    wake: Wake,
}

impl Sink {
    /// Tells an event.
    pub fn tell(&self, event: Event) {
        // Whoever is gone does not want it.
        let _ = self.events.send(event);
        (self.wake)();
    }
}

/// A wish that what is being done ends.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicU8>);

impl Stop {
    const NOW: u8 = 1;
    const CLOSING: u8 = 2;

    fn is_wanted(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    fn is_closing(&self) -> bool {
        self.0.load(Ordering::Relaxed) == Stop::CLOSING
    }

    fn wish(&self, wish: u8) {
        self.0.fetch_max(wish, Ordering::Relaxed);
    }

    /// Forgets the wish to stop what is over, but not that the program closes.
    fn clear(&self) {
        let _ = self.0.compare_exchange(Stop::NOW, 0, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// The thread that has the model.
pub struct Work {
    commands: Option<Sender<Command>>,
    events: Receiver<Event>,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

/// The time that the thread gets to end what it does when the program closes.
const PATIENCE: Duration = Duration::from_secs(3);

impl Work {
    /// Starts the thread, which calls `wake` after every event.
    ///
    /// # Errors
    /// The system's, if it gives no thread.
    pub fn start(wake: Wake) -> std::io::Result<Work> {
        let (commands, inbox) = channel();
        let (to, events) = channel();
        let (sink, stop) = (Sink { events: to, wake }, Stop::default());
        let worker = model::Worker::new(inbox, sink, stop.clone());
        let thread = std::thread::Builder::new().name("model".into()).spawn(move || worker.work())?;
        Ok(Work { commands: Some(commands), events, stop, thread: Some(thread) })
    }

    /// Gives the thread something to do, after what it has to do already.
    pub fn send(&self, command: Command) {
        if let Some(commands) = &self.commands {
            // A thread that is gone has told why.
            let _ = commands.send(command);
        }
    }

    /// Ends what the thread does, as soon as it can.
    pub fn stop(&self) {
        self.stop.wish(Stop::NOW);
    }

    /// The next event, if there is one.
    pub fn next(&self) -> Option<Event> {
        self.events.try_recv().ok()
    }

    /// Waits for the next event, but no longer than `limit`.
    pub fn next_within(&self, limit: Duration) -> Option<Event> {
        self.events.recv_timeout(limit).ok()
    }

    /// Ends the thread. A job that runs can go on later.
    pub fn close(&mut self) {
        self.stop.wish(Stop::CLOSING);
        self.commands = None;
        let Some(thread) = self.thread.take() else { return };
        let begun = Instant::now();
        // What takes longer cannot be ended, and is not needed: files are whole at every moment.
        while !thread.is_finished() && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(10));
        }
        if thread.is_finished() {
            let _ = thread.join();
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.close();
    }
}
