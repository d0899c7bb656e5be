//! `instructblip eval`: a file of questions, their answers in another file, and how many are right.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;
use instructblip::processor::Task;
use instructblip::runtime::WeightFormat;
use instructblip::weights::Formats;
use instructblip::{Error, GenerateOptions, Image, Question};
use serde_json::{Value, json};

use crate::args::{Common, Eval, Resize};
use crate::files::{check_target, unwritable};
use crate::progress::{Progress, say};
use crate::session::{check_images, load_model, named, workload};

/// A line of the question file.
struct Row {
    image: String,
    prompt: String,
    /// For tasks that are worded with choices.
    choices: Vec<String>,
    answers: Vec<String>,
    group: String,
}

/// Answers by image and prompt.
type Known = HashMap<(String, String), String>;

/// Right answers among how many.
#[derive(Clone, Copy, Default)]
struct Tally {
    count: usize,
    exact: usize,
    vqa: f64,
}

pub fn run(common: &Common, eval: &Eval) -> Result<()> {
    let options = eval.generation.options();
    options.check()?;
    let rows = read_questions(&eval.questions, &eval.group)?;
    let settings = settings(eval, &options);
    let mut known = if eval.force { HashMap::new() } else { read_predictions(&eval.output, &settings)? };
    let open: Vec<&Row> = rows.iter().filter(|row| !known.contains_key(&row.key())).collect();
    if open.len() < rows.len() && !common.quiet {
        let (done, file) = (rows.len() - open.len(), eval.output.display());
        say(&format!("{done} of {} answers are in {file} already; --force asks again", rows.len()));
    }
    if !open.is_empty() {
        ask(common, eval, &options, &settings, &open, &mut known)?;
    }
    let mut tallies: BTreeMap<&str, Tally> = BTreeMap::new();
    for row in &rows {
        tallies.entry(&row.group).or_default().add(&known[&row.key()], &row.answers);
    }
    report(&tallies, eval.json)
}

/// Asks the model what is not answered yet, a batch at a time, and writes each answer down as soon as it is there.
fn ask(
    common: &Common,
    eval: &Eval,
    options: &GenerateOptions,
    settings: &str,
    open: &[&Row],
    known: &mut Known,
) -> Result<()> {
    let folder = eval.questions.parent().unwrap_or(Path::new(""));
    // What cannot be read, worded or written is told before a long run begins, and before --force empties a file.
    check_target(&eval.output)?;
    if eval.output.canonicalize().is_ok_and(|output| eval.questions.canonicalize().is_ok_and(|q| q == output)) {
        let problem = format!("{} is the file of questions; answers go to another one", eval.output.display());
        return Err(Error::Request { problem }.into());
    }
    let paths: Vec<PathBuf> = open.iter().map(|row| folder.join(&row.image)).collect();
    check_images(paths.iter().map(PathBuf::as_path))?;
    let prompts = open.iter().map(|row| row.worded(eval.task)).collect::<instructblip::Result<Vec<String>>>()?;
    let mut model = load_model(common, &eval.model, workload(options, eval.batch_size, 1))?;
    let mut file = open_predictions(&eval.output, eval.force)?;
    let mut progress = Progress::counting(common.quiet, "questions", Some(open.len() as u64));
    for (i, batch) in open.chunks(eval.batch_size as usize).enumerate() {
        let first = i * eval.batch_size as usize;
        let images = paths[first..][..batch.len()].iter().map(Image::open);
        let images = images.collect::<instructblip::Result<Vec<Image>>>()?;
        let questions: Vec<_> =
            images.iter().zip(&prompts[first..]).map(|(image, text)| Question::new(image, text)).collect();
        let replies = model.answer(&questions, options, &mut |_| {})?;
        for (row, reply) in batch.iter().zip(replies) {
            let line = json!({
                "image": row.image, "prompt": row.prompt, "prediction": reply.text, "answers": row.answers,
                "settings": settings,
            });
            // A whole line at once: what is interrupted here is asked again next time.
            file.write_all(format!("{line}\n").as_bytes()).map_err(|e| unwritable(&eval.output, e))?;
            known.insert(row.key(), reply.text);
        }
        progress.count((first + batch.len()) as u64);
    }
    progress.clear();
    eval.model.overrides.tell_unused(common, model.device());
    Ok(())
}

