//! A row of input: its id, its pictures, and what is asked about them.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Failure;
use crate::error::Result;
use crate::generate::GenerateOptions;
use crate::hash::fnv1a;

/// Longest line: a picture of 96 MB in base64.
pub const MAX_LINE_BYTES: usize = 128 << 20;

/// A row's id, as it was given: a text or a whole number.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Id {
    /// A whole number.
    Number(i64),
    /// One beyond those.
    Large(u64),
    /// A text.
    Text(String),
}

impl Id {
    /// A hash of the id, the same everywhere; 7 and "7" are two ids.
    pub fn hash(&self) -> u64 {
        let number = |text: String| fnv1a([0].into_iter().chain(text.into_bytes()));
        match self {
            Id::Text(text) => fnv1a(text.bytes()),
            Id::Number(n) => number(n.to_string()),
            Id::Large(n) => number(n.to_string()),
        }
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Id::Text(text) => write!(f, "{text:?}"),
            Id::Number(n) => write!(f, "{n}"),
            Id::Large(n) => write!(f, "{n}"),
        }
    }
}

/// A question, ready to be asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// One picture, or the frames of a video.
    pub pictures: Vec<Picture>,
    /// The prompt as the model gets it.
    pub prompt: String,
    /// The text that the Q-Former reads instead.
    pub qformer_prompt: Option<String>,
    /// Answers to be scored; none if one is to be generated.
    pub choices: Vec<String>,
    /// The options of generation.
    pub options: GenerateOptions,
}

/// A picture that has not been looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Picture {
    /// A file.
    File(PathBuf),
    /// The contents of one, with a name for messages.
    Bytes {
        /// The name.
        name: String,
        /// The contents.
        bytes: Vec<u8>,
    },
}

/// The parts that rows do not say themselves.
#[derive(Default)]
pub struct Defaults {
    /// The text of rows without a prompt.
    pub prompt: String,
    /// The text that the Q-Former reads for rows that name none.
    pub qformer_prompt: Option<String>,
    /// The choices of rows without any.
    pub choices: Vec<String>,
    /// Options that rows change by their `params`.
    pub options: GenerateOptions,
    /// The function that makes a prompt of a row's text and choices, if it is more than the text.
    pub wording: Option<Wording>,
    /// The name of that function, for the manifest.
    pub task: Option<String>,
}

/// A function that words a prompt, given a row's text and choices.
pub type Wording = Box<dyn Fn(&str, &[String]) -> Result<Worded>>;

/// A prompt, and the choices that are to be scored after it.
pub struct Worded {
    /// The prompt as the model gets it.
    pub prompt: String,
    /// The choices; none if an answer is to be generated.
    pub choices: Vec<String>,
}

/// A row: its id, and what it asks or why it asks nothing.
pub struct Row {
    /// The id.
    pub id: Id,
    /// The question, or the reason why it is none.
    pub asked: std::result::Result<Asked, Failure>,
    /// A hash of everything written in the row that its answer depends on.
    pub key: u64,
}

/// A function of a row that says whether to go on.
pub type Each<'a> = &'a mut dyn FnMut(Row) -> Result<ControlFlow<()>>;

/// The contents of a good row.
pub struct Asked {
    pub pictures: Vec<Given>,
    pub prompt: String,
    pub qformer_prompt: Option<String>,
    pub choices: Vec<String>,
    pub options: GenerateOptions,
}

/// A picture as a row gives it.
pub enum Given {
    /// The path as it is written, and where that is.
    File { written: String, path: PathBuf },
    /// Contents in base64.
    Base64(String),
    /// A file in an archive; its contents where they were wanted.
    Member { name: String, size: u64, bytes: Vec<u8> },
}

impl Row {
    /// Reads a row from a line; `place` stands in for the id of a row that has none and no path. Paths begin at `folder`.
    pub fn parse(line: &[u8], place: &str, folder: &Path, defaults: &Defaults) -> Row {
        let bad = |id, problem: String| {
            let key = fnv1a(line.iter().copied());
            Row { id, asked: Err(Failure::new("row", problem)), key }
        };
        let place = || Id::Text(place.into());
        let fields = match std::str::from_utf8(line).map(serde_json::from_str) {
            Ok(Ok(Value::Object(fields))) => fields,
            Ok(_) => return bad(place(), "is not a JSON object".into()),
            Err(_) => return bad(place(), "is not UTF-8 text".into()),
        };
        let pictures = pictures(&fields, folder);
        let id = match (fields.get("id"), &pictures) {
            (None | Some(Value::Null), Ok(pictures)) => match pictures.first() {
                Some(Given::File { written, .. }) => Id::Text(written.clone()),
                _ => place(),
            },
            (None | Some(Value::Null), Err(_)) => place(),
            (Some(id), _) => match Id::deserialize(id) {
                Ok(id) => id,
                Err(_) => return bad(place(), "\"id\" is neither a text nor a whole number".into()),
            },
        };
        match pictures.and_then(|pictures| Asked::new(&fields, pictures, defaults)) {
            Ok(asked) => Row { id, key: asked.key(), asked: Ok(asked) },
            Err(problem) => bad(id, problem),
        }
    }

