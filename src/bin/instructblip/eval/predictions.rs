//! The file of answers: what is there already, and what is added.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;
use instructblip::Error;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::questions::Row;
use crate::files::{check_source, hex, read_lines, unwritable};

/// Fields that are ours. Everything else in a line is its question's own.
pub const FIELDS: [&str; 4] = ["image_sha256", "asked", "prediction", "settings"];

/// The refusal of a line that this command did not write.
const NO_PREDICTION: &str = "is no prediction; give another --output, or --force to write over it";

/// Everything that an answer depends on besides the settings.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Contents of the pictures: names are reused, and are relative to the question file.
    pub pictures: Vec<String>,
    /// The prompt as the model gets it, with task and choices in it.
    pub asked: String,
    pub qformer_prompt: Option<String>,
}

/// Answers that there are. A question that was asked several times has as many.
pub struct Known {
    answers: HashMap<Key, Vec<String>>,
    /// Lines that do not say what was asked.
    pub unclear: usize,
}

impl Known {
    /// No answers.
    pub fn nothing() -> Known {
        Known { answers: HashMap::new(), unclear: 0 }
    }

    /// Reads the answers in a file, if there is one. A line torn by an interruption does not count.
    ///
    /// # Errors
    /// [`Error::Request`] for a file of something else, or of answers by other settings.
    pub fn read(path: &Path, settings: &str) -> Result<Known> {
        let mut known = Known::nothing();
        if !path.exists() {
            return Ok(known);
        }
        for (i, line) in read_lines(path)?.iter().enumerate() {
            let refused =
                |problem: &str| Error::Request { problem: format!("{} line {}: {problem}", path.display(), i + 1) };
            let row = match serde_json::from_slice::<Value>(line) {
                Ok(row) => row,
                Err(_) if line.trim_ascii().is_empty() || line.trim_ascii_start().starts_with(b"{") => continue,
                Err(_) => return Err(refused(NO_PREDICTION).into()),
            };
            let text = |name: &str| row.get(name).and_then(Value::as_str).map(str::to_owned);
            let Some(prediction) = text("prediction") else {
                return Err(refused(NO_PREDICTION).into());
            };
            let (Some(asked), Some(pictures)) = (text("asked"), row.get("image_sha256").and_then(hashes)) else {
                known.unclear += 1;
                continue;
            };
            let before = text("settings").unwrap_or_default();
            if before != settings {
                return Err(refused(&format!(
                    "was answered with other settings ({before}; now {settings}); give another --output, or --force to \
                     ask everything again"
                ))
                .into());
            }
            let key = Key { pictures, asked, qformer_prompt: text("qformer_prompt") };
            known.answers.entry(key).or_default().push(prediction);
        }
        // The first line that was written is the first to be taken.
        known.answers.values_mut().for_each(|answers| answers.reverse());
        Ok(known)
    }

    /// True if there are no answers.
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    /// An answer to this question that no other row has taken.
    pub fn take(&mut self, key: &Key) -> Option<String> {
        self.answers.get_mut(key)?.pop()
    }
}

