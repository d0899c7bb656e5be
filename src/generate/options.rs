//! The options of the reference's `generate`, under its names, checked.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::fields::{self, FLAG, Kinds, LARGE, WHOLE};

/// The options of generation. Names, meanings and defaults are those of transformers, where it has them, except that the
/// default length is 256 new tokens and not 20. As JSON they are an object of those names; what is left out has its default.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerateOptions {
    /// Most tokens to generate; the end-of-text token counts. Wins over `max_length`.
    pub max_new_tokens: Option<u32>,
    /// Most tokens of prompt, image places and answer together; for T5 of the decoder, its start token included.
    pub max_length: Option<u32>,
    /// Least tokens before the end of the text, counted as for `max_length`.
    pub min_length: u32,
    /// Least new tokens before the end of the text.
    pub min_new_tokens: u32,
    /// Beams to search with; 1 takes one token at a time.
    pub num_beams: u32,
    /// Answers to return for a prompt.
    pub num_return_sequences: u32,
    /// Draws tokens by their probability instead of taking the likeliest.
    pub do_sample: bool,
    /// The start of the random numbers: the same seed draws the same answer on one machine.
    pub seed: u64,
    /// Divides scores before drawing.
    pub temperature: f32,
    /// Draws among this many of the likeliest tokens; 0 for all.
    pub top_k: u32,
    /// Draws among the likeliest tokens that make up this much probability.
    pub top_p: f32,
    /// Draws among tokens with at least this share of the likeliest one's probability.
    pub min_p: Option<f32>,
    /// Draws among the most typical tokens that make up this much probability.
    pub typical_p: f32,
    /// Draws among tokens of at least this probability; 0 for all.
    pub epsilon_cutoff: f32,
    /// Draws among tokens of a probability above a threshold that follows the entropy; 0 for all.
    pub eta_cutoff: f32,
    /// Divides the scores of tokens there are already, the prompt's and its image places included; 1 for none.
    pub repetition_penalty: f32,
    /// The prompt counts for `repetition_penalty` and `no_repeat_ngram_size`, as in the reference; the paper's own code
    /// counts new tokens only. T5 counts the decoder's tokens either way.
    pub penalize_prompt: bool,
    /// Lowers the scores of tokens that the answer has already by this much, from -2 to 2. As `frequency_penalty` it counts
    /// new tokens only, and acts after `repetition_penalty` and before the temperature: the formula is OpenAI's, in the
    /// order of vLLM; transformers has neither.
    pub presence_penalty: f32,
    /// Lowers the scores of tokens that the answer has already by this much for each time they came, from -2 to 2.
    pub frequency_penalty: f32,
    /// Length of the runs of tokens that may not come twice; 0 for no limit.
    pub no_repeat_ngram_size: u32,
    /// Beams are ranked by their log-probability over their length to this power.
    pub length_penalty: f32,
    /// The rule by which a search with beams ends.
    pub early_stopping: EarlyStopping,
    /// The number of new tokens after which end-of-text grows more likely, and the factor by which it does so a token.
    pub exponential_decay_length_penalty: Option<(u32, f32)>,
    /// Ends the answer once its text has one of these.
    pub stop_strings: Vec<String>,
    /// The beginning of the answer, which the model goes on with. Its tokens count as new ones. It is what the reference's
    /// `prefix_allowed_tokens_fn` does that allows one token after the other.
    pub prefix: String,
    /// Tokens that the answer begins with; those of `prefix` follow.
    pub prefix_ids: Vec<u32>,
    /// Words that the answer may not have, at the beginning of a word as the tokenizer sees it: each is banned as it is
    /// written there at the beginning of a text and after a space. A model may still spell one in other tokens.
    pub bad_words: Vec<String>,
    /// Runs of tokens that the answer may not have.
    pub bad_words_ids: Vec<Vec<u32>>,
    /// Gives with every new token its log-probability and those of so many of the likeliest tokens, from 0 to 20. They are
    /// the model's own, whatever the other options do to scores: the reference's `output_logits` and
    /// `compute_transition_scores` of these. Not for beams.
    pub logprobs: Option<u32>,
    /// End-of-text ids instead of the checkpoint's.
    #[serde(rename = "eos_token_id", deserialize_with = "one_or_several")]
    pub eos_token_ids: Option<Vec<u32>>,
}