    /// The row of a line that is too long to be read.
    pub fn too_long(place: &str) -> Row {
        let problem = format!("has more than {MAX_LINE_BYTES} bytes");
        Row { id: Id::Text(place.into()), asked: Err(Failure::new("row", problem)), key: 0 }
    }

    /// The row of a picture file.
    pub fn picture(id: &str, path: &Path, defaults: &Defaults) -> Row {
        let given = Given::File { written: id.into(), path: path.into() };
        Row::of(id, vec![given], &Map::new(), defaults)
    }

    /// A row of these pictures, with what other fields say.
    pub fn of(id: &str, pictures: Vec<Given>, fields: &Map<String, Value>, defaults: &Defaults) -> Row {
        let id = Id::Text(id.into());
        match Asked::new(fields, pictures, defaults) {
            Ok(asked) => Row { id, key: asked.key(), asked: Ok(asked) },
            Err(problem) => {
                let key = fnv1a(Value::Object(fields.clone()).to_string().into_bytes());
                Row { id, asked: Err(Failure::new("row", problem)), key }
            }
        }
    }

    /// Bytes of the row's picture files, where all of them are there.
    pub fn image_bytes(&self) -> Option<u64> {
        let size = |given: &Given| match given {
            Given::File { path, .. } => Some(std::fs::metadata(path).ok()?.len()),
            Given::Base64(text) => Some(text.len() as u64),
            Given::Member { size, .. } => Some(*size),
        };
        self.asked.as_ref().ok()?.pictures.iter().map(size).sum()
    }

    /// The first picture's file, if it is one.
    pub fn file(&self) -> Option<&Path> {
        match self.asked.as_ref().ok()?.pictures.first()? {
            Given::File { path, .. } => Some(path),
            _ => None,
        }
    }
}

impl Asked {
    fn new(
        fields: &Map<String, Value>,
        pictures: Vec<Given>,
        defaults: &Defaults,
    ) -> std::result::Result<Asked, String> {
        if pictures.is_empty() {
            return Err("lacks \"image\"".into());
        }
        let text = text(fields, "prompt")?.unwrap_or_else(|| defaults.prompt.clone());
        let qformer_prompt = self::text(fields, "qformer_prompt")?.or_else(|| defaults.qformer_prompt.clone());
        let choices = match fields.get("choices") {
            None | Some(Value::Null) => defaults.choices.clone(),
            Some(choices) => {
                Vec::<String>::deserialize(choices).map_err(|_| "\"choices\" is not a list of texts".to_string())?
            }
        };
        let options = match fields.get("params") {
            None | Some(Value::Null) => defaults.options.clone(),
            Some(Value::Object(params)) => defaults.options.with_params(params).map_err(|error| error.to_string())?,
            Some(_) => return Err("\"params\" is not an object".into()),
        };
        if options.num_return_sequences > 1 {
            return Err("\"num_return_sequences\" is more than 1: a row has one answer".into());
        }
        if options.logprobs.is_some() {
            return Err("\"logprobs\" are not part of a row's line: leave them out".into());
        }
        let Worded { prompt, choices } = match &defaults.wording {
            Some(wording) => wording(&text, &choices).map_err(|error| error.to_string())?,
            None => Worded { prompt: text, choices },
        };
        Ok(Asked { pictures, prompt, qformer_prompt, choices, options })
    }

    /// A hash of everything that the answer depends on, but for the contents of picture files.
    fn key(&self) -> u64 {
        let names = self.pictures.iter().map(|given| match given {
            Given::File { written, .. } => written.as_str(),
            Given::Base64(text) => text,
            Given::Member { name, .. } => name,
        });
        let names: Vec<&str> = names.collect();
        let all = (names, &self.prompt, &self.qformer_prompt, &self.choices, &self.options);
        fnv1a(serde_json::to_vec(&all).expect("no map with other keys than texts"))
    }

