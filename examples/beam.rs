//! Search with five beams, as the paper evaluates captions, and print all of them with their scores:
//!
//! ```text
//! $ cargo run --release --example beam -- tests/shapes/samples/01.png "Please describe the photo in detail."
//! -0.0003  The image shows two objects on a light green background: a large red square in the top left and …
//! ```

use anyhow::Context;
use instructblip::{Device, DeviceOptions, GenerateOptions, Image, InstructBlip};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().context("usage: beam IMAGE PROMPT")?;
    let prompt = arguments.next().context("usage: beam IMAGE PROMPT")?;
    let device = Device::open(&DeviceOptions::default())?;
    let mut model = InstructBlip::embedded(&device)?;
    let options = GenerateOptions {
        num_beams: 5,
        num_return_sequences: 5,
        // Scores are log-probabilities over length to this power: below 0 short answers win.
        length_penalty: 1.0,
        ..GenerateOptions::up_to(80)
    };
    let reply = model.ask(&Image::open(path)?, &prompt, &options)?;
    for sequence in reply.sequences {
        println!("{:8.4}  {}", sequence.score.unwrap_or_default(), sequence.text);
    }
    Ok(())
}
