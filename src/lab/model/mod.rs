//! Times a whole model, stage by stage; nothing is timed before it is checked.

mod check;
mod labels;
mod language;
mod prompt;

use std::path::Path;

use serde_json::json;

use super::clock::{median, milliseconds};
use super::results::{LabelRow, ModelResults, Stage};
use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::error::Result;
use crate::generate::check_fits;
use crate::language::Language;
use crate::model::{LoadOptions, Parts, Workload};
use crate::processor::{Image, ImageProcessor};
use crate::runtime::{Category, Device, Mask, Plan, Recorder, Tensor, WeightFormat};
use crate::weights::{Formats, Loaded, Part};
use labels::profile;
use language::Timer;
use prompt::Prompt;

/// The model that is timed.
pub struct Subject {
    /// Its name in results.
    pub name: String,
    /// Its dimensions.
    pub config: Config,
    /// Its files; `None` where weights are made on the device.
    pub checkpoint: Option<Checkpoint>,
    /// True for the embedded model, whose answer to a recorded question is known.
    pub is_embedded: bool,
}

/// A request for measurements.
#[derive(Clone, Debug)]
pub struct Options {
    /// Format of the weights; as they are stored, if `None`.
    pub weights: Option<WeightFormat>,
    /// Words of the prompts, besides the picture; 64 and 256 if there are none and the context has room.
    pub prompt_tokens: Vec<u32>,
    /// Keys in the cache when decoding is timed; 32, 256 and 512 if there are none and the context has room.
    pub keys: Vec<u32>,
    /// Sequences side by side when decoding is timed.
    pub rows: Vec<u32>,
    /// Measurements of each time, of which the median counts.
    pub runs: usize,
    /// Bytes of device memory that the model may take.
    pub budget_bytes: Option<u64>,
}

/// Times a model. `hear` hears how many measurements are done, of the second number in all.
///
/// # Errors
/// [`crate::Error::PromptTooLong`] for lengths that the context does not hold; those of loading;
/// [`crate::Error::Incorrect`] where a stage computes something else than its reference.
pub fn measure(
    subject: &Subject,
    options: &Options,
    device: &Device,
    hear: &mut dyn FnMut(u64, u64),
) -> Result<ModelResults> {
    let text = &subject.config.text;
    let context = text.max_positions();
    let prompts = lengths(&options.prompt_tokens, &[64, 256], subject.config.num_query_tokens + 1, context)?;
    let keys = lengths(&options.keys, &[32, 256, 512], 0, context)?;
    Bench { options, subject, device, prompts, keys }.measure(hear)
}

/// The lengths asked for, each of which must fit with `besides`; or those of `usual` that do, or one that just fits.
fn lengths(asked: &[u32], usual: &[u32], besides: u32, context: Option<u32>) -> Result<Vec<u32>> {
    let check = |length: u32| check_fits((length.saturating_add(besides)) as usize, context);
    if !asked.is_empty() {
        asked.iter().try_for_each(|&length| check(length))?;
        return Ok(asked.to_vec());
    }
    let fitting: Vec<u32> = usual.iter().copied().filter(|&length| check(length).is_ok()).collect();
    Ok(match context {
        Some(context) if fitting.is_empty() => vec![context.saturating_sub(besides).max(1)],
        _ => fitting,
    })
}

impl Subject {
    fn load(&self, device: &Device, options: &LoadOptions) -> Result<(Parts, Loaded)> {
        match &self.checkpoint {
            None => Parts::synthetic(device, &self.config, options),
            Some(checkpoint) => Parts::from_checkpoint(device, checkpoint, &self.config, options),
        }
    }
}

/// A measurement with all its lengths.
struct Bench<'a> {
    options: &'a Options,
    subject: &'a Subject,
    device: &'a Device,
    /// Words of each prompt.
    prompts: Vec<u32>,
    keys: Vec<u32>,
}

