//! The options of an answer, from OpenAI's names and this server's own.

use instructblip::processor::Task;
use instructblip::{EarlyStopping, GenerateOptions};
use serde_json::Value;

use crate::serve::failure::Failure;
use crate::serve::fields::{Fields, task};
use crate::serve::looking::qformer_prompt;
use crate::serve::served::About;

/// Texts that end an answer, at most, and bytes of one.
const MOST_STOPS: usize = 16;
const LONGEST_STOP: usize = 256;

/// A temperature below this takes the likeliest token.
const COLDEST: f64 = 1e-3;

/// Fields that hosted services have for their own ends, and that change no answer here.
const WITHOUT_EFFECT: [&str; 13] = [
    "model",
    "user",
    "metadata",
    "store",
    "service_tier",
    "reasoning_effort",
    "verbosity",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "prediction",
    "audio",
];

/// The options of an answer.
#[derive(Debug)]
pub struct Options {
    pub generate: GenerateOptions,
    /// Answers that are wanted.
    pub n: u32,
    /// Texts at which an answer is cut.
    pub stops: Vec<String>,
    pub stream: bool,
    /// A last piece of a stream tells the tokens.
    pub usage: bool,
    pub task: Option<Task>,
    pub choices: Vec<String>,
    pub qformer_prompt: Option<String>,
}

impl Options {
    /// Reads the fields that are options, and refuses those that ask for what there is not.
    ///
    /// # Errors
    /// [`Failure`] naming the field.
    pub fn read(fields: &mut Fields, about: &About) -> Result<Options, Failure> {
        fields.ignore(&WITHOUT_EFFECT);
        refuse_what_there_is_not(fields)?;
        let most = u64::from(about.slots);
        let n = fields.whole("n", 1, most)?.unwrap_or(1) as u32;
        let stops = stops(fields)?;
        let generate = generate(fields, about, n, &stops)?;
        let stream = fields.flag("stream")?.unwrap_or(false);
        let mut usage = false;
        if let Some(options) = fields.take("stream_options") {
            let mut options = Fields::of(options, "stream_options")?;
            usage = options.flag("include_usage")?.unwrap_or(false);
            options.ignore(&["include_obfuscation"]);
            options.end()?;
        }
        Ok(Options {
            n,
            stops,
            stream,
            usage,
            task: task(fields)?,
            choices: fields.texts("choices", false)?,
            qformer_prompt: qformer_prompt(fields, about)?,
            generate,
        })
    }

    /// Answers that are made: equal ones are made once.
    pub fn copies(&self) -> usize {
        (self.n / self.generate.num_return_sequences).max(1) as usize
    }
}

fn refuse_what_there_is_not(fields: &mut Fields) -> Result<(), Failure> {
    let is_something = |value: &Value| match value {
        Value::Array(values) => !values.is_empty(),
        Value::Object(values) => !values.is_empty(),
        Value::Bool(wanted) => *wanted,
        Value::String(word) => !matches!(word.as_str(), "none" | "auto"),
        _ => true,
    };
    for (field, problem) in [
        ("tools", "this model uses no tools"),
        ("tool_choice", "this model uses no tools"),
        ("functions", "this model uses no tools"),
        ("function_call", "this model uses no tools"),
        ("web_search_options", "this model searches nothing"),
        ("logit_bias", "single tokens cannot be favoured here; \"bad_words\" forbids words"),
        ("lora", "an adapter is chosen when the server starts (--lora), not with a request"),
    ] {
        if fields.take(field).is_some_and(|value| is_something(&value)) {
            return Err(Failure::unsupported(&fields.name(field), problem));
        }
    }
    if let Some(format) = fields.take("response_format")
        && format.get("type").and_then(Value::as_str) != Some("text")
    {
        return Err(Failure::unsupported("response_format", "answers are plain text: {\"type\": \"text\"}"));
    }
    let modalities = fields.texts("modalities", false)?;
    match modalities.iter().any(|modality| modality != "text") {
        true => Err(Failure::unsupported("modalities", "answers are text")),
        false => Ok(()),
    }
}

/// Texts that end an answer: one, or a list.
fn stops(fields: &mut Fields) -> Result<Vec<String>, Failure> {
    let stops = fields.texts("stop", true)?;
    if stops.len() > MOST_STOPS || stops.iter().any(|stop| stop.is_empty() || stop.len() > LONGEST_STOP) {
        let problem = format!("must be up to {MOST_STOPS} texts of 1 to {LONGEST_STOP} bytes");
        return Err(fields.refused("stop", &problem));
    }
    Ok(stops)
}

/// The beginning of the answer.
fn prefix(fields: &mut Fields, stops: &[String]) -> Result<String, Failure> {
    let prefix = fields.text("prefix")?.unwrap_or_default();
    match stops.iter().find(|stop| prefix.contains(*stop)) {
        Some(stop) => Err(fields.refused("prefix", &format!("has {stop:?} in it, where \"stop\" ends the answer"))),
        None => Ok(prefix),
    }
}

