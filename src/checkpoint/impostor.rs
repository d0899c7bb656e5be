//! Content that a failed download saves under a file's name: it is named for what it is, not called a damaged file.

use std::path::Path;

use super::Source;
use crate::error::{Error, Result};

/// Bytes at the beginning of a file that are looked at.
const LOOK: u64 = 64;
/// Beginnings of a pointer file, which holds the name of another file in place of its content.
const POINTERS: [&str; 2] = ["version https://git-lfs.github.com/", "# xet version"];
/// Beginnings of the text of a cache's link, which some copying programs write as a file.
const LINKS: [&str; 2] = ["../../blobs/", "../../../blobs/"];
/// Beginnings of web pages, in lower case.
const PAGES: [&str; 4] = ["<!doctype", "<html", "<?xml", "<head"];
/// Beginnings of a server's refusal, in lower case.
const ANSWERS: [&str; 6] =
    ["{\"error\"", "entry not found", "not found", "404: not found", "invalid username or password", "access to model"];

/// Refuses a file that is something else than its name says. Only formats that never begin so are looked at.
pub(super) fn check(path: &Path, source: &Source, size: u64) -> Result<()> {
    if !path.extension().is_some_and(|end| end == "json" || end == "safetensors") {
        return Ok(());
    }
    let mut room = Vec::new();
    let bytes = source.bytes(0, size.min(LOOK) as usize, &mut room).map_err(|e| Error::io(path, e))?;
    match told(bytes) {
        Some(problem) => Err(Error::NotTheFile { file: path.into(), problem: problem.into() }),
        None => Ok(()),
    }
}

/// Says what a file is by its beginning, if it is not what its name says.
fn told(bytes: &[u8]) -> Option<&'static str> {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_start_matches('\u{feff}').trim_start().to_ascii_lowercase();
    let begins = |all: &[&str]| all.iter().any(|beginning| text.starts_with(beginning));
    if begins(&POINTERS) {
        return Some(
            "is a git-lfs pointer, a few lines in place of the file: run `git lfs pull` in its folder, or fetch the model",
        );
    }
    if begins(&LINKS) {
        return Some(
            "is the text of a link into a cache, not the file: copy the folder again with its links followed (cp -rL), or \
             fetch the model",
        );
    }
    if begins(&PAGES) {
        return Some("is a web page that was saved under this name, not the file: fetch the model");
    }
    begins(&ANSWERS).then_some("is a server's refusal that was saved under this name, not the file: fetch the model")
}

#[cfg(test)]
mod tests {
    use super::told;

    #[test]
    fn pointers_pages_and_answers_are_told_from_files() {
        for (text, want) in [
            ("version https://git-lfs.github.com/spec/v1\noid sha256:0", Some("git lfs pull")),
            ("<!DOCTYPE html>\n<html>", Some("web page")),
            ("\u{feff}\n <HTML lang=en>", Some("web page")),
            ("<?xml version=\"1.0\"?><Error><Code>AccessDenied", Some("web page")),
            ("../../blobs/0a1b", Some("text of a link")),
            ("Entry not found", Some("server's refusal")),
            ("{\"error\":\"Repository not found\"}", Some("server's refusal")),
            ("{\"model_type\": \"instructblip\"}", None),
            ("\u{8}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}{}      ", None),
            ("", None),
        ] {
            let told = told(text.as_bytes());
            assert!(told.is_some() == want.is_some() && told.unwrap_or("").contains(want.unwrap_or("")), "{text}");
        }
    }
}
