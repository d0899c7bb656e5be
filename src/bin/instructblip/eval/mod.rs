//! `instructblip eval`: a file of questions, their answers in another file, and how many are right.

mod accuracy;
mod predictions;
pub mod questions;

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use anyhow::Result;
use clap::Args;
use instructblip::engine::Request;
use instructblip::processor::Task;
use instructblip::runtime::WeightFormat;
use instructblip::weights::Formats;
use instructblip::{Error, GenerateOptions, Reply};
use serde_json::{Value, json};

use crate::common::{Common, Gpu};
use crate::files::{check_is_no_input, check_target, unwritable};
use crate::generation::Generation;
use crate::inputs::{Skipped, is_there};
use crate::options::{Model, Resize, tasks};
use crate::pictures::PictureOptions;
use crate::progress::{Progress, say};
use crate::session::{load_model, named, say_last};
use crate::side_by_side::{Slots, answer_all};
use accuracy::Tally;
use predictions::{Contents, Key, Known};
use questions::EXAMPLE;
use questions::Row;

/// Arguments of `eval`.
#[derive(Args, Debug)]
#[command(after_help = format!("A line of QUESTIONS is, for example:\n  {EXAMPLE}"))]
pub struct Eval {
    /// Questions, a JSON object a line: image (a path beside this file; for video models a list of frames), question (or
    /// prompt), answers (a list; or answer or expected, one), choices for tasks that need them, qformer_prompt if the
    /// Q-Former is to read something else, and group, if results are to be told by group. Other fields are kept
    pub questions: PathBuf,
    /// Word the prompts as the paper does for this task
    #[arg(long, value_parser = tasks())]
    pub task: Option<Task>,
    /// File of answers; questions it has already are not asked again
    #[arg(long, short, value_name = "PREDICTIONS.jsonl")]
    pub output: PathBuf,
    #[command(flatten)]
    pub slots: Slots,
    /// Ask everything again
    #[arg(long)]
    pub force: bool,
    /// Stop at the first question that cannot be asked, instead of telling of it and going on
    #[arg(long)]
    pub strict: bool,
    /// Field of a question to tell results by
    #[arg(long, value_name = "FIELD", default_value = "group")]
    pub group: String,
    /// Print the results as one JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub generation: Generation,
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub gpu: Gpu,
}

/// A question with everything that its answer depends on, and the answer once there is one.
struct Item {
    row: Row,
    paths: Vec<PathBuf>,
    /// The prompt as the model gets it.
    asked: String,
    answer: Option<String>,
}

pub fn run(common: &Common, eval: &Eval) -> Result<()> {
    let options = eval.generation.options_of_one("question")?;
    // What cannot be read, worded or written is told before a long run begins, and before --force empties a file.
    check_target(&eval.output)?;
    let mut skipped = Skipped::new(common, "question", eval.strict);
    let rows = questions::read(&eval.questions, &eval.group, &mut skipped)?;
    if eval.output.canonicalize().is_ok_and(|output| eval.questions.canonicalize().is_ok_and(|q| q == output)) {
        let problem = format!("{} is the file of questions; answers go to another one", eval.output.display());
        return Err(Error::Request { problem }.into());
    }
    let settings = settings(eval, &options)?;
    let known = if eval.force { Known::nothing() } else { Known::read(&eval.output, &settings)? };
    let mut run = Run { common, eval, options, settings, contents: Contents::default(), skipped };
    let mut items = run.items(rows)?;
    check_is_no_input(&eval.output, items.iter().flat_map(|item| &item.paths))?;
    run.take_up(known, &mut items)?;
    if items.iter().any(|item| item.answer.is_none()) {
        run.ask(&mut items)?;
    }
    run.conclude(&items)
}

/// A run over a file of questions: what it was asked to do, and what it has come across so far.
struct Run<'a> {
    common: &'a Common,
    eval: &'a Eval,
    options: GenerateOptions,
    /// Everything that answers depend on besides the questions.
    settings: String,
    contents: Contents,
    skipped: Skipped,
}

