//! Names that may become paths and addresses. Everything that a user types or a server says is checked here first.

use crate::checkpoint::names::is_plain;
use crate::error::{Error, Result};

const NAME_CHARACTERS: usize = 96;

/// True if `text` is `digits` hexadecimal digits: a commit has 40, a sha256 has 64.
pub(super) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.chars().all(|c| c.is_ascii_hexdigit() && !c.is_ascii_uppercase())
}

/// Checks that a repository is named as the hub allows, which makes its folder's name unique.
pub(super) fn check_repo(repo: &str) -> Result<()> {
    let part = |part: &str| is_plain(part) && !part.starts_with('-') && !part.ends_with(['-', '.']);
    let fine = repo.split_once('/').is_some_and(|(owner, name)| part(owner) && part(name));
    match fine && repo.len() <= NAME_CHARACTERS && !repo.contains("--") && !repo.contains("..") {
        true => Ok(()),
        false => Err(Error::request(format!(
            "{repo:?} is no name of a repository; one is owner/name, such as Salesforce/instructblip-vicuna-7b"
        ))),
    }
}

/// Checks that a revision is a branch, a tag or a commit; branches may have slashes.
pub(super) fn check_revision(revision: &str) -> Result<()> {
    match revision.len() <= 255 && revision.split('/').all(|part| is_plain(part) && !part.contains("..")) {
        true => Ok(()),
        false => Err(Error::request(format!("{revision:?} is no revision; one is a branch, a tag or a commit"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_the_hub_become_paths() {
        for fine in ["Salesforce/instructblip-vicuna-7b", "a/b", "a_1/b.c", "A-b/c_d"] {
            assert!(check_repo(fine).is_ok(), "{fine}");
        }
        let long = format!("a/{}", "b".repeat(96));
        for odd in [
            "", "a", "/", "a/", "/b", "a/b/c", "../x", "a/..", "a/../b", "./b", "a/.b", "a--b/c", "a/b--c", "a/b.",
            "-a/b", "a\\b/c", "C:/x", "a/b\n", "a/b c", "a/é", "a/b?x", "a/b#x", "a/%2e", "~/x", &long,
        ] {
            assert!(check_repo(odd).is_err(), "{odd:?}");
        }
        assert!(check_revision("refs/pr/1").is_ok() && check_revision("v1.0").is_ok());
        for odd in ["", "..", "../x", "a/../b", "a//b", "/a", ".git", "a b", "a?b", "a\\b"] {
            assert!(check_revision(odd).is_err(), "{odd:?}");
        }
        assert!(is_hex(&"0a".repeat(20), 40) && !is_hex(&"0A".repeat(20), 40) && !is_hex("..", 2));
    }
}
