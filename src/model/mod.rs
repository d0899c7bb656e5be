//! `InstructBlip`: loading, and the chain from pictures and prompts to text. The only room that knows every stage.

mod forward;
mod load;
mod memory;
mod quantize;
mod reply;
mod residence;
mod score;
mod sources;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

pub use forward::{AttentionMaps, Features, ForwardOptions, IGNORED_LABEL};
pub use load::LoadOptions;
pub use memory::{MemoryPlan, PartBytes, Workload};
pub use quantize::{Quantized, quantize};
pub use reply::{Answer, AnswerText, NamedTensor, Reply, Timings, Values};
pub use score::Score;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::generate::session::Prefill;
use crate::generate::{self, GenerateOptions, Limits, PromptInputs, Prompted, Sequence};
use crate::language::Language;
use crate::processor::{Image, PassOrder, Processor, Prompt};
use crate::qformer::{QFormer, QFormerOutput};
use crate::runtime::ops::attention::Mask;
use crate::runtime::recorder::Recorder;
use crate::runtime::{Category, Device, Tensor};
use crate::vision::Vision;
use crate::weights::{LoadReport, Loader, Part};
use residence::{Home, Seeing, Speaking};

/// Most rows of one run: more take the GPU no less time each.
const MAX_RUN_ROWS: usize = 256;

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
        let (vision, qformer) = Parts::load_seeing(w, config)?;
        Ok(Parts { vision, qformer, language: Parts::load_language(w, config)? })
    }

    fn load_seeing(w: &mut Loader<'_>, config: &Config) -> Result<(Vision, QFormer)> {
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

/// What a model is asked: a picture (or the frames of a video) and a prompt.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// One picture; several frames for video models.
    pub images: &'a [Image],
    /// The question or instruction.
    pub prompt: &'a str,
    /// What the Q-Former reads instead of the prompt.
    pub qformer_prompt: Option<&'a str>,
}

impl<'a> Question<'a> {
    /// A question about one picture, which the Q-Former reads too.
    pub fn new(image: &'a Image, prompt: &'a str) -> Question<'a> {
        Question { images: std::slice::from_ref(image), prompt, qformer_prompt: None }
    }
}

/// A loaded model: ask it about pictures.
pub struct InstructBlip {
    device: Device,
    name: String,
    config: Config,
    processor: Processor,
    /// Shapes of all parts, without memory.
    shapes: Parts,
    home: Home,
    seeing: Option<Seeing>,
    speaking: Option<Speaking>,
    memory: MemoryPlan,
    /// Of pictures, where it is not the checkpoint's.
    side: Option<u32>,
    stop: Vec<u32>,
    left_padding: bool,
    load_ms: f64,
    report: LoadReport,
}

/// A question after the Q-Former, ready for the language model.
struct Encoded {
    prompt: Prompt,
    ids: Tensor,
    placeholders: Tensor,
    /// Of the last frame.
    qformer: QFormerOutput,
    /// `[frames Q, H]`.
    features: Tensor,
    /// Of all frames, where they were asked for.
    stages: Option<Stages>,
    pixels: Vec<f32>,
    timings: Timings,
    taps: Vec<(String, Tensor)>,
}

/// What the vision tower and the Q-Former gave for each frame, one after the other.
struct Stages {
    /// `[frames N, D]`.
    vision: Tensor,
    /// `[frames, D]`.
    pooled: Tensor,
    /// `[frames (Q + L), D]`.
    qformer: Tensor,
}

impl InstructBlip {
    /// What the model takes on the device, as it was planned before it was loaded.
    pub fn memory(&self) -> &MemoryPlan {
        &self.memory
    }

