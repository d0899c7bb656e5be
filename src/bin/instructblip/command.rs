//! The command line: its commands, and the options that may stand before and behind them.

use clap::{Parser, Subcommand};

use crate::common::{Adapter, Common, Gpu, Notes};
#[cfg(feature = "server")]
use crate::serve;
#[cfg(feature = "embedded-model")]
use crate::synthesize;
use crate::{
    ask, batch, bench, caption, demo, devices, doctor, embed, eval, forward, manual, plan, quantize, score, selftest,
    tune, worker,
};
#[cfg(feature = "hub")]
use crate::{models, pull};

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
    /// The command that is to run.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 some rows of `batch` have no answer, 2 usage, 3 model or input refused (or skipped, among many), 4 no usable GPU, 5 out of GPU memory, \
                          6 GPU lost, 7 a kernel computes wrong results here or does not end, 75 the network or a server failed, a disk is full, an output is in use, or \
                          `batch` was asked to stop: try again, 130 a second signal, \
                          101 a mistake in this program, 1 anything else.\n\
                          WGPU_BACKEND (vulkan, metal, dx12, gl) and WGPU_ADAPTER_NAME choose the GPU as --adapter does.\n\
                          INSTRUCTBLIP_CACHE is the folder that compiled kernels are kept in; `off` keeps none.";

/// The commands of the program.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Ask a question about a picture and stream the answer
    Ask(ask::Ask),
    /// Describe pictures, one line each
    Caption(caption::Caption),
    /// Say how likely given answers to a question are, best first
    Score(score::Score),
    /// Write what the Q-Former makes of pictures to a safetensors file
    Embed(embed::Embed),
    /// Answer a file of questions and count the right answers; taken up again where it was left
    ///
    /// An answer is exact if it is one of the given ones but for capitals, punctuation, articles and number words. VQA's
    /// accuracy asks how many of ten people agree; with fewer than ten answers it is the same as exact.
    Eval(eval::Eval),
    /// Answer many rows, each once whatever happens: taken up again where it was left, in parts on several machines
    Batch(batch::Batch),
    /// Answer rows on standard input, a line each on standard output, for programs that drive many of these
    ///
    /// A row is what `batch` takes, and so is its answer. {"event": "ready"} on standard error says that the model is loaded;
    /// {"ping": 1} is answered. Ends with its input.
    Worker(worker::Worker),
    /// Answer other programs over HTTP, as OpenAI's clients ask, and show a page to try the model
    ///
    /// The page is at /. Programs ask at /v1/chat/completions: messages with one picture as a data URL, answered whole or as
    /// a stream. Besides OpenAI's own, a request may have num_beams, length_penalty, repetition_penalty,
    /// no_repeat_ngram_size, early_stopping, top_k, min_p, min_tokens, prefix, bad_words, qformer_prompt, and task and
    /// choices, which word the prompt as the paper does. Any model name is taken; the answer names the one that there is.
    /// Without temperature, top_p, top_k and min_p the likeliest tokens are taken, and drawn where n asks for several.
    /// A picture without words is described, as by the task caption, where the model was taught to follow instructions.
    /// One message of the user is the prompt as it is; earlier turns become "Question: ... Answer: ...." before it; texts
    /// of the system come first. What the model cannot be told so is refused.
    ///
    /// /v1/score {image, prompt, choices} ranks answers; /v1/embeddings {input: pictures, features: image, queries or
    /// projected} gives features; /v1/attention {image, prompt, layer, head, query, format: array or png} shows where the
    /// Q-Former looks; /v1/models, /health, /metrics (Prometheus) and /props tell of the server.
    ///
    /// SIGTERM lets answers under way end (--drain), then the program ends with 0, or with 75 if some took longer.
    #[cfg(feature = "server")]
    Serve(serve::Serve),
    /// Run the model once and write every stage's tensors to a safetensors file
    Forward(forward::Forward),
    /// Say what a model takes of a GPU's memory, part by part, and how it takes less; no GPU is needed
    Plan(plan::Plan),
    /// Write a checkpoint with smaller weights
    Quantize(quantize::Quantize),
    /// Fetch a model from the Hugging Face hub, to be named with --model; taken up again where it was interrupted
    ///
    /// Only what the model needs is fetched, and every file is checked. Models go into the cache of the hub's own tools:
    /// HF_HUB_CACHE, else HF_HOME/hub, else ~/.cache/huggingface/hub. HF_TOKEN is for models behind a licence,
    /// HF_ENDPOINT for mirrors, HTTPS_PROXY and SSL_CERT_FILE for networks that need them; HF_HUB_OFFLINE=1 or
    /// TRANSFORMERS_OFFLINE=1 forbids the network. An adapter's base is another model to pull. The folder of the model is printed on standard output.
    #[cfg(feature = "hub")]
    Pull(pull::Pull),
    /// List the models in the cache
    #[cfg(feature = "hub")]
    Ls(models::Ls),
    /// Remove a model from the cache
    #[cfg(feature = "hub")]
    Rm(models::Rm),
    /// List the GPUs that could be used
    Devices(devices::Devices),
    /// Say what would be used here, what is missing and what to do about it
    ///
    /// Ends with `ready`, or with what to fix first and the exit code that other commands would end with.
    Doctor(doctor::Doctor),
    /// Test every kernel on this GPU against 64-bit references
    ///
    /// Kernels come in forms for kinds of adapters. Tested are the adapter's own, the portable ones under WebGPU's default
    /// limits, and those with bounds and loop checks; with --checked the adapter's own with checks, too. Errors are
    /// relative (L2); ms are compiling, running and reading back.
    Selftest(selftest::Selftest),
    /// Find the sizes with which kernels are fastest on this GPU, in half a minute; later runs use them
    Tune(tune::Tune),
    /// Measure kernels and models against what this GPU can do, with pictures and comparisons
    Bench(bench::Bench),
    /// Answer questions about the bundled pictures
    Demo(demo::Demo),
    /// Write completions of commands and options for a shell to standard output
    Completions(manual::Completions),
    /// Write the manual page of the program, or of a command, to standard output
    Man(manual::Man),
    /// Write a checkpoint of a published shape with random weights, to try loading and speed on
    #[cfg(feature = "embedded-model")]
    #[command(hide = true)]
    Synthesize(synthesize::Synthesize),
}

impl Arguments {
    /// Gives the options that every command has.
    pub fn common(&self) -> Common {
        let (before, after) = (&self.gpu, self.command.gpu());
        let gpu = Gpu {
            chosen: if after.chosen.adapter.is_some() { after.chosen } else { before.chosen.clone() },
            portable: before.portable || after.portable,
            checked: before.checked || after.checked,
            robust_access: after.robust_access.or(before.robust_access),
            kernels: if after.kernels == "auto" { before.kernels.clone() } else { after.kernels },
        };
        Common::new(self.notes, gpu)
    }
}

impl Command {
    /// The GPU that the command is to use, if it uses one.
    fn gpu(&self) -> Gpu {
        let gpu = match self {
            Command::Ask(ask) => &ask.gpu,
            Command::Caption(caption) => &caption.gpu,
            Command::Score(score) => &score.gpu,
            Command::Embed(embed) => &embed.gpu,
            Command::Eval(eval) => &eval.gpu,
            Command::Batch(batch) => &batch.gpu,
            Command::Worker(worker) => &worker.gpu,
            #[cfg(feature = "server")]
            Command::Serve(serve) => &serve.gpu,
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
