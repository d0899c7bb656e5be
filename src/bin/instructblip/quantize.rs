//! `instructblip quantize`: a checkpoint into one with smaller weights.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use instructblip::error::Bytes;
use instructblip::model::quantize;
use instructblip::runtime::WeightFormat;
use instructblip::weights::Formats;

use crate::common::Common;
use crate::options::{formats, size};
use crate::progress::say;
use crate::session::{Chosen, chosen};
use crate::watching;

/// Arguments of `quantize`.
#[derive(Args, Debug)]
pub struct Quantize {
    /// Directory of a checkpoint, or the name of one in the cache
    pub source: PathBuf,
    /// Folder to write to, empty or not there yet
    pub folder: PathBuf,
    /// LoRA adapter to merge into the weights: a folder that peft saved, or owner/name of one that was pulled. An adapter
    /// in the model's own folder is merged without being asked for
    #[arg(long, value_name = "DIR|REPO")]
    pub lora: Option<PathBuf>,
    /// Format: q8, or q4 for the language model with a vision tower in q8
    #[arg(long, value_name = "FORMAT", value_parser = formats())]
    pub weights: WeightFormat,
    /// Format of the vision tower, if another
    #[arg(long, value_name = "FORMAT", value_parser = formats())]
    pub vision_weights: Option<WeightFormat>,
    /// Format of the Q-Former, if not f16
    #[arg(long, value_name = "FORMAT", value_parser = formats())]
    pub qformer_weights: Option<WeightFormat>,
    /// Format of the language model, if another
    #[arg(long, value_name = "FORMAT", value_parser = formats())]
    pub language_weights: Option<WeightFormat>,
    /// Most bytes of a file
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = size)]
    pub shard_size: u64,
}

pub fn run(common: &Common, arguments: &Quantize) -> Result<()> {
    let formats = Formats::usual(arguments.weights).but_for(Formats {
        vision: arguments.vision_weights,
        qformer: arguments.qformer_weights,
        language: arguments.language_weights,
    });
    let Chosen { checkpoint, adapter } = chosen(&arguments.source, arguments.lora.as_deref())?;
    let (folder, shard_bytes) = (&arguments.folder, arguments.shard_size);
    let done = quantize(&checkpoint, adapter.as_ref(), folder, formats, shard_bytes, &watching::watch(common))?;
    if !common.quiet {
        let (from, to, folder) = (Bytes(done.source_bytes), Bytes(done.bytes), arguments.folder.display());
        say(&format!("{from} became {to} in {} files in {folder}", done.files));
    }
    Ok(())
}