/// The rule by which a search with beams ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EarlyStopping {
    /// The search ends when no beam looks as if it could become better than the worst finished one.
    #[default]
    False,
    /// The search ends as soon as there are as many finished candidates as beams.
    True,
    /// The search ends when no beam can become better, whatever its length.
    Never,
}

/// `false`, `true` or `"never"`, as the reference has it.
impl Serialize for EarlyStopping {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            EarlyStopping::False => serializer.serialize_bool(false),
            EarlyStopping::True => serializer.serialize_bool(true),
            EarlyStopping::Never => serializer.serialize_str("never"),
        }
    }
}

impl<'de> Deserialize<'de> for EarlyStopping {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<EarlyStopping, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Bool(false) => Ok(EarlyStopping::False),
            Value::Bool(true) => Ok(EarlyStopping::True),
            Value::String(word) if word == "never" => Ok(EarlyStopping::Never),
            other => Err(serde::de::Error::custom(format!("{other} is not true, false or \"never\""))),
        }
    }
}

/// An id, or a list of them.
fn one_or_several<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u32>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Ids {
        One(u32),
        Several(Vec<u32>),
    }
    let ids = Option::<Ids>::deserialize(deserializer)?;
    Ok(ids.map(|ids| match ids {
        Ids::One(id) => vec![id],
        Ids::Several(ids) => ids,
    }))
}

const NUMBER: &str = "a number";
const TEXT: &str = "a text";
const TEXTS: &str = "a list of texts";

/// The options' names as JSON has them, and what each must be.
const KINDS: &Kinds = &[
    ("max_new_tokens", WHOLE),
    ("max_length", WHOLE),
    ("min_length", WHOLE),
    ("min_new_tokens", WHOLE),
    ("num_beams", WHOLE),
    ("num_return_sequences", WHOLE),
    ("do_sample", FLAG),
    ("seed", LARGE),
    ("temperature", NUMBER),
    ("top_k", WHOLE),
    ("top_p", NUMBER),
    ("min_p", NUMBER),
    ("typical_p", NUMBER),
    ("epsilon_cutoff", NUMBER),
    ("eta_cutoff", NUMBER),
    ("repetition_penalty", NUMBER),
    ("penalize_prompt", FLAG),
    ("presence_penalty", NUMBER),
    ("frequency_penalty", NUMBER),
    ("no_repeat_ngram_size", WHOLE),
    ("length_penalty", NUMBER),
    ("early_stopping", "true, false or \"never\""),
    ("exponential_decay_length_penalty", "a list of a whole number and a number, such as [10, 1.1]"),
    ("stop_strings", TEXTS),
    ("prefix", TEXT),
    ("prefix_ids", "a list of token ids, each a whole number from 0 to 4294967295"),
    ("bad_words", TEXTS),
    ("bad_words_ids", "a list of lists of token ids, each a whole number from 0 to 4294967295"),
    ("logprobs", "a whole number from 0 to 20"),
    ("eos_token_id", "a token id, which is a whole number from 0 to 4294967295, or a list of them"),
];

impl Default for GenerateOptions {
    fn default() -> Self {
        GenerateOptions {
            max_new_tokens: None,
            max_length: None,
            min_length: 0,
            min_new_tokens: 0,
            num_beams: 1,
            num_return_sequences: 1,
            do_sample: false,
            seed: 0,
            temperature: 1.0,
            top_k: 50,
            top_p: 1.0,
            min_p: None,
            typical_p: 1.0,
            epsilon_cutoff: 0.0,
            eta_cutoff: 0.0,
            repetition_penalty: 1.0,
            penalize_prompt: true,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            no_repeat_ngram_size: 0,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::False,
            exponential_decay_length_penalty: None,
            stop_strings: Vec::new(),
            prefix: String::new(),
            prefix_ids: Vec::new(),
            bad_words: Vec::new(),
            bad_words_ids: Vec::new(),
            logprobs: None,
            eos_token_ids: None,
        }
    }
}