    /// What was read, how fast, and what was seen of the weights' values.
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
        self.see()?;
        let seeing = self.seeing.as_mut().expect("brought just now");
        seeing.resize(&self.device, side)?;
        self.side = Some(side);
        self.config.vision.image_size = side;
        self.processor = self.processor.with_image_size(side);
        Ok(self)
    }

    /// Pads the Q-Former's words of a batch on the left, to its longest prompt, as the reference does for checkpoints
    /// whose language model's `tokenizer_config.json` says `"padding_side": "left"` (LLaMA's). It shifts the words'
    /// positions, so an answer then depends on its batch; by default nothing is padded.
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

    /// Asks about a picture and waits for the whole answer.
    ///
    /// # Errors
    /// [`Error::PromptTooLong`], [`Error::Request`], or a failure of the device.
    pub fn ask(&mut self, image: &Image, prompt: &str, options: &GenerateOptions) -> Result<Reply> {
        let question = Question::new(image, prompt);
        Ok(self.answer(&[question], options, &mut |_| {})?.swap_remove(0))
    }

    /// Asks about a picture; the answer is an iterator over pieces of text as they become certain.
    ///
    /// # Errors
    /// [`Error::PromptTooLong`], [`Error::Request`] (also for options that make several answers at once), or a failure
    /// of the device.
    pub fn generate(&mut self, image: &Image, prompt: &str, options: &GenerateOptions) -> Result<Answer<'_>> {
        self.stream(&Question::new(image, prompt), options)
    }

    /// As [`InstructBlip::generate`], for any question.
    ///
    /// # Errors
    /// As there.
    pub fn stream(&mut self, question: &Question<'_>, options: &GenerateOptions) -> Result<Answer<'_>> {
        options.check()?;
        if !options.gives_one() {
            return Err(Error::request("an answer with beams or several answers cannot be had piece by piece"));
        }
        // The prompt first: what is wrong with it is told before the GPU is put to work.
        let prompt = self.prompt(question)?;
        let prompt_tokens = prompt.input_ids.len();
        let limits = self.limits(self.new_tokens(&prompt, options)?, options);
        let encoded = self.encode(question.images, prompt, &[], false)?;
        let started = Instant::now();
        self.speak(&[prompt_tokens as u32], 1, limits.max_new_tokens)?;
        let (language, session) = self.speaking();
        let tokens = session.start(language, &self.prompted(&encoded, options), options, limits)?;
        Ok(Answer {
            tokens,
            decoder: Some(self.processor.tokenizers().stream()),
            token_ids: Vec::new(),
            text: String::new(),
            prompt_tokens,
            timings: encoded.timings,
            started,
        })
    }

    /// Answers several questions side by side. An answer is the one its question gets alone. `progress` hears how many
    /// tokens the longest answer of those being worked at has.
    ///
    /// Questions share a run if their answers may have the same number of tokens, which `max_length` and the end of the
    /// context make depend on the prompt, and as long as there are not too many rows.
    ///
    /// # Errors
    /// [`Error::PromptTooLong`], [`Error::Request`], or a failure of the device.
    pub fn answer(
        &mut self,
        questions: &[Question<'_>],
        options: &GenerateOptions,
        progress: &mut dyn FnMut(u32),
    ) -> Result<Vec<Reply>> {
        options.check()?;
        if let ([question], true) = (questions, options.gives_one()) {
            // Fewer bytes go between host and device this way.
            let mut answer = self.stream(question, options)?;
            while let Some(piece) = answer.next() {
                piece?;
                progress(answer.token_ids().len() as u32);
            }
            return Ok(vec![answer.into_reply()]);
        }
        let mut prompts = questions.iter().map(|q| self.prompt(q)).collect::<Result<Vec<_>>>()?;
        if self.left_padding {
            let words = prompts.iter().map(|p| p.qformer_input_ids.len()).max().unwrap_or(0);
            prompts.iter_mut().for_each(|prompt| prompt.pad_qformer_left(words));
        }
        let mut runs: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (i, prompt) in prompts.iter().enumerate() {
            runs.entry(self.new_tokens(prompt, options)?).or_default().push(i);
        }
        let most = (MAX_RUN_ROWS / options.rows() as usize).max(1);
        let mut replies: Vec<Option<Reply>> = vec![None; questions.len()];
        for (new_tokens, all) in runs {
            let limits = self.limits(new_tokens, options);
            for run in all.chunks(most) {
                let asked = run.iter().map(|&i| (questions[i], prompts[i].clone())).collect();
                let answers = self.answer_together(asked, options, &limits, progress)?;
                run.iter().zip(answers).for_each(|(&i, reply)| replies[i] = Some(reply));
            }
        }
        Ok(replies.into_iter().flatten().collect())
    }

    /// Answers questions whose answers have the same limits.
    fn answer_together(
        &mut self,
        asked: Vec<(Question<'_>, Prompt)>,
        options: &GenerateOptions,
        limits: &Limits,
        progress: &mut dyn FnMut(u32),
    ) -> Result<Vec<Reply>> {
        let sizes: Vec<u32> = asked.iter().map(|(_, prompt)| prompt.input_ids.len() as u32).collect();
        let mut timings = Timings { load: self.load_ms, ..Timings::default() };
        let mut encoded = Vec::new();
        for (question, prompt) in asked {
            let one = self.encode(question.images, prompt, &[], false)?;
            timings.image += one.timings.image;
            timings.vision += one.timings.vision;
            timings.qformer += one.timings.qformer;
            encoded.push(one);
        }
        let started = Instant::now();
        self.speak(&sizes, options.rows(), limits.max_new_tokens)?;
        let prompted: Vec<Prompted<'_>> = encoded.iter().map(|e| self.prompted(e, options)).collect();
        let (language, session) = self.speaking();
        let answers = session.answer(language, &prompted, options, limits, &mut |tokens| {
            match tokens {
                1 => timings.prefill = milliseconds(started),
                _ => timings.decode = milliseconds(started) - timings.prefill,
            }
            progress(tokens);
        })?;
        let reply = |(sequences, encoded): (Vec<Sequence>, &Encoded)| {
            let texts = sequences.into_iter().map(|sequence| self.text_of(sequence)).collect();
            Reply::new(texts, encoded.prompt.input_ids.len(), timings)
        };
        Ok(answers.into_iter().zip(&encoded).map(reply).collect())
    }

    fn text_of(&self, sequence: Sequence) -> AnswerText {
        AnswerText {
            text: self.processor.tokenizers().decode(&sequence.token_ids).trim().to_string(),
            token_ids: sequence.token_ids,
            score: sequence.score,
            finish_reason: sequence.finish_reason,
        }
    }

    /// The question's ids, after everything about it that can be refused was.
    fn prompt(&self, question: &Question<'_>) -> Result<Prompt> {
        let pictures = question.images.len();
        if pictures == 0 {
            return Err(Error::request("the question has no picture"));
        }
        if pictures > 1 && !self.config.takes_frames() {
            let problem = format!(
                "{pictures} pictures were given, but this model takes one; several frames are for checkpoints whose \
                 model_type is \"instructblipvideo\""
            );
            return Err(Error::request(problem));
        }
        let qformer_prompt = question.qformer_prompt.unwrap_or(question.prompt);
        self.processor.tokenizers().encode(question.prompt, qformer_prompt, pictures)
    }

    /// Most new tokens of an answer to `prompt`.
    fn new_tokens(&self, prompt: &Prompt, options: &GenerateOptions) -> Result<u32> {
        let tokens = prompt.input_ids.len();
        let wanted = options.new_tokens(self.shapes.language.decoder_length(tokens as u32))?;
        generate::new_tokens_that_fit(tokens, self.config.text.max_positions(), wanted)
    }

    /// What ends an answer.
    fn limits(&self, max_new_tokens: u32, options: &GenerateOptions) -> Limits {
        // How many there are counts for sampling with beams.
        let mut eos = options.eos_token_ids.clone().unwrap_or_else(|| self.stop.clone());
        eos.sort_unstable();
        eos.dedup();
        let mut limits = Limits::new(max_new_tokens, &eos);
        if !options.stop_strings.is_empty() {
            let (tokenizers, stops) = (self.processor.shared_tokenizers(), options.stop_strings.clone());
            limits.has_stop = Some(Rc::new(move |tokens: &[u32]| {
                let text = tokenizers.decode(tokens);
                stops.iter().any(|stop| text.contains(stop))
            }));
        }
        limits
    }

    fn prompted<'a>(&self, encoded: &'a Encoded, options: &GenerateOptions) -> Prompted<'a> {
        let inputs = encoded.inputs();
        match self.shapes.language.decoder_start() {
            Some(start) => Prompted { inputs, history: vec![start], counted: 0 },
            None => {
                // Without places of their own the reference knows a prompt as embeddings only.
                let hidden = !options.penalize_prompt || self.config.image_token_id.is_none();
                let history = encoded.prompt.input_ids.clone();
                Prompted { inputs, counted: if hidden { history.len() } else { 0 }, history }
            }
        }
    }

    /// A device tensor as `[1, rows, cols]` on the host.
    fn bring_back(&self, name: &str, tensor: &Tensor) -> Result<NamedTensor> {
        let shape = [1, tensor.rows() as usize, tensor.cols() as usize];
        Ok(NamedTensor::f32(name, &shape, self.device.read(tensor)?))
    }

    /// Pictures and prompt through vision tower and Q-Former, with what was tapped in the latter (for the last frame),
    /// and every frame's outputs if they are to be kept.
    fn encode(&mut self, images: &[Image], prompt: Prompt, taps: &[String], keep: bool) -> Result<Encoded> {
        self.see()?;
        let (device, seeing) = (&self.device, self.seeing());
        let mut timings = Timings { load: self.load_ms, ..Timings::default() };
        let (queries, width) = (self.config.num_query_tokens, self.config.text.hidden_size());
        let features = device.zeros(Category::Io, "features", queries * images.len() as u32, width)?;
        let words = &prompt.qformer_input_ids;
        let words = match words.is_empty() {
            true => None,
            false => Some(device.tensor(Category::Io, "qformer_input_ids", 1, words.len() as u32, words)?),
        };
        // Recorded once for all frames: they look at the same words.
        let mut r = Recorder::new(device.caps()).with_taps(taps);
        let image = &seeing.output.last_hidden_state;
        let mask = prompt.qformer_attention_mask.contains(&0).then(|| {
            let seen: Vec<u32> = (0..queries).map(|_| 1).chain(prompt.qformer_attention_mask.iter().copied()).collect();
            device.tensor(Category::Io, "qformer_attention_mask", 1, seen.len() as u32, &seen)
        });
        let mask = mask.transpose()?;
        let mask = mask.as_ref().map_or(Mask::None, Mask::Keys);
        let recorded = seeing.qformer.record(&mut r, image, words.as_ref(), mask);
        let plan = r.finish(device)?;
        let qformer = QFormerOutput {
            last_hidden_state: plan.output(&recorded.last_hidden_state),
            language_model_inputs: plan.output(&recorded.language_model_inputs),
        };
        let frames = images.len() as u32;
        let room = |of: &Tensor| device.zeros(Category::Io, "stages", frames * of.rows(), of.cols());
        let (vision, pooled, looked) =
            (&seeing.output.last_hidden_state, &seeing.output.pooler_output, &qformer.last_hidden_state);
        let stages = match keep {
            true => Some(Stages { vision: room(vision)?, pooled: room(pooled)?, qformer: room(looked)? }),
            false => None,
        };
        let mut all_pixels = Vec::new();
        for (frame, image) in (0u32..).zip(images) {
            let started = Instant::now();
            let pixels = self.processor.image().pixels(image);
            timings.image += milliseconds(started);
            let started = Instant::now();
            device.write(&seeing.pixels, &pixels);
            seeing.plan.submit()?;
            device.wait()?;
            timings.vision += milliseconds(started);
            let started = Instant::now();
            plan.submit()?;
            let to = features.slice_rows(frame * queries, queries);
            device.copy(&qformer.language_model_inputs, &to)?;
            if let Some(kept) = &stages {
                for (from, to) in [(vision, &kept.vision), (pooled, &kept.pooled), (looked, &kept.qformer)] {
                    device.copy(from, &to.slice_rows(frame * from.rows(), from.rows()))?;
                }
            }
            device.wait()?;
            timings.qformer += milliseconds(started);
            all_pixels.extend(pixels);
        }
        // A forward pass is for looking at what is wrong.
        if !keep {
            let finite = |tensor: &Tensor| Ok(device.read::<f32>(tensor)?.iter().all(|v| v.is_finite()));
            if !finite(&features)? {
                let stage = if finite(vision)? { "Q-Former" } else { "vision tower" };
                return Err(Error::NotFinite { stage });
            }
        }
        let placeholders: Vec<u32> = (0..features.rows()).collect();
        let placeholders = device.tensor(Category::Io, "placeholders", 1, features.rows(), &placeholders)?;
        let ids = &prompt.input_ids;
        let ids = device.tensor(Category::Io, "input_ids", 1, ids.len() as u32, ids)?;
        let taps = plan.taps().to_vec();
        Ok(Encoded { prompt, ids, placeholders, qformer, features, stages, pixels: all_pixels, timings, taps })
    }
}

impl Encoded {
    fn inputs(&self) -> PromptInputs<'_> {
        PromptInputs { ids: &self.ids, features: &self.features, placeholders: &self.placeholders }
    }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}
