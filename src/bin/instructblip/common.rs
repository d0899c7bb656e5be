//! Options that several commands share: the GPU that runs, and the look of stderr.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::builder::FalseyValueParser;
use clap::{Args, ValueEnum};

/// Place in help, behind what is a command's own and before --help.
const LAST: usize = 900;

/// Options of every command that say what goes to stderr.
#[derive(Args, Clone, Copy, Debug)]
pub struct Notes {
    /// No progress and no notes on stderr
    #[arg(long, short, global = true, display_order = LAST, env = "INSTRUCTBLIP_QUIET",
          value_parser = FalseyValueParser::new())]
    pub quiet: bool,
    /// Colours on stderr; NO_COLOR and TERM=dumb are respected
    #[arg(long, global = true, display_order = LAST, value_enum, default_value_t = Color::Auto, env = "INSTRUCTBLIP_COLOR")]
    pub color: Color,
}

/// The colouring of what goes to stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless the environment says no.
    Auto,
    /// Yes.
    Always,
    /// No.
    Never,
}

/// The choice of a GPU, for commands that look at GPUs.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "GPU")]
pub struct Adapter {
    /// Part of the name of the GPU to use, as `devices` lists it
    #[arg(long, env = "INSTRUCTBLIP_ADAPTER", value_name = "NAME")]
    pub adapter: Option<String>,
}

/// The choice of a GPU and of how it runs kernels, for commands that run some.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "GPU")]
pub struct Gpu {
    #[command(flatten)]
    pub chosen: Adapter,
    /// Ask the GPU only for WebGPU's default limits and no optional features
    #[arg(long, env = "INSTRUCTBLIP_PORTABLE", value_parser = FalseyValueParser::new())]
    pub portable: bool,
    /// Keep bounds and loop checks in the kernels: slower, same answers
    #[arg(long, env = "INSTRUCTBLIP_CHECKED", value_parser = FalseyValueParser::new())]
    pub checked: bool,
    /// Whether the driver looks after the kernels' indices: without, some GPUs are faster; as `tune` found, or yes
    #[arg(long, env = "INSTRUCTBLIP_ROBUST_ACCESS", value_name = "true|false")]
    pub robust_access: Option<bool>,
    /// Which kernels to run: auto, portable (those that every GPU can run), or the name of one that is to run wherever it
    /// can, as `selftest` lists them
    #[arg(long, env = "INSTRUCTBLIP_KERNELS", value_name = "auto|portable|NAME", default_value = "auto")]
    pub kernels: String,
}

impl From<Adapter> for Gpu {
    fn from(chosen: Adapter) -> Gpu {
        Gpu { chosen, portable: false, checked: false, robust_access: None, kernels: "auto".into() }
    }
}

/// Options of a command that are not its own.
#[derive(Clone, Debug)]
pub struct Common {
    pub adapter: Option<String>,
    pub portable: bool,
    pub checked: bool,
    pub robust_access: Option<bool>,
    pub kernels: String,
    pub quiet: bool,
    pub color: Color,
    /// Ends what the device works at once it is set.
    pub stop: Option<Arc<AtomicBool>>,
}

impl Common {
    pub fn new(notes: Notes, gpu: Gpu) -> Common {
        let Notes { quiet, color } = notes;
        let Gpu { chosen: Adapter { adapter }, portable, checked, robust_access, kernels } = gpu;
        Common { adapter, portable, checked, robust_access, kernels, quiet, color, stop: None }
    }

    /// Tells whether stderr may be coloured.
    pub fn is_coloured(&self) -> bool {
        let unwanted = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|v| v == "dumb");
        match self.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => std::io::stderr().is_terminal() && !unwanted("NO_COLOR") && !dumb,
        }
    }

    /// `text` in the given ANSI style when stderr may be coloured.
    pub fn paint(&self, text: &str, style: &str) -> String {
        if self.is_coloured() { format!("\x1b[{style}m{text}\x1b[0m") } else { text.into() }
    }
}
