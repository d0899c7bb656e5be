//! The pages that keys and values lie on, and the page of each position of each row.

use crate::language::Language;

/// The pages that a prompt's keys and values lie on, one for each position.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placed {
    /// Pages of what the decoder has read: the prompt, or T5's start token.
    pub own: Vec<u32>,
    /// Pages of what the encoder has read.
    pub encoded: Vec<u32>,
}

impl Placed {
    /// The first pages, for a prompt of `tokens` tokens that has a session for itself; T5's decoder reads `decoder_ids`, or
    /// its start token if there are none.
    pub fn first(language: &Language, tokens: u32, decoder_ids: &[u32]) -> Placed {
        let encoded = language.encoder_length(tokens);
        let own = if decoder_ids.is_empty() { language.decoder_length(tokens) } else { decoder_ids.len() as u32 };
        Placed { own: (0..own).collect(), encoded: (0..encoded).collect() }
    }

    /// Positions that the decoder has read.
    pub fn positions(&self) -> u32 {
        self.own.len() as u32
    }
}

/// The pages of rows that continue one prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageTable {
    prompt: usize,
    rows: Vec<Vec<u32>>,
}

impl PageTable {
    /// The table of `rows` rows that continue a prompt on the pages `prompt`, each with its share of the pages `new`
    /// for what comes after it.
    pub fn new(prompt: &[u32], new: &[u32], rows: usize) -> PageTable {
        let row = |r: usize| prompt.iter().chain(new.iter().skip(r).step_by(rows)).copied().collect();
        PageTable { prompt: prompt.len(), rows: (0..rows).map(row).collect() }
    }

    /// The pages of each row, by position.
    pub fn rows(&self) -> &[Vec<u32>] {
        &self.rows
    }

    /// Row r goes on as row `sources[r]` was, `written` tokens after the prompt.
    pub fn reorder(&mut self, sources: &[usize], written: u32) {
        let (old, end) = (self.rows.clone(), self.prompt + written as usize);
        for (r, &source) in sources.iter().enumerate().filter(|(r, source)| *r != **source) {
            self.rows[r][self.prompt..end].copy_from_slice(&old[source][self.prompt..end]);
        }
    }
}

/// Pages that nobody has.
#[derive(Debug)]
pub struct FreePages {
    /// The next to be taken are the last.
    pages: Vec<u32>,
}

impl FreePages {
    /// All of `count` pages.
    pub fn all(count: u32) -> FreePages {
        FreePages { pages: (0..count).rev().collect() }
    }

    /// The number of pages.
    pub fn count(&self) -> u32 {
        self.pages.len() as u32
    }

    /// Takes `count` pages, of which there must be as many.
    pub fn take(&mut self, count: u32) -> Vec<u32> {
        let first = self.pages.len().checked_sub(count as usize).expect("no more pages than are free are taken");
        let mut taken = self.pages.split_off(first);
        taken.reverse();
        taken
    }

    /// Gives pages back.
    pub fn give_back(&mut self, pages: &[u32]) {
        self.pages.extend(pages.iter().rev());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beams_share_the_prompt_and_change_places_without_copies() {
        let mut table = PageTable::new(&[10, 11, 12], &[13, 14, 15, 16, 17, 18], 2);
        assert_eq!(table.rows(), [[10, 11, 12, 13, 15, 17], [10, 11, 12, 14, 16, 18]]);
        table.reorder(&[1, 1], 2);
        assert_eq!(table.rows(), [[10, 11, 12, 14, 16, 17], [10, 11, 12, 14, 16, 18]]);
        table.reorder(&[1, 0], 3);
        assert_eq!(table.rows(), [[10, 11, 12, 14, 16, 18], [10, 11, 12, 14, 16, 17]]);
    }

    #[test]
    fn pages_are_lent_once_and_in_order() {
        let mut free = FreePages::all(5);
        let (first, second) = (free.take(2), free.take(3));
        assert_eq!((first.as_slice(), second.as_slice(), free.count()), ([0, 1].as_slice(), [2, 3, 4].as_slice(), 0));
        free.give_back(&second);
        free.give_back(&first);
        assert_eq!(free.take(5), [0, 1, 2, 3, 4]);
    }
}
