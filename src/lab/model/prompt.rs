//! A prompt to time a language model with.

use crate::generate::PromptInputs;

/// A prompt: the picture's places first, then words.
pub struct Prompt {
    /// Token ids of the whole prompt.
    pub ids: Vec<u32>,
}

impl Prompt {
    /// A prompt of `words` words after `queries` places for a picture, none of them above `vocab_rows`.
    pub fn new(queries: u32, words: u32, vocab_rows: u32) -> Prompt {
        // What stands in the picture's places is replaced.
        Prompt { ids: (0..queries).map(|_| 0).chain((0..words).map(|i| (300 + i % 97) % vocab_rows)).collect() }
    }

    /// Tokens, those of the picture included.
    pub fn len(&self) -> u32 {
        self.ids.len() as u32
    }

    /// The inputs that a session reads.
    pub fn inputs<'a>(&'a self, features: &'a [f32]) -> PromptInputs<'a> {
        PromptInputs { ids: &self.ids, features }
    }
}
