//! The language models, behind the few calls generation makes: embed ids, record blocks over a cache.

pub mod kv_cache;
pub mod llama;
pub mod opt;
pub mod t5;

pub use kv_cache::KvCache;
pub use llama::Llama;
pub use opt::Opt;
pub use t5::T5;

use crate::config::TextConfig;
use crate::error::Result;
use crate::runtime::ops::attention::{Heads, Mask, Rows};
use crate::runtime::recorder::Recorder;
use crate::runtime::{AdapterClass, Caps, KvFormat, Linear, Matrix, Tensor};
use crate::weights::Loader;

/// Label of the output layer.
const HEAD_LABEL: &str = "language_model.lm_head";
/// Name of the output layer's weight.
const HEAD: &str = "language_model.lm_head.weight";

/// A language model of one of the three families.
#[derive(Debug)]
pub enum Language {
    /// Vicuna: decoder only, rotary positions.
    Llama(Llama),
    /// OPT: decoder only, learned positions.
    Opt(Opt),
    /// Flan-T5: encoder and decoder, relative positions.
    T5(T5),
}

/// A cache, and where the rows of a recording stand in it.
#[derive(Clone, Copy, Debug)]
pub struct Cached<'a> {
    /// Keys and values of every layer.
    pub cache: &'a KvCache,
    /// The rows.
    pub rows: &'a Rows,
}

/// The caches that the blocks of a decoder read and write.
#[derive(Clone, Copy, Debug)]
pub struct Caches<'a> {
    /// Keys and values of the decoder's own tokens.
    pub own: Cached<'a>,
    /// Keys and values of the encoder's output; decoder-only models have none.
    pub cross: Option<Cached<'a>>,
}

/// The rows whose logits are wanted: the last `count` of each prompt.
#[derive(Clone, Copy, Debug)]
pub struct LogitRows<'a> {
    /// The rows in front of which prompts end.
    pub ends: &'a [u32],
    /// Rows of each.
    pub count: u32,
}

impl LogitRows<'_> {
    /// These rows of `x [T, D]`: `-> [prompts * count, D]`.
    fn of(&self, r: &mut Recorder, x: &Tensor) -> Tensor {
        let last = |end: u32| x.slice_rows(end - self.count, self.count);
        if let [end] = *self.ends {
            return last(end);
        }
        let all = r.empty(self.ends.len() as u32 * self.count, x.cols());
        for (i, &end) in (0..).zip(self.ends) {
            r.copy(&mut all.slice_rows(i * self.count, self.count), &last(end));
        }
        all
    }
}

impl Language {
    /// Takes the weights under `language_model.`.
    ///
    /// # Errors
    /// As [`Loader::linear`].
    pub fn load(w: &mut Loader<'_>, config: &TextConfig) -> Result<Language> {
        Ok(match config {
            TextConfig::Llama(config) => Language::Llama(Llama::load(w, config)?),
            TextConfig::Opt(config) => Language::Opt(Opt::load(w, config)?),
            TextConfig::T5(config) => Language::T5(T5::load(w, config)?),
        })
    }

    /// Names of the tensors that are one in a model of this configuration, whichever of them its files have
    /// (`_tied_weights_keys` of the reference's classes).
    pub fn tied_weights(config: &TextConfig) -> Vec<String> {
        let names: &[&str] = match config {
            TextConfig::Llama(config) if config.tie_word_embeddings => &["model.embed_tokens", "lm_head"],
            TextConfig::Opt(config) if config.tie_word_embeddings => &["model.decoder.embed_tokens", "lm_head"],
            // Always: its configuration only says whether the decoder's output is scaled.
            TextConfig::T5(_) => &["shared", "encoder.embed_tokens", "decoder.embed_tokens", "lm_head"],
            TextConfig::Llama(_) | TextConfig::Opt(_) => &[],
        };
        names.iter().map(|name| format!("language_model.{name}.weight")).collect()
    }

    /// The attention heads, which the cache is laid out by.
    pub fn heads(&self) -> Heads {
        match self {
            Language::Llama(m) => m.heads(),
            Language::Opt(m) => m.heads(),
            Language::T5(m) => m.heads(),
        }
    }

    /// The format of the cache on devices with these `caps`: the one that was asked for, or f16 on GPUs, where steps over
    /// many keys read half as much. T5 keeps f32, whose scores are not scaled and whose rounding would weigh more; so do
    /// software adapters, to which unpacking costs what it saves.
    pub fn kv_format(&self, caps: &Caps) -> KvFormat {
        let usual = match (self.is_encoder_decoder(), caps.class) {
            (false, AdapterClass::Gpu) => KvFormat::F16,
            (true, _) | (_, AdapterClass::Cpu) => KvFormat::F32,
        };
        caps.kv_cache.unwrap_or(usual).for_head_dim(self.heads().dim)
    }

