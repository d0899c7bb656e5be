//! The prose of doc comments: the first line of each is a sentence or a noun phrase, which a reader gets at once.

use crate::rooms::files;

/// Words that begin a clause without a head, such as "Whether it has a bias." or "Of the vision tower."
const HEADLESS: [&str; 43] = [
    "After", "Also", "And", "As", "At", "Because", "Before", "Behind", "Beside", "Between", "But", "By", "For", "From",
    "How", "In", "Into", "Like", "Not", "Of", "On", "Only", "Or", "Over", "Than", "Those", "Through", "To", "Under",
    "Unless", "Unlike", "Until", "What", "Where", "Whether", "Which", "Who", "Whom", "Whose", "Why", "With", "Without",
    "Worth",
];
/// Words that may begin a sentence whose main clause follows a comma on the same line.
const CONDITIONS: [&str; 2] = ["If", "When"];
/// Words that leave open, after "The same", what is the same.
const OPEN: [&str; 15] =
    ["again", "as", "at", "but", "by", "for", "from", "in", "of", "on", "to", "when", "where", "with", "without"];

fn first_word(text: &str) -> &str {
    text.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or("")
}

/// True if the first line of a comment has no head.
fn is_headless(line: &str) -> bool {
    if let Some(rest) = line.strip_prefix("The same") {
        return match rest.strip_prefix(' ') {
            Some(rest) => OPEN.contains(&first_word(rest)),
            None => !rest.starts_with(char::is_alphabetic),
        };
    }
    let first = first_word(line);
    HEADLESS.contains(&first) || CONDITIONS.contains(&first) && !line.contains(", ")
}

/// The first line of each doc comment, with its number. Comments inside a type that clap reads are the help of its
/// options and commands, which have a style of their own.
fn first_lines(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let (mut before, mut in_help) = ("", false);
    for (i, line) in text.lines().enumerate() {
        if line.starts_with("#[derive(") {
            let derives = |name: &str| line.split(|c: char| !c.is_alphabetic()).any(|word| word == name);
            in_help = ["Args", "Parser", "Subcommand", "ValueEnum"].into_iter().any(derives);
        } else if line.starts_with('}') {
            in_help = false;
        }
        let code = line.trim_start();
        let mark = ["///", "//!"].into_iter().find(|mark| code.starts_with(mark)).unwrap_or("");
        if !mark.is_empty() && mark != before && !in_help {
            found.push((i + 1, code[mark.len()..].trim()));
        }
        before = mark;
    }
    found
}

#[test]
fn comments_begin_with_a_sentence_or_a_noun() {
    let mut headless = Vec::new();
    let mut checked = 0;
    for folder in ["src", "tests", "benches", "examples"] {
        for (path, text) in files(folder, "rs") {
            for (number, line) in first_lines(&text) {
                checked += 1;
                if is_headless(line) {
                    headless.push(format!("{}:{number}: {line}", path.display()));
                }
            }
        }
    }
    assert!(checked > 1000, "the test found {checked} comments only");
    assert!(
        headless.is_empty(),
        "{} comments do not begin with a sentence or a noun:\n{}",
        headless.len(),
        headless.join("\n")
    );
}

#[test]
fn the_rule_tells_clauses_from_sentences() {
    let good = [
        "A cache of pages.",
        "Reads a file.",
        "True if the layer has a bias.",
        "`None` where nothing is to be smoothed.",
        "The same sequence for the same seed.",
        "If a file is missing, its name is told.",
        "Format of the weights.",
        "Asks the system.",
        "",
    ];
    let bad = [
        "What is wrong with a file.",
        "Whether it has a bias.",
        "Of the vision tower.",
        "In [`WEIGHTS`].",
        "As JSON.",
        "The same.",
        "The same, for threads.",
        "The same for words.",
        "When a search ends.",
        "Those that are zero.",
    ];
    for line in good {
        assert!(!is_headless(line), "{line}");
    }
    for line in bad {
        assert!(is_headless(line), "{line}");
    }
}

#[test]
fn comments_are_found_by_their_first_lines() {
    let text = "\
//! A module.
//! More of it.

/// A type.
///
/// More of it.
#[derive(Args, Debug)]
pub struct Options {
    /// Which picture
    #[arg(long)]
    picture: String,
}

// Whether this is documentation: no.
/// A value.
const VALUE: u32 = 1; /// no comment of its own line
";
    assert_eq!(first_lines(text), [(1, "A module."), (4, "A type."), (15, "A value.")]);
}
