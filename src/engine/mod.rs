//! One model for everybody who asks: an engine owns it on a thread of its own, and questions share its steps.
//!
//! ```text
//!  submit ──> queue ──> pictures are read ──> vision, Q-Former ──> prompt ──> slots: one step for all ──> events
//!             bounded   some threads          several in a pass               answers join and leave
//! ```
//!
//! An answer does not depend on who else asks: at the same number of slots its logits have the same bits.

mod audience;
mod job;
mod pictures;
mod request;
mod worker;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

pub use request::{Canceller, Event, Listener, Outcome, Pending, Picture, ReadPicture, Request};

use crate::error::{Error, Result};
use crate::model::InstructBlip;
use crate::processor::ImageOptions;
use job::{Caller, Places};
use pictures::Unread;
use worker::{Message, Worker};

/// The options of an engine.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Rows of a step: questions answered at once, or beams of one. An answer may depend on it by rounding,
    /// where two tokens are nearly equally likely: logits differ by at most a ten-thousandth of their range, or two
    /// thousandths where layers over 16 rows and more multiply matrices of f16.
    pub slots: u32,
    /// Tokens that each slot has memory for, prompt and picture's places included. An answer may take what others leave.
    pub tokens: u32,
    /// Questions whose pictures are looked at in one pass, at most; fewer where the device cannot take as many. No answer
    /// depends on it.
    pub at_once: u32,
    /// Requests that may be taken and not answered: more wait in [`Engine::submit`].
    pub queue: usize,
    /// Threads that read pictures.
    pub picture_threads: usize,
    /// The options of reading pictures.
    pub pictures: ImageOptions,
}

impl Default for EngineOptions {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        EngineOptions {
            slots: 8,
            tokens: 512,
            at_once: 8,
            queue: 64,
            picture_threads: threads.clamp(1, 4),
            pictures: ImageOptions::default(),
        }
    }
}

/// Most questions of a pass: of more the GPU takes no less time each.
const MOST_AT_ONCE: u32 = 32;

/// The numbers of an engine, as its threads count them.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub finished: AtomicU64,
    pub failed: AtomicU64,
    pub cancelled: AtomicU64,
    pub tokens: AtomicU64,
    pub steps: AtomicU64,
    pub slots_taken: AtomicU64,
}

/// The numbers of an engine at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineCounters {
    /// Requests that got their result.
    pub finished: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Requests that were cancelled.
    pub cancelled: u64,
    /// New tokens of all answers.
    pub tokens: u64,
    /// Decode steps.
    pub steps: u64,
    /// Slots that have an answer.
    pub slots_taken: u64,
    /// Requests that were taken and not answered.
    pub pending: u64,
}

/// A model on a thread of its own, asked from any thread. Dropping it cancels what is pending and waits for the step that
/// runs.
pub struct Engine {
    unread: Mutex<Option<Sender<Unread>>>,
    messages: Sender<Message>,
    places: Arc<Places>,
    tally: Arc<Tally>,
    /// Nobody wants answers any more.
    closing: Arc<AtomicBool>,
    readers: Vec<JoinHandle<()>>,
    worker: Option<JoinHandle<InstructBlip>>,
}

impl Engine {
    /// Starts an engine, after its slots' memory was taken.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::DoesNotFit`]; [`Error::Request`] for no slots, or more than 256.
    pub fn start(mut model: InstructBlip, options: &EngineOptions) -> Result<Engine> {
        model.make_slots(options.slots, options.tokens)?;
        let at_once = model.look_at_once(options.at_once.min(MOST_AT_ONCE))?;
        let (messages, inbox) = channel();
        let (unread, to_read) = channel();
        let (ready, closing) = (messages.clone(), Arc::new(AtomicBool::new(false)));
        let failed = |e: std::io::Error| Error::Io { path: "a thread".into(), source: e };
        let readers = pictures::start(
            options.picture_threads.max(1),
            model.processor().image(),
            options.pictures,
            to_read,
            &closing,
            move |job| drop(ready.send(Message::Ready(Box::new(job)))),
        );
        let tally = Arc::new(Tally::default());
        let worker = Worker::new(model, at_once as usize, inbox, tally.clone(), closing.clone());
        let worker = std::thread::Builder::new().name("instructblip".into()).spawn(move || worker.run());
        Ok(Engine {
            unread: Mutex::new(Some(unread)),
            messages,
            places: Places::new(options.queue.max(1)),
            tally,
            closing,
            readers: readers.map_err(failed)?,
            worker: Some(worker.map_err(failed)?),
        })
    }

