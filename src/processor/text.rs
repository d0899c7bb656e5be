//! Conversion of prompts to token ids and of ids to text.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::class::token_name;
use super::vocabulary::Vocabulary;
use crate::config::Config;
use crate::error::{Error, Result};

/// Longest prompt that is tokenized, in bytes: far beyond what any model takes, and still quick to refuse.
pub const MAX_PROMPT_BYTES: usize = 1 << 20;

/// A model's limits for prompts, from its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptLimits {
    /// Id that marks the place of a picture token (`image_token_index`); checkpoints of 2023 have none.
    pub image_token_id: Option<u32>,
    /// Number of picture tokens in a prompt.
    pub num_query_tokens: usize,
    /// Rows of the language model's embedding: ids are below.
    pub lm_rows: usize,
    /// Rows of the Q-Former's word embedding: ids are below. 0 where it reads no text, as in BLIP-2.
    pub qformer_rows: usize,
    /// Rows of the Q-Former's position table: most tokens of an instruction.
    pub qformer_positions: usize,
}

impl PromptLimits {
    /// The limits of a model whose embeddings have `lm_rows` and `qformer_rows` rows; 0 where the Q-Former reads no text.
    pub fn of(config: &Config, lm_rows: u32, qformer_rows: u32) -> PromptLimits {
        PromptLimits {
            image_token_id: config.image_token_id,
            num_query_tokens: config.num_query_tokens as usize,
            lm_rows: lm_rows as usize,
            qformer_rows: qformer_rows as usize,
            qformer_positions: config.qformer.max_position_embeddings as usize,
        }
    }
}

/// A prompt as the model takes it: one row, no padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// The picture's places, then the text with its special tokens.
    pub input_ids: Vec<u32>,
    /// The attention mask: one value for each of `input_ids`.
    pub attention_mask: Vec<u32>,
    /// The instruction for the Q-Former; empty where it reads none.
    pub qformer_input_ids: Vec<u32>,
    /// The attention mask: one value for each of `qformer_input_ids`.
    pub qformer_attention_mask: Vec<u32>,
}

impl Prompt {
    /// Puts hidden words in front of the Q-Former's until there are `words`.
    pub fn pad_qformer_left(&mut self, words: usize) {
        let pads = words.saturating_sub(self.qformer_input_ids.len());
        self.qformer_input_ids.splice(..0, std::iter::repeat_n(0, pads));
        self.qformer_attention_mask.splice(..0, std::iter::repeat_n(0, pads));
    }
}

/// One tokenizer's files; the paths are for messages.
#[derive(Clone, Copy, Debug)]
pub struct TokenizerFiles<'a> {
    /// Path of the `tokenizer.json`.
    pub path: &'a Path,
    /// The bytes of that file.
    pub bytes: &'a [u8],
    /// Path of the `tokenizer_config.json`, and its JSON, where there is one.
    pub config: Option<(&'a Path, &'a Value)>,
    /// True if the file is taken as it is, whatever class its settings name.
    pub as_it_is: bool,
}

impl TokenizerFiles<'_> {
    fn read(&self, also_special: &[String]) -> Result<Vocabulary> {
        let settings = self.config.map(|(_, config)| config).filter(|_| !self.as_it_is);
        Vocabulary::from_bytes(self.path, self.bytes, settings, also_special)
    }
}

/// The tokenizers of the language model and of the Q-Former.
///
/// Reference: `transformers.InstructBlipProcessor`, except that special tokens in a text are plain text until they are
/// allowed.
#[derive(Clone)]
pub struct Tokenizers {
    lm: Vocabulary,
    qformer: Option<Vocabulary>,
    limits: PromptLimits,
    eos: Option<u32>,
    clean_up: bool,
}

impl std::fmt::Debug for Tokenizers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizers").field("limits", &self.limits).field("eos", &self.eos).finish_non_exhaustive()
    }
}

impl Tokenizers {
    /// Reads the tokenizers' files, those of the Q-Former where it reads text.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if a file is damaged, if the end token it names is not in the vocabulary, or if
    /// the picture token has no row in the embedding.
    pub fn from_files(
        lm: &TokenizerFiles<'_>,
        qformer: Option<&TokenizerFiles<'_>>,
        limits: PromptLimits,
    ) -> Result<Self> {
        if let Some(image_token_id) = limits.image_token_id.filter(|&id| id as usize >= limits.lm_rows) {
            let lm_rows = limits.lm_rows;
            let problem = format!("picture token {image_token_id} has no row in an embedding of {lm_rows} rows");
            return Err(Error::checkpoint(lm.path, problem));
        }
        let config = lm.config;
        let special = config.map(|(_, config)| special_names(config)).unwrap_or_default();
        let lm = lm.read(&special)?;
        let (mut eos, mut clean_up) = (None, false);
        if let Some((file, config)) = config {
            if let Some(name) = config.get("eos_token").and_then(token_name) {
                let unknown = || Error::checkpoint(file, format!("eos_token {name:?} is not in the vocabulary"));
                eos = Some(lm.id(name).ok_or_else(unknown)?);
            }
            // The reference ignores this setting for byte-pair encoding, whose texts it would spoil.
            clean_up = !lm.is_bpe && config.get("clean_up_tokenization_spaces") == Some(&Value::Bool(true));
        }
        let tokenizers = Tokenizers { lm, qformer: None, limits, eos, clean_up };
        match qformer {
            Some(files) => tokenizers.with_qformer(files),
            None => Ok(tokenizers),
        }
    }

