//! A request on its way through an engine, and the place that it takes in the queue.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use super::Tally;
use super::request::{Event, Listener, Outcome};
use crate::error::{Error, Result};

/// The places of an engine's queue: as many requests as it may have taken and not answered.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    taken: Mutex<usize>,
    given_back: Condvar,
}

/// A place in the queue, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<Places>);

impl Places {
    pub fn new(most: usize) -> Arc<Places> {
        Arc::new(Places { most, taken: Mutex::new(0), given_back: Condvar::new() })
    }

    /// Places that are taken.
    pub fn taken(&self) -> usize {
        *self.taken.lock().expect("no panic while it is held")
    }

    /// Takes a place, after waiting for one.
    pub fn wait(self: &Arc<Places>) -> Place {
        let taken = self.taken.lock().expect("no panic while it is held");
        let full = |taken: &mut usize| *taken >= self.most;
        *self.given_back.wait_while(taken, full).expect("no panic while it is held") += 1;
        Place(self.clone())
    }

    /// Takes a place, if there is one.
    pub fn take(self: &Arc<Places>) -> Option<Place> {
        let mut taken = self.taken.lock().expect("no panic while it is held");
        (*taken < self.most).then(|| *taken += 1).map(|()| Place(self.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *self.0.taken.lock().expect("no panic while it is held") -= 1;
        self.0.given_back.notify_one();
    }
}

/// Whoever asked.
pub(super) struct Caller {
    /// Nothing, once the result was told.
    listener: Option<Listener>,
    cancelled: Arc<AtomicBool>,
    place: Option<Place>,
    tally: Arc<Tally>,
}

impl Caller {
    pub fn new(listener: Listener, cancelled: Arc<AtomicBool>, place: Place, tally: Arc<Tally>) -> Caller {
        Caller { listener: Some(listener), cancelled, place: Some(place), tally }
    }

    /// Says whether nobody wants the answer any more.
    pub fn has_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// The flag that is true once nobody wants the answer any more.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.cancelled.clone()
    }

    /// Tells a piece of the answer.
    pub fn tell_text(&mut self, text: String) {
        if !text.is_empty() {
            self.tell(Event::Text(text));
        }
    }

    /// Tells something that is not the result.
    pub fn tell(&mut self, event: Event) {
        if let Some(listener) = &mut self.listener {
            listener(Ok(event));
        }
    }

    /// Tells the result. It is counted, and the place is free, before it is known.
    pub fn finish(mut self, result: Result<Outcome>) {
        self.end(result);
    }

    fn end(&mut self, result: Result<Outcome>) {
        let Some(mut listener) = self.listener.take() else { return };
        let counter = match &result {
            Ok(_) => &self.tally.finished,
            Err(Error::Cancelled) => &self.tally.cancelled,
            Err(_) => &self.tally.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.place = None;
        listener(result.map(Event::Done));
    }
}

/// A request that is dropped on its way, with the engine, has a result, too.
impl Drop for Caller {
    fn drop(&mut self) {
        self.end(Err(Error::Cancelled));
    }
}
