//! The environment that graphics drivers find.

use std::path::Path;

/// A path where no folder is. In a folder that anybody may write to, anybody's sockets would be taken for a display.
const NOWHERE: &str = "/nonexistent";

/// Gives the process a runtime folder where it has none, as in containers and services: while graphics drivers look for
/// displays, Wayland's library complains on stderr without one, again and again.
///
/// To be called first in `main`.
#[allow(unsafe_code)]
pub fn give_runtime_folder() {
    let wants_one = cfg!(all(unix, not(target_os = "macos")));
    let set = std::env::var_os("XDG_RUNTIME_DIR").is_some_and(|folder| Path::new(&folder).is_absolute());
    if wants_one && !set {
        // SAFETY: no other thread runs yet that could read the environment meanwhile.
        unsafe { std::env::set_var("XDG_RUNTIME_DIR", NOWHERE) };
    }
}
