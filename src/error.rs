//! The library's error type: one variant per thing a caller can act on.

use std::fmt;
use std::path::PathBuf;

/// A `Result` whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Tells whether an error is that of a full disk, which may change.
pub fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

/// The failure of a call, with the numbers and names needed to act on it.
///
/// Match on variants, never on message text.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// No graphics adapter fits the request.
    NoAdapter {
        /// The adapter that was asked for, in words ("any", or the name given).
        wanted: String,
        /// The adapters that were found, one line each.
        found: Vec<String>,
    },
    /// Something does not fit a limit of the device or of the program.
    DoesNotFit {
        /// The thing that does not fit, in words.
        what: String,
        /// The amount that it needs, in the unit that `what` names.
        need: u64,
        /// The amount that there is, in the same unit.
        have: u64,
    },
    /// A model would take more memory on the device than it may.
    OverBudget {
        /// The model.
        what: String,
        /// The memory that the model takes, part by part, in words.
        parts: String,
        /// The bytes that the model takes at its peak.
        need_bytes: u64,
        /// The bytes that the model may take.
        budget_bytes: u64,
        /// Settings under which the model fits, from the least changed on.
        settings: Vec<Setting>,
    },
    /// The device ran out of memory while `what` was being allocated.
    OutOfMemory {
        /// The thing that was being allocated.
        what: String,
        /// Size of the allocation.
        need_bytes: u64,
    },
    /// The GPU was lost or reset; every tensor on it is gone.
    DeviceLost {
        /// The driver's reason, in words.
        reason: String,
    },
    /// The graphics layer refused something this library asked for: a bug here or in a driver.
    Gpu {
        /// The work that was being done.
        what: String,
        /// The first complaint of the graphics layer, shortened.
        problem: String,
    },
    /// A custom kernel does not compile or does not fit where it was put.
    Kernel {
        /// The file.
        file: String,
        /// The line in it, where there is one at fault.
        line: Option<u32>,
        /// A description of the fault.
        problem: String,
        /// The text of that line.
        excerpt: Option<String>,
    },
    /// A checkpoint file is missing, damaged or describes something this library does not run.
    Checkpoint {
        /// The file (or directory) at fault.
        file: PathBuf,
        /// A description of the fault and of what to do about it.
        problem: String,
    },
    /// A file of a checkpoint is something else that a failed download left, or a link to nothing; fetching the
    /// checkpoint again helps.
    NotTheFile {
        /// The file.
        file: PathBuf,
        /// A description of what is there, up to the words that say to fetch the model.
        problem: String,
    },
    /// A repository of the hub is not in the cache, or not all of it.
    NotCached {
        /// The repository, `owner/name`.
        repo: String,
        /// The revision, where another than `main` was asked for.
        revision: Option<String>,
        /// The folder of the cache.
        cache: PathBuf,
    },
    /// Tensors the model needs are absent from the checkpoint.
    MissingTensors {
        /// The checkpoint directory or file.
        file: PathBuf,
        /// Every missing name, in the order the model wants them.
        names: Vec<String>,
        /// The number of tensors that the model needs in all.
        need: usize,
        /// The names of tensors that the checkpoint has and the model does not need.
        unused: Vec<String>,
    },
    /// A stage of the model gave values that are not numbers, or infinite: its weights are damaged, or too large.
    NotFinite {
        /// The stage.
        stage: &'static str,
    },
    /// The GPU computes something else than a reference: neither its times nor its answers are to be trusted.
    Incorrect {
        /// The computation, or the check that found it.
        what: String,
        /// The difference between the results.
        problem: String,
    },
    /// A picture cannot be read.
    Image {
        /// The place that the picture came from.
        name: String,
        /// A description of the fault.
        problem: String,
    },
    /// A picture has more pixels than may be decoded.
    ImageTooLarge {
        /// The place that the picture came from.
        name: String,
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// The most pixels that a picture may have.
        max_pixels: u64,
    },
    /// A prompt has more tokens than some table or context holds.
    PromptTooLong {
        /// The table or context that the prompt does not fit into.
        what: &'static str,
        /// The number of tokens that are needed.
        need: usize,
        /// The number of tokens that fit.
        have: usize,
    },
    /// An answer may take more than all slots of an engine have together.
    OverSlots {
        /// Slots that the answer takes: its beams, or the answers to return.
        need_slots: u32,
        /// Slots that there are.
        slots: u32,
        /// Tokens that the answer may take: the prompt's, and new ones in each of its slots.
        need_tokens: u32,
        /// Tokens that all slots have memory for together.
        tokens: u32,
    },
    /// A prompt or an option is not acceptable.
    Request {
        /// A description of the fault and of what to do about it.
        problem: String,
    },
    /// The work was stopped, by whoever asked for it or because its engine ended.
    Cancelled,
    /// A model could not be had from the hub.
    Download {
        /// The repository, file or server that the error is about.
        what: String,
        /// A description of the fault and of what to do about it.
        problem: String,
        /// True if the same call may succeed later, because the trouble is the network's or the server's and no
        /// refusal.
        again: bool,
    },
    /// Another process works at a file.
    InUse {
        /// The file.
        path: PathBuf,
        /// The process, in words.
        holder: String,
    },
    /// A file could not be read or written.
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
}

