//! Answers made side by side. Each has rows of a session's step, its slots, while it is made: answers join and leave
//! between steps, and no step is recorded anew for it.
//!
//! Every row has its own position and sees its own keys only, and a session's step is the same whoever has its rows. So
//! an answer may depend on the number of slots, by rounding, but not on who has the others.

use std::collections::VecDeque;

use super::answering::{Answering, Next};
use super::limits::Limits;
use super::logprobs::TokenLogprob;
use super::options::GenerateOptions;
use super::row::{Prompted, Sequence};
use super::scores::{Scores, check_finite};
use super::session::{Capacity, FreePages, PageTable, Placed, PromptInputs, Room, Session};
use crate::error::Result;
use crate::language::Language;

/// The name of an answer that is being made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AnswerId(u64);

/// News of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct News {
    /// The answer.
    pub id: AnswerId,
    /// New tokens of its longest sequence so far.
    pub tokens: u32,
    /// The newest token, where it has one sequence, which only grows.
    pub token: Option<u32>,
    /// Its log-probability, where it is wanted.
    pub logprob: Option<TokenLogprob>,
    /// The sequences, best first, once all are finished.
    pub finished: Option<Vec<Sequence>>,
}

/// An answer that is to have slots.
pub struct Joining<'a> {
    /// Its prompt.
    pub prompt: &'a Prompted<'a>,
    /// Its options.
    pub options: &'a GenerateOptions,
    /// Its limits.
    pub limits: Limits,
}

/// An answer that has slots.
struct Seated {
    id: AnswerId,
    slots: Vec<u32>,
    /// The pages of its prompt.
    placed: Placed,
    /// The pages for its new tokens.
    new: Vec<u32>,
    table: PageTable,
    answering: Answering,
    /// Steps that were started for it: they read as many of its new tokens.
    steps: u32,
}

impl Seated {
    /// Tells whether a step more gives a token that it may have.
    fn wants_step(&self) -> bool {
        self.steps + 1 < self.answering.max_new_tokens()
    }

    /// Has the next step read these tokens.
    fn go_on_with(&mut self, session: &Session, next: Next) {
        self.slots.iter().zip(&next.tokens).for_each(|(&slot, &token)| session.write_token(slot, token));
        if !next.sources.is_empty() {
            self.table.reorder(&next.sources, self.steps);
            self.write_pages(session);
        }
    }

    fn write_pages(&self, session: &Session) {
        self.slots.iter().zip(self.table.rows()).for_each(|(&slot, pages)| session.write_pages(slot, pages));
    }
}

/// A session's rows and pages, and the answers that have them.
pub struct Slots {
    session: Session,
    free: Vec<u32>,
    pages: FreePages,
    encoded_pages: FreePages,
    seated: Vec<Seated>,
    /// The answers that each step under way is for, the oldest first.
    under_way: VecDeque<Vec<AnswerId>>,
    news: Vec<News>,
    next: u64,
}

impl Slots {
    /// The rows and pages of `session`, which nobody has.
    pub fn new(session: Session) -> Slots {
        let &Capacity { rows, encoded_pages, .. } = session.capacity();
        let slots = Slots {
            free: (0..rows).rev().collect(),
            pages: FreePages::all(session.capacity().lent_pages()),
            encoded_pages: FreePages::all(encoded_pages),
            seated: Vec::new(),
            under_way: VecDeque::new(),
            news: Vec::new(),
            next: 0,
            session,
        };
        (0..rows).for_each(|row| slots.leave_empty(row));
        slots
    }

    /// The session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Slots that nobody has.
    pub fn free(&self) -> u32 {
        self.free.len() as u32
    }

    /// The slots of an answer that is being made, which are rows of the session's step.
    pub fn slots_of(&self, id: AnswerId) -> &[u32] {
        self.seated.iter().find(|seated| seated.id == id).map_or(&[], |seated| &seated.slots)
    }

    /// Tells whether no answer is being made.
    pub fn are_idle(&self) -> bool {
        self.seated.is_empty() && self.news.is_empty()
    }

    /// Tells whether there is this room now.
    pub fn have(&self, room: &Room) -> bool {
        self.free() >= room.slots && self.pages.count() >= room.pages && self.encoded_pages.count() >= room.encoded
    }

