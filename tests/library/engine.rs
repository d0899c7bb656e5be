//! One model for everybody who asks.

use std::sync::Arc;
use std::time::Duration;

use instructblip::engine::{Canceller, Event, Outcome, Pending, Picture, Request};
use instructblip::{Checkpoint, Device, Engine, EngineOptions, Error, GenerateOptions, Image, InstructBlip, Question};

use crate::support::{self, golden};

const QUESTIONS: [&str; 4] =
    ["What color is the large shape?", "How many shapes are there?", "Describe the image.", "Is there a circle?"];

fn picture(i: usize) -> std::path::PathBuf {
    let mut all: Vec<_> = std::fs::read_dir(golden::golden_image(""))
        .expect("pictures")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "png"))
        .collect();
    all.sort();
    all[i % all.len()].clone()
}

fn engine(device: &Device, options: &EngineOptions) -> Engine {
    Engine::start(InstructBlip::embedded(device).expect("a model"), options).expect("an engine")
}

fn request(i: usize, options: &GenerateOptions) -> Request {
    Request::new(Picture::File(picture(i)), QUESTIONS[i % 4], options.clone())
}

fn text(outcome: Outcome) -> String {
    match outcome {
        Outcome::Reply(reply) => reply.text,
        Outcome::Scores(_) | Outcome::Features(_) => panic!("no answer was asked for"),
    }
}

/// Answers, streamed text and scores are those that the model gives when it is asked alone.
#[test]
fn engines_answer_as_models_do() {
    let Some(device) = support::device() else { return };
    let engine = engine(&device, &EngineOptions::default());
    let greedy = GenerateOptions::up_to(24);
    let drawn = GenerateOptions { do_sample: true, seed: 7, ..greedy.clone() };
    let beams = GenerateOptions { num_beams: 3, ..greedy.clone() };
    let options = [&greedy, &drawn, &beams];
    let pending: Vec<Pending> = (0..24).map(|i| engine.submit(request(i, options[i % 3]))).collect();
    let choices = ["red", "green", "blue"].map(String::from);
    let scored = engine.submit(Request { choices: choices.to_vec(), ..request(0, &greedy) });
    let found: Vec<(String, String)> = pending
        .into_iter()
        .map(|pending| {
            let mut streamed = String::new();
            for event in pending {
                match event.expect("an answer") {
                    Event::Token(_) => panic!("no log-probabilities were asked for"),
                    Event::Text(piece) => streamed += &piece,
                    Event::Done(outcome) => return (streamed.trim().to_string(), text(outcome)),
                }
            }
            panic!("no result")
        })
        .collect();
    let Outcome::Scores(scores) = scored.wait().expect("scores") else { panic!("no scores") };
    let counters = engine.counters();
    assert_eq!((counters.finished, counters.failed, counters.pending, counters.slots_taken), (25, 0, 0, 0));
    let mut model = engine.finish().expect("the model");
    for (i, (streamed, whole)) in found.iter().enumerate() {
        let image = Image::open(picture(i)).expect("a picture");
        let alone = model.ask(&image, QUESTIONS[i % 4], options[i % 3]).expect("an answer");
        assert_eq!(*whole, alone.text, "question {i}");
        assert_eq!(*streamed, if i % 3 == 2 { "" } else { &alone.text }, "question {i}");
    }
    let image = Image::open(picture(0)).expect("a picture");
    let alone = model.score(&Question::new(&image, QUESTIONS[0]), &["red", "green", "blue"]).expect("scores");
    assert_eq!(scores, alone);
}

/// Whoever is looked at in the same pass, the bits of what is made of a picture and an instruction are the same: those of
/// scores, which come of all logits.
#[test]
fn company_in_a_pass_changes_nothing() {
    let devices = [support::shared_device(), support::portable_device()];
    let folders = ["ib-llama", "ib-t5-tanh", "b2-opt", "ragged-llama", "video-llama"];
    for (device, folder) in devices.iter().flatten().flat_map(|device| folders.map(|folder| (device, folder))) {
        let checkpoint = Checkpoint::directory(golden::checkpoint_folder(folder)).expect("a folder");
        let load = || InstructBlip::load(device, &checkpoint).expect("a model");
        let scores = |at_once| {
            let engine =
                Engine::start(load(), &EngineOptions { at_once, ..EngineOptions::default() }).expect("an engine");
            let request = |i: usize| {
                let frames = if folder.contains("video") { 1 + i % 3 } else { 1 };
                let pictures = (0..frames).map(|frame| Picture::File(picture(i * 5 % 7 + frame))).collect();
                let choices = ["red", "two shapes"].map(String::from).to_vec();
                Request { pictures, choices, ..request(i, &GenerateOptions::default()) }
            };
            let pending: Vec<Pending> = (0..9).map(|i| engine.submit(request(i))).collect();
            pending.into_iter().map(|pending| pending.wait().expect("scores")).collect::<Vec<Outcome>>()
        };
        assert_eq!(scores(5), scores(1), "{folder}");
    }
}

