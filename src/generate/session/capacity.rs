//! The capacity of a session: rows, positions and pages.

use crate::language::Language;

/// The numbers of rows, positions and pages that a session has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Sequences that are decoded side by side.
    pub rows: u32,
    /// Positions of the longest sequence (of its decoder's part).
    pub positions: u32,
    /// Pages of all sequences together.
    pub pages: u32,
    /// Positions of the longest prompt that an encoder reads; 1 for decoder-only models.
    pub encoded: u32,
    /// Pages of all such prompts together; 1 for decoder-only models.
    pub encoded_pages: u32,
}

/// Capacities are rounded up to multiples of this, so that requests of similar length share a session.
const STEP: u32 = 256;

impl Capacity {
    /// The capacity for answers of `new_tokens` tokens in `rows_per_prompt` rows after each of `prompts` (numbers of
    /// tokens).
    pub fn of(language: &Language, prompts: &[u32], rows_per_prompt: u32, new_tokens: u32) -> Capacity {
        let (longest, all) = (prompts.iter().copied().max().unwrap_or(1), prompts.iter().sum::<u32>());
        let rows = prompts.len() as u32 * rows_per_prompt;
        let own: u32 = prompts.iter().map(|&tokens| language.decoder_length(tokens)).sum();
        Capacity {
            rows,
            positions: language.decoder_length(longest).saturating_add(new_tokens),
            pages: own.saturating_add(rows.saturating_mul(new_tokens)),
            encoded: language.encoder_length(longest).max(1),
            encoded_pages: language.encoder_length(all).max(1),
        }
    }

    /// Tells whether a session of this capacity can serve a request that needs `need`: as many rows as the plan has,
    /// and no more of anything else.
    pub fn holds(&self, need: &Capacity) -> bool {
        self.rows == need.rows
            && self.positions >= need.positions
            && self.pages >= need.pages
            && self.encoded >= need.encoded
            && self.encoded_pages >= need.encoded_pages
    }

    /// The capacity that a session made for this one gets.
    #[must_use]
    pub fn rounded(self, language: &Language) -> Capacity {
        let up = |n: u32| if n > 1 { n.checked_next_multiple_of(STEP).unwrap_or(n) } else { n };
        Capacity {
            rows: self.rows,
            positions: up(self.positions).min(language.max_positions().unwrap_or(u32::MAX)),
            pages: up(self.pages),
            encoded: up(self.encoded),
            encoded_pages: up(self.encoded_pages),
        }
    }
}
