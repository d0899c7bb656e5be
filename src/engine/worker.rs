//! The thread that has the model: seats what is ready, steps, and tells what came of it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};

use super::Tally;
use super::job::Caller;
use super::pictures::Ready;
use super::request::Outcome;
use crate::error::{Error, Result};
use crate::generate::{AnswerId, News};
use crate::model::{Asked, InstructBlip, Pixels, Seat, Wanted};
use crate::processor::{StreamDecoder, Tokenizers};

/// A message to the thread.
pub(super) enum Message {
    /// The pictures of a request were read.
    Ready(Box<Ready>),
    /// Nothing comes any more: end when everything is answered.
    Finish,
    /// Nobody wants answers any more.
    Cancel,
}

/// A request that waits for slots.
struct Waiting {
    asked: Asked,
    pixels: Pixels,
    caller: Caller,
}

/// A request whose answer is being made.
struct Seated {
    seat: Seat,
    caller: Caller,
    /// The decoder that makes text of its tokens as they come.
    decoder: StreamDecoder,
}

/// The thread's state.
pub(super) struct Worker {
    model: InstructBlip,
    tokenizers: Arc<Tokenizers>,
    inbox: Receiver<Message>,
    waiting: VecDeque<Waiting>,
    seated: HashMap<AnswerId, Seated>,
    finishing: bool,
    /// The error that everything that waits or comes ends with.
    fault: Option<Error>,
    tally: Arc<Tally>,
}

impl Worker {
    pub fn new(model: InstructBlip, inbox: Receiver<Message>, tally: Arc<Tally>) -> Worker {
        Worker {
            tokenizers: model.processor().shared_tokenizers(),
            model,
            inbox,
            waiting: VecDeque::new(),
            seated: HashMap::new(),
            finishing: false,
            fault: None,
            tally,
        }
    }

    /// Works until everything is answered and nothing can come any more. After a failure of the device everything that
    /// waits fails, too, and so does what comes.
    pub fn run(mut self) -> InstructBlip {
        loop {
            self.receive();
            if let Some(fault) = self.fault.take() {
                self.end_all(&fault);
                self.fault = Some(fault);
            }
            self.tally.slots_taken.store(self.model.slots_taken().into(), Ordering::Relaxed);
            if self.finishing && self.waiting.is_empty() && self.seated.is_empty() {
                return self.model;
            }
            self.drop_cancelled();
            if let Err(e) = self.seat().and_then(|()| self.step()) {
                self.fault = Some(e);
            }
        }
    }

    /// Takes what was sent; waits for it where there is nothing else to do.
    fn receive(&mut self) {
        loop {
            let idle = self.waiting.is_empty() && self.seated.is_empty() && !self.finishing;
            let message = match idle {
                true => self.inbox.recv().map_err(|_| TryRecvError::Disconnected),
                false => self.inbox.try_recv(),
            };
            match message {
                Ok(Message::Ready(ready)) => self.take(*ready),
                Ok(Message::Cancel) => self.fault = Some(Error::Cancelled),
                Ok(Message::Finish) | Err(TryRecvError::Disconnected) => {
                    self.finishing = true;
                    return;
                }
                Err(TryRecvError::Empty) => return,
            }
        }
    }

    /// Lets a request wait for slots, unless it can be refused.
    fn take(&mut self, ready: Ready) {
        let Ready { request, pictures, pixels, caller } = ready;
        let prompts = (request.prompt.as_str(), request.qformer_prompt.as_deref());
        match self.model.take_question(prompts, pictures, &request.options, &request.choices) {
            Ok(asked) => self.waiting.push_back(Waiting { asked, pixels, caller }),
            Err(e) => self.end(caller, Err(e)),
        }
    }

    /// Ends the requests that nobody waits for.
    fn drop_cancelled(&mut self) {
        let (gone, waiting) = self.waiting.drain(..).partition(|waiting| waiting.caller.has_cancelled());
        self.waiting = waiting;
        let gone: VecDeque<Waiting> = gone;
        gone.into_iter().for_each(|waiting| self.end(waiting.caller, Err(Error::Cancelled)));
        let gone: Vec<AnswerId> =
            self.seated.iter().filter(|(_, seated)| seated.caller.has_cancelled()).map(|(id, _)| *id).collect();
        for id in gone {
            let seated = self.seated.remove(&id).expect("found above");
            self.model.unseat(&seated.seat);
            self.end(seated.caller, Err(Error::Cancelled));
        }
    }

