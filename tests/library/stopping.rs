//! Long work that somebody ends: it ends soon, and what comes after is as if it had not been asked for. Where memory is
//! compared the device is the test's own.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use instructblip::engine::{Outcome, Picture, Request};
use instructblip::model::quantize;
use instructblip::runtime::{Watch, WeightFormat, Work};
use instructblip::weights::Formats;
use instructblip::{
    Device, DeviceOptions, Engine, EngineOptions, Error, FinishReason, GenerateOptions, Image, InstructBlip, Question,
};

use crate::support::{self, golden, models};

const PROMPT: &str = "Please describe the photo in detail.";

fn image() -> Image {
    Image::open(golden::tests_folder().join("shapes/samples/01.png")).expect("a picture")
}

fn beams() -> GenerateOptions {
    GenerateOptions { num_beams: 3, ..GenerateOptions::up_to(8) }
}

/// A watch that breaks off at its n-th call, and the number of calls so far.
fn breaking_at(n: usize) -> (Watch, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let watch = Watch::new(move |_| match counted.fetch_add(1, Ordering::Relaxed) == n {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    });
    (watch, calls)
}

fn is_cancelled<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::Cancelled))
}

/// Bytes that are held on the device, without what is kept for the next plan.
fn held(device: &Device) -> u64 {
    device.trim().expect("trimmed");
    device.counters().total_bytes()
}

/// Everything that a model does, one after the other, up to the first error.
fn everything(model: &mut InstructBlip) -> Result<String, Error> {
    let image = image();
    let text = model.ask(&image, PROMPT, &GenerateOptions::up_to(12))?.text;
    model.ask(&image, PROMPT, &beams())?;
    let questions = [Question::new(&image, PROMPT), Question::new(&image, "How many shapes are there?")];
    model.answer(&questions, &GenerateOptions::up_to(4))?;
    model.score(&questions[0], &["red", "green"])?;
    model.features(&image, PROMPT, &[])?;
    model.generate(&image, PROMPT, &GenerateOptions::up_to(4))?.collect::<Result<String, Error>>()?;
    Ok(text)
}

#[test]
fn a_model_can_be_stopped_wherever_it_tells_of_its_work_and_works_on() {
    let Some(device) = support::device() else { return };
    let folders = ["ib-llama", "ib-t5-tanh"];
    for folder in folders {
        let mut model = models::load(&device, &golden::checkpoint_folder(folder));
        let right = everything(&mut model).expect("an answer");
        let (watch, calls) = breaking_at(usize::MAX);
        model.set_watch(watch);
        assert_eq!(everything(&mut model).expect("an answer"), right);
        let all = calls.load(Ordering::Relaxed);
        assert!(all > 30, "{all} calls");
        let memory = held(&device);
        for n in (0..all).step_by(all / 30).chain([all - 1]) {
            let (watch, calls) = breaking_at(n);
            model.set_watch(watch);
            assert!(is_cancelled(&everything(&mut model)), "{folder}: not stopped at {n} of {all}");
            assert_eq!(calls.load(Ordering::Relaxed), n + 1, "{folder}: it went on after {n} of {all}");
        }
        model.set_watch(Watch::default());
        assert_eq!(everything(&mut model).expect("an answer"), right, "{folder}");
        assert_eq!(held(&device), memory, "{folder}");
    }
}

#[test]
fn loading_can_be_stopped_and_leaves_nothing() {
    let Some(device) = support::device() else { return };
    let load = |watch| InstructBlip::embedded(&device.watched(watch));
    drop(load(Watch::default()).expect("a model"));
    let memory = held(&device);
    let (watch, calls) = breaking_at(usize::MAX);
    drop(load(watch).expect("a model"));
    let all = calls.load(Ordering::Relaxed);
    for n in (0..all).step_by(1 + all / 12).chain([all - 1]) {
        assert!(is_cancelled(&load(breaking_at(n).0)), "not stopped at {n} of {all}");
        assert_eq!(held(&device), memory, "after {n} of {all}");
    }
}

/// The watch is looked at before each file of the tokenizers, which take long to parse.
#[test]
fn loading_can_be_stopped_between_tokenizers() {
    let Some(device) = support::shared_device() else { return };
    let load = |n: usize| {
        let told = AtomicUsize::new(0);
        let first = move |work: &Work| match work {
            Work::Loading { done: 0, .. } if told.fetch_add(1, Ordering::Relaxed) == n => ControlFlow::Break(()),
            Work::Loading { done: 1.., .. } if n < 4 => panic!("weights are loaded before the tokenizers are read"),
            _ => ControlFlow::Continue(()),
        };
        InstructBlip::embedded(&device.watched(Watch::new(first)))
    };
    for n in 0..4 {
        assert!(is_cancelled(&load(n)), "not stopped at {n}");
    }
    load(usize::MAX).expect("a model");
}

