//! Model parts without the chain around them.

use std::path::Path;

use instructblip::config::Config;
use instructblip::model::Parts;
use instructblip::weights::{Loader, TensorFiles};
use instructblip::{Checkpoint, Device};

/// The configuration in a checkpoint's config.json.
pub fn config(checkpoint: &Checkpoint) -> Config {
    let bytes = checkpoint.read("config.json").expect("readable").expect("a config.json");
    Config::parse(Path::new("config.json"), &bytes).expect("a valid configuration")
}

/// The neural parts of a checkpoint, loaded.
pub fn load_parts(device: &Device, checkpoint: &Checkpoint) -> Parts {
    let files = TensorFiles::open(checkpoint).expect("tensor files");
    let mut ignore = |_| {};
    let mut loader = Loader::load(&files, device, &mut ignore);
    let parts = Parts::load(&mut loader, &config(checkpoint)).expect("parts");
    loader.finish().expect("all tensors");
    parts
}
