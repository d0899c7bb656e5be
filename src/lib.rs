//! InstructBLIP on any GPU: a picture and an instruction in, text out, through wgpu and hand-written WGSL kernels.
//!
//! ```no_run
//! use instructblip::{Checkpoint, Device, DeviceOptions, GenerateOptions, Image, InstructBlip};
//!
//! # fn main() -> instructblip::Result<()> {
//! let device = Device::open(&DeviceOptions::default())?;
//! let checkpoint = Checkpoint::directory("instructblip-vicuna-7b")?;
//! let mut model = InstructBlip::load(&device, &checkpoint)?;
//! let image = Image::open("photo.jpg")?;
//! for piece in model.generate(&image, "What is unusual about this image?", &GenerateOptions::default())? {
//!     print!("{}", piece?);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Architecture
//!
//! Data walks one way, and each file is a room with one job:
//!
//! ```text
//! checkpoint ── config, weights ──────────────┐ named, shape-checked weights on the device, or a plan of them
//! pictures ─── processor/image ─ pixels       │
//! instruction ─ processor/text ── ids         ▼
//!      pixels ─► vision ─► qformer ─► language ─► generate ─► text
//!                 [N, D]    [Q, H]    llama, opt, t5: logits [R, V]; one token after another
//! ────────────────────────────────────────────────────────────────────────────
//! runtime, from roof to ground: open · plan · device · ops, recorder · tensor, buffers · caps · kernels, gpu
//! ```
//!
//! [`shapes`] has the published configurations by name, and `synthesize` writes checkpoints of them with random weights.
//! Beside the way stand `hub` (feature `hub`): it fetches checkpoints into the cache that the hub's own tools share, and
//! gives a directory like any other, and `jobs` (feature `jobs`): it asks whatever answers, row after row, so that none is
//! lost or doubled. Below all lie [`hash`], one checksum for files, names and seeds, [`fields`], which says in plain words
//! what is wrong with an option, and `quiet`, which makes a refusal of a panic in foreign code.
//!
//! [`model`] is the only room that knows every stage; the program in `src/bin` uses the public API only. The table of
//! who may use whom is `tests/library/rooms.rs`; that of the runtime's floors, `tests/library/floors.rs`.
//!
//! **One picture.** [`Image::open`] decodes it to RGB; [`processor`] resizes it exactly as Pillow does and normalises
//! it; [`model`] writes the pixels to the device and replays the plan that [`vision::Vision::record`] wrote when the
//! model was loaded. The features stay on the device. [`qformer::QFormer::record`] is recorded per prompt: queries and
//! instruction look at the features, and the projection gives one row per image placeholder. The frames of a video
//! replay both plans one after another and put their rows side by side.
//!
//! **One token.** [`generate::Session`] holds the cache and the plan of a decode step. A prompt is recorded (embeddings,
//! features put in their places, every block of [`language`], the last row's logits) and submitted; the first token is
//! chosen from its logits on the host. From there, two ways: greedily, a step leaves its likeliest token in a buffer on the
//! device, each following token is one replay of the decode plan, which reads that buffer and the cache and writes the
//! buffer again, and the host reads tokens back while the next step already runs; with sampling, penalties or beams, logits
//! come to the host, where `generate/processors.rs` changes them in the reference's order, `beam.rs` keeps the searches, and
//! the chosen tokens go back. [`processor::StreamDecoder`] turns ids into text without splitting a character.
//!
//! **Many answers.** [`generate::Slots`] lends a session's rows, its slots, to answers, and its pages. A page is one position
//! of one sequence, and a table says which page holds position s of row r: rows share their prompt's pages, and a beam that
//! takes another's place copies a row of the table, never keys or values. Answers join and leave between steps, each with
//! its own options; the plan stays the same, so nobody's logits depend on who else is there. An [`Engine`] gives a model a
//! thread, and reads pictures on others; [`jobs`] are files of questions for it that survive whatever ends the process.
//!
//! **Three languages.** [`language::Language`] is LLaMA, OPT or T5; each file is what sets its family apart, the ops are
//! shared. T5's encoder runs with the prompt, the keys and values of its output are stored once per prompt, and its
//! decoder reads them in every step. The residual is f32 throughout, so nothing overflows as it does in half precision.
//!
//! # Words
//!
//! Each names one thing, here and everywhere in code and comments:
//!
//! | word | meaning |
//! | --- | --- |
//! | op | a function of [`runtime::Recorder`]: `rms_norm`, `linear` |
//! | kernel | a WGSL program, the text of one file in `shaders` with what stands in front of it |
//! | form | one of several kernels of an op, chosen by shape and adapter: `linear_vec`, `linear_tile` |
//! | custom kernel | a user's own WGSL in the place of a kernel ([`runtime::CustomKernel`]) |
//! | case, depth | an op at one shape with its right values, and the first kind of run that has it ([`lab`]) |
//! | variant | a way to run a case in a benchmark: `auto`, `portable`, a form, `custom` |
//! | recording, plan | dispatches as plain data, and what a device made of them, to be replayed ([`runtime::Plan`]) |
//! | scratch buffer | memory of a recording, which one tensor after another takes |
//! | slot | a row of a session's step, lent to an answer while it is made ([`generate::Slots`]) |
//! | tap | an op's output that is kept and read back, asked for by its label |
//! | page | the keys and values of one position of one sequence in the cache |
//! | place | how far a row is past the step's position, and its sequence ([`runtime::Rows`]) |
//! | row | one of the things an op works on side by side; in a decode step, a sequence; in a job, a question |
//! | step | one replay of the decode plan, and the 16 bytes that tell it where it is ([`runtime::Step`]) |
//!
//! # Record once, replay many
//!
//! Model code runs against a [`runtime::Recorder`], which needs no device: each op checks shapes, chooses a kernel
//! form for the adapter and appends a dispatch as plain data. `finish` makes a [`runtime::Plan`] of it: pipelines,
//! buffers, bind groups. The kernels it needs that nothing needed before are compiled on several threads
//! (`runtime/pipelines.rs`), where the driver allows from what an earlier run left in a file (`runtime/kept.rs`). From
//! then on a replay creates nothing. What changes from replay to replay is in `Step`; shapes and everything else are in
//! the kernels' parameters, written once per plan into one uniform buffer, so a plan needs no feature beyond WebGPU's
//! own.
//!
//! Scratch memory is ownership: a buffer that only the recorder holds is free, and the next op may take it. Weights,
//! cache and the outputs one stage hands to the next are device tensors. All plans draw their buffers from one pool.
//!
//! # Weights and memory
//!
//! A model part's `load` takes its weights from a [`weights::Loader`], which may have files or not and a device or not:
//! the same code checks a checkpoint, loads it, makes synthetic weights, and gives the shapes that [`model::MemoryPlan`] and
//! the tests record plans with. A matrix is f16, q8 or q4 ([`runtime::weight_format`]), which only `linear` knows.
//! A worker thread has rows read from mapped files, looked at, converted and packed by all cores into mapped memory
//! ([`runtime::upload`]) while the loader makes the next matrix.
//!
//! Where there is no room for everything, stages take turns (`model/residence.rs`), and layers take turns in the memory
//! of one ([`runtime::stream`]): their matrices carry the layer they belong to, a plan is cut before each layer's first
//! dispatch, and has its weights written there. Model code says only where a layer begins ([`weights::Loader::layer`]).
//!
//! Any op's output can be asked for as a tap by its label: the weight's checkpoint name, or scope and op.
//!
//! # If you come from transformers
//!
//! | there | here |
//! | --- | --- |
//! | `InstructBlipConfig`, `Blip2Config`, `InstructBlipVideoConfig` and their parts | [`config::Config::parse`], with the classes' defaults and both names of the image token. Checkpoints are read, never written |
//! | `InstructBlipProcessor(images, text)` | [`InstructBlip::processor`]: [`processor::ImageProcessor::pixels`], [`processor::Tokenizers::encode`] and [`processor::Tokenizers::decode`]; everything that answers calls them itself |
//! | `generate(**inputs, ...)` | [`InstructBlip::answer`] for batches, [`InstructBlip::ask`] for one question, [`InstructBlip::generate`] and [`InstructBlip::stream`] for its pieces as they come; [`GenerateOptions`] has the options by their names |
//! | `batch_decode(sequences)`, `sequences_scores` | [`Reply::sequences`]: text, new token ids without padding, score, why it ended |
//! | `output_logits`, `compute_transition_scores(sequences, logits, normalize_logits=True)` | [`GenerateOptions::logprobs`], [`TokenLogprob`] |
//! | `forward(**inputs, labels=..., decoder_input_ids=...)` | [`InstructBlip::forward`] with [`model::ForwardOptions`]: `logits`, `loss`, and what follows, each a [`model::NamedTensor`] |
//! | `vision_outputs`: `last_hidden_state`, `pooler_output` | `vision_last_hidden_state`, `vision_pooler_output` of a forward pass |
//! | `qformer_outputs.last_hidden_state` | `qformer_last_hidden_state`; `pooler_output` is its first row |
//! | `get_image_features`, `get_qformer_features` | [`InstructBlip::features`]; `language_model_inputs` of a forward pass are the projected rows |
//! | `InstructBlipModel.forward`, without a head | tap `language_model.model.norm`; OPT `language_model.model.decoder.final_layer_norm`; T5 `language_model.decoder.final_layer_norm`, its encoder's is `encoder_last_hidden_state` |
//! | `hidden_states[i + 1]` | taps `vision_model.encoder.layers.i.mlp.fc2`; `qformer.encoder.layer.i.output_query.LayerNorm` (queries) and `….output.LayerNorm` (words); `language_model.model.layers.i.mlp.down_proj`; OPT `language_model.model.decoder.layers.i.fc2`; T5 `language_model.encoder.block.i.layer.1.DenseReluDense.wo` and `language_model.decoder.block.i.layer.2.DenseReluDense.wo` |
//! | `attentions[i]` | taps `vision_model.encoder.layers.i.attention.weights`, `qformer.encoder.layer.i.attention.weights`, `language_model.model.layers.i.attention_cached.weights`; OPT `language_model.model.decoder.layers.i.…`; T5 `language_model.encoder.block.i.attention.weights`, `language_model.decoder.block.i.attention_cached.weights` |
//! | `cross_attentions[i]` | [`InstructBlip::attention_maps`], through an engine [`model::AttentionMaps::taps`] and [`model::AttentionMaps::of`]; or taps `qformer.encoder.layer.i.cross_attention.weights`; T5 `language_model.decoder.block.i.cross_attention_cached.weights` |
//! | `interpolate_pos_encoding=True` | [`InstructBlip::with_image_size`] |
//! | `Blip2Model`, `Blip2ForConditionalGeneration` | the same calls: the checkpoint says which family it is |
//! | `get_placeholder_mask`, `get_input_embeddings` and other accessors | the ids of a forward pass; [`model::Parts`] has the modules |
//! | `inputs_embeds`, `past_key_values`, `Blip2Model.get_text_features` | not offered: prompts are text with a picture |
//! | `Blip2ForImageTextRetrieval`, `Blip2VisionModelWithProjection`, `Blip2TextModelWithProjection` | not loaded: checkpoints with other heads that generate no text |
//!
//! The first rows of a tap are the tensor without its batch: `[T, D]`, and `[heads T, S]` for attention weights.
//!
//! Where answers differ on purpose:
//!
//! - An answer does not depend on its batch. The reference pads the Q-Former's words on the left where the language
//!   model's tokenizer says so, which moves their positions ([`InstructBlip::with_left_padding`] does the same), and
//!   `max_length` and `min_length` count the batch's longest prompt there, everybody's own here.
//! - Generation ends at the configuration's end-of-text ids and at the tokenizer's.
//! - Special tokens in a prompt are text until [`InstructBlip::with_special_tokens`]; the picture's own is refused.
//! - `LlamaTokenizer`, `GPT2Tokenizer`, `T5Tokenizer` and `BertTokenizer` take the vocabulary of `tokenizer.json` and do
//!   the rest by `tokenizer_config.json`, as there. Every other class takes the file as it is; there, more of them do not,
//!   and a language model's file without a class is read as GPT-2's.
//! - Pieces that spell bytes are text where a file marks them as special; there, answers lose them.
//! - A model's Q-Former has a tokenizer of its own; there, the language model's takes its place where that is missing.
//! - PNG files whose pixels are damaged are refused; Pillow reads some of them as other pictures.
//! - Lossless JPEG files, and TIFF files with Lab colours, LZMA, two-dimensional fax coding, CMYK as JPEG, or YCbCr without
//!   JPEG are refused by name; Pillow reads them.
//! - Without `max_new_tokens` and `max_length` an answer has up to 256 tokens, not 20.
//! - A least length beyond what the answer may have is refused, and so is an end-of-text id that the model has no token
//!   for; the reference warns of the first and does without both.
//! - Drawn tokens follow the same distribution from another generator of random numbers.
//!
//! Mistakes that have cost people answers are tests with their names: `tests/library/traps.rs`.
//!
//! # The laboratory
//!
//! [`lab`] (feature `lab`) holds every kernel against f64, against the clock, and against the adapter's measured limits.
//! One table of cases serves `selftest`, `doctor`, the tests and the benchmarks.
//!
//! # Adding a kernel
//!
//! 1. `src/lab/oracle/<family>.rs`: the math in f64, as plain loops;
//! 2. `src/lab/cases/<family>.rs`: rows of the table: a quick one, small ones, ragged ones, a published one;
//! 3. `shaders/<name>.wgsl`, with its header, and 4. its row in `shaders/README.md`;
//! 5. a line in [`runtime::kernels`], which says what it needs of an adapter;
//! 6. an op in `runtime/ops/<family>.rs`, with a `choose` where there are forms;
//! 7. a line in `CHANGELOG.md`.

