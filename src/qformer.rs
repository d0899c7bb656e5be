//! The Q-Former and the projection: learned queries and the instruction look at the image
//! (arXiv 2305.06500, section 2.3; `InstructBlipQFormerModel`).
//!
//! A BERT whose first rows are the queries and whose others are the instruction's words. What people get wrong: norms
//! come after the residual (post-norm) with epsilon 1e-12; queries get no position embedding and words count theirs
//! from 0; only the query rows cross-attend, in layers 0, f, 2f, …; queries and words have feed-forward networks of
//! their own; keys and values of the cross-attention have the vision tower's width.

use crate::config::{QFormerConfig, VisionConfig};
use crate::error::Result;
use crate::runtime::ops::Activation;
use crate::runtime::ops::attention::{Heads, Mask, Segment, Span};
use crate::runtime::recorder::Recorder;
use crate::runtime::{Linear, Matrix, Norm, Tensor};
use crate::weights::Loader;

/// The Q-Former's weights, with the learned queries and the projection into the language model.
#[derive(Debug)]
pub struct QFormer {
    heads: Heads,
    activation: Activation,
    /// `[Q, D]`.
    query_tokens: Tensor,
    words: Option<Words>,
    embedding_norm: Norm,
    layers: Vec<Layer>,
    language_projection: Linear,
}

/// The weights that read the instruction; BLIP-2 has none.
#[derive(Debug)]
struct Words {
    embeddings: Matrix,
    /// `[longest instruction, D]`.
    positions: Tensor,
}

#[derive(Debug)]
struct Layer {
    attention: Attention,
    cross_attention: Option<CrossAttention>,
    query_ffn: FeedForward,
    text_ffn: Option<FeedForward>,
}

#[derive(Debug)]
struct Attention {
    qkv: Linear,
    dense: Linear,
    norm: Norm,
}

#[derive(Debug)]
struct CrossAttention {
    query: Linear,
    key_value: Linear,
    dense: Linear,
    norm: Norm,
}

#[derive(Debug)]
struct FeedForward {
    intermediate: Linear,
    dense: Linear,
    norm: Norm,
}

/// The B instructions of one pass, and what their rows see.
pub struct Instructions<'a> {
    /// Words of each, L; zeros where the Q-Former reads none.
    pub lengths: &'a [u32],
    /// `[1, ΣL]` of u32: the words, one instruction after the other.
    pub ids: Option<&'a Tensor>,
    /// The rows that see each other. Of one instruction all, but for the words that a mask `[1, Q + L]` hides; of several
    /// those of each.
    pub own: Mask<'a>,
    /// The rows of the pictures that queries see: of several instructions those of one picture.
    pub seen: Mask<'a>,
    /// Rows of a picture, N.
    pub patches: u32,
}

impl<'a> Instructions<'a> {
    /// One instruction of as many words as there are `ids`, about one picture of `patches` rows.
    pub fn one(length: &'a [u32; 1], ids: Option<&'a Tensor>, patches: u32) -> Instructions<'a> {
        Instructions { lengths: length, ids, own: Mask::None, seen: Mask::None, patches }
    }
}

/// The outputs of the Q-Former. The queries of all instructions come first, then the words.
#[derive(Clone)]
pub struct QFormerOutput {
    /// `[B Q + ΣL, D]`.
    pub last_hidden_state: Tensor,
    /// `[B Q, H]`: the query rows in the language model's width, ready to take the placeholders' places.
    pub language_model_inputs: Tensor,
}

impl QFormer {
    /// Takes the weights under `qformer.`, `query_tokens` and `language_projection`.
    /// With `text`, also those that read the instruction.
    ///
    /// # Errors
    /// As [`Loader::linear`].
    pub fn load(
        w: &mut Loader<'_>,
        config: &QFormerConfig,
        vision: &VisionConfig,
        num_query_tokens: u32,
        language_width: u32,
        text: bool,
    ) -> Result<QFormer> {
        let (d, eps) = (config.hidden_size, config.layer_norm_eps);
        let words = if text { Some(Words::load(w, config)?) } else { None };
        let embedding_norm = if text { "qformer.embeddings.layernorm" } else { "qformer.layernorm" };
        let layer = |i| Layer::load(w, config, vision.hidden_size, text, i);
        let layers = (0..config.num_hidden_layers).map(layer).collect::<Result<_>>()?;
        Ok(QFormer {
            heads: Heads::full(config.num_attention_heads, d / config.num_attention_heads),
            activation: Activation::named(&config.hidden_act).expect("validated with the configuration"),
            query_tokens: w.tensor("query_tokens", &[1, num_query_tokens, d])?,
            words,
            embedding_norm: w.layer_norm(embedding_norm, d, eps)?,
            layers,
            language_projection: w.kept_linear("language_projection", language_width, d, true)?,
        })
    }