/// What answers depend on besides the question: answers of other settings are not taken up again.
fn settings(eval: &Eval, options: &GenerateOptions) -> String {
    let model = eval.model.model.as_deref().map_or("embedded model".into(), |name| {
        // A branch of the hub moves: its answers are the commit's. Without the model, old answers can still be counted.
        let root = named(name).ok().map(|checkpoint| checkpoint.root().to_path_buf()).filter(|root| root != name);
        let commit = root.and_then(|root| Some(format!(" at {}", root.file_name()?.display())));
        format!("{}{}", name.display(), commit.unwrap_or_default())
    });
    // Which options are not the default is told apart by their names in what Debug prints.
    let (given, usual) = (format!("{options:#?}"), format!("{:#?}", GenerateOptions::default()));
    let usual: HashSet<&str> = usual.lines().collect();
    let changed = given.lines().filter(|line| !usual.contains(line)).map(str::trim).collect::<Vec<_>>().join(" ");
    let task = eval.task.map_or(String::new(), |task| format!(", task {task:?}"));
    let size = eval.model.image_size.map_or(String::new(), |side| format!(", {side} pixels"));
    let special = if eval.model.special_tokens { ", special tokens" } else { "" };
    let given = &eval.model.weights;
    let weights = match (given.formats() == Formats::default(), given.formats()) {
        (true, _) => String::new(),
        (false, Formats { vision, qformer, language }) => {
            let name = |format: Option<WeightFormat>| format.map_or("as stored", WeightFormat::name);
            format!(", weights {} {} {}", name(vision), name(qformer), name(language))
        }
    };
    let resize = if eval.model.resize == Resize::Pillow13 { ", Pillow 13" } else { "" };
    format!("{model}{task}{size}{special}{weights}{resize}, {changed}").trim_end_matches([',', ' ']).to_string()
}

impl Tally {
    fn add(&mut self, prediction: &str, answers: &[String]) {
        let said = normalised(prediction);
        let agreeing = answers.iter().filter(|answer| !said.is_empty() && normalised(answer) == said).count();
        self.count += 1;
        self.exact += usize::from(agreeing > 0);
        self.vqa += vqa_accuracy(agreeing, answers.len());
    }
}

/// VQA's accuracy: a prediction is right as far as three other people say the same, averaged over leaving each person
/// out. Questions with fewer than VQA's ten answers have no crowd to agree with: one answer that agrees is enough.
fn vqa_accuracy(agreeing: usize, answers: usize) -> f64 {
    if answers < 10 {
        return if agreeing > 0 { 1.0 } else { 0.0 };
    }
    let right = |others: usize| (others as f64 / 3.0).min(1.0);
    let (yes, no) = (agreeing as f64, (answers - agreeing) as f64);
    (yes * right(agreeing.saturating_sub(1)) + no * right(agreeing)) / answers as f64
}

/// Text as VQA's evaluation compares it, but for its table of contractions: small letters, number words as digits, no
/// articles (where there is more), no punctuation, no commas inside numbers.
fn normalised(text: &str) -> String {
    const PUNCTUATION: &str = ";/[]\"{}()=+\\_-><@`,?!";
    const NUMBERS: [&str; 11] = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];
    let letters: Vec<char> = text.to_lowercase().chars().collect();
    let is_digit = |i: usize| letters.get(i).is_some_and(char::is_ascii_digit);
    let plain = letters.iter().enumerate().map(|(i, &c)| match c {
        ',' if i > 0 && is_digit(i - 1) && is_digit(i + 1) => String::new(),
        '.' if !is_digit(i + 1) => String::new(),
        c if PUNCTUATION.contains(c) => " ".into(),
        c => c.into(),
    });
    let plain: String = plain.collect();
    let words: Vec<&str> = plain.split_whitespace().collect();
    let mut kept: Vec<&str> = words.iter().copied().filter(|word| !["a", "an", "the"].contains(word)).collect();
    if kept.is_empty() {
        kept = words;
    }
    let digits = kept.into_iter().map(|word| match NUMBERS.iter().position(|&number| number == word) {
        _ if word == "none" => "0".into(),
        Some(number) => number.to_string(),
        None => word.to_string(),
    });
    digits.collect::<Vec<_>>().join(" ")
}

impl Row {
    fn key(&self) -> (String, String) {
        (self.image.clone(), self.prompt.clone())
    }

    /// The prompt as a task words it.
    fn worded(&self, task: Option<Task>) -> instructblip::Result<String> {
        let choices: Vec<&str> = self.choices.iter().map(String::as_str).collect();
        task.map_or(Ok(self.prompt.clone()), |task| task.prompt(&self.prompt, &choices))
    }
}

fn refused(path: &Path, line: usize, problem: &str) -> anyhow::Error {
    Error::Request { problem: format!("{} line {line}: {problem}", path.display()) }.into()
}

