//! `instructblip eval`: a file of questions, their answers in another file, and how many are right.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use anyhow::Result;
use instructblip::{Error, Image, Question};
use serde_json::{Value, json};

use crate::args::{Common, Eval};
use crate::files::unwritable;
use crate::progress::{Progress, say};
use crate::session::load_model;

/// A line of the question file.
struct Row {
    image: String,
    prompt: String,
    answers: Vec<String>,
    group: String,
}

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
    let mut known = if eval.force { HashMap::new() } else { read_predictions(&eval.output)? };
    let folder = eval.questions.parent().unwrap_or(Path::new(""));
    let mut file = open_predictions(&eval.output, eval.force)?;
    let mut model = None;
    let mut progress = Progress::counting(common.quiet, "questions");
    let reused = rows.iter().filter(|row| known.contains_key(&key(row))).count();
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    for (i, row) in rows.iter().enumerate() {
        if !known.contains_key(&key(row)) {
            let model = match &mut model {
                Some(model) => model,
                none => none.insert(load_model(common, &eval.model)?),
            };
            let prompt = eval.task.map_or(Ok(row.prompt.clone()), |task| task.prompt(&row.prompt, &[]))?;
            let image = Image::open(folder.join(&row.image))?;
            let reply = model.answer(&[Question::new(&image, &prompt)], &options, &mut |_| {})?.swap_remove(0);
            let line =
                json!({"image": row.image, "prompt": row.prompt, "prediction": reply.text, "answers": row.answers});
            // A whole line at once: what is interrupted here is asked again next time.
            file.write_all(format!("{line}\n").as_bytes()).map_err(|e| unwritable(&eval.output, e))?;
            known.insert(key(row), reply.text);
        }
        let tally = tallies.entry(row.group.clone()).or_default();
        tally.add(&known[&key(row)], &row.answers);
        progress.count(i as u64 + 1);
    }
    progress.clear();
    if reused > 0 && !common.quiet {
        say(&format!("{reused} answers were in {} already; --force asks again", eval.output.display()));
    }
    report(&tallies, eval.json)
}

impl Tally {
    fn add(&mut self, prediction: &str, answers: &[String]) {
        let said = normalised(prediction);
        let agreeing = answers.iter().filter(|answer| normalised(answer) == said).count();
        self.count += 1;
        self.exact += usize::from(agreeing > 0);
        // VQA's accuracy: right as far as three of ten people say so; with fewer answers, as soon as one does.
        self.vqa +=
            if answers.len() < 3 { f64::from(u8::from(agreeing > 0)) } else { (agreeing as f64 / 3.0).min(1.0) };
    }
}

/// Small letters, no articles, no punctuation at the ends of words: as VQA's evaluation compares.
fn normalised(text: &str) -> String {
    let words = text
        .split_whitespace()
        .map(|word| word.to_lowercase().trim_matches(|c: char| c.is_ascii_punctuation()).to_string());
    let kept = words.filter(|word| !word.is_empty() && !["a", "an", "the"].contains(&word.as_str()));
    kept.collect::<Vec<_>>().join(" ")
}

fn key(row: &Row) -> (String, String) {
    (row.image.clone(), row.prompt.clone())
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
        let listed = row.get("answers").and_then(Value::as_array);
        let listed = listed.map(|all| all.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>());
        let answers = listed.or(text("answers").or(text("expected")).map(|one| vec![one]));
        rows.push(Row {
            image: text("image").ok_or_else(|| missing("image"))?,
            prompt: text("prompt").ok_or_else(|| missing("prompt"))?,
            answers: answers.filter(|all| !all.is_empty()).ok_or_else(|| refused(path, i + 1, "has no answers"))?,
            group: row.get(group).map_or(String::new(), |v| v.as_str().map_or(v.to_string(), str::to_owned)),
        });
    }
    Ok(rows)
}

/// The answers there are, by image and prompt; a torn last line does not count.
fn read_predictions(path: &Path) -> Result<HashMap<(String, String), String>> {
    if !path.exists() {
        return Ok(HashMap::new());
    }
    let mut known = HashMap::new();
    for line in lines(path)? {
        let Ok(row) = serde_json::from_str::<Value>(&line) else { continue };
        let text = |name: &str| row.get(name).and_then(Value::as_str).map(str::to_owned);
        if let (Some(image), Some(prompt), Some(prediction)) = (text("image"), text("prompt"), text("prediction")) {
            known.insert((image, prompt), prediction);
        }
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

fn report(tallies: &BTreeMap<String, Tally>, as_json: bool) -> Result<()> {
    let mut all = Tally::default();
    for tally in tallies.values() {
        all = Tally { count: all.count + tally.count, exact: all.exact + tally.exact, vqa: all.vqa + tally.vqa };
    }
    let of = |part: f64, tally: &Tally| if tally.count == 0 { 0.0 } else { part / tally.count as f64 };
    let mut out = std::io::stdout().lock();
    if as_json {
        let object =
            |t: &Tally| json!({"count": t.count, "exact_match": of(t.exact as f64, t), "vqa_accuracy": of(t.vqa, t)});
        let groups: serde_json::Map<String, Value> = tallies.iter().map(|(k, t)| (k.clone(), object(t))).collect();
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
