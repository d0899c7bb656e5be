//! `instructblip ask`: a picture (or frames), a question, the answer as it comes.

use std::io::Write;
use std::time::Instant;

use anyhow::Result;
use instructblip::{GenerateOptions, Image, InstructBlip, Question, Reply};

use crate::args::{Ask, Common};
use crate::attention::write_attention;
use crate::files::check_folder;
use crate::progress::{Progress, say};
use crate::session::{load_model, read_image, reply_json, tokens_per_second, workload};

pub fn run(common: &Common, ask: &Ask) -> Result<()> {
    let prompt = ask.wording.prompt(ask.prompt.as_deref().unwrap_or_default())?;
    if ask.show_prompt {
        return Ok(writeln!(std::io::stdout(), "{prompt}")?);
    }
    let options = ask.generation.options();
    options.check()?;
    ask.attention.as_deref().map_or(Ok(()), check_folder)?;
    let started = Instant::now();
    let paths = std::iter::once(&ask.image).chain(&ask.frames);
    let images = paths.map(|path| read_image(path)).collect::<Result<Vec<Image>>>()?;
    let decode_ms = started.elapsed().as_secs_f64() * 1000.0;
    let mut model = load_model(common, &ask.model, workload(&options, 1, images.len()))?;
    let question = Question { images: &images, prompt: &prompt, qformer_prompt: ask.wording.qformer_prompt.as_deref() };
    let mut reply = match options.gives_one() {
        true => stream(&mut model, &question, &options, ask.json)?,
        false => {
            let mut progress = Progress::counting(common.quiet, "tokens", None);
            let mut replies = model.answer(&[question], &options, &mut |tokens| progress.count(tokens.into()))?;
            progress.clear();
            replies.swap_remove(0)
        }
    };
    reply.timings.image += decode_ms;
    let mut out = std::io::stdout().lock();
    if ask.json {
        writeln!(out, "{}", reply_json(&reply, &model))?;
    } else if !options.gives_one() {
        reply.sequences.iter().try_for_each(|sequence| writeln!(out, "{}", sequence.text))?;
    }
    if !common.quiet && !ask.json {
        say(&common.paint(&note(&reply, &model), "2"));
    }
    if let Some(folder) = &ask.attention {
        let words = question.qformer_prompt.unwrap_or(&prompt);
        write_attention(common, &mut model, &images[0], words, folder)?;
    }
    Ok(())
}

/// The answer as it comes, on standard output unless it is to be JSON.
fn stream(model: &mut InstructBlip, question: &Question<'_>, options: &GenerateOptions, json: bool) -> Result<Reply> {
    let mut out = std::io::stdout().lock();
    let mut answer = model.stream(question, options)?;
    let mut begun = false;
    for piece in answer.by_ref() {
        let piece = piece?;
        // Answers begin with the space between prompt and text.
        let shown = if begun { piece.as_str() } else { piece.trim_start() };
        begun |= !shown.is_empty();
        if !json {
            write!(out, "{shown}")?;
            out.flush()?;
        }
    }
    if !json {
        writeln!(out)?;
    }
    Ok(answer.into_reply())
}

fn note(reply: &Reply, model: &InstructBlip) -> String {
    let speed = tokens_per_second(reply).map_or(String::new(), |speed| format!(", {speed:.1} tokens/s"));
    format!("{} tokens{speed} on {}", reply.token_ids.len(), model.device().name())
}
