//! `InstructBlip`: loading, and the chain from a picture and a prompt to text. The only file that knows every stage.

use std::time::Instant;

use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::generate::{self, FinishReason, GenerateOptions, PromptInputs, Session, Tokens};
use crate::language::Llama;
use crate::processor::{Image, PassOrder, Processor, Prompt, PromptLimits, StreamDecoder};
use crate::qformer::{QFormer, QFormerOutput};
use crate::runtime::buffers::{Category, Tensor};
use crate::runtime::device::Device;
use crate::runtime::ops::attention::Mask;
use crate::runtime::plan::Plan;
use crate::runtime::recorder::Recorder;
use crate::vision::{Vision, VisionOutput};
use crate::weights::{Loader, TensorFiles};

/// The three neural parts of a model.
#[derive(Debug)]
pub struct Parts {
    /// The vision tower.
    pub vision: Vision,
    /// The Q-Former and the projection.
    pub qformer: QFormer,
    /// The language model.
    pub language: Llama,
}

impl Parts {
    /// Takes every weight the model needs from `w`.
    ///
    /// # Errors
    /// As [`Loader::linear`].
    pub fn load(w: &mut Loader<'_>, config: &Config) -> Result<Parts> {
        let (queries, width) = (config.num_query_tokens, config.text.hidden_size);
        Ok(Parts {
            vision: Vision::load(w, &config.vision)?,
            qformer: QFormer::load(w, &config.qformer, &config.vision, queries, width)?,
            language: Llama::load(w, &config.text)?,
        })
    }
}

/// A loaded model: ask it about pictures.
pub struct InstructBlip {
    device: Device,
    name: String,
    config: Config,
    processor: Processor,
    parts: Parts,
    pixels: Tensor,
    vision: VisionOutput,
    vision_plan: Plan,
    session: Option<Session>,
    stop: Vec<u32>,
    load_ms: f64,
}

/// Wall time of each stage in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timings {
    /// Reading and uploading the weights, once per model.
    pub load: f64,
    /// Resizing and normalising the picture.
    pub image: f64,
    /// The vision tower.
    pub vision: f64,
    /// The Q-Former and the projection.
    pub qformer: f64,
    /// The prompt through the language model, up to the first token.
    pub prefill: f64,
    /// All tokens after the first.
    pub decode: f64,
}

/// A finished answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// The text without special tokens, trimmed.
    pub text: String,
    /// The new tokens only; an end-of-text token is the last one.
    pub token_ids: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Tokens in the prompt, image placeholders included.
    pub prompt_tokens: usize,
    /// Wall time by stage.
    pub timings: Timings,
}

/// A tensor brought back from the device, or an input as the model saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// The reference's name for it, or the tapped label.
    pub name: String,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Elements, row by row.
    pub values: Values,
}

/// The elements of a [`NamedTensor`].
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Activations.
    F32(Vec<f32>),
    /// Ids and masks.
    I32(Vec<i32>),
}

/// A picture and a prompt after the Q-Former, ready for the language model.
struct Encoded {
    prompt: Prompt,
    ids: Tensor,
    places: Tensor,
    qformer: QFormerOutput,
    timings: Timings,
}

impl InstructBlip {
    /// Loads a checkpoint onto `device`. `progress` hears (bytes done, bytes in all) as weights are uploaded.
    ///
    /// Everything is checked before anything is uploaded.
    ///
    /// # Errors
    /// [`Error::Checkpoint`], [`Error::MissingTensors`], [`Error::OutOfMemory`], [`Error::Io`].
    pub fn load(device: &Device, checkpoint: &Checkpoint, progress: &mut dyn FnMut(u64, u64)) -> Result<InstructBlip> {
        let start = Instant::now();
        let file = checkpoint.root().join("config.json");
        let bytes = checkpoint
            .read("config.json")?
            .ok_or_else(|| Error::checkpoint(&file, "is missing; give the folder save_pretrained wrote"))?;
        let config = Config::parse(&file, &bytes)?;
        let files = TensorFiles::open(checkpoint)?;
        let mut survey = Loader::survey(&files);
        let shapes = Parts::load(&mut survey, &config)?;
        survey.finish()?;
        check_vocabulary(checkpoint, &shapes.language)?;
        let processor = load_processor(checkpoint, &config, &shapes)?;
        let (mut done, total) = (0, files.data_bytes());
        let mut report = |bytes| {
            done += bytes;
            progress(done.min(total), total);
        };
        let mut loader = Loader::load(&files, device, &mut report);
        let parts = Parts::load(&mut loader, &config)?;
        loader.finish()?;
        progress(total, total);
        InstructBlip::assemble(device, checkpoint.root().display().to_string(), config, processor, parts, start)
    }

