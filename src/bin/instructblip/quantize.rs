//! `instructblip quantize`: a checkpoint into one with smaller weights.

use anyhow::Result;
use instructblip::error::Bytes;
use instructblip::model::quantize;
use instructblip::weights::Formats;

use crate::args::{Common, Quantize};
use crate::progress::{Progress, say};
use crate::session::named;

pub fn run(common: &Common, arguments: &Quantize) -> Result<()> {
    let formats = Formats::usual(arguments.weights).but_for(Formats {
        vision: arguments.vision_weights,
        qformer: arguments.qformer_weights,
        language: arguments.language_weights,
    });
    let checkpoint = named(&arguments.source)?;
    let mut progress = Progress::bytes(common.quiet, "writing");
    let mut report = |done, total| progress.report(done, total);
    let done = quantize(&checkpoint, &arguments.folder, formats, arguments.shard_size, &mut report)?;
    if !common.quiet {
        let (from, to, folder) = (Bytes(done.source_bytes), Bytes(done.bytes), arguments.folder.display());
        say(&format!("{from} became {to} in {} files in {folder}", done.files));
    }
    Ok(())
}