impl Error {
    pub(crate) fn checkpoint(file: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Error::Checkpoint { file: file.into(), problem: problem.into() }
    }

    /// The message without the advice at its end, which is in terms of this library: for a program that gives advice in
    /// its own.
    pub fn fault(&self) -> impl fmt::Display {
        Fault(self)
    }

    pub(crate) fn image(name: impl Into<String>, problem: impl Into<String>) -> Self {
        Error::Image { name: name.into(), problem: problem.into() }
    }

    pub(crate) fn request(problem: impl Into<String>) -> Self {
        Error::Request { problem: problem.into() }
    }

    #[cfg(feature = "hub")]
    pub(crate) fn download(what: impl Into<String>, problem: impl Into<String>, again: bool) -> Self {
        Error::Download { what: what.into(), problem: problem.into(), again }
    }

    pub(crate) fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Error::Io { path: path.into(), source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.fault())?;
        match self {
            Error::OverBudget { settings, .. } => match settings.as_slice() {
                [] => f.write_str("; nothing makes it small enough"),
                settings => {
                    let settings: Vec<String> = settings.iter().map(Setting::to_string).collect();
                    write!(f, "; what fits, of LoadOptions: {}", settings.join("; "))
                }
            },
            Error::NotFinite { .. } => f.write_str("; ForwardOptions::taps show where it begins"),
            Error::NotTheFile { .. } => f.write_str(" with Hub::pull"),
            Error::NotCached { .. } => f.write_str("; Hub::pull fetches it"),
            Error::ImageTooLarge { .. } => f.write_str(" (ImageOptions::max_pixels)"),
            Error::OverSlots { .. } => f.write_str(", or give the engine more (EngineOptions::slots and tokens)"),
            _ => Ok(()),
        }
    }
}

/// An error's message without the advice at its end.
struct Fault<'a>(&'a Error);

impl fmt::Display for Fault<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Error::NoAdapter { wanted, found } => no_adapter(f, wanted, found),
            Error::DoesNotFit { what, need, have } => write!(f, "{what}: needs {need}, have {have}"),
            Error::OverBudget { what, parts, need_bytes, budget_bytes, .. } => {
                let (need, have) = (Bytes(*need_bytes), Bytes(*budget_bytes));
                write!(f, "{what} needs {need} on the device ({parts}), may take {have}")
            }
            Error::OutOfMemory { what, need_bytes } => write!(
                f,
                "out of GPU memory: {what} needs {need_bytes} more bytes; close other programs or use a smaller model"
            ),
            Error::DeviceLost { reason } => write!(f, "the GPU was lost ({reason}); start again"),
            Error::Gpu { what, problem } => write!(f, "{what} was refused by the graphics driver: {problem}"),
            Error::Kernel { file, line, problem, excerpt } => {
                write!(f, "{file}:")?;
                line.map_or(Ok(()), |line| write!(f, "{line}:"))?;
                write!(f, " {problem}")?;
                excerpt.as_ref().map_or(Ok(()), |excerpt| write!(f, ": `{excerpt}`"))
            }
            Error::Checkpoint { file, problem } | Error::NotTheFile { file, problem } => {
                write!(f, "{}: {problem}", file.display())
            }
            Error::NotCached { repo, revision, cache } => {
                let revision = revision.as_ref().map_or(String::new(), |revision| format!("@{revision}"));
                write!(
                    f,
                    "{repo}{revision}: no such directory, and no complete model of this name in {}",
                    cache.display()
                )
            }
            Error::MissingTensors { file, names, need, unused } => {
                write!(f, "{}: missing {} of {need} tensors: {}", file.display(), names.len(), some(names, 10))?;
                unneeded(f, unused)
            }
            Error::NotFinite { stage } => write!(
                f,
                "the {stage} gave values that are not finite, so there is no answer: its weights are damaged or beyond \
                 what 32-bit floats can add up"
            ),
            Error::ImageTooLarge { name, width, height, max_pixels } => {
                let pixels = u64::from(*width) * u64::from(*height);
                write!(f, "{name}: the picture has {pixels} pixels ({width}x{height}); the limit is {max_pixels}")
            }
            Error::PromptTooLong { what, need, have } => write!(
                f,
                "the prompt is too long: {what} has room for {have} tokens, this needs {need}; shorten the prompt"
            ),
            Error::OverSlots { need_slots, slots, need_tokens, tokens } => {
                over_slots(f, (*need_slots, *slots), (*need_tokens, *tokens))
            }
            Error::Cancelled => f.write_str("stopped before it was done"),
            Error::Request { problem } => f.write_str(problem),
            Error::Image { name: what, problem }
            | Error::Download { what, problem, .. }
            | Error::Incorrect { what, problem } => write!(f, "{what}: {problem}"),
            Error::InUse { path, holder } => write!(f, "{} is in use by {holder}", path.display()),
            Error::Io { path, source } => write!(f, "{}: {source}", path.display()),
        }
    }
}

