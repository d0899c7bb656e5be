//! The pages that a prompt's keys and values lie on, and the page of each position of each row.

use crate::language::Language;

/// The pages that a prompt's keys and values lie on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Positions the decoder has read: of the prompt, or T5's start token.
    pub positions: u32,
    /// First of the pages they lie on, one after the other.
    pub page: u32,
    /// Positions the encoder has read.
    pub encoded: u32,
    /// First of their pages.
    pub encoded_page: u32,
}

impl Placed {
    /// The pages of `prompts` (numbers of tokens), one prompt after the other.
    pub fn in_order(language: &Language, prompts: &[u32]) -> Vec<Placed> {
        let mut next = Placed { positions: 0, page: 0, encoded: 0, encoded_page: 0 };
        let place = |&tokens: &u32| {
            let (positions, encoded) = (language.decoder_length(tokens), language.encoder_length(tokens));
            let here = Placed { positions, encoded, ..next };
            next.page += positions;
            next.encoded_page += encoded;
            here
        };
        prompts.iter().map(place).collect()
    }

    /// The first page after the decoder's positions.
    pub fn end(&self) -> u32 {
        self.page + self.positions
    }
}

/// A table that says which page holds each position of each row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageTable {
    prompts: Vec<u32>,
    first: u32,
    width: usize,
    pages: Vec<u32>,
}

impl PageTable {
    /// A table of rows that continue the prompts at `rows`, `width` positions each. What is new in a row lies behind
    /// all prompts.
    pub(super) fn new(rows: &[Placed], width: u32) -> PageTable {
        let first = rows.iter().map(Placed::end).max().unwrap_or(0);
        let width = width as usize;
        let mut pages = vec![0; rows.len() * width];
        for (r, (row, placed)) in pages.chunks_mut(width).zip(rows).enumerate() {
            for (position, page) in row.iter_mut().enumerate() {
                let new = (position as u32).checked_sub(placed.positions);
                *page = new.map_or(placed.page + position as u32, |n| first + n * rows.len() as u32 + r as u32);
            }
        }
        PageTable { prompts: rows.iter().map(|p| p.positions).collect(), first, width, pages }
    }

    /// The pages row by row, as the device has them.
    pub(super) fn pages(&self) -> &[u32] {
        &self.pages
    }

    /// Row r goes on as row `sources[r]` was, `written` tokens after the prompt.
    pub fn reorder(&mut self, sources: &[usize], written: u32) {
        let old = self.pages.clone();
        for (r, &source) in sources.iter().enumerate().filter(|(r, source)| *r != **source) {
            let end = (self.prompts[r] + written) as usize;
            let (from, to) = (source * self.width, r * self.width);
            self.pages[to..to + end].copy_from_slice(&old[from..from + end]);
        }
    }

    /// The first page that no row will use.
    pub fn end(&self, new_tokens: u32) -> u32 {
        self.first + new_tokens * self.prompts.len() as u32
    }
}

/// The pages of the encoder's positions that each of `rows` reads, `width` for a row.
pub(super) fn encoded_pages(rows: &[Placed], width: usize) -> Vec<u32> {
    let mut pages = vec![0; rows.len() * width];
    for (row, placed) in pages.chunks_mut(width).zip(rows) {
        (placed.encoded_page..).zip(row).take(placed.encoded as usize).for_each(|(page, entry)| *entry = page);
    }
    pages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beams_share_the_prompt_and_change_places_without_copies() {
        let prompt = Placed { positions: 3, page: 10, encoded: 0, encoded_page: 0 };
        let mut table = PageTable::new(&[prompt, prompt], 6);
        assert_eq!(table.pages, [10, 11, 12, 13, 15, 17, 10, 11, 12, 14, 16, 18]);
        assert_eq!(table.end(3), 19);
        table.reorder(&[1, 1], 2);
        assert_eq!(table.pages, [10, 11, 12, 14, 16, 17, 10, 11, 12, 14, 16, 18]);
        table.reorder(&[1, 0], 3);
        assert_eq!(table.pages, [10, 11, 12, 14, 16, 18, 10, 11, 12, 14, 16, 17]);
    }
}
