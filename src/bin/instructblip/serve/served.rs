//! The model that answers: it is loaded while the server listens already, and loaded again when its GPU was lost.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use instructblip::config::Config;
use instructblip::engine::{Canceller, EngineCounters, Event, Picture, Request};
use instructblip::processor::Tokenizers;
use instructblip::{Engine, EngineOptions, Error, GenerateOptions, Image, InstructBlip};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;

use super::Serve;
use super::failure::Failure;
use crate::common::Common;
use crate::session::load_model;
use crate::side_by_side::slot_tokens;

/// Times that a GPU may be lost without an answer in between.
const MOST_LOSSES: u32 = 3;

/// Time that whoever still has an engine whose GPU was lost may take to let it go.
const LETTING_GO: Duration = Duration::from_secs(5);

/// Seconds that loading is told to take: clients ask again.
const LOADING: u64 = 5;

/// A model that answers.
pub struct Ready {
    pub engine: Engine,
    pub about: About,
    pub tokenizers: Arc<Tokenizers>,
    cancelled: watch::Receiver<bool>,
    /// The engine's numbers before the first client: the server has asked a question of its own.
    pub own: EngineCounters,
}

/// The facts of a model that requests and clients need.
#[derive(Clone, Debug)]
pub struct About {
    pub model: String,
    pub device: String,
    pub config: Config,
    pub slots: u32,
    /// Most new tokens of an answer.
    pub max_new_tokens: u32,
    /// The bytes that the model takes on its GPU.
    pub gpu_bytes: u64,
    /// The time since which it is there, in seconds of Unix.
    pub created: u64,
}

/// The state of the model.
enum State {
    /// It is being loaded, or is to be: the GPU of the one that there was is lost.
    Loading,
    Ready(Arc<Ready>),
    Stopping,
}

/// The model that a server has.
pub struct Served {
    state: Mutex<State>,
    changed: Condvar,
    /// The model that is being loaded is wanted no more.
    give_up: Arc<AtomicBool>,
    /// Becomes true when answers that are under way are to end.
    cancelled: watch::Sender<bool>,
}

impl Served {
    pub fn new() -> Served {
        Served {
            state: Mutex::new(State::Loading),
            changed: Condvar::new(),
            give_up: Arc::default(),
            cancelled: watch::Sender::new(false),
        }
    }

    /// The model.
    ///
    /// # Errors
    /// [`Failure`] while there is none.
    pub fn ready(&self) -> Result<Arc<Ready>, Failure> {
        match &*self.state() {
            State::Ready(ready) => Ok(ready.clone()),
            State::Loading => Err(Failure::later("loading", "the model is being loaded", LOADING)),
            State::Stopping => Err(Failure::later("stopping", "the server is stopping", LOADING)),
        }
    }

