//! `instructblip embed`: what the vision tower and the Q-Former make of pictures, in a file.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use instructblip::engine::{Outcome, Request};
use instructblip::model::{NamedTensor, Values, Workload};
use instructblip::{EngineOptions, GenerateOptions};

use crate::common::{Common, Gpu};
use crate::files::{check_is_no_input, check_target, write_tensors};
use crate::inputs::Pictures;
use crate::options::Model;
use crate::progress::{Progress, say};
use crate::session::{load_model, note_unread_words, say_last};
use crate::side_by_side::ask_all;

/// Arguments of `embed`.
#[derive(Args, Debug)]
pub struct Embed {
    #[command(flatten)]
    pub pictures: Pictures,
    /// Words that tell the Q-Former what to look for
    #[arg(long, default_value = "")]
    pub prompt: String,
    /// File to write: tensors image_features, query_features, projected_features, a row per picture
    #[arg(long, short, value_name = "OUT.safetensors")]
    pub output: PathBuf,
    /// Labels of further outputs of the vision tower and the Q-Former to write, for example
    /// qformer.encoder.layer.0.cross_attention.weights
    #[arg(long, value_name = "LABEL,…", value_delimiter = ',')]
    pub taps: Vec<String>,
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub gpu: Gpu,
}

pub fn run(common: &Common, embed: &Embed) -> Result<()> {
    check_target(&embed.output)?;
    let (files, mut skipped) = embed.pictures.files(common)?;
    check_is_no_input(&embed.output, &files)?;
    let at_once = (files.len() as u32).clamp(1, EngineOptions::default().at_once);
    let most = Workload { new_tokens: 1, at_once, ..Workload::default() };
    let model = load_model(common, &embed.model, most)?;
    note_unread_words(common, &model, &embed.prompt);
    let mut progress = Progress::counting(common.quiet, "pictures", Some(files.len() as u64));
    let mut joined: Vec<NamedTensor> = Vec::new();
    // Of each row, as pictures may be skipped.
    let mut names = Vec::new();
    let mut done = 0;
    let request = |path: &PathBuf| {
        let picture = embed.model.picture_options.picture(common, path);
        let features = Some(embed.taps.clone());
        Request { features, ..Request::new(picture, &embed.prompt, GenerateOptions::default()) }
    };
    let model = ask_all(model, &most, files, request, |path, outcome| {
        done += 1;
        progress.count(done);
        let features = match outcome {
            Ok(Outcome::Features(features)) => *features,
            Ok(_) => unreachable!("features are asked for"),
            Err(error) => return skipped.add_picture(&path, error, &progress),
        };
        let tensors = [features.image, features.queries, features.projected].into_iter().chain(features.taps);
        for (at, tensor) in tensors.enumerate() {
            match joined.get_mut(at) {
                Some(known) => append(known, tensor),
                None => joined.push(tensor),
            }
        }
        names.push(path.display().to_string());
        Ok(())
    })?;
    progress.clear();
    if names.is_empty() {
        return skipped.verdict(0);
    }
    let used = names.len();
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
    say_last(common, &model, "");
    skipped.verdict(used)
}

/// One more picture's rows.
fn append(all: &mut NamedTensor, one: NamedTensor) {
    if let (Values::F32(all_values), Values::F32(values)) = (&mut all.values, one.values) {
        all_values.extend(values);
        all.shape[0] += one.shape[0];
    }
}
