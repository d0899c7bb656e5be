//! Options that several commands share: the model, its weights, and how a prompt is worded.

use std::path::PathBuf;

use clap::builder::{FalseyValueParser, PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use instructblip::model::{LoadOptions, Workload};
use instructblip::processor::Task;
use instructblip::runtime::{KvFormat, WeightFormat};
use instructblip::weights::Formats;

use crate::overrides::Overrides;
use crate::pictures::PictureOptions;

/// The wording of a prompt.
#[derive(Args, Debug, Default)]
pub struct Wording {
    /// Word the prompt as the paper does for this task
    #[arg(long, value_parser = tasks())]
    pub task: Option<Task>,
    /// A choice for the task's wording, or to score; may be repeated
    #[arg(long = "choice", value_name = "TEXT")]
    pub choices: Vec<String>,
    /// The text that the Q-Former reads instead of the prompt
    #[arg(long, value_name = "TEXT")]
    pub qformer_prompt: Option<String>,
}

/// Tasks by name.
pub fn tasks() -> impl TypedValueParser<Value = Task> {
    let names = PossibleValuesParser::new(Task::ALL.map(|(name, _)| name));
    names.try_map(|name| Task::named(&name).ok_or("is no task"))
}

impl Wording {
    /// The prompt for `text`.
    pub fn prompt(&self, text: &str) -> instructblip::Result<String> {
        let choices: Vec<&str> = self.choices.iter().map(String::as_str).collect();
        self.task.map_or(Ok(text.to_string()), |task| task.prompt(text, &choices))
    }
}

/// The choice of a model.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Model")]
pub struct Model {
    /// Directory of a checkpoint (config.json, tokenizers, safetensors), or owner/name of a model that was pulled, with
    /// @revision if not main, or the short name of a published one; the embedded demo model if left out
    #[arg(long, value_name = "DIR|REPO", env = "INSTRUCTBLIP_MODEL")]
    pub model: Option<PathBuf>,
    /// LoRA adapter to merge into the weights: a folder that peft saved, or owner/name of one that was pulled. An adapter
    /// in the model's own folder is merged without being asked for
    #[arg(long, value_name = "DIR|REPO", env = "INSTRUCTBLIP_LORA")]
    pub lora: Option<PathBuf>,
    /// Whose resize to equal: Pillow 13 changed the order of the passes for tall pictures
    #[arg(long, value_enum, default_value_t = Resize::Pillow12, env = "INSTRUCTBLIP_RESIZE")]
    pub resize: Resize,
    /// Side of the pictures the model sees, in pixels, with interpolated positions, if not the checkpoint's
    #[arg(long, value_name = "PIXELS")]
    pub image_size: Option<u32>,
    /// Let special tokens written in a prompt, such as </s>, be those tokens and not text
    #[arg(long)]
    pub special_tokens: bool,
    #[command(flatten)]
    pub picture_options: PictureOptions,
    #[command(flatten)]
    pub weights: Weights,
    #[command(flatten)]
    pub overrides: Overrides,
}

/// The form in which weights are loaded, and the place where they are.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Weights and memory")]
pub struct Weights {
    /// Format of the weights: f16, or rounded to 8 bits (q8), or the language model to 4 and the vision tower to 8 bits
    /// (q4); as they are stored, unquantised ones in f16, if left out
    #[arg(long, value_name = "FORMAT", env = "INSTRUCTBLIP_WEIGHTS", value_parser = formats())]
    pub weights: Option<WeightFormat>,
    /// Format of the vision tower's weights alone
    #[arg(long, value_name = "FORMAT", env = "INSTRUCTBLIP_VISION_WEIGHTS", value_parser = formats())]
    pub vision_weights: Option<WeightFormat>,
    /// Format of the Q-Former's weights alone, which stay in f16 otherwise
    #[arg(long, value_name = "FORMAT", env = "INSTRUCTBLIP_QFORMER_WEIGHTS", value_parser = formats())]
    pub qformer_weights: Option<WeightFormat>,
    /// Format of the language model's weights alone
    #[arg(long, value_name = "FORMAT", env = "INSTRUCTBLIP_LANGUAGE_WEIGHTS", value_parser = formats())]
    pub language_weights: Option<WeightFormat>,
    /// Most GPU memory to use, for example 8GB or 7.5GiB; the GPU's own if its driver tells. More is refused before
    /// anything is loaded; `plan` shows what a model takes
    #[arg(long, value_name = "SIZE", env = "INSTRUCTBLIP_BUDGET", value_parser = size)]
    pub budget: Option<u64>,
    /// Have the vision tower and the language model take turns on the GPU, and layers of what still exceeds the budget
    /// take turns too: slower, and as little memory as it takes
    #[arg(long, env = "INSTRUCTBLIP_OFFLOAD", value_parser = FalseyValueParser::new())]
    pub offload: bool,
    /// Format of the keys and values that are kept of what was read: f16 takes half the memory; if left out, f16 on GPUs
    /// but for T5, else f32
    #[arg(long, value_name = "f32|f16", env = "INSTRUCTBLIP_KV_CACHE", value_parser = kv_formats())]
    pub kv_cache: Option<KvFormat>,
    /// Read weight files instead of mapping them into memory: for network shares that come and go
    #[arg(long, env = "INSTRUCTBLIP_NO_MMAP", value_parser = FalseyValueParser::new())]
    pub no_mmap: bool,
}

impl Weights {
    /// The formats that are asked for.
    pub fn formats(&self) -> Formats {
        let (vision, qformer, language) = (self.vision_weights, self.qformer_weights, self.language_weights);
        self.weights.map(Formats::usual).unwrap_or_default().but_for(Formats { vision, qformer, language })
    }

    /// Everything a loader wants to know, for what will be asked.
    pub fn options(&self, workload: Workload) -> LoadOptions {
        LoadOptions {
            formats: self.formats(),
            mmap: !self.no_mmap,
            budget_bytes: self.budget,
            offload: self.offload,
            kv_cache: self.kv_cache,
            workload,
            adapter: None,
        }
    }
}

/// Weight formats by name.
pub fn formats() -> impl TypedValueParser<Value = WeightFormat> {
    let names = PossibleValuesParser::new(WeightFormat::ALL.map(WeightFormat::name));
    names.try_map(|name| WeightFormat::named(&name).ok_or("is no format"))
}

/// Formats of caches by name.
pub fn kv_formats() -> impl TypedValueParser<Value = KvFormat> {
    let names = PossibleValuesParser::new(KvFormat::ALL.map(KvFormat::name));
    names.try_map(|name| KvFormat::named(&name).ok_or("is no format"))
}

/// The version of Pillow whose resize to equal to the last bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Resize {
    /// Pillow up to 12, which the published results come from.
    #[default]
    Pillow12,
    /// Pillow 13.
    Pillow13,
}

/// A number of bytes: `5GB`, `7.5GiB`, `500MB`, or plain.
pub fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len()));
    let units = [
        ("", 1.0),
        ("B", 1.0),
        ("KB", 1e3),
        ("MB", 1e6),
        ("GB", 1e9),
        ("TB", 1e12),
        ("G", 1e9),
        ("M", 1e6),
        ("KiB", 1024.0),
        ("MiB", 1_048_576.0),
        ("GiB", 1_073_741_824.0),
    ];
    let unit = units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit.trim()));
    let bytes = unit.zip(number.parse::<f64>().ok()).map(|((_, unit), number)| number * unit);
    let whole = bytes.filter(|bytes| (1.0..1e18).contains(bytes)).map(|bytes| bytes as u64);
    whole.ok_or_else(|| "give a number of bytes, as in 5GB or 500MB".into())
}
