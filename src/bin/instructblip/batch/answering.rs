//! A model that answers the rows of a job, one after another.

use std::cell::RefCell;
use std::io::Read;
use std::path::Path;

use instructblip::jobs::{Answered, Answerer, Done, Failure, Finding, Picture, Question, Score};
use instructblip::model::Timings;
use instructblip::processor::{ImageOptions, MAX_FILE_BYTES};
use instructblip::{Error, Image, InstructBlip};
use sha2::{Digest, Sha256};

use crate::files::check_source;
use crate::pictures::PictureOptions;
use crate::wording::of_library;

/// A model that answers one question at a time.
pub struct Answering {
    model: RefCell<InstructBlip>,
    images: ImageOptions,
}

impl Answering {
    /// A model that reads pictures with these options.
    pub fn new(model: InstructBlip, pictures: &PictureOptions) -> Answering {
        let PictureOptions { max_pixels, exif_rotate } = *pictures;
        Answering { model: RefCell::new(model), images: ImageOptions { max_pixels, exif_rotate } }
    }

    fn find(&self, question: &Question) -> instructblip::Result<Finding> {
        let started = std::time::Instant::now();
        let (mut images, mut image_sha256) = (Vec::new(), Vec::new());
        for picture in &question.pictures {
            let (name, bytes) = match picture {
                Picture::File(path) => (path.display().to_string(), &read(path)?),
                Picture::Bytes { name, bytes } => (name.clone(), bytes),
            };
            images.push(Image::decode_with(&name, bytes, &self.images)?);
            image_sha256.push(Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect());
        }
        let decode_ms = started.elapsed().as_secs_f64() * 1e3;
        let asked = instructblip::Question {
            images: &images,
            prompt: &question.prompt,
            qformer_prompt: question.qformer_prompt.as_deref(),
        };
        let mut model = self.model.borrow_mut();
        if !question.choices.is_empty() {
            let choices: Vec<&str> = question.choices.iter().map(String::as_str).collect();
            let scores = model.score(&asked, &choices)?;
            let ms = started.elapsed().as_secs_f64() * 1e3;
            return Ok(of_scores(question, &scores, image_sha256, ms));
        }
        let reply = model.answer(&[asked], &question.options, &mut |_| {})?.swap_remove(0);
        let Timings { load: _, image, vision, qformer, prefill, decode } = reply.timings;
        let ms = [
            ("image", decode_ms + image),
            ("vision", vision),
            ("qformer", qformer),
            ("prefill", prefill),
            ("decode", decode),
        ];
        Ok(Finding {
            text: reply.text,
            tokens: reply.token_ids.len() as u32,
            finish: Some(reply.finish_reason),
            scores: None,
            image_sha256,
            ms: ms.map(|(stage, ms)| (stage.into(), ms)).to_vec(),
        })
    }
}

impl Answerer for Answering {
    fn answer(&self, question: Question, done: Done) {
        let answered: Answered = self.find(&question).map_err(|error| failure(&error));
        done(answered);
    }
}

fn of_scores(
    question: &Question,
    scores: &[instructblip::model::Score],
    image_sha256: Vec<String>,
    ms: f64,
) -> Finding {
    let all = question.choices.iter().zip(scores);
    // The first of those that are alike.
    let best = all.clone().reduce(|best, one| if one.1.mean > best.1.mean { one } else { best });
    Finding {
        text: best.map(|(choice, _)| choice.clone()).unwrap_or_default(),
        tokens: best.map_or(0, |(_, score)| score.token_ids.len() as u32),
        finish: None,
        scores: Some(all.map(|(choice, s)| Score { choice: choice.clone(), mean: s.mean, sum: s.sum }).collect()),
        image_sha256,
        ms: vec![("score".into(), ms)],
    }
}

/// The contents of a picture's file.
fn read(path: &Path) -> instructblip::Result<Vec<u8>> {
    check_source(path)?;
    let failed = |source| Error::Io { path: path.into(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// An error as a row's failure. What is no row's fault stops the job.
pub fn failure(error: &Error) -> Failure {
    let message = of_library(error);
    match error {
        Error::Image { .. } => Failure::new("image", message),
        Error::ImageTooLarge { .. } => Failure::new("image_too_large", message),
        Error::PromptTooLong { .. } => Failure::new("prompt_too_long", message),
        Error::Request { .. } => Failure::new("request", message),
        Error::NotFinite { .. } => Failure::new("not_finite", message),
        Error::Io { .. } => Failure::passing("io", message),
        Error::OutOfMemory { .. } | Error::DoesNotFit { .. } | Error::OverBudget { .. } => {
            Failure::stopping("out_of_memory", message)
        }
        Error::DeviceLost { .. } => Failure::stopping("device_lost", message),
        _ => Failure::stopping("failed", message),
    }
}
