//! `instructblip demo`: bundled pictures, questions, and what the embedded model answers.

use std::io::Write;

use anyhow::Result;
use clap::Args;
use instructblip::model::Workload;
use instructblip::{GenerateOptions, Image};
use serde_json::{Value, json};

use crate::common::{Common, Gpu};
use crate::options::Model;
use crate::progress::say;
use crate::session::{load_with_custom, reply_json, tokens_per_second};

/// Arguments of `demo`.
#[derive(Args, Debug)]
pub struct Demo {
    /// Print a JSON array
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub gpu: Gpu,
}

struct Scene {
    path: &'static str,
    bytes: &'static [u8],
    questions: &'static [&'static str],
}

macro_rules! scene {
    ($file:literal, $($question:literal),*) => {
        Scene {
            path: concat!("tests/shapes/samples/", $file),
            bytes: include_bytes!(concat!("../../../tests/shapes/samples/", $file)),
            questions: &[$($question),*],
        }
    };
}

static SCENES: &[Scene] = &[
    scene!("02.png", "Is the ring in the picture white?", "Write a short caption for the picture."),
    scene!("09.png", "question: tell me if there is anything purple.", "Please describe the photo in detail."),
    scene!("07.png", "name the shape of the orange object.", "question: where is the green circle?"),
    scene!("10.png", "Can you count the things?", "Write a short caption for the picture."),
    scene!("11.png", "Which is the smallest shape?", "Describe everything you see in the image."),
];

/// The bundled picture of this path below `tests/shapes`.
#[cfg(feature = "server")]
pub fn picture(path: &str) -> Option<&'static [u8]> {
    SCENES.iter().find(|scene| scene.path.strip_prefix("tests/shapes/") == Some(path)).map(|scene| scene.bytes)
}

pub fn run(common: &Common, demo: &Demo) -> Result<()> {
    let mut model = load_with_custom(common, &Model::default(), Workload::default(), Vec::new())?;
    let mut out = std::io::stdout().lock();
    if !common.quiet {
        say(&common.paint(&format!("{} on {}", model.name(), model.device().name()), "2"));
    }
    // The first answer of a process also compiles kernels; the speeds shown should not tell of that.
    let scene = &SCENES[0];
    model.ask(&Image::decode(scene.path, scene.bytes)?, scene.questions[0], &GenerateOptions::default())?;
    let mut answers = Vec::new();
    for scene in SCENES {
        let image = Image::decode(scene.path, scene.bytes)?;
        if !demo.json {
            writeln!(out, "{}", scene.path)?;
        }
        for question in scene.questions {
            let reply = model.ask(&image, question, &GenerateOptions::default())?;
            if demo.json {
                let mut answer = json!({ "image": scene.path, "question": question });
                if let (Value::Object(answer), Value::Object(reply)) =
                    (&mut answer, reply_json(&reply, model.name(), model.device().name()))
                {
                    answer.extend(reply);
                }
                answers.push(answer);
            } else {
                let speed = tokens_per_second(&reply).map_or(String::new(), |s| format!("   [{s:.0} tokens/s]"));
                writeln!(out, "  Q {question}\n  A {}{speed}", reply.text)?;
            }
        }
    }
    if demo.json {
        writeln!(out, "{}", Value::from(answers))?;
    }
    Ok(())
}
