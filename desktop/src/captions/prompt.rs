//! The way to caption a folder: words that the model is asked with, and what becomes of captions that are there.

use std::path::Path;

use instructblip::GenerateOptions;
use instructblip::processor::Task;
use serde::{Deserialize, Serialize};

use super::Entry;

/// The place of a new caption where there is one already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Existing {
    /// The picture keeps its caption and is not asked about.
    #[default]
    Keep,
    /// The new caption takes its place.
    Replace,
    /// The new caption goes before it.
    Before,
    /// The new caption goes behind it.
    Behind,
}

impl Existing {
    /// Every rule with its words.
    pub const ALL: [(Existing, &'static str); 4] = [
        (Existing::Keep, "keep it, ask about the others"),
        (Existing::Replace, "replace it"),
        (Existing::Before, "put the new one before it"),
        (Existing::Behind, "put the new one behind it"),
    ];

    /// The caption that a picture gets.
    pub fn joined(self, old: &str, new: &str) -> String {
        match self {
            _ if old.is_empty() => new.into(),
            Existing::Keep | Existing::Replace => new.into(),
            Existing::Before => format!("{new}, {old}"),
            Existing::Behind => format!("{old}, {new}"),
        }
    }
}

/// The way to caption pictures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CaptionOptions {
    /// The paper's task, by its name; own words if there is none of this name.
    pub task: String,
    /// The prompt, or the text that goes into the task's: `{name}`, `{folder}` and `{tags}` stand for the picture's.
    pub prompt: String,
    /// Words that captions begin with.
    pub start_with: String,
    /// Words that may not be in captions, separated by commas.
    pub forbidden: String,
    /// The rule for pictures that have a caption.
    pub existing: Existing,
    /// The options of generation.
    pub generation: GenerateOptions,
}

impl Default for CaptionOptions {
    fn default() -> Self {
        CaptionOptions {
            task: "caption".into(),
            prompt: String::new(),
            start_with: String::new(),
            forbidden: String::new(),
            existing: Existing::default(),
            generation: GenerateOptions::up_to(60),
        }
    }
}

/// Tasks that captions can be made with: those that need no choices.
pub fn tasks() -> impl Iterator<Item = (&'static str, Task)> {
    Task::ALL.into_iter().filter(|(_, task)| !matches!(task, Task::VqaOcr | Task::MultipleChoice | Task::Science))
}

impl CaptionOptions {
    /// The paper's task, unless the words are the user's own.
    pub fn task(&self) -> Option<Task> {
        tasks().find(|(name, _)| *name == self.task).map(|(_, task)| task)
    }

    /// The prompt about a picture, for a model that was taught instructions or not.
    ///
    /// # Errors
    /// A description of what is missing.
    pub fn prompt_about(&self, entry: &Entry, taught: bool) -> Result<String, String> {
        let text = filled(&self.prompt, &entry.picture, &entry.caption);
        match self.task() {
            // It describes pictures by itself.
            Some(Task::Caption | Task::Describe) if !taught => Ok(String::new()),
            Some(task) => task.prompt(&text, &[]).map_err(|error| error.to_string()),
            None => Ok(text),
        }
    }

    /// The options that the model gets.
    pub fn answer_options(&self) -> GenerateOptions {
        let words = self.forbidden.split(',').map(str::trim).filter(|word| !word.is_empty());
        GenerateOptions {
            prefix: self.start_with.trim().into(),
            bad_words: words.map(Into::into).collect(),
            ..self.generation.clone()
        }
    }
}

/// A template with a picture's name, folder and tags in their places.
pub fn filled(template: &str, picture: &Path, caption: &str) -> String {
    let part =
        |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned()).unwrap_or_default();
    let (name, folder) = (part(picture.file_stem()), part(picture.parent().and_then(Path::file_name)));
    let values = [("{name}", name.as_str()), ("{folder}", folder.as_str()), ("{tags}", caption)];
    let (mut text, mut rest) = (String::new(), template);
    // From left to right, so that what a value holds is not taken for a place.
    while let Some(open) = rest.find('{') {
        text.push_str(&rest[..open]);
        rest = &rest[open..];
        let (taken, value) = values.iter().find(|(place, _)| rest.starts_with(place)).copied().unwrap_or(("{", "{"));
        text.push_str(value);
        rest = &rest[taken.len()..];
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_have_the_pictures_words_in_their_places() {
        let picture = Path::new("/pets/cats/tom {tags}.jpg");
        assert_eq!(
            filled("{name} of {folder}: {tags} {other} {", picture, "grey"),
            "tom {tags} of cats: grey {other} {"
        );
    }

    #[test]
    fn prompts_are_the_papers_or_ones_own() {
        let entry = Entry { caption: "grey, cat".into(), ..Entry::new("/pets/tom.jpg".into(), "tom.jpg".into()) };
        let prompt = |task: &str, prompt: &str, taught| {
            CaptionOptions { task: task.into(), prompt: prompt.into(), ..CaptionOptions::default() }
                .prompt_about(&entry, taught)
        };
        assert_eq!(prompt("caption", "", true), Ok("A short image description.".into()));
        assert_eq!(prompt("caption", "", false), Ok(String::new()));
        assert_eq!(prompt("own", "Tags: {tags}. Describe.", true), Ok("Tags: grey, cat. Describe.".into()));
        assert_eq!(prompt("vqa-short", "Who is {name}?", true), Ok("Question: Who is tom? Short answer:".into()));
        assert!(prompt("vqa-short", " ", true).is_err_and(|e| e.contains("needs a text")));
    }

    #[test]
    fn words_to_begin_with_and_forbidden_ones_go_to_the_model() {
        let (start_with, forbidden) = (" a photo of ".into(), "image, stock photo,, ".into());
        let options = CaptionOptions { start_with, forbidden, ..CaptionOptions::default() }.answer_options();
        assert_eq!(
            (options.prefix.as_str(), options.bad_words),
            ("a photo of", vec!["image".into(), "stock photo".into()])
        );
    }

    #[test]
    fn new_captions_join_old_ones_by_the_rule() {
        let joined = Existing::ALL.map(|(rule, _)| rule.joined("old", "new"));
        assert_eq!(joined, ["new", "new", "new, old", "old, new"]);
        assert_eq!(Existing::Behind.joined("", "new"), "new");
    }
}
