//! The options of generation on the command line, under the reference's names.

use clap::{Args, ValueEnum};
use instructblip::generate::options::MAX_NEW_TOKENS;
use instructblip::{EarlyStopping, Error, GenerateOptions};

/// Options of generation.
#[derive(Args, Debug)]
#[command(next_help_heading = "Generation")]
pub struct Generation {
    /// Most tokens to generate [default: 256]
    #[arg(long, value_name = "N", env = "INSTRUCTBLIP_MAX_NEW_TOKENS",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_NEW_TOKENS)))]
    pub max_new_tokens: Option<u32>,
    /// Most tokens of prompt, image places and answer together
    #[arg(long, value_name = "N")]
    pub max_length: Option<u32>,
    /// No end of the answer before this many tokens, counted as for --max-length
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub min_length: u32,
    /// No end of the answer before this many tokens of it
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub min_new_tokens: u32,
    /// Beams to search with
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub num_beams: u32,
    /// Answers to give
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub num_return_sequences: u32,
    /// When a search with beams ends
    #[arg(long, value_enum, default_value_t = Stopping::False, num_args = 0..=1, default_missing_value = "true", requires = "num_beams")]
    pub early_stopping: Stopping,
    /// Beams are ranked by log-probability over length to this power
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_hyphen_values = true, requires = "num_beams")]
    pub length_penalty: f32,
    /// Draw tokens instead of taking the likeliest
    #[arg(long)]
    pub do_sample: bool,
    /// Where drawing starts: the same seed draws the same answer
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Divides scores before drawing
    #[arg(long, value_name = "X", default_value_t = 1.0, requires = "do_sample")]
    pub temperature: f32,
    /// Draw among this many of the likeliest; 0 for all
    #[arg(long, value_name = "N", default_value_t = 50, requires = "do_sample")]
    pub top_k: u32,
    /// Draw among the likeliest that make up this much probability
    #[arg(long, value_name = "X", default_value_t = 1.0, requires = "do_sample")]
    pub top_p: f32,
    /// Draw among those with at least this share of the likeliest one's probability
    #[arg(long, value_name = "X", requires = "do_sample")]
    pub min_p: Option<f32>,
    /// Draw among the most typical that make up this much probability
    #[arg(long, value_name = "X", default_value_t = 1.0, requires = "do_sample")]
    pub typical_p: f32,
    /// Draw among those of at least this probability; 0 for all
    #[arg(long, value_name = "X", default_value_t = 0.0, requires = "do_sample")]
    pub epsilon_cutoff: f32,
    /// The same with a threshold that follows the entropy; 0 for all
    #[arg(long, value_name = "X", default_value_t = 0.0, requires = "do_sample")]
    pub eta_cutoff: f32,
    /// Lowers scores of tokens there are already, the prompt's included
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub repetition_penalty: f32,
    /// Lowers scores of tokens that the answer has already, from -2 to 2
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_hyphen_values = true)]
    pub presence_penalty: f32,
    /// Lowers them by this for each time they came, from -2 to 2
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_hyphen_values = true)]
    pub frequency_penalty: f32,
    /// Penalties look at new tokens only, as in the paper's own code
    #[arg(long)]
    pub spare_prompt: bool,
    /// No run of this many tokens twice; 0 for no limit
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub no_repeat_ngram_size: u32,
    /// After START new tokens the answer's end grows likelier by FACTOR a token
    #[arg(long, value_name = "START,FACTOR", value_parser = start_and_factor)]
    pub exponential_decay_length_penalty: Option<(u32, f32)>,
    /// Ends the answer once its text has this; may be repeated
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// The beginning of the answer, which the model goes on with
    #[arg(long, value_name = "TEXT")]
    pub prefix: Option<String>,
    /// A word that the answer may not have; may be repeated
    #[arg(long, value_name = "WORD")]
    pub bad_word: Vec<String>,
}

/// The end of a search with beams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Stopping {
    /// When no beam looks as if it could become better.
    False,
    /// As soon as there are as many finished answers as beams.
    True,
    /// When no beam can become better.
    Never,
}

fn start_and_factor(text: &str) -> Result<(u32, f32), String> {
    let parts = text.split_once(',').and_then(|(start, factor)| Some((start.parse().ok()?, factor.parse().ok()?)));
    parts.ok_or_else(|| "give two numbers, as in 20,1.1".into())
}

impl Generation {
    /// The options where `what`, a row or a question, has one answer.
    ///
    /// # Errors
    /// [`Error::Request`] for options out of range, and for several answers.
    pub fn options_of_one(&self, what: &str) -> instructblip::Result<GenerateOptions> {
        let options = self.options();
        options.check()?;
        if options.num_return_sequences > 1 {
            let problem = format!("a {what} has one answer: --num-return-sequences is for ask and caption");
            return Err(Error::Request { problem });
        }
        Ok(options)
    }

    /// The options in the library's form.
    pub fn options(&self) -> GenerateOptions {
        GenerateOptions {
            max_new_tokens: self.max_new_tokens,
            max_length: self.max_length,
            min_length: self.min_length,
            min_new_tokens: self.min_new_tokens,
            num_beams: self.num_beams,
            num_return_sequences: self.num_return_sequences,
            do_sample: self.do_sample,
            seed: self.seed,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            typical_p: self.typical_p,
            epsilon_cutoff: self.epsilon_cutoff,
            eta_cutoff: self.eta_cutoff,
            repetition_penalty: self.repetition_penalty,
            penalize_prompt: !self.spare_prompt,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            no_repeat_ngram_size: self.no_repeat_ngram_size,
            length_penalty: self.length_penalty,
            early_stopping: match self.early_stopping {
                Stopping::False => EarlyStopping::False,
                Stopping::True => EarlyStopping::True,
                Stopping::Never => EarlyStopping::Never,
            },
            exponential_decay_length_penalty: self.exponential_decay_length_penalty,
            stop_strings: self.stop.clone(),
            prefix: self.prefix.clone().unwrap_or_default(),
            prefix_ids: Vec::new(),
            bad_words: self.bad_word.clone(),
            bad_words_ids: Vec::new(),
            logprobs: None,
            eos_token_ids: None,
        }
    }
}
