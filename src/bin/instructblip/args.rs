//! The command line.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Ask questions about pictures with InstructBLIP, on any GPU.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_CODES)]
pub struct Arguments {
    /// Options of every command.
    #[command(flatten)]
    pub common: Common,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 2 usage, 3 model or input refused, 4 no usable GPU, 5 out of GPU memory, \
                          6 GPU lost, 1 anything else.\n\
                          WGPU_BACKEND (vulkan, metal, dx12, gl) and WGPU_ADAPTER_NAME choose the GPU as --adapter does.";

/// Options of every command.
#[derive(Args, Debug)]
pub struct Common {
    /// Part of the name of the GPU to use, as `devices` lists it
    #[arg(long, global = true, env = "INSTRUCTBLIP_ADAPTER", value_name = "NAME")]
    pub adapter: Option<String>,
    /// Ask the GPU only for WebGPU's default limits and no optional features
    #[arg(long, global = true, env = "INSTRUCTBLIP_PORTABLE", value_parser = FalseyValueParser::new())]
    pub portable: bool,
    /// Keep bounds and loop checks in the kernels: slower, same answers
    #[arg(long, global = true, env = "INSTRUCTBLIP_CHECKED", value_parser = FalseyValueParser::new())]
    pub checked: bool,
    /// No progress and no notes on stderr
    #[arg(long, short, global = true, env = "INSTRUCTBLIP_QUIET", value_parser = FalseyValueParser::new())]
    pub quiet: bool,
    /// Colours on stderr; NO_COLOR and TERM=dumb are respected
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, env = "INSTRUCTBLIP_COLOR")]
    pub color: Color,
}

/// When to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless the environment says no.
    Auto,
    /// Yes.
    Always,
    /// No.
    Never,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Ask a question about a picture and stream the answer
    Ask(Ask),
    /// Run the model once and write every stage's tensors to a safetensors file
    Forward(Forward),
    /// List the GPUs that could be used
    Devices(Devices),
    /// Answer questions about the bundled pictures
    Demo(Demo),
}

/// Arguments of `ask`.
#[derive(Args, Debug)]
pub struct Ask {
    /// The picture: a PNG, JPEG, WebP, GIF, BMP or TIFF file, or - for standard input
    pub image: PathBuf,
    /// The question or instruction
    pub prompt: String,
    #[command(flatten)]
    pub model: Model,
    /// Most tokens to generate
    #[arg(long, value_name = "N", default_value_t = 256, env = "INSTRUCTBLIP_MAX_NEW_TOKENS",
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub max_new_tokens: u32,
    /// Print one JSON object with the answer, its tokens and timings
    #[arg(long)]
    pub json: bool,
}

/// Which model to use.
#[derive(Args, Debug, Default)]
pub struct Model {
    /// Directory of a checkpoint (config.json, tokenizers, safetensors); the embedded demo model if left out
    #[arg(long, value_name = "DIR", env = "INSTRUCTBLIP_MODEL")]
    pub model: Option<PathBuf>,
    /// Whose resize to equal: Pillow 13 changed the order of the passes for tall pictures
    #[arg(long, value_enum, default_value_t = Resize::Pillow12, env = "INSTRUCTBLIP_RESIZE")]
    pub resize: Resize,
}

/// Whose resize to equal to the last bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Resize {
    /// Pillow up to 12, which the published results come from.
    #[default]
    Pillow12,
    /// Pillow 13.
    Pillow13,
}

/// Arguments of `forward`.
#[derive(Args, Debug)]
pub struct Forward {
    /// The picture, or - for standard input
    pub image: PathBuf,
    /// The question or instruction
    pub prompt: String,
    #[command(flatten)]
    pub model: Model,
    /// File to write
    #[arg(long, short, value_name = "OUT.safetensors")]
    pub output: PathBuf,
    /// Labels of further outputs to write, for example vision_model.encoder.layers.0.mlp.fc1
    #[arg(long, value_name = "LABEL,…", value_delimiter = ',')]
    pub taps: Vec<String>,
}

/// Arguments of `devices`.
#[derive(Args, Debug)]
pub struct Devices {
    /// Print a JSON array
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `demo`.
#[derive(Args, Debug)]
pub struct Demo {
    /// Print a JSON array
    #[arg(long)]
    pub json: bool,
}

impl Common {
    /// `text` in the given ANSI style when stderr may be coloured.
    pub fn paint(&self, text: &str, style: &str) -> String {
        let unwanted = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|v| v == "dumb");
        let coloured = match self.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => std::io::stderr().is_terminal() && !unwanted("NO_COLOR") && !dumb,
        };
        if coloured { format!("\x1b[{style}m{text}\x1b[0m") } else { text.into() }
    }
}
