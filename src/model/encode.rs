//! Pictures and prompt through the vision tower and the Q-Former, up to what the language model reads.

use std::time::Instant;

use super::InstructBlip;
use super::reply::{Timings, milliseconds};
use super::residence::VisionStage;
use crate::error::{Error, Result};
use crate::generate::PromptInputs;
use crate::processor::{Image, ImageProcessor, Prompt};
use crate::qformer::QFormerOutput;
use crate::runtime::ops::attention::Mask;
use crate::runtime::plan::Plan;
use crate::runtime::recorder::Recorder;
use crate::runtime::{Category, Device, Tensor};

/// The pixels of a question's pictures as the vision tower reads them, and how long it took to make them.
pub(crate) struct Pixels {
    /// `[3, S, S]` each.
    frames: Vec<Vec<f32>>,
    ms: f64,
}

impl Pixels {
    /// Resizes and normalises `images`.
    pub fn of(processor: &ImageProcessor, images: &[Image]) -> Pixels {
        let started = Instant::now();
        Pixels { frames: images.iter().map(|image| processor.pixels(image)).collect(), ms: milliseconds(started) }
    }
}

/// A question after the Q-Former, ready for the language model.
pub(crate) struct Encoded {
    pub prompt: Prompt,
    /// `[frames Q, H]`.
    pub features: Tensor,
    /// The Q-Former's output for the last frame.
    pub qformer: QFormerOutput,
    /// The outputs of the Q-Former that were asked for by label, for the last frame.
    pub taps: Vec<(String, Tensor)>,
    pub timings: Timings,
    ids: Tensor,
    placeholders: Tensor,
}

/// The pixels of a question and the outputs of the vision tower and the Q-Former, one frame after the other.
pub(super) struct Stages {
    /// `[frames, 3, S, S]`, on the host.
    pub pixels: Vec<f32>,
    /// `[frames N, D]`.
    pub vision: Tensor,
    /// `[frames, D]`.
    pub pooled: Tensor,
    /// `[frames (Q + L), D]`.
    pub qformer: Tensor,
}

/// The plan of the Q-Former over one prompt, for every frame: they look at the same words.
struct QFormerPlan {
    plan: Plan,
    output: QFormerOutput,
}

impl Encoded {
    /// The tensors that the language model reads.
    pub fn inputs(&self) -> PromptInputs<'_> {
        PromptInputs { ids: &self.ids, features: &self.features, placeholders: &self.placeholders }
    }
}

impl Stages {
    /// Memory for what `frames` frames give.
    fn new(device: &Device, frames: u32, stage: &VisionStage, qformer: &QFormerOutput) -> Result<Stages> {
        let memory = |of: &Tensor| device.zeros(Category::Io, "stages", frames * of.rows(), of.cols());
        Ok(Stages {
            pixels: Vec::new(),
            vision: memory(&stage.output.last_hidden_state)?,
            pooled: memory(&stage.output.pooler_output)?,
            qformer: memory(&qformer.last_hidden_state)?,
        })
    }

    /// Keeps what `frame` gave.
    fn keep(&self, device: &Device, frame: u32, stage: &VisionStage, qformer: &QFormerOutput) -> Result<()> {
        let kept = [
            (&stage.output.last_hidden_state, &self.vision),
            (&stage.output.pooler_output, &self.pooled),
            (&qformer.last_hidden_state, &self.qformer),
        ];
        kept.iter().try_for_each(|(from, to)| device.copy(from, &to.slice_rows(frame * from.rows(), from.rows())))
    }
}

impl InstructBlip {
    /// A question's pictures and prompt through vision tower and Q-Former, with the latter's outputs labelled `taps`.
    ///
    /// # Errors
    /// [`Error::NotFinite`], or a failure of the device.
    pub(super) fn encode(&mut self, images: &[Image], prompt: Prompt, taps: &[String]) -> Result<Encoded> {
        let pixels = self.pixels(images);
        self.encode_pixels(&pixels, prompt, taps)
    }

    /// Encodes a question of which the pictures' pixels are there.
    ///
    /// # Errors
    /// As [`InstructBlip::encode`].
    pub(super) fn encode_pixels(&mut self, pixels: &Pixels, prompt: Prompt, taps: &[String]) -> Result<Encoded> {
        self.bring_vision()?;
        let qformer = self.qformer_plan(&prompt, taps)?;
        let encoded = self.encode_with(qformer, pixels, prompt, None)?;
        self.check_finite(&encoded.features)?;
        Ok(encoded)
    }