    /// Seats those that wait longest, as many as there is room for: one after the other, or, where vision and language take
    /// turns on the device, once all seats are free.
    fn seat(&mut self) -> Result<()> {
        let turns = self.model.takes_turns();
        if turns && !self.seated.is_empty() {
            return Ok(());
        }
        loop {
            let rooms = |count| self.waiting.iter().take(count).map(|waiting| &waiting.asked.room);
            let most = if turns { self.waiting.len() } else { self.waiting.len().min(1) };
            let Some(count) = (1..=most).rev().find(|&count| self.model.have_room(rooms(count))) else { return Ok(()) };
            let chosen: Vec<Waiting> = self.waiting.drain(..count).collect();
            let mut looked = Vec::new();
            for Waiting { asked, pixels, caller } in chosen {
                if let Some((looked_at, caller)) = self.own_fault(caller, |model| model.look(&pixels, asked))? {
                    looked.push((looked_at, caller));
                }
            }
            for ((encoded, wanted), caller) in looked {
                match wanted {
                    Wanted::Answers { options, limits } => {
                        let seated = self.own_fault(caller, |model| model.seat(&encoded, &options, limits))?;
                        let decoder = self.tokenizers.stream();
                        self.seated.extend(seated.map(|(seat, caller)| (seat.id, Seated { seat, caller, decoder })));
                    }
                    Wanted::Scores(choices) => {
                        if let Some((scores, caller)) =
                            self.own_fault(caller, |model| model.score_answers(&encoded, choices))?
                        {
                            self.end(caller, Ok(Outcome::Scores(scores)));
                        }
                    }
                }
            }
            if turns {
                return Ok(());
            }
        }
    }

    /// Does a request's work. What is its own fault ends it alone; any other is everybody's.
    fn own_fault<T>(
        &mut self,
        caller: Caller,
        work: impl FnOnce(&mut InstructBlip) -> Result<T>,
    ) -> Result<Option<(T, Caller)>> {
        match work(&mut self.model) {
            Ok(done) => Ok(Some((done, caller))),
            Err(e @ Error::NotFinite { .. }) => {
                self.end(caller, Err(e));
                Ok(None)
            }
            Err(e) => {
                let others = same(&e);
                self.end(caller, Err(e));
                Err(others)
            }
        }
    }

    /// Takes all answers one token further.
    fn step(&mut self) -> Result<()> {
        if self.seated.is_empty() {
            return Ok(());
        }
        let news = self.model.step()?;
        self.tally.steps.fetch_add(1, Ordering::Relaxed);
        news.into_iter().for_each(|news| self.tell(news));
        Ok(())
    }

    fn tell(&mut self, news: News) {
        let Some(seated) = self.seated.get_mut(&news.id) else { return };
        if let Some(token) = news.token {
            seated.caller.tell(seated.decoder.push(token));
        }
        let Some(sequences) = news.finished else { return };
        let Seated { seat, mut caller, decoder } = self.seated.remove(&news.id).expect("found above");
        caller.tell(decoder.finish());
        let tokens: usize = sequences.iter().map(|sequence| sequence.token_ids.len()).sum();
        self.tally.tokens.fetch_add(tokens as u64, Ordering::Relaxed);
        let reply = self.model.reply_to(&seat, sequences);
        self.end(caller, Ok(Outcome::Reply(Box::new(reply))));
    }

    /// Gives everything that waits or is answered the same error.
    fn end_all(&mut self, error: &Error) {
        let seated: Vec<Seated> = self.seated.drain().map(|(_, seated)| seated).collect();
        for seated in seated {
            self.model.unseat(&seated.seat);
            self.end(seated.caller, Err(same(error)));
        }
        for waiting in std::mem::take(&mut self.waiting) {
            self.end(waiting.caller, Err(same(error)));
        }
    }

    fn end(&self, caller: Caller, result: Result<Outcome>) {
        self.tally.slots_taken.store(self.model.slots_taken().into(), Ordering::Relaxed);
        caller.finish(result);
    }
}

/// The error for another request that fails by the same fault.
fn same(error: &Error) -> Error {
    match error {
        Error::Cancelled => Error::Cancelled,
        Error::OutOfMemory { what, need_bytes } => Error::OutOfMemory { what: what.clone(), need_bytes: *need_bytes },
        Error::Gpu { what, problem } => Error::Gpu { what: what.clone(), problem: problem.clone() },
        Error::DeviceLost { reason } => Error::DeviceLost { reason: reason.clone() },
        other => Error::Gpu { what: "answering".into(), problem: other.to_string() },
    }
}
