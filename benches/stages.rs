//! Times the stages of a whole model: load, image, vision, Q-Former, prefill, decode.
//!
//! ```text
//! cargo bench --bench stages -- [--shape NAME] [--layers N] [--vision-layers N] [--qformer-layers N]
//!     [--prompt-tokens N] [--new-tokens N] [--runs N] [--csv FILE]
//! ```
//!
//! NAME is `embedded` or a published shape, `instructblip-vicuna-7b` or `vicuna-7b` for short (`src/shapes.rs`).
//!
//! The embedded model must give its recorded answer first. The other shapes need no files: their weights are made on
//! the device, and decoding must agree with one long prefill. Without arguments: the embedded model, then two layers
//! of vicuna-7b.

mod support;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use instructblip::config::Config;
use instructblip::generate::session::Request;
use instructblip::generate::{GenerateOptions, Limits, PromptInputs, Prompted, Room, Session};
use instructblip::model::Parts;
use instructblip::processor::ImageProcessor;
use instructblip::qformer::QFormerOutput;
use instructblip::runtime::{Category, Device, DeviceOptions, Mask, Plan, Recorder, Step, Tensor};
use instructblip::shapes::{Layers, PUBLISHED, Shape};
use instructblip::weights::{Formats, Loader, Placement, TensorFiles};
use instructblip::{Image, InstructBlip};
use serde_json::json;
use support::{Arguments, append_csv, median, milliseconds, thread_cpu_us};

const HEADER: &str = "version,device,shape,layers,prompt_tokens,new_tokens,load_ms,image_ms,vision_ms,qformer_ms,\
                      prefill_ms,prefill_tokens_per_s,decode_tokens_per_s,decode_host_us_per_token,decode_cpu_us_per_token,\
                      decode_dispatches,weights_mib,kv_mib,scratch_mib,peak_mib";

/// What to build and how much to run.
#[derive(Clone)]
struct Setup {
    shape: String,
    layers: Layers,
    prompt_tokens: u32,
    new_tokens: u32,
    runs: usize,
}

fn main() -> Result<()> {
    let mut arguments = Arguments::new();
    let csv = arguments.value("--csv")?;
    let name = arguments.value("--shape")?;
    let setup = Setup {
        shape: name.clone().unwrap_or("embedded".into()),
        layers: Layers {
            language: arguments.number("--layers")?,
            vision: arguments.number("--vision-layers")?,
            qformer: arguments.number("--qformer-layers")?,
        },
        prompt_tokens: arguments.number("--prompt-tokens")?.unwrap_or(64),
        new_tokens: arguments.number("--new-tokens")?.unwrap_or(32),
        runs: arguments.number("--runs")?.unwrap_or(5) as usize,
    };
    arguments.finish()?;
    let device = Device::open(&DeviceOptions::default())?;
    println!("{}", device.name());
    let mut rows = vec![run(&device, &setup)?];
    if name.is_none() {
        let two = Layers { language: Some(2), vision: Some(2), qformer: Some(2) };
        let large = Setup { shape: "vicuna-7b".into(), layers: two, ..setup };
        rows.push(run(&device, &large)?);
    }
    csv.map_or(Ok(()), |path| append_csv(&path, HEADER, &rows))
}

/// The configuration of the embedded model or of a published shape, with fewer layers if asked.
fn config(setup: &Setup) -> Result<Config> {
    let mut document = match setup.shape.as_str() {
        "embedded" => serde_json::from_str(include_str!("../models/shapes/config.json"))?,
        name => Shape::named(name).with_context(|| format!("no shape {name}; there are {}", names()))?.document(),
    };
    setup.layers.put_into(&mut document);
    Ok(Config::parse(Path::new("config.json"), document.to_string().as_bytes())?)
}

fn names() -> String {
    ["embedded"].into_iter().chain(PUBLISHED.iter().map(Shape::name)).collect::<Vec<_>>().join(", ")
}

fn load(device: &Device, setup: &Setup, config: &Config) -> Result<Parts> {
    if setup.shape == "embedded" {
        let files = std::sync::Arc::new(TensorFiles::open(&instructblip::embedded::SHAPES, true)?);
        let mut ignore = |_| {};
        let mut loader = Loader::load(&files, device, Placement::default(), std::iter::empty(), &mut ignore);
        let parts = Parts::load(&mut loader, config)?;
        loader.finish()?;
        return Ok(parts);
    }
    let mut loader = Loader::synthetic(device, Formats::default());
    let parts = Parts::load(&mut loader, config)?;
    loader.finish()?;
    Ok(parts)
}

/// The embedded model's answer to a recorded question.
fn check_answer(device: &Device) -> Result<()> {
    let image = Image::decode("11.png", include_bytes!("../tests/shapes/samples/11.png"))?;
    let mut model = InstructBlip::embedded(device)?;
    let reply = model.ask(&image, "Which is the smallest shape?", &GenerateOptions::default())?;
    ensure!(reply.text == "green star", "the embedded model answers {:?}", reply.text);
    Ok(())
}

