//! Requests to an engine, and the events that come back.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::generate::{GenerateOptions, TokenLogprob};
use crate::model::{Features, Reply, Score};
use crate::processor::{Image, ImageOptions};

/// A function that reads a picture.
pub type ReadPicture = Arc<dyn Fn() -> Result<Image> + Send + Sync>;

/// A picture, or where it is. It is read and resized by threads of the engine while the GPU works for others.
#[derive(Clone)]
pub enum Picture {
    /// A picture in memory.
    Image(Image),
    /// The bytes of an image file, and a name for messages.
    Bytes {
        /// The name.
        name: String,
        /// The bytes.
        bytes: Arc<[u8]>,
    },
    /// An image file.
    File(PathBuf),
    /// Whatever a function reads, which one of those threads calls.
    Read(ReadPicture),
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Picture::Image(image) => image.fmt(f),
            Picture::Bytes { name, bytes } => write!(f, "{name:?} of {} bytes", bytes.len()),
            Picture::File(path) => path.fmt(f),
            Picture::Read(_) => f.write_str("a function"),
        }
    }
}

impl Picture {
    /// Reads the picture.
    pub(super) fn open(self, options: &ImageOptions) -> Result<Image> {
        match self {
            Picture::Image(image) => Ok(image),
            Picture::Bytes { name, bytes } => Image::decode_with(&name, &bytes, options),
            Picture::File(path) => Image::open_with(path, options),
            Picture::Read(read) => read(),
        }
    }
}

/// A function that hears the events of a request, on threads of the engine, which wait for it. The last is
/// [`Event::Done`] or an error.
pub type Listener = Box<dyn FnMut(Result<Event>) + Send>;

/// A question to an engine.
#[derive(Clone, Debug)]
pub struct Request {
    /// One picture; several frames for video models.
    pub pictures: Vec<Picture>,
    /// The question or instruction.
    pub prompt: String,
    /// The prompt that the Q-Former reads instead.
    pub qformer_prompt: Option<String>,
    /// The options of the answer.
    pub options: GenerateOptions,
    /// Answers to score instead of making one; `options` do not matter then.
    pub choices: Vec<String>,
    /// The features of the picture are wanted, and the outputs of these labels; `options` and `choices` do not matter then.
    pub features: Option<Vec<String>>,
}

impl Request {
    /// A question about one picture.
    pub fn new(picture: Picture, prompt: impl Into<String>, options: GenerateOptions) -> Request {
        let prompt = prompt.into();
        Request { pictures: vec![picture], prompt, qformer_prompt: None, options, choices: Vec::new(), features: None }
    }
}

/// The result of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The answers.
    Reply(Box<Reply>),
    /// The score of each choice.
    Scores(Vec<Score>),
    /// The features.
    Features(Box<Features>),
}

/// Something that an engine tells about a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A new token, before its text, where log-probabilities are wanted of one answer. Its text may come later or never.
    Token(TokenLogprob),
    /// A piece of the answer's text, where there is one answer without beams; never half a character.
    Text(String),
    /// The result: nothing comes after it.
    Done(Outcome),
}

/// A request that was taken: an iterator over its events. The last is [`Event::Done`] or an error. Dropping it cancels the
/// request.
#[derive(Debug)]
pub struct Pending {
    pub(super) events: Receiver<Result<Event>>,
    pub(super) canceller: Canceller,
    pub(super) ended: bool,
}

/// A handle that cancels a request from anywhere.
#[derive(Clone, Debug)]
pub struct Canceller(pub(super) Arc<AtomicBool>);

impl Canceller {
    /// Ends the request: [`Error::Cancelled`] is its result, unless it has one. It ends before the engine's next step, or,
    /// where everybody that the step or pass is for has cancelled, in the middle of it.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Pending {
    /// A handle that cancels the request.
    pub fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }

    /// Waits for the result, and drops what comes before it.
    ///
    /// # Errors
    /// Those of [`InstructBlip::answer`](crate::InstructBlip::answer) and [`Image::open`]; [`Error::Cancelled`].
    pub fn wait(mut self) -> Result<Outcome> {
        loop {
            match self.next() {
                Some(Ok(Event::Token(_) | Event::Text(_))) => {}
                Some(Ok(Event::Done(outcome))) => return Ok(outcome),
                Some(Err(e)) => return Err(e),
                None => return Err(Error::Cancelled),
            }
        }
    }

    /// Waits for the next event, but no longer than `limit`; `None` when it takes longer or there is none.
    pub fn next_within(&mut self, limit: Duration) -> Option<Result<Event>> {
        if self.ended {
            return None;
        }
        match self.events.recv_timeout(limit) {
            Ok(event) => Some(self.seen(event)),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(self.seen(Err(Error::Cancelled))),
        }
    }

    fn seen(&mut self, event: Result<Event>) -> Result<Event> {
        self.ended = matches!(event, Ok(Event::Done(_)) | Err(_));
        event
    }
}

impl Iterator for Pending {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Result<Event>> {
        if self.ended {
            return None;
        }
        // An engine that is gone without a word was dropped.
        let event = self.events.recv().unwrap_or(Err(Error::Cancelled));
        Some(self.seen(event))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.canceller.cancel();
    }
}
