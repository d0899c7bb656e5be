//! The manifest beside an output: by what and how it was made.

use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::disk::beside;
use crate::error::{Error, Result};

/// Everything that all answers of an output depend on.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Identity {
    /// The model's fingerprint.
    pub model: String,
    /// The model's name, for people.
    pub name: String,
    /// Settings that change answers, by name.
    pub settings: Map<String, Value>,
    /// The program that asks, with its version. Another version goes on with the same output.
    pub program: String,
}

/// A part of a job's rows: those whose ids have a hash that leaves `index` when divided by `of`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Shard {
    /// The part, from 0.
    pub index: u32,
    /// The number of parts.
    pub of: u32,
}

/// The file.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Manifest {
    #[serde(flatten)]
    pub identity: Identity,
    /// The rows that are the output's.
    pub shard: Shard,
    /// Defaults that rows were completed with, for people: rows keep a hash of what they were asked with.
    pub defaults: Value,
    /// Rows of the whole input.
    pub input_rows: u64,
    /// Rows of this output, those with an answer, and those without.
    pub rows: u64,
    pub ok: u64,
    pub failed: u64,
    /// True if every row has a line.
    pub complete: bool,
    /// The version of lines.
    pub v: u32,
}

impl Default for Shard {
    fn default() -> Shard {
        Shard { index: 0, of: 1 }
    }
}

impl Shard {
    /// True if the row of this hash is in the shard.
    pub fn has(self, hash: u64) -> bool {
        // FNV leaves patterns of similar ids in its bits; these are mixed once more (MurmurHash3's last step).
        let mix = |hash: u64, factor: u64| (hash ^ (hash >> 33)).wrapping_mul(factor);
        let mixed = mix(mix(hash, 0xff51_afd7_ed55_8ccd), 0xc4ce_b9fe_1a85_ec53);
        (mixed ^ (mixed >> 33)) % u64::from(self.of) == u64::from(self.index)
    }

    /// The name of the shard's output in a folder.
    pub fn file_name(self) -> String {
        format!("part-{:05}-of-{:05}.jsonl", self.index, self.of)
    }
}

impl Manifest {
    /// The manifest of an output; `None` if it has none.
    ///
    /// # Errors
    /// [`Error::Request`] for a file that is something else.
    pub fn read(output: &Path) -> Result<Option<Manifest>> {
        let path = beside(output, ".manifest.json");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(path, error)),
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|_| Error::request(format!("{} is no manifest of a job", path.display())))
    }

    /// The manifest as it is written.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("no map with other keys than texts");
        bytes.push(b'\n');
        bytes
    }

    /// Refuses to go on with an output that was made otherwise.
    ///
    /// # Errors
    /// [`Error::Request`] naming what differs.
    pub fn check(&self, output: &Path, identity: &Identity, shard: Shard) -> Result<()> {
        let output = output.display();
        let refuse = |what: String| {
            Err(Error::request(format!(
                "{output} was made with {what}; give another --output, or --force to make it anew"
            )))
        };
        if self.identity.model != identity.model {
            let (then, now) = (&self.identity, identity);
            return refuse(format!("another model ({}, {}; now {}, {})", then.name, then.model, now.name, now.model));
        }
        let names = self.identity.settings.keys().chain(identity.settings.keys());
        let (then, now) = (&self.identity.settings, &identity.settings);
        if let Some(name) = names.into_iter().find(|&name| then.get(name) != now.get(name)) {
            let value = |settings: &Map<String, Value>| settings.get(name).map_or("none".into(), Value::to_string);
            return refuse(format!("other settings ({name}: {}; now {})", value(then), value(now)));
        }
        if self.shard != shard {
            let (then, now) = (self.shard, shard);
            return refuse(format!("shard {}/{}; now {}/{}", then.index, then.of, now.index, now.of));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::Id;

    #[test]
    fn shards_are_about_as_large_and_none_overlap() {
        for of in [2, 7, 128] {
            let mut counts = vec![0; of as usize];
            for i in 0..20_000 {
                let hash = Id::Text(format!("folder/{i:06}.jpg")).hash();
                let own: Vec<u32> = (0..of).filter(|&index| Shard { index, of }.has(hash)).collect();
                assert_eq!(own.len(), 1);
                counts[own[0] as usize] += 1;
            }
            let even = 20_000 / of as i32;
            assert!(counts.iter().all(|&count: &i32| (count - even).abs() < even / 2), "{of}: {counts:?}");
        }
        assert_eq!(Shard { index: 7, of: 128 }.file_name(), "part-00007-of-00128.jsonl");
    }
}
