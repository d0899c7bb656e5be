//! The file of questions.

use std::path::Path;

use anyhow::Result;
use instructblip::Error;
use instructblip::processor::Task;
use serde_json::{Map, Value};

use crate::files::read_lines;
use crate::inputs::Skipped;
use crate::progress::Progress;

/// One row, for messages and help.
pub const EXAMPLE: &str = r#"{"image": "photos/cat.jpg", "question": "Where is the cat?", "answers": ["sofa"]}"#;

/// Names of a row's field, the first one there counts.
const PROMPT: [&str; 2] = ["prompt", "question"];
/// Names of the answers, all of which count.
const ANSWERS: [&str; 3] = ["answers", "answer", "expected"];

/// A row of the question file.
pub struct Row {
    /// All fields of the row.
    pub fields: Map<String, Value>,
    /// The row's text in the file.
    pub text: String,
    /// Paths beside the file: one, or the frames of a video.
    pub images: Vec<String>,
    pub prompt: String,
    pub qformer_prompt: Option<String>,
    /// The choices, for tasks that are worded with some.
    pub choices: Vec<String>,
    pub answers: Vec<String>,
    pub group: Option<String>,
    /// File and line, for messages.
    pub place: String,
}

impl Row {
    /// The prompt as a task words it.
    pub fn worded(&self, task: Option<Task>) -> instructblip::Result<String> {
        let choices: Vec<&str> = self.choices.iter().map(String::as_str).collect();
        task.map_or(Ok(self.prompt.clone()), |task| task.prompt(&self.prompt, &choices))
    }
}

/// The rows that can be asked; the others are told of, with everything that they lack.
///
/// # Errors
/// [`Error::Io`] and [`Error::Request`] about the file, and whatever `skipped` makes of a row.
pub fn read(path: &Path, group: &str, skipped: &mut Skipped) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let lines = read_lines(path)?;
    let mut lines = lines.iter().enumerate().filter(|(_, line)| !line.trim_ascii().is_empty()).peekable();
    if lines.peek().is_some_and(|(_, line)| line.trim_ascii_start().starts_with(b"[")) {
        let problem = format!("{} is a JSON array; wanted is an object a line, as jq -c '.[]' writes", path.display());
        return Err(Error::Request { problem }.into());
    }
    let mut problems = Vec::new();
    for (i, line) in lines {
        let place = format!("{} line {}", path.display(), i + 1);
        match row(line, group) {
            Ok(row) => rows.push(Row { place, ..row }),
            Err(problem) => problems.push(Error::Request { problem: format!("{place}: {problem}") }),
        }
    }
    if let (true, Some(first)) = (rows.is_empty(), problems.first()) {
        let others = if problems.len() > 1 { "; no other line is a question, either" } else { "" };
        return Err(Error::Request { problem: format!("{first}{others}. A line is, for example: {EXAMPLE}") }.into());
    }
    problems.into_iter().try_for_each(|problem| skipped.add(problem.into(), &Progress::Quiet))?;
    Ok(rows)
}

/// A row, or everything that is wrong with it.
fn row(line: &[u8], group: &str) -> Result<Row, String> {
    let text = std::str::from_utf8(line).map_err(|_| "is not UTF-8 text")?.trim();
    let Ok(Value::Object(fields)) = serde_json::from_str(text) else { return Err("is not a JSON object".into()) };
    let (mut absent, mut wrong) = (Vec::new(), Vec::new());
    let mut wanted = |names: &[&str], values: Vec<String>| {
        if values.is_empty() {
            let or: Vec<_> = names[1..].iter().map(|name| format!("\"{name}\"")).collect();
            let or = if or.is_empty() { String::new() } else { format!(" (or {})", or.join(" or ")) };
            absent.push(format!("\"{}\"{or}", names[0]));
        }
        values
    };
    let mut list = |name: &str, numbers: bool| {
        texts(fields.get(name), numbers).unwrap_or_else(|| {
            wrong.push(format!("\"{name}\" that is no text"));
            // Not absent, at least.
            vec![String::new()]
        })
    };
    let images = wanted(&["image"], list("image", false));
    let prompt = PROMPT.map(|name| list(name, false)).into_iter().find(|texts| !texts.is_empty()).unwrap_or_default();
    let prompt = wanted(&PROMPT, prompt).join("\n");
    let answers = wanted(&ANSWERS, ANSWERS.map(|name| list(name, true)).concat());
    let choices = list("choices", true);
    let qformer_prompt = list("qformer_prompt", false).into_iter().next();
    let group = fields.get(group).filter(|value| !value.is_null());
    let group = group.map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    let problems = [("lacks", absent), ("has", wrong)].map(|(verb, what)| (verb, joined(&what)));
    let problems = problems.into_iter().filter(|(_, what)| !what.is_empty());
    let problems: Vec<_> = problems.map(|(verb, what)| format!("{verb} {what}")).collect();
    match problems.is_empty() {
        false => Err(problems.join(", and ")),
        true => Ok(Row {
            text: text.into(),
            place: String::new(),
            fields,
            images,
            prompt,
            qformer_prompt,
            choices,
            answers,
            group,
        }),
    }
}

/// A text or a list of them, none if there is no such field; `None` for what is no text, nor a number where those will do.
fn texts(value: Option<&Value>, numbers: bool) -> Option<Vec<String>> {
    let plain = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) if numbers => Some(value.to_string()),
        _ => None,
    };
    match value {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::Array(all)) => all.iter().map(plain).collect(),
        Some(one) => Some(vec![plain(one)?]),
    }
}

/// Words in a sentence: `a, b and c`.
fn joined(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_everything_that_it_lacks() {
        let problem = |line: &str| row(line.as_bytes(), "group").err().unwrap_or_default();
        assert_eq!(
            problem("{}"),
            r#"lacks "image", "prompt" (or "question") and "answers" (or "answer" or "expected")"#
        );
        assert_eq!(
            problem(r#"{"image": 7, "question": "a"}"#),
            r#"lacks "answers" (or "answer" or "expected"), and has "image" that is no text"#
        );
        assert_eq!(problem(r#"{"image": "a", "prompt": "b", "answers": [null]}"#), r#"has "answers" that is no text"#);
        assert_eq!(problem("[1]"), "is not a JSON object");
        assert_eq!(row(b"\"\xff\"", "group").err().unwrap_or_default(), "is not UTF-8 text");
        assert!(row(EXAMPLE.as_bytes(), "group").is_ok());
    }

    #[test]
    fn fields_have_several_names() {
        let of = |line: &str| row(line.as_bytes(), "kind").unwrap_or_else(|problem| panic!("{line}: {problem}"));
        let usual = of(r#"{"image": "a", "prompt": "p", "question": "q", "answers": ["x", 2], "kind": 3}"#);
        assert_eq!((usual.prompt.as_str(), usual.group.as_deref()), ("p", Some("3")));
        assert_eq!(usual.answers, ["x", "2"]);
        let other = of(r#"{"image": ["a", "b"], "question": "", "answer": true, "expected": "y", "kind": null}"#);
        assert_eq!((other.images, other.prompt, other.group), (vec!["a".into(), "b".into()], String::new(), None));
        assert_eq!(other.answers, ["true", "y"]);
    }
}
