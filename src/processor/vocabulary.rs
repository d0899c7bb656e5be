//! One `tokenizer.json`, read so that what a user types stays plain text.

use std::collections::HashSet;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::{AddedToken, Decoder, Tokenizer};

use super::class;
use crate::error::{Error, Result};
use crate::quiet::without_panics;

/// The prefix of the special pieces in a Unigram vocabulary: a code point that is no character.
const UNTYPABLE: char = '\u{10FFFF}';

/// The parts of a `tokenizer.json` that the `tokenizers` crate does not give.
#[derive(Deserialize)]
struct Header {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    decoder: Value,
    model: Model,
}

#[derive(Deserialize)]
struct Added {
    content: String,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Model {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    unk_token: Option<String>,
    #[serde(default)]
    unk_id: Option<u32>,
    #[serde(default)]
    byte_fallback: bool,
}

/// A tokenizer with the special tokens that it must not make from a user's text.
#[derive(Clone)]
pub(super) struct Vocabulary {
    /// Turns ids into text.
    decoder: Tokenizer,
    /// Turns text into ids, where that needs another tokenizer.
    encoder: Option<Tokenizer>,
    /// Ids of the special tokens, except for the one of unknown text.
    special: HashSet<u32>,
    /// True if bytes that make no token are spelled as `<0x00>` … `<0xFF>`.
    byte_fallback: bool,
    /// True if tokens are spelled in GPT-2's alphabet, in which every character is a byte.
    byte_level: bool,
    /// True if the algorithm is byte-pair encoding.
    pub(super) is_bpe: bool,
}

impl Vocabulary {
    /// Reads a `tokenizer.json` as the class does that its `tokenizer_config.json`, `config`, names; `also_special` are
    /// names of special tokens that the file may not mark as such.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the file is damaged.
    pub(super) fn from_bytes(
        file: &Path,
        bytes: &[u8],
        config: Option<&Value>,
        also_special: &[String],
    ) -> Result<Self> {
        let damaged =
            || Error::checkpoint(file, "not a tokenizer this library can read: it is damaged or of a newer kind");
        let mut json: Value = serde_json::from_slice(bytes).map_err(|_| damaged())?;
        if let Some(config) = config {
            class::apply(&mut json, config);
        }
        bytes_are_text(&mut json);
        let header = Header::deserialize(&json).map_err(|_| damaged())?;
        let kind = header.model.kind.clone();
        let mut names: HashSet<String> = also_special.iter().cloned().collect();
        names.retain(|name| !(header.model.byte_fallback && is_byte_piece(name)));
        names.extend(header.added_tokens.into_iter().filter(|token| token.special).map(|token| token.content));

        let read = |json: Value| without_panics(|| serde_json::from_value::<Tokenizer>(json).ok()).flatten();
        let unigram = (kind.as_deref() == Some("Unigram")).then(|| json.clone());
        let decoder = read(json).and_then(|tokenizer| prepare(tokenizer, &names)).ok_or_else(damaged)?;
        let unknown_name = header.model.unk_token.as_deref();
        let unknown = header.model.unk_id.or_else(|| unknown_name.and_then(|name| decoder.token_to_id(name)));
        let encoder = match unigram {
            Some(json) => {
                let encoder = untypable_specials(json, &names, unknown).and_then(read);
                Some(encoder.and_then(|tokenizer| prepare(tokenizer, &HashSet::new())).ok_or_else(damaged)?)
            }
            None => None,
        };
        let special = names.iter().filter_map(|name| decoder.token_to_id(name)).filter(|id| unknown != Some(*id));
        Ok(Vocabulary {
            special: special.collect(),
            byte_fallback: header.decoder.to_string().contains("\"ByteFallback\""),
            byte_level: header.decoder.to_string().contains("\"ByteLevel\""),
            is_bpe: kind.as_deref() == Some("BPE"),
            encoder,
            decoder,
        })
    }

    /// Lets a text's special tokens be those tokens, as the reference does.
    pub(super) fn allow_special_tokens(&mut self) {
        self.decoder.set_encode_special_tokens(false);
        self.encoder = None;
        self.special.clear();
    }

    /// Id of a token by its exact spelling.
    pub(super) fn id(&self, token: &str) -> Option<u32> {
        self.decoder.token_to_id(token)
    }

    /// Spelling of a token, for messages.
    pub(super) fn token(&self, id: u32) -> String {
        self.decoder.id_to_token(id).unwrap_or_default()
    }

