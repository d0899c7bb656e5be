//! Prompts as the paper words them, by task (arXiv 2305.06500, appendices D and E).

use crate::error::{Error, Result};

/// A task for a picture; each has the wording that the checkpoints were trained or evaluated with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// A caption of one sentence; no text.
    Caption,
    /// A longer description; no text.
    Describe,
    /// A short answer to a question.
    VqaShort,
    /// A short answer to a question, given the words that a reader found in the picture as choices.
    VqaOcr,
    /// One of the choices as the answer to a question.
    MultipleChoice,
    /// One of the choices, which have letters, as the answer to a question about science. A context goes before the
    /// question, on lines of its own.
    Science,
    /// A judgement whether a statement is true.
    TrueFalse,
    /// A judgement whether a picture with some words on it is hateful.
    Hateful,
    /// A question whose answer is given.
    AskQuestion,
}

impl Task {
    /// Every task, by its name on the command line.
    pub const ALL: [(&'static str, Task); 9] = [
        ("caption", Task::Caption),
        ("detail", Task::Describe),
        ("vqa-short", Task::VqaShort),
        ("vqa-ocr", Task::VqaOcr),
        ("multiple-choice", Task::MultipleChoice),
        ("science", Task::Science),
        ("true-false", Task::TrueFalse),
        ("hateful", Task::Hateful),
        ("ask-question", Task::AskQuestion),
    ];

    /// The task of this name.
    pub fn named(name: &str) -> Option<Task> {
        Task::ALL.iter().find(|(known, _)| *known == name).map(|(_, task)| *task)
    }

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        Task::ALL.iter().find(|(_, task)| *task == self).map_or("", |(name, _)| name)
    }

    /// True if the prompt has a place for a text.
    pub fn takes_text(self) -> bool {
        !matches!(self, Task::Caption | Task::Describe)
    }

    /// The prompt for a text (a question, a statement) and choices.
    ///
    /// # Errors
    /// [`Error::Request`] when the text or the choices that the task needs are missing, or a text has no place in it.
    pub fn prompt(self, text: &str, choices: &[&str]) -> Result<String> {
        if self.takes_text() && text.trim().is_empty() {
            return Err(Error::request("this task needs a text: the question or statement"));
        }
        if !self.takes_text() && !text.trim().is_empty() {
            let name = self.name();
            return Err(Error::request(format!("the task {name} has a wording of its own and no place for a text")));
        }
        if matches!(self, Task::MultipleChoice | Task::Science | Task::VqaOcr) && choices.is_empty() {
            return Err(Error::request("this task needs choices"));
        }
        let listed = choices.join(", ");
        Ok(match self {
            Task::Caption => "A short image description.".into(),
            Task::Describe => "Write a description for the photo.".into(),
            Task::VqaShort => format!("Question: {text} Short answer:"),
            Task::VqaOcr => format!("OCR tokens: {listed}. Question: {text} Short answer:"),
            Task::MultipleChoice => format!("Question: {text} Options: {listed}. Short answer:"),
            Task::Science => {
                let lettered = choices.iter().zip('a'..).map(|(choice, letter)| format!("({letter}) {choice}"));
                let (context, question) = match text.trim().rsplit_once('\n') {
                    Some((context, question)) => (format!("Context: {} ", context.trim()), question),
                    None => (String::new(), text),
                };
                let lettered = lettered.collect::<Vec<_>>().join(" ");
                format!("{context}Question: {question} Options: {lettered}. Answer:")
            }
            Task::TrueFalse => {
                format!("Based on the image, is this statement true or false? \"{text}\" Answer:")
            }
            Task::Hateful => {
                format!("This is an image with: \"{text}\" written on it. Is it hateful? Answer:")
            }
            Task::AskQuestion => format!("Given the image, generate a question whose answer is: {text}. Question:"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trap_published_figures_need_the_papers_prompts() {
        let prompt = |task: Task, text, choices: &[&str]| task.prompt(text, choices).expect("a prompt");
        assert_eq!(prompt(Task::VqaShort, "What is it?", &[]), "Question: What is it? Short answer:");
        let options = prompt(Task::MultipleChoice, "Which?", &["cat", "dog"]);
        assert_eq!(options, "Question: Which? Options: cat, dog. Short answer:");
        assert_eq!(
            prompt(Task::Science, "Which?", &["cat", "dog"]),
            "Question: Which? Options: (a) cat (b) dog. Answer:"
        );
        assert_eq!(
            prompt(Task::Science, "It rains.\nWhich?", &["cat", "dog"]),
            "Context: It rains. Question: Which? Options: (a) cat (b) dog. Answer:"
        );
        assert_eq!(prompt(Task::Caption, "", &[]), "A short image description.");
        assert!(Task::VqaShort.prompt(" ", &[]).is_err() && Task::Science.prompt("Which?", &[]).is_err());
        assert!(Task::ALL.iter().all(|&(name, task)| Task::named(name) == Some(task)));
    }
}
