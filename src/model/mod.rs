//! `InstructBlip`: loading, and the chain from pictures and prompts to text. The only room that knows every stage.

mod ask;
mod attention;
mod encode;
mod forward;
mod load;
mod look;
mod memory;
mod options;
mod quantize;
mod reply;
mod residence;
mod score;
mod serve;
mod sources;

use std::sync::Arc;

pub use attention::AttentionMaps;
pub(crate) use encode::{Encoded, Pixels};
pub use forward::{Features, ForwardOptions, IGNORED_LABEL};
pub use memory::{MemoryPlan, PartBytes};
pub use options::{LoadOptions, Workload};
pub use quantize::{Quantized, quantize};
pub use reply::{Answer, AnswerText, NamedTensor, Reply, Timings, Values};
pub use score::Score;
pub(crate) use serve::{Asked, Seat, Wanted};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::generate::Capacity;
use crate::language::Language;
use crate::processor::{Image, PassOrder, Processor};
use crate::qformer::QFormer;
use crate::runtime::{Device, Tensor, Watch};
use crate::vision::Vision;
use crate::weights::{LoadReport, Loaded, Loader, Part, Placement, TensorFiles};
use look::VisionStage;
use residence::{LanguageStage, Residence};

/// Most rows of one run: more take the GPU no less time each.
const MAX_RUN_ROWS: usize = 256;

/// Most tokens of several prompts that go through the language model in one pass.
const PASS_TOKENS: u32 = 512;

/// The three neural parts of a model.
#[derive(Debug)]
pub struct Parts {
    /// The vision tower.
    pub vision: Vision,
    /// The Q-Former and the projection.
    pub qformer: QFormer,
    /// The language model.
    pub language: Language,
}

impl Parts {
    /// Takes every weight the model needs from `w`.
    ///
    /// # Errors
    /// As [`Loader::linear`].
    pub fn load(w: &mut Loader<'_>, config: &Config) -> Result<Parts> {
        let (vision, qformer) = Parts::load_vision_stage(w, config)?;
        Ok(Parts { vision, qformer, language: Parts::load_language(w, config)? })
    }

    /// The shapes of all parts in these formats and places, and what they take: from `files`, whose names, shapes and
    /// types are checked, or from the configuration alone.
    fn survey(files: Option<&Arc<TensorFiles>>, config: &Config, placement: Placement) -> Result<(Parts, Loaded)> {
        let mut loader = Loader::survey(files, placement);
        let parts = Parts::load(&mut loader, config)?;
        Ok((parts, loader.finish()?))
    }

    fn load_vision_stage(w: &mut Loader<'_>, config: &Config) -> Result<(Vision, QFormer)> {
        let (queries, width, text) = (config.num_query_tokens, config.text.hidden_size(), config.qformer_reads_text());
        w.part(Part::Vision);
        let vision = Vision::load(w, &config.vision)?;
        w.part(Part::QFormer);
        Ok((vision, QFormer::load(w, &config.qformer, &config.vision, queries, width, text)?))
    }

    fn load_language(w: &mut Loader<'_>, config: &Config) -> Result<Language> {
        w.part(Part::Language);
        Language::load(w, &config.text)
    }
}

/// A question to a model: a picture (or the frames of a video) and a prompt.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// One picture; several frames for video models.
    pub images: &'a [Image],
    /// The question or instruction.
    pub prompt: &'a str,
    /// The prompt that the Q-Former reads instead.
    pub qformer_prompt: Option<&'a str>,
}

impl<'a> Question<'a> {
    /// A question about one picture, which the Q-Former reads too.
    pub fn new(image: &'a Image, prompt: &'a str) -> Question<'a> {
        Question { images: std::slice::from_ref(image), prompt, qformer_prompt: None }
    }
}

