//! The command line.

use std::path::PathBuf;

use clap::builder::{FalseyValueParser, PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use instructblip::generate::options::MAX_NEW_TOKENS;
use instructblip::model::{LoadOptions, Workload};
use instructblip::processor::Task;
use instructblip::runtime::WeightFormat;
use instructblip::weights::Formats;

pub use crate::common::Common;
use crate::common::{Adapter, Gpu, Notes};
use crate::eval::questions::EXAMPLE;
use crate::generation::Generation;
use crate::inputs::Pictures;
use crate::overrides::Overrides;
use crate::pictures::PictureOptions;

/// Ask questions about pictures with InstructBLIP, on any GPU.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_CODES)]
#[command(mut_args(|option| match option.get_help_heading() {
    Some("GPU") => option.hide(true),
    _ => option,
}))]
pub struct Arguments {
    /// Options of every command.
    #[command(flatten)]
    pub notes: Notes,
    /// May be named before the command, too; the help of commands that use a GPU has them.
    #[command(flatten)]
    pub gpu: Gpu,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 2 usage, 3 model or input refused (or skipped, among many), 4 no usable GPU, 5 out of GPU memory, \
                          6 GPU lost, 7 a kernel computes wrong results here or does not end, 75 the network or a server failed, try again, \
                          101 a mistake in this program, 1 anything else.\n\
                          WGPU_BACKEND (vulkan, metal, dx12, gl) and WGPU_ADAPTER_NAME choose the GPU as --adapter does.\n\
                          INSTRUCTBLIP_CACHE is the folder that compiled kernels are kept in; `off` keeps none.";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Ask a question about a picture and stream the answer
    Ask(Ask),
    /// Describe pictures, one line each
    Caption(Caption),
    /// Say how likely given answers to a question are, best first
    Score(Score),
    /// Write what the Q-Former makes of pictures to a safetensors file
    Embed(Embed),
    /// Answer a file of questions and count the right answers; taken up again where it was left
    ///
    /// An answer is exact if it is one of the given ones but for capitals, punctuation, articles and number words. VQA's
    /// accuracy asks how many of ten people agree; with fewer than ten answers it is the same as exact.
    Eval(Eval),
    /// Run the model once and write every stage's tensors to a safetensors file
    Forward(Forward),
    /// Say what a model takes of a GPU's memory, part by part, and how it takes less; no GPU is needed
    Plan(Plan),
    /// Write a checkpoint with smaller weights
    Quantize(Quantize),
    /// Fetch a model from the Hugging Face hub, to be named with --model; taken up again where it was interrupted
    ///
    /// Only what the model needs is fetched, and every file is checked. Models go into the cache of the hub's own tools:
    /// HF_HUB_CACHE, else HF_HOME/hub, else ~/.cache/huggingface/hub. HF_TOKEN is for models behind a licence,
    /// HF_ENDPOINT for mirrors, HTTPS_PROXY and SSL_CERT_FILE for networks that need them; HF_HUB_OFFLINE=1 or
    /// TRANSFORMERS_OFFLINE=1 forbids the network. An adapter's base is another model to pull. The folder of the model is printed on standard output.
    #[cfg(feature = "hub")]
    Pull(Pull),
    /// List the models in the cache
    #[cfg(feature = "hub")]
    Ls(crate::models::Ls),
    /// Remove a model from the cache
    #[cfg(feature = "hub")]
    Rm(crate::models::Rm),
    /// List the GPUs that could be used
    Devices(Devices),
    /// Say what would be used here, what is missing and what to do about it
    ///
    /// Ends with `ready`, or with what to fix first and the exit code that other commands would end with.
    Doctor(Doctor),
    /// Test every kernel on this GPU against 64-bit references
    ///
    /// Kernels come in forms for kinds of adapters. Tested are the adapter's own, the portable ones under WebGPU's default
    /// limits, and those with bounds and loop checks; with --checked the adapter's own with checks, too. Errors are
    /// relative (L2); ms are compiling, running and reading back.
    Selftest(Selftest),
    /// Find the sizes with which kernels are fastest on this GPU, in half a minute; later runs use them
    Tune(crate::tune::Tune),
    /// Measure kernels and models against what this GPU can do, with pictures and comparisons
    Bench(crate::bench::Bench),
    /// Answer questions about the bundled pictures
    Demo(Demo),
    /// Write completions of commands and options for a shell to standard output
    Completions(Completions),
    /// Write the manual page of the program, or of a command, to standard output
    Man(Man),
    /// Write a checkpoint of a published shape with random weights, to try loading and speed on
    #[cfg(feature = "embedded-model")]
    #[command(hide = true)]
    Synthesize(crate::synthesize::Synthesize),
}

