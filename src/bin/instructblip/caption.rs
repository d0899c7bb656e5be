//! `instructblip caption`: a line of text for each picture.

use std::io::Write;

use anyhow::Result;
use instructblip::Question;
use instructblip::processor::Task;

use crate::args::{Caption, Common};
use crate::session::{load_model, read_image, reply_json};

pub fn run(common: &Common, caption: &Caption) -> Result<()> {
    let options = caption.generation.options();
    options.check()?;
    // What cannot be read is told before a model is loaded for nothing.
    let images = caption.images.iter().map(|path| read_image(path)).collect::<Result<Vec<_>>>()?;
    let mut model = load_model(common, &caption.model)?;
    let prompt = match &caption.prompt {
        Some(prompt) => prompt.clone(),
        None if model.config().qformer_reads_text() => Task::Caption.prompt("", &[])?,
        // BLIP-2 was not taught instructions; it describes pictures by itself.
        None => String::new(),
    };
    let mut out = std::io::stdout().lock();
    for (path, image) in caption.images.iter().zip(&images) {
        let reply = model.answer(&[Question::new(image, &prompt)], &options, &mut |_| {})?.swap_remove(0);
        if caption.json {
            let mut line = reply_json(&reply, &model);
            line["image"] = path.display().to_string().into();
            writeln!(out, "{line}")?;
        } else if images.len() == 1 {
            writeln!(out, "{}", reply.text)?;
        } else {
            writeln!(out, "{}\t{}", path.display(), reply.text)?;
        }
        out.flush()?;
    }
    Ok(())
}
