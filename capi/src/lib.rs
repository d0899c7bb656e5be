//! The C interface of `instructblip`: `include/instructblip.h` is made from this crate, which a test checks. The rules
//! for callers are its first page, in `cbindgen.toml`.
//!
//! A model is an [`instructblip::Engine`] here, so that any thread may ask, several at once share the GPU's steps, and
//! a question can be cancelled from anywhere. Callbacks run on the thread whose call they belong to.

// The safety of all functions is the header's first page: what a caller's pointers must be.
#![allow(clippy::missing_safety_doc)]

mod arguments;
mod settings;

// The header's order is that of these lines.
mod status;

mod adapters;

mod open;

mod question;

mod ask;

mod features;

mod canceller;

mod results;

use std::ffi::c_char;

pub use adapters::instructblip_adapters;
pub use ask::{instructblip_ask, instructblip_score};
pub use canceller::{Canceller, instructblip_cancel, instructblip_canceller_free, instructblip_canceller_new};
pub use features::{instructblip_attention, instructblip_embed};
pub use open::{File, Load, Model, OnProgress, Stage, instructblip_close, instructblip_open};
pub use question::{OnText, Picture, Question};
pub use results::{Floats, instructblip_floats_free, instructblip_text_free};
pub use status::{Status, instructblip_last_error};

/// The version of this header's structs and functions. It grows whenever a program has to be compiled anew.
pub const INSTRUCTBLIP_ABI_VERSION: u32 = 1;

/// Gives the INSTRUCTBLIP_ABI_VERSION that the library was built with. Where it is not the header's, call nothing else.
#[unsafe(no_mangle)]
pub extern "C" fn instructblip_abi_version() -> u32 {
    INSTRUCTBLIP_ABI_VERSION
}

/// Gives the library's version, such as "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn instructblip_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}
