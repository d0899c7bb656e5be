//! Draw where the Q-Former looks while it reads instructions:
//!
//! ```text
//! $ cargo run --release --example attention -- tests/shapes/samples/11.png look.png \
//!       "Which is the smallest shape?" "Where is the purple star?" "Where is the cross?"
//! ```
//!
//! The pictures on the sheet that is written have their colours where the last layer's queries get what they know from.

use instructblip::processor::SheetKind;
use instructblip::{Device, DeviceOptions, Image, InstructBlip};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, target, prompts @ ..] = arguments.as_slice() else {
        anyhow::bail!("usage: attention IMAGE OUT.png PROMPT…")
    };
    let device = Device::open(&DeviceOptions::default())?;
    let mut model = InstructBlip::embedded(&device)?;
    let image = Image::open(path)?;
    let mut pictures = vec![("the picture".to_string(), image.thumbnail())];
    for prompt in prompts {
        let maps = model.attention_maps(&image, prompt)?;
        // A share for each patch, averaged over heads and queries.
        let shares = maps.mean(maps.layers.last().copied(), None, None);
        pictures.push((prompt.clone(), image.overlaid(&shares, maps.patches)?));
        let (brightest, share) =
            shares.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).expect("there are patches");
        let (row, column, of) = (brightest / maps.patches, brightest % maps.patches, maps.patches);
        println!("{prompt} {:.1} % on the patch in row {row} and column {column} of {of}", 100.0 * share);
    }
    let kind = SheetKind { title: "Where the last layer looks".into(), pictures };
    std::fs::write(target, Image::sheet(&[kind], 8)?.to_png()?)?;
    Ok(())
}