/// Features are those that the model gives, whoever is in the pass, between answers; with outputs by label, too.
#[test]
fn engines_make_features_as_models_do() {
    let Some(device) = support::shared_device() else { return };
    let engine = engine(&device, &EngineOptions { at_once: 3, ..EngineOptions::default() });
    let taps = |i: usize| if i % 4 == 3 { vec!["qformer.encoder.layer.0.attention".to_string()] } else { Vec::new() };
    let wanted = |i: usize| {
        let features = (i % 5 != 4).then(|| taps(i));
        Request { features, ..request(i, &GenerateOptions::up_to(3)) }
    };
    let pending: Vec<Pending> = (0..12).map(|i| engine.submit(wanted(i))).collect();
    let two = Request { pictures: vec![Picture::File(picture(0)); 2], ..wanted(0) };
    let unknown = Request { features: Some(vec!["nothing".into()]), ..wanted(0) };
    let refused = [two, unknown].map(|request| engine.submit(request).wait().expect_err("an error").to_string());
    let found: Vec<Outcome> = pending.into_iter().map(|pending| pending.wait().expect("an outcome")).collect();
    assert!(refused[0].contains("takes one") && refused[1].contains("labelled \"nothing\""), "{refused:?}");
    let mut model = engine.finish().expect("the model");
    for (i, outcome) in found.into_iter().enumerate() {
        let image = Image::open(picture(i)).expect("a picture");
        match outcome {
            Outcome::Features(found) => {
                assert_eq!(
                    *found,
                    model.features(&image, QUESTIONS[i % 4], &taps(i)).expect("features"),
                    "picture {i}"
                );
            }
            other => assert!(matches!(other, Outcome::Reply(_)) && i % 5 == 4, "picture {i}"),
        }
    }
}

/// A fault of one request is told to it alone.
#[test]
fn a_bad_request_is_its_own_fault() {
    let Some(device) = support::device() else { return };
    let engine = engine(&device, &EngineOptions { slots: 2, tokens: 200, ..EngineOptions::default() });
    let greedy = GenerateOptions::up_to(8);
    let bytes = |bytes: &[u8]| Picture::Bytes { name: "upload".into(), bytes: Arc::from(bytes) };
    let bad = [
        Request::new(Picture::File("no such picture.png".into()), "What?", greedy.clone()),
        Request::new(bytes(b"not a picture"), "What?", greedy.clone()),
        Request { pictures: Vec::new(), ..request(0, &greedy) },
        Request { pictures: vec![Picture::File(picture(0)), Picture::File(picture(1))], ..request(0, &greedy) },
        request(0, &GenerateOptions { temperature: 0.0, ..greedy.clone() }),
        request(0, &GenerateOptions { num_beams: 3, ..greedy.clone() }),
        Request { prompt: "word ".repeat(2000), ..request(0, &greedy) },
        Request { choices: vec![String::new()], ..request(0, &greedy) },
    ];
    let count = bad.len() as u64;
    let pending: Vec<Pending> = bad.into_iter().map(|request| engine.submit(request)).collect();
    let good = engine.submit(request(0, &greedy));
    for (i, pending) in pending.into_iter().enumerate() {
        let error = pending.wait().expect_err("a refusal");
        let by_caller = matches!(
            error,
            Error::Request { .. }
                | Error::OverSlots { .. }
                | Error::Image { .. }
                | Error::Io { .. }
                | Error::PromptTooLong { .. }
        );
        assert!(by_caller, "request {i}: {error:?}");
    }
    assert!(!text(good.wait().expect("an answer")).is_empty());
    assert_eq!((engine.counters().failed, engine.counters().finished), (count, 1));
}

