//! The loss of a device that a test asks for: builds without debug assertions, as users have them, know none.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// The variable that has every device lost at its n-th operation of a kind, as in `submit 7`, counted from 0.
const VARIABLE: &str = "INSTRUCTBLIP_TEST_LOSE_GPU";

/// A kind of operation at which a device may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Submit,
    Map,
}

/// A loss that is to come.
pub(super) struct Loss {
    at: Operation,
    left: AtomicU64,
    has_come: AtomicBool,
}

impl Loss {
    /// The loss that the environment asks for.
    pub fn asked_for() -> Option<Loss> {
        let asked = cfg!(debug_assertions).then(|| std::env::var(VARIABLE).ok()).flatten()?;
        let (at, left) = asked.split_once(' ')?;
        let at = match at {
            "submit" => Operation::Submit,
            "map" => Operation::Map,
            _ => return None,
        };
        Some(Loss { at, left: left.parse().map(AtomicU64::new).ok()?, has_come: AtomicBool::new(false) })
    }

    /// Counts an operation that is about to be done. True if the device is lost now.
    pub fn comes_at(&self, operation: Operation) -> bool {
        operation == self.at
            && self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_err()
            && !self.has_come.swap(true, Relaxed)
    }

    /// True if the device was lost.
    pub fn has_come(&self) -> bool {
        self.has_come.load(Relaxed)
    }
}