    /// The word for the state, as `/health` tells it.
    pub fn status(&self) -> &'static str {
        match &*self.state() {
            State::Ready(_) => "ok",
            State::Loading => "loading",
            State::Stopping => "stopping",
        }
    }

    /// Takes no more requests, and has the thread that loads the model end.
    pub fn stop(&self) {
        let before = std::mem::replace(&mut *self.state(), State::Stopping);
        // Answers under way end with the model that there is.
        self.give_up.store(!matches!(before, State::Ready(_)), Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// Ends the answers that are under way: those who wait for them are told.
    pub fn cancel(&self) {
        self.cancelled.send_replace(true);
    }

    /// Has the model loaded again where an error is the engine's, as after the loss of its GPU: it answers nothing any more.
    pub fn heard(&self, error: &Error, of: &Arc<Ready>) {
        let mut state = self.state();
        let lost = !matches!(
            error,
            Error::Image { .. }
                | Error::ImageTooLarge { .. }
                | Error::PromptTooLong { .. }
                | Error::Request { .. }
                | Error::OverSlots { .. }
                | Error::NotFinite { .. }
                | Error::Cancelled
        );
        if lost && matches!(&*state, State::Ready(now) if Arc::ptr_eq(now, of)) {
            *state = State::Loading;
            self.changed.notify_all();
        }
    }

    /// Loads the model, and again whenever its GPU was lost, until the server stops.
    ///
    /// # Errors
    /// Those of loading; [`Error::DeviceLost`] if that happens too often.
    pub fn keep(&self, common: &Common, serve: &Serve) -> Result<()> {
        let common = &Common { stop: Some(self.give_up.clone()), ..common.clone() };
        let mut losses = 0;
        loop {
            let ready = match begin(common, serve, self.cancelled.subscribe()) {
                Err(_) if self.give_up.load(Ordering::Relaxed) => return Ok(()),
                ready => Arc::new(ready?),
            };
            let about = &ready.about;
            tracing::info!(model = about.model, device = about.device, slots = about.slots, "ready");
            if !self.open(&ready) {
                return Ok(());
            }
            let state = self.changed.wait_while(self.state(), |state| matches!(state, State::Ready(_)));
            let stopping = matches!(*state.unwrap_or_else(PoisonError::into_inner), State::Stopping);
            if stopping {
                return Ok(());
            }
            losses = if ready.engine.counters().finished > ready.own.finished { 1 } else { losses + 1 };
            if losses > MOST_LOSSES {
                return Err(Error::DeviceLost { reason: format!("{MOST_LOSSES} times without an answer") }.into());
            }
            tracing::error!("the GPU was lost; the model is loaded again ({losses} of {MOST_LOSSES})");
            // Its memory goes first; those who wait for it have been told.
            let since = std::time::Instant::now();
            while Arc::strong_count(&ready) > 1 && since.elapsed() < LETTING_GO {
                std::thread::sleep(Duration::from_millis(10));
            }
            drop(ready);
        }
    }

    /// Has the model answer, unless the server stops.
    fn open(&self, ready: &Arc<Ready>) -> bool {
        let mut state = self.state();
        let goes_on = !matches!(*state, State::Stopping);
        if goes_on {
            *state = State::Ready(ready.clone());
        }
        goes_on
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Loads the model and begins an engine, and has it answer once: kernels are compiled then, and not while the first client
/// waits.
fn begin(common: &Common, serve: &Serve, cancelled: watch::Receiver<bool>) -> Result<Ready> {
    let most = serve.workload();
    let model = load_model(common, &serve.model, most)?;
    let (about, tokenizers) = (About::of(&model, serve), model.processor().shared_tokenizers());
    let options = EngineOptions {
        slots: serve.slots.slots,
        tokens: slot_tokens(&model, &most),
        at_once: most.at_once,
        queue: serve.queue as usize,
        pictures: serve.model.picture_options.options(),
        ..EngineOptions::default()
    };
    let engine = Engine::start(model, &options)?;
    let frame = Picture::Image(Image::from_rgb(1, 1, vec![255; 3])?);
    engine.submit(Request::new(frame, "a", GenerateOptions::up_to(2))).wait()?;
    let own = engine.counters();
    Ok(Ready { engine, about, tokenizers, cancelled, own })
}

impl About {
    fn of(model: &InstructBlip, serve: &Serve) -> About {
        About {
            model: plain(model.name()),
            device: model.device().name().into(),
            config: model.config().clone(),
            slots: serve.slots.slots,
            max_new_tokens: serve.max_new_tokens,
            gpu_bytes: model.memory().peak,
            created: now(),
        }
    }
}

/// The name without what stands behind it in brackets: clients write it into addresses.
pub fn plain(name: &str) -> String {
    name.split(" (").next().unwrap_or(name).into()
}

/// Seconds of Unix.
pub fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// The events of a request that was taken. Dropping it cancels the request.
pub struct Pending {
    events: UnboundedReceiver<instructblip::Result<Event>>,
    canceller: Canceller,
    cancelled: watch::Receiver<bool>,
}

impl Ready {
    /// Asks the model.
    ///
    /// # Errors
    /// [`Failure`] while too many others wait.
    pub fn ask(&self, request: Request, wait: u64) -> Result<Pending, Failure> {
        let (to, events) = unbounded_channel();
        // Whoever has gone has cancelled.
        match self.engine.try_submit_to(request, Box::new(move |event| drop(to.send(event)))) {
            Ok(canceller) => Ok(Pending { events, canceller, cancelled: self.cancelled.clone() }),
            Err(_) => Err(Failure::later("overloaded", "too many requests wait already", wait)),
        }
    }
}

impl Pending {
    /// Waits for the next event.
    ///
    /// # Errors
    /// Those of the request; [`Error::Cancelled`] where the engine has gone, or the server ends.
    pub async fn next(&mut self) -> instructblip::Result<Event> {
        tokio::select! {
            event = self.events.recv() => event.unwrap_or(Err(Error::Cancelled)),
            _ = self.cancelled.wait_for(|cancelled| *cancelled) => Err(Error::Cancelled),
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.canceller.cancel();
    }
}