/// An answer that is cancelled while a step's news are told has no part in the next one: its slot is free at once, and
/// whoever shares the steps goes on.
#[test]
fn a_cancelled_answer_frees_its_slot_within_a_step() {
    let Some(device) = support::shared_device() else { return };
    let engine = Arc::new(engine(&device, &EngineOptions { slots: 2, ..EngineOptions::default() }));
    let long = GenerateOptions { min_new_tokens: 200, ..GenerateOptions::up_to(200) };
    let mut other = engine.submit(request(1, &long));
    assert!(matches!(other.next(), Some(Ok(Event::Text(_)))), "an answer that has begun");
    let (seen, told) = std::sync::mpsc::channel();
    let (give, canceller) = std::sync::mpsc::channel::<Canceller>();
    let (counted, mut pieces) = (Arc::downgrade(&engine), 0);
    let listener = move |event: Result<Event, Error>| {
        let counters = counted.upgrade().expect("an engine").counters();
        match event {
            Ok(_) => {
                pieces += 1;
                if pieces == 3 {
                    canceller.recv().expect("a canceller").cancel();
                    seen.send(counters).expect("a test");
                }
            }
            Err(error) => {
                assert!(matches!(error, Error::Cancelled), "{error:?}");
                seen.send(counters).expect("a test");
            }
        }
    };
    let own = engine.submit_to(request(0, &long), Box::new(listener));
    give.send(own).expect("a listener");
    let [before, after] = [(); 2].map(|()| told.recv_timeout(Duration::from_secs(60)).expect("counters"));
    assert_eq!((before.slots_taken, after.slots_taken), (2, 1));
    assert!(after.steps - before.steps <= 1, "{} steps after the cancel", after.steps - before.steps);
    assert!(!text(other.wait().expect("an answer")).is_empty());
    assert_eq!((engine.counters().cancelled, engine.counters().finished), (1, 1));
}

/// An answer is told in numbers which slots and tokens it lacks; an end of the text that is no token is refused.
#[test]
fn answers_without_room_are_told_what_they_lack() {
    let Some(device) = support::shared_device() else { return };
    let engine = engine(&device, &EngineOptions { slots: 2, tokens: 60, ..EngineOptions::default() });
    let refused = |options| engine.submit(request(0, &options)).wait().expect_err("a refusal");
    let beams = GenerateOptions { num_beams: 3, ..GenerateOptions::up_to(50) };
    let error = refused(beams.clone());
    assert!(
        matches!(error, Error::OverSlots { need_slots: 3, slots: 2, need_tokens: 151.., tokens: 120 }),
        "{error:?}"
    );
    let text = error.to_string();
    for part in ["takes 3 slots, of which there are 2; it may take", "room for 120", "EngineOptions::slots and tokens"]
    {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    let one = refused(GenerateOptions { num_beams: 1, ..GenerateOptions::up_to(200) }).to_string();
    assert!(one.starts_with("the answer may take 2"), "{one}");
    let endless =
        refused(GenerateOptions { eos_token_ids: Some(vec![2, 640]), ..GenerateOptions::up_to(5) }).to_string();
    assert_eq!(endless, "eos_token_id: the model has 640 tokens, there is no token 640");
}

/// Requests that are cancelled free their slots, whether they wait or are being answered.
#[test]
fn cancelled_requests_leave() {
    let Some(device) = support::device() else { return };
    let engine = engine(&device, &EngineOptions { slots: 2, queue: 8, ..EngineOptions::default() });
    let long = GenerateOptions { min_new_tokens: 200, ..GenerateOptions::up_to(200) };
    let mut answered = engine.submit(request(0, &long));
    assert!(matches!(answered.next(), Some(Ok(Event::Text(_)))), "an answer that has begun");
    let others: Vec<Pending> = (1..8).map(|i| engine.submit(request(i, &long))).collect();
    let full = engine.try_submit(request(8, &long)).expect_err("a full queue");
    assert_eq!(full.prompt, QUESTIONS[0]);
    let canceller = answered.canceller();
    std::thread::spawn(move || canceller.cancel()).join().expect("a thread");
    let last = answered.find(Result::is_err);
    assert!(matches!(last, Some(Err(Error::Cancelled))), "{last:?}");
    drop(others);
    let short = GenerateOptions::up_to(4);
    assert!(!text(engine.submit(request(0, &short)).wait().expect("an answer")).is_empty());
    let counters = engine.counters();
    assert_eq!((counters.cancelled, counters.finished, counters.failed), (8, 1, 0));
    assert!(counters.steps < 400, "{} steps for answers that nobody waits for", counters.steps);
    // An engine that is dropped tells those who wait.
    let mut pending = engine.submit(request(0, &long));
    assert!(pending.next_within(Duration::from_secs(60)).is_some());
    drop(engine);
    assert!(matches!(pending.find(Result::is_err), Some(Err(Error::Cancelled))));
}