/// The message of [`Error::NoAdapter`].
fn no_adapter(f: &mut fmt::Formatter<'_>, wanted: &str, found: &[String]) -> fmt::Result {
    if found.is_empty() {
        return write!(
            f,
            "no usable GPU (wanted {wanted}; found none): install a Vulkan, Metal or DX12 driver; \
             on Linux without a GPU, Mesa's software driver will do (package mesa-vulkan-drivers)"
        );
    }
    let found = found.join("; ");
    let hint = if wanted == "any" { "a newer driver may allow more" } else { "name one of these or none" };
    write!(f, "no usable GPU matches (wanted {wanted}); found: {found}; {hint}")
}

/// The message of [`Error::OverSlots`], of what is needed and there of slots and of tokens.
fn over_slots(f: &mut fmt::Formatter<'_>, slots: (u32, u32), tokens: (u32, u32)) -> fmt::Result {
    let lack = [
        (slots.0 > slots.1).then(|| format!("takes {} slots, of which there are {}", slots.0, slots.1)),
        (tokens.0 > tokens.1).then(|| {
            format!("may take {} tokens, prompt included, and all slots have room for {}", tokens.0, tokens.1)
        }),
    ];
    let lack: Vec<String> = lack.into_iter().flatten().collect();
    write!(f, "the answer {}: ask for fewer tokens, answers or beams", lack.join("; it "))
}

/// The end of the message of [`Error::MissingTensors`].
fn unneeded(f: &mut fmt::Formatter<'_>, names: &[String]) -> fmt::Result {
    match names.len() {
        0 => Ok(()),
        n => write!(f, "; it has {n} that this model does not need: {}", some(names, 5)),
    }
}

/// The first names of a list, and how many more there are.
fn some(names: &[String], most: usize) -> String {
    let first = names.iter().take(most).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(most) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

// No `source`: messages tell their cause, and who prints a whole chain would tell it twice.
impl std::error::Error for Error {}

/// A way to load a model: the fields of [`LoadOptions`](crate::model::LoadOptions) that it changes, and the memory
/// that the model takes then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Setting {
    /// Bits of a weight: `formats` are the usual ones with so many. `None` leaves them as they are.
    pub weight_bits: Option<u32>,
    /// True if the stages take turns: `offload`.
    pub offload: bool,
    /// Layers of the language model that take turns, and how many there are: they are read again for every token.
    pub turns: Option<(u32, u32)>,
    /// The budget that has to be set: `budget_bytes`.
    pub budget_bytes: Option<u64>,
    /// The bytes that the model takes at its peak.
    pub peak_bytes: u64,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Setting { weight_bits, offload, turns, budget_bytes, peak_bytes } = *self;
        let options = [
            weight_bits.map(|bits| format!("formats of {bits} bits")),
            offload.then(|| "offload".into()),
            budget_bytes.map(|bytes| format!("budget_bytes {bytes}")),
        ];
        f.write_str(&options.into_iter().flatten().collect::<Vec<String>>().join(", "))?;
        if let Some((turns, layers)) = turns {
            write!(f, " with {turns} of {layers} layers read again for every token, slow")?;
        }
        write!(f, " ({})", Bytes(peak_bytes))
    }
}

/// A number of bytes, shown as people read it: `15.8 GB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(
    /// The number.
    pub u64,
);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
        match units.into_iter().find(|(unit, _)| self.0 >= *unit) {
            Some((unit, name)) => write!(f, "{:.1} {name}", self.0 as f64 / unit as f64),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

/// The heart of a driver's message: enough to search for, and short enough to read.
pub(crate) fn first_line(message: &str) -> String {
    // wgpu begins with headings; the causes come last.
    let says = |l: &&str| !l.is_empty() && !["Validation Error", "Caused by:"].contains(l) && !l.starts_with("In ");
    let line = message.lines().map(str::trim).filter(says).take(2).collect::<Vec<_>>().join(": ");
    line.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drivers_message_is_cut_to_what_it_says() {
        let dump =
            format!("Validation Error\n\nCaused by:\n  In Device::create, label = 'x'\n    {}", "é ".repeat(400));
        let line = first_line(&dump);
        assert!(line.starts_with("é é") && line.chars().count() <= 200, "{line}");
    }
}
