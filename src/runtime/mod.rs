//! The floor everything stands on: device, buffers, recordings, plans, kernels and ops. Knows no model.

mod adapter;
mod buffers;
mod caps;
mod counters;
pub mod custom;
mod device;
mod gpu;
#[cfg(feature = "lab")]
pub mod isa;
mod kept;
pub mod kernels;
mod kv_format;
mod loss;
mod matrix_check;
mod memory;
mod open;
pub mod ops;
mod parallel;
mod pipelines;
pub mod plan;
pub mod profile;
pub mod recorder;
mod robust;
pub mod stream;
pub mod tensor;
pub mod upload;
pub mod weight_format;

pub use adapter::{AdapterKind, AdapterSummary, list_adapters};
pub use buffers::{Buffer, DryPool, whole};
pub use caps::{AdapterClass, Caps, Forms, MatrixSize, Tuning};
pub use counters::{Category, Counters};
pub use custom::CustomKernel;
pub use device::Device;
pub use kv_format::KvFormat;
pub use open::DeviceOptions;
pub use ops::Activation;
pub use ops::attention::{Heads, KvLayer, Mask, Rows, Segment, Segments, Span};
pub use ops::rope::Rotary;
pub use pipelines::{CompileHook, Compiling};
pub use plan::{Plan, Step};
pub use recorder::Recorder;
pub use stream::Streamed;
pub use tensor::{Linear, Matrix, Norm, Tensor};
pub use upload::Uploader;
pub use weight_format::WeightFormat;
