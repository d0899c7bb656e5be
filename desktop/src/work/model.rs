//! The thread that has the model: one command after the other.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use instructblip::config::Family;
use instructblip::model::{LoadOptions, Score, Workload};
use instructblip::runtime::{Tuning, WeightFormat};
use instructblip::weights::Formats;
use instructblip::{Device, Error, GenerateOptions, Image, InstructBlip, Question, Result};

use super::words::words;
use super::{Answered, Command, Event, Facts, Looked, Ranked, Setup, Sink, Stop, device, store};

/// The thread's state.
pub(super) struct Worker {
    pub inbox: Receiver<Command>,
    pub sink: Sink,
    pub stop: Stop,
    pub model: Option<InstructBlip>,
    pub setup: Setup,
    pub tuning: Option<Tuning>,
    /// Commands that came while another was at work.
    pub waiting: VecDeque<Command>,
}

impl Worker {
    pub fn new(inbox: Receiver<Command>, sink: Sink, stop: Stop) -> Worker {
        let (setup, waiting) = (Setup::default(), VecDeque::new());
        Worker { inbox, sink, stop, model: None, setup, tuning: None, waiting }
    }

    /// Works until nobody can command any more.
    pub fn work(mut self) {
        while let Some(command) = self.waiting.pop_front().or_else(|| self.inbox.recv().ok()) {
            if self.stop.is_closing() {
                return;
            }
            // A wish to stop was about what is over.
            self.stop.clear();
            self.obey(command);
            self.sink.tell(Event::Idle);
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Load(setup, tuning) => {
                (self.setup, self.tuning) = (setup, tuning);
                self.load();
            }
            Command::Ask { id, picture, prompt, options } => {
                let answered = self.ask(id, &picture, &prompt, &options);
                let answered = self.told(answered);
                self.sink.tell(Event::Answered(id, answered));
            }
            Command::Rank { picture, prompt, choices } => {
                let ranked = self.rank(&picture, &prompt, &choices);
                let ranked = self.told(ranked);
                self.sink.tell(Event::Ranked(ranked));
            }
            Command::Look { picture, prompts } => {
                let looked = self.look(&picture, &prompts);
                let looked = self.told(looked);
                self.sink.tell(Event::Looked(looked));
            }
            Command::Caption(run) => self.caption(*run),
            Command::SelfTest => {
                let options = device::options(&self.setup, self.tuning, &self.sink, &self.stop);
                let verdict = device::test(&options, &self.sink, &self.stop);
                self.sink.tell(Event::Tested(verdict.map_err(|error| words(&error))));
            }
            Command::Tune => {
                let found = device::tune(&device::options(&self.setup, None, &self.sink, &self.stop), &self.sink);
                self.sink.tell(Event::Tuned(found.map_err(|error| words(&error))));
            }
        }
    }

    /// An outcome with its error in words. A model whose device is lost is gone.
    fn told<T>(&mut self, outcome: Result<T>) -> Result<T, String> {
        outcome.map_err(|error| {
            if matches!(error, Error::DeviceLost { .. }) {
                self.model = None;
                self.sink.tell(Event::NoModel(words(&error)));
            }
            words(&error)
        })
    }

    /// Loads the model that the setup asks for, in the place of the one there is.
    pub fn load(&mut self) {
        self.model = None;
        let begun = Instant::now();
        match self.loaded() {
            Ok(model) => {
                let facts = Facts {
                    name: self.setup.source.name(),
                    kind: kind(model.config().family).into(),
                    device: model.device().name().into(),
                    taught: model.config().qformer_reads_text(),
                    bytes: model.memory().peak,
                    ms: begun.elapsed().as_secs_f64() * 1e3,
                };
                self.model = Some(model);
                self.sink.tell(Event::Ready(facts));
            }
            Err(error) => self.sink.tell(Event::NoModel(words(&error))),
        }
    }

