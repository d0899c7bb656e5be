//! The part of the environment that matters: variables, and the folder that models are kept in.

use std::path::{Path, PathBuf};

/// Beginnings of the names of variables that change what this program does.
const PREFIXES: [&str; 10] = [
    "DRI_PRIME",
    "HF_",
    "HUGGING",
    "INSTRUCTBLIP_",
    "LP_",
    "MESA_",
    "TRANSFORMERS_OFFLINE",
    "VK_",
    "WGPU_",
    "XDG_CACHE_HOME",
];

/// Parts of names whose values are nobody's business.
const SECRETS: [&str; 4] = ["TOKEN", "SECRET", "PASSWORD", "KEY"];

/// Variables that matter among `all`, by name, secrets hidden.
pub fn variables(all: impl Iterator<Item = (String, String)>) -> Vec<(String, String)> {
    let matters = |name: &str| PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    let mut found: Vec<(String, String)> = all.filter(|(name, _)| matters(name)).map(hide).collect();
    found.sort();
    found
}

fn hide((name, value): (String, String)) -> (String, String) {
    let upper = name.to_uppercase();
    // An address may hold a password, too: https://user:password@host.
    let secret = SECRETS.iter().any(|part| upper.contains(part)) || (value.contains("://") && value.contains('@'));
    (name, if secret { "(set, not shown)".into() } else { value })
}

/// The variables of this process. Values that are no Unicode are shown as well as they can be.
pub fn process_variables() -> Vec<(String, String)> {
    let text = |s: std::ffi::OsString| s.to_string_lossy().into_owned();
    variables(std::env::vars_os().map(|(name, value)| (text(name), text(value))))
}

/// The folder the hub's tools share, and what decided on it.
pub fn cache_folder() -> Option<(PathBuf, &'static str)> {
    #[cfg(feature = "hub")]
    return instructblip::hub::cache_folder().ok();
    #[cfg(not(feature = "hub"))]
    None
}

/// Bytes of all files in a folder. Links are not followed: the hub's snapshots are links to what is counted anyway.
pub fn folder_bytes(folder: &Path) -> u64 {
    let (mut bytes, mut folders) = (0, vec![folder.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => folders.push(entry.path()),
                Ok(metadata) if metadata.is_file() => bytes += metadata.len(),
                _ => {}
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_matter_are_shown_and_secrets_are_not() {
        let all = [
            ("HF_TOKEN", "hf_abc"),
            ("HF_ENDPOINT", "https://me:hunter2@mirror"),
            ("HF_HOME", "/models"),
            ("WGPU_BACKEND", "vulkan"),
            ("INSTRUCTBLIP_API_KEY", "sesame"),
            ("HOME", "/home/me"),
        ];
        let found = variables(all.into_iter().map(|(name, value)| (name.to_string(), value.to_string())));
        let shown: Vec<String> = found.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let hidden = "(set, not shown)";
        let want = [
            format!("HF_ENDPOINT={hidden}"),
            "HF_HOME=/models".into(),
            format!("HF_TOKEN={hidden}"),
            format!("INSTRUCTBLIP_API_KEY={hidden}"),
            "WGPU_BACKEND=vulkan".into(),
        ];
        assert_eq!(shown, want);
    }

    #[test]
    fn a_folder_is_as_large_as_its_files() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("blobs")).expect("a folder");
        std::fs::write(folder.path().join("blobs/a"), [0; 1000]).expect("a file");
        std::fs::write(folder.path().join("b"), [0; 24]).expect("a file");
        #[cfg(unix)]
        std::os::unix::fs::symlink(folder.path().join("blobs"), folder.path().join("link")).expect("a link");
        assert_eq!(folder_bytes(folder.path()), 1024);
        assert_eq!(folder_bytes(&folder.path().join("nothing")), 0);
    }
}