impl Bench<'_> {
    fn load_options(&self) -> LoadOptions {
        let longest = |lengths: &[u32]| lengths.iter().copied().max().unwrap_or(1);
        let rows = longest(&self.options.rows);
        let (prompt_tokens, new_tokens) = (longest(&self.prompts), longest(&self.keys));
        LoadOptions {
            formats: self.options.weights.map(Formats::usual).unwrap_or_default(),
            budget_bytes: self.options.budget_bytes,
            workload: Workload { prompt_tokens, new_tokens, rows, ..Workload::default() },
            ..LoadOptions::default()
        }
    }

    fn measure(&self, hear: &mut dyn FnMut(u64, u64)) -> Result<ModelResults> {
        let Bench { subject: Subject { config, .. }, device, .. } = self;
        let options = self.load_options();
        if let (true, Some(checkpoint)) = (self.subject.is_embedded, &self.subject.checkpoint) {
            check::answer(device, checkpoint, options.formats)?;
        }
        let ((parts, loaded), load_ms) = milliseconds(|| self.subject.load(device, &options))?;
        let points = 4 + self.prompts.len() + self.keys.len() * self.options.rows.len();
        hear(1, points as u64);
        let mut done = 1;
        let mut next = || {
            done += 1;
            hear(done, points as u64);
        };
        let (image_ms, pixels) = self.image()?;
        next();
        let (vision_ms, features, mut labels) = self.vision(&parts, &pixels)?;
        next();
        let (qformer_ms, features, more) = self.qformer(&parts, &features)?;
        labels.extend(more);
        next();
        let mut model = ModelResults {
            name: self.subject.name.clone(),
            layers: [
                config.vision.num_hidden_layers,
                config.qformer.num_hidden_layers,
                parts.language.num_layers() as u32,
            ],
            weights: loaded.formats[Part::Language as usize].name().into(),
            peak_bytes: 0,
            stages: [("load", load_ms), ("image", image_ms), ("vision", vision_ms), ("qformer", qformer_ms)]
                .map(|(name, ms)| Stage { name: name.into(), ms })
                .into(),
            prefill: Vec::new(),
            decode: Vec::new(),
            labels,
        };
        self.language(&parts.language, &self.device.read::<f32>(&features)?, &mut model, &mut next)?;
        model.peak_bytes = device.counters().peak_bytes();
        Ok(model)
    }

    /// Times prompts and steps of decoding.
    fn language(
        &self,
        language: &Language,
        features: &[f32],
        model: &mut ModelResults,
        next: &mut dyn FnMut(),
    ) -> Result<()> {
        let (device, queries) = (self.device, self.subject.config.num_query_tokens);
        let make = |words: &u32| Prompt::new(queries, *words, language.vocab_rows());
        let prompts = self.prompts.iter().map(make).collect::<Vec<Prompt>>();
        check::decoding(device, language, features, &prompts[0])?;
        let timed = device.has_timestamps();
        let timer = Timer { device, language, runs: self.options.runs, encoded: prompts[0].len() };
        let longest = prompts.iter().map(Prompt::len).max();
        for prompt in &prompts {
            let (row, more) = timer.prefill(features, prompt, timed && Some(prompt.len()) == longest)?;
            model.prefill.push(row);
            model.labels.extend(more);
            next();
        }
        for (i, &rows) in self.options.rows.iter().enumerate() {
            for &keys in &self.keys {
                let last = i == 0 && Some(&keys) == self.keys.iter().max();
                let (row, more) = timer.decode(rows, keys, timed && last)?;
                model.decode.push(row);
                model.labels.extend(more);
                next();
            }
        }
        Ok(())
    }

    /// Median wall time of a plan from submit to done, after one run to warm up, and its time by label.
    fn time(&self, stage: &str, plan: &Plan) -> Result<(f64, Vec<LabelRow>)> {
        let runs = self.options.runs;
        let once = || -> Result<f64> { Ok(milliseconds(|| plan.submit().and_then(|()| self.device.wait()))?.1) };
        once()?;
        let ms = median((0..runs).map(|_| once()).collect::<Result<Vec<f64>>>()?);
        let labels = if self.device.has_timestamps() { profile(stage, plan, runs)? } else { Vec::new() };
        Ok((ms, labels))
    }

    /// A 640 x 480 picture to the model's pixels.
    fn image(&self) -> Result<(f64, Vec<f32>)> {
        let side = self.subject.config.vision.image_size;
        let settings = json!({"size": {"height": side, "width": side}, "resample": 3, "do_resize": true,
            "do_rescale": true, "do_normalize": true, "do_convert_rgb": true, "rescale_factor": 0.00392156862745098,
            "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]});
        let processor = ImageProcessor::from_json(Path::new("settings"), &settings)?;
        let mut random = fastrand::Rng::with_seed(1);
        let image = Image::from_rgb(640, 480, (0..640 * 480 * 3).map(|_| random.u8(..)).collect())?;
        let once = || milliseconds(|| Ok(processor.pixels(&image)));
        let times = (0..self.options.runs).map(|_| Ok(once()?.1)).collect::<Result<Vec<f64>>>()?;
        Ok((median(times), once()?.0))
    }

    fn vision(&self, parts: &Parts, pixels: &[f32]) -> Result<(f64, Tensor, Vec<LabelRow>)> {
        let side = self.subject.config.vision.image_size;
        let pixels = self.device.tensor(Category::Io, "pixels", 3 * side, side, pixels)?;
        let mut r = Recorder::new(self.device.caps());
        let recorded = parts.vision.record(&mut r, &pixels, Mask::None);
        let plan = r.finish(self.device)?;
        let (ms, labels) = self.time("vision", &plan)?;
        let features = plan.output(&recorded);
        check::finite(self.device, &features, "the vision tower")?;
        Ok((ms, features, labels))
    }

    fn qformer(&self, parts: &Parts, features: &Tensor) -> Result<(f64, Tensor, Vec<LabelRow>)> {
        let config = &self.subject.config;
        let count = self.prompts[0].min(config.qformer.max_position_embeddings);
        let rows = parts.qformer.vocab_rows();
        let words: Vec<u32> = (0..count).map(|i| (5 + i % 100) % rows.max(1)).collect();
        let words = config.qformer_reads_text().then(|| self.device.tensor(Category::Io, "words", 1, count, &words));
        let words = words.transpose()?;
        let mut r = Recorder::new(self.device.caps());
        let recorded = parts.qformer.record_one(&mut r, features, words.as_ref()).language_model_inputs;
        let plan = r.finish(self.device)?;
        let (ms, labels) = self.time("qformer", &plan)?;
        let output = plan.output(&recorded);
        check::finite(self.device, &output, "the Q-Former")?;
        Ok((ms, output, labels))
    }
}

#[cfg(test)]
mod tests {
    use super::lengths;

    #[test]
    fn lengths_fit_the_context() {
        assert_eq!(lengths(&[], &[32, 256, 512], 0, Some(512)).expect("they fit"), [32, 256, 512]);
        assert_eq!(lengths(&[], &[64, 256], 40, Some(128)).expect("one fits"), [64]);
        assert_eq!(lengths(&[], &[64, 256], 40, Some(64)).expect("a shorter one"), [24]);
        assert_eq!(lengths(&[7, 500], &[64], 40, None).expect("no end"), [7, 500]);
        let error = lengths(&[513], &[32], 0, Some(512)).expect_err("too long").to_string();
        assert!(error.contains("513") && error.contains("512"), "{error}");
    }
}
