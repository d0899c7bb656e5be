//! The tensors that a session keeps and its prompts take: on a device, or as shapes alone, where only sizes are wanted.
//! The session and the plan of its memory are made by the same lines.

use std::cell::Cell;

use super::capacity::Capacity;
use crate::error::Result;
use crate::language::{Cached, Caches, KvCache, Language};
use crate::runtime::ops::attention::Rows;
use crate::runtime::recorder::Recorder;
use crate::runtime::{Caps, Category, Device, Tensor};

/// A source of tensors, which has a device or not, and counts the bytes of what it gave.
pub struct Allocator<'a> {
    caps: Caps,
    device: Option<&'a Device>,
    kv_bytes: Cell<u64>,
    io_bytes: Cell<u64>,
}

impl<'a> Allocator<'a> {
    /// A source of tensors on `device`.
    pub fn on(device: &'a Device) -> Allocator<'a> {
        Allocator { device: Some(device), ..Allocator::without_device(device.caps()) }
    }

    /// A source of tensors without memory, for recordings that no device will run.
    pub fn without_device(caps: Caps) -> Allocator<'a> {
        Allocator { caps, device: None, kv_bytes: Cell::new(0), io_bytes: Cell::new(0) }
    }

    /// An empty recording for the device.
    pub fn recorder(&self) -> Recorder {
        Recorder::new(self.caps)
    }

    /// Bytes of the caches so far.
    pub fn kv_bytes(&self) -> u64 {
        self.kv_bytes.get()
    }

    /// Bytes of all other tensors so far.
    pub fn io_bytes(&self) -> u64 {
        self.io_bytes.get()
    }

    /// A tensor of zeros.
    pub fn zeros(&self, label: &str, rows: u32, cols: u32) -> Result<Tensor> {
        let tensor = match self.device {
            Some(device) => device.zeros(Category::Io, label, rows, cols)?,
            None => Tensor::unbacked(rows, cols),
        };
        self.io_bytes.set(self.io_bytes() + tensor.buffer_bytes());
        Ok(tensor)
    }

    /// A tensor holding `values`, row by row.
    pub fn tensor(&self, label: &str, cols: u32, values: &[u32]) -> Result<Tensor> {
        let tensor = self.zeros(label, values.len() as u32 / cols, cols)?;
        self.device.iter().for_each(|device| device.write(&tensor, values));
        Ok(tensor)
    }

    /// Token ids as one row.
    pub fn ids(&self, ids: &[u32]) -> Result<Tensor> {
        self.tensor("ids", ids.len() as u32, ids)
    }

    /// The pages of one sequence as one row.
    pub fn pages(&self, pages: &[u32]) -> Result<Tensor> {
        self.tensor("pages", pages.len() as u32, pages)
    }

    /// Image features of `width` channels.
    pub fn features(&self, width: u32, values: &[f32]) -> Result<Tensor> {
        let tensor = self.zeros("features", values.len() as u32 / width, width)?;
        self.device.iter().for_each(|device| device.write(&tensor, values));
        Ok(tensor)
    }

    /// The pages of several sequences, a row for each.
    pub fn sequences(&self, pages: &[&[u32]]) -> Result<Tensor> {
        let longest = pages.iter().map(|pages| pages.len()).max().unwrap_or(0);
        let padded =
            |pages: &&[u32]| pages.iter().copied().chain(std::iter::repeat(0)).take(longest).collect::<Vec<_>>();
        self.tensor("pages", longest as u32, &pages.iter().flat_map(padded).collect::<Vec<_>>())
    }

    /// The places of `count` rows of one sequence, the position of row i being `position(i)`.
    pub fn places(&self, count: u32, position: impl Fn(u32) -> u32) -> Result<Tensor> {
        let places: Vec<u32> = (0..count).flat_map(|i| [position(i), 0]).collect();
        self.tensor("places", 2, &places)
    }

    fn cache(&self, language: &Language, pages: u32) -> Result<KvCache> {
        let (layers, heads, format) = (language.num_layers(), language.heads(), language.kv_format(&self.caps));
        let cache = match self.device {
            Some(device) => KvCache::new(device, layers, heads, pages, format)?,
            None => KvCache::unbacked(layers, heads, pages, format),
        };
        self.kv_bytes.set(self.kv_bytes() + cache.bytes());
        Ok(cache)
    }
}

/// A cache, and the rows of a decode step over it.
#[derive(Debug)]
pub struct Table {
    /// Keys and values.
    pub cache: KvCache,
    /// The rows.
    pub rows: Rows,
}

impl Table {
    fn new(allocator: &Allocator<'_>, language: &Language, rows: u32, positions: u32, pages: u32) -> Result<Table> {
        Ok(Table {
            cache: allocator.cache(language, pages)?,
            rows: Rows {
                places: allocator.zeros("places", rows, 2)?,
                pages: allocator.zeros("pages", rows, positions)?,
                prompts: None,
            },
        })
    }

    fn cached(&self) -> Cached<'_> {
        Cached { cache: &self.cache, rows: &self.rows }
    }
}

/// The tensors that a session keeps from step to step.
#[derive(Debug)]
pub struct Tables {
    /// The decoder's own keys and values.
    pub own: Table,
    /// The keys and values of the encoder's output, where there is an encoder.
    pub cross: Option<Table>,
    /// `[1, rows]`: the tokens that the next step reads.
    pub token: Tensor,
}

impl Tables {
    /// The tables of a session of this capacity.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory), [`Error::DoesNotFit`](crate::Error::DoesNotFit).
    pub fn new(allocator: &Allocator<'_>, language: &Language, capacity: Capacity) -> Result<Tables> {
        let Capacity { rows, positions, pages, encoded, encoded_pages } = capacity;
        let own = Table::new(allocator, language, rows, positions, pages)?;
        let cross = match language.is_encoder_decoder() {
            true => Some(Table::new(allocator, language, rows, encoded, encoded_pages)?),
            false => None,
        };
        Ok(Tables { own, cross, token: allocator.zeros("token", 1, rows)? })
    }

    /// The caches as a decode step reads them.
    pub fn caches(&self) -> Caches<'_> {
        Caches { own: self.own.cached(), cross: self.cross.as_ref().map(Table::cached) }
    }
}
