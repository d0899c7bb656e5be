//! The way a program with a window holds a model: what is drawn never waits for it. The window is a line on the terminal
//! here, drawn sixty times a second, and somebody who does not wait for the last answer for more than half a second.
//!
//! ```text
//! $ cargo run --release --example window -- tests/shapes/samples/10.png
//! 2
//! a blue cross above a green triangle
//! The image shows two objects
//! ```

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use instructblip::engine::{Event, Picture, Request};
use instructblip::runtime::{Watch, Work, kernel_cache};
use instructblip::{Device, DeviceOptions, Engine, EngineOptions, Error, GenerateOptions, InstructBlip};

const QUESTIONS: [&str; 3] =
    ["Can you count the things?", "Write a short caption for the picture.", "Please describe the photo in detail."];

/// Opens and loads, and writes how far that is where the thread that draws reads it.
fn load(status: Arc<Mutex<String>>) -> instructblip::Result<Engine> {
    let watch = Watch::new(move |work| {
        if let (Ok(mut status), Work::Loading { done, total }) = (status.lock(), work) {
            *status = format!("loading {} %", done * 100 / total.max(&1));
        }
        ControlFlow::Continue(()) // Break, once the window is closed
    });
    let device = Device::open(&DeviceOptions { watch, cache: kernel_cache(), ..Default::default() })?;
    Engine::start(InstructBlip::embedded(&device)?, &EngineOptions { slots: 2, ..Default::default() })
}

fn main() -> anyhow::Result<()> {
    let picture = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "tests/shapes/samples/10.png".into()));
    let (status, (ready, loaded)) = (Arc::new(Mutex::new(String::new())), channel());
    let told = status.clone();
    std::thread::spawn(move || ready.send(load(told)));
    let (mut engine, mut asked, mut pending, mut begun) = (None, 0, None, Instant::now());
    loop {
        // A frame: hear what there is to hear, draw, and wait for the next one.
        if let Ok(result) = loaded.try_recv() {
            engine = Some(result?);
        }
        if let (None, Ok(status)) = (&engine, status.lock()) {
            eprint!("\r{status}");
        }
        if let (Some(engine), None) = (&engine, &pending) {
            let Some(question) = QUESTIONS.get(asked) else { return Ok(()) };
            let request = Request::new(Picture::File(picture.clone()), *question, GenerateOptions::default());
            pending = engine.try_submit(request).ok();
            (asked, begun) = (asked + 1, Instant::now());
        }
        let in_time = asked < QUESTIONS.len() || begun.elapsed() < Duration::from_millis(500);
        while let Some(event) = pending.as_mut().and_then(|pending| pending.next_within(Duration::ZERO)) {
            match event {
                Ok(Event::Text(text)) => print!("{text}"),
                Ok(Event::Token(_)) => {} // log-probabilities, which nobody asks for here
                Ok(Event::Done(_)) | Err(Error::Cancelled) => {
                    println!();
                    pending = None;
                }
                Err(error) => return Err(error.into()),
            }
        }
        // Dropping what is pending stops it.
        pending = pending.filter(|_| in_time);
        std::thread::sleep(Duration::from_millis(16));
    }
}
