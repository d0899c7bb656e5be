//! Ask the same question of many pictures in one run; each answer is the one the picture would get alone:
//!
//! ```text
//! $ cargo run --release --example batch -- "Question: How many things are there? Short answer:" tests/shapes/samples/*.png
//! tests/shapes/samples/00.png: 1
//! tests/shapes/samples/01.png: 2
//! …
//! ```

use instructblip::{Device, DeviceOptions, GenerateOptions, Image, InstructBlip, Question};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [prompt, paths @ ..] = arguments.as_slice() else { anyhow::bail!("usage: batch PROMPT IMAGE...") };
    let device = Device::open(&DeviceOptions::default())?;
    let mut model = InstructBlip::embedded(&device)?;
    // All rows of a step share one read of the weights. Their caches share the memory there is: a few at a time.
    for paths in paths.chunks(8) {
        let images = paths.iter().map(Image::open).collect::<Result<Vec<Image>, _>>()?;
        let questions: Vec<Question<'_>> = images.iter().map(|image| Question::new(image, prompt)).collect();
        let replies = model.answer(&questions, &GenerateOptions::default())?;
        for (path, reply) in paths.iter().zip(replies) {
            println!("{path}: {}", reply.text);
        }
    }
    Ok(())
}
