//! Compiled kernels: the program's cache they are kept in, and what is said while they compile.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use instructblip::runtime::{CompileHook, Compiling};

use crate::progress::{Progress, say};

/// The shortest compiling that is shown.
const NOTICEABLE: Duration = Duration::from_millis(300);

/// A kernel that takes this long is named: its driver may never end.
const LONG: Duration = Duration::from_secs(60);

/// The program's cache: `INSTRUCTBLIP_CACHE`, which may be `off`, or a part of the user's.
pub fn cache() -> Option<PathBuf> {
    choose(|name| std::env::var_os(name), std::env::home_dir())
}

/// The folder compiled kernels are kept in.
pub fn folder() -> Option<PathBuf> {
    cache().map(|cache| cache.join("pipelines"))
}

fn choose(variable: impl Fn(&str) -> Option<OsString>, home: Option<PathBuf>) -> Option<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    Some(match set("INSTRUCTBLIP_CACHE") {
        Some(off) if off.as_os_str() == "off" => return None,
        Some(folder) => folder,
        None if cfg!(windows) => set("LOCALAPPDATA")?.join("instructblip"),
        None if cfg!(target_os = "macos") => home?.join("Library").join("Caches").join("instructblip"),
        // Relative ones are to be ignored, says the specification.
        None => match set("XDG_CACHE_HOME").filter(|folder| folder.is_absolute()) {
            Some(caches) => caches.join("instructblip"),
            None => home?.join(".cache").join("instructblip"),
        },
    })
}

/// Shows on stderr that kernels compile when that takes a while, and names one that takes very long.
pub fn hook(quiet: bool) -> Option<CompileHook> {
    let shown = Mutex::new(Shown::default());
    let tell = move |now: &Compiling| {
        if let Ok(mut shown) = shown.lock() {
            shown.tell(now);
        }
    };
    (!quiet).then(|| CompileHook::new(tell))
}

#[derive(Default)]
struct Shown {
    progress: Option<Progress>,
    named: Option<&'static str>,
}

impl Shown {
    fn tell(&mut self, now: &Compiling) {
        let Some((kernel, time)) = now.longest else {
            if let Some(mut progress) = self.progress.take() {
                progress.count(now.done as u64);
                progress.clear();
            }
            return;
        };
        if now.elapsed > NOTICEABLE {
            let new = || Progress::counting(false, "kernels compiled", Some(now.total as u64));
            self.progress.get_or_insert_with(new).count(now.done as u64);
        }
        if time > LONG && self.named != Some(kernel) {
            self.named = Some(kernel);
            let line = format!("the driver has been compiling kernel {kernel} for {} s", LONG.as_secs());
            self.progress.as_ref().map_or_else(|| say(&line), |progress| progress.note(&line));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_the_users_unless_the_environment_says_another() {
        let folder = |set: &[(&str, &str)]| {
            let set: Vec<(String, OsString)> = set.iter().map(|&(name, value)| (name.into(), value.into())).collect();
            let variable = move |name: &str| set.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
            choose(variable, Some(PathBuf::from("/home/me")))
        };
        assert_eq!(folder(&[("INSTRUCTBLIP_CACHE", "off")]), None);
        assert_eq!(folder(&[("INSTRUCTBLIP_CACHE", "/c")]), Some(PathBuf::from("/c")));
        if cfg!(all(unix, not(target_os = "macos"))) {
            let own = Some(PathBuf::from("/home/me/.cache/instructblip"));
            assert_eq!(folder(&[]), own);
            assert_eq!(folder(&[("INSTRUCTBLIP_CACHE", ""), ("XDG_CACHE_HOME", "relative")]), own);
            assert_eq!(folder(&[("XDG_CACHE_HOME", "/caches")]), Some(PathBuf::from("/caches/instructblip")));
            assert_eq!(choose(|_| None, None), None);
        }
    }
}