    /// Asks a question; waits while the queue is full.
    pub fn submit(&self, request: Request) -> Pending {
        let place = self.places.wait();
        self.send_pending(request, place)
    }

    /// Asks a question, unless the queue is full: then the request comes back.
    ///
    /// # Errors
    /// The request.
    pub fn try_submit(&self, request: Request) -> Result<Pending, Box<Request>> {
        match self.places.take() {
            Some(place) => Ok(self.send_pending(request, place)),
            None => Err(Box::new(request)),
        }
    }

    /// Asks a question whose events a function hears, unless the queue is full.
    ///
    /// # Errors
    /// The request.
    pub fn try_submit_to(&self, request: Request, listener: Listener) -> Result<Canceller, Box<Request>> {
        match self.places.take() {
            Some(place) => Ok(self.send(request, place, listener)),
            None => Err(Box::new(request)),
        }
    }

    /// Asks a question whose events a function hears; waits while the queue is full.
    pub fn submit_to(&self, request: Request, listener: Listener) -> Canceller {
        let place = self.places.wait();
        self.send(request, place, listener)
    }

    fn send_pending(&self, request: Request, place: job::Place) -> Pending {
        let (to, events) = channel();
        // Whoever has gone has cancelled.
        let canceller = self.send(request, place, Box::new(move |event| drop(to.send(event))));
        Pending { events, canceller, ended: false }
    }

    fn send(&self, request: Request, place: job::Place, listener: Listener) -> Canceller {
        let cancelled = Arc::new(AtomicBool::new(false));
        let caller = Caller::new(listener, cancelled.clone(), place, self.tally.clone());
        if let Some(unread) = self.unread.lock().expect("no panic while it is held").as_ref() {
            // Where nobody receives it any more it is dropped, and whoever asked is told.
            let _ = unread.send(Unread { request, caller });
        }
        Canceller(cancelled)
    }

    /// The engine's numbers at this moment.
    pub fn counters(&self) -> EngineCounters {
        let of = |number: &AtomicU64| number.load(Ordering::Relaxed);
        EngineCounters {
            finished: of(&self.tally.finished),
            failed: of(&self.tally.failed),
            cancelled: of(&self.tally.cancelled),
            tokens: of(&self.tally.tokens),
            steps: of(&self.tally.steps),
            slots_taken: of(&self.tally.slots_taken),
            pending: self.places.taken() as u64,
        }
    }

    /// Waits until everything that was asked is answered, ends the engine and gives the model back.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] if the engine's thread has ended by a fault.
    pub fn finish(mut self) -> Result<InstructBlip> {
        self.close(Message::Finish)
    }

    fn close(&mut self, last: Message) -> Result<InstructBlip> {
        // Readers end with what was sent; what they make ready is there before the last message.
        self.unread.lock().expect("no panic while it is held").take();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        let _ = self.messages.send(last);
        let ended = self.worker.take().map(JoinHandle::join);
        match ended {
            Some(Ok(model)) => Ok(model),
            _ => Err(Error::DeviceLost { reason: "the engine's thread ended by a fault".into() }),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.worker.is_some() {
            self.closing.store(true, Ordering::Relaxed);
            let _ = self.messages.send(Message::Cancel);
            let _ = self.close(Message::Finish);
        }
    }
}