fn run(device: &Device, setup: &Setup) -> Result<String> {
    if setup.shape == "embedded" {
        check_answer(device)?;
    }
    let config = config(setup)?;
    let (parts, load_ms) = milliseconds(|| load(device, setup, &config))?;
    let bench = Bench { device, setup, config: &config, parts: &parts };
    let (image_ms, pixels) = bench.image()?;
    let (vision_ms, features) = bench.vision(&pixels)?;
    let (qformer_ms, queries) = bench.qformer(&features)?;
    let language = bench.language(&queries)?;
    let mib = |category| device.counters().bytes(category) >> 20;
    let tokens = f64::from(setup.prompt_tokens + config.num_query_tokens);
    let layers = format!(
        "{}+{}+{}",
        config.vision.num_hidden_layers,
        config.qformer.num_hidden_layers,
        parts.language.num_layers()
    );
    println!("\n{} ({layers} layers of vision, Q-Former and language model)", setup.shape);
    println!("  load      {load_ms:>9.1} ms");
    println!("  image     {image_ms:>9.1} ms");
    println!("  vision    {vision_ms:>9.1} ms");
    println!("  Q-Former  {qformer_ms:>9.1} ms");
    println!("  prefill   {:>9.1} ms, {:.0} tokens/s", language.prefill_ms, tokens * 1e3 / language.prefill_ms);
    println!("  decode    {:>9.1} tokens/s, {} dispatches", language.tokens_per_s, language.dispatches);
    println!(
        "            {:>9.1} us to submit a step; {:.1} us of CPU time a token",
        language.host_us, language.cpu_us
    );
    let sizes = [mib(Category::Weights), language.kv_mib, mib(Category::Scratch), device.counters().peak_bytes() >> 20];
    println!("  MiB: weights {}, cache {}, scratch {}, peak {}", sizes[0], sizes[1], sizes[2], sizes[3]);
    Ok(format!(
        "{},\"{}\",{},{layers},{tokens},{},{load_ms:.1},{image_ms:.2},{vision_ms:.1},{qformer_ms:.1},{:.1},{:.1},{:.2},\
         {:.1},{:.1},{},{},{},{},{}",
        env!("CARGO_PKG_VERSION"),
        device.name(),
        setup.shape,
        setup.new_tokens,
        language.prefill_ms,
        tokens * 1e3 / language.prefill_ms,
        language.tokens_per_s,
        language.host_us,
        language.cpu_us,
        language.dispatches,
        sizes[0],
        sizes[1],
        sizes[2],
        sizes[3]
    ))
}

struct Bench<'a> {
    device: &'a Device,
    setup: &'a Setup,
    config: &'a Config,
    parts: &'a Parts,
}

struct LanguageTimes {
    prefill_ms: f64,
    tokens_per_s: f64,
    host_us: f64,
    cpu_us: f64,
    dispatches: usize,
    kv_mib: u64,
}

