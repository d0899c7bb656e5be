//! The stages of a model one by one, for an engine that takes many questions through them.

use std::time::Instant;

use super::encode::{Encoded, Pixels};
use super::look;
use super::reply::{Reply, Timings, milliseconds};
use super::residence::LanguageStage;
use super::score::{Score, longest};
use super::{Features, InstructBlip, MAX_RUN_ROWS, PASS_TOKENS};
use crate::error::{Error, Result};
use crate::generate::{
    self, AnswerId, Capacity, GenerateOptions, Joining, Limits, MAX_PROMPT_TOKENS, News, Room, Sequence,
};
use crate::processor::Prompt;

/// A question whose prompt was read and found to fit, before its pictures were looked at.
pub(crate) struct Asked {
    prompt: Prompt,
    pub wanted: Wanted,
    /// The room that it takes of the slots.
    pub room: Room,
}

impl Asked {
    /// The labels of the outputs that are wanted with features, if these are wanted.
    pub fn features(&self) -> Option<&[String]> {
        match &self.wanted {
            Wanted::Features(taps) => Some(taps),
            Wanted::Answers { .. } | Wanted::Scores(_) => None,
        }
    }
}

/// The kind of result that a question wants.
pub(crate) enum Wanted {
    /// Answers.
    Answers { options: Box<GenerateOptions>, limits: Limits },
    /// The likelihood of the answers that have these tokens.
    Scores(Vec<Vec<u32>>),
    /// The features of the picture, with the outputs of these labels.
    Features(Vec<String>),
}

/// A question that has slots.
pub(crate) struct Seat {
    pub id: AnswerId,
    prompt_tokens: usize,
    timings: Timings,
    started: Instant,
}

impl InstructBlip {
    /// Makes slots for as many answers at once, with pages for `tokens` tokens of each, prompts included. Where stages take
    /// turns on the device they are made anew for every turn of the language model.
    pub(crate) fn make_slots(&mut self, slots: u32, tokens: u32) -> Result<()> {
        if !(1..=MAX_RUN_ROWS as u32).contains(&slots) {
            return Err(Error::request(format!("{slots} slots; from 1 to {MAX_RUN_ROWS} are possible")));
        }
        let context = self.config.text.max_positions().unwrap_or(MAX_PROMPT_TOKENS);
        let encoder = self.shapes.language.is_encoder_decoder();
        let pages = slots.saturating_mul(tokens.clamp(1, context));
        let need = Capacity {
            rows: slots,
            positions: context,
            pages: pages.saturating_add(1),
            encoded: if encoder { context } else { 1 },
            encoded_pages: if encoder { pages } else { 1 },
        };
        self.slots = Some(need);
        match &mut self.language {
            Some(stage) => stage.make_slots(&self.device, need),
            None => Ok(()),
        }
    }

    /// Tells whether vision and language take turns on the device, so that all questions of a turn are looked at before the
    /// first is answered.
    pub(crate) fn takes_turns(&self) -> bool {
        self.residence.offload
    }

    /// Reads a question's prompt, and refuses what can be refused before its pictures are looked at.
    pub(crate) fn take_question(
        &self,
        (prompt, qformer_prompt): (&str, Option<&str>),
        pictures: usize,
        options: &GenerateOptions,
        choices: &[String],
        features: Option<&[String]>,
    ) -> Result<Asked> {
        let prompt = self.prompt_of(prompt, qformer_prompt, pictures)?;
        if let Some(taps) = features {
            if pictures != 1 {
                return Err(Error::request(format!("features are those of one picture; {pictures} were given")));
            }
            let room = Room::of_all(std::iter::empty());
            return Ok(Asked { prompt, wanted: Wanted::Features(taps.to_vec()), room });
        }
        let tokens = prompt.input_ids.len();
        let (wanted, room) = match choices {
            [] => {
                options.check()?;
                let limits = self.limits(&prompt, options)?;
                let room = self.room(tokens, options, &limits);
                (Wanted::Answers { options: Box::new(options.clone()), limits }, room)
            }
            choices => {
                let choices = self.choices(&choices.iter().map(String::as_str).collect::<Vec<_>>())?;
                let longest = longest(&choices);
                generate::check_fits(tokens + longest, self.config.text.max_positions())?;
                let room = Room::of(&self.shapes.language, tokens as u32, 1, longest as u32);
                // Their keys and values take pages; no step has rows for them.
                (Wanted::Scores(choices), Room { slots: 0, ..room })
            }
        };
        check_room(&room, self.slots.as_ref().expect("an engine makes slots first"))?;
        Ok(Asked { prompt, wanted, room })
    }

