//! `instructblip ask`: one picture, one question, the answer as it comes.

use std::io::Write;
use std::time::Instant;

use anyhow::Result;
use instructblip::GenerateOptions;

use crate::args::{Ask, Common};
use crate::progress::say;
use crate::session::{load_model, read_image, reply_json, tokens_per_second};

pub fn run(common: &Common, ask: &Ask) -> Result<()> {
    let started = Instant::now();
    let image = read_image(&ask.image)?;
    let decode_ms = started.elapsed().as_secs_f64() * 1000.0;
    let mut model = load_model(common, &ask.model)?;
    let options = GenerateOptions::up_to(ask.max_new_tokens);
    let mut out = std::io::stdout().lock();
    let mut answer = model.generate(&image, &ask.prompt, &options)?;
    let mut begun = false;
    for piece in answer.by_ref() {
        let piece = piece?;
        // Answers begin with the space between prompt and text.
        let shown = if begun { piece.as_str() } else { piece.trim_start() };
        begun |= !shown.is_empty();
        if !ask.json {
            write!(out, "{shown}")?;
            out.flush()?;
        }
    }
    let mut reply = answer.into_reply();
    reply.timings.image += decode_ms;
    if ask.json {
        writeln!(out, "{}", reply_json(&reply, &model))?;
        return Ok(());
    }
    writeln!(out)?;
    if !common.quiet {
        let speed = tokens_per_second(&reply).map_or(String::new(), |speed| format!(", {speed:.1} tokens/s"));
        let note = format!("{} tokens{speed} on {}", reply.token_ids.len(), model.device().name());
        say(&common.paint(&note, "2"));
    }
    Ok(())
}
