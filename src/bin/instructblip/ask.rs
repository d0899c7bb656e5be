//! `instructblip ask`: a picture (or frames), a question, the answer as it comes.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use instructblip::runtime::Work;
use instructblip::{Error, GenerateOptions, Image, InstructBlip, Question, Reply};
use serde_json::json;

use crate::attention::write_attention;
use crate::common::{Common, Gpu};
use crate::files::check_folder;
use crate::generation::Generation;
use crate::options::{Model, Wording};
use crate::overrides::Watchdog;
use crate::progress::{Progress, say};
use crate::session::{
    check_order, load_with_custom, note_demo_model, note_empty_prompt, note_unread_words, reply_json, say_last,
    tokens_per_second, workload,
};

/// Arguments of `ask`.
#[derive(Args, Debug)]
pub struct Ask {
    /// The picture: a PNG, JPEG, WebP, GIF, BMP or TIFF file, or - for standard input
    pub image: PathBuf,
    /// The question or instruction; with --task the text that goes into the task's wording
    #[arg(required_unless_present = "task")]
    pub prompt: Option<String>,
    /// Further frames, for video models; may be repeated
    #[arg(long = "image", value_name = "FRAME")]
    pub frames: Vec<PathBuf>,
    #[command(flatten)]
    pub wording: Wording,
    /// Print one JSON object with the answers, their tokens and timings
    #[arg(long)]
    pub json: bool,
    /// Give each token's log-probability and those of the N likeliest, before all penalties
    #[arg(long, value_name = "N", requires = "json")]
    pub logprobs: Option<u32>,
    /// Print the prompt as the model gets it, and stop
    #[arg(long)]
    pub show_prompt: bool,
    /// Folder to write pictures of the Q-Former's attention to the (first) picture to, with the raw weights
    #[arg(long, value_name = "DIR")]
    pub attention: Option<PathBuf>,
    #[command(flatten)]
    pub generation: Generation,
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub gpu: Gpu,
}

pub fn run(common: &Common, ask: &Ask) -> Result<()> {
    let prompt = ask.wording.prompt(ask.prompt.as_deref().unwrap_or_default())?;
    if ask.show_prompt {
        return Ok(writeln!(std::io::stdout(), "{prompt}")?);
    }
    let options = GenerateOptions { logprobs: ask.logprobs, ..ask.generation.options() };
    options.check()?;
    check_order(&ask.image, ask.prompt.as_deref().unwrap_or_default())?;
    ask.attention.as_deref().map_or(Ok(()), check_folder)?;
    let started = Instant::now();
    let paths = std::iter::once(&ask.image).chain(&ask.frames);
    let images =
        paths.map(|path| ask.model.picture_options.read(common, path)).collect::<instructblip::Result<Vec<Image>>>()?;
    let decode_ms = started.elapsed().as_secs_f64() * 1000.0;
    let question = Question { images: &images, prompt: &prompt, qformer_prompt: ask.wording.qformer_prompt.as_deref() };
    note_demo_model(common, &ask.model);
    let overrides = &ask.model.overrides;
    let custom = overrides.custom_kernels()?;
    let workload = workload(&options, 1, images.len());
    let ours = match overrides.any() {
        // Dropped before the next is loaded: there may be room for one only.
        true => {
            let mut model = load_with_custom(common, &ask.model, workload, Vec::new())?;
            Some(model.answer(&[question], &options)?.swap_remove(0))
        }
        false => None,
    };
    let mut model = load_with_custom(common, &ask.model, workload, custom)?;
    note_empty_prompt(common, &model, &prompt);
    note_unread_words(common, &model, ask.wording.qformer_prompt.as_deref().unwrap_or_default());
    let mut reply = answer_aloud(common, ask, &mut model, &question, &options)?;
    reply.timings.image += decode_ms;
    write_reply(ask, &model, &reply, ours.as_ref())?;
    if let Some(folder) = &ask.attention {
        let words = question.qformer_prompt.unwrap_or(&prompt);
        write_attention(common, &mut model, &images[0], words, folder)?;
    }
    overrides.tell_unused(common, model.device());
    if !ask.json {
        say_last(common, &model, &note(&reply));
    }
    ours.map_or(Ok(()), |ours| judge_overrides(common, ask, &model, &ours, &reply))
}

impl Ask {
    /// True if the answer is shown while it comes.
    fn is_shown_early(&self) -> bool {
        self.generation.options().gives_one() && !self.json
    }
}

