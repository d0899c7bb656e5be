//! Ask a picture a question:
//!
//! ```text
//! $ cargo run --release --example ask -- tests/shapes/samples/11.png "Which is the smallest shape?"
//! green star
//! ```

use anyhow::Context;
use instructblip::{Device, DeviceOptions, GenerateOptions, Image, InstructBlip};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().context("usage: ask IMAGE PROMPT")?;
    let prompt = arguments.next().context("usage: ask IMAGE PROMPT")?;
    let device = Device::open(&DeviceOptions::default())?;
    let mut model = InstructBlip::embedded(&device)?;
    let reply = model.ask(&Image::open(path)?, &prompt, &GenerateOptions::default())?;
    println!("{}", reply.text);
    Ok(())
}