    /// Adds the Q-Former's tokenizer.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if its file is damaged.
    pub(super) fn with_qformer(self, files: &TokenizerFiles<'_>) -> Result<Self> {
        Ok(Tokenizers { qformer: Some(files.read(&[])?), ..self })
    }

    /// Lets special tokens written in a text, such as `</s>`, be those tokens, as the reference does. The picture's
    /// place stays refused.
    pub fn allow_special_tokens(&mut self) {
        self.lm.allow_special_tokens();
        self.qformer.iter_mut().for_each(Vocabulary::allow_special_tokens);
    }

    /// Id of the language model's end token, where `tokenizer_config.json` names one.
    pub fn eos_token_id(&self) -> Option<u32> {
        self.eos
    }

    /// The model's limits for prompts, from its configuration.
    pub fn limits(&self) -> &PromptLimits {
        &self.limits
    }

    /// Tokenizes a prompt for the language model and an instruction (usually the same text) for the Q-Former, with
    /// places for `pictures` pictures in front.
    ///
    /// Special tokens written in a text, such as `</s>`, are plain text until [`Self::allow_special_tokens`].
    ///
    /// # Errors
    /// [`Error::PromptTooLong`] if the instruction has more tokens than the Q-Former has positions;
    /// [`Error::Request`] if the prompt names the picture's place, if a text is longer than [`MAX_PROMPT_BYTES`], or
    /// if it has a token beyond the embedding.
    pub fn encode(&self, text: &str, qformer_text: &str, pictures: usize) -> Result<Prompt> {
        let PromptLimits { image_token_id, num_query_tokens, lm_rows, .. } = self.limits;
        for text in [text, qformer_text] {
            if text.len() > MAX_PROMPT_BYTES {
                let problem = format!("the prompt has {} bytes; the limit is {MAX_PROMPT_BYTES}", text.len());
                return Err(Error::request(problem));
            }
        }
        let place = image_token_id.map(|id| self.lm.token(id)).filter(|name| !name.is_empty());
        if let Some(place) = place.filter(|place| text.contains(place)) {
            let problem = format!(
                "the prompt contains {place}, which marks the places of the picture; they are put in front of the \
                 prompt by themselves: leave it out"
            );
            return Err(Error::request(problem));
        }
        let qformer_input_ids = self.qformer_ids(qformer_text)?;
        let text_ids = self.lm.encode(text, image_token_id)?;
        check_rows(&self.lm, &text_ids, lm_rows, "the language model")?;
        // Without an id of their own the places take any: what is there is replaced by the picture's features.
        let mut input_ids = vec![image_token_id.unwrap_or(0); num_query_tokens * pictures];
        input_ids.extend(text_ids);
        Ok(Prompt {
            attention_mask: vec![1; input_ids.len()],
            input_ids,
            qformer_attention_mask: vec![1; qformer_input_ids.len()],
            qformer_input_ids,
        })
    }

    fn qformer_ids(&self, text: &str) -> Result<Vec<u32>> {
        let Some(qformer) = &self.qformer else { return Ok(Vec::new()) };
        let ids = qformer.encode(text, None)?;
        let (need, have) = (ids.len(), self.limits.qformer_positions);
        if need > have {
            return Err(Error::PromptTooLong { what: "the Q-Former", need, have });
        }
        check_rows(qformer, &ids, self.limits.qformer_rows, "the Q-Former")?;
        Ok(ids)
    }

    /// The tokens of an answer, or of `what` else, as the model would generate it: without what is put in front of a prompt,
    /// and with `end` at the end.
    ///
    /// # Errors
    /// [`Error::Request`] if the text makes no token, or one that has no row in the embedding.
    pub fn encode_answer(&self, text: &str, end: Option<u32>, what: &str) -> Result<Vec<u32>> {
        let mut ids = self.lm.encode_bare(text)?;
        if ids.is_empty() {
            return Err(Error::request(format!("the {what} {text:?} makes no token")));
        }
        ids.extend(end);
        check_rows(&self.lm, &ids, self.limits.lm_rows, "the language model")?;
        Ok(ids)
    }

    /// The text of generated ids, without special tokens.
    ///
    /// Reference: `tokenizer.decode(ids, skip_special_tokens=True)`.
    pub fn decode(&self, ids: &[u32]) -> String {
        let text = self.lm.decode(ids);
        if self.clean_up { clean_up(&text) } else { text }
    }

    /// The bytes that a token of the language model stands for inside a text, which may be part of a character; none for
    /// special tokens and ids that are no tokens. `▁the` is ` the`.
    ///
    /// The bytes of an answer's tokens are its text, but for a space that [`Self::decode`] strips at its beginning, spaces
    /// before punctuation that settings have it clean up, and bytes that make no character.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        self.lm.bytes(id)
    }

    /// A decoder that is fed one id at a time.
    pub fn stream(self: &Arc<Tokenizers>) -> StreamDecoder {
        StreamDecoder { tokenizers: self.clone(), before: Vec::new(), pending: Vec::new(), held: String::new() }
    }
}

