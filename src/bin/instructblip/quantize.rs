//! `instructblip quantize`: a checkpoint into one with smaller weights.

use anyhow::Result;
use instructblip::error::Bytes;
use instructblip::model::quantize;
use instructblip::weights::Formats;

use crate::args::{Common, Quantize};
use crate::progress::{Progress, say};
use crate::session::{Chosen, chosen};

pub fn run(common: &Common, arguments: &Quantize) -> Result<()> {
    let formats = Formats::usual(arguments.weights).but_for(Formats {
        vision: arguments.vision_weights,
        qformer: arguments.qformer_weights,
        language: arguments.language_weights,
    });
    let Chosen { checkpoint, adapter } = chosen(&arguments.source, arguments.lora.as_deref())?;
    let mut progress = Progress::bytes(common.quiet, "writing");
    let mut report = |done, total| progress.report(done, total);
    let (folder, shard_bytes) = (&arguments.folder, arguments.shard_size);
    let done = quantize(&checkpoint, adapter.as_ref(), folder, formats, shard_bytes, &mut report)?;
    if !common.quiet {
        let (from, to, folder) = (Bytes(done.source_bytes), Bytes(done.bytes), arguments.folder.display());
        say(&format!("{from} became {to} in {} files in {folder}", done.files));
    }
    Ok(())
}
