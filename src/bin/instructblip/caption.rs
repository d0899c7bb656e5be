//! `instructblip caption`: a line of text for each picture.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use instructblip::engine::Request;
use instructblip::processor::Task;

use crate::common::{Common, Gpu};
use crate::generation::Generation;
use crate::inputs::Pictures;
use crate::options::Model;
use crate::progress::Progress;
use crate::session::{load_model, reply_json, say_last};
use crate::side_by_side::{Slots, answer_all};

/// Arguments of `caption`.
#[derive(Args, Debug)]
pub struct Caption {
    #[command(flatten)]
    pub pictures: Pictures,
    /// The instruction, if not the paper's for captions, or none for BLIP-2
    #[arg(long)]
    pub prompt: Option<String>,
    /// Print one JSON object a picture, a line each
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub slots: Slots,
    #[command(flatten)]
    pub generation: Generation,
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub gpu: Gpu,
}

pub fn run(common: &Common, caption: &Caption) -> Result<()> {
    let options = caption.generation.options();
    options.check()?;
    let (files, mut skipped) = caption.pictures.files(common)?;
    let most = caption.slots.workload(&options, files.len(), 1);
    let model = load_model(common, &caption.model, most)?;
    let (name, device) = (model.name().to_string(), model.device().clone());
    let prompt = match &caption.prompt {
        Some(prompt) => prompt.clone(),
        None if model.config().qformer_reads_text() => Task::Caption.prompt("", &[])?,
        // BLIP-2 was not taught instructions; it describes pictures by itself.
        None => String::new(),
    };
    let started = Instant::now();
    let mut out = std::io::stdout().lock();
    // Lines on a terminal show by themselves how far it is.
    let unseen = common.quiet || caption.pictures.is_one() || std::io::stdout().is_terminal();
    let mut progress = Progress::counting(unseen, "pictures", Some(files.len() as u64));
    let (mut heard, mut done) = (0, 0);
    let request =
        |path: &PathBuf| Request::new(caption.model.picture_options.picture(common, path), &prompt, options.clone());
    let model = answer_all(model, &most, files, request, |path, reply| {
        heard += 1;
        progress.count(heard);
        let reply = match reply {
            Ok(reply) => reply,
            Err(error) => return skipped.add_picture(&path, error, &progress),
        };
        if caption.json {
            let mut line = reply_json(&reply, &name, device.name());
            line["image"] = path.display().to_string().into();
            writeln!(out, "{line}")?;
        } else {
            let name = if caption.pictures.is_one() { String::new() } else { format!("{}\t", one_line(&path)) };
            reply.sequences.iter().try_for_each(|sequence| writeln!(out, "{name}{}", sequence.text))?;
        }
        done += 1;
        Ok(out.flush()?)
    })?;
    progress.clear();
    caption.model.overrides.tell_unused(common, model.device());
    if !caption.json {
        let pictures = if done == 1 { "picture" } else { "pictures" };
        say_last(common, &model, &format!("{done} {pictures} in {:.2} s; ", started.elapsed().as_secs_f64()));
    }
    skipped.verdict(done)
}

/// A path without what would end its line or its column: those characters are written as Rust and JSON write them.
fn one_line(path: &Path) -> String {
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    path.display().to_string().chars().map(shown).collect()
}
