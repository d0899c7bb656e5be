//! Cancelling questions from any thread.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard};

use instructblip::Error;
use instructblip::engine;

/// Something that cancels the questions it was given to. Once cancelled it stays so: questions that come later end at
/// once.
#[derive(Default)]
pub struct Canceller {
    asked: Mutex<Asked>,
}

#[derive(Default)]
struct Asked {
    cancelled: bool,
    /// The requests that it cancels, by numbers of their own.
    requests: HashMap<u64, engine::Canceller>,
    next: u64,
}

/// A request that is cancelled with others, until this is dropped.
pub struct Listed<'a>(&'a Canceller, u64);

impl Canceller {
    /// Has this request be cancelled, too.
    ///
    /// # Errors
    /// [`Error::Cancelled`], when it is too late.
    pub fn list(&self, request: engine::Canceller) -> Result<Listed<'_>, Error> {
        let mut asked = self.asked();
        if asked.cancelled {
            return Err(Error::Cancelled);
        }
        let number = asked.next;
        asked.next += 1;
        asked.requests.insert(number, request);
        Ok(Listed(self, number))
    }

    /// True once it has cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.asked().cancelled
    }

    fn cancel(&self) {
        let mut asked = self.asked();
        asked.cancelled = true;
        asked.requests.values().for_each(engine::Canceller::cancel);
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().expect("no panic while it is held")
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.0.asked().requests.remove(&self.1);
    }
}

/// Makes a canceller for the field `canceller` of questions; to be freed with instructblip_canceller_free.
#[unsafe(no_mangle)]
pub extern "C" fn instructblip_canceller_new() -> *mut Canceller {
    Box::into_raw(Box::default())
}

/// Cancels: every call that was given this canceller ends with INSTRUCTBLIP_STATUS_CANCELLED, unless it has its result
/// already, and so does every later one. From any thread, also from a callback; does not wait for the calls to end.
/// NULL is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn instructblip_cancel(canceller: *const Canceller) {
    // SAFETY: it comes from `instructblip_canceller_new` and was not freed, the caller promises.
    let canceller = unsafe { canceller.as_ref() };
    let _ = catch_unwind(AssertUnwindSafe(|| canceller.map(Canceller::cancel)));
}

/// Frees a canceller, after the calls that were given it have ended. NULL is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn instructblip_canceller_free(canceller: *mut Canceller) {
    if !canceller.is_null() {
        // SAFETY: it comes from `instructblip_canceller_new` and nobody uses it any more, the caller promises.
        drop(unsafe { Box::from_raw(canceller) });
    }
}
