//! Answers made side by side: who else is there, and when they came, changes nothing.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use instructblip::generate::{
    AnswerId, Capacity, GenerateOptions, Joining, Limits, PromptInputs, Prompted, Room, Sequence, Session, Slots,
};
use instructblip::language::Language;
use instructblip::{Checkpoint, Device};

use crate::support::{self, golden, models};

const SLOTS: u32 = 6;

/// A prompt and how it is answered.
struct Question {
    ids: Vec<u32>,
    features: Vec<f32>,
    options: GenerateOptions,
}

/// An answer: its sequences, and the bits of all logits on the way where the host chooses tokens.
#[derive(Clone, Debug, PartialEq)]
struct Answered {
    sequences: Vec<Sequence>,
    logits: u64,
}

impl Question {
    fn new(language: &Language, i: u32, options: GenerateOptions) -> Question {
        let width = language.width();
        let ids: Vec<u32> = (0..5 + 3 * i).map(|t| 4 + (t * 37 + 11 * i) % (language.vocab_rows() - 4)).collect();
        let value = |v: u32| (f64::from(v * 7919 % 1000) / 500.0 - 1.0) as f32;
        let features = (0..2 * width).map(|v| value(v + 131 * i)).collect();
        Question { features, ids, options }
    }

    fn prompted(&self, language: &Language) -> Prompted<'_> {
        let inputs = PromptInputs { ids: &self.ids, features: &self.features };
        let history = language.decoder_start().map_or(self.ids.clone(), |start| vec![start]);
        Prompted { inputs, history, counted: 0 }
    }

    fn limits(&self) -> Limits {
        Limits::new(self.options.max_new_tokens.unwrap_or(5), &[2])
    }

    fn room(&self, language: &Language) -> Room {
        Room::of(language, self.ids.len() as u32, self.options.rows(), self.limits().max_new_tokens)
    }
}

/// Every way in which tokens are chosen.
fn questions(language: &Language) -> Vec<Question> {
    let up_to = GenerateOptions::up_to;
    let drawn = |seed| GenerateOptions { do_sample: true, seed, temperature: 1.3, ..up_to(7) };
    let options = [
        up_to(6),
        GenerateOptions { repetition_penalty: 1.2, ..up_to(9) },
        drawn(3),
        GenerateOptions { top_k: 0, ..drawn(4) },
        GenerateOptions { num_beams: 3, num_return_sequences: 2, ..up_to(5) },
        GenerateOptions { num_return_sequences: 2, ..drawn(5) },
        up_to(1),
        GenerateOptions { no_repeat_ngram_size: 2, ..up_to(12) },
    ];
    (0..).zip(options).map(|(i, options)| Question::new(language, i, options)).collect()
}

fn slots(device: &Device, language: &Language, questions: &[Question]) -> Slots {
    let rooms: Vec<Room> = questions.iter().map(|question| question.room(language)).collect();
    let positions = rooms.iter().map(|room| room.positions).max().expect("a question");
    // Fewer pages than all of them want at once.
    let capacity = Capacity { rows: SLOTS, positions, pages: 4 * positions + 1, ..Capacity::of(&rooms) };
    Slots::new(Session::new(device, language, capacity).expect("a session"))
}

/// Seats answers to `questions` after one pass over their prompts.
fn join(language: &Language, slots: &mut Slots, questions: &[&Question]) -> Vec<AnswerId> {
    let prompts: Vec<Prompted<'_>> = questions.iter().map(|question| question.prompted(language)).collect();
    let joining = prompts.iter().zip(questions).map(|(prompt, question)| Joining {
        prompt,
        options: &question.options,
        limits: question.limits(),
    });
    let joined = slots.join_all(language, &joining.collect::<Vec<_>>()).expect("a pass");
    joined.into_iter().map(|id| id.expect("an answer that begins")).collect()
}

/// Answers `order` (question, steps to wait before it), each as soon as there is room.
fn answer(language: &Language, slots: &mut Slots, questions: &[Question], order: &[(usize, u32)]) -> Vec<Answered> {
    let mut waiting: Vec<(usize, (usize, u32))> = order.iter().copied().enumerate().rev().collect();
    let mut seated: BTreeMap<AnswerId, (usize, DefaultHasher, bool)> = BTreeMap::new();
    let mut answers: Vec<Option<Answered>> = vec![None; order.len()];
    for now in 0.. {
        // Those that come at the same time are in one pass.
        let mut coming: Vec<(usize, &Question)> = Vec::new();
        while let Some((at, (which, _))) = waiting.pop_if(|(_, (which, wait))| {
            let rooms = coming.iter().map(|(_, question)| *question).chain([&questions[*which]]);
            let rooms: Vec<Room> = rooms.map(|question| question.room(language)).collect();
            *wait <= now && slots.have(&Room::of_all(rooms.iter()))
        }) {
            coming.push((at, &questions[which]));
        }
        let ids = match coming.is_empty() {
            true => Vec::new(),
            false => join(language, slots, &coming.iter().map(|(_, question)| *question).collect::<Vec<_>>()),
        };
        for (id, (at, question)) in ids.into_iter().zip(coming) {
            let by_host = question.options != GenerateOptions::up_to(question.limits().max_new_tokens);
            seated.insert(id, (at, DefaultHasher::new(), by_host));
        }
        let news = slots.step().expect("a step");
        // A token after the first is one that the last step's logits were looked at for.
        for news in news.iter().filter(|news| news.tokens > 1) {
            let (_, hasher, by_host) = seated.get_mut(&news.id).expect("one of ours");
            let rows = slots.session().read_logits(slots.slots_of(news.id)).expect("logits");
            rows.iter().flatten().filter(|_| *by_host).for_each(|logit| logit.to_bits().hash(hasher));
        }
        for news in news.into_iter().filter(|news| news.finished.is_some()) {
            let (at, logits, _) = seated.remove(&news.id).expect("one of ours");
            answers[at] = news.finished.map(|sequences| Answered { sequences, logits: logits.finish() });
        }
        if waiting.is_empty() && seated.is_empty() {
            break;
        }
    }
    assert!(slots.are_idle());
    assert_eq!(slots.free(), SLOTS);
    answers.into_iter().map(|answer| answer.expect("an answer")).collect()
}