/// Arguments of `ask`.
#[derive(Args, Debug)]
pub struct Ask {
    /// The picture: a PNG, JPEG, WebP, GIF, BMP or TIFF file, or - for standard input
    pub image: PathBuf,
    /// The question or instruction; with --task the text that goes into the task's wording
    #[arg(required_unless_present = "task")]
    pub prompt: Option<String>,
    /// Further frames, for video models; may be repeated
    #[arg(long = "image", value_name = "FRAME")]
    pub frames: Vec<PathBuf>,
    #[command(flatten)]
    pub wording: Wording,
    /// Print one JSON object with the answers, their tokens and timings
    #[arg(long)]
    pub json: bool,
    /// Print the prompt as the model gets it, and stop
    #[arg(long)]
    pub show_prompt: bool,
    /// Folder to write pictures of the Q-Former's attention to the (first) picture to, with the raw weights
    #[arg(long, value_name = "DIR")]
    pub attention: Option<PathBuf>,
    #[command(flatten)]
    pub generation: Generation,
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub gpu: Gpu,
}

/// How a prompt is worded.
#[derive(Args, Debug, Default)]
pub struct Wording {
    /// Word the prompt as the paper does for this task
    #[arg(long, value_parser = tasks())]
    pub task: Option<Task>,
    /// A choice for the task's wording, or to score; may be repeated
    #[arg(long = "choice", value_name = "TEXT")]
    pub choices: Vec<String>,
    /// What the Q-Former reads instead of the prompt
    #[arg(long, value_name = "TEXT")]
    pub qformer_prompt: Option<String>,
}

fn tasks() -> impl TypedValueParser<Value = Task> {
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

/// Arguments of `caption`.
#[derive(Args, Debug)]
pub struct Caption {
    #[command(flatten)]
    pub pictures: Pictures,
    /// The instruction, if not the paper's for captions, or none for BLIP-2
    #[arg(long)]
    pub prompt: Option<String>,
    /// Print one JSON object a picture, a line each
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub generation: Generation,
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub gpu: Gpu,
}

/// Arguments of `score`.
#[derive(Args, Debug)]
pub struct Score {
    /// The picture, or - for standard input
    pub image: PathBuf,
    /// The question; with --task the text that goes into the task's wording
    pub prompt: String,
    #[command(flatten)]
    pub wording: Wording,
    /// Print one JSON object with log-probabilities by token
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub gpu: Gpu,
}

/// Arguments of `embed`.
#[derive(Args, Debug)]
pub struct Embed {
    #[command(flatten)]
    pub pictures: Pictures,
    /// What the Q-Former looks for
    #[arg(long, default_value = "")]
    pub prompt: String,
    /// File to write: tensors image_features, query_features, projected_features, a row per picture
    #[arg(long, short, value_name = "OUT.safetensors")]
    pub output: PathBuf,
    /// Labels of further outputs of the vision tower and the Q-Former to write, for example
    /// qformer.encoder.layer.0.cross_attention.weights
    #[arg(long, value_name = "LABEL,…", value_delimiter = ',')]
    pub taps: Vec<String>,
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub gpu: Gpu,
}

/// Arguments of `eval`.
#[derive(Args, Debug)]
#[command(after_help = format!("A line of QUESTIONS is, for example:\n  {EXAMPLE}"))]
pub struct Eval {
    /// Questions, a JSON object a line: image (a path beside this file; for video models a list of frames), question (or
    /// prompt), answers (a list; or answer or expected, one), choices for tasks that need them, qformer_prompt if the
    /// Q-Former is to read something else, and group, if results are to be told by group. Other fields are kept
    pub questions: PathBuf,
    /// Word the prompts as the paper does for this task
    #[arg(long, value_parser = tasks())]
    pub task: Option<Task>,
    /// File of answers; questions it has already are not asked again
    #[arg(long, short, value_name = "PREDICTIONS.jsonl")]
    pub output: PathBuf,
    /// Questions asked at once; answers do not depend on it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub batch_size: u32,
    /// Ask everything again
    #[arg(long)]
    pub force: bool,
    /// Stop at the first question that cannot be asked, instead of telling of it and going on
    #[arg(long)]
    pub strict: bool,
    /// Field of a question to tell results by
    #[arg(long, value_name = "FIELD", default_value = "group")]
    pub group: String,
    /// Print the results as one JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub generation: Generation,
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub gpu: Gpu,
}

/// Which model to use.
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

/// In which form weights are loaded and where they are.
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
    /// File to write
    #[arg(long, short, value_name = "OUT.safetensors")]
    pub output: PathBuf,
    /// Labels of further outputs to write (of the last frame), for example vision_model.encoder.layers.0.mlp.fc1
    #[arg(long, value_name = "LABEL,…", value_delimiter = ',')]
    pub taps: Vec<String>,
    /// What T5's decoder reads, for logits of more than its first token
    #[arg(long, value_name = "ID,…", value_delimiter = ',')]
    pub decoder_input_ids: Vec<u32>,
    /// Wanted tokens, for the loss: one for each of the prompt's, or for T5 of the answer's; -100 does not count
    #[arg(long, value_name = "ID,…", value_delimiter = ',', allow_hyphen_values = true)]
    pub labels: Vec<i64>,
    /// Further frames, for video models; may be repeated
    #[arg(long = "image", value_name = "FRAME")]
    pub frames: Vec<PathBuf>,
    /// What the Q-Former reads instead of the prompt
    #[arg(long, value_name = "TEXT")]
    pub qformer_prompt: Option<String>,
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub gpu: Gpu,
}