    /// Seats an answer to `prompt`: runs the prompt, and chooses the first token. There must be [`Room`] for it.
    ///
    /// # Errors
    /// [`Error::NotFinite`](crate::Error::NotFinite), which concerns this answer alone; whatever went wrong on the GPU.
    pub fn join(
        &mut self,
        language: &Language,
        prompt: &Prompted<'_>,
        options: &GenerateOptions,
        limits: Limits,
    ) -> Result<AnswerId> {
        self.join_all(language, &[Joining { prompt, options, limits }])?.swap_remove(0)
    }

    /// Seats several answers after one pass over their prompts, which must be of one kind (see
    /// [`form_rows`](super::form_rows)). Each may have an error of its own: [`Error::NotFinite`](crate::Error::NotFinite).
    ///
    /// # Errors
    /// Whatever went wrong on the GPU.
    pub fn join_all(&mut self, language: &Language, joining: &[Joining<'_>]) -> Result<Vec<Result<AnswerId>>> {
        let lend = |Joining { prompt, options, limits }: &Joining<'_>| {
            self.lend(language, prompt.tokens(), options.rows() * limits.max_new_tokens)
        };
        let lent: Vec<(Placed, Vec<u32>)> = joining.iter().map(lend).collect();
        let prompts: Vec<_> =
            joining.iter().zip(&lent).map(|(joining, (placed, _))| (joining.prompt.inputs, placed)).collect();
        let logits = match self.prefill(language, &prompts) {
            Ok(logits) => logits,
            Err(e) => {
                lent.iter().for_each(|(placed, new)| self.take_back(placed, new));
                return Err(e);
            }
        };
        let rows = logits.chunks(logits.len() / joining.len());
        let seat = |((joining, (placed, new)), logits): ((&Joining<'_>, _), &[f32])| match check_finite(logits) {
            Ok(()) => Ok(self.seat(joining, placed, new, logits)),
            Err(e) => {
                self.take_back(&placed, &new);
                Err(e)
            }
        };
        Ok(joining.iter().zip(lent).zip(rows).map(seat).collect())
    }

    /// Gives an answer its slots, and chooses its first token.
    fn seat(&mut self, joining: &Joining<'_>, placed: Placed, new: Vec<u32>, logits: &[f32]) -> AnswerId {
        let Joining { prompt, options, limits } = joining;
        let mut slots = self.free.split_off(self.free.len() - options.rows() as usize);
        slots.reverse();
        let id = AnswerId(self.next);
        self.next += 1;
        let (table, answering) =
            (PageTable::new(&placed.own, &new, slots.len()), Answering::new(prompt, options, limits.clone()));
        let mut seated = Seated { id, slots, placed, new, table, answering, steps: 0 };
        seated.write_pages(&self.session);
        seated.slots.iter().for_each(|&slot| self.session.write_encoded(slot, &seated.placed.encoded));
        let next = seated.answering.begin(logits);
        seated.go_on_with(&self.session, next);
        self.seated.push(seated);
        self.tell(id);
        id
    }

    /// Takes every answer one token further, and gives the news since the last step.
    ///
    /// # Errors
    /// Whatever went wrong on the GPU.
    pub fn step(&mut self) -> Result<Vec<News>> {
        if !self.seated.is_empty() {
            if self.under_way.is_empty() {
                self.submit()?;
            }
            // The next step goes to the device before this one's tokens are waited for, where it needs nothing of them.
            if self.under_way.len() == 1 && self.can_run_ahead() {
                self.submit()?;
            }
            self.read()?;
        }
        Ok(std::mem::take(&mut self.news))
    }

    /// Takes an answer's slots and pages away from it, finished or not.
    pub fn leave(&mut self, id: AnswerId) {
        let Some(at) = self.seated.iter().position(|seated| seated.id == id) else { return };
        let seated = self.seated.swap_remove(at);
        // What a step under way still writes to its pages, it writes before whatever comes after.
        seated.slots.iter().for_each(|&slot| self.leave_empty(slot));
        self.free.extend(seated.slots.iter().rev());
        self.take_back(&seated.placed, &seated.new);
    }

    /// Takes everybody's slots and pages away, and forgets what there was to tell.
    pub fn clear(&mut self) {
        while let Some(id) = self.seated.last().map(|seated| seated.id) {
            self.leave(id);
        }
        self.news.clear();
    }

    /// Lends the pages for a prompt of `tokens` tokens and, of the decoder's, `new` more, of which there must be as many.
    pub fn lend(&mut self, language: &Language, tokens: u32, new: u32) -> (Placed, Vec<u32>) {
        let (own, encoded) = (language.decoder_length(tokens), language.encoder_length(tokens));
        let placed = Placed { own: self.pages.take(own), encoded: self.encoded_pages.take(encoded) };
        (placed, self.pages.take(new))
    }

    /// Takes back what was lent.
    pub fn take_back(&mut self, placed: &Placed, new: &[u32]) {
        self.pages.give_back(new);
        self.pages.give_back(&placed.own);
        self.encoded_pages.give_back(&placed.encoded);
    }

    /// The logits after each prompt.
    fn prefill(&self, language: &Language, prompts: &[(PromptInputs<'_>, &Placed)]) -> Result<Vec<f32>> {
        let prefill = self.session.prefill_all(language, prompts)?;
        prefill.submit()?;
        self.session.device().read(&prefill.logits)
    }

    /// Has a row that nobody has write where nobody reads.
    fn leave_empty(&self, row: u32) {
        self.session.write_pages(row, &[self.session.capacity().pages - 1]);
        self.session.write_encoded(row, &[0]);
    }

    /// Every answer's next token comes to be on the device, and one of them may have another after it.
    fn can_run_ahead(&self) -> bool {
        self.seated.iter().all(|seated| seated.answering.is_on_device()) && self.seated.iter().any(Seated::wants_step)
    }

    fn submit(&mut self) -> Result<()> {
        let mut positions = vec![0; self.session.capacity().rows as usize];
        let mut ids = Vec::new();
        for seated in &mut self.seated {
            // The step of one that may have no more tokens, its last being under way, counts for nothing.
            let position = seated.placed.positions() + seated.steps;
            seated.slots.iter().for_each(|&slot| positions[slot as usize] = position);
            if seated.wants_step() {
                seated.steps += 1;
                ids.push(seated.id);
            }
        }
        self.session.write_positions(&positions);
        self.session.submit()?;
        self.under_way.push_back(ids);
        Ok(())
    }

    /// Reads what the oldest step under way found, and has those that it was for go on.
    fn read(&mut self) -> Result<()> {
        let ids = self.under_way.pop_front().expect("a step is under way");
        let tokens = self.session.read_tokens()?;
        let (mut asked, mut beams) = (Vec::new(), Vec::new());
        for Seated { slots, answering, .. } in self.seated.iter().filter(|seated| ids.contains(&seated.id)) {
            match answering {
                _ if answering.is_on_device() => {}
                Answering::Rows(rows) => asked.extend(slots.iter().copied().zip(rows.processors())),
                Answering::Beams(_) => beams.extend_from_slice(slots),
            }
        }
        let mut scores = Scores::read(&self.session, &asked)?.into_iter();
        let mut logits = self.session.read_logits(&beams)?.into_iter();
        for seated in self.seated.iter_mut().filter(|seated| ids.contains(&seated.id)) {
            let (slots, on_device) = (&seated.slots, seated.answering.is_on_device());
            let next = match &mut seated.answering {
                Answering::Rows(rows) if on_device => {
                    rows.take(slots.iter().map(|&slot| tokens[slot as usize]));
                    continue;
                }
                Answering::Rows(rows) => rows.choose(scores.by_ref().take(slots.len())),
                Answering::Beams(search) => search.choose(&mut logits.by_ref().take(slots.len())),
            };
            seated.go_on_with(&self.session, next);
        }
        ids.into_iter().for_each(|id| self.tell(id));
        Ok(())
    }

    /// Keeps the news of an answer for whoever asks next; one that is finished leaves.
    fn tell(&mut self, id: AnswerId) {
        let Some(seated) = self.seated.iter().find(|seated| seated.id == id) else { return };
        let answering = &seated.answering;
        let (token, logprob) = (answering.newest(), answering.newest_logprob().cloned());
        let news = News { id, tokens: answering.tokens(), token, logprob, finished: answering.finished() };
        if news.finished.is_some() {
            self.leave(id);
        }
        self.news.push(news);
    }
}
