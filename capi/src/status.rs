//! The results of calls: a code, and a text about the last failure of a thread.

use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use instructblip::Error;
use instructblip::error::Setting;

/// The result of a call. Codes keep their meaning; later versions may add some.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The call did what was asked.
    Ok = 0,
    /// An argument cannot be read: a pointer is NULL that may not be, or a text is no UTF-8.
    Argument = 1,
    /// A prompt, parameter or option is not acceptable.
    Request = 2,
    /// Somebody stopped the work: a callback or a canceller.
    Cancelled = 3,
    /// No graphics adapter fits the request.
    NoAdapter = 4,
    /// Something exceeds a limit of the device or of the library.
    DoesNotFit = 5,
    /// The model would take more of the device's memory than it may; the text says which options make it smaller.
    OverBudget = 6,
    /// The device ran out of memory.
    OutOfMemory = 7,
    /// The GPU was lost or reset: close the model and open it again.
    DeviceLost = 8,
    /// The graphics driver refused something.
    Gpu = 9,
    /// A file of the model is missing, damaged or of a kind that is not run.
    Checkpoint = 10,
    /// The model gave values that are no numbers: its weights are damaged.
    NotFinite = 11,
    /// A picture cannot be read, or is too large.
    Image = 12,
    /// A prompt is too long for the model.
    PromptTooLong = 13,
    /// A file cannot be read.
    Io = 14,
    /// A fault of the library. Close the model: nothing is promised about it any more.
    Fault = 15,
}

/// A call that came to nothing.
#[derive(Debug)]
pub struct Failure {
    status: Status,
    text: String,
}

impl Failure {
    /// An argument that cannot be read.
    pub fn argument(text: impl Into<String>) -> Failure {
        Failure { status: Status::Argument, text: text.into() }
    }

    /// A request that is not acceptable.
    pub fn request(text: impl Into<String>) -> Failure {
        Failure { status: Status::Request, text: text.into() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure { status: Status::of(&error), text: format!("{}{}", error.fault(), advice(&error)) }
    }
}

impl Status {
    fn of(error: &Error) -> Status {
        match error {
            Error::NoAdapter { .. } => Status::NoAdapter,
            Error::DoesNotFit { .. } => Status::DoesNotFit,
            Error::OverBudget { .. } => Status::OverBudget,
            Error::OutOfMemory { .. } => Status::OutOfMemory,
            Error::DeviceLost { .. } => Status::DeviceLost,
            Error::Gpu { .. } => Status::Gpu,
            Error::Checkpoint { .. } | Error::NotTheFile { .. } | Error::MissingTensors { .. } => Status::Checkpoint,
            Error::NotFinite { .. } => Status::NotFinite,
            Error::Image { .. } | Error::ImageTooLarge { .. } => Status::Image,
            Error::PromptTooLong { .. } => Status::PromptTooLong,
            Error::OverSlots { .. } | Error::Request { .. } => Status::Request,
            Error::Cancelled => Status::Cancelled,
            Error::Io { .. } => Status::Io,
            // Nothing here asks for what these are about: custom kernels, downloads, files that others hold.
            _ => Status::Fault,
        }
    }
}

/// The advice at the end of a message, in terms of this interface.
fn advice(error: &Error) -> String {
    match error {
        Error::OverBudget { settings, .. } if settings.is_empty() => "; nothing makes it small enough".into(),
        Error::OverBudget { settings, .. } => {
            let settings: Vec<String> = settings.iter().map(options).collect();
            format!("; options under which it fits: {}; fewer \"slots\" take less, too", settings.join(" or "))
        }
        Error::ImageTooLarge { .. } => " (the option \"max_pixels\")".into(),
        _ => String::new(),
    }
}

/// A setting as an object of options.
fn options(setting: &Setting) -> String {
    let fields = [
        setting.weight_bits.map(|bits| if bits < 16 { format!("\"weights\": \"q{bits}\"") } else { f16() }),
        setting.offload.then(|| "\"offload\": true".into()),
        setting.budget_bytes.map(|bytes| format!("\"budget_bytes\": {bytes}")),
    ];
    format!("{{{}}}", fields.into_iter().flatten().collect::<Vec<String>>().join(", "))
}

fn f16() -> String {
    "\"weights\": \"f16\"".into()
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// Does the work of a call, keeps the text of its failure, and lets no panic out.
pub fn guard(work: impl FnOnce() -> Result<(), Failure>) -> Status {
    let failure = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => return Status::Ok,
        Ok(Err(failure)) => failure,
        Err(_) => Failure { status: Status::Fault, text: "a fault of the library; please report it".into() },
    };
    let text = CString::new(failure.text.replace('\0', " ")).unwrap_or_default();
    // A thread that ends may have lost its place for the text already.
    let _ = LAST.try_with(|last| last.replace(text));
    failure.status
}

/// Says what went wrong in the last call of this thread that gave another status than INSTRUCTBLIP_STATUS_OK, and what
/// to do about it; an empty text before there is one. It holds until the thread's next call that fails.
#[unsafe(no_mangle)]
pub extern "C" fn instructblip_last_error() -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    #[test]
    fn a_panic_is_a_code_and_a_text() {
        assert_eq!(guard(|| panic!("inside, as this test wants")), Status::Fault);
        // SAFETY: the text holds until the next failure of this thread.
        let text = unsafe { CStr::from_ptr(instructblip_last_error()) };
        assert_eq!(text.to_str(), Ok("a fault of the library; please report it"));
        assert_eq!(guard(|| Ok(())), Status::Ok);
    }

    #[test]
    fn advice_is_in_terms_of_options() {
        let settings = vec![
            Setting { weight_bits: Some(4), ..Setting::default() },
            Setting { offload: true, budget_bytes: Some(7), ..Setting::default() },
        ];
        let (what, parts) = (String::from("a model"), String::from("parts"));
        let over = Error::OverBudget { what, parts, need_bytes: 2000, budget_bytes: 1000, settings };
        let Failure { status, text } = over.into();
        assert_eq!(status, Status::OverBudget);
        assert!(
            text.ends_with(
                r#"fits: {"weights": "q4"} or {"offload": true, "budget_bytes": 7}; fewer "slots" take less, too"#
            ),
            "{text}"
        );
    }
}