    /// Encodes a question as [`InstructBlip::encode`] does, and keeps every frame's outputs on the way. Values that are
    /// no numbers are not refused: they may be what is looked for.
    pub(super) fn encode_and_keep(
        &mut self,
        images: &[Image],
        prompt: Prompt,
        taps: &[String],
    ) -> Result<(Encoded, Stages)> {
        let pixels = self.pixels(images);
        self.bring_vision()?;
        let qformer = self.qformer_plan(&prompt, taps)?;
        let mut stages = Stages::new(&self.device, images.len() as u32, self.vision_stage(), &qformer.output)?;
        let encoded = self.encode_with(qformer, &pixels, prompt, Some(&mut stages))?;
        Ok((encoded, stages))
    }

    fn pixels(&self, images: &[Image]) -> Pixels {
        Pixels::of(self.processor.image(), images)
    }

    fn encode_with(
        &self,
        qformer: QFormerPlan,
        pixels: &Pixels,
        prompt: Prompt,
        mut stages: Option<&mut Stages>,
    ) -> Result<Encoded> {
        let (device, stage) = (&self.device, self.vision_stage());
        let (queries, width) = (self.config.num_query_tokens, self.config.text.hidden_size());
        let features = device.zeros(Category::Io, "features", queries * pixels.frames.len() as u32, width)?;
        let mut timings = Timings { load: self.load_ms, image: pixels.ms, ..Timings::default() };
        for (frame, pixels) in (0u32..).zip(&pixels.frames) {
            timed(&mut timings.vision, || stage.run(device, pixels))?;
            timed(&mut timings.qformer, || {
                qformer.plan.submit()?;
                let to = features.slice_rows(frame * queries, queries);
                device.copy(&qformer.output.language_model_inputs, &to)?;
                stages.iter().try_for_each(|stages| stages.keep(device, frame, stage, &qformer.output))?;
                device.wait()
            })?;
            stages.iter_mut().for_each(|stages| stages.pixels.extend(pixels));
        }
        let row = |label, values: &[u32]| device.tensor(Category::Io, label, 1, values.len() as u32, values);
        Ok(Encoded {
            ids: row("input_ids", &prompt.input_ids)?,
            placeholders: row("placeholders", &(0..features.rows()).collect::<Vec<_>>())?,
            prompt,
            features,
            taps: qformer.plan.taps().to_vec(),
            qformer: qformer.output,
            timings,
        })
    }

    /// The plan of the Q-Former over a prompt's words and what the vision tower gives, with outputs labelled `taps`.
    fn qformer_plan(&self, prompt: &Prompt, taps: &[String]) -> Result<QFormerPlan> {
        let row = |label, values: &[u32]| self.device.tensor(Category::Io, label, 1, values.len() as u32, values);
        let (words, seen) = (&prompt.qformer_input_ids, &prompt.qformer_attention_mask);
        let words = if words.is_empty() { None } else { Some(row("qformer_input_ids", words)?) };
        let mask = match seen.contains(&0) {
            true => {
                let queries = vec![1; self.config.num_query_tokens as usize];
                Some(row("qformer_attention_mask", &[&queries, seen.as_slice()].concat())?)
            }
            false => None,
        };
        let mask = mask.as_ref().map_or(Mask::None, Mask::Keys);
        let stage = self.vision_stage();
        let mut r = Recorder::new(self.device.caps()).with_taps(taps);
        let recorded = stage.qformer.record(&mut r, &stage.output.last_hidden_state, words.as_ref(), mask);
        let plan = r.finish(&self.device)?;
        let output = QFormerOutput {
            last_hidden_state: plan.output(&recorded.last_hidden_state),
            language_model_inputs: plan.output(&recorded.language_model_inputs),
        };
        Ok(QFormerPlan { plan, output })
    }

    /// Refuses features that are no numbers, naming the stage they come from.
    fn check_finite(&self, features: &Tensor) -> Result<()> {
        let finite = |tensor: &Tensor| Ok(self.device.read::<f32>(tensor)?.iter().all(|v| v.is_finite()));
        if finite(features)? {
            return Ok(());
        }
        let vision = finite(&self.vision_stage().output.last_hidden_state)?;
        Err(Error::NotFinite { stage: if vision { "Q-Former" } else { "vision tower" } })
    }
}

/// Adds the milliseconds that `body` takes to `total`.
fn timed<T>(total: &mut f64, body: impl FnOnce() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    let value = body()?;
    *total += milliseconds(started);
    Ok(value)
}
