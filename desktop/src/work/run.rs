//! Captions of many pictures: answered side by side, noted, and saved as they come. Questions may be asked meanwhile.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use instructblip::engine::{Canceller, Event as EngineEvent, Outcome, Picture, Request};
use instructblip::{Engine, EngineOptions, Error, InstructBlip, Result};

use super::model::{Worker, ranked};
use super::words::words;
use super::{Answered, Command, Ending, Event, Item, Kept, Run};
use crate::captions::files::{self, Saved};

/// Pictures that are read before those in front of them have their captions.
const AHEAD: usize = 16;

/// The pause between looks at commands while captions are made.
const PAUSE: Duration = Duration::from_millis(30);

/// A request on its way.
enum Asked {
    Caption(Item),
    Question { id: u64, begun: Instant },
    Choices(Vec<String>),
}

/// Something that the engine told.
enum Heard {
    /// A picture has its caption, or an error of its own.
    Caption,
    /// An error that ends the run.
    Fault(String),
    /// Nothing about captions.
    Other,
}

/// The requests on their way by number, and what the engine told about them.
struct Desk {
    engine: Engine,
    asked: Vec<Option<(Asked, Canceller)>>,
    to: Sender<(usize, Result<EngineEvent>)>,
    heard: Receiver<(usize, Result<EngineEvent>)>,
}

impl Desk {
    fn ask(&mut self, asked: Asked, request: Request) {
        let (number, to) = (self.asked.len(), self.to.clone());
        let listener = Box::new(move |event| drop(to.send((number, event))));
        let canceller = self.engine.submit_to(request, listener);
        self.asked.push(Some((asked, canceller)));
    }

    fn pending(&self) -> usize {
        self.asked.iter().flatten().count()
    }

    fn cancel(&self) {
        self.asked.iter().flatten().for_each(|(_, canceller)| canceller.cancel());
    }
}

impl Worker {
    /// Captions the pictures of a run, unless there is no model, and tells how it ended.
    pub(super) fn caption(&mut self, mut run: Run) {
        let ending = match self.model.take() {
            None => Ending::Failed("there is no model; load one under Models, then go on".into()),
            Some(model) => match self.run(model, &mut run) {
                Ok(ending) => ending,
                Err(error) => {
                    // The engine took the model with it.
                    let told = words(&error);
                    self.sink.tell(Event::NoModel(format!("{told}; load the model again under Models")));
                    Ending::Failed(told)
                }
            },
        };
        let goes_on = matches!(ending, Ending::Failed(_)) || self.stop.is_closing();
        let Run { id, journal, .. } = run;
        match goes_on {
            // Free for whoever goes on.
            true => drop(journal),
            false => journal.end(),
        }
        self.sink.tell(Event::RunEnded(id, ending));
    }

    fn run(&mut self, model: InstructBlip, run: &mut Run) -> Result<Ending> {
        let total = run.items.len() as u64;
        self.sink.tell(Event::Doing("captioning".into(), Some((0, total))));
        let sizes = self.sizes(&model, run);
        let (to, heard) = channel();
        let mut desk = Desk { engine: Engine::start(model, &sizes)?, asked: Vec::new(), to, heard };
        let (mut items, mut done, mut ending) = (std::mem::take(&mut run.items).into_iter(), 0, Ending::Complete);
        let ahead = sizes.slots as usize + AHEAD;
        loop {
            if self.stop.is_wanted() && ending == Ending::Complete && done < total {
                ending = Ending::Stopped;
            }
            match ending {
                Ending::Complete => {
                    self.hear_commands(&mut desk);
                    for item in items.by_ref().take(ahead.saturating_sub(desk.pending())) {
                        let picture = Picture::File(item.picture.clone());
                        let request = Request::new(picture, item.prompt.clone(), run.options.clone());
                        desk.ask(Asked::Caption(item), request);
                    }
                }
                _ => desk.cancel(),
            }
            if desk.pending() == 0 {
                break;
            }
            let Ok((number, event)) = desk.heard.recv_timeout(PAUSE) else { continue };
            match self.hear(&mut desk, number, event, run) {
                Heard::Other => {}
                Heard::Caption => {
                    done += 1;
                    self.sink.tell(Event::Doing("captioning".into(), Some((done, total))));
                }
                Heard::Fault(_) if ending != Ending::Complete => {}
                Heard::Fault(fault) => ending = Ending::Failed(fault),
            }
        }
        let model = desk.engine.finish()?;
        // A model on a lost device answers nothing any more.
        match model.device().check() {
            Ok(()) => self.model = Some(model),
            Err(error) => self.sink.tell(Event::NoModel(words(&error))),
        }
        // The last ones may have been stopped before anybody looked.
        Ok(if ending == Ending::Complete && done < total { Ending::Stopped } else { ending })
    }

