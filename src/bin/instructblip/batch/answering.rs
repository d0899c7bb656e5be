//! An engine that answers the rows of a job. One whose GPU was lost is begun again, and asked again what it had not
//! answered.

use std::cell::{Cell, RefCell};
use std::io::Read;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use instructblip::engine::{self, Event, Outcome, Request};
use instructblip::jobs::{Answerer, Done, Failure, Finding, Picture, Question, Score};
use instructblip::model::Timings;
use instructblip::processor::{ImageOptions, MAX_FILE_BYTES};
use instructblip::{Engine, EngineOptions, Error, Image, Reply};
use sha2::{Digest, Sha256};

use super::Asking;
use crate::common::Common;
use crate::files::{check_source, hex};
use crate::options::Model;
use crate::progress::say;
use crate::session::load_model;
use crate::side_by_side::slot_tokens;
use crate::wording::of_library;

/// Times that a GPU may be lost.
const MOST_LOSSES: u32 = 3;

/// An engine, and what it takes to begin it again.
pub struct Answering<'a> {
    common: &'a Common,
    model: &'a Model,
    asking: &'a Asking,
    images: ImageOptions,
    engine: RefCell<Option<Engine>>,
    /// The names of the model and of its device.
    names: RefCell<(String, String)>,
    losses: Cell<u32>,
    /// The questions that were under way when a GPU was lost.
    lost: (Sender<Lost>, Receiver<Lost>),
}

/// A question that has no answer because a GPU was lost.
struct Lost {
    question: Arc<Question>,
    done: Done,
    error: Error,
    /// The engine that it was asked, by the losses before.
    losses: u32,
}

impl<'a> Answering<'a> {
    /// Loads the model that `model` names, and begins an engine with the slots that `asking` names.
    ///
    /// # Errors
    /// Whatever goes wrong with either.
    pub fn open(common: &'a Common, model: &'a Model, asking: &'a Asking) -> Result<Answering<'a>> {
        let images = model.picture_options.options();
        let (names, losses) = (RefCell::default(), Cell::new(0));
        let answering =
            Answering { common, model, asking, images, engine: RefCell::default(), names, losses, lost: channel() };
        answering.begin()?;
        Ok(answering)
    }

    /// Loads the model and begins an engine.
    fn begin(&self) -> Result<()> {
        let slots = self.asking.slots;
        let most = slots.workload(&self.asking.generation.options(), usize::MAX, 1);
        let loaded = load_model(self.common, self.model, most)?;
        *self.names.borrow_mut() = (loaded.name().into(), loaded.device().name().into());
        let tokens = slot_tokens(&loaded, &most);
        let queue = self.asking.inflight as usize;
        let options = EngineOptions {
            slots: slots.slots,
            tokens,
            at_once: most.at_once,
            queue,
            pictures: self.images,
            ..EngineOptions::default()
        };
        *self.engine.borrow_mut() = Some(Engine::start(loaded, &options)?);
        Ok(())
    }

    /// The model and its device in words.
    pub fn name(&self) -> String {
        let (model, device) = &*self.names.borrow();
        format!("{model} on {device}")
    }

    /// The device in words.
    pub fn device(&self) -> String {
        self.names.borrow().1.clone()
    }

    /// Asks the engine that there is.
    fn ask(&self, question: Arc<Question>, done: Done) {
        let engine = self.engine.borrow();
        let Some(engine) = engine.as_ref() else {
            return done(Err(Failure::stopping("device_lost", "the GPU was lost")));
        };
        let (request, hashes) = request(&question, self.images);
        let (losses, lost) = (self.losses.get(), self.lost.0.clone());
        let mut asked = Some((question, done));
        engine.submit_to(
            request,
            Box::new(move |event| {
                let result = match event {
                    Ok(Event::Token(_) | Event::Text(_)) => return,
                    Ok(Event::Done(outcome)) => Ok(outcome),
                    Err(error) => Err(error),
                };
                let Some((question, done)) = asked.take() else { return };
                match result {
                    Ok(outcome) => done(Ok(finding(&question, outcome, &hashes))),
                    // Whoever looks after the engine asks it again, or says that this is the end.
                    Err(error @ (Error::DeviceLost { .. } | Error::Cancelled)) => {
                        let _ = lost.send(Lost { question, done, error, losses });
                    }
                    Err(error) => done(Err(failure(&error))),
                }
            }),
        );
    }

    /// Asks again what was under way when the GPU was lost.
    fn ask_again(&self, Lost { question, done, error, losses }: Lost) {
        if losses == self.losses.get() {
            // The old engine's memory goes before the new one's comes; what it still had is told to be cancelled.
            drop(self.engine.borrow_mut().take());
            self.losses.set(losses + 1);
            if self.losses.get() <= MOST_LOSSES {
                let what = match &error {
                    Error::DeviceLost { reason } => format!("the GPU was lost ({reason})"),
                    error => of_library(error),
                };
                say(&format!("{what}; beginning again ({} of {MOST_LOSSES})", self.losses.get()));
                if let Err(problem) = self.begin() {
                    say(&format!("the model cannot be loaded again: {problem}"));
                }
            }
        }
        match self.engine.borrow().is_some() {
            true => self.ask(question, done),
            false => done(Err(failure(&error))),
        }
    }
}

impl Answerer for Answering<'_> {
    fn answer(&self, question: Question, done: Done) {
        self.tend();
        self.ask(Arc::new(question), done);
    }

