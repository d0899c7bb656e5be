//! Sizes found for an adapter, in the program's cache.

use std::path::{Path, PathBuf};

use anyhow::Result;
use instructblip::hash::fnv1a;
use instructblip::runtime::{AdapterSummary, Tuning, kernels, list_adapters, user_cache};
use serde::{Deserialize, Serialize};

use crate::files::{unwritable, write_bytes};

/// The version of the file's layout. A reader ignores files of other versions.
const FORMAT: u32 = 1;

/// Sizes, with the adapter and kernels that they were found for and the day.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tuned {
    /// The version of the layout: [`FORMAT`].
    format: u32,
    /// Day, as 2026-11-25.
    pub date: String,
    /// The program's version.
    version: String,
    /// The adapter's name.
    pub adapter: String,
    /// Its driver and version.
    driver: String,
    /// A hash of the texts of all kernels.
    shaders: String,
    /// The sizes.
    pub tuning: Tuning,
}

impl Tuned {
    /// Sizes for an adapter and the kernels of this program.
    pub fn new(adapter: &AdapterSummary, date: String, tuning: Tuning) -> Tuned {
        Tuned {
            format: FORMAT,
            date,
            version: env!("CARGO_PKG_VERSION").into(),
            adapter: adapter.name.clone(),
            driver: adapter.driver.clone(),
            shaders: shaders(),
            tuning,
        }
    }

    /// Keeps them for later runs; tells where. `None` where nothing is to be kept.
    ///
    /// # Errors
    /// [`instructblip::Error::Io`].
    pub fn keep(&self, adapter: &AdapterSummary) -> Result<Option<PathBuf>> {
        let Some(folder) = folder() else { return Ok(None) };
        std::fs::create_dir_all(&folder).map_err(|e| unwritable(&folder, e))?;
        let path = folder.join(file_name(adapter));
        write_bytes(&path, format!("{:#}\n", serde_json::to_value(self)?).as_bytes())?;
        Ok(Some(path))
    }

    /// Reads a file, if it is about this adapter, its driver and the kernels of this program, and its sizes can be run.
    fn read(path: &Path, adapter: &AdapterSummary) -> Option<Tuned> {
        let tuned: Tuned = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        (tuned.is_of(adapter) && tuned.tuning.is_valid()).then_some(tuned)
    }

    /// The version may be another as long as the kernels are the same.
    fn is_of(&self, adapter: &AdapterSummary) -> bool {
        let now = Tuned::new(adapter, self.date.clone(), self.tuning);
        now == Tuned { version: now.version.clone(), ..self.clone() }
    }
}

/// The folder of these files.
fn folder() -> Option<PathBuf> {
    user_cache().map(|cache| cache.join("tuning"))
}

/// The sizes that were found for an adapter, if any were.
pub fn of(adapter: &AdapterSummary) -> Option<Tuned> {
    Tuned::read(&folder()?.join(file_name(adapter)), adapter)
}

/// The sizes that were found for the adapter that commands would use. Adapters are listed only if sizes were ever found
/// for one.
pub fn of_chosen(adapter: Option<&str>) -> Option<Tuned> {
    let mut files = std::fs::read_dir(folder()?).ok()?;
    files.next()?.ok()?;
    of(list_adapters(adapter).iter().find(|adapter| adapter.chosen)?)
}

/// Tells apart adapters, drivers and kernels: what was found for others is not found again.
fn file_name(adapter: &AdapterSummary) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = adapter.name.chars().map(plain).take(40).collect();
    let words: Vec<&str> = name.split('-').filter(|word| !word.is_empty()).collect();
    let parts = [&adapter.name, &adapter.backend, &adapter.driver, &shaders()].map(|part| format!("{part}\0"));
    format!("{}-{:016x}.json", words.join("-"), fnv1a(parts.concat().bytes()))
}

/// A hash of the texts of all kernels.
fn shaders() -> String {
    let texts = kernels::all().flat_map(|kernel| kernel.sources.iter()).flat_map(|text| text.bytes());
    format!("{:016x}", fnv1a(texts))
}

#[cfg(test)]
mod tests {
    use instructblip::runtime::AdapterClass;

    use super::*;
    use crate::devices;

    fn adapter(name: &str, driver: &str) -> AdapterSummary {
        AdapterSummary { name: name.into(), driver: driver.into(), ..devices::example() }
    }

    #[test]
    fn files_are_of_one_adapter_with_one_driver() {
        let ours = adapter("A GPU (of 2026)", "a driver 1");
        let name = file_name(&ours);
        assert!(name.starts_with("a-gpu-of-2026-") && name.ends_with(".json"), "{name}");
        assert_ne!(name, file_name(&adapter("A GPU (of 2026)", "a driver 2")));
        assert_ne!(name, file_name(&adapter("Another", "a driver 1")));
    }

    #[test]
    fn what_is_foreign_or_damaged_is_ignored() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tuned.json");
        let ours = adapter("A GPU", "a driver 1");
        let tuned = Tuned::new(&ours, "2026-11-25".into(), Tuning::of(AdapterClass::Gpu));
        let write = |tuned: &Tuned| std::fs::write(&path, serde_json::to_vec(tuned).expect("JSON")).expect("written");
        write(&tuned);
        assert_eq!(Tuned::read(&path, &ours), Some(tuned.clone()));
        assert_eq!(Tuned::read(&path, &adapter("A GPU", "a driver 2")), None);
        write(&Tuned { version: "0.0.1".into(), ..tuned.clone() });
        assert!(Tuned::read(&path, &ours).is_some(), "the kernels are the same");
        write(&Tuned { shaders: "0".into(), ..tuned.clone() });
        assert_eq!(Tuned::read(&path, &ours), None);
        write(&Tuned { tuning: Tuning { vec_workgroup: 5, ..tuned.tuning }, ..tuned.clone() });
        assert_eq!(Tuned::read(&path, &ours), None);
        for damage in ["", "{", "{\"format\": 1}", "\u{0}"] {
            std::fs::write(&path, damage).expect("written");
            assert_eq!(Tuned::read(&path, &ours), None, "{damage:?}");
        }
    }
}
