//! `instructblip bench model`: a whole model, stage by stage.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use instructblip::config::Config;
use instructblip::generate::check_fits;
use instructblip::language::Language;
use instructblip::model::{LoadOptions, MemoryPlan, Parts, Workload};
use instructblip::processor::ImageProcessor;
use instructblip::runtime::{AdapterClass, Category, Mask, Plan, Recorder, Tensor, WeightFormat};
use instructblip::shapes::{Layers, PUBLISHED, Shape};
use instructblip::weights::{Formats, Loaded, Loader, Part, Placement, TensorFiles};
use instructblip::{Checkpoint, Device, Error, Image};
use serde_json::{Value, json};

use super::labels::profile;
use super::language::Timer;
use super::prompt::Prompt;
use super::results::{LabelRow, ModelResults, Results, Stage};
use super::run::Output;
use super::time::{median, milliseconds};
use super::{ceilings, check};
use crate::common::{Common, Gpu};
use crate::machine::available_bytes;
use crate::options::formats;
use crate::progress::{Progress, say};
use crate::session::{embedded, named, open_device};

/// Arguments of `bench model`.
#[derive(Args, Debug)]
pub struct Model {
    /// A published model's shape with random weights, by its full or short name (of two with the same one InstructBLIP's),
    /// or embedded; embedded if left out
    #[arg(long, value_name = "NAME", value_parser = shapes(), conflicts_with = "model")]
    pub shape: Option<Chosen>,
    /// Directory of a checkpoint, or owner/name of a model that was pulled
    #[arg(long, value_name = "DIR|REPO")]
    pub model: Option<PathBuf>,
    /// Layers of the language model, if not all; of T5's encoder and of its decoder
    #[arg(long, value_name = "N", conflicts_with = "model", value_parser = clap::value_parser!(u32).range(1..))]
    pub layers: Option<u32>,
    /// Layers of the vision tower, if not all
    #[arg(long, value_name = "N", conflicts_with = "model", value_parser = clap::value_parser!(u32).range(1..))]
    pub vision_layers: Option<u32>,
    /// Layers of the Q-Former, if not all
    #[arg(long, value_name = "N", conflicts_with = "model", value_parser = clap::value_parser!(u32).range(1..))]
    pub qformer_layers: Option<u32>,
    /// Format of the weights; as they are stored, unquantised ones in f16, if left out
    #[arg(long, value_name = "FORMAT", value_parser = formats())]
    pub weights: Option<WeightFormat>,
    /// Words of the prompts to time, besides the picture; 64 and 256 if left out and the context has room
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    pub prompt_tokens: Vec<u32>,
    /// Keys in the cache to time decoding with; 32, 256 and 512 if left out and the context has room
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    pub keys: Vec<u32>,
    /// Sequences side by side to time decoding with
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [1, 4, 5, 8],
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub rows: Vec<u32>,
    /// Measurements of each time, of which the median is told
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub runs: u32,
    #[command(flatten)]
    pub output: Output,
    #[command(flatten)]
    pub gpu: Gpu,
}

/// A model that needs no files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// The embedded one.
    Embedded,
    /// Weights made on the device.
    Published(Shape),
}

fn shapes() -> impl TypedValueParser<Value = Chosen> {
    let short = PUBLISHED.iter().filter_map(|shape| shape.name().split_once('-')).map(|(_, short)| short);
    let mut names: Vec<&str> = ["embedded"].into_iter().chain(PUBLISHED.iter().map(Shape::name)).collect();
    // Two have the same short name.
    short.for_each(|short| {
        if !names.contains(&short) {
            names.push(short)
        }
    });
    PossibleValuesParser::new(names).try_map(|name| match name.as_str() {
        "embedded" => Ok(Chosen::Embedded),
        name => Shape::named(name).map(Chosen::Published).ok_or("is no shape"),
    })
}

/// The model that is timed.
struct Subject {
    name: String,
    config: Config,
    /// `None` where weights are made on the device.
    checkpoint: Option<Checkpoint>,
    is_embedded: bool,
}