    fn tend(&self) {
        while let Ok(lost) = self.lost.1.try_recv() {
            self.ask_again(lost);
        }
    }
}

/// The hashes of a question's pictures, as they are read.
type Hashes = Arc<Mutex<Vec<String>>>;

/// A question as an engine takes it: pictures are read, and hashed, by its threads.
fn request(question: &Arc<Question>, images: ImageOptions) -> (Request, Hashes) {
    let hashes = Hashes::new(Mutex::new(vec![String::new(); question.pictures.len()]));
    let picture = |i: usize| {
        let (hashes, question) = (hashes.clone(), question.clone());
        engine::Picture::Read(Arc::new(move || {
            let (name, bytes) = match &question.pictures[i] {
                Picture::File(path) => (path.display().to_string(), &read(path)?),
                Picture::Bytes { name, bytes } => (name.clone(), bytes),
            };
            hashes.lock().unwrap_or_else(PoisonError::into_inner)[i] = hex(&Sha256::digest(bytes));
            Image::decode_with(&name, bytes, &images)
        }))
    };
    let request = Request {
        pictures: (0..question.pictures.len()).map(picture).collect(),
        prompt: question.prompt.clone(),
        qformer_prompt: question.qformer_prompt.clone(),
        options: question.options.clone(),
        choices: question.choices.clone(),
        features: None,
    };
    (request, hashes)
}

/// The result of a question.
fn finding(question: &Question, outcome: Outcome, hashes: &Hashes) -> Finding {
    let image_sha256 = hashes.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match outcome {
        Outcome::Reply(reply) => of_reply(*reply, image_sha256),
        Outcome::Scores(scores) => of_scores(question, &scores, image_sha256),
        Outcome::Features(_) => unreachable!("rows ask for answers and scores"),
    }
}

fn of_reply(reply: Reply, image_sha256: Vec<String>) -> Finding {
    let Timings { load: _, image, vision, qformer, prefill, decode } = reply.timings;
    let ms = [("image", image), ("vision", vision), ("qformer", qformer), ("prefill", prefill), ("decode", decode)];
    Finding {
        text: reply.text,
        tokens: reply.token_ids.len() as u32,
        finish: Some(reply.finish_reason),
        scores: None,
        image_sha256,
        ms: ms.map(|(stage, ms)| (stage.into(), ms)).to_vec(),
    }
}

fn of_scores(question: &Question, scores: &[instructblip::model::Score], image_sha256: Vec<String>) -> Finding {
    let all = question.choices.iter().zip(scores);
    // The first of those that are alike.
    let best = all.clone().reduce(|best, one| if one.1.mean > best.1.mean { one } else { best });
    Finding {
        text: best.map(|(choice, _)| choice.clone()).unwrap_or_default(),
        tokens: best.map_or(0, |(_, score)| score.token_ids.len() as u32),
        finish: None,
        scores: Some(all.map(|(choice, s)| Score { choice: choice.clone(), mean: s.mean, sum: s.sum }).collect()),
        image_sha256,
        ms: Vec::new(),
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
        Error::OverSlots { .. } | Error::Request { .. } => Failure::new("request", message),
        Error::NotFinite { .. } => Failure::new("not_finite", message),
        Error::Io { .. } => Failure::passing("io", message),
        Error::OutOfMemory { .. } | Error::DoesNotFit { .. } | Error::OverBudget { .. } => {
            Failure::stopping("out_of_memory", message)
        }
        Error::DeviceLost { .. } | Error::Cancelled => Failure::stopping("device_lost", message),
        _ => Failure::stopping("failed", message),
    }
}