/// Random mixes of questions that come at random times get the answers that each gets alone, to the bit of every logit.
fn company_changes_nothing(checkpoint: &Checkpoint, mixes: usize) {
    let Some(device) = support::shared_device() else { return };
    let parts = models::load_parts(&device, checkpoint);
    let language = &parts.language;
    let questions = questions(language);
    let mut slots = slots(&device, language, &questions);
    let alone: Vec<Answered> = (0..questions.len())
        .map(|which| answer(language, &mut slots, &questions, &[(which, 0)]).swap_remove(0))
        .collect();
    let mut random = fastrand::Rng::with_seed(20261130);
    for mix in 0..mixes {
        let order: Vec<(usize, u32)> =
            (0..random.usize(2..9)).map(|_| (random.usize(0..questions.len()), random.u32(0..8))).collect();
        let found = answer(language, &mut slots, &questions, &order);
        for ((which, _), found) in order.iter().zip(found) {
            assert_eq!(found, alone[*which], "question {which} of mix {mix}: {order:?}");
        }
    }
}

/// The number of mixes: MIXES, where somebody has more time.
fn mixes(usual: usize) -> usize {
    std::env::var("MIXES").ok().and_then(|mixes| mixes.parse().ok()).unwrap_or(usual)
}

#[test]
fn company_changes_no_answer_of_llama() {
    company_changes_nothing(&instructblip::embedded::SHAPES, mixes(40));
}

#[test]
fn company_changes_no_answer_of_t5() {
    let folder = support::golden::checkpoint_folder("ib-t5-tanh");
    company_changes_nothing(&Checkpoint::directory(folder).expect("a folder"), mixes(20));
}

/// The logits of every step of an answer to `question` among so many slots, and its tokens.
fn steps(device: &Device, language: &Language, question: &Question, slots: u32) -> (Vec<Vec<f32>>, Vec<u32>) {
    let capacity = Capacity { rows: slots, ..Capacity::of(&[question.room(language)]) };
    let mut slots = Slots::new(Session::new(device, language, capacity).expect("a session"));
    let id = join(language, &mut slots, &[question])[0];
    let mut logits = Vec::new();
    loop {
        let news = slots.step().expect("a step");
        if let Some(sequences) = news.into_iter().find_map(|news| news.finished) {
            return (logits, sequences[0].token_ids.clone());
        }
        logits.extend(slots.session().read_logits(slots.slots_of(id)).expect("logits"));
    }
}

/// Among another number of slots an answer's logits are the same but for rounding, so it may be another one only where two
/// tokens are as likely as that.
#[test]
fn other_numbers_of_slots_change_rounding_alone() {
    let Some(device) = support::shared_device() else { return };
    let folder = golden::checkpoint_folder("ib-t5-tanh");
    for checkpoint in [instructblip::embedded::SHAPES.clone(), Checkpoint::directory(folder).expect("a folder")] {
        let parts = models::load_parts(&device, &checkpoint);
        // The host chooses its tokens, so the logits are those of the step before.
        let options = GenerateOptions { repetition_penalty: 1.2, ..GenerateOptions::up_to(12) };
        let question = Question::new(&parts.language, 3, options);
        let (alone, tokens) = steps(&device, &parts.language, &question, 1);
        for slots in [2, 8, 16] {
            let (found, others) = steps(&device, &parts.language, &question, slots);
            let same = tokens.iter().zip(&others).take_while(|(token, other)| token == other).count();
            for (found, alone) in found.iter().zip(&alone).take(same) {
                let (low, high) = alone.iter().fold((f32::MAX, f32::MIN), |(low, high), &v| (low.min(v), high.max(v)));
                let far = found.iter().zip(alone).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(
                    far <= support::stage_bound(&device) as f32 * (high - low),
                    "{slots} slots: {far:e} of {:e}",
                    high - low
                );
            }
            // Here the bound is far below the distance between the best two.
            assert_eq!(others, tokens, "{slots} slots");
        }
    }
}

/// An answer that leaves early makes room, and those that stay are none the wiser.
#[test]
fn leaving_frees_slots_and_pages() {
    let Some(device) = support::shared_device() else { return };
    let parts = models::load_parts(&device, &instructblip::embedded::SHAPES);
    let language = &parts.language;
    let questions = questions(language);
    let mut slots = slots(&device, language, &questions);
    let alone = answer(language, &mut slots, &questions, &[(7, 0)]);
    for _ in 0..50 {
        let gone = join(language, &mut slots, &[&questions[0], &questions[4]]);
        slots.step().expect("a step");
        slots.step().expect("a step");
        gone.into_iter().for_each(|id| slots.leave(id));
        slots.step().expect("nothing to do");
    }
    assert_eq!(answer(language, &mut slots, &questions, &[(7, 0)]), alone);
}