    /// The question, with its pictures' contents where they came with the row.
    pub fn into_question(self, id: &Id) -> std::result::Result<Question, Failure> {
        let Asked { pictures, prompt, qformer_prompt, choices, options } = self;
        let picture = |given| match given {
            Given::File { path, .. } => Ok(Picture::File(path)),
            Given::Member { name, bytes, .. } => Ok(Picture::Bytes { name, bytes }),
            Given::Base64(text) => match BASE64_STANDARD.decode(text) {
                Ok(bytes) => Ok(Picture::Bytes { name: format!("the picture of {id}"), bytes }),
                Err(_) => Err(Failure::new("row", "\"image\" is not base64")),
            },
        };
        let pictures = pictures.into_iter().map(picture).collect::<std::result::Result<_, _>>()?;
        Ok(Question { pictures, prompt, qformer_prompt, choices, options })
    }
}

impl Question {
    /// The question as a line of input.
    pub fn to_row(&self, id: u64) -> Result<String, Failure> {
        let picture = |picture: &Picture| match picture {
            Picture::File(path) => {
                let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                path.to_str().map(Value::from).ok_or_else(|| Failure::new("io", "the picture's name is not UTF-8"))
            }
            Picture::Bytes { bytes, .. } => Ok(serde_json::json!({"bytes_b64": BASE64_STANDARD.encode(bytes)})),
        };
        let images = self.pictures.iter().map(picture).collect::<Result<Vec<_>, _>>()?;
        let row = serde_json::json!({
            "id": id, "images": images, "prompt": self.prompt, "qformer_prompt": self.qformer_prompt,
            "choices": self.choices, "params": self.options,
        });
        Ok(format!("{row}\n"))
    }
}

/// The text in a field, if there is one.
fn text(fields: &Map<String, Value>, name: &str) -> std::result::Result<Option<String>, String> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(format!("\"{name}\" is not a text")),
    }
}

