//! A prompt to time a language model with.

use crate::error::Result;
use crate::generate::PromptInputs;
use crate::runtime::{Category, Device, Tensor};

/// A prompt on the device: the picture's placeholders first, then words.
pub struct Prompt {
    /// Token ids of the whole prompt.
    pub ids: Vec<u32>,
    on_device: Tensor,
    placeholders: Tensor,
}

impl Prompt {
    /// A prompt of `words` words after `queries` places for a picture, none of them above `vocab_rows`.
    pub fn new(device: &Device, queries: u32, words: u32, vocab_rows: u32) -> Result<Prompt> {
        let placeholders: Vec<u32> = (0..queries).collect();
        // What stands in the picture's placeholders is replaced.
        let ids: Vec<u32> =
            placeholders.iter().map(|_| 0).chain((0..words).map(|i| (300 + i % 97) % vocab_rows)).collect();
        Ok(Prompt {
            on_device: device.tensor(Category::Io, "ids", 1, ids.len() as u32, &ids)?,
            placeholders: device.tensor(Category::Io, "placeholders", 1, queries, &placeholders)?,
            ids,
        })
    }

    /// Tokens, those of the picture included.
    pub fn len(&self) -> u32 {
        self.ids.len() as u32
    }

    /// The inputs that a session reads.
    pub fn inputs<'a>(&'a self, features: &'a Tensor) -> PromptInputs<'a> {
        PromptInputs { ids: &self.on_device, features, placeholders: &self.placeholders }
    }
}