    /// Rows of the word embedding: ids must be below. None are read by BLIP-2.
    pub fn vocab_rows(&self) -> u32 {
        self.words.as_ref().map_or(0, |words| words.embeddings.rows)
    }

    /// Queries of an instruction, Q.
    pub fn queries(&self) -> u32 {
        self.query_tokens.rows()
    }

    /// The segments of self-attention and of cross-attention, for instructions of these lengths about the pictures of these
    /// numbers, which have `patches` rows each.
    pub fn segments(&self, lengths: &[u32], pictures: &[u32], patches: u32) -> [Vec<Segment>; 2] {
        let q = self.queries();
        let mut words = q * lengths.len() as u32;
        let own = (0..).zip(lengths).map(|(i, &length)| {
            let span = Span::of(i * q, q).and(words, length);
            words += length;
            Segment::of(span)
        });
        let seen = (0..)
            .zip(pictures)
            .map(|(i, picture)| Segment { rows: Span::of(i * q, q), keys: Span::of(picture * patches, patches) });
        [own.collect(), seen.collect()]
    }

    /// Records the Q-Former over `image [P N, D_vision]`, features of P pictures, and instructions about them. Kernels are
    /// chosen as for one instruction's queries, whatever its words and whoever is with it.
    pub fn record(&self, r: &mut Recorder, image: &Tensor, instructions: &Instructions<'_>) -> QFormerOutput {
        let record = |r: &mut Recorder| {
            let mut x = self.embed(r, instructions); // [B Q + ΣL, D]
            for (i, layer) in self.layers.iter().enumerate() {
                x = r.scope(format!("encoder.layer.{i}"), |r| self.layer(r, layer, x, image, instructions));
            }
            let queries = x.slice_rows(0, self.queries() * instructions.lengths.len() as u32);
            let language_model_inputs = r.linear(&queries, &self.language_projection); // [B Q, H]
            QFormerOutput { last_hidden_state: x, language_model_inputs }
        };
        r.scope("qformer", |r| r.as_for_rows(self.queries(), record))
    }

    /// Records the Q-Former over the features `[N, D_vision]` of one picture and one instruction's `ids [1, L]`, if it reads
    /// any.
    pub fn record_one(&self, r: &mut Recorder, image: &Tensor, ids: Option<&Tensor>) -> QFormerOutput {
        self.record(r, image, &Instructions::one(&[ids.map_or(0, Tensor::len)], ids, image.rows()))
    }

    fn embed(&self, r: &mut Recorder, instructions: &Instructions<'_>) -> Tensor {
        let Instructions { lengths, ids, .. } = instructions;
        let text = self.words.as_ref().zip(*ids);
        let (q, all) = (self.queries(), self.queries() * lengths.len() as u32);
        let x = r.empty(all + text.map_or(0, |(_, ids)| ids.len()), self.query_tokens.cols()); // [B Q + ΣL, D]
        for first in (0..all).step_by(q as usize) {
            r.layer_norm_into(&mut x.slice_rows(first, q), &self.query_tokens, &self.embedding_norm);
        }
        if let Some((words, ids)) = text {
            let text = r.embed(ids, &words.embeddings); // [ΣL, D]
            let mut first = 0;
            for &length in lengths.iter().filter(|&&length| length > 0) {
                r.add(&mut text.slice_rows(first, length), &words.positions.slice_rows(0, length));
                first += length;
            }
            r.layer_norm_into(&mut x.slice_rows(all, text.rows()), &text, &self.embedding_norm);
        }
        x
    }

    fn layer(&self, r: &mut Recorder, w: &Layer, mut x: Tensor, image: &Tensor, of: &Instructions<'_>) -> Tensor {
        let q = self.queries() * of.lengths.len() as u32;
        let a = self.self_attention(r, &w.attention, &mut x, of.own); // [B Q + ΣL, D]
        let mut queries = a.slice_rows(0, q); // [B Q, D]
        let mut text = a.slice_rows(q, a.rows() - q); // [ΣL, D]
        if let Some(cross) = &w.cross_attention {
            queries = self.cross_attention(r, cross, &mut queries, image, of); // [B Q, D]
        }
        let out = x; // its values are used up: the next layer's input takes its memory
        self.feed_forward(r, &w.query_ffn, &mut queries, &mut out.slice_rows(0, q));
        if let Some(ffn) = w.text_ffn.as_ref().filter(|_| !text.is_empty()) {
            self.feed_forward(r, ffn, &mut text, &mut out.slice_rows(q, out.rows() - q));
        }
        out
    }

