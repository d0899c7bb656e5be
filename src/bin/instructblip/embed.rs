//! `instructblip embed`: what the vision tower and the Q-Former make of pictures, in a file.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::Result;
use instructblip::model::Workload;
use instructblip::model::{NamedTensor, Values};

use crate::args::{Common, Embed};
use crate::files::{check_target, write_tensors};
use crate::progress::{Progress, say};
use crate::session::{check_images, load_model, read_image};

pub fn run(common: &Common, embed: &Embed) -> Result<()> {
    check_target(&embed.output)?;
    check_images(embed.images.iter().map(PathBuf::as_path))?;
    let mut model = load_model(common, &embed.model, Workload::default())?;
    let mut progress = Progress::counting(common.quiet, "pictures", Some(embed.images.len() as u64));
    let mut joined: Vec<NamedTensor> = Vec::new();
    for (i, path) in embed.images.iter().enumerate() {
        let features = model.features(&read_image(path)?, &embed.prompt, &embed.taps)?;
        let tensors = [features.image, features.queries, features.projected].into_iter().chain(features.taps);
        for (at, tensor) in tensors.enumerate() {
            match joined.get_mut(at) {
                Some(known) => append(known, tensor),
                None => joined.push(tensor),
            }
        }
        progress.count(i as u64 + 1);
    }
    progress.clear();
    let names: Vec<String> = embed.images.iter().map(|path| path.display().to_string()).collect();
    let about = HashMap::from([
        ("images".to_string(), serde_json::Value::from(names).to_string()),
        ("prompt".to_string(), embed.prompt.clone()),
        ("model".to_string(), model.name().to_string()),
    ]);
    write_tensors(&embed.output, &joined, about)?;
    embed.model.overrides.tell_unused(common, model.device());
    if !common.quiet {
        joined.iter().for_each(|tensor| say(&format!("{} {:?}", tensor.name, tensor.shape)));
    }
    Ok(())
}

/// One more picture's rows.
fn append(all: &mut NamedTensor, one: NamedTensor) {
    if let (Values::F32(all_values), Values::F32(values)) = (&mut all.values, one.values) {
        all_values.extend(values);
        all.shape[0] += one.shape[0];
    }
}
