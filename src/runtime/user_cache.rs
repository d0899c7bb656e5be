//! The user's folder for what can be made again: compiled kernels, and the sizes that suit an adapter.

use std::ffi::OsString;
use std::path::PathBuf;

/// The folder that the program `instructblip` keeps in the user's cache, or `INSTRUCTBLIP_CACHE`; `None` where that is
/// `off`, or where the user has no folders.
pub fn user_cache() -> Option<PathBuf> {
    choose(|name| std::env::var_os(name), std::env::home_dir())
}

/// The folder of [`user_cache`] for compiled kernels, which all programs of this user may share: for
/// [`DeviceOptions::cache`](super::DeviceOptions::cache).
pub fn kernel_cache() -> Option<PathBuf> {
    user_cache().map(|cache| cache.join("pipelines"))
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
