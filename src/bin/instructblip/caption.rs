//! `instructblip caption`: a line of text for each picture.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use instructblip::processor::Task;
use instructblip::{Error, Question};

use crate::common::{Common, Gpu};
use crate::generation::Generation;
use crate::inputs::Pictures;
use crate::options::Model;
use crate::progress::Progress;
use crate::session::{load_model, reply_json, say_last, workload};

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
    let mut model = load_model(common, &caption.model, workload(&options, 1, 1))?;
    let prompt = match &caption.prompt {
        Some(prompt) => prompt.clone(),
        None if model.config().qformer_reads_text() => Task::Caption.prompt("", &[])?,
        // BLIP-2 was not taught instructions; it describes pictures by itself.
        None => String::new(),
    };
    let started = Instant::now();
    let mut out = std::io::stdout().lock();
    let mut done = 0;
    for path in &files {
        let image = match caption.model.picture_options.read(common, path) {
            Ok(image) => image,
            Err(error) => {
                skipped.add(error.into(), &Progress::Quiet)?;
                continue;
            }
        };
        let reply = match model.answer(&[Question::new(&image, &prompt)], &options, &mut |_| {}) {
            Ok(mut replies) => replies.swap_remove(0),
            Err(error @ Error::NotFinite { .. }) => {
                skipped.add(anyhow::Error::from(error).context(path.display().to_string()), &Progress::Quiet)?;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if caption.json {
            let mut line = reply_json(&reply, &model);
            line["image"] = path.display().to_string().into();
            writeln!(out, "{line}")?;
        } else {
            let name = if caption.pictures.is_one() { String::new() } else { format!("{}\t", one_line(path)) };
            reply.sequences.iter().try_for_each(|sequence| writeln!(out, "{name}{}", sequence.text))?;
        }
        out.flush()?;
        done += 1;
    }
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
