//! The thread that has the model: seats what is ready, steps, and tells what came of it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};

use super::Tally;
use super::audience::Audience;
use super::job::Caller;
use super::pictures::Ready;
use super::request::{Event, Outcome};
use crate::error::{Error, Result};
use crate::generate::{AnswerId, News, Room};
use crate::model::{Asked, Encoded, InstructBlip, Pixels, Seat, Wanted};
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

/// A request that waits for its pictures to be looked at.
struct Waiting {
    asked: Asked,
    pixels: Pixels,
    caller: Caller,
}

/// A request whose pictures were looked at, and that waits for slots.
struct Looked {
    encoded: Encoded,
    wanted: Wanted,
    room: Room,
    caller: Caller,
}

/// A request whose answer is being made.
struct Seated {
    seat: Seat,
    caller: Caller,
    /// The decoder that makes text of its tokens as they come.
    decoder: StreamDecoder,
}

/// Most steps that a question waits for others to be seated with it.
const PATIENCE: u32 = 4;

/// The thread's state.
pub(super) struct Worker {
    model: InstructBlip,
    tokenizers: Arc<Tokenizers>,
    inbox: Receiver<Message>,
    /// Most questions of a pass.
    at_once: usize,
    waiting: VecDeque<Waiting>,
    looked: VecDeque<Looked>,
    /// Steps since an answer was seated.
    waited: u32,
    seated: HashMap<AnswerId, Seated>,
    finishing: bool,
    /// The error that everything that waits or comes ends with.
    fault: Option<Error>,
    /// The callers of what the model does now.
    audience: Audience,
    tally: Arc<Tally>,
}

