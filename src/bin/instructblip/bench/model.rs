//! `instructblip bench model`: a whole model, stage by stage.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use instructblip::config::Config;
use instructblip::lab::ceilings;
use instructblip::lab::model::{Options, Subject, measure};
use instructblip::lab::results::Ceilings;
use instructblip::model::LoadOptions;
use instructblip::runtime::{KvFormat, WeightFormat};
use instructblip::shapes::{Layers, PUBLISHED, Shape};
use instructblip::{Checkpoint, Error};
use serde_json::Value;

use super::report;
use super::run::{self, Output};
use crate::common::{Common, Gpu};
use crate::options::{formats, kv_formats};
use crate::progress::{Progress, say};
use crate::session::{bounded, embedded, named, open_device};

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
    /// Format of the keys and values in the cache; the usual one for the GPU and the model if left out
    #[arg(long, value_name = "f32|f16", value_parser = kv_formats())]
    pub kv_cache: Option<KvFormat>,
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

/// The model that the arguments name.
fn subject(arguments: &Model) -> Result<Subject> {
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
            let document = serde_json::from_slice(&config_json(&checkpoint)?).context("the embedded config.json")?;
            let config = parse(document, "config.json")?;
            Ok(Subject { name: "embedded".into(), config, checkpoint: Some(checkpoint), is_embedded: true })
        }
    }
}

fn config_json(checkpoint: &Checkpoint) -> Result<Vec<u8>> {
    let missing = || Error::Checkpoint { file: checkpoint.root().join("config.json"), problem: "is missing".into() };
    Ok(checkpoint.read("config.json")?.ok_or_else(missing)?.to_vec())
}

pub fn run(common: &Common, arguments: &Model) -> Result<()> {
    let subject = subject(arguments)?;
    let device = open_device(common)?.with_kv_cache(arguments.kv_cache);
    if !device.has_timestamps() && !common.quiet {
        say("this adapter has no clock for kernels: no times by label");
    }
    let mut results = run::results(common.adapter.as_deref(), &device, arguments.runs, Ceilings::default());
    arguments.output.output.as_deref().map_or(Ok(()), |folder| report::write_unfinished(folder, &results))?;
    let options = Options {
        weights: arguments.weights,
        prompt_tokens: arguments.prompt_tokens.clone(),
        keys: arguments.keys.clone(),
        rows: arguments.rows.clone(),
        runs: arguments.runs as usize,
        budget_bytes: bounded(&device, LoadOptions::default()).budget_bytes,
    };
    let mut measuring: Option<Progress> = None;
    let mut model = measure(&subject, &options, &device, &mut |done, total| {
        let counting = || {
            if !common.quiet {
                let runs = arguments.runs;
                say(&common.paint(&format!("{}: {total} measurements of {runs} runs each", subject.name), "2"));
            }
            Progress::counting(common.quiet, "measurements", Some(total))
        };
        measuring.get_or_insert_with(counting).count(done);
    })?;
    measuring.iter_mut().for_each(|progress| progress.clear());
    // The model is gone by now: the ceilings need room of their own, which is not the model's.
    results.ceilings = ceilings::measure(&device)?;
    let read = results.ceilings.read_gb_s;
    let share = |bytes: u64, ms: f64| if read > 0.0 { bytes as f64 / ms / 1e6 / read } else { 0.0 };
    model.decode.iter_mut().for_each(|row| row.bandwidth_share = share(row.bytes, row.ms));
    results.model = Some(model);
    run::deliver(&results, common, &arguments.output)
}
