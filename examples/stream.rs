//! Print an answer piece by piece as it is generated:
//!
//! ```text
//! $ cargo run --release --example stream -- tests/shapes/samples/09.png "Please describe the photo in detail."
//! The image shows four objects on a white background: a small purple square at the top, …
//! 41 tokens
//! ```

use std::io::Write;

use anyhow::Context;
use instructblip::{Device, DeviceOptions, GenerateOptions, Image, InstructBlip};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().context("usage: stream IMAGE PROMPT")?;
    let prompt = arguments.next().context("usage: stream IMAGE PROMPT")?;
    let device = Device::open(&DeviceOptions::default())?;
    let mut model = InstructBlip::embedded(&device)?;
    let image = Image::open(path)?;
    let mut answer = model.generate(&image, &prompt, &GenerateOptions::default())?;
    for piece in answer.by_ref() {
        print!("{}", piece?);
        std::io::stdout().flush()?;
    }
    println!("\n{} tokens", answer.token_ids().len());
    Ok(())
}
