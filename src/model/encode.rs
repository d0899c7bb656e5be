//! Pictures and prompt through the vision tower and the Q-Former, up to what the language model reads.

use std::time::Instant;

use super::InstructBlip;
use super::look::{Look, Looked, Tapped};
use super::reply::{Timings, milliseconds};
use crate::error::Result;
use crate::generate::PromptInputs;
use crate::processor::{Image, ImageProcessor, Prompt};
use crate::runtime::{Category, Device, Tensor};

/// The pixels of a question's pictures as the vision tower reads them, and how long it took to make them.
pub(crate) struct Pixels {
    /// `[3, S, S]` each.
    frames: Vec<Vec<f32>>,
    ms: f64,
}

impl Pixels {
    /// The first picture's.
    pub(super) fn first(&self) -> &[f32] {
        &self.frames[0]
    }

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
    pub features: Vec<f32>,
    pub timings: Timings,
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

impl Encoded {
    /// A question of which nothing was looked at yet.
    fn new(prompt: Prompt, timings: Timings) -> Encoded {
        Encoded { prompt, features: Vec::new(), timings }
    }

    /// The inputs that the language model reads.
    pub fn inputs(&self) -> PromptInputs<'_> {
        PromptInputs { ids: &self.prompt.input_ids, features: &self.features }
    }

    /// Keeps the features that a pass gave for the next frame.
    fn keep(&mut self, looked: &Looked, features: &[f32]) {
        self.features.extend_from_slice(features);
        // Each has its share of a pass's time.
        self.timings.vision += looked.ms[0] / looked.len() as f64;
        self.timings.qformer += looked.ms[1] / looked.len() as f64;
    }
}

impl Stages {
    /// Adds what a pass over one frame gave.
    fn keep(&mut self, device: &Device, frame: u32, pixels: &[f32], looked: &Looked, pooled: &Tensor) -> Result<()> {
        self.pixels.extend(pixels);
        let kept = [
            (&looked.image(0), &self.vision),
            (pooled, &self.pooled),
            (&looked.qformer.last_hidden_state, &self.qformer),
        ];
        kept.iter().try_for_each(|(from, to)| device.copy(from, &to.slice_rows(frame * from.rows(), from.rows())))
    }
}

impl InstructBlip {
    /// Takes a question's pictures and prompt through vision tower and Q-Former.
    ///
    /// # Errors
    /// [`Error::NotFinite`], or a failure of the device.
    pub(super) fn encode(&mut self, images: &[Image], prompt: Prompt) -> Result<Encoded> {
        let pixels = self.pixels(images);
        self.encode_all(vec![(pixels, prompt)])?.swap_remove(0)
    }

    /// Encodes several questions of which the pictures' pixels are there, as many at once as the model was asked to. A
    /// question may have an error of its own.
    ///
    /// # Errors
    /// A failure of the device.
    pub(crate) fn encode_all(&mut self, questions: Vec<(Pixels, Prompt)>) -> Result<Vec<Result<Encoded>>> {
        self.bring_vision()?;
        let load = self.load_ms;
        let (device, stage) = (&self.device, self.vision.as_mut().expect("brought just now"));
        let mut encoded = Vec::new();
        let mut pixels = Vec::new();
        for (of_question, prompt) in questions {
            encoded.push(Ok(Encoded::new(prompt, Timings { load, image: of_question.ms, ..Timings::default() })));
            pixels.push(of_question);
        }
        let frames = pixels.iter().enumerate().flat_map(|(i, pixels)| (0..pixels.frames.len()).map(move |f| (i, f)));
        let frames: Vec<(usize, usize)> = frames.collect();
        // Hidden words are hidden by a mask of one question.
        let hides = encoded.iter().flatten().any(|one| one.prompt.qformer_attention_mask.contains(&0));
        for pass in frames.chunks(if hides { 1 } else { stage.at_once() }) {
            let look = |&(i, f): &(usize, usize)| {
                encoded[i].as_ref().ok().map(|one| Look { pixels: &pixels[i].frames[f], prompt: &one.prompt })
            };
            // The frames of a question that failed are not looked at.
            let pass: Vec<(usize, usize)> = pass.iter().copied().filter(|&(i, _)| encoded[i].is_ok()).collect();
            let looks: Vec<Look<'_>> = pass.iter().filter_map(look).collect();
            if looks.is_empty() {
                continue;
            }
            let looked = stage.look(&looks, &[])?;
            for ((i, _), features) in pass.into_iter().zip(looked.features(device)?) {
                match (features, &mut encoded[i]) {
                    (Err(e), _) => encoded[i] = Err(e),
                    (Ok(features), Ok(one)) => one.keep(&looked, &features),
                    (Ok(_), Err(_)) => {}
                }
            }
        }
        Ok(encoded)
    }

    /// Encodes a question as [`InstructBlip::encode`] does, keeps every frame's outputs on the way, and those of the last
    /// with the labels `taps`. Values that are no numbers are not refused: they may be what is looked for.
    pub(super) fn encode_and_keep(
        &mut self,
        images: &[Image],
        prompt: Prompt,
        taps: &[String],
    ) -> Result<(Encoded, Stages, Tapped)> {
        let pixels = self.pixels(images);
        self.bring_vision()?;
        let (device, stage) = (&self.device, self.vision.as_mut().expect("brought just now"));
        let frames = pixels.frames.len() as u32;
        let mut encoded = Encoded::new(prompt, Timings::default());
        let mut stages: Option<Stages> = None;
        let mut tapped = Vec::new();
        for (frame, pixels) in (0..).zip(&pixels.frames) {
            let looked = stage.look(&[Look { pixels, prompt: &encoded.prompt }], taps)?;
            let pooled = stage.pool(&looked.image(0))?;
            if stages.is_none() {
                let memory = |of: &Tensor| device.zeros(Category::Io, "stages", frames * of.rows(), of.cols());
                stages = Some(Stages {
                    pixels: Vec::new(),
                    vision: memory(&looked.image(0))?,
                    pooled: memory(&pooled)?,
                    qformer: memory(&looked.qformer.last_hidden_state)?,
                });
            }
            let stages = stages.as_mut().expect("made above");
            stages.keep(device, frame, pixels, &looked, &pooled)?;
            encoded.keep(&looked, &device.read(&looked.projected(0))?);
            tapped = looked.taps;
        }
        if let Some(last) = pixels.frames.last() {
            tapped.extend(stage.tap(last, taps)?);
        }
        Ok((encoded, stages.expect("a question has a picture"), tapped))
    }

    pub(super) fn pixels(&self, images: &[Image]) -> Pixels {
        Pixels::of(self.processor.image(), images)
    }
}
