//! The cache of keys and values: layout, capacity, and nothing else. How full it is, is the step's business.

use crate::error::{Error, Result};
use crate::runtime::ops::attention::{Heads, KvLayer};
use crate::runtime::{Category, Device, Tensor, whole};

/// Keys and values of every layer, each `[G * capacity, d]` in f32: a head's pages lie side by side. Channels are as
/// many as [`Heads::padded`] has.
#[derive(Clone, Debug)]
pub struct KvCache {
    layers: Vec<KvLayer>,
    capacity: u32,
}

impl KvCache {
    /// A cache of `capacity` pages on `device`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::DoesNotFit`].
    pub fn new(device: &Device, layers: usize, heads: Heads, capacity: u32) -> Result<KvCache> {
        let heads = heads.padded();
        // Kernels count elements in 32 bits.
        let (need, have) = (u64::from(heads.key_value * heads.dim) * u64::from(capacity), u64::from(u32::MAX));
        if need > have {
            return Err(Error::DoesNotFit { what: "values in a layer of the cache".into(), need, have });
        }
        KvCache::with(layers, capacity, || device.zeros(Category::KvCache, "kv", heads.key_value * capacity, heads.dim))
    }

    /// A cache without memory, for recording without a device.
    pub fn unbacked(layers: usize, heads: Heads, capacity: u32) -> KvCache {
        let make = || Ok(Tensor::unbacked(heads.key_value * capacity, heads.padded().dim));
        KvCache::with(layers, capacity, make).expect("making unbacked tensors cannot fail")
    }

    fn with(layers: usize, capacity: u32, mut make: impl FnMut() -> Result<Tensor>) -> Result<KvCache> {
        let mut layer = || Ok(KvLayer { keys: make()?, values: make()?, capacity });
        Ok(KvCache { layers: (0..layers).map(|_| layer()).collect::<Result<_>>()?, capacity })
    }

    /// Bytes of a cache of `capacity` pages.
    pub fn bytes(layers: usize, heads: Heads, capacity: u32) -> u64 {
        let values = u64::from(heads.key_value) * u64::from(capacity) * u64::from(heads.padded().dim);
        2 * layers as u64 * whole(4 * values)
    }

    /// Pages: positions of all sequences there is room for.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// The cache of layer `i`.
    pub fn layer(&self, i: usize) -> &KvLayer {
        &self.layers[i]
    }
}
