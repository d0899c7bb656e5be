//! The hub as the environment has it. Reference: `huggingface_hub.constants` 2.4.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::Hub;
use crate::error::{Error, Result};

impl Hub {
    /// The hub as the environment has it, as Python's tools read it: the folder of [`cache_folder`]; `HF_ENDPOINT`;
    /// `HF_TOKEN`, or the file of `HF_TOKEN_PATH` that `hf auth login` writes, and neither with
    /// `HF_HUB_DISABLE_IMPLICIT_TOKEN`; `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE`; `HF_HUB_DISABLE_SYMLINKS`.
    ///
    /// # Errors
    /// [`Error::Request`] when there is no home directory to keep a cache in, or a value makes no sense.
    pub fn from_env() -> Result<Hub> {
        let mut hub = Hub::new(cache_folder()?.0);
        if let Some(endpoint) = text("HF_ENDPOINT") {
            if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
                let problem = format!("HF_ENDPOINT is {endpoint:?}, which is no address; it begins with https://");
                return Err(Error::request(problem));
            }
            hub.endpoint = endpoint.trim_end_matches('/').into();
        }
        hub.offline = text("HF_HUB_OFFLINE").or(text("TRANSFORMERS_OFFLINE")).is_some_and(|value| is_true(&value));
        hub.links = !text("HF_HUB_DISABLE_SYMLINKS").is_some_and(|value| is_true(&value));
        if !text("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some_and(|value| is_true(&value)) {
            hub.token = text("HF_TOKEN").or(text("HUGGING_FACE_HUB_TOKEN")).and_then(|token| clean(&token));
            if hub.token.is_none() {
                let file = folder("HF_TOKEN_PATH")?.map_or_else(|| Ok(home()?.0.join("token")), Ok)?;
                hub.token = std::fs::read_to_string(file).ok().and_then(|token| clean(&token));
            }
        }
        Ok(hub)
    }
}

/// The folder that the hub's tools share, and what decided on it: `HF_HUB_CACHE`, `HF_HOME`, `XDG_CACHE_HOME` or
/// nothing. A `~` and variables in their values mean what they mean in a shell.
///
/// # Errors
/// [`Error::Request`] when there is no home directory to keep a cache in.
pub fn cache_folder() -> Result<(PathBuf, &'static str)> {
    for name in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"] {
        if let Some(folder) = folder(name)? {
            return Ok((folder, name));
        }
    }
    let (home, decided) = home()?;
    Ok((home.join("hub"), decided))
}

/// The folder of everything that the hub's tools keep, and what decided on it.
fn home() -> Result<(PathBuf, &'static str)> {
    if let Some(folder) = folder("HF_HOME")? {
        return Ok((folder, "HF_HOME"));
    }
    if let Some(folder) = folder("XDG_CACHE_HOME")? {
        return Ok((folder.join("huggingface"), "XDG_CACHE_HOME"));
    }
    let home =
        std::env::home_dir().ok_or_else(|| Error::request("there is no home directory; set HF_HOME to a folder"));
    Ok((home?.join(".cache").join("huggingface"), "the default"))
}

fn set(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

fn text(name: &str) -> Option<String> {
    set(name).and_then(|value| value.into_string().ok())
}

/// A folder that a variable names.
fn folder(name: &str) -> Result<Option<PathBuf>> {
    let Some(value) = set(name) else { return Ok(None) };
    let Some(value) = value.to_str() else { return Ok(Some(value.into())) };
    let home = std::env::home_dir();
    expand(value, home.as_deref(), &text).map(Some).ok_or_else(|| {
        let problem = format!("{name} is {value:?}, and whose home that is cannot be told; write the folder out");
        Error::request(problem)
    })
}

/// `os.path.expandvars(os.path.expanduser(value))`: names that are not set stay as they are written. `None` for another
/// user's home.
fn expand(value: &str, home: Option<&Path>, variable: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let value = match value.strip_prefix('~') {
        None => value.to_string(),
        Some(rest) if rest.is_empty() || rest.starts_with(std::path::is_separator) => {
            format!("{}{rest}", home?.to_str()?)
        }
        Some(_) => return None,
    };
    let (mut expanded, mut rest) = (String::new(), value.as_str());
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        rest = &rest[at..];
        let (name, length) = match rest[1..].strip_prefix('{') {
            Some(inside) => inside.split_once('}').map_or(("", 1), |(name, _)| (name, name.len() + 3)),
            None => {
                let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
                let end = rest[1..].find(|c| !word(c)).map_or(rest.len(), |end| end + 1);
                (&rest[1..end], end)
            }
        };
        expanded.push_str(&variable(name).unwrap_or_else(|| rest[..length].into()));
        rest = &rest[length..];
    }
    Some(PathBuf::from(expanded + rest))
}

/// True for values that mean yes, in either case.
fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str())
}

/// A token without what editors and shells put around it.
fn clean(token: &str) -> Option<String> {
    let token = token.replace(['\r', '\n'], "").trim().to_string();
    Some(token).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks against the values that Python's `os.path` gives, but for the last two.
    #[test]
    fn values_are_expanded_as_pythons_tools_do() {
        let variable = |name: &str| match name {
            "HOME" => Some("/home/me".to_string()),
            "A_1" => Some("x".into()),
            _ => None,
        };
        let expand = |value: &str| expand(value, Some(Path::new("/home/me")), &variable);
        for (value, want) in [
            ("~/hf", "/home/me/hf"),
            ("~", "/home/me"),
            ("$HOME/hf", "/home/me/hf"),
            ("${HOME}/hf", "/home/me/hf"),
            ("/a/$A_1-$A_1/${A_1}b", "/a/x-x/xb"),
            ("/a/~/b", "/a/~/b"),
            ("/a/$NONE/${NONE}/b", "/a/$NONE/${NONE}/b"),
            ("/a/$/${/$$A_1", "/a/$/${/$x"),
            ("/plain", "/plain"),
            ("relative", "relative"),
        ] {
            assert_eq!(expand(value), Some(PathBuf::from(want)), "{value}");
        }
        assert_eq!(expand("~other/hf"), None, "whose home is not looked up");
        assert_eq!(super::expand("~/hf", None, &variable), None);
    }

    #[test]
    fn yes_is_said_in_four_words() {
        assert!(["1", "ON", "yes", "True"].iter().all(|value| is_true(value)));
        assert!(!["", "0", "2", "no", "y"].iter().any(|value| is_true(value)));
        assert_eq!((clean(" hf_x\r\n"), clean(" \n")), (Some("hf_x".into()), None));
    }
}
