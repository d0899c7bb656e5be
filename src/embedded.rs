//! The demo checkpoint compiled into the program: a very small InstructBLIP that answers questions about pictures
//! of coloured shapes (`models/shapes/README.md`).

use crate::checkpoint::Checkpoint;

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_bytes!(concat!("../models/shapes/", $name)))),*]
    };
}

/// `models/shapes`.
pub static SHAPES: Checkpoint = Checkpoint::Embedded {
    name: "instructblip-shapes (embedded)",
    files: files![
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "qformer_tokenizer/tokenizer.json",
        "qformer_tokenizer/tokenizer_config.json",
    ],
};
