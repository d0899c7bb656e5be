//! The floor everything stands on: device, buffers, recordings, plans, kernels and ops. Knows no model.

pub mod buffers;
pub mod custom;
pub mod device;
mod kept;
pub mod kernels;
mod matrix_check;
pub mod ops;
mod parallel;
mod pipelines;
pub mod plan;
pub mod profile;
pub mod recorder;
pub mod stream;
pub mod tuning;
pub mod upload;
pub mod weight_format;

pub use buffers::{Category, Counters, DryPool, Linear, Matrix, Norm, Tensor};
pub use custom::Replacement;
pub use device::{AdapterClass, AdapterSummary, Caps, Device, DeviceOptions, list_adapters};
pub use matrix_check::MatrixSize;
pub use ops::Activation;
pub use ops::attention::{Heads, KvLayer, Mask, Rows};
pub use pipelines::{CompileHook, Compiling};
pub use plan::{Plan, Step};
pub use recorder::Recorder;
pub use stream::Streamed;
pub use tuning::{Forms, Tuning};
pub use upload::Uploader;
pub use weight_format::WeightFormat;
