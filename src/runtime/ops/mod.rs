//! The operations model code is written in: one file per family, each an `impl Recorder` block that checks
//! shapes, chooses a kernel form and writes dispatches.

pub mod argmax;
pub mod attention;
pub mod ceiling;
pub mod convert;
pub mod elementwise;
pub mod embed;
pub mod fill;
pub mod fit_columns;
pub mod linear;
pub mod norm;
pub mod patch_embed;
pub mod positions;
pub mod rope;
pub mod store;
pub mod top_k;

/// The function applied to a linear layer's output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activation {
    /// The output itself.
    #[default]
    None = 0,
    /// `x Φ(x)` by erf (`gelu` in transformers).
    Gelu = 1,
    /// The tanh approximation (`gelu_new`, `gelu_pytorch_tanh`).
    GeluTanh = 2,
    /// `x σ(x)`.
    Silu = 3,
    /// `max(x, 0)`.
    Relu = 4,
}

impl Activation {
    /// The activation a configuration names as transformers does; `None` for those without a kernel.
    pub fn named(name: &str) -> Option<Activation> {
        match name {
            "gelu" => Some(Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" => Some(Activation::GeluTanh),
            "silu" | "swish" => Some(Activation::Silu),
            "relu" => Some(Activation::Relu),
            _ => None,
        }
    }
}
