//! The callers that a model works for at the moment, and the end of its work when nobody wants it any more.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::job::Caller;
use crate::model::InstructBlip;
use crate::runtime::Watch;

/// The callers of a pass or a step.
pub(super) struct Audience {
    /// Flags of the callers, true of those that have cancelled.
    gone: Arc<Mutex<Vec<Arc<AtomicBool>>>>,
    /// The watch that the model had before, and hears first now.
    usual: Watch,
}

impl Audience {
    /// Ends the work of `model` when `closing` is set, or when every caller of it has cancelled.
    pub fn of(model: &mut InstructBlip, closing: Arc<AtomicBool>) -> Audience {
        let (gone, usual) = (Arc::new(Mutex::new(Vec::<Arc<AtomicBool>>::new())), model.device().watch());
        let watched = gone.clone();
        model.set_watch(usual.and(move |_| {
            let gone = watched.lock().expect("no panic while it is held");
            let nobody = !gone.is_empty() && gone.iter().all(|gone| gone.load(Ordering::Relaxed));
            match nobody || closing.load(Ordering::Relaxed) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        }));
        Audience { gone, usual }
    }

    /// Has the model work for these callers from now on.
    pub fn are<'a>(&self, callers: impl Iterator<Item = &'a Caller>) {
        *self.gone.lock().expect("no panic while it is held") = callers.map(Caller::flag).collect();
    }

    /// Gives the model back the watch that it had.
    pub fn leave(self, model: &mut InstructBlip) {
        model.set_watch(self.usual);
    }
}
