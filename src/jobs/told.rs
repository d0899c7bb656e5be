//! Rows told by name, the first of many.

use super::row::Id;

/// A number of rows, with the ids of the first of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The number.
    pub count: u64,
    /// The ids.
    pub first: Vec<String>,
}

impl Told {
    /// Counts a row, and keeps its id while there are fewer than `most`.
    pub(super) fn add(&mut self, id: &Id, most: usize) {
        self.count += 1;
        if self.first.len() < most {
            self.first.push(id.to_string());
        }
    }
}

/// The ids, with a mark where there are more.
impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.first.join(", "))?;
        if self.count > self.first.len() as u64 { f.write_str(", …") } else { Ok(()) }
    }
}