    /// Loads the model compiled into the library, which knows pictures of coloured shapes.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] or another failure of the device.
    #[cfg(feature = "embedded-model")]
    pub fn embedded(device: &Device) -> Result<InstructBlip> {
        InstructBlip::load(device, &crate::embedded::SHAPES, &mut |_, _| {})
    }

    fn assemble(
        device: &Device,
        name: String,
        config: Config,
        processor: Processor,
        parts: Parts,
        start: Instant,
    ) -> Result<InstructBlip> {
        let side = config.vision.image_size;
        let pixels = device.zeros(Category::Io, "pixels", 3 * side, side)?;
        let mut r = Recorder::new(device.caps());
        let recorded = parts.vision.record(&mut r, &pixels);
        let vision_plan = r.finish(device)?;
        let vision = VisionOutput {
            last_hidden_state: vision_plan.output(&recorded.last_hidden_state),
            pooler_output: vision_plan.output(&recorded.pooler_output),
        };
        drop(recorded);
        let mut stop = config.text.eos_token_ids.clone();
        stop.extend(processor.tokenizers().eos_token_id());
        let load_ms = milliseconds(start);
        let device = device.clone();
        Ok(InstructBlip {
            device,
            name,
            config,
            processor,
            parts,
            pixels,
            vision,
            vision_plan,
            session: None,
            stop,
            load_ms,
        })
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

    /// Asks about a picture and waits for the whole answer.
    ///
    /// # Errors
    /// [`Error::PromptTooLong`], [`Error::Request`], or a failure of the device.
    pub fn ask(&mut self, image: &Image, prompt: &str, options: &GenerateOptions) -> Result<Reply> {
        let mut answer = self.generate(image, prompt, options)?;
        answer.by_ref().collect::<Result<Vec<String>>>()?;
        Ok(answer.into_reply())
    }

    /// Asks about a picture; the answer is an iterator over pieces of text as they become certain.
    ///
    /// # Errors
    /// [`Error::PromptTooLong`], [`Error::Request`], or a failure of the device.
    pub fn generate(&mut self, image: &Image, prompt: &str, options: &GenerateOptions) -> Result<Answer<'_>> {
        // The prompt first: what is wrong with it is told before the GPU is put to work.
        let prompt = self.processor.tokenizers().encode(prompt, prompt)?;
        let prompt_tokens = prompt.input_ids.len();
        let context = self.config.text.max_position_embeddings as usize;
        let max_new_tokens = generate::room_for(prompt_tokens, context, options.max_new_tokens)?;
        self.reserve(prompt_tokens as u32 + max_new_tokens)?;
        let started = Instant::now();
        let pixels = self.processor.image().pixels(image);
        let image_ms = milliseconds(started);
        let (mut encoded, _) = self.encode(&pixels, prompt, &[])?;
        encoded.timings.image = image_ms;
        let session = self.session.as_ref().expect("reserved just now");
        let started = Instant::now();
        let inputs = encoded.inputs();
        let tokens = session.start(&self.parts.language, &inputs, max_new_tokens, &self.stop)?;
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

    /// Runs the whole model once over a picture and a prompt and brings back what each stage gave, under the
    /// reference's names: inputs, vision, Q-Former, projection, logits of every prompt position, and tapped labels.
    ///
    /// # Errors
    /// As [`InstructBlip::generate`]; [`Error::Request`] for a tap that no op has.
    pub fn forward(&mut self, image: &Image, prompt: &str, taps: &[String]) -> Result<Vec<NamedTensor>> {
        let prompt = self.processor.tokenizers().encode(prompt, prompt)?;
        let rows = prompt.input_ids.len();
        generate::check_fits(rows, self.config.text.max_position_embeddings as usize)?;
        self.reserve(rows as u32)?;
        let pixels = self.processor.image().pixels(image);
        let (encoded, mut tapped) = self.encode(&pixels, prompt, taps)?;
        tapped.extend(self.tap_vision(taps)?);
        let session = self.session.as_ref().expect("reserved just now");
        let (logits, language_taps) = session.forward(&self.parts.language, &encoded.inputs(), taps)?;
        tapped.extend(language_taps);
        if let Some(unknown) = taps.iter().find(|tap| !tapped.iter().any(|(label, _)| label == *tap)) {
            return Err(Error::request(format!("nothing is labelled {unknown:?}; labels are weight names and ops")));
        }
        let side = self.config.vision.image_size as usize;
        let mut out = vec![NamedTensor::f32("pixel_values", &[1, 3, side, side], pixels)];
        out.extend(encoded.prompt.named());
        let pooled = self.bring_back("vision_pooler_output", &self.vision.pooler_output)?;
        out.push(NamedTensor { shape: vec![1, self.config.vision.hidden_size as usize], ..pooled });
        let stages = [
            ("vision_last_hidden_state", &self.vision.last_hidden_state),
            ("qformer_last_hidden_state", &encoded.qformer.last_hidden_state),
            ("language_model_inputs", &encoded.qformer.language_model_inputs),
            ("logits", &logits),
        ];
        for (name, tensor) in stages.into_iter().chain(tapped.iter().map(|(label, tensor)| (label.as_str(), tensor))) {
            out.push(self.bring_back(name, tensor)?);
        }
        Ok(out)
    }

    /// A device tensor as `[1, rows, cols]` on the host.
    fn bring_back(&self, name: &str, tensor: &Tensor) -> Result<NamedTensor> {
        let shape = [1, tensor.rows() as usize, tensor.cols() as usize];
        Ok(NamedTensor::f32(name, &shape, self.device.read(tensor)?))
    }

    /// The tapped tensors of the vision tower over the pixels written last: its resident plan has no taps.
    fn tap_vision(&self, taps: &[String]) -> Result<Vec<(String, Tensor)>> {
        if taps.is_empty() {
            return Ok(Vec::new());
        }
        let mut r = Recorder::new(self.device.caps()).with_taps(taps);
        self.parts.vision.record(&mut r, &self.pixels);
        let plan = r.finish(&self.device)?;
        plan.submit()?;
        Ok(plan.taps().to_vec())
    }

    /// Pixels and prompt through vision tower and Q-Former, with what was tapped in the latter.
    fn encode(&self, pixels: &[f32], prompt: Prompt, taps: &[String]) -> Result<(Encoded, Vec<(String, Tensor)>)> {
        let device = &self.device;
        let started = Instant::now();
        device.write(&self.pixels, pixels);
        self.vision_plan.submit()?;
        device.wait()?;
        let vision_ms = milliseconds(started);
        let started = Instant::now();
        let words = &prompt.qformer_input_ids;
        let words = device.tensor(Category::Io, "qformer_input_ids", 1, words.len() as u32, words)?;
        let mut r = Recorder::new(device.caps()).with_taps(taps);
        let recorded = self.parts.qformer.record(&mut r, &self.vision.last_hidden_state, &words, Mask::None);
        let plan = r.finish(device)?;
        plan.submit()?;
        device.wait()?;
        let qformer = QFormerOutput {
            last_hidden_state: plan.output(&recorded.last_hidden_state),
            language_model_inputs: plan.output(&recorded.language_model_inputs),
        };
        let timings =
            Timings { load: self.load_ms, vision: vision_ms, qformer: milliseconds(started), ..Default::default() };
        let ids = &prompt.input_ids;
        let image_token = self.config.image_token_id;
        let places: Vec<u32> = (0u32..).zip(ids).filter(|(_, id)| **id == image_token).map(|(i, _)| i).collect();
        assert_eq!(places.len(), self.config.num_query_tokens as usize, "the processor lays out one place per query");
        let places = device.tensor(Category::Io, "places", 1, places.len() as u32, &places)?;
        let ids = device.tensor(Category::Io, "input_ids", 1, ids.len() as u32, ids)?;
        let taps = plan.taps().to_vec();
        Ok((Encoded { prompt, ids, places, qformer, timings }, taps))
    }

    /// Makes sure there is a session for `positions` positions.
    fn reserve(&mut self, positions: u32) -> Result<()> {
        if self.session.as_ref().is_none_or(|s| s.capacity() < positions) {
            self.session = None; // its cache is freed before the larger one is made
            self.session = Some(Session::new(&self.device, &self.parts.language, positions)?);
        }
        Ok(())
    }
}

impl Encoded {
    fn inputs(&self) -> PromptInputs<'_> {
        PromptInputs { ids: &self.ids, features: &self.qformer.language_model_inputs, places: &self.places }
    }
}