    /// Number of blocks over a cache.
    pub fn num_layers(&self) -> usize {
        match self {
            Language::Llama(m) => m.num_layers(),
            Language::Opt(m) => m.num_layers(),
            Language::T5(m) => m.num_layers(),
        }
    }

    /// Longest context; T5 has no limit of its own.
    pub fn max_positions(&self) -> Option<u32> {
        match self {
            Language::Llama(m) => Some(m.max_positions()),
            Language::Opt(m) => Some(m.max_positions()),
            Language::T5(_) => None,
        }
    }

    /// Tells whether an encoder reads the prompt, and the decoder its output (T5). Otherwise the decoder reads the
    /// prompt.
    pub fn is_encoder_decoder(&self) -> bool {
        matches!(self, Language::T5(_))
    }

    /// The token that the decoder begins with, where an encoder reads the prompt.
    pub fn decoder_start(&self) -> Option<u32> {
        match self {
            Language::T5(m) => Some(m.decoder_start_token_id()),
            Language::Llama(_) | Language::Opt(_) => None,
        }
    }

    /// The positions that the decoder reads of a prompt of `tokens` tokens: all, or one for its start token.
    pub fn decoder_length(&self, tokens: u32) -> u32 {
        if self.is_encoder_decoder() { 1 } else { tokens }
    }

    /// The positions that the encoder reads of a prompt of `tokens` tokens: all, or none without an encoder.
    pub fn encoder_length(&self, tokens: u32) -> u32 {
        if self.is_encoder_decoder() { tokens } else { 0 }
    }

    fn embedding(&self) -> &Matrix {
        match self {
            Language::Llama(m) => m.embedding(),
            Language::Opt(m) => m.embedding(),
            Language::T5(m) => m.embedding(),
        }
    }

    fn head(&self) -> &Linear {
        match self {
            Language::Llama(m) => m.head(),
            Language::Opt(m) => m.head(),
            Language::T5(m) => m.head(),
        }
    }

    /// The embedding's name in the checkpoint, without `.weight`.
    pub fn embedding_name(&self) -> &str {
        &self.embedding().label
    }

    /// D.
    pub fn width(&self) -> u32 {
        self.embedding().cols
    }

    /// Rows of the embedding: ids must be below.
    pub fn vocab_rows(&self) -> u32 {
        self.embedding().rows
    }

    /// Rows of the output layer: the ids that can come out are below.
    pub fn head_rows(&self) -> u32 {
        self.head().weight.rows
    }

    /// `[1, T]` token ids `-> [T, D]`, without positions.
    pub fn embed(&self, r: &mut Recorder, ids: &Tensor) -> Tensor {
        r.embed(ids, self.embedding())
    }

    /// Records the encoder over the embeddings `x [S, D]` of prompts, of which `mask` tells if there are several, and its
    /// output's keys and values into `cross`, where the decoder reads them: `-> [S, D]`. Only a model with an encoder can
    /// be asked.
    pub fn record_encoder(&self, r: &mut Recorder, x: Tensor, mask: Mask<'_>, cross: Cached<'_>) -> Tensor {
        let Language::T5(m) = self else { panic!("a decoder-only model has no encoder to record") };
        let encoded = m.record_encoder(r, x, mask); // [S, D]
        m.record_cross(r, &encoded, cross);
        encoded
    }

    /// Records all (decoder) blocks over `x [T, D]`, and the logits of the rows that are `wanted`.
    pub fn record(&self, r: &mut Recorder, caches: Caches<'_>, x: Tensor, wanted: LogitRows<'_>) -> Tensor {
        r.scope("language_model", |r| match self {
            Language::Llama(m) => m.record(r, caches.own, x, wanted),
            Language::Opt(m) => m.record(r, caches.own, x, wanted),
            Language::T5(m) => m.record_decoder(r, caches, x, wanted),
        })
    }
}

/// The output layer: the embedding, where files have them as one tensor (without files, where they are `tied`), or one
/// of its own.
fn load_head(w: &mut Loader<'_>, embedding: &Matrix, rows: u32, tied: bool) -> Result<Linear> {
    match w.are_one(&format!("{}.weight", embedding.label), HEAD).unwrap_or(tied) {
        true => Ok(Linear { weight: embedding.clone().relabelled(HEAD_LABEL), bias: None }),
        false => w.output_layer(HEAD_LABEL, w.rows_of(HEAD, rows), embedding.cols),
    }
}
