//! `instructblip caption`: a line of text for each picture.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use instructblip::Question;
use instructblip::processor::Task;

use crate::args::{Caption, Common};
use crate::session::{check_images, load_model, read_image, reply_json, workload};

pub fn run(common: &Common, caption: &Caption) -> Result<()> {
    let options = caption.generation.options();
    options.check()?;
    check_images(caption.images.iter().map(PathBuf::as_path))?;
    let mut model = load_model(common, &caption.model, workload(&options, 1, 1))?;
    let prompt = match &caption.prompt {
        Some(prompt) => prompt.clone(),
        None if model.config().qformer_reads_text() => Task::Caption.prompt("", &[])?,
        // BLIP-2 was not taught instructions; it describes pictures by itself.
        None => String::new(),
    };
    let mut out = std::io::stdout().lock();
    for path in &caption.images {
        let image = read_image(path)?;
        let reply = model.answer(&[Question::new(&image, &prompt)], &options, &mut |_| {})?.swap_remove(0);
        if caption.json {
            let mut line = reply_json(&reply, &model);
            line["image"] = path.display().to_string().into();
            writeln!(out, "{line}")?;
        } else {
            let name = if caption.images.len() == 1 { String::new() } else { format!("{}\t", path.display()) };
            reply.sequences.iter().try_for_each(|sequence| writeln!(out, "{name}{}", sequence.text))?;
        }
        out.flush()?;
    }
    caption.model.overrides.tell_unused(common, model.device());
    Ok(())
}