/// An answer being generated: an iterator over pieces of text, never half a character.
pub struct Answer<'a> {
    tokens: Tokens<'a>,
    decoder: Option<StreamDecoder<'a>>,
    token_ids: Vec<u32>,
    text: String,
    prompt_tokens: usize,
    timings: Timings,
    started: Instant,
}

impl Answer<'_> {
    /// The tokens so far.
    pub fn token_ids(&self) -> &[u32] {
        &self.token_ids
    }

    /// Tokens in the prompt, image placeholders included.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    /// The whole answer; what was not iterated over is left out.
    pub fn into_reply(self) -> Reply {
        Reply {
            text: self.text.trim().to_string(),
            finish_reason: self.tokens.finish_reason().unwrap_or(FinishReason::Length),
            token_ids: self.token_ids,
            prompt_tokens: self.prompt_tokens,
            timings: self.timings,
        }
    }

    fn piece(&mut self, token: u32) -> String {
        let first = self.token_ids.is_empty();
        let elapsed = milliseconds(self.started);
        match first {
            true => self.timings.prefill = elapsed,
            false => self.timings.decode = elapsed - self.timings.prefill,
        }
        self.token_ids.push(token);
        self.decoder.as_mut().map_or(String::new(), |decoder| decoder.push(token))
    }
}