    fn self_attention(&self, r: &mut Recorder, w: &Attention, x: &mut Tensor, mask: Mask<'_>) -> Tensor {
        let qkv = r.linear(x, &w.qkv); // [B Q + ΣL, 3D]
        let a = r.attention(&qkv, self.heads, mask); // [B Q + ΣL, D]
        r.linear_add(x, &a, &w.dense); // x += a Wᵀ + b
        r.layer_norm(x, &w.norm) // [B Q + ΣL, D]
    }

    fn cross_attention(
        &self,
        r: &mut Recorder,
        w: &CrossAttention,
        x: &mut Tensor,
        image: &Tensor,
        of: &Instructions<'_>,
    ) -> Tensor {
        let q = r.linear(x, &w.query); // [B Q, D]
        let kv = r.as_for_rows(of.patches, |r| r.linear(image, &w.key_value)); // [P N, 2D]
        let a = r.cross_attention(&q, &kv, self.heads, of.seen); // [B Q, D]
        r.linear_add(x, &a, &w.dense); // x += a Wᵀ + b
        r.layer_norm(x, &w.norm) // [B Q, D]
    }

    fn feed_forward(&self, r: &mut Recorder, w: &FeedForward, x: &mut Tensor, out: &mut Tensor) {
        let f = r.linear_act(x, &w.intermediate, self.activation); // [_, F]
        r.linear_add(x, &f, &w.dense); // x += f Wᵀ + b
        r.layer_norm_into(out, x, &w.norm);
    }
}

impl Words {
    fn load(w: &mut Loader<'_>, config: &QFormerConfig) -> Result<Words> {
        let words = "qformer.embeddings.word_embeddings";
        let rows = w.rows_of(&format!("{words}.weight"), config.vocab_size);
        let positions = "qformer.embeddings.position_embeddings.weight";
        Ok(Words {
            embeddings: w.table(words, rows, config.hidden_size)?,
            positions: w.tensor(positions, &[config.max_position_embeddings, config.hidden_size])?,
        })
    }
}

impl Layer {
    fn load(w: &mut Loader<'_>, config: &QFormerConfig, image_width: u32, text: bool, i: u32) -> Result<Layer> {
        let (d, f, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let name = |part: &str| format!("qformer.encoder.layer.{i}.{part}");
        let stacked = |parts: &[&str]| parts.iter().map(|p| (name(p), d)).collect::<Vec<_>>();
        let own = ["attention.attention.query", "attention.attention.key", "attention.attention.value"];
        let cross_key_value = ["crossattention.attention.key", "crossattention.attention.value"];
        let mut ffn = |intermediate: &str, output: &str| -> Result<FeedForward> {
            Ok(FeedForward {
                intermediate: w.linear(&name(&format!("{intermediate}.dense")), f, d, true)?,
                dense: w.linear(&name(&format!("{output}.dense")), d, f, true)?,
                norm: w.layer_norm(&name(&format!("{output}.LayerNorm")), d, eps)?,
            })
        };
        let query_ffn = ffn("intermediate_query", "output_query")?;
        let text_ffn = if text { Some(ffn("intermediate", "output")?) } else { None };
        let attention = Attention {
            qkv: w.stacked(&name("attention.attention"), &stacked(&own), d, true)?,
            dense: w.linear(&name("attention.output.dense"), d, d, true)?,
            norm: w.layer_norm(&name("attention.output.LayerNorm"), d, eps)?,
        };
        let mut cross = || -> Result<CrossAttention> {
            let label = name("crossattention.attention.key_value");
            Ok(CrossAttention {
                query: w.linear(&name("crossattention.attention.query"), d, d, true)?,
                key_value: w.stacked(&label, &stacked(&cross_key_value), image_width, true)?,
                dense: w.linear(&name("crossattention.output.dense"), d, d, true)?,
                norm: w.layer_norm(&name("crossattention.output.LayerNorm"), d, eps)?,
            })
        };
        let cross_attention = if i.is_multiple_of(config.cross_attention_frequency) { Some(cross()?) } else { None };
        Ok(Layer { attention, cross_attention, query_ffn, text_ffn })
    }
}