fn hashes(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(one) => Some(vec![one.clone()]),
        Value::Array(all) => all.iter().map(|one| one.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

/// The line of an answer: the row as it was given, and ours.
pub fn line(row: &Row, key: &Key, prediction: &str, settings: &str) -> String {
    let pictures = match key.pictures.as_slice() {
        [only] => json!(only),
        several => json!(several),
    };
    let ours = [pictures, json!(key.asked), json!(prediction), json!(settings)];
    if row.fields.keys().any(|name| FIELDS.contains(&name.as_str())) {
        let mut fields = row.fields.clone();
        fields.extend(FIELDS.map(String::from).into_iter().zip(ours));
        return Value::Object(fields).to_string();
    }
    // The row's own text, as numbers and the order of fields do not survive being parsed.
    let ours: Vec<_> = FIELDS.iter().zip(ours).map(|(name, value)| format!("\"{name}\":{value}")).collect();
    let own = row.text.trim_end().strip_suffix('}').unwrap_or(&row.text).trim_end();
    format!("{own},{}}}", ours.join(","))
}

/// The contents of pictures by path, each read once.
#[derive(Default)]
pub struct Contents(HashMap<PathBuf, String>);

impl Contents {
    /// The hash of a file.
    ///
    /// # Errors
    /// [`Error::Io`], also for what is no regular file.
    pub fn of(&mut self, path: &Path) -> instructblip::Result<String> {
        if let Some(known) = self.0.get(path) {
            return Ok(known.clone());
        }
        check_source(path)?;
        let failed = |source| Error::Io { path: path.into(), source };
        let mut file = std::fs::File::open(path).map_err(failed)?;
        let (mut hasher, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
        loop {
            match file.read(&mut buffer).map_err(failed)? {
                0 => break,
                n => hasher.update(&buffer[..n]),
            }
        }
        let hash = hex(&hasher.finalize());
        self.0.insert(path.into(), hash.clone());
        Ok(hash)
    }
}

/// Opens the file for more answers, or anew.
pub fn open(path: &Path, force: bool) -> Result<std::fs::File> {
    let mut options = std::fs::OpenOptions::new();
    let opened = options.create(true).append(!force).write(true).truncate(force).open(path);
    let mut file = opened.map_err(|e| unwritable(path, e))?;
    let bytes = std::fs::read(path).map_err(|e| unwritable(path, e))?;
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    let last = bytes[whole..].strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes[whole..]);
    // A line torn by an interruption goes, as its question is asked again; one that only lacks its end gets it.
    let mended = match last.is_empty() {
        true => Ok(()),
        false if serde_json::from_slice::<Value>(last).is_ok() => file.write_all(b"\n"),
        // By another handle: on Windows one that appends may not shorten.
        false => std::fs::OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(whole as u64)),
    };
    mended.map_err(|e| unwritable(path, e))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str) -> Row {
        let Ok(Value::Object(fields)) = serde_json::from_str::<Value>(text) else { panic!("{text}") };
        Row {
            fields,
            text: text.into(),
            images: vec!["a.png".into()],
            prompt: "p".into(),
            qformer_prompt: None,
            choices: Vec::new(),
            answers: vec!["x".into()],
            group: None,
            place: String::new(),
        }
    }

    fn key(asked: &str) -> Key {
        Key { pictures: vec!["00ff".into()], asked: asked.into(), qformer_prompt: None }
    }

    #[test]
    fn rows_keep_their_own_fields_as_they_were() {
        let ours = r#""image_sha256":"00ff","asked":"P","prediction":"y","settings":"s"}"#;
        let own = r#"{"id": 12345678901234567890123, "z": 1.0, "a": {"b": [1e3]} "#;
        assert_eq!(line(&row(&format!("{own}}}\r")), &key("P"), "y", "s"), format!("{},{ours}", own.trim_end()));
        let again = line(&row(r#"{"id": 1, "prediction": "old"}"#), &key("P"), "y", "s");
        assert_eq!(again.matches("prediction").count(), 1);
        assert!(again.contains(r#""prediction":"y""#) && again.contains(r#""id":1"#), "{again}");
    }

    #[test]
    fn answers_are_taken_by_what_was_asked_and_once_each() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("out.jsonl");
        let lines = ["P", "Q", "P"].map(|asked| line(&row("{\"a\":1}"), &key(asked), asked, "s"));
        std::fs::write(&path, format!("\u{feff}{}\r\n{{\"torn", lines.join("\r\n"))).expect("written");
        let mut known = Known::read(&path, "s").expect("predictions");
        let taken = ["P", "R", "P", "P", "Q"].map(|asked| known.take(&key(asked)));
        assert_eq!(taken.map(|answer| answer.is_some()), [true, false, true, false, true]);
        let other = Known::read(&path, "t").err().expect("other settings").to_string();
        assert!(other.contains("line 1: was answered with other settings (s; now t)"), "{other}");
        // Written before lines said what was asked.
        std::fs::write(&path, r#"{"image": "a.png", "prompt": "P", "prediction": "P"}"#).expect("written");
        assert_eq!(Known::read(&path, "s").expect("predictions").unclear, 1);
    }
}
