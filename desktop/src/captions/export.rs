//! All captions in one file: JSON lines, as data sets keep them beside pictures, or CSV.

use std::path::Path;

use serde_json::json;

use super::files::write_at_once;

/// The file's layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// An object a line, `{"file_name": …, "text": …}`.
    JsonLines,
    /// A header `file_name,text` and a row a picture, after RFC 4180.
    Csv,
}

/// Writes names and captions of pictures.
///
/// # Errors
/// A description of why it cannot be written, for people.
pub fn export(path: &Path, format: Format, rows: &[(String, String)]) -> Result<(), String> {
    let mut text = String::new();
    if format == Format::Csv {
        text.push_str("file_name,text\r\n");
    }
    for (name, caption) in rows {
        match format {
            Format::JsonLines => text.push_str(&format!("{}\n", json!({"file_name": name, "text": caption}))),
            Format::Csv => text.push_str(&format!("{},{}\r\n", quoted(name), quoted(caption))),
        }
    }
    write_at_once(path, text.as_bytes())
}

fn quoted(field: &str) -> String {
    match field.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_written_in_both_layouts() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("captions");
        let rows = [("a.png".to_string(), "a \"red\" cat, grass".to_string()), ("b.png".into(), "é".into())];
        let written = |format| {
            export(&path, format, &rows).expect("written");
            std::fs::read_to_string(&path).expect("a text")
        };
        assert_eq!(written(Format::Csv), "file_name,text\r\na.png,\"a \"\"red\"\" cat, grass\"\r\nb.png,é\r\n");
        let lines = written(Format::JsonLines);
        let first: serde_json::Value = serde_json::from_str(lines.lines().next().expect("a line")).expect("JSON");
        assert_eq!((first["file_name"].as_str(), first["text"].as_str()), (Some("a.png"), Some(rows[0].1.as_str())));
    }
}
