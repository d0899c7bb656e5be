//! Opening a model and closing it.

use std::ffi::{c_char, c_int, c_void};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ThreadId};

use instructblip::config::Config;
use instructblip::runtime::{Watch, Work};
use instructblip::{Checkpoint, Device, DeviceOptions, Engine, Error, InstructBlip, embedded};

use crate::arguments::{array, object, place, reference, text};
use crate::settings::Settings;
use crate::status::{Failure, Status, guard};

/// The work that is done while a model is opened.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The GPU is opened; nothing is counted.
    Opening = 0,
    /// Kernels are compiled, which some drivers take minutes for the first time; they are counted.
    Compiling = 1,
    /// Weights are read and brought to the GPU; bytes are counted.
    Loading = 2,
    /// Something else is done; nothing is counted.
    Working = 3,
}

/// A function that hears how far opening has come, many times a second, on the thread that opens. What it returns other
/// than 0 stops it. It may call instructblip_cancel and nothing else of this library.
pub type OnProgress = Option<unsafe extern "C" fn(stage: Stage, done: u64, total: u64, user: *mut c_void) -> c_int>;

/// A file of a model in memory.
#[repr(C)]
#[derive(Debug)]
pub struct File {
    /// Its name in the model's folder, with / for folders: qformer_tokenizer/tokenizer.json.
    pub name: *const c_char,
    /// Its bytes, which are copied.
    pub data: *const u8,
    /// The number of bytes.
    pub length: usize,
}

/// A model to open, and the way to do it. Set all of it to zero first; then NULL, 0 and nothing are the usual.
#[repr(C)]
#[derive(Debug)]
pub struct Load {
    /// The model's folder, as `save_pretrained` writes it. NULL without files is the model inside this library, which
    /// knows pictures of coloured shapes and nothing else.
    pub path: *const c_char,
    /// The model's files, if they are in memory; `path` is then their name in messages.
    pub files: *const File,
    /// The number of files.
    pub file_count: usize,
    /// A part of the name of the GPU to use, upper or lower case. NULL takes the best.
    pub adapter: *const c_char,
    /// Options as a JSON object: {"weights": "q8", "slots": 1}. All of them, with their defaults:
    /// "weights": null, "f16", "q8" or "q4" for all parts, which are as stored unless told;
    /// "vision_weights": null, the same for the vision tower;
    /// "qformer_weights": null, for the Q-Former;
    /// "language_weights": null, for the language model;
    /// "budget_bytes": null, the most GPU memory to use, what the GPU has unless told;
    /// "offload": false, true if vision and language are to take turns in that memory;
    /// "kv_cache": null, "f32" or "f16" for the keys and values of what was read, else what suits model and GPU;
    /// "lora": null, the folder of an adapter to merge into the weights;
    /// "slots": 8, how many answers, or beams of one, are made side by side, from 1 to 256;
    /// "new_tokens": 256, how long an answer memory is taken for, for each slot, from 1 to 65536;
    /// "max_pixels": 178956970, the most pixels that a picture may have;
    /// "exif_rotate": false, true if pictures are to be turned as their cameras say;
    /// "kernel_cache": null, the folder that compiled kernels are kept in, "" for none, one in the user's cache unless
    /// told. One that is named is made, and refused where it cannot be written to.
    pub options: *const c_char,
    /// Hears how far it has come.
    pub on_progress: OnProgress,
    /// Whatever `on_progress` is to be given.
    pub user: *mut c_void,
}

/// An open model. Any number of threads may ask it at once.
pub struct Model {
    engine: Engine,
    name: String,
    device: String,
    config: Config,
    /// Tokens that each slot has room for besides the new ones.
    prompt_room: u32,
}

impl Model {
    /// The engine that has the model.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The model's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of the device that the model is on.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// The model's configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// An error of the engine, with the options under which there is room for an answer that has none.
    pub fn failure(&self, error: Error) -> Failure {
        match error {
            Error::OverSlots { need_slots, slots, need_tokens, tokens } => {
                let most = need_slots.max(slots);
                let lacks_tokens = need_tokens > tokens / slots * most;
                let new_tokens = need_tokens.div_ceil(most).saturating_sub(self.prompt_room).max(1);
                let options = [
                    (need_slots > slots).then(|| format!("\"slots\": {need_slots}")),
                    lacks_tokens.then(|| format!("\"new_tokens\": {new_tokens}")),
                ];
                let options: Vec<String> = options.into_iter().flatten().collect();
                Failure::request(format!("{}; or open the model with {{{}}}", error.fault(), options.join(", ")))
            }
            other => other.into(),
        }
    }