fn check_rows(vocabulary: &Vocabulary, ids: &[u32], rows: usize, what: &str) -> Result<()> {
    let Some(id) = ids.iter().find(|id| **id as usize >= rows) else { return Ok(()) };
    let token = vocabulary.token(*id);
    Err(Error::request(format!(
        "the prompt has token {id} ({token:?}), but {what} has only {rows} embedding rows; \
         the tokenizer is that of another model, or the word must be left out"
    )))
}

/// The special tokens that `tokenizer_config.json` names.
fn special_names(config: &Value) -> Vec<String> {
    let single = ["bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"];
    let lists = ["additional_special_tokens", "extra_special_tokens"];
    let in_lists = lists.iter().filter_map(|key| config.get(*key)?.as_array()).flatten();
    let all = single.iter().filter_map(|key| config.get(*key)).chain(in_lists);
    all.filter_map(token_name).map(str::to_owned).collect()
}

/// Removes the space that word-piece decoding leaves before punctuation.
///
/// Reference: `clean_up_tokenization` of transformers.
fn clean_up(text: &str) -> String {
    [" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're"]
        .iter()
        .fold(text.to_owned(), |text, pattern| text.replace(pattern, pattern.trim()))
}

/// Turns ids into text as they come: the pieces in a row are [`Tokenizers::decode`] of all ids.
///
/// A piece never ends inside a character, and text that a later id could still change is held back.
#[derive(Debug)]
pub struct StreamDecoder {
    tokenizers: Arc<Tokenizers>,
    /// The last ids whose text was given out: the text of the next ids depends on them.
    before: Vec<u32>,
    /// The ids whose text was not given out yet.
    pending: Vec<u32>,
    /// Text whose spaces may still be cleaned up.
    held: String,
}

impl StreamDecoder {
    /// Takes the next id and returns the text that has become certain, often none.
    pub fn push(&mut self, id: u32) -> String {
        if self.tokenizers.lm.is_silent(id) {
            return String::new();
        }
        self.pending.push(id);
        // A run of byte tokens is decoded as a whole: one wrong byte at its end changes all of it.
        if self.tokenizers.lm.is_byte(id) {
            return String::new();
        }
        let text = self.pending_text();
        // Tokens of byte-level encodings cut characters, which shows as a replacement character at the end.
        if text.is_empty() || text.ends_with(char::REPLACEMENT_CHARACTER) {
            return String::new();
        }
        self.before = std::mem::take(&mut self.pending);
        if !self.tokenizers.clean_up {
            return text;
        }
        self.held.push_str(&text);
        let rest = self.held.split_off(certain_bytes(&self.held));
        clean_up(&std::mem::replace(&mut self.held, rest))
    }

    /// Returns the text held back so far; the ids have ended.
    pub fn finish(mut self) -> String {
        let text = self.pending_text();
        self.held.push_str(&text);
        if self.tokenizers.clean_up { clean_up(&self.held) } else { self.held }
    }

    /// The text that the pending ids add.
    fn pending_text(&self) -> String {
        let all = [self.before.as_slice(), &self.pending].concat();
        let before = self.tokenizers.lm.decode(&self.before).len();
        self.tokenizers.lm.decode(&all).get(before..).unwrap_or_default().to_owned()
    }
}

/// The number of a text's bytes that are cleaned up alike whatever follows: up to the last place with no space in the
/// three characters before it, since every pattern starts with a space and has at most four characters.
fn certain_bytes(text: &str) -> usize {
    let mut run = 0;
    let mut certain = 0;
    for (at, c) in text.char_indices() {
        run = if c == ' ' { 0 } else { run + 1 };
        if run >= 3 {
            certain = at + c.len_utf8();
        }
    }
    certain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spaces_before_punctuation_go() {
        assert_eq!(clean_up("is n't it , what 's this ? do ' nt"), "isn't it, what's this? do'nt");
    }

    #[test]
    fn cleaning_up_in_pieces_is_cleaning_up_the_whole() {
        let text = "a b n't  . it 's the cat 's ' own do n ' tx ,  ' 's! e.g . end 've";
        for cut in 0..=text.len() {
            let certain = certain_bytes(&text[..cut]);
            let pieces = clean_up(&text[..certain]) + &clean_up(&text[certain..]);
            assert_eq!(pieces, clean_up(text), "cut at {cut}, certain {certain}");
        }
    }

    #[test]
    fn names_of_tokens_are_strings_or_objects() {
        let config = serde_json::json!({
            "eos_token": {"content": "</s>", "lstrip": false}, "bos_token": "<s>", "pad_token": null,
            "extra_special_tokens": ["<image>"], "additional_special_tokens": [{"content": "<video>"}],
        });
        assert_eq!(special_names(&config), ["<s>", "</s>", "<video>", "<image>"]);
    }
}