    /// Turns a text into ids and nothing else.
    ///
    /// # Errors
    /// [`Error::Request`] if the text cannot be tokenized.
    pub(super) fn encode_bare(&self, text: &str) -> Result<Vec<u32>> {
        let tokenizer = self.encoder.as_ref().unwrap_or(&self.decoder);
        let encoding = without_panics(|| tokenizer.encode_fast(text, false).ok()).flatten();
        let encoding = encoding.ok_or_else(|| Error::request("the text cannot be turned into tokens"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Turns a text into ids, with the special tokens that the file puts round every text.
    ///
    /// # Errors
    /// [`Error::Request`] if the text cannot be tokenized or would make a special token (`forbidden` counts
    /// as one).
    pub(super) fn encode(&self, text: &str, forbidden: Option<u32>) -> Result<Vec<u32>> {
        let tokenizer = self.encoder.as_ref().unwrap_or(&self.decoder);
        let encoding = without_panics(|| tokenizer.encode_fast(text, true).ok()).flatten();
        let encoding = encoding.ok_or_else(|| Error::request("the prompt cannot be turned into tokens"))?;
        // The mask marks what the file's template added: those special tokens are meant.
        let typed = encoding.get_ids().iter().zip(encoding.get_special_tokens_mask()).filter(|(_, mask)| **mask == 0);
        for (id, _) in typed {
            if forbidden == Some(*id) || self.special.contains(id) {
                let problem = format!("the prompt contains the special token {:?}; leave it out", self.token(*id));
                return Err(Error::request(problem));
            }
        }
        Ok(encoding.get_ids().to_vec())
    }

    /// Turns ids into text, leaving special and unknown ids out. Text that the file's decoder refuses is empty.
    pub(super) fn decode(&self, ids: &[u32]) -> String {
        without_panics(|| self.decoder.decode(ids, true).ok()).flatten().unwrap_or_default()
    }

    /// The bytes that a token stands for inside a text; none for those that never show.
    pub(super) fn bytes(&self, id: u32) -> Vec<u8> {
        let Some(token) = self.decoder.id_to_token(id).filter(|_| !self.is_silent(id)) else { return Vec::new() };
        if self.byte_fallback && is_byte_piece(&token) {
            return u8::from_str_radix(&token[3..5], 16).into_iter().collect();
        }
        if self.byte_level {
            return token.chars().map(byte_of).collect::<Option<Vec<u8>>>().unwrap_or(token.into_bytes());
        }
        // Decoders strip spaces where a text begins, so it begins with something else.
        let decode = |token: String| match self.decoder.get_decoder() {
            Some(decoder) => without_panics(|| decoder.decode(vec!["a".into(), token]).ok()).flatten(),
            None => Some(format!("a {token}")),
        };
        decode(token).and_then(|text| Some(text.strip_prefix('a')?.into())).unwrap_or_default()
    }

    /// True if an id never shows in a text: it is special or no token at all.
    pub(super) fn is_silent(&self, id: u32) -> bool {
        let token = self.decoder.id_to_token(id);
        token.is_none_or(|token| self.decoder.get_added_vocabulary().is_special_token(&token))
    }

    /// True if a token spells one byte, so that its meaning depends on the tokens that follow.
    pub(super) fn is_byte(&self, id: u32) -> bool {
        self.byte_fallback && self.decoder.id_to_token(id).is_some_and(|t| is_byte_piece(&t))
    }
}

/// Makes a tokenizer neither cut nor pad, and leave special tokens in a text alone.
fn prepare(mut tokenizer: Tokenizer, special: &HashSet<String>) -> Option<Tokenizer> {
    let vocabulary = tokenizer.get_added_vocabulary();
    let unmarked =
        special.iter().filter(|name| tokenizer.token_to_id(name).is_some() && !vocabulary.is_special_token(name));
    let unmarked: Vec<AddedToken> = unmarked.map(|name| AddedToken::from(name.clone(), true)).collect();
    tokenizer.add_special_tokens(unmarked).ok()?;
    tokenizer.with_truncation(None).ok()?;
    tokenizer.with_padding(None);
    tokenizer.set_encode_special_tokens(true);
    Some(tokenizer)
}

/// Removes the pieces that spell bytes from the added tokens, among which some files list them as special. A text that
/// has no other pieces falls back to them, so they are text, and an answer would lose them if they were special.
fn bytes_are_text(json: &mut Value) {
    if json.pointer("/model/byte_fallback") != Some(&Value::Bool(true)) {
        return;
    }
    let vocab = json.pointer_mut("/model/vocab").map(Value::take).unwrap_or_default();
    let known = |piece: &str| match &vocab {
        Value::Object(vocab) => vocab.contains_key(piece),
        Value::Array(pieces) => pieces.iter().any(|other| other[0] == piece),
        _ => false,
    };
    if let Some(added) = json.get_mut("added_tokens").and_then(Value::as_array_mut) {
        added
            .retain(|token| !token["content"].as_str().is_some_and(|content| is_byte_piece(content) && known(content)));
    }
    json["model"]["vocab"] = vocab;
}

/// True if a piece is one of `<0x00>` … `<0xFF>`.
fn is_byte_piece(piece: &str) -> bool {
    let digits = piece.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

/// The byte that a character of GPT-2's alphabet stands for: those that can be seen are themselves, and the others follow
/// 255 in their order.
fn byte_of(c: char) -> Option<u8> {
    let is_seen = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    match u8::try_from(c) {
        Ok(byte) => Some(byte).filter(is_seen),
        Err(_) => (0..=255).filter(|byte| !is_seen(byte)).nth(c as usize - 256),
    }
}

/// A Unigram tokenizer with its special pieces renamed to something nobody types.
///
/// This algorithm finds every piece of its vocabulary in a text, the special ones included, even when the
/// tokenizer was told to leave them alone.
fn untypable_specials(mut json: Value, names: &HashSet<String>, unknown: Option<u32>) -> Option<Value> {
    let rename = |name: &mut Value| {
        if let Value::String(text) = name
            && names.contains(text)
        {
            text.insert(0, UNTYPABLE);
        }
    };
    for (id, piece) in json.pointer_mut("/model/vocab")?.as_array_mut()?.iter_mut().enumerate() {
        if unknown != u32::try_from(id).ok() {
            rename(piece.get_mut(0)?);
        }
    }
    if let Some(added) = json.get_mut("added_tokens").and_then(Value::as_array_mut) {
        let unknown = unknown.map(Value::from);
        for token in added.iter_mut().filter(|token| unknown.is_none() || token.get("id") != unknown.as_ref()) {
            rename(token.get_mut("content")?);
        }
    }
    Some(json)
}
