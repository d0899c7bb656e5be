//! Draw where the Q-Former looks while it reads an instruction:
//!
//! ```text
//! $ cargo run --release --example attention -- tests/shapes/samples/11.png "Which is the smallest shape?" look.png
//! ```
//!
//! The picture that is written is bright where the last layer's queries get what they know from.

use instructblip::{Device, DeviceOptions, Image, InstructBlip};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, prompt, target] = arguments.as_slice() else { anyhow::bail!("usage: attention IMAGE PROMPT OUT.png") };
    let device = Device::open(&DeviceOptions::default())?;
    let mut model = InstructBlip::embedded(&device)?;
    let image = Image::open(path)?;
    let maps = model.attention_maps(&image, prompt)?;
    // A share for each patch, averaged over heads and queries.
    let shares = maps.mean(maps.layers.last().copied(), None, None);
    std::fs::write(target, image.overlaid(&shares, maps.patches)?.to_png()?)?;
    let (brightest, share) = shares.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).expect("there are patches");
    let (row, column, of) = (brightest / maps.patches, brightest % maps.patches, maps.patches);
    println!("{:.1} % on the patch in row {row} and column {column} of {of}", 100.0 * share);
    Ok(())
}
