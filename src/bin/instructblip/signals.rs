//! Signals that ask the program to end: the first lets it finish what is under way, the second ends it at once.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Exit code after a second signal: what was written stays.
const AT_ONCE: i32 = 130;

/// A flag that is set once the program is asked to end.
pub fn asked_to_end() -> std::io::Result<Arc<AtomicBool>> {
    let asked = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        // In this order: the first signal finds the flag unset.
        flag::register_conditional_shutdown(signal, AT_ONCE, asked.clone())?;
        flag::register(signal, asked.clone())?;
    }
    Ok(asked)
}
