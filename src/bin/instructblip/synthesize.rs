//! `instructblip synthesize`: a checkpoint of a published shape with random weights, for people who work on loading.

use std::path::PathBuf;

use anyhow::Result;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use instructblip::shapes::{self, Layers, Shape};
use instructblip::synthesize::{Stored, Synthesis, synthesize};

use crate::common::Common;
use crate::options::size;
use crate::progress::say;
use crate::watching;

/// Arguments of `synthesize`.
#[derive(Args, Debug)]
pub struct Synthesize {
    /// The published checkpoint
    #[arg(value_parser = shapes())]
    pub shape: Shape,
    /// Folder to write to, empty or not there yet
    pub folder: PathBuf,
    /// Layers of the language model, if not all; of T5's encoder and of its decoder
    #[arg(long, value_name = "N")]
    pub layers: Option<u32>,
    /// Layers of the vision tower, if not all
    #[arg(long, value_name = "N")]
    pub vision_layers: Option<u32>,
    /// Layers of the Q-Former, if not all
    #[arg(long, value_name = "N")]
    pub qformer_layers: Option<u32>,
    /// Type of the weights, if not the published files'
    #[arg(long, value_enum)]
    pub dtype: Option<Dtype>,
    /// Most bytes of a file
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = size)]
    pub shard_size: u64,
    /// Where random numbers start: the same seed gives the same files
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

/// The type of stored weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    /// float16
    F16,
    /// bfloat16
    Bf16,
    /// float32
    F32,
}

fn shapes() -> impl TypedValueParser<Value = Shape> {
    let names = PossibleValuesParser::new(shapes::PUBLISHED.map(|shape| shape.name()));
    names.try_map(|name| Shape::named(&name).ok_or("is no shape"))
}

pub fn run(common: &Common, arguments: &Synthesize) -> Result<()> {
    let Synthesize { shape, folder, layers, vision_layers, qformer_layers, dtype, shard_size, seed } = arguments;
    let mut document = shape.document();
    Layers { language: *layers, vision: *vision_layers, qformer: *qformer_layers }.put_into(&mut document);
    let stored = dtype.map(|dtype| match dtype {
        Dtype::F16 => Stored::F16,
        Dtype::Bf16 => Stored::Bf16,
        Dtype::F32 => Stored::F32,
    });
    let options = Synthesis { stored, shard_bytes: *shard_size, seed: *seed };
    let written = synthesize(&document, folder, &options, &watching::watch(common))?;
    if !common.quiet {
        let (name, folder) = (shape.name(), folder.display());
        say(&format!(
            "{name} with random weights in {folder}: {} parameters in {} tensors, {} bytes in {} files",
            written.parameters, written.tensors, written.bytes, written.shards
        ));
    }
    Ok(())
}