/// Arguments of `plan`.
#[derive(Args, Debug)]
#[command(mut_arg("no_mmap", |option| option.hide(true)))]
pub struct Plan {
    /// Directory of a checkpoint, or the name of one in the cache, or of a published one, whose shape is known; the
    /// embedded model if left out
    pub model: Option<String>,
    /// LoRA adapter to merge into the weights: a folder that peft saved, or owner/name of one that was pulled. An adapter
    /// in the model's own folder is merged without being asked for
    #[arg(long, value_name = "DIR|REPO")]
    pub lora: Option<PathBuf>,
    /// Most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_NEW_TOKENS)))]
    pub max_new_tokens: u32,
    /// Beams to search with
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub num_beams: u32,
    /// Questions asked at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub batch: u32,
    /// Tokens of a prompt
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub prompt_tokens: u32,
    /// Pictures of a question, for video models
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub frames: u32,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub weights: Weights,
}

/// Arguments of `quantize`.
#[derive(Args, Debug)]
pub struct Quantize {
    /// Directory of a checkpoint, or the name of one in the cache
    pub source: PathBuf,
    /// Folder to write to, empty or not there yet
    pub folder: PathBuf,
    /// LoRA adapter to merge into the weights: a folder that peft saved, or owner/name of one that was pulled. An adapter
    /// in the model's own folder is merged without being asked for
    #[arg(long, value_name = "DIR|REPO")]
    pub lora: Option<PathBuf>,
    /// Format: q8, or q4 for the language model with a vision tower in q8
    #[arg(long, value_name = "FORMAT", value_parser = formats())]
    pub weights: WeightFormat,
    /// Format of the vision tower, if another
    #[arg(long, value_name = "FORMAT", value_parser = formats())]
    pub vision_weights: Option<WeightFormat>,
    /// Format of the Q-Former, if not f16
    #[arg(long, value_name = "FORMAT", value_parser = formats())]
    pub qformer_weights: Option<WeightFormat>,
    /// Format of the language model, if another
    #[arg(long, value_name = "FORMAT", value_parser = formats())]
    pub language_weights: Option<WeightFormat>,
    /// Most bytes of a file
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = size)]
    pub shard_size: u64,
}

/// Arguments of `pull`.
#[cfg(feature = "hub")]
#[derive(Args, Debug)]
pub struct Pull {
    /// The repository, owner/name, for example Salesforce/instructblip-flan-t5-xl; a published model's name alone will do
    pub repo: String,
    /// A branch, a tag or a commit
    #[arg(long, value_name = "REVISION")]
    pub revision: Option<String>,
}

/// Arguments of `devices`.
#[derive(Args, Debug)]
pub struct Devices {
    /// Print a JSON array
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub gpu: Adapter,
}

/// Arguments of `doctor`.
#[derive(Args, Debug)]
pub struct Doctor {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Checkpoint directory whose files are to be checked, too; no weights are read
    #[arg(long, value_name = "DIR", env = "INSTRUCTBLIP_MODEL")]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub gpu: Gpu,
}

/// Arguments of `selftest`.
#[derive(Args, Debug)]
pub struct Selftest {
    /// Print one JSON object with every case, fit for a bug report
    #[arg(long)]
    pub json: bool,
    /// Only cases whose kernel, form or shape contains this, for example attention_decode
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    #[command(flatten)]
    pub gpu: Gpu,
}

/// Arguments of `demo`.
#[derive(Args, Debug)]
pub struct Demo {
    /// Print a JSON array
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub gpu: Gpu,
}

/// Arguments of `completions`.
#[derive(Args, Debug)]
pub struct Completions {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// Arguments of `man`.
#[derive(Args, Debug)]
pub struct Man {
    /// The command, if not the program itself
    pub command: Vec<String>,
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

impl Arguments {
    /// Gives the options that every command has.
    pub fn common(&self) -> Common {
        let (before, after) = (&self.gpu, self.command.gpu());
        let gpu = Gpu {
            chosen: if after.chosen.adapter.is_some() { after.chosen } else { before.chosen.clone() },
            portable: before.portable || after.portable,
            checked: before.checked || after.checked,
            kernels: if after.kernels == "auto" { before.kernels.clone() } else { after.kernels },
        };
        Common::new(self.notes, gpu)
    }
}

impl Command {
    /// Which GPU the command is to use, if it uses one.
    fn gpu(&self) -> Gpu {
        let gpu = match self {
            Command::Ask(ask) => &ask.gpu,
            Command::Caption(caption) => &caption.gpu,
            Command::Score(score) => &score.gpu,
            Command::Embed(embed) => &embed.gpu,
            Command::Eval(eval) => &eval.gpu,
            Command::Forward(forward) => &forward.gpu,
            Command::Doctor(doctor) => &doctor.gpu,
            Command::Selftest(selftest) => &selftest.gpu,
            Command::Tune(tune) => &tune.gpu,
            Command::Demo(demo) => &demo.gpu,
            Command::Bench(bench) => return bench.gpu(),
            Command::Devices(devices) => return devices.gpu.clone().into(),
            _ => return Adapter::default().into(),
        };
        gpu.clone()
    }
}