impl Iterator for Answer<'_> {
    type Item = Result<String>;

    /// The next piece of text: empty pieces are skipped, so one step may take several tokens.
    fn next(&mut self) -> Option<Result<String>> {
        loop {
            let piece = match self.tokens.next() {
                Some(Ok(token)) => self.piece(token),
                Some(Err(e)) => return Some(Err(e)),
                None => self.decoder.take()?.finish(),
            };
            if !piece.is_empty() {
                self.text.push_str(&piece);
                return Some(Ok(piece));
            }
        }
    }
}

impl NamedTensor {
    fn f32(name: &str, shape: &[usize], values: Vec<f32>) -> NamedTensor {
        NamedTensor { name: name.into(), shape: shape.into(), values: Values::F32(values) }
    }
}

impl Prompt {
    /// Ids and masks as the reference names them, `[1, L]` of i32.
    fn named(&self) -> Vec<NamedTensor> {
        let ids = [
            ("input_ids", &self.input_ids),
            ("attention_mask", &self.attention_mask),
            ("qformer_input_ids", &self.qformer_input_ids),
            ("qformer_attention_mask", &self.qformer_attention_mask),
        ];
        let named = |(name, ids): (&str, &Vec<u32>)| NamedTensor {
            name: name.into(),
            shape: vec![1, ids.len()],
            values: Values::I32(ids.iter().map(|&id| id as i32).collect()),
        };
        ids.into_iter().map(named).collect()
    }
}

/// The processor, bounded by the model: `shapes` knows how many rows the embeddings really have.
fn load_processor(checkpoint: &Checkpoint, config: &Config, shapes: &Parts) -> Result<Processor> {
    let limits = PromptLimits {
        image_token_id: config.image_token_id,
        num_query_tokens: config.num_query_tokens as usize,
        lm_rows: shapes.language.vocab_rows() as usize,
        qformer_rows: shapes.qformer.vocab_rows() as usize,
        qformer_positions: config.qformer.max_position_embeddings as usize,
    };
    let processor = Processor::from_files(&|name| checkpoint.read(name), checkpoint.root(), limits)?;
    let (width, height, side) = (processor.image().width(), processor.image().height(), config.vision.image_size);
    if (width, height) != (side, side) {
        let problem = format!(
            "the image processor's settings give pictures of {width}x{height} pixels, but vision_config.image_size in \
             config.json is {side}"
        );
        return Err(Error::checkpoint(checkpoint.root(), problem));
    }
    Ok(processor)
}

/// Every id that can come out of the language model must be one that can go in.
fn check_vocabulary(checkpoint: &Checkpoint, language: &Llama) -> Result<()> {
    let (ids, rows) = (language.head_rows(), language.vocab_rows());
    if ids <= rows {
        return Ok(());
    }
    let problem = format!(
        "language_model.lm_head.weight has {ids} rows, language_model.model.embed_tokens.weight has {rows} rows: some \
         tokens would have no embedding"
    );
    Err(Error::checkpoint(checkpoint.root(), problem))
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}
