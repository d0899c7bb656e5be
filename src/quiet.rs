//! Running other people's code where it may panic: parsers on damaged files, the graphics layer on a lost device.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    /// Set while foreign code runs on this thread, so that its panics are not printed.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs a decoder, a tokenizer or the graphics layer; `None` if it panicked, as damaged files and lost devices have made them
/// do. Nothing is printed: the panic's text would say more about memory than about the file.
pub fn without_panics<T>(run: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                before(info);
            }
        }));
    });
    QUIET.set(true);
    let result = panic::catch_unwind(AssertUnwindSafe(run));
    QUIET.set(false);
    result.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_inside_is_no_panic_here() {
        assert_eq!(without_panics(|| -> u8 { panic!("inside a decoder") }), None);
        assert_eq!(without_panics(|| 7), Some(7));
        assert!(!QUIET.get());
    }
}