#[test]
fn opening_and_compiling_can_be_stopped() {
    if support::device().is_none() {
        return;
    }
    let open = |watch| Device::open(&DeviceOptions { watch, ..Default::default() });
    assert!(is_cancelled(&open(breaking_at(0).0)));
    let compiles = Watch::new(|work| match work {
        Work::Compiling(_) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    let device = open(compiles).expect("nothing compiles yet");
    assert!(is_cancelled(&InstructBlip::embedded(&device)));
    device.set_watch(Watch::default());
    let mut model = InstructBlip::embedded(&device).expect("a model");
    model.ask(&image(), PROMPT, &GenerateOptions::up_to(2)).expect("an answer");
}

#[test]
fn writing_can_be_stopped_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let target = folder.path().join("small");
    let embedded = &instructblip::embedded::SHAPES;
    let formats = Formats::usual(WeightFormat::Q8);
    let written = quantize(embedded, None, &target, formats, 1_000_000, &breaking_at(7).0);
    assert!(is_cancelled(&written) && !target.exists());
    quantize(embedded, None, &target, formats, 1_000_000, &Watch::default()).expect("written");
}

#[test]
fn an_answer_that_was_left_says_that_it_was_stopped() {
    let Some(device) = support::shared_device() else { return };
    let mut model = InstructBlip::embedded(&device).expect("a model");
    let mut answer = model.generate(&image(), PROMPT, &GenerateOptions::default()).expect("an answer");
    answer.next().expect("a piece").expect("text");
    assert_eq!(answer.into_reply().finish_reason, FinishReason::Stopped);
    let mut answer = model.generate(&image(), PROMPT, &GenerateOptions::default()).expect("an answer");
    answer.by_ref().for_each(|piece| drop(piece.expect("text")));
    assert_eq!(answer.into_reply().finish_reason, FinishReason::Eos);
}

/// Types that programs with a window send from thread to thread.
#[test]
fn models_and_answers_go_between_threads() {
    fn is_send<T: Send>() {}
    fn is_sync<T: Sync>() {}
    is_send::<instructblip::Answer<'static>>();
    is_send::<InstructBlip>();
    is_send::<Engine>();
    is_sync::<Engine>();
    is_send::<Device>();
    is_sync::<Device>();
    is_sync::<Watch>();
}

/// The number of random stops: `STOPS`, or a few.
fn stops() -> u64 {
    std::env::var("STOPS").ok().and_then(|stops| stops.parse().ok()).unwrap_or(40)
}

/// Prints how long work went on after it was stopped. It is for people to read: no test may depend on the machine's speed.
fn tell(what: &str, mut waits: Vec<Duration>) {
    waits.sort();
    if let (Some(longest), Some(middle)) = (waits.last(), waits.get(waits.len() / 2)) {
        println!("{what}: {} stopped, half of them within {middle:.1?}, all within {longest:.1?}", waits.len());
    }
}

#[test]
fn stops_at_random_moments_from_another_thread_change_nothing_later() {
    let Some(device) = support::device() else { return };
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let mut model = InstructBlip::embedded(&device).expect("a model");
    let right = everything(&mut model).expect("an answer");
    let started = Instant::now();
    everything(&mut model).expect("an answer");
    let usual = started.elapsed();
    let memory = device.counters().total_bytes();
    model.set_watch(Watch::new(move |_| match stopped.load(Ordering::Relaxed) {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    }));
    let (mut random, mut waits) = (fastrand::Rng::with_seed(17), Vec::new());
    for i in 0..stops() {
        let after = usual.mul_f64(random.f64());
        stop.store(false, Ordering::Relaxed);
        let result = std::thread::scope(|scope| {
            let asked = scope.spawn(|| (everything(&mut model), Instant::now()));
            std::thread::sleep(after);
            let at = Instant::now();
            stop.store(true, Ordering::Relaxed);
            let (result, ended) = asked.join().expect("no panic");
            waits.extend(result.is_err().then(|| ended.saturating_duration_since(at)));
            result
        });
        match result {
            Ok(text) => assert_eq!(text, right, "stop {i}"),
            Err(error) => assert!(matches!(error, Error::Cancelled), "stop {i}: {error}"),
        }
    }
    tell("a model", waits);
    stop.store(false, Ordering::Relaxed);
    assert_eq!(everything(&mut model).expect("an answer"), right);
    assert_eq!(device.counters().total_bytes(), memory);
}

#[test]
fn requests_cancelled_at_random_moments_change_nothing_later() {
    let Some(device) = support::device() else { return };
    let model = InstructBlip::embedded(&device).expect("a model");
    let engine = Engine::start(model, &EngineOptions { slots: 4, ..EngineOptions::default() }).expect("an engine");
    let request = |options| Request::new(Picture::Image(image()), PROMPT, options);
    let ask = || match engine.submit(request(GenerateOptions::up_to(40))).wait() {
        Ok(Outcome::Reply(reply)) => reply.text,
        other => panic!("{other:?}"),
    };
    let right = ask();
    let started = Instant::now();
    ask();
    let usual = started.elapsed();
    // Passes over every number of pictures, once.
    for count in [2, 4, 8] {
        let pending: Vec<_> = (0..count).map(|_| engine.submit(request(GenerateOptions::up_to(3)))).collect();
        pending.into_iter().for_each(|pending| drop(pending.wait().expect("an answer")));
    }
    let (mut random, waits) = (fastrand::Rng::with_seed(19), Mutex::new(Vec::new()));
    let mut memory = None;
    for i in 0..stops() {
        let options = [GenerateOptions::up_to(40), beams()][i as usize % 2].clone();
        let pending = engine.submit(request(options));
        std::thread::sleep(usual.mul_f64(random.f64()));
        let (at, canceller) = (Instant::now(), pending.canceller());
        canceller.cancel();
        match pending.wait() {
            Err(Error::Cancelled) => waits.lock().expect("a list").push(at.elapsed()),
            Ok(_) => {}
            Err(error) => panic!("stop {i}: {error}"),
        }
        if i % 10 == 9 {
            assert_eq!(ask(), right, "after stop {i}");
            let now = device.counters().total_bytes();
            assert_eq!(*memory.get_or_insert(now), now, "after stop {i}");
        }
    }
    tell("an engine", waits.into_inner().expect("a list"));
    assert_eq!(ask(), right);
    let counters = engine.counters();
    assert_eq!((counters.failed, counters.pending, counters.slots_taken), (0, 0, 0));
}