impl Subject {
    fn new(arguments: &Model) -> Result<Subject> {
        let Model { layers: language, vision_layers: vision, qformer_layers: qformer, .. } = *arguments;
        let layers = Layers { language, vision, qformer };
        let parse = |mut document: Value, name: &str| {
            layers.put_into(&mut document);
            Config::parse(Path::new(name), document.to_string().as_bytes())
        };
        match (arguments.shape, &arguments.model) {
            (Some(Chosen::Published(shape)), _) => Ok(Subject {
                name: shape.name().into(),
                config: parse(shape.document(), shape.name())?,
                checkpoint: None,
                is_embedded: false,
            }),
            (None, Some(model)) => {
                let checkpoint = named(model)?;
                let config = Config::parse(&checkpoint.root().join("config.json"), &config_json(&checkpoint)?)?;
                // Of a folder the last part: where people keep their models is their own business.
                let name = if model.is_dir() { model.file_name().map(Path::new).unwrap_or(model) } else { model };
                let name = name.display().to_string();
                Ok(Subject { name, config, checkpoint: Some(checkpoint), is_embedded: false })
            }
            _ => {
                let checkpoint = embedded()?;
                let document =
                    serde_json::from_slice(&config_json(&checkpoint)?).context("the embedded config.json")?;
                let config = parse(document, "config.json")?;
                Ok(Subject { name: "embedded".into(), config, checkpoint: Some(checkpoint), is_embedded: true })
            }
        }
    }

    fn load(&self, device: &Device, options: &LoadOptions, quiet: bool) -> Result<(Parts, Loaded)> {
        let Some(checkpoint) = &self.checkpoint else {
            MemoryPlan::of_config(&self.config, options, &device.caps())?;
            let mut loader = Loader::synthetic(device, options.formats);
            let parts = Parts::load(&mut loader, &self.config)?;
            return Ok((parts, loader.finish()?));
        };
        MemoryPlan::of(checkpoint, options, &device.caps())?;
        let files =
            Arc::new(TensorFiles::open(checkpoint, options.mmap)?.tied(&Language::tied_weights(&self.config.text)));
        let placement = Placement { formats: options.formats, ..Placement::default() };
        let mut survey = Loader::survey(Some(&files), placement);
        Parts::load(&mut survey, &self.config)?;
        let surveyed = survey.finish()?;
        let mut progress = Progress::bytes(quiet || self.is_embedded, "loading");
        let (mut done, total) = (0, surveyed.source_bytes);
        let mut report = |bytes| {
            done += bytes;
            progress.report(done.min(total), total);
        };
        let order = surveyed.tensors.iter().map(|asked| asked.name.as_str());
        let mut loader = Loader::load(&files, device, placement, order, &mut report);
        let parts = Parts::load(&mut loader, &self.config)?;
        Ok((parts, loader.finish()?))
    }
}

fn config_json(checkpoint: &Checkpoint) -> Result<Vec<u8>> {
    let missing = || Error::Checkpoint { file: checkpoint.root().join("config.json"), problem: "is missing".into() };
    Ok(checkpoint.read("config.json")?.ok_or_else(missing)?.to_vec())
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

pub fn run(common: &Common, arguments: &Model) -> Result<()> {
    let subject = Subject::new(arguments)?;
    let config = &subject.config;
    let context = config.text.max_positions();
    let prompts = lengths(&arguments.prompt_tokens, &[64, 256], config.num_query_tokens + 1, context)?;
    let keys = lengths(&arguments.keys, &[32, 256, 512], 0, context)?;
    let device = open_device(common)?;
    let bench = Bench { common, arguments, subject: &subject, device: &device, prompts, keys };
    let mut model = bench.measure()?;
    // The model is gone by now: the ceilings need room of their own, which is not the model's.
    let mut results = Results::new(common.adapter.as_deref(), &device, ceilings::measure(&device)?);
    let read = results.ceilings.read_gb_s;
    let share = |bytes: u64, ms: f64| if read > 0.0 { bytes as f64 / ms / 1e6 / read } else { 0.0 };
    model.decode.iter_mut().for_each(|row| row.bandwidth_share = share(row.bytes, row.ms));
    results.model = Some(model);
    results.deliver(common, &arguments.output)
}

struct Bench<'a> {
    common: &'a Common,
    arguments: &'a Model,
    subject: &'a Subject,
    device: &'a Device,
    /// Words of each prompt.
    prompts: Vec<u32>,
    keys: Vec<u32>,
}