impl Worker {
    pub fn new(
        mut model: InstructBlip,
        at_once: usize,
        inbox: Receiver<Message>,
        tally: Arc<Tally>,
        closing: Arc<AtomicBool>,
    ) -> Worker {
        let audience = Audience::of(&mut model, closing);
        Worker {
            tokenizers: model.processor().shared_tokenizers(),
            model,
            inbox,
            at_once,
            waiting: VecDeque::new(),
            looked: VecDeque::new(),
            waited: 0,
            seated: HashMap::new(),
            finishing: false,
            fault: None,
            audience,
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
            if self.finishing && self.is_idle() {
                self.audience.leave(&mut self.model);
                return self.model;
            }
            self.drop_cancelled();
            if let Err(e) = self.seat().and_then(|()| self.step()) {
                self.fault = Some(e);
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.looked.is_empty() && self.seated.is_empty()
    }

    /// Takes what was sent; waits for it where there is nothing else to do.
    fn receive(&mut self) {
        loop {
            let message = match self.is_idle() && !self.finishing {
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
        match self.model.take_question(
            prompts,
            pictures,
            &request.options,
            &request.choices,
            request.features.as_deref(),
        ) {
            Ok(asked) => self.waiting.push_back(Waiting { asked, pixels, caller }),
            Err(e) => self.end(caller, Err(e)),
        }
    }

    /// Ends the requests that nobody waits for.
    fn drop_cancelled(&mut self) {
        let (gone, waiting): (Vec<Waiting>, _) = self.waiting.drain(..).partition(|of| of.caller.has_cancelled());
        self.waiting = waiting.into();
        let (gone_later, looked): (Vec<Looked>, _) = self.looked.drain(..).partition(|of| of.caller.has_cancelled());
        self.looked = looked.into();
        let callers = gone.into_iter().map(|of| of.caller).chain(gone_later.into_iter().map(|of| of.caller));
        callers.for_each(|caller| self.end(caller, Err(Error::Cancelled)));
        let gone: Vec<AnswerId> =
            self.seated.iter().filter(|(_, seated)| seated.caller.has_cancelled()).map(|(id, _)| *id).collect();
        for id in gone {
            let seated = self.seated.remove(&id).expect("found above");
            self.model.unseat(&seated.seat);
            self.end(seated.caller, Err(Error::Cancelled));
        }
    }

    /// Seats those that wait longest, as many as there is room for, and looks at some more ahead of that: several in one
    /// pass take less than one after the other. Where vision and language take turns on the device, those of a turn are
    /// seated once all seats are free.
    fn seat(&mut self) -> Result<()> {
        let turns = self.model.takes_turns();
        if turns && !self.seated.is_empty() {
            return Ok(());
        }
        loop {
            if self.looked.is_empty() {
                self.look(turns)?;
            }
            let count = self.choose();
            if count == 0 {
                return Ok(());
            }
            let chosen = self.looked.drain(..count).collect();
            self.seat_all(chosen)?;
            self.waited = 0;
            if turns && self.looked.is_empty() {
                return Ok(());
            }
        }
    }

    /// Looks at those that wait longest: as many as a pass takes, or, where stages take turns, as the slots have room for.
    fn look(&mut self, turns: bool) -> Result<()> {
        let rooms = |count| self.waiting.iter().take(count).map(|waiting| &waiting.asked.room);
        // Those that want features are by themselves, with others that want the same.
        let features = self.waiting.front().and_then(|first| first.asked.features().map(<[String]>::to_vec));
        let alike = |waiting: &&Waiting| waiting.asked.features() == features.as_deref();
        let most = self.waiting.iter().take_while(alike).count();
        let count = match turns && features.is_none() {
            true => (1..=most).rev().find(|&count| self.model.have_room(rooms(count))).unwrap_or(0),
            false => most.min(self.at_once),
        };
        if count == 0 {
            return Ok(());
        }
        let (mut questions, mut callers) = (Vec::new(), Vec::new());
        for Waiting { asked, pixels, caller } in self.waiting.drain(..count) {
            questions.push((pixels, asked));
            callers.push(caller);
        }
        self.audience.are(callers.iter());
        if features.is_some() {
            let made = self.model.make_features(questions);
            for (features, caller) in self.own_faults(callers, made)? {
                self.end(caller, Ok(Outcome::Features(Box::new(features))));
            }
            return Ok(());
        }
        let looked = self.model.look(questions);
        let looked = self.own_faults(callers, looked)?.into_iter();
        self.looked.extend(looked.map(|((encoded, wanted, room), caller)| Looked { encoded, wanted, room, caller }));
        Ok(())
    }

    /// The number of those looked at that are to be seated now, from the first on: as many as can be in one pass. Where some
    /// lack room, the others wait a few steps for answers that end soon: a pass for one alone takes nearly as long.
    fn choose(&self) -> usize {
        let Some(first) = self.looked.front() else { return 0 };
        let can_follow = |(count, next): &(usize, &Looked)| {
            let are_answers = [first, next].iter().all(|of| matches!(of.wanted, Wanted::Answers { .. }));
            are_answers && self.model.pass_together(&first.encoded, *count, &next.encoded)
        };
        let most = 1 + (1..).zip(self.looked.iter().skip(1)).take_while(can_follow).count();
        let rooms = |count| self.looked.iter().take(count).map(|looked| &looked.room);
        let count = (1..=most).rev().find(|&count| self.model.have_room(rooms(count))).unwrap_or(0);
        let waits = count < most && self.waited < PATIENCE && !self.seated.is_empty();
        if waits { 0 } else { count }
    }

    /// Takes the prompts of questions through the language model, and gives them slots or scores their answers.
    fn seat_all(&mut self, chosen: Vec<Looked>) -> Result<()> {
        let (mut questions, mut callers) = (Vec::new(), Vec::new());
        for Looked { encoded, wanted, caller, .. } in chosen {
            match wanted {
                Wanted::Answers { options, limits } => {
                    questions.push((encoded, options, limits));
                    callers.push(caller);
                }
                Wanted::Features(_) => unreachable!("features were made without slots"),
                Wanted::Scores(choices) => {
                    self.audience.are([&caller].into_iter());
                    let scores = match self.model.score_answers(&encoded, choices) {
                        Err(e) if !matches!(e, Error::NotFinite { .. }) => Err(e),
                        its_own => Ok(vec![its_own]),
                    };
                    let scored = self.own_faults(vec![caller], scores)?;
                    scored.into_iter().for_each(|(scores, caller)| self.end(caller, Ok(Outcome::Scores(scores))));
                }
            }
        }
        if questions.is_empty() {
            return Ok(());
        }
        self.audience.are(callers.iter());
        let seats = self.model.seat(&questions);
        for (seat, caller) in self.own_faults(callers, seats)? {
            let decoder = self.tokenizers.stream();
            self.seated.insert(seat.id, Seated { seat, caller, decoder });
        }
        Ok(())
    }

    /// The results of requests, one for each. What is a request's own fault ends it alone; work that was ended ends those that
    /// it was for; any other fault is everybody's.
    fn own_faults<T>(&mut self, callers: Vec<Caller>, results: Result<Vec<Result<T>>>) -> Result<Vec<(T, Caller)>> {
        let results = match results {
            Ok(results) => results,
            Err(e) => {
                callers.into_iter().for_each(|caller| self.end(caller, Err(same(&e))));
                return if matches!(e, Error::Cancelled) { Ok(Vec::new()) } else { Err(e) };
            }
        };
        let mut done = Vec::new();
        for (result, caller) in results.into_iter().zip(callers) {
            match result {
                Ok(result) => done.push((result, caller)),
                Err(e) => self.end(caller, Err(e)),
            }
        }
        Ok(done)
    }

    /// Takes all answers one token further.
    fn step(&mut self) -> Result<()> {
        if self.seated.is_empty() {
            return Ok(());
        }
        self.audience.are(self.seated.values().map(|seated| &seated.caller));
        let news = match self.model.step() {
            Err(Error::Cancelled) => {
                self.end_seated(&Error::Cancelled);
                return Ok(());
            }
            news => news?,
        };
        self.tally.steps.fetch_add(1, Ordering::Relaxed);
        self.waited += 1;
        news.into_iter().for_each(|news| self.tell(news));
        Ok(())
    }

    fn tell(&mut self, news: News) {
        let Some(seated) = self.seated.get_mut(&news.id) else { return };
        if let Some(logprob) = news.logprob {
            seated.caller.tell(Event::Token(logprob));
        }
        if let Some(token) = news.token {
            seated.caller.tell_text(seated.decoder.push(token));
        }
        let Some(sequences) = news.finished else { return };
        let Seated { seat, mut caller, decoder } = self.seated.remove(&news.id).expect("found above");
        caller.tell_text(decoder.finish());
        let tokens: usize = sequences.iter().map(|sequence| sequence.token_ids.len()).sum();
        self.tally.tokens.fetch_add(tokens as u64, Ordering::Relaxed);
        let reply = self.model.reply_to(&seat, sequences);
        self.end(caller, Ok(Outcome::Reply(Box::new(reply))));
    }

    /// Gives everything that waits or is answered the same error.
    fn end_all(&mut self, error: &Error) {
        self.end_seated(error);
        let (waiting, looked) = (std::mem::take(&mut self.waiting), std::mem::take(&mut self.looked));
        let callers = waiting.into_iter().map(|of| of.caller).chain(looked.into_iter().map(|of| of.caller));
        callers.for_each(|caller| self.end(caller, Err(same(error))));
    }

    /// Gives everything that is answered the same error.
    fn end_seated(&mut self, error: &Error) {
        let seated: Vec<Seated> = self.seated.drain().map(|(_, seated)| seated).collect();
        for seated in seated {
            self.model.unseat(&seated.seat);
            self.end(seated.caller, Err(same(error)));
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