    fn start(model: InstructBlip, settings: &Settings) -> Result<Model, Failure> {
        let (name, device) = (model.name().to_string(), model.device().name().to_string());
        let config = model.config().clone();
        let options = settings.engine_options(&model);
        let prompt_room = options.tokens - settings.new_tokens();
        Ok(Model { engine: Engine::start(model, &options)?, name, device, config, prompt_room })
    }
}

/// A caller's function, and what it is to be given.
struct Hearer {
    on_progress: OnProgress,
    user: *mut c_void,
    /// The thread that opens, and the only one that calls the function.
    thread: ThreadId,
    stopped: AtomicBool,
    /// The model is open: nobody is told any more.
    done: AtomicBool,
}

// SAFETY: the function and the pointer are used on the thread that gave them, and only while its call lasts.
unsafe impl Send for Hearer {}
// SAFETY: as above; the rest is atomic.
unsafe impl Sync for Hearer {}

impl Hearer {
    fn hear(&self, work: &Work) -> ControlFlow<()> {
        if self.done.load(Ordering::Relaxed) {
            return ControlFlow::Continue(());
        }
        if let Some(on_progress) = self.on_progress.filter(|_| thread::current().id() == self.thread) {
            let (stage, done, total) = match work {
                Work::Opening => (Stage::Opening, 0, 0),
                Work::Compiling(now) => (Stage::Compiling, now.done as u64, now.total as u64),
                Work::Loading { done, total } => (Stage::Loading, *done, *total),
                _ => (Stage::Working, 0, 0),
            };
            // SAFETY: this is the caller's thread, which is in the call that it gave the function to.
            if unsafe { on_progress(stage, done, total, self.user) } != 0 {
                self.stopped.store(true, Ordering::Relaxed);
            }
        }
        if self.stopped.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl Load {
    /// Opens the model.
    ///
    /// # Safety
    /// Every pointer is as its field says.
    unsafe fn open(&self) -> Result<Model, Failure> {
        // SAFETY: the caller's promise.
        let (checkpoint, adapter, options) =
            unsafe { (self.checkpoint()?, text(self.adapter, "adapter")?, object(self.options, "options")?) };
        let settings = Settings::of(options)?;
        let load_options = settings.load_options()?;
        let hearer = Arc::new(Hearer {
            on_progress: self.on_progress,
            user: self.user,
            thread: thread::current().id(),
            stopped: AtomicBool::new(false),
            done: AtomicBool::new(false),
        });
        let told = hearer.clone();
        let watch = Watch::new(move |work| told.hear(work));
        let (adapter, cache) = (adapter.map(String::from), settings.kernel_cache()?);
        let device = Device::open(&DeviceOptions { adapter, cache, watch, ..DeviceOptions::default() })?;
        let model = Model::start(InstructBlip::load_with(&device, &checkpoint, &load_options)?, &settings);
        hearer.done.store(true, Ordering::Relaxed);
        model
    }

    unsafe fn checkpoint(&self) -> Result<Checkpoint, Failure> {
        // SAFETY: the caller's promise.
        let (path, files) = unsafe { (text(self.path, "path")?, array(self.files, self.file_count, "files")?) };
        if files.is_empty() {
            return Ok(path.map_or(Ok(embedded::SHAPES.clone()), Checkpoint::directory)?);
        }
        let read = |file: &File| -> Result<(String, Vec<u8>), Failure> {
            // SAFETY: the caller's promise.
            let name = unsafe { text(file.name, "the name of a file")? };
            let name = name.ok_or_else(|| Failure::argument("the name of a file is NULL"))?;
            // SAFETY: the caller's promise.
            Ok((name.into(), unsafe { array(file.data, file.length, name)? }.to_vec()))
        };
        let files = files.iter().map(read).collect::<Result<Vec<_>, Failure>>()?;
        Ok(Checkpoint::memory(path.unwrap_or("the model in memory"), files))
    }
}

/// Opens a model, which takes from a second to minutes, and gives it at `model`; to be closed with instructblip_close.
/// Any thread may open any number of models.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn instructblip_open(load: *const Load, model: *mut *mut Model) -> Status {
    guard(|| {
        // SAFETY: the caller's pointers, as the header wants them.
        unsafe {
            let model = place(model, "model")?;
            *model = Box::into_raw(Box::new(reference(load, "load")?.open()?));
        }
        Ok(())
    })
}

/// Closes a model, after all calls that were given it have ended, and frees its memory. Blocks until the step that the
/// GPU is at is done. From any thread, but from no callback. NULL is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn instructblip_close(model: *mut Model) {
    if !model.is_null() {
        // SAFETY: it comes from `instructblip_open` and nobody uses it any more, the caller promises.
        let model = unsafe { Box::from_raw(model) };
        let _ = catch_unwind(AssertUnwindSafe(|| drop(model)));
    }
}
