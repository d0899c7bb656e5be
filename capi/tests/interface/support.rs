//! Calls of the interface from Rust.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr::{null, null_mut};
use std::sync::OnceLock;

use instructblip_c::{Load, Model, Picture, Question, Status};
use serde_json::Value;

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A picture of coloured shapes.
pub fn sample(name: &str) -> PathBuf {
    root().join("../tests/shapes/samples").join(name)
}

pub fn c(text: &str) -> CString {
    CString::new(text).expect("no NUL")
}

/// The text of this thread's last failure.
pub fn last_error() -> String {
    // SAFETY: the text holds until the next failure of this thread.
    unsafe { CStr::from_ptr(instructblip_c::instructblip_last_error()) }.to_str().expect("UTF-8").into()
}

/// A question that is all zeros.
pub fn nothing_asked() -> Question {
    Question {
        pictures: null(),
        picture_count: 0,
        prompt: null(),
        task: null(),
        qformer_prompt: null(),
        choices: null(),
        choice_count: 0,
        params: null(),
        on_text: None,
        user: null_mut(),
        canceller: null(),
    }
}

/// The embedded model with the usual options.
pub fn embedded() -> Load {
    Load {
        path: null(),
        files: null(),
        file_count: 0,
        adapter: null(),
        options: null(),
        on_progress: None,
        user: null_mut(),
    }
}

pub fn file(bytes: &[u8]) -> Picture {
    Picture { data: bytes.as_ptr(), length: bytes.len(), width: 0, height: 0 }
}

pub fn open(load: &Load) -> Result<*mut Model, (Status, String)> {
    let mut model = null_mut();
    // SAFETY: all pointers of `load` are valid or NULL.
    match unsafe { instructblip_c::instructblip_open(load, &raw mut model) } {
        Status::Ok => Ok(model),
        status => {
            assert!(model.is_null());
            Err((status, last_error()))
        }
    }
}

/// A model that all tests share, as the threads of a program would. Nobody closes it.
pub fn model() -> *const Model {
    struct Shared(*const Model);
    // SAFETY: every call takes a model from any thread.
    unsafe impl Send for Shared {}
    // SAFETY: as above.
    unsafe impl Sync for Shared {}
    static MODEL: OnceLock<Shared> = OnceLock::new();
    MODEL.get_or_init(|| Shared(open(&embedded()).expect("the embedded model"))).0
}

/// A text that a call gave, freed.
fn taken(text: *mut c_char) -> Value {
    // SAFETY: the call gave it, and this frees it once.
    let bytes = unsafe { CStr::from_ptr(text) }.to_bytes().to_vec();
    // SAFETY: as above.
    unsafe { instructblip_c::instructblip_text_free(text) };
    serde_json::from_slice(&bytes).expect("JSON")
}

/// The result of a call that gives JSON.
pub fn json(call: impl FnOnce(*mut *mut c_char) -> Status) -> Result<Value, (Status, String)> {
    let mut text = null_mut();
    match call(&raw mut text) {
        Status::Ok => Ok(taken(text)),
        status => {
            assert!(text.is_null());
            Err((status, last_error()))
        }
    }
}

pub fn ask(question: &Question) -> Result<Value, (Status, String)> {
    // SAFETY: all pointers of `question` are valid or NULL.
    json(|reply| unsafe { instructblip_c::instructblip_ask(model(), question, reply) })
}

pub fn score(question: &Question) -> Result<Value, (Status, String)> {
    // SAFETY: all pointers of `question` are valid or NULL.
    json(|scores| unsafe { instructblip_c::instructblip_score(model(), question, scores) })
}

/// A callback that collects text in a `String`, and goes on.
pub unsafe extern "C" fn collect(text: *const c_char, length: usize, user: *mut c_void) -> c_int {
    // SAFETY: `user` is a test's string, and nobody else has it while the test asks.
    let all = unsafe { &mut *user.cast::<String>() };
    // SAFETY: the text ends with a NUL.
    let piece = unsafe { CStr::from_ptr(text) };
    assert_eq!(piece.count_bytes(), length);
    all.push_str(piece.to_str().expect("UTF-8"));
    0
}