/// Scores divided by less would be infinite.
const COLDEST: f32 = 1e-20;

/// Most new tokens of an answer.
pub const MAX_NEW_TOKENS: u32 = 1 << 16;

/// New tokens when neither `max_new_tokens` nor `max_length` is given.
const DEFAULT_NEW_TOKENS: u32 = 256;

impl GenerateOptions {
    /// Options for at most `n` new tokens, with the default of everything else.
    pub fn up_to(n: u32) -> GenerateOptions {
        GenerateOptions { max_new_tokens: Some(n), ..GenerateOptions::default() }
    }

    /// Rows that are decoded side by side for one prompt.
    pub fn rows(&self) -> u32 {
        self.num_beams.max(self.num_return_sequences)
    }

    /// Tells whether these options give one answer, token after token.
    pub fn gives_one(&self) -> bool {
        self.rows() == 1
    }

    /// Most new tokens after `prompt` tokens (1 for T5).
    ///
    /// # Errors
    /// [`Error::Request`] if `max_length` leaves none.
    pub fn new_tokens(&self, prompt: u32) -> Result<u32> {
        match (self.max_new_tokens, self.max_length) {
            (Some(n), _) => Ok(n),
            (None, Some(length)) if length > prompt => Ok((length - prompt).min(MAX_NEW_TOKENS)),
            (None, Some(length)) => Err(Error::request(format!(
                "max_length {length} leaves no room for an answer: the prompt has {prompt} tokens, image places included"
            ))),
            (None, None) => Ok(DEFAULT_NEW_TOKENS),
        }
    }

    /// Refuses a least length beyond what an answer of at most `most` new tokens after `prompt` tokens (1 for T5) can have.
    /// The reference warns, and gives the shorter answer.
    ///
    /// # Errors
    /// [`Error::Request`] with both numbers.
    pub fn check_least(&self, prompt: u32, most: u32) -> Result<()> {
        let whole = prompt.saturating_add(most);
        let (name, least, what, have) = match (self.min_new_tokens, self.min_length) {
            (least, _) if least > most => ("min_new_tokens", least, "the answer has", most),
            (_, least) if least > whole => ("min_length", least, "prompt and answer have", whole),
            _ => return Ok(()),
        };
        let limit = match (self.new_tokens(prompt)? > most, self.max_new_tokens, self.max_length) {
            (true, ..) => "the model's context",
            (false, None, Some(_)) => "max_length",
            (false, ..) => "max_new_tokens",
        };
        Err(Error::request(format!("{name} is {least}, but by {limit} {what} at most {have} tokens")))
    }

    /// These options with some others instead, given as JSON; `null` stands for the default.
    ///
    /// # Errors
    /// [`Error::Request`] naming the option that there is not, that has a value of another kind, or one out of range.
    pub fn with_params(&self, params: &Map<String, Value>) -> Result<GenerateOptions> {
        // What JSON has no word for is refused here: numbers that are not finite.
        self.check()?;
        let mut all = match serde_json::to_value(self) {
            Ok(Value::Object(all)) => all,
            _ => unreachable!("options are an object"),
        };
        all.extend(params.clone());
        let options: GenerateOptions = fields::read("params", all, KINDS)?;
        options.check()?;
        Ok(options)
    }

    /// Refuses values out of range and options that contradict each other.
    ///
    /// # Errors
    /// [`Error::Request`] naming the option.
    pub fn check(&self) -> Result<()> {
        self.check_reals()?;
        self.check_counts()
    }

