//! Asks questions together, through an engine, and one after another, and compares the tokens per second.
//!
//! `cargo run --release --example together -- MODEL_FOLDER REQUESTS TOKENS PICTURE PROMPT`; MODEL_FOLDER is `-` for the
//! embedded model.

use std::path::PathBuf;
use std::time::Instant;

use instructblip::engine::{Outcome, Picture, Request};
use instructblip::{Checkpoint, Device, DeviceOptions, Engine, EngineOptions, GenerateOptions, Image, InstructBlip};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, requests, tokens, picture, prompt] = arguments.as_slice() else {
        anyhow::bail!("usage: together MODEL_FOLDER REQUESTS TOKENS PICTURE PROMPT");
    };
    let (requests, tokens): (u32, u32) = (requests.parse()?, tokens.parse()?);
    let device = Device::open(&DeviceOptions::default())?;
    let mut model = match model.as_str() {
        "-" => InstructBlip::embedded(&device)?,
        folder => InstructBlip::load(&device, &Checkpoint::directory(folder)?)?,
    };
    let options = GenerateOptions { min_new_tokens: tokens, ..GenerateOptions::up_to(tokens) };
    let image = Image::open(picture)?;
    model.ask(&image, prompt, &options)?; // kernels are compiled

    let started = Instant::now();
    let mut alone = Vec::new();
    for _ in 0..requests {
        alone.push(model.ask(&image, prompt, &options)?);
    }
    let alone_per_s = rate(&alone.iter().map(|reply| reply.token_ids.len()).sum(), started);

    let engine = Engine::start(model, &EngineOptions { slots: requests, ..EngineOptions::default() })?;
    let request = || Request::new(Picture::File(PathBuf::from(picture)), prompt, options.clone());
    engine.submit(request()).wait()?;
    let started = Instant::now();
    let pending: Vec<_> = (0..requests).map(|_| engine.submit(request())).collect();
    let mut count = 0;
    for (pending, alone) in pending.into_iter().zip(&alone) {
        let Outcome::Reply(reply) = pending.wait()? else { anyhow::bail!("scores") };
        count += reply.token_ids.len();
        anyhow::ensure!(reply.text == alone.text, "another answer: {:?}, {:?}", reply.text, alone.text);
    }
    let together_per_s = rate(&count, started);
    println!(
        "{alone_per_s:.1} tokens/s one after another, {together_per_s:.1} together: {:.2}x",
        together_per_s / alone_per_s
    );
    Ok(())
}

fn rate(tokens: &usize, since: Instant) -> f64 {
    *tokens as f64 / since.elapsed().as_secs_f64()
}