impl Bench<'_> {
    /// Median wall time of a plan from submit to done, after one run to warm up.
    fn time(&self, plan: &Plan) -> Result<f64> {
        let once = || milliseconds(|| plan.submit().and_then(|()| self.device.wait()).map_err(Into::into));
        once()?;
        Ok(median((0..self.setup.runs).map(|_| Ok(once()?.1)).collect::<Result<_>>()?))
    }

    fn ids(&self, ids: &[u32]) -> Result<Tensor> {
        Ok(self.device.tensor(Category::Io, "ids", 1, ids.len() as u32, ids)?)
    }

    /// A 640 x 480 picture to the model's pixels.
    fn image(&self) -> Result<(f64, Vec<f32>)> {
        let side = self.config.vision.image_size;
        let settings = json!({"size": {"height": side, "width": side}, "resample": 3, "do_resize": true,
            "do_rescale": true, "do_normalize": true, "do_convert_rgb": true, "rescale_factor": 0.00392156862745098,
            "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]});
        let processor = ImageProcessor::from_json(Path::new("settings"), &settings)?;
        let bytes = support::noise(1, 640 * 480 * 3).iter().map(|v| (v * 127.0 + 128.0) as u8).collect();
        let image = Image::from_rgb(640, 480, bytes)?;
        let times = (0..self.setup.runs).map(|_| Ok(milliseconds(|| Ok(processor.pixels(&image)))?.1));
        Ok((median(times.collect::<Result<_>>()?), processor.pixels(&image)))
    }

    fn vision(&self, pixels: &[f32]) -> Result<(f64, Tensor)> {
        let side = self.config.vision.image_size;
        let pixels = self.device.tensor(Category::Io, "pixels", 3 * side, side, pixels)?;
        let mut r = Recorder::new(self.device.caps());
        let recorded = self.parts.vision.record(&mut r, &pixels).last_hidden_state;
        let plan = r.finish(self.device)?;
        let ms = self.time(&plan)?;
        let features = plan.output(&recorded);
        ensure!(self.device.read::<f32>(&features)?.iter().all(|v| v.is_finite()), "vision gives finite values");
        Ok((ms, features))
    }

    fn qformer(&self, features: &Tensor) -> Result<(f64, QFormerOutput)> {
        let words = self.setup.prompt_tokens.min(self.config.qformer.max_position_embeddings);
        let words = match self.config.qformer_reads_text() {
            true => Some(self.ids(&(0..words).map(|i| 5 + i % 100).collect::<Vec<_>>())?),
            false => None,
        };
        let mut r = Recorder::new(self.device.caps());
        let recorded = self.parts.qformer.record(&mut r, features, words.as_ref(), Mask::None);
        let plan = r.finish(self.device)?;
        let ms = self.time(&plan)?;
        let output = QFormerOutput {
            last_hidden_state: plan.output(&recorded.last_hidden_state),
            language_model_inputs: plan.output(&recorded.language_model_inputs),
        };
        Ok((ms, output))
    }

    fn language(&self, queries: &QFormerOutput) -> Result<LanguageTimes> {
        let (language, new_tokens) = (&self.parts.language, self.setup.new_tokens);
        let places: Vec<u32> = (0..self.config.num_query_tokens).collect();
        let words = (0..self.setup.prompt_tokens).map(|i| 300 + i % 97);
        let prompt: Vec<u32> = places.iter().map(|_| 4).chain(words).collect();
        let (ids, places) = (self.ids(&prompt)?, self.ids(&places)?);
        let inputs = PromptInputs { ids: &ids, features: &queries.language_model_inputs, places: &places };
        let sizes = [prompt.len() as u32 + new_tokens];
        let session = Session::new(self.device, language, Room::of(language, &sizes, 1, new_tokens))?;
        let prompted = Prompted { inputs, history: prompt.clone(), counted: 0 };
        let options = GenerateOptions::default();
        let (mut prefills, mut decodes, mut generated) = (Vec::new(), Vec::new(), Vec::new());
        for run in 0..self.setup.runs + 1 {
            let (mut tokens, start_ms) =
                milliseconds(|| Ok(session.start(language, &prompted, &options, Limits::new(new_tokens, &[]))?))?;
            let (first, first_ms) = milliseconds(|| Ok(tokens.next().expect("a first token")?))?;
            let (rest, rest_ms) = milliseconds(|| Ok(tokens.collect::<Result<Vec<u32>, _>>()?))?;
            generated = [vec![first], rest].concat();
            if run > 0 {
                prefills.push(start_ms + first_ms);
                decodes.push(f64::from(new_tokens - 1) * 1e3 / rest_ms);
            }
        }
        // All that was said at once: after the prompt, or by T5's decoder after its first token.
        let said = &generated[..generated.len() - 1];
        let decoder_ids = language.as_t5().map_or(Vec::new(), |t5| [&[t5.decoder_start_token_id()], said].concat());
        let whole = if decoder_ids.is_empty() { [&prompt[..], said].concat() } else { prompt.clone() };
        let rows = if decoder_ids.is_empty() { whole.len() } else { decoder_ids.len() };
        let ids = self.ids(&whole)?;
        let inputs = PromptInputs { ids: &ids, features: &queries.language_model_inputs, places: &places };
        let placed = Session::place(language, &[ids.len()])[0];
        let request = Request { rows: rows as u32, decoder_ids: &decoder_ids, ..Request::default() };
        let pass = session.prefill(language, &inputs, placed, request)?;
        pass.submit()?;
        let logits = pass.logits;
        let first = rows - generated.len();
        check_tokens(&self.device.read(&logits)?, logits.cols() as usize, first, &generated)?;
        let (host_us, cpu_us) = self.submit_us(session.decode_plan())?;
        Ok(LanguageTimes {
            prefill_ms: median(prefills),
            tokens_per_s: median(decodes),
            host_us,
            cpu_us,
            dispatches: session.decode_plan().len(),
            kv_mib: self.device.counters().bytes(Category::KvCache) >> 20,
        })
    }

    /// What decoding costs a program's own thread per token: wall time of writing a step and submitting it, and CPU
    /// time of the whole step, reading the token back included.
    fn submit_us(&self, decode: &Plan) -> Result<(f64, f64)> {
        const STEPS: u32 = 20;
        let mut wall = Vec::new();
        let before = thread_cpu_us();
        for i in 0..STEPS {
            let ((), ms) = milliseconds(|| {
                decode.write_step(Step::new(i % 8, 1));
                Ok(decode.submit()?)
            })?;
            wall.push(ms * 1e3);
            decode.read_token()?;
        }
        Ok((median(wall), (thread_cpu_us() - before) / f64::from(STEPS)))
    }
}

/// Each token generated step by step is the largest logit, or all but it, of everything run at once, whose row `first`
/// gives the first token.
fn check_tokens(logits: &[f32], columns: usize, first: usize, generated: &[u32]) -> Result<()> {
    for (i, &token) in generated.iter().enumerate() {
        let row = &logits[(first + i) * columns..][..columns];
        let (low, high) = row.iter().fold((f32::MAX, f32::MIN), |(low, high), &v| (low.min(v), high.max(v)));
        ensure!(low.is_finite() && high.is_finite(), "logits are finite");
        let short = (high - row[token as usize]) / (high - low);
        ensure!(short <= 1e-4, "token {i} of the answer is {short:e} of the range below the best");
    }
    Ok(())
}
