//! Rank given answers to a question by how likely the model finds them, as the paper evaluates multiple choice:
//!
//! ```text
//! $ cargo run --release --example score -- tests/shapes/samples/02.png "Is the ring in the picture white?" yes no
//!  -0.000  yes
//!  -7.979  no
//! ```

use instructblip::{Device, DeviceOptions, Image, InstructBlip, Question};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, prompt, choices @ ..] = arguments.as_slice() else {
        anyhow::bail!("usage: score IMAGE PROMPT CHOICE...")
    };
    let device = Device::open(&DeviceOptions::default())?;
    let mut model = InstructBlip::embedded(&device)?;
    let image = Image::open(path)?;
    let choices: Vec<&str> = choices.iter().map(String::as_str).collect();
    // The prompt runs once; the choices share its cache.
    let scores = model.score(&Question::new(&image, prompt), &choices)?;
    let mut ranked: Vec<_> = choices.iter().zip(scores).collect();
    // Per token: the sum alone would prefer short answers.
    ranked.sort_by(|a, b| b.1.mean.total_cmp(&a.1.mean));
    for (choice, score) in ranked {
        println!("{:7.3}  {choice}", score.mean);
    }
    Ok(())
}