fn lines(path: &Path) -> Result<Vec<String>> {
    let failed = |source| Error::Io { path: path.into(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    Ok(BufReader::new(file).lines().collect::<std::io::Result<Vec<String>>>().map_err(failed)?)
}

fn read_questions(path: &Path, group: &str) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (i, line) in lines(path)?.iter().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let row: Value = serde_json::from_str(line).map_err(|_| refused(path, i + 1, "is not a JSON object"))?;
        let text = |name: &str| row.get(name).and_then(Value::as_str).map(str::to_owned);
        let missing = |name: &str| refused(path, i + 1, &format!("has no text \"{name}\""));
        let list = |name: &str| -> Result<Vec<String>> {
            let plain = |value: &Value| match value {
                Value::String(text) => Ok(text.clone()),
                Value::Number(_) | Value::Bool(_) => Ok(value.to_string()),
                _ => Err(refused(path, i + 1, &format!("has something in \"{name}\" that is no text"))),
            };
            match row.get(name) {
                None | Some(Value::Null) => Ok(Vec::new()),
                Some(Value::Array(all)) => all.iter().map(plain).collect(),
                Some(one) => Ok(vec![plain(one)?]),
            }
        };
        let mut answers = list("answers")?;
        answers.extend(list("expected")?);
        if answers.is_empty() {
            return Err(refused(path, i + 1, "has no answers"));
        }
        rows.push(Row {
            image: text("image").ok_or_else(|| missing("image"))?,
            prompt: text("prompt").ok_or_else(|| missing("prompt"))?,
            choices: list("choices")?,
            answers,
            group: row.get(group).map_or(String::new(), |v| v.as_str().map_or(v.to_string(), str::to_owned)),
        });
    }
    Ok(rows)
}

/// The answers there are; a torn last line does not count.
fn read_predictions(path: &Path, settings: &str) -> Result<Known> {
    let mut known = HashMap::new();
    if !path.exists() {
        return Ok(known);
    }
    for (i, line) in lines(path)?.iter().enumerate() {
        let Ok(row) = serde_json::from_str::<Value>(line) else { continue };
        let text = |name: &str| row.get(name).and_then(Value::as_str).map(str::to_owned);
        let (Some(image), Some(prompt), Some(prediction)) = (text("image"), text("prompt"), text("prediction")) else {
            return Err(refused(path, i + 1, "is no prediction; give another --output, or --force to write over it"));
        };
        let asked = text("settings").unwrap_or_default();
        if asked != settings {
            let problem = format!(
                "was answered with other settings ({asked}; now {settings}); give another --output, or --force to ask \
                 everything again"
            );
            return Err(refused(path, i + 1, &problem));
        }
        known.insert((image, prompt), prediction);
    }
    Ok(known)
}

fn open_predictions(path: &Path, force: bool) -> Result<std::fs::File> {
    let open = |append| {
        let mut options = std::fs::OpenOptions::new();
        options.create(true).append(append).write(true).truncate(!append && force).open(path)
    };
    let mut file = open(!force).map_err(|e| unwritable(path, e))?;
    // A line torn by an interruption is ended, so that the next one begins a line.
    let torn = std::fs::read(path).is_ok_and(|bytes| bytes.last().is_some_and(|&b| b != b'\n'));
    if torn {
        file.write_all(b"\n").map_err(|e| unwritable(path, e))?;
    }
    Ok(file)
}

fn report(tallies: &BTreeMap<&str, Tally>, as_json: bool) -> Result<()> {
    let mut all = Tally::default();
    for tally in tallies.values() {
        all = Tally { count: all.count + tally.count, exact: all.exact + tally.exact, vqa: all.vqa + tally.vqa };
    }
    let of = |part: f64, tally: &Tally| if tally.count == 0 { 0.0 } else { part / tally.count as f64 };
    let mut out = std::io::stdout().lock();
    if as_json {
        let object =
            |t: &Tally| json!({"count": t.count, "exact_match": of(t.exact as f64, t), "vqa_accuracy": of(t.vqa, t)});
        let groups: serde_json::Map<String, Value> = tallies.iter().map(|(&k, t)| (k.to_string(), object(t))).collect();
        writeln!(out, "{}", json!({"all": object(&all), "groups": groups}))?;
        return Ok(());
    }
    let mut line = |name: &str, t: &Tally| {
        let (exact, vqa) = (100.0 * of(t.exact as f64, t), 100.0 * of(t.vqa, t));
        writeln!(out, "{name:<20} {:>6} questions  exact {exact:5.1} %  VQA {vqa:5.1} %", t.count)
    };
    if tallies.len() > 1 {
        tallies.iter().try_for_each(|(name, tally)| line(name, tally))?;
    }
    line("all", &all)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_compared_as_vqa_does() {
        for (text, want) in [
            ("The red circle.", "red circle"),
            ("Two", "2"),
            ("none", "0"),
            ("1,000", "1000"),
            ("1.5", "1.5"),
            ("U.S.", "us"),
            ("red/green, blue", "red green blue"),
            ("A", "a"),
            (" ? ", ""),
        ] {
            assert_eq!(normalised(text), want, "{text:?}");
        }
        let mut tally = Tally::default();
        tally.add("", &["a".into(), "".into()]);
        assert_eq!((tally.count, tally.exact), (1, 0), "an empty answer is never right");
    }

    #[test]
    fn accuracy_leaves_each_person_out() {
        // Of ten people: (agreeing, (yes * min((yes - 1) / 3, 1) + no * min(yes / 3, 1)) / 10).
        for (agreeing, want) in [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)] {
            assert!((vqa_accuracy(agreeing, 10) - want).abs() < 1e-12, "{agreeing}");
        }
        assert_eq!((vqa_accuracy(0, 3), vqa_accuracy(1, 3)), (0.0, 1.0));
    }
}
