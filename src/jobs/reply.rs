//! The way back of an answer: one that is dropped on the way says so, too.

use std::time::Duration;

use super::{Answered, Done, Failure};

/// The time after which whoever waits for answers looks up.
pub const LOOK_UP: Duration = Duration::from_millis(100);

/// A function that hears of an answer, until it has.
struct Reply<F: FnOnce(Answered)>(Option<F>);

impl<F: FnOnce(Answered)> Reply<F> {
    fn send(&mut self, answered: Answered) {
        if let Some(hear) = self.0.take() {
            hear(answered);
        }
    }
}

impl<F: FnOnce(Answered)> Drop for Reply<F> {
    fn drop(&mut self) {
        self.send(Err(Failure::stopping("dropped", "the question was dropped without an answer")));
    }
}

/// A function that tells `hear` of an answer; dropped without one, it tells that there will be none.
pub fn reply(hear: impl FnOnce(Answered) + Send + 'static) -> Done {
    let mut reply = Reply(Some(hear));
    Box::new(move |answered| reply.send(answered))
}
