//! `instructblip score`: how likely given answers are, best first.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use instructblip::Question;
use instructblip::model::{self, Workload};
use serde_json::json;

use crate::common::{Common, Gpu};
use crate::options::{Model, Wording};
use crate::session::{check_order, load_model, note_empty_prompt, note_unread_words, say_last};

/// Arguments of `score`.
#[derive(Args, Debug)]
pub struct Score {
    /// The picture, or - for standard input
    pub image: PathBuf,
    /// The question; with --task the text that goes into the task's wording
    pub prompt: String,
    #[command(flatten)]
    pub wording: Wording,
    /// Print one JSON object with log-probabilities by token
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub gpu: Gpu,
}

pub fn run(common: &Common, score: &Score) -> Result<()> {
    if score.wording.choices.is_empty() {
        return Err(instructblip::Error::Request { problem: "give the answers to score with --choice".into() }.into());
    }
    let prompt = score.wording.prompt(&score.prompt)?;
    check_order(&score.image, &score.prompt)?;
    let image = score.model.picture_options.read(common, &score.image)?;
    let mut model = load_model(common, &score.model, Workload::default())?;
    note_empty_prompt(common, &model, &prompt);
    note_unread_words(common, &model, score.wording.qformer_prompt.as_deref().unwrap_or_default());
    let images = [image];
    let qformer_prompt = score.wording.qformer_prompt.as_deref();
    let question = Question { images: &images, prompt: &prompt, qformer_prompt };
    let choices: Vec<&str> = score.wording.choices.iter().map(String::as_str).collect();
    let scores = model.score(&question, &choices)?;
    score.model.overrides.tell_unused(common, model.device());
    let mut ranked: Vec<_> = choices.iter().zip(&scores).zip(model::Score::shares(&scores)).collect();
    ranked.sort_by(|((_, a), _), ((_, b), _)| b.mean.total_cmp(&a.mean));
    let mut out = std::io::stdout().lock();
    if score.json {
        let rows = ranked.iter().map(|((choice, s), share)| {
            json!({
                "choice": choice, "mean_log_probability": s.mean, "sum_log_probability": s.sum,
                "share": share, "token_ids": s.token_ids, "log_probabilities": s.log_probabilities,
            })
        });
        let rows: Vec<_> = rows.collect();
        writeln!(out, "{}", json!({"prompt": prompt, "choices": rows, "model": model.name()}))?;
        return Ok(());
    }
    for ((choice, s), share) in ranked {
        writeln!(out, "{:5.1} %  {:9.4} per token  {:9.4} in all  {choice}", 100.0 * share, s.mean, s.sum)?;
    }
    drop(out);
    say_last(common, &model, "");
    Ok(())
}