    /// Tells whether all of these have room among the slots now.
    pub(crate) fn have_room<'a>(&self, rooms: impl Iterator<Item = &'a Room>) -> bool {
        let room = Room::of_all(rooms);
        match (&self.language, &self.slots) {
            (Some(stage), _) => stage.has_room(&room),
            (None, slots) => slots.as_ref().is_some_and(|slots| slots.can_hold(&room)),
        }
    }

    /// Slots that somebody has.
    pub(crate) fn slots_taken(&self) -> u32 {
        self.language.as_ref().map_or(0, LanguageStage::slots_taken)
    }

    /// Looks at so many pictures in one pass at most, or as many as the device can, and tells how many these are.
    pub(crate) fn look_at_once(&mut self, pictures: u32) -> Result<u32> {
        self.at_once = look::at_once(&self.config.vision, &self.device.caps(), pictures);
        if let Some(stage) = &mut self.vision {
            stage.look_at_once(self.at_once)?;
        }
        Ok(self.at_once)
    }

    /// Takes the pictures and prompts of questions through vision tower and Q-Former. A question may have an error of its
    /// own.
    pub(crate) fn look(&mut self, questions: Vec<(Pixels, Asked)>) -> Result<Vec<Result<(Encoded, Wanted, Room)>>> {
        let (mut prompts, mut rest) = (Vec::new(), Vec::new());
        for (pixels, Asked { prompt, wanted, room }) in questions {
            prompts.push((pixels, prompt));
            rest.push((wanted, room));
        }
        let encoded = self.encode_all(prompts)?.into_iter().zip(rest);
        Ok(encoded.map(|(encoded, (wanted, room))| encoded.map(|encoded| (encoded, wanted, room))).collect())
    }

    /// Makes the features that questions want, with the outputs that the first of them names: all want these. A question may
    /// have an error of its own.
    pub(crate) fn make_features(&mut self, questions: Vec<(Pixels, Asked)>) -> Result<Vec<Result<Features>>> {
        let taps = questions.first().and_then(|(_, first)| first.features()).unwrap_or_default().to_vec();
        let questions: Vec<_> = questions.into_iter().map(|(pixels, asked)| (pixels, asked.prompt)).collect();
        self.features_all(&questions, &taps)
    }

    /// Tells whether the prompts of `count` questions like `first` and that of `next` can be in one pass.
    pub(crate) fn pass_together(&self, first: &Encoded, count: usize, next: &Encoded) -> bool {
        let [rows, others] = [first, next].map(|encoded| generate::form_rows(encoded.prompt.input_ids.len() as u32));
        rows == others && (count as u32 + 1) * rows <= PASS_TOKENS
    }

    /// Gives slots to questions that were looked at, for which there is room, and takes their prompts through the language
    /// model in one pass. A question may have an error of its own.
    pub(crate) fn seat(&mut self, questions: &[(Encoded, Box<GenerateOptions>, Limits)]) -> Result<Vec<Result<Seat>>> {
        let started = Instant::now();
        self.bring_slots()?;
        let prompted: Vec<_> = questions.iter().map(|(encoded, options, _)| self.prompted(encoded, options)).collect();
        let joining = prompted.iter().zip(questions).map(|(prompt, (_, options, limits))| Joining {
            prompt,
            options,
            limits: limits.clone(),
        });
        let joining: Vec<Joining<'_>> = joining.collect();
        let (language, slots) = self.language_stage();
        let joined = slots.join_all(language, &joining)?;
        let prefill = milliseconds(started) / questions.len() as f64; // its share of the pass
        let seat = |(id, (encoded, ..)): (Result<AnswerId>, &(Encoded, _, _))| {
            Ok(Seat {
                id: id?,
                prompt_tokens: encoded.prompt.input_ids.len(),
                timings: Timings { prefill, ..encoded.timings },
                started: Instant::now(),
            })
        };
        Ok(joined.into_iter().zip(questions).map(seat).collect())
    }

    /// Scores answers to a question that was looked at, for which there is room.
    pub(crate) fn score_answers(&mut self, encoded: &Encoded, choices: Vec<Vec<u32>>) -> Result<Vec<Score>> {
        self.bring_slots()?;
        self.score_encoded(encoded, choices)
    }

    /// Takes every seated question one token further.
    pub(crate) fn step(&mut self) -> Result<Vec<News>> {
        self.language_stage().1.step()
    }

    /// Takes a question's slots away.
    pub(crate) fn unseat(&mut self, seat: &Seat) {
        self.language_stage().1.leave(seat.id);
    }

    /// The reply to a question whose sequences are finished.
    pub(crate) fn reply_to(&self, seat: &Seat, sequences: Vec<Sequence>) -> Reply {
        let timings = Timings { decode: milliseconds(seat.started), ..seat.timings };
        let texts = sequences.into_iter().map(|sequence| self.text_of(sequence)).collect();
        Reply::new(texts, seat.prompt_tokens, timings)
    }
}

/// Refuses an answer that has no room even where nobody else has any.
fn check_room(room: &Room, slots: &Capacity) -> Result<()> {
    if slots.can_hold(room) {
        return Ok(());
    }
    if room.positions > slots.positions {
        let (need, have) = (room.positions, slots.positions);
        return Err(Error::request(format!("the answer may take {need} tokens; {have} are the most: ask for fewer")));
    }
    let (need_tokens, tokens) = match room.encoded > slots.encoded_pages {
        true => (room.encoded, slots.encoded_pages),
        false => (room.pages, slots.lent_pages()),
    };
    Err(Error::OverSlots { need_slots: room.slots, slots: slots.rows, need_tokens, tokens })
}
