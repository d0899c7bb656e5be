//! `instructblip synthesize`: a checkpoint of a published shape with random weights, for people who work on loading.

use anyhow::Result;
use instructblip::shapes::Layers;
use instructblip::synthesize::{Stored, Synthesis, synthesize};

use crate::args::{Common, Dtype, Synthesize};
use crate::progress::{Progress, say};

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
    let mut progress = Progress::bytes(common.quiet, "writing");
    let written = synthesize(&document, folder, &options, &mut |done, total| progress.report(done, total))?;
    if !common.quiet {
        let (name, folder) = (shape.name(), folder.display());
        say(&format!(
            "{name} with random weights in {folder}: {} parameters in {} tensors, {} bytes in {} files",
            written.parameters, written.tensors, written.bytes, written.shards
        ));
    }
    Ok(())
}
