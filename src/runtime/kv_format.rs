//! The storage of keys and values in a cache.

/// Storage of the keys and values of a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KvFormat {
    /// 32-bit floats, as they are computed.
    #[default]
    F32,
    /// 16-bit floats, two to a word: each value is off by up to 2⁻¹¹ of itself, and those beyond ±65504 are kept there.
    F16,
}

impl KvFormat {
    /// Every format.
    pub const ALL: [KvFormat; 2] = [KvFormat::F32, KvFormat::F16];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            KvFormat::F32 => "f32",
            KvFormat::F16 => "f16",
        }
    }

    /// The format of this name.
    pub fn named(name: &str) -> Option<KvFormat> {
        KvFormat::ALL.into_iter().find(|format| format.name() == name)
    }

    /// This format where heads of `dim` channels can be turned two neighbours at a time, f32 where they cannot.
    pub fn for_head_dim(self, dim: u32) -> KvFormat {
        if dim.is_multiple_of(4) { self } else { KvFormat::F32 }
    }

    /// Channels in a word of 32 bits: the kernels' constant KV_PACK.
    pub fn channels_in_word(self) -> u32 {
        match self {
            KvFormat::F32 => 1,
            KvFormat::F16 => 2,
        }
    }
}
