//! The cache of keys and values: layout, capacity, and nothing else. How full it is, is the step's business.

use crate::error::{Error, Result};
use crate::runtime::ops::attention::{Heads, KvLayer};
use crate::runtime::{Category, Device, KvFormat, Tensor};

/// Keys and values of every layer, each `[G * pages, d]`: a head's pages lie side by side. Channels are as many as
/// [`Heads::padded`] has.
#[derive(Clone, Debug)]
pub struct KvCache {
    layers: Vec<KvLayer>,
}

impl KvCache {
    /// A cache of `pages` pages on `device`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::DoesNotFit`].
    pub fn new(device: &Device, layers: usize, heads: Heads, pages: u32, format: KvFormat) -> Result<KvCache> {
        let heads = heads.padded();
        // Kernels count elements in 32 bits.
        let (need, have) = (u64::from(heads.key_value * heads.dim) * u64::from(pages), u64::from(u32::MAX));
        if need > have {
            return Err(Error::DoesNotFit { what: "values in a layer of the cache".into(), need, have });
        }
        let words = heads.dim / format.channels_in_word();
        KvCache::with(layers, pages, format, || device.zeros(Category::KvCache, "kv", heads.key_value * pages, words))
    }

    /// A cache without memory, for recording without a device.
    pub fn unbacked(layers: usize, heads: Heads, pages: u32, format: KvFormat) -> KvCache {
        let words = heads.padded().dim / format.channels_in_word();
        let make = || Ok(Tensor::unbacked(heads.key_value * pages, words));
        KvCache::with(layers, pages, format, make).expect("making unbacked tensors cannot fail")
    }

    fn with(layers: usize, pages: u32, format: KvFormat, mut make: impl FnMut() -> Result<Tensor>) -> Result<KvCache> {
        let mut layer = || Ok(KvLayer { keys: make()?, values: make()?, capacity: pages, format });
        Ok(KvCache { layers: (0..layers).map(|_| layer()).collect::<Result<_>>()? })
    }

    /// Bytes that the cache takes, or would take.
    pub fn bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.keys.buffer_bytes() + layer.values.buffer_bytes()).sum()
    }

    /// The cache of layer `i`.
    pub fn layer(&self, i: usize) -> &KvLayer {
        &self.layers[i]
    }
}
