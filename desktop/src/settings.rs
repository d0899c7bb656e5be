//! Settings, kept from one start to the next: a small JSON file in the user's folder for them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use instructblip::runtime::Tuning;
use serde::{Deserialize, Serialize};

use crate::captions::files::write_at_once;
use crate::captions::paths;
use crate::captions::prompt::CaptionOptions;
use crate::work::Setup;

/// Colours of the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Look {
    /// The system's.
    #[default]
    System,
    /// Dark letters on light.
    Light,
    /// Light letters on dark.
    Dark,
}

/// Smallest and largest size of letters and buttons.
pub const ZOOM: std::ops::RangeInclusive<f32> = 0.5..=3.0;

/// Most prompts that are remembered.
const MOST_PROMPTS: usize = 20;

/// Everything that is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// The colours.
    pub look: Look,
    /// Size of letters and buttons, 1 for the system's.
    pub zoom: f32,
    /// Sides of thumbnails in the grid.
    pub thumbnail: f32,
    /// The model and the way to load it.
    pub setup: Setup,
    /// The way to caption.
    pub caption: CaptionOptions,
    /// The folder or the files that were open last.
    #[serde(with = "paths::list")]
    pub sources: Vec<PathBuf>,
    /// Prompts that were asked, the last one first.
    pub prompts: Vec<String>,
    /// Sizes found for adapters, by what they are for.
    pub tunings: BTreeMap<String, Tuning>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            look: Look::default(),
            zoom: 1.0,
            thumbnail: 140.0,
            setup: Setup::default(),
            caption: CaptionOptions::default(),
            sources: Vec::new(),
            prompts: Vec::new(),
            tunings: BTreeMap::new(),
        }
    }
}

impl Settings {
    /// The settings that a folder keeps; the default where there are none, or where the file is damaged, which is told.
    pub fn read(folder: &Path) -> (Settings, Option<String>) {
        let path = Settings::path(folder);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return (Settings::default(), None),
            Err(e) => return (Settings::default(), Some(format!("{}: cannot be read ({e})", path.display()))),
        };
        match serde_json::from_slice::<Settings>(&bytes) {
            Ok(settings) => (settings.within_bounds(), None),
            Err(e) => {
                let told = format!("{}: is damaged ({e}); the default settings are used", path.display());
                (Settings::default(), Some(told))
            }
        }
    }

    /// A file may say anything.
    fn within_bounds(mut self) -> Settings {
        self.zoom = if self.zoom.is_finite() { self.zoom.clamp(*ZOOM.start(), *ZOOM.end()) } else { 1.0 };
        self.thumbnail = if self.thumbnail.is_finite() { self.thumbnail.clamp(64.0, 320.0) } else { 140.0 };
        self.setup.slots = self.setup.slots.clamp(1, 64);
        self.prompts.truncate(MOST_PROMPTS);
        self.tunings.retain(|_, tuning| tuning.is_valid());
        if self.caption.generation.check().is_err() {
            self.caption.generation = CaptionOptions::default().generation;
        }
        self
    }

    /// Keeps the settings in a folder.
    ///
    /// # Errors
    /// A description of why they cannot be kept, for people.
    pub fn keep(&self, folder: &Path) -> Result<(), String> {
        let told =
            |problem: &dyn std::fmt::Display| format!("{}: settings cannot be kept ({problem})", folder.display());
        std::fs::create_dir_all(folder).map_err(|e| told(&e))?;
        let text = serde_json::to_string_pretty(self).map_err(|e| told(&e))?;
        write_at_once(&Settings::path(folder), (text + "\n").as_bytes())
    }

    fn path(folder: &Path) -> PathBuf {
        folder.join("desktop.json")
    }

    /// Remembers a prompt that was asked.
    pub fn remember(&mut self, prompt: &str) {
        self.prompts.retain(|other| other != prompt);
        self.prompts.insert(0, prompt.into());
        self.prompts.truncate(MOST_PROMPTS);
    }
}

/// The user's folder for settings, where the system has one.
pub fn folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = std::env::home_dir();
    let base = match () {
        () if cfg!(windows) => set("APPDATA"),
        () if cfg!(target_os = "macos") => home.map(|home| home.join("Library").join("Application Support")),
        () => set("XDG_CONFIG_HOME").or_else(|| home.map(|home| home.join(".config"))),
    };
    base.map(|base| base.join("instructblip"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_back_as_they_were_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(Settings::read(folder.path()), (Settings::default(), None));
        let mut settings = Settings { zoom: 2.0, look: Look::Dark, ..Settings::default() };
        settings.setup.weights = Some("q8".into());
        settings.remember("a");
        settings.remember("b");
        settings.remember("a");
        assert_eq!(settings.prompts, ["a", "b"]);
        settings.keep(folder.path()).expect("kept");
        assert_eq!(Settings::read(folder.path()), (settings, None));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn folders_whose_names_are_no_text_are_kept() {
        use std::os::unix::ffi::OsStringExt;
        let folder = tempfile::tempdir().expect("a folder");
        let name = PathBuf::from(std::ffi::OsString::from_vec(b"/a/\xff".to_vec()));
        let mut settings = Settings { sources: vec!["/b".into(), name.clone()], ..Settings::default() };
        settings.setup.source = crate::work::Source::Folder(name);
        settings.keep(folder.path()).expect("kept");
        assert_eq!(Settings::read(folder.path()), (settings, None));
    }

    #[test]
    fn damaged_settings_are_told_and_wild_ones_are_tamed() {
        let folder = tempfile::tempdir().expect("a folder");
        let read = |text: &str| {
            std::fs::write(Settings::path(folder.path()), text).expect("written");
            Settings::read(folder.path())
        };
        let (settings, told) = read("{\"zoom\": ");
        assert_eq!(settings, Settings::default());
        assert!(told.is_some_and(|told| told.contains("is damaged")));
        let (settings, told) = read("{\"zoom\": 1e9, \"unknown\": 1, \"setup\": {\"slots\": 0}, \"thumbnail\": -1}");
        assert_eq!((settings.zoom, settings.thumbnail, settings.setup.slots, told), (3.0, 64.0, 1, None));
    }
}