    fn check_reals(&self) -> Result<()> {
        let within = |name: &str, value: f32, ok: bool, range: &str| match ok {
            true => Ok(()),
            false => Err(Error::request(format!("{name} is {value}; it must be {range}"))),
        };
        let probability = |value: f32| (0.0..=1.0).contains(&value);
        let cutoff = |value: f32| (0.0..1.0).contains(&value);
        let shift = |value: f32| (-2.0..=2.0).contains(&value);
        within(
            "temperature",
            self.temperature,
            positive(self.temperature) && self.temperature >= COLDEST,
            "a finite number above 0, and not so low that scores overflow; for the likeliest token do without do_sample",
        )?;
        within(
            "repetition_penalty",
            self.repetition_penalty,
            positive(self.repetition_penalty),
            "a finite number above 0",
        )?;
        within("presence_penalty", self.presence_penalty, shift(self.presence_penalty), "from -2 to 2")?;
        within("frequency_penalty", self.frequency_penalty, shift(self.frequency_penalty), "from -2 to 2")?;
        within("length_penalty", self.length_penalty, self.length_penalty.is_finite(), "a finite number")?;
        within("top_p", self.top_p, probability(self.top_p), "from 0 to 1")?;
        within("min_p", self.min_p.unwrap_or(0.0), probability(self.min_p.unwrap_or(0.0)), "from 0 to 1")?;
        within("typical_p", self.typical_p, self.typical_p > 0.0 && probability(self.typical_p), "above 0, at most 1")?;
        within("epsilon_cutoff", self.epsilon_cutoff, cutoff(self.epsilon_cutoff), "from 0 to below 1")?;
        within("eta_cutoff", self.eta_cutoff, cutoff(self.eta_cutoff), "from 0 to below 1")?;
        let decay = self.exponential_decay_length_penalty.map_or(1.0, |(_, factor)| factor);
        within("exponential_decay_length_penalty's factor", decay, positive(decay), "a finite number above 0")
    }

    fn check_counts(&self) -> Result<()> {
        let refuse = |problem: String| Err(Error::request(problem));
        let (beams, answers) = (self.num_beams, self.num_return_sequences);
        if !(1..=MAX_ROWS).contains(&beams) || !(1..=MAX_ROWS).contains(&answers) {
            return refuse(format!(
                "num_beams is {beams} and num_return_sequences is {answers}; each must be from 1 to {MAX_ROWS}"
            ));
        }
        if beams > 1 && answers > beams {
            return refuse(format!("num_return_sequences {answers} is more than num_beams {beams}"));
        }
        if beams == 1 && answers > 1 && !self.do_sample {
            return refuse(format!(
                "num_return_sequences is {answers}, but there is only one likeliest answer; use do_sample or num_beams"
            ));
        }
        if let Some(n) = self.max_new_tokens.filter(|n| !(1..=MAX_NEW_TOKENS).contains(n)) {
            return refuse(format!("max_new_tokens is {n}; it must be from 1 to {MAX_NEW_TOKENS}"));
        }
        if let Some(max) = self.max_new_tokens.filter(|&max| self.min_new_tokens > max) {
            return refuse(format!("min_new_tokens {} is more than max_new_tokens {max}", self.min_new_tokens));
        }
        if let Some(max) = self.max_length.filter(|&max| self.max_new_tokens.is_none() && self.min_length > max) {
            return refuse(format!("min_length {} is more than max_length {max}", self.min_length));
        }
        if let Some(n) = self.logprobs.filter(|&n| n > MAX_LOGPROBS) {
            return refuse(format!("logprobs is {n}; it must be from 0 to {MAX_LOGPROBS}"));
        }
        if self.logprobs.is_some() && beams > 1 {
            return refuse(format!("logprobs are not given with num_beams {beams}: beams are ranked by their scores"));
        }
        if self.stop_strings.iter().any(String::is_empty) {
            return refuse("a stop string is empty: it would end every answer at once".into());
        }
        if self.bad_words.iter().any(String::is_empty) || self.bad_words_ids.iter().any(Vec::is_empty) {
            return refuse("one of the bad words is empty".into());
        }
        Ok(())
    }
}

/// Most of the likeliest tokens that are told with a token.
const MAX_LOGPROBS: u32 = 20;

/// Most beams or answers for one prompt.
const MAX_ROWS: u32 = 256;

fn positive(value: f32) -> bool {
    value.is_finite() && value > 0.0
}
