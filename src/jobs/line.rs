//! Lines of output: one JSON object for each row.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::row::Id;
use super::{Answered, Failure};
use crate::generate::FinishReason;

/// The version of a line's fields.
pub const VERSION: u32 = 1;

/// An answer with what is worth keeping of how it came to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The answer; of choices, the likeliest.
    pub text: String,
    /// Number of tokens in it.
    pub tokens: u32,
    /// The reason why it ended; none where choices were scored.
    pub finish: Option<FinishReason>,
    /// The choices with their scores, in the order they were given.
    pub scores: Option<Vec<Score>>,
    /// SHA-256 of each picture's file.
    pub image_sha256: Vec<String>,
    /// Milliseconds by stage.
    pub ms: Vec<(String, f64)>,
}

/// The likelihood of a choice.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Score {
    /// The choice.
    pub choice: String,
    /// Log-probability per token, which choices are ranked by.
    pub mean: f64,
    /// Log-probability of the whole choice.
    pub sum: f64,
}

/// A line of output. The order of fields is that of the file.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Line {
    /// The row's id.
    pub id: Id,
    /// True if there is an answer.
    pub ok: bool,
    /// The answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Number of tokens in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u32>,
    /// The reason why it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finish: Option<FinishReason>,
    /// Choices with their scores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scores: Option<Vec<Score>>,
    /// The reason why there is no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// True if there may be one another time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<bool>,
    /// SHA-256 of the picture's file, a list for several.
    #[serde(skip_serializing_if = "Value::is_null", default)]
    pub image_sha256: Value,
    /// Bytes of the pictures' files as they were when the row was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_bytes: Option<u64>,
    /// A hash of everything in the row that its answer depends on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The model's fingerprint.
    pub model: String,
    /// [`VERSION`].
    pub v: u32,
    /// Milliseconds by stage. The last field, so that it can be taken off.
    #[serde(skip_serializing_if = "Map::is_empty", default)]
    pub ms: Map<String, Value>,
}

/// The beginning of the times in a line. No text holds this: quotes in texts are escaped.
const TIMES: &str = ",\"ms\":{";

impl Line {
    /// The line of an answer.
    pub fn new(id: Id, answered: Answered, model: &str) -> Line {
        let empty = Line {
            id,
            ok: false,
            text: None,
            tokens: None,
            finish: None,
            scores: None,
            error: None,
            retry: None,
            image_sha256: Value::Null,
            image_bytes: None,
            key: None,
            model: model.into(),
            v: VERSION,
            ms: Map::new(),
        };
        match answered {
            Ok(Finding { text, tokens, finish, scores, image_sha256, ms }) => Line {
                ok: true,
                text: Some(text),
                tokens: Some(tokens),
                finish,
                scores,
                image_sha256: match image_sha256.as_slice() {
                    [] => Value::Null,
                    [only] => only.as_str().into(),
                    several => several.into(),
                },
                // Thousandths are enough, and shorter.
                ms: ms.into_iter().map(|(stage, ms)| (stage, ((ms * 1e3).round() / 1e3).into())).collect(),
                ..empty
            },
            Err(failure) => Line { retry: Some(failure.retry), error: Some(failure), ..empty },
        }
    }

    /// The answer that a line tells of.
    pub fn into_answered(self) -> Answered {
        if let (false, Some(error)) = (self.ok, self.error) {
            return Err(Failure { retry: self.retry.unwrap_or(false), ..error });
        }
        let hash = |value: &Value| value.as_str().unwrap_or_default().to_string();
        Ok(Finding {
            text: self.text.unwrap_or_default(),
            tokens: self.tokens.unwrap_or_default(),
            finish: self.finish,
            scores: self.scores,
            image_sha256: match &self.image_sha256 {
                Value::Null => Vec::new(),
                Value::Array(several) => several.iter().map(hash).collect(),
                only => vec![hash(only)],
            },
            ms: self.ms.into_iter().filter_map(|(stage, ms)| Some((stage, ms.as_f64()?))).collect(),
        })
    }

    /// The line as it is written, with its end.
    pub fn to_text(&self) -> String {
        let mut text = serde_json::to_string(self).expect("no map with other keys than texts");
        text.push('\n');
        text
    }
}

/// Goes through the whole lines of an output, with their offsets and ends. Gives the bytes of a torn one behind them.
pub fn each_line(output: &Path, mut each: impl FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<u64> {
    let (mut reader, mut line, mut offset) = (BufReader::new(File::open(output)?), Vec::new(), 0);
    loop {
        line.clear();
        reader.read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\n") {
            return Ok(line.len() as u64);
        }
        each(offset, &line)?;
        offset += line.len() as u64;
    }
}

/// A line without its times, which differ from run to run.
pub fn without_times(line: &str) -> String {
    match line.rfind(TIMES) {
        Some(at) => format!("{}}}", &line[..at]),
        None => line.into(),
    }
}