    /// The engine's sizes: slots for the beams of an answer at least, and room for the longest prompt.
    fn sizes(&self, model: &InstructBlip, run: &Run) -> EngineOptions {
        let rows = run.options.rows();
        let slots = (self.setup.slots / rows).clamp(1, run.items.len().max(1) as u32) * rows;
        let tokenizers = model.processor().tokenizers();
        let tokens = |item: &Item| {
            tokenizers.encode(&item.prompt, &item.prompt, 1).map_or(0, |prompt| prompt.input_ids.len() as u32)
        };
        // Prompts are alike but for names and tags: the longest texts are the longest prompts, nearly.
        let longest = run.items.iter().max_by_key(|item| item.prompt.len()).map_or(0, tokens);
        let new = run.options.max_new_tokens.or(run.options.max_length).unwrap_or(256);
        EngineOptions {
            slots,
            tokens: longest + longest / 4 + new + 16,
            queue: slots as usize + 2 * AHEAD + 64,
            picture_threads: 2,
            pictures: self.setup.pictures(),
            ..EngineOptions::default()
        }
    }

    /// Takes commands that came meanwhile: questions are asked at once, others wait.
    fn hear_commands(&mut self, desk: &mut Desk) {
        while let Ok(command) = self.inbox.try_recv() {
            match command {
                Command::Ask { id, picture, prompt, options } => {
                    let request = Request::new(Picture::File(picture), prompt, *options);
                    desk.ask(Asked::Question { id, begun: Instant::now() }, request);
                }
                Command::Rank { picture, prompt, choices } => {
                    let request =
                        Request::new(Picture::File(picture), prompt, instructblip::GenerateOptions::default());
                    desk.ask(Asked::Choices(choices.clone()), Request { choices, ..request });
                }
                other => self.waiting.push_back(other),
            }
        }
    }

    /// Tells what the engine told about a request.
    fn hear(&self, desk: &mut Desk, number: usize, event: Result<EngineEvent>, run: &mut Run) -> Heard {
        if let (Ok(EngineEvent::Text(piece)), Some((Asked::Question { id, .. }, _))) = (&event, &desk.asked[number]) {
            self.sink.tell(Event::Piece(*id, piece.clone()));
        }
        let outcome = match event {
            Ok(EngineEvent::Token(_) | EngineEvent::Text(_)) => return Heard::Other,
            Ok(EngineEvent::Done(outcome)) => Ok(outcome),
            Err(error) => Err(error),
        };
        let Some((asked, _)) = desk.asked[number].take() else { return Heard::Other };
        let fault = outcome.as_ref().err().filter(|error| is_everybodys(error)).map(words);
        match (asked, outcome) {
            (Asked::Question { id, .. }, Err(error)) => self.sink.tell(Event::Answered(id, Err(words(&error)))),
            (Asked::Question { id, begun }, Ok(Outcome::Reply(reply))) => {
                let (tokens, ms) = (reply.token_ids.len(), begun.elapsed().as_secs_f64() * 1e3);
                self.sink.tell(Event::Answered(id, Ok(Answered { text: reply.text, tokens, ms, stopped: false })));
            }
            (Asked::Choices(_), Err(error)) => self.sink.tell(Event::Ranked(Err(words(&error)))),
            (Asked::Choices(choices), Ok(Outcome::Scores(scores))) => {
                self.sink.tell(Event::Ranked(Ok(ranked(&choices, &scores))));
            }
            (Asked::Caption(_), Err(Error::Cancelled)) => {}
            (Asked::Caption(item), Ok(Outcome::Reply(reply))) => return self.keep(item, &reply.text, run),
            (Asked::Caption(item), Err(error)) if fault.is_none() => {
                let told = words(&error);
                if let Err(problem) = run.journal.note(&item.picture, None, item.disk.as_deref()) {
                    return Heard::Fault(problem);
                }
                self.sink.tell(Event::Captioned(run.id, item.picture, Err(told)));
                return Heard::Caption;
            }
            _ => {}
        }
        fault.map_or(Heard::Other, Heard::Fault)
    }

    /// Notes a caption, puts it into its file and tells both.
    fn keep(&self, item: Item, text: &str, run: &mut Run) -> Heard {
        let caption = run.existing.joined(&item.caption, text.trim());
        // What is not noted could be lost: nothing goes on without.
        if let Err(problem) = run.journal.note(&item.picture, Some(&caption), item.disk.as_deref()) {
            return Heard::Fault(problem);
        }
        let kept = match files::save(&item.picture, &caption, item.disk.as_deref()) {
            Ok(Saved::Written(disk)) => Kept::Saved(disk),
            Ok(Saved::Foreign(text)) => Kept::Foreign(text),
            Err(problem) => Kept::Failed(problem),
        };
        self.sink.tell(Event::Captioned(run.id, item.picture, Ok((caption, kept))));
        Heard::Caption
    }
}

/// True if an error is not one picture's or one prompt's alone.
fn is_everybodys(error: &Error) -> bool {
    matches!(error, Error::DeviceLost { .. } | Error::OutOfMemory { .. } | Error::Gpu { .. } | Error::DoesNotFit { .. })
}