/// The programs in README, which the documentation's tests compile and run.
#[cfg(all(doctest, feature = "embedded-model"))]
#[doc = include_str!("../README.md")]
struct Readme;

pub mod checkpoint;
pub mod config;
#[cfg(feature = "embedded-model")]
pub mod embedded;
pub mod engine;
pub mod error;
pub mod fields;
pub mod generate;
pub mod hash;
#[cfg(feature = "hub")]
pub mod hub;
#[cfg(feature = "jobs")]
pub mod jobs;
#[cfg(feature = "lab")]
pub mod lab;
pub mod language;
pub mod model;
pub mod processor;
pub mod qformer;
mod quiet;
pub mod runtime;
pub mod shapes;
#[cfg(feature = "embedded-model")]
pub mod synthesize;
pub mod vision;
pub mod weights;

pub use checkpoint::Checkpoint;
pub use engine::{Engine, EngineOptions};
pub use error::{Error, Result};
pub use generate::{EarlyStopping, FinishReason, GenerateOptions, TokenLogprob};
pub use model::{Answer, InstructBlip, Question, Reply};
pub use processor::Image;
pub use runtime::{Device, DeviceOptions};
/// The graphics layer, of the version that [`Device::from_wgpu`] takes devices of.
#[cfg(feature = "from-wgpu")]
pub use wgpu;