/// A loaded model: ask it about pictures.
///
/// # In a program with a window
///
/// - **Threads.** [`Device`], [`Image`], [`GenerateOptions`](crate::GenerateOptions), [`Watch`] and
///   [`Engine`](crate::Engine) may be shared between threads, and a model may go from one to another; an
///   [`Answer`] and the [`Pending`](crate::engine::Pending) of an engine may, too. A model answers one caller
///   at a time (`&mut self`); an engine answers many side by side, from any thread.
/// - **Waiting.** [`Device::open`] waits for the driver, some tens of milliseconds to a second;
///   [`InstructBlip::load`] for the disk and for kernels to be compiled, seconds; an answer for the GPU, milliseconds a token.
///   None of them is for the thread that draws. [`Engine::try_submit`](crate::Engine::try_submit),
///   [`Pending::next_within`](crate::engine::Pending::next_within) with no time,
///   [`Canceller::cancel`](crate::engine::Canceller::cancel) and [`Engine::counters`](crate::Engine::counters) do not wait.
/// - **Progress and stopping.** A [`Watch`] hears of everything that takes long and may end it:
///   [`DeviceOptions::watch`](crate::DeviceOptions::watch) while a device opens, [`Device::watched`]
///   while a model loads, [`InstructBlip::set_watch`] later. An answer that comes in pieces ends when it is dropped, a request
///   to an engine when its [`Pending`](crate::engine::Pending) is dropped or by its canceller. Stopping takes no longer than a
///   dispatch, or some tens of milliseconds; while kernels compile, as long as one of them does. The model works on.
/// - **The GPU.** [`list_adapters`](crate::runtime::list_adapters) is for a menu;
///   [`DeviceOptions::adapter`](crate::DeviceOptions::adapter) takes the name that was chosen. A device of the model's own is
///   better than the window's, in whose queue frames would wait for answers; `Device::from_wgpu` (feature `from-wgpu`) takes
///   the window's all the same.
/// - **Memory.** [`MemoryPlan`] says from headers alone what a model takes in any format, and [`LoadOptions::budget_bytes`]
///   refuses what takes more, before anything is uploaded. Where two models take turns, drop one before the other is loaded.
/// - **The second start.** With [`DeviceOptions::cache`](crate::DeviceOptions::cache) of
///   [`kernel_cache`](crate::runtime::kernel_cache) compiled kernels are kept from one start to the next, where the driver
///   gives them out; a library keeps nothing on the disk unless it is asked to.
pub struct InstructBlip {
    device: Device,
    name: String,
    config: Config,
    processor: Processor,
    /// Shapes of all parts, without memory.
    shapes: Parts,
    residence: Residence,
    vision: Option<VisionStage>,
    language: Option<LanguageStage>,
    /// The slots that an engine asked for.
    slots: Option<Capacity>,
    /// Most pictures that are looked at in one pass.
    at_once: u32,
    memory: MemoryPlan,
    /// Pixels of a picture's side, where it is not the checkpoint's.
    side: Option<u32>,
    stop: Vec<u32>,
    left_padding: bool,
    load_ms: f64,
    report: LoadReport,
}

impl InstructBlip {
    /// The memory that the model takes on the device, as it was planned before it was loaded.
    pub fn memory(&self) -> &MemoryPlan {
        &self.memory
    }

    /// A report of what was read, how fast, and what was seen of the weights' values.
    pub fn load_report(&self) -> &LoadReport {
        &self.report
    }

    /// Takes pictures of `side` pixels a side instead of the checkpoint's size, with its positions interpolated
    /// (`interpolate_pos_encoding` in the reference).
    ///
    /// # Errors
    /// [`Error::Request`] if there would be no patch, or too many; or a failure of the device.
    pub fn with_image_size(mut self, side: u32) -> Result<InstructBlip> {
        let patch = self.config.vision.patch_size;
        let most = 127 * patch;
        if !(patch..=most).contains(&side) {
            return Err(Error::request(format!(
                "pictures of {side} pixels a side; from {patch} to {most} are possible"
            )));
        }
        self.bring_vision()?;
        let stage = self.vision.as_mut().expect("brought just now");
        stage.resize(side)?;
        self.side = Some(side);
        self.config.vision.image_size = side;
        self.processor = self.processor.with_image_size(side);
        Ok(self)
    }

    /// Pads the Q-Former's words of a batch on the left, to its longest prompt, as the reference does for checkpoints
    /// whose language model's `tokenizer_config.json` says `"padding_side": "left"` (LLaMA's). It shifts the words'
    /// positions, so an answer then depends on its batch; by default nothing is padded. To an
    /// [`Engine`](crate::Engine) every question is a batch of its own, which has nothing to pad.
    #[must_use]
    pub fn with_left_padding(mut self, left: bool) -> InstructBlip {
        self.left_padding = left;
        self
    }

    /// Lets special tokens written in a prompt, such as `</s>`, be those tokens, as the reference does; by default they
    /// are plain text, so that no prompt can end or begin what it should not.
    #[must_use]
    pub fn with_special_tokens(mut self) -> InstructBlip {
        self.processor = self.processor.with_special_tokens();
        self
    }

    /// Resizes pictures with the passes in this order; the default is that of Pillow before 13.
    #[must_use]
    pub fn with_pass_order(mut self, order: PassOrder) -> InstructBlip {
        self.processor = self.processor.with_pass_order(order);
        self
    }

    /// Has this watch hear of the model's work, and of nobody else's.
    pub fn set_watch(&mut self, watch: Watch) {
        self.device.set_watch(watch);
    }

    /// The checkpoint's directory, or the embedded model's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The device the model is on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The checkpoint's configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The processor of pictures and prompts.
    pub fn processor(&self) -> &Processor {
        &self.processor
    }

    /// A device tensor as `[1, rows, cols]` on the host.
    fn bring_back(&self, name: &str, tensor: &Tensor) -> Result<NamedTensor> {
        let shape = [1, tensor.rows() as usize, tensor.cols() as usize];
        Ok(NamedTensor::f32(name, &shape, self.device.read(tensor)?))
    }
}
