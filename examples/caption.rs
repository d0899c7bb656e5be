//! Caption pictures with a checkpoint of your own, or with the embedded model:
//!
//! ```text
//! $ cargo run --release --example caption -- tests/shapes/samples/02.png tests/shapes/samples/10.png
//! tests/shapes/samples/02.png: a blue circle, a purple circle and a white ring
//! tests/shapes/samples/10.png: a blue cross above a green triangle
//! $ cargo run --release --example caption -- --model instructblip-vicuna-7b photo.jpg
//! ```

use std::ops::ControlFlow;

use instructblip::runtime::{Watch, Work};
use instructblip::{Checkpoint, Device, DeviceOptions, GenerateOptions, Image, InstructBlip};

fn main() -> anyhow::Result<()> {
    let mut paths: Vec<String> = std::env::args().skip(1).collect();
    let device = Device::open(&DeviceOptions::default())?;
    let mut model = if paths.first().is_some_and(|word| word == "--model") && paths.len() > 1 {
        let checkpoint = Checkpoint::directory(paths.remove(1))?;
        paths.remove(0);
        let watch = Watch::new(|work| {
            if let Work::Loading { done, total } = work {
                eprint!("\rloading {}%", done * 100 / total.max(&1));
            }
            ControlFlow::Continue(())
        });
        InstructBlip::load(&device.watched(watch), &checkpoint)?
    } else {
        InstructBlip::embedded(&device)?
    };
    for path in paths {
        let prompt = "Write a short caption for the picture.";
        let reply = model.ask(&Image::open(&path)?, prompt, &GenerateOptions::default())?;
        println!("{path}: {}", reply.text);
    }
    Ok(())
}