    fn loaded(&self) -> Result<InstructBlip> {
        let device = Device::open(&device::options(&self.setup, self.tuning, &self.sink, &self.stop))?;
        let (checkpoint, adapter) = store::checkpoint(&self.setup.source)?;
        let options = LoadOptions { adapter, budget_bytes: device::budget(&device), ..load_options(&self.setup) };
        InstructBlip::load_with(&device, &checkpoint, &options)
    }

    /// The model, if there is one.
    pub fn model(&mut self) -> Result<&mut InstructBlip> {
        let problem = "there is no model; load one under Models";
        self.model.as_mut().ok_or_else(|| Error::Request { problem: problem.into() })
    }

    fn ask(&mut self, id: u64, picture: &Path, prompt: &str, options: &GenerateOptions) -> Result<Answered> {
        let (begun, stop, sink) = (Instant::now(), self.stop.clone(), self.sink.clone());
        sink.tell(Event::Doing("answering".into(), None));
        let image = Image::open_with(picture, &self.setup.pictures())?;
        let model = self.model()?;
        let reply = match options.gives_one() {
            false => model.ask(&image, prompt, options)?,
            true => {
                let mut answer = model.generate(&image, prompt, options)?;
                while !stop.is_wanted() {
                    let Some(piece) = answer.next() else { break };
                    match piece {
                        Err(Error::Cancelled) => break,
                        piece => sink.tell(Event::Piece(id, piece?)),
                    }
                }
                answer.into_reply()
            }
        };
        let (text, tokens) = (reply.text, reply.token_ids.len());
        Ok(Answered { text, tokens, ms: begun.elapsed().as_secs_f64() * 1e3, stopped: stop.is_wanted() })
    }

    fn rank(&mut self, picture: &Path, prompt: &str, choices: &[String]) -> Result<Vec<Ranked>> {
        self.sink.tell(Event::Doing("ranking".into(), None));
        let image = Image::open_with(picture, &self.setup.pictures())?;
        let given: Vec<&str> = choices.iter().map(String::as_str).collect();
        let scores = self.model()?.score(&Question::new(&image, prompt), &given)?;
        Ok(ranked(choices, &scores))
    }

    fn look(&mut self, picture: &Path, prompts: &[String]) -> Result<(Arc<Image>, Vec<Looked>)> {
        self.sink.tell(Event::Doing("looking".into(), None));
        let image = Image::open_with(picture, &self.setup.pictures())?;
        let model = self.model()?;
        let looked = prompts
            .iter()
            .map(|prompt| Ok(Looked { prompt: prompt.clone(), maps: Arc::new(model.attention_maps(&image, prompt)?) }));
        let looked = looked.collect::<Result<Vec<_>>>()?;
        Ok((Arc::new(image.thumbnail()), looked))
    }
}

fn kind(family: Family) -> &'static str {
    match family {
        Family::InstructBlip => "InstructBLIP",
        Family::InstructBlipVideo => "InstructBLIP for video",
        Family::Blip2 => "BLIP-2",
    }
}

/// Choices with their shares among all, by log-probability per token as the paper ranks, the most probable first.
pub(super) fn ranked(choices: &[String], scores: &[Score]) -> Vec<Ranked> {
    let rank =
        |((choice, score), share): ((&String, &Score), f64)| Ranked { choice: choice.clone(), share, mean: score.mean };
    let mut ranked: Vec<Ranked> = choices.iter().zip(scores).zip(Score::shares(scores)).map(rank).collect();
    ranked.sort_by(|a, b| b.mean.total_cmp(&a.mean));
    ranked
}

/// The options of loading that a setup asks for.
pub(super) fn load_options(setup: &Setup) -> LoadOptions {
    let format = setup.weights.as_deref().and_then(WeightFormat::named);
    LoadOptions {
        formats: format.map(Formats::usual).unwrap_or_default(),
        offload: setup.offload,
        workload: Workload { batch: setup.slots, at_once: setup.slots.min(8), ..Workload::default() },
        ..LoadOptions::default()
    }
}