impl Bench<'_> {
    fn runs(&self) -> usize {
        self.arguments.runs as usize
    }

    fn options(&self) -> LoadOptions {
        let longest = |lengths: &[u32]| lengths.iter().copied().max().unwrap_or(1);
        let rows = longest(&self.arguments.rows);
        let (prompt_tokens, new_tokens) = (longest(&self.prompts), longest(&self.keys));
        let software = self.device.caps().class == AdapterClass::Cpu;
        LoadOptions {
            formats: self.arguments.weights.map(Formats::usual).unwrap_or_default(),
            // A software adapter counts what all programs share as its own.
            budget_bytes: if software { available_bytes() } else { self.device.memory_bytes() },
            workload: Workload { prompt_tokens, new_tokens, rows, ..Workload::default() },
            ..LoadOptions::default()
        }
    }

    fn measure(&self) -> Result<ModelResults> {
        let Bench { subject: Subject { config, .. }, device, .. } = self;
        let options = self.options();
        let points = 4 + self.prompts.len() + self.keys.len() * self.arguments.rows.len();
        if let (true, Some(checkpoint)) = (self.subject.is_embedded, &self.subject.checkpoint) {
            check::answer(device, checkpoint, options.formats)?;
        }
        let ((parts, loaded), load_ms) = milliseconds(|| self.subject.load(device, &options, self.common.quiet))?;
        let mut progress = Progress::counting(self.common.quiet, "measurements", Some(points as u64));
        let mut done = 1;
        let mut next = || {
            done += 1;
            progress.count(done);
        };
        let timed = device.has_timestamps();
        if !timed && !self.common.quiet {
            say("this adapter has no clock for kernels: no times by label");
        }
        let (image_ms, pixels) = self.image()?;
        next();
        let (vision_ms, features, mut labels) = self.vision(&parts, &pixels)?;
        next();
        let (qformer_ms, features, more) = self.qformer(&parts, &features)?;
        labels.extend(more);
        next();
        let language = &parts.language;
        let queries = config.num_query_tokens;
        let make = |words: &u32| Prompt::new(device, queries, *words, language.vocab_rows());
        let prompts = self.prompts.iter().map(make).collect::<Result<Vec<Prompt>>>()?;
        check::decoding(device, language, &features, &prompts[0])?;
        let timer = Timer { device, language, runs: self.runs(), encoded: prompts[0].len() };
        let (mut prefill, mut decode) = (Vec::new(), Vec::new());
        let longest = prompts.iter().map(Prompt::len).max();
        for prompt in &prompts {
            let (row, more) = timer.prefill(&features, prompt, timed && Some(prompt.len()) == longest)?;
            prefill.push(row);
            labels.extend(more);
            next();
        }
        for (i, &rows) in self.arguments.rows.iter().enumerate() {
            for &keys in &self.keys {
                let last = i == 0 && Some(&keys) == self.keys.iter().max();
                let (row, more) = timer.decode(rows, keys, timed && last)?;
                decode.push(row);
                labels.extend(more);
                next();
            }
        }
        progress.clear();
        let times = [("load", load_ms), ("image", image_ms), ("vision", vision_ms), ("qformer", qformer_ms)];
        Ok(ModelResults {
            name: self.subject.name.clone(),
            layers: [config.vision.num_hidden_layers, config.qformer.num_hidden_layers, language.num_layers() as u32],
            weights: loaded.formats[Part::Language as usize].name().into(),
            peak_bytes: device.counters().peak_bytes(),
            stages: times.map(|(name, ms)| Stage { name: name.into(), ms }).into(),
            prefill,
            decode,
            labels,
        })
    }

    /// Median wall time of a plan from submit to done, after one run to warm up, and its time by label.
    fn time(&self, stage: &str, plan: &Plan) -> Result<(f64, Vec<LabelRow>)> {
        let once = || Ok(milliseconds(|| Ok(plan.submit().and_then(|()| self.device.wait())?))?.1);
        once()?;
        let ms = median((0..self.runs()).map(|_| once()).collect::<Result<Vec<f64>>>()?);
        let labels = if self.device.has_timestamps() { profile(stage, plan, self.runs())? } else { Vec::new() };
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
        let times = (0..self.runs()).map(|_| Ok(once()?.1)).collect::<Result<Vec<f64>>>()?;
        Ok((median(times), once()?.0))
    }

    fn vision(&self, parts: &Parts, pixels: &[f32]) -> Result<(f64, Tensor, Vec<LabelRow>)> {
        let side = self.subject.config.vision.image_size;
        let pixels = self.device.tensor(Category::Io, "pixels", 3 * side, side, pixels)?;
        let mut r = Recorder::new(self.device.caps());
        let recorded = parts.vision.record(&mut r, &pixels).last_hidden_state;
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
        let recorded = parts.qformer.record(&mut r, features, words.as_ref(), Mask::None).language_model_inputs;
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
