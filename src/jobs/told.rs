//! Rows and files told by name, the first of many.

use std::collections::HashMap;

use std::fmt::Display;

use super::row::Id;

/// A number of rows or files, with the names of the first of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The number.
    pub count: u64,
    /// The names.
    pub first: Vec<String>,
}

impl Told {
    /// Counts one, and keeps its name while there are fewer than `most`.
    pub(super) fn add(&mut self, name: &dyn Display, most: usize) {
        self.count += 1;
        if self.first.len() < most {
            self.first.push(name.to_string());
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

/// The later ones of rows whose id an earlier one has. They are found by their hashes, and named on another way past them.
pub struct Doubled {
    pub told: Told,
    most: usize,
    /// The hashes, each with whether it was met.
    met: HashMap<u64, bool>,
}

impl Doubled {
    /// Rows of these hashes, of which at most so many are named.
    pub fn new(hashes: Vec<u64>, most: usize) -> Doubled {
        Doubled { told: Told::default(), most, met: hashes.into_iter().map(|hash| (hash, false)).collect() }
    }

    /// Meets a row, whether it is one of them or not.
    pub fn meet(&mut self, id: &Id) {
        if let Some(met) = self.met.get_mut(&id.hash())
            && std::mem::replace(met, true)
        {
            self.told.add(id, self.most);
        }
    }
}
