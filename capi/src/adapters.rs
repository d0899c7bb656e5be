//! The adapters that there are.

use std::ffi::c_char;

use instructblip::runtime::list_adapters;
use serde_json::json;

use crate::arguments::{place, text};
use crate::results;
use crate::status::{Status, guard};

/// Lists the graphics adapters as a JSON array, to be freed with instructblip_text_free. Each has "name", "backend",
/// "type", "driver", "memory_bytes" (null where the driver does not tell), "problem" (a text, if it cannot be used) and
/// "chosen": true for the one that a model would be opened on whose `adapter` is the same. Blocks for as long as the
/// drivers take.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn instructblip_adapters(adapter: *const c_char, list: *mut *mut c_char) -> Status {
    guard(|| {
        // SAFETY: the caller's pointers, as the header wants them.
        let (list, wanted) = unsafe { (place(list, "list")?, text(adapter, "adapter")?) };
        let adapters: Vec<_> = list_adapters(wanted)
            .into_iter()
            .map(|a| {
                json!({
                    "name": a.name, "backend": a.backend, "type": a.kind, "driver": a.driver,
                    "memory_bytes": a.memory_bytes, "problem": a.problem, "chosen": a.chosen,
                })
            })
            .collect();
        *list = results::json(&adapters.into());
        Ok(())
    })
}
