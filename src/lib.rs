//! InstructBLIP on any GPU: a picture and an instruction in, text out, through wgpu and hand-written WGSL kernels.
//!
//! ```no_run
//! use instructblip::{Checkpoint, Device, DeviceOptions, GenerateOptions, Image, InstructBlip};
//!
//! # fn main() -> instructblip::Result<()> {
//! let device = Device::open(&DeviceOptions::default())?;
//! let checkpoint = Checkpoint::directory("instructblip-vicuna-7b")?;
//! let mut model = InstructBlip::load(&device, &checkpoint, &mut |_, _| {})?;
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
//! checkpoint ── config, weights ──────────────┐ named, shape-checked weights on the device
//! picture ──── processor/image ─ pixels       │
//! instruction ─ processor/text ── ids         ▼
//!      pixels ─► vision ─► qformer ─► language/llama ─► generate ─► text
//!                 [N, D]    [Q, H]     logits [1, V]     one token after another
//! ────────────────────────────────────────────────────────────────────────────
//! runtime: device · buffers · recorder · plan · kernels · ops · profile
//! ```
//!
//! [`model`] is the only room that knows every stage; the program in `src/bin` uses the public API only. The table of
//! who may use whom is `tests/rooms.rs`.
//!
//! **One picture.** [`Image::open`] decodes it to RGB; [`processor`] resizes it exactly as Pillow does and normalises
//! it; [`model`] writes the pixels to the device and replays the plan that [`vision::Vision::record`] wrote when the
//! model was loaded. The features stay on the device. [`qformer::QFormer::record`] is recorded per prompt: queries and
//! instruction look at the features, and the projection gives one row per image placeholder.
//!
//! **One token.** [`generate::Session::start`] records the prompt (embeddings, features put in their places, every
//! block of [`language::llama`], the last row's logits, the largest one's index) and submits it. The index is the first
//! token and stays in a buffer on the device. Each following token is one replay of the decode plan, which reads that
//! buffer, the cache and a 16-byte [`runtime::Step`], and writes the buffer again; the host reads a token back while
//! the next step already runs. [`processor::StreamDecoder`] turns ids into text without splitting a character.
//!
//! # Record once, replay many
//!
//! Model code runs against a [`runtime::Recorder`], which needs no device: each op checks shapes, chooses a kernel
//! form for the adapter and appends a dispatch as plain data. `finish` makes a [`runtime::Plan`] of it: pipelines,
//! buffers, bind groups. From then on a replay creates nothing. What changes from replay to replay is in `Step`;
//! shapes and everything else are in the kernels' parameters, written once per plan into one uniform buffer, so a
//! plan needs no feature beyond WebGPU's own.
//!
//! Scratch memory is ownership: a slot that only the recorder holds is free, and the next op may take it. Weights,
//! cache and the outputs one stage hands to the next are device tensors. All plans draw their slots from one pool.
//!
//! Any op's output can be asked for by its label (the weight's checkpoint name, or scope and op): a *tap*.
//!
//! # Adding a kernel
//!
//! An oracle in `tests/oracle` and rows in `tests/ops.rs`; `shaders/<name>.wgsl` with its header; a line in
//! [`runtime::kernels`]; an op in `runtime/ops` with a `choose` where there are forms; a row in `shaders/README.md` and
//! in `benches/kernels.rs`.

pub mod checkpoint;
pub mod config;
#[cfg(feature = "embedded-model")]
pub mod embedded;
pub mod error;
pub mod generate;
pub mod language;
pub mod model;
pub mod processor;
pub mod qformer;
pub mod runtime;
pub mod vision;
pub mod weights;

pub use checkpoint::Checkpoint;
pub use error::{Error, Result};
pub use generate::{EarlyStopping, FinishReason, GenerateOptions};
pub use model::{Answer, InstructBlip, Question, Reply};
pub use processor::Image;
pub use runtime::{Device, DeviceOptions};