/// The answer, shown as it comes where that is asked for; custom kernels are watched meanwhile.
fn answer_aloud(
    common: &Common,
    ask: &Ask,
    model: &mut InstructBlip,
    question: &Question<'_>,
    options: &GenerateOptions,
) -> Result<Reply> {
    let overrides = &ask.model.overrides;
    let watchdog = overrides.any().then(|| Arc::new(overrides.watchdog()));
    let shown = ask.is_shown_early();
    if !options.gives_one() {
        return answer_at_once(common, model, question, options, watchdog);
    }
    answer(model, question, options, &mut |piece| {
        watchdog.iter().for_each(|watchdog| watchdog.beat());
        if shown {
            let mut out = std::io::stdout().lock();
            write!(out, "{piece}")?;
            out.flush()?;
        }
        Ok(())
    })
}

/// Writes what is not shown yet of a reply; `ours` is the one without the custom kernels.
fn write_reply(ask: &Ask, model: &InstructBlip, reply: &Reply, ours: Option<&Reply>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if ask.json {
        let mut object = reply_json(reply, model.name(), model.device().name());
        if let Some(ours) = ours {
            let (ran, unused): (Vec<_>, Vec<_>) =
                ask.model.overrides.names().into_iter().partition(|name| model.device().runs_custom(name));
            // A kernel that did not run proves nothing.
            let same = (!ran.is_empty()).then(|| is_same(ours, reply));
            object["override"] = json!({"kernels": ran, "unused": unused, "same": same, "ours": ours.text});
        }
        writeln!(out, "{object}")?;
    } else if ask.is_shown_early() {
        writeln!(out)?;
    } else {
        reply.sequences.iter().try_for_each(|sequence| writeln!(out, "{}", sequence.text))?;
    }
    Ok(())
}

/// Says that the custom kernels which ran change nothing; those that did not run are told of elsewhere.
///
/// # Errors
/// [`Error::Incorrect`] where they change the answer.
fn judge_overrides(common: &Common, ask: &Ask, model: &InstructBlip, ours: &Reply, reply: &Reply) -> Result<()> {
    let mut names = ask.model.overrides.names();
    names.retain(|name| model.device().runs_custom(name));
    let what = format!("your {}", names.join(", "));
    if names.is_empty() {
        return Ok(());
    }
    if !is_same(ours, reply) {
        let problem = format!("ANOTHER ANSWER than without it, which is: {}", ours.text);
        return Err(Error::Incorrect { what, problem }.into());
    }
    if !(common.quiet || ask.json) {
        say(&format!("the same answer as without {what}"));
    }
    Ok(())
}

/// The answer, which does not come piece by piece.
fn answer_at_once(
    common: &Common,
    model: &mut InstructBlip,
    question: &Question<'_>,
    options: &GenerateOptions,
    watchdog: Option<Arc<Watchdog>>,
) -> Result<Reply> {
    let usual = model.device().watch();
    let progress = Arc::new(Mutex::new(Progress::counting(common.quiet, "tokens", None)));
    let counted = progress.clone();
    model.set_watch(usual.and(move |work| {
        if let (Work::Answering { tokens }, Ok(mut progress)) = (work, counted.lock()) {
            progress.count((*tokens).into());
            watchdog.iter().for_each(|watchdog| watchdog.beat());
        }
        ControlFlow::Continue(())
    }));
    let replies = model.answer(&[*question], options);
    model.set_watch(usual);
    progress.lock().iter().for_each(|progress| progress.clear());
    Ok(replies?.swap_remove(0))
}

/// The answer, of which `hear` gets every piece as it comes.
fn answer(
    model: &mut InstructBlip,
    question: &Question<'_>,
    options: &GenerateOptions,
    hear: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Reply> {
    let mut answer = model.stream(question, options)?;
    let mut begun = false;
    for piece in answer.by_ref() {
        let piece = piece?;
        // Answers begin with the space between prompt and text.
        let shown = if begun { piece.as_str() } else { piece.trim_start() };
        begun |= !shown.is_empty();
        hear(shown)?;
    }
    Ok(answer.into_reply())
}

/// Tells what was done, how long it took from the picture on, and how fast tokens came.
fn note(reply: &Reply) -> String {
    let seconds = (reply.timings.first_token() + reply.timings.decode) / 1000.0;
    let speed = tokens_per_second(reply).map_or(String::new(), |speed| format!(", {speed:.1} tokens/s"));
    let tokens = match reply.token_ids.len() {
        1 => "1 token".into(),
        count => format!("{count} tokens"),
    };
    format!("{tokens} in {seconds:.2} s{speed}; ")
}

/// True if two replies say the same, token by token in every answer.
fn is_same(a: &Reply, b: &Reply) -> bool {
    let tokens = |reply: &Reply| reply.sequences.iter().map(|s| s.token_ids.clone()).collect::<Vec<_>>();
    tokens(a) == tokens(b)
}