/// Log-probabilities, and of how many other tokens, if they are wanted.
fn logprobs(fields: &mut Fields) -> Result<Option<u32>, Failure> {
    let wanted = fields.flag("logprobs")?.unwrap_or(false);
    let top = fields.whole("top_logprobs", 0, 20)?;
    match (wanted, top) {
        (false, Some(1..)) => Err(fields.refused("top_logprobs", "needs \"logprobs\": true")),
        (wanted, top) => Ok(wanted.then_some(top.unwrap_or(0) as u32)),
    }
}

/// The options of generation. Tokens are drawn where a request asks for it by `temperature`, `top_p`, `top_k` or `min_p`,
/// or for several answers; otherwise the likeliest are taken.
fn generate(fields: &mut Fields, about: &About, n: u32, stops: &[String]) -> Result<GenerateOptions, Failure> {
    let least = |number: Option<u64>| number.map(|number| number as u32);
    let limit = u64::from(u32::MAX);
    let newer = fields.whole("max_completion_tokens", 1, limit)?;
    let older = fields.whole("max_tokens", 1, limit)?;
    // Clients ask for thousands to be safe; an answer that is cut says so.
    let max_new_tokens = least(newer.or(older)).map_or(about.max_new_tokens, |most| most.min(about.max_new_tokens));
    let num_beams = least(fields.whole("num_beams", 1, about.slots.into())?).unwrap_or(1);
    let temperature = fields.number("temperature", 0.0, 2.0)?;
    let top_p = fields.number("top_p", 0.0, 1.0)?;
    let top_k = least(fields.whole("top_k", 0, limit)?);
    let min_p = fields.number("min_p", 0.0, 1.0)?;
    let asked = temperature.is_some() || top_p.is_some_and(|p| p < 1.0) || top_k.is_some() || min_p.is_some();
    let several = n > 1 && num_beams == 1 && temperature.is_none();
    let do_sample = (asked || several) && temperature.is_none_or(|temperature| temperature >= COLDEST);
    let seed = match fields.take("seed") {
        None => fastrand::u64(..),
        // Numbers below 0 start other numbers than those above; some clients write whole ones as 3.0.
        Some(seed) => {
            let whole = seed.as_f64().filter(|x| x.fract() == 0.0 && x.abs() < 9e15).map(|x| x as i64);
            let seed = seed.as_i64().or(whole).map(|seed| seed as u64).or(seed.as_u64());
            seed.ok_or_else(|| fields.refused("seed", "must be a whole number of 64 bits"))?
        }
    };
    if num_beams > 1 && n > num_beams {
        return Err(fields.refused("n", &format!("is {n}, which is more than num_beams {num_beams}")));
    }
    let usual = GenerateOptions::default();
    let options = GenerateOptions {
        max_new_tokens: Some(max_new_tokens),
        min_new_tokens: least(fields.whole("min_tokens", 0, max_new_tokens.into())?).unwrap_or(0),
        num_beams,
        num_return_sequences: if do_sample || num_beams > 1 { n } else { 1 },
        do_sample,
        seed,
        temperature: if do_sample { temperature.unwrap_or(1.0) as f32 } else { 1.0 },
        top_k: top_k.unwrap_or(0),
        top_p: if do_sample { top_p.unwrap_or(1.0) as f32 } else { 1.0 },
        min_p: min_p.filter(|_| do_sample).map(|p| p as f32),
        repetition_penalty: fields.number("repetition_penalty", 0.01, 100.0)?.map_or(1.0, |x| x as f32),
        presence_penalty: fields.number("presence_penalty", -2.0, 2.0)?.map_or(0.0, |x| x as f32),
        frequency_penalty: fields.number("frequency_penalty", -2.0, 2.0)?.map_or(0.0, |x| x as f32),
        length_penalty: fields.number("length_penalty", -100.0, 100.0)?.map_or(1.0, |x| x as f32),
        no_repeat_ngram_size: least(fields.whole("no_repeat_ngram_size", 0, 1000)?).unwrap_or(0),
        early_stopping: early_stopping(fields)?,
        stop_strings: stops.to_vec(),
        prefix: prefix(fields, stops)?,
        bad_words: bad_words(fields)?,
        logprobs: logprobs(fields)?,
        ..usual
    };
    options.check().map_err(|error| Failure::of(&error, "messages"))?;
    Ok(options)
}

/// The end of a search with beams, by the reference's words.
fn early_stopping(fields: &mut Fields) -> Result<EarlyStopping, Failure> {
    match fields.take("early_stopping") {
        None | Some(Value::Bool(false)) => Ok(EarlyStopping::False),
        Some(Value::Bool(true)) => Ok(EarlyStopping::True),
        Some(Value::String(word)) if word == "never" => Ok(EarlyStopping::Never),
        Some(_) => Err(fields.refused("early_stopping", "must be true, false or \"never\"")),
    }
}

fn bad_words(fields: &mut Fields) -> Result<Vec<String>, Failure> {
    let words = fields.texts("bad_words", false)?;
    match words.iter().any(String::is_empty) {
        true => Err(fields.refused("bad_words", "has an empty word")),
        false => Ok(words),
    }
}
