//! The cache of keys and values: layout, capacity, and nothing else. How full it is, is the step's business.

use crate::error::{Error, Result};
use crate::runtime::ops::attention::{Heads, KvLayer};
use crate::runtime::{Category, Device, Tensor};

/// Keys and values of every layer, each `[G * pages, d]` in f32: a head's pages lie side by side. Channels are as many
/// as [`Heads::padded`] has.
#[derive(Clone, Debug)]
pub struct KvCache {
    layers: Vec<KvLayer>,
}

impl KvCache {
    /// A cache of `pages` pages on `device`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::DoesNotFit`].
    pub fn new(device: &Device, layers: usize, heads: Heads, pages: u32) -> Result<KvCache> {
        let heads = heads.padded();
        // Kernels count elements in 32 bits.
        let (need, have) = (u64::from(heads.key_value * heads.dim) * u64::from(pages), u64::from(u32::MAX));
        if need > have {
            return Err(Error::DoesNotFit { what: "values in a layer of the cache".into(), need, have });
        }
        KvCache::with(layers, pages, || device.zeros(Category::KvCache, "kv", heads.key_value * pages, heads.dim))
    }

    /// A cache without memory, for recording without a device.
    pub fn unbacked(layers: usize, heads: Heads, pages: u32) -> KvCache {
        let make = || Ok(Tensor::unbacked(heads.key_value * pages, heads.padded().dim));
        KvCache::with(layers, pages, make).expect("making unbacked tensors cannot fail")
    }

    fn with(layers: usize, pages: u32, mut make: impl FnMut() -> Result<Tensor>) -> Result<KvCache> {
        let mut layer = || Ok(KvLayer { keys: make()?, values: make()?, capacity: pages });
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
