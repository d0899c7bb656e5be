//! The floor everything stands on: device, buffers, recordings, plans, kernels and ops. Knows no model.

pub mod buffers;
pub mod device;
pub mod kernels;
pub mod ops;
pub mod plan;
pub mod profile;
pub mod recorder;
pub mod stream;
pub mod upload;
pub mod weight_format;

pub use buffers::{Category, Counters, DryPool, Linear, Matrix, Norm, Tensor};
pub use device::{AdapterClass, AdapterSummary, Caps, Device, DeviceOptions, list_adapters};
pub use ops::Activation;
pub use ops::attention::{Heads, KvLayer, Mask, Rows};
pub use plan::{Plan, Step};
pub use recorder::Recorder;
pub use stream::Streamed;
pub use upload::Uploader;
pub use weight_format::WeightFormat;
