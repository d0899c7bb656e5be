//! Families of kernels: one colour and one letter each.

/// The kind of work that a kernel or an operation does, as far as its name tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    Linear,
    LinearQ8,
    LinearQ4,
    Attention,
    Norm,
    Elementwise,
    Cache,
    Other,
}

impl Family {
    /// All of them, in the order of legends.
    pub const ALL: [Family; 8] = [
        Family::Linear,
        Family::LinearQ8,
        Family::LinearQ4,
        Family::Attention,
        Family::Norm,
        Family::Elementwise,
        Family::Cache,
        Family::Other,
    ];

    /// The family of an operation or a kernel: `linear q4`, `attention_decode`.
    pub fn of(name: &str) -> Family {
        let name = name.to_ascii_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| name.contains(word));
        match () {
            () if has(&["linear", "glu", "matmul", "gemm", "gemv"]) => match () {
                () if has(&["q4"]) => Family::LinearQ4,
                () if has(&["q8"]) => Family::LinearQ8,
                () => Family::Linear,
            },
            () if has(&["attention", "softmax"]) => Family::Attention,
            () if has(&["norm"]) => Family::Norm,
            () if has(&["rope", "store", "positions", "cache"]) => Family::Cache,
            () if has(&["elementwise", "copy", "fill", "add", "gelu", "silu", "relu", "mul"]) => Family::Elementwise,
            () => Family::Other,
        }
    }

    /// The name in legends.
    pub fn name(self) -> &'static str {
        match self {
            Family::Linear => "linear",
            Family::LinearQ8 => "linear q8",
            Family::LinearQ4 => "linear q4",
            Family::Attention => "attention",
            Family::Norm => "norm",
            Family::Elementwise => "elementwise",
            Family::Cache => "rope and cache",
            Family::Other => "other",
        }
    }

    /// The letter in terminals.
    pub fn letter(self) -> char {
        match self {
            Family::Linear => 'L',
            Family::LinearQ8 => 'Q',
            Family::LinearQ4 => 'F',
            Family::Attention => 'A',
            Family::Norm => 'N',
            Family::Elementwise => 'E',
            Family::Cache => 'R',
            Family::Other => 'O',
        }
    }

    /// The number of its colour in the style sheet.
    pub fn index(self) -> usize {
        self as usize
    }
}