impl Run<'_> {
    /// The questions that can be asked: those whose pictures are there and whose prompts can be worded.
    fn items(&mut self, rows: Vec<Row>) -> Result<Vec<Item>> {
        let folder = self.eval.questions.parent().unwrap_or(Path::new(""));
        let mut items = Vec::new();
        for row in rows {
            let paths: Vec<PathBuf> = row.images.iter().map(|image| folder.join(image)).collect();
            let asked = paths.iter().try_for_each(|path| is_there(path)).and_then(|()| row.worded(self.eval.task));
            match asked {
                Ok(asked) => items.push(Item { row, paths, asked, answer: None }),
                Err(error) => self.skipped.add(about(&row, error), &Progress::Quiet)?,
            }
        }
        match items.is_empty() && self.skipped.count() > 0 {
            true => Err(self.skipped.nothing_left()),
            false => Ok(items),
        }
    }

    /// Gives questions the answers that are in the file already.
    fn take_up(&mut self, mut known: Known, items: &mut [Item]) -> Result<()> {
        let (file, quiet) = (self.eval.output.display(), self.common.quiet);
        if known.unclear > 0 && !quiet {
            say(&format!("{} lines of {file} do not say what was asked and are not used", known.unclear));
        }
        if known.is_empty() {
            return Ok(());
        }
        for item in items.iter_mut() {
            // What cannot be read is told of when it is asked.
            item.answer = item.key(&mut self.contents).ok().and_then(|key| known.take(&key));
        }
        let done = items.iter().filter(|item| item.answer.is_some()).count();
        if done > 0 && !quiet {
            let all = items.len() + self.skipped.count();
            say(&format!("{done} of {all} answers are in {file} already; --force asks again"));
        }
        Ok(())
    }

    /// Asks the model what is not answered yet.
    fn ask(&mut self, items: &mut [Item]) -> Result<()> {
        let (common, eval, options) = (self.common, self.eval, self.options.clone());
        let open: Vec<&mut Item> = items.iter_mut().filter(|item| item.answer.is_none()).collect();
        let frames = open.iter().map(|item| item.paths.len()).max().unwrap_or(1);
        let most = eval.slots.workload(&options, open.len(), frames);
        let model = load_model(common, &eval.model, most)?;
        let mut file = predictions::open(&eval.output, eval.force)?;
        if !common.quiet
            && open.iter().any(|item| predictions::FIELDS.iter().any(|name| item.row.fields.contains_key(*name)))
        {
            say(&format!("fields of questions that are called {} are replaced", predictions::FIELDS.join(", ")));
        }
        let request = |item: &&mut Item| Request {
            pictures: item.paths.iter().map(|path| eval.model.picture_options.picture(common, path)).collect(),
            prompt: item.asked.clone(),
            qformer_prompt: item.row.qformer_prompt.clone(),
            options: options.clone(),
            choices: Vec::new(),
            features: None,
        };
        let started = Instant::now();
        let mut progress = Progress::counting(common.quiet, "questions", Some(open.len() as u64));
        let mut done = 0;
        let model = answer_all(model, &most, open, request, |item, reply| {
            self.keep(item, reply, &mut file, &progress)?;
            done += 1;
            progress.count(done);
            Ok(())
        })?;
        progress.clear();
        eval.model.overrides.tell_unused(common, model.device());
        let questions = if done == 1 { "question" } else { "questions" };
        say_last(common, &model, &format!("asked {done} {questions} in {:.2} s; ", started.elapsed().as_secs_f64()));
        Ok(())
    }

    /// Writes an answer down, or tells why there is none.
    ///
    /// # Errors
    /// Whatever concerns other questions, too.
    fn keep(
        &mut self,
        item: &mut Item,
        reply: instructblip::Result<Reply>,
        file: &mut impl Write,
        progress: &Progress,
    ) -> Result<()> {
        match reply.and_then(|reply| Ok((item.key(&mut self.contents)?, reply.text))) {
            Ok((key, text)) => {
                let line = predictions::line(&item.row, &key, &text, &self.settings);
                // A whole line at once: what is interrupted here is asked again next time.
                file.write_all(format!("{line}\n").as_bytes()).map_err(|e| unwritable(&self.eval.output, e))?;
                item.answer = Some(text);
                Ok(())
            }
            Err(error) if is_about_question(&error) => self.skipped.add(about(&item.row, error), progress),
            Err(error) => Err(error.into()),
        }
    }

    /// Tells how many answers are right.
    ///
    /// # Errors
    /// [`Error::Request`] if questions were skipped.
    fn conclude(&self, items: &[Item]) -> Result<()> {
        let mut tallies: BTreeMap<Option<&str>, Tally> = BTreeMap::new();
        let mut answered = 0;
        for Item { row, answer, .. } in items {
            if let Some(answer) = answer {
                tallies.entry(row.group.as_deref()).or_default().add(answer, &row.answers);
                answered += 1;
            }
        }
        if answered > 0 || self.skipped.count() == 0 {
            report(&tallies, self.skipped.count(), self.eval.json)?;
        }
        self.skipped.verdict(answered)
    }
}

/// Adds to an error which row it is about.
fn about(row: &Row, error: Error) -> anyhow::Error {
    anyhow::Error::from(error).context(row.place.clone())
}

impl Item {
    fn key(&self, contents: &mut Contents) -> instructblip::Result<Key> {
        let pictures = self.paths.iter().map(|path| contents.of(path)).collect::<instructblip::Result<_>>()?;
        Ok(Key { pictures, asked: self.asked.clone(), qformer_prompt: self.row.qformer_prompt.clone() })
    }
}

/// Tells errors of one question, after which others may still be answered.
fn is_about_question(error: &Error) -> bool {
    matches!(
        error,
        Error::NotFinite { .. }
            | Error::PromptTooLong { .. }
            | Error::OverSlots { .. }
            | Error::Request { .. }
            | Error::Image { .. }
            | Error::ImageTooLarge { .. }
            | Error::Io { .. }
    )
}