/// The pictures of a row: `image`, or the list `images`.
fn pictures(fields: &Map<String, Value>, folder: &Path) -> std::result::Result<Vec<Given>, String> {
    let given = |value: &Value| match value {
        Value::String(text) if text.starts_with("data:") => {
            let (_, data) = text.split_once(";base64,").ok_or("\"image\" is a data URI without base64")?;
            Ok(Given::Base64(data.into()))
        }
        Value::String(text) if text.starts_with("http://") || text.starts_with("https://") => {
            Err("\"image\" is an address; nothing is fetched from the network".to_string())
        }
        Value::String(text) if text.is_empty() => Err("\"image\" is empty".into()),
        Value::String(text) => Ok(Given::File { written: text.clone(), path: folder.join(text) }),
        Value::Object(bytes) => match bytes.get("bytes_b64") {
            Some(Value::String(data)) => Ok(Given::Base64(data.clone())),
            _ => Err("\"image\" is an object without \"bytes_b64\"".into()),
        },
        _ => Err("\"image\" is no path, no data URI and no {\"bytes_b64\": …}".into()),
    };
    let field = |name: &str| fields.get(name).filter(|value| !value.is_null());
    match (field("image"), field("images")) {
        (Some(_), Some(_)) => Err("has both \"image\" and \"images\"".into()),
        (Some(Value::Array(several)), None) | (None, Some(Value::Array(several))) => {
            several.iter().map(given).collect()
        }
        (Some(one), None) => Ok(vec![given(one)?]),
        (None, Some(_)) => Err("\"images\" is not a list".into()),
        (None, None) => Err("lacks \"image\"".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [&str; 4] = [
        r#"{"id": 7, "image": "a/b.png", "prompt": "What is \u00e4 there?", "params": {"num_beams": 5, "seed": 3}}"#,
        r#"{"image": {"bytes_b64": "aGVsbG8="}, "choices": ["yes", "no"], "qformer_prompt": null}"#,
        r#"{"id": "x", "images": ["data:image/png;base64,aGVsbG8=", "c.jpg"], "params": {"early_stopping": "never"}}"#,
        r#"{"image": "d.webp", "params": {"eos_token_id": [1, 2], "top_p": 0.5, "min_p": null}}"#,
    ];

    #[test]
    fn rows_are_read_as_they_are_meant() {
        let defaults = Defaults { prompt: "usual".into(), ..Defaults::default() };
        let row = |line: &str| Row::parse(line.as_bytes(), "line 1", Path::new("in"), &defaults);
        let rows = GOOD.map(row);
        let ids: Vec<String> = rows.iter().map(|row| row.id.to_string()).collect();
        assert_eq!(ids, ["7", "\"line 1\"", "\"x\"", "\"d.webp\""]);
        let questions = rows.map(|row| row.asked.and_then(|asked| asked.into_question(&row.id)).expect("a question"));
        assert_eq!(questions[0].pictures, [Picture::File("in/a/b.png".into())]);
        assert_eq!((questions[0].prompt.as_str(), questions[1].prompt.as_str()), ("What is ä there?", "usual"));
        assert_eq!((questions[0].options.num_beams, questions[0].options.seed), (5, 3));
        assert_eq!(questions[1].choices, ["yes", "no"]);
        assert!(matches!(&questions[2].pictures[0], Picture::Bytes { bytes, .. } if bytes == b"hello"));
        assert_eq!((&questions[3].options.eos_token_ids, questions[3].options.top_p), (&Some(vec![1, 2]), 0.5));
        // A question goes to another process and is the same there.
        for question in questions {
            let again =
                Row::parse(question.to_row(1).expect("UTF-8").as_bytes(), "", Path::new(""), &Defaults::default());
            let again = again.asked.and_then(|asked| asked.into_question(&again.id)).expect("a question");
            assert_eq!(
                (again.prompt, again.choices, again.options),
                (question.prompt, question.choices, question.options)
            );
        }
    }

    #[test]
    fn bad_rows_say_what_is_bad() {
        let defaults = Defaults::default();
        for (line, part) in [
            ("[1]", "not a JSON object"),
            ("", "not a JSON object"),
            (r#"{"id": 1.5, "image": "a"}"#, "\"id\" is neither"),
            (r#"{"prompt": "a"}"#, "lacks \"image\""),
            (r#"{"image": "a", "images": []}"#, "both"),
            (r#"{"images": []}"#, "lacks \"image\""),
            (r#"{"image": 7}"#, "no path"),
            (r#"{"image": "https://a/b.png"}"#, "network"),
            (r#"{"image": "data:image/png,abc"}"#, "without base64"),
            (r#"{"image": "a", "prompt": 7}"#, "\"prompt\" is not a text"),
            (r#"{"image": "a", "choices": "yes"}"#, "\"choices\""),
            (
                r#"{"image": "a", "params": {"temperature": "hot"}}"#,
                "params: temperature: must be a number; it is \"hot\"",
            ),
            (r#"{"image": "a", "params": {"beams": null}}"#, "params: beams is unknown; there are max_new_tokens"),
            (
                r#"{"image": "a", "params": {"early_stopping": "yes"}}"#,
                "early_stopping: must be true, false or \"never\"",
            ),
            (r#"{"image": "a", "params": {"num_beams": 0}}"#, "num_beams is 0"),
        ] {
            let row = Row::parse(line.as_bytes(), "line 1", Path::new(""), &defaults);
            let failure = row.asked.err().unwrap_or_else(|| panic!("{line} is fine"));
            assert!(failure.message.contains(part) && failure.code == "row", "{line}: {failure:?}");
        }
    }

    /// Any bytes are a row or a bad one, and its id is one that a line can have.
    #[test]
    fn mutated_rows_are_rows() {
        let mut random = fastrand::Rng::with_seed(16);
        let defaults = Defaults::default();
        let mut good = 0;
        for _ in 0..100_000 {
            let mut line = GOOD[random.usize(..GOOD.len())].as_bytes().to_vec();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..line.len());
                match random.u8(..5) {
                    0 => line[at] = random.u8(..),
                    1 if line.len() > 1 => drop(line.remove(at)),
                    2 => line.insert(at, b"{}[]\",:0\\\xff"[random.usize(..10)]),
                    3 => line.truncate(at.max(1)),
                    _ => line.extend_from_within(at..),
                }
            }
            let row = Row::parse(&line, "line 1", Path::new(""), &defaults);
            assert_ne!(row.id.hash(), 0);
            let asked = row.asked.and_then(|asked| asked.into_question(&row.id));
            good += u32::from(asked.is_ok());
            assert!(asked.is_ok_and(|asked| !asked.pictures.is_empty()) || !row.id.to_string().is_empty());
        }
        assert!((1_000..99_000).contains(&good), "{good} good rows");
    }
}