/// A model's name with its version: a branch of the hub moves and a folder is written again. Without the model, old answers
/// can still be counted.
fn with_version(name: &Path) -> String {
    let root = named(name).ok().map(|checkpoint| checkpoint.root().to_path_buf());
    let version = root.and_then(|root| match name.is_dir() {
        true => Some(format!(" of {}", changed(&root)?)),
        false => Some(format!(" at {}", root.file_name()?.display())),
    });
    format!("{}{}", name.display(), version.unwrap_or_default())
}

/// Names what answers depend on besides the question: answers of other settings are not taken up again.
fn settings(eval: &Eval, options: &GenerateOptions) -> Result<String> {
    // Taken apart, so that an option that is added has to be thought of here.
    let Model { model, lora, resize, image_size, special_tokens, picture_options, weights, overrides } = &eval.model;
    // How large a picture may be decides whether there is an answer, not which.
    let PictureOptions { max_pixels: _, exif_rotate } = picture_options;
    let upright = if *exif_rotate { ", upright" } else { "" };
    let model = model.as_deref().map_or("embedded model".into(), with_version);
    let lora = lora.as_deref().map_or(String::new(), |name| format!(", LoRA {}", with_version(name)));
    // Which options are not the default is told apart by their names in what Debug prints.
    let (given, usual) = (format!("{options:#?}"), format!("{:#?}", GenerateOptions::default()));
    let usual: HashSet<&str> = usual.lines().collect();
    let changed = given.lines().filter(|line| !usual.contains(line)).map(str::trim).collect::<Vec<_>>().join(" ");
    let task = eval.task.map_or(String::new(), |task| format!(", task {task:?}"));
    let size = image_size.map_or(String::new(), |side| format!(", {side} pixels"));
    let special = if *special_tokens { ", special tokens" } else { "" };
    let weights = match (weights.formats() == Formats::default(), weights.formats()) {
        (true, _) => String::new(),
        (false, Formats { vision, qformer, language }) => {
            let name = |format: Option<WeightFormat>| format.map_or("as stored", WeightFormat::name);
            format!(", weights {} {} {}", name(vision), name(qformer), name(language))
        }
    };
    let resize = if *resize == Resize::Pillow13 { ", Pillow 13" } else { "" };
    let mut kernels = String::new();
    for file in &overrides.files {
        let content = Contents::default().of(&file.file)?;
        kernels += &format!(", {} from {} ({})", file.name, file.file.display(), &content[..8]);
    }
    let all = format!("{model}{lora}{task}{size}{special}{weights}{resize}{upright}{kernels}, {changed}");
    Ok(all.trim_end_matches([',', ' ']).to_string())
}

/// When a file of a folder was last written, in seconds since 1970.
fn changed(folder: &Path) -> Option<u64> {
    let files = std::fs::read_dir(folder).ok()?.flatten().filter_map(|entry| entry.path().metadata().ok());
    let newest = files.filter(|file| file.is_file()).filter_map(|file| file.modified().ok()).max()?;
    Some(newest.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs())
}

/// The name for rows without a group.
const UNGROUPED: &str = "ungrouped";

fn report(tallies: &BTreeMap<Option<&str>, Tally>, skipped: usize, as_json: bool) -> Result<()> {
    let mut all = Tally::default();
    for tally in tallies.values() {
        all = Tally { count: all.count + tally.count, exact: all.exact + tally.exact, vqa: all.vqa + tally.vqa };
    }
    let of = |part: f64, tally: &Tally| if tally.count == 0 { 0.0 } else { part / tally.count as f64 };
    let mut out = std::io::stdout().lock();
    if as_json {
        let object =
            |t: &Tally| json!({"count": t.count, "exact_match": of(t.exact as f64, t), "vqa_accuracy": of(t.vqa, t)});
        let groups = tallies.iter().filter_map(|(name, tally)| Some(((*name)?.to_string(), object(tally))));
        let groups: serde_json::Map<String, Value> = groups.collect();
        let ungrouped = tallies.get(&None).map(object);
        let object = json!({"all": object(&all), "groups": groups, UNGROUPED: ungrouped, "skipped": skipped});
        writeln!(out, "{object}")?;
        return Ok(());
    }
    let mut line = |name: &str, t: &Tally| {
        let (exact, vqa) = (100.0 * of(t.exact as f64, t), 100.0 * of(t.vqa, t));
        let questions = if t.count == 1 { "question " } else { "questions" };
        writeln!(out, "{name:<20} {:>6} {questions}  exact {exact:5.1} %  VQA {vqa:5.1} %", t.count)
    };
    if tallies.len() > 1 {
        let name = |group: &Option<&str>| group.map_or(format!("({UNGROUPED})"), str::to_owned);
        tallies.iter().try_for_each(|(group, tally)| line(&name(group), tally))?;
    }
    line("all", &all)?;
    Ok(())
}
