//! T5 (arXiv 1910.10683; `T5ForConditionalGeneration`), the language model of the Flan-T5 checkpoints.
//!
//! An encoder over the prompt, and a decoder that reads its own tokens and, through cross-attention, the encoder's
//! output. What people get wrong: scores are not scaled; positions are a bias on the scores by distance, from a table
//! that only block 0 of each stack has; norms are RMS norms without bias; inner heads need not add up to D; the
//! activation is `dense_act_fn`; logits are scaled only where they come from the embedding.
//! The residual stream is f32 throughout, so the sizes that overflow in half precision do not.

use super::{Cached, Caches, LogitRows, load_head};
use crate::config::T5Config;
use crate::error::Result;
use crate::runtime::ops::Activation;
use crate::runtime::ops::attention::{Heads, Mask};
use crate::runtime::recorder::Recorder;
use crate::runtime::{Linear, Matrix, Norm, Tensor};
use crate::weights::Loader;

/// Encoder and decoder weights.
#[derive(Debug)]
pub struct T5 {
    heads: Heads,
    activation: Activation,
    gated: bool,
    shared: Matrix,
    encoder: Stack<EncoderBlock>,
    decoder: Stack<DecoderBlock>,
    lm_head: Linear,
    /// The factor that the decoder's output is multiplied by before a tied output layer.
    head_scale: Option<f32>,
    decoder_start_token_id: u32,
}

#[derive(Debug)]
struct Stack<B> {
    blocks: Vec<B>,
    /// `[2M + 1, H]`: what is added to scores, by key's minus row's position.
    bias: Tensor,
    final_layer_norm: Norm,
}

#[derive(Debug)]
struct EncoderBlock {
    attention: SelfAttention,
    ffn: FeedForward,
}

#[derive(Debug)]
struct DecoderBlock {
    attention: SelfAttention,
    cross: CrossAttention,
    ffn: FeedForward,
}

#[derive(Debug)]
struct SelfAttention {
    norm: Norm,
    qkv: Linear,
    o: Linear,
}

#[derive(Debug)]
struct CrossAttention {
    norm: Norm,
    q: Linear,
    kv: Linear,
    o: Linear,
}

#[derive(Debug)]
struct FeedForward {
    norm: Norm,
    wi: Linear,
    wo: Linear,
}

impl T5 {
    /// Takes the weights under `language_model.`.
    ///
    /// # Errors
    /// As [`Loader::linear`].
    pub fn load(w: &mut Loader<'_>, config: &T5Config) -> Result<T5> {
        let embedding = "language_model.shared";
        let rows = w.rows_of(&format!("{embedding}.weight"), config.vocab_size);
        let shared = w.table(embedding, rows, config.d_model)?;
        Ok(T5 {
            heads: Heads::full(config.num_heads, config.d_kv).unscaled(),
            activation: Activation::named(&config.dense_act_fn).expect("validated with the configuration"),
            gated: config.is_gated_act,
            encoder: Stack::load(w, config, "encoder", config.num_layers, EncoderBlock::load)?,
            decoder: Stack::load(w, config, "decoder", config.num_decoder_layers, DecoderBlock::load)?,
            lm_head: load_head(w, &shared, rows, config.scale_decoder_outputs)?,
            head_scale: config.scale_decoder_outputs.then(|| (config.d_model as f32).powf(-0.5)),
            shared,
            decoder_start_token_id: config.decoder_start_token_id,
        })
    }

    /// The attention heads, which the caches are laid out by.
    pub fn heads(&self) -> Heads {
        self.heads
    }

    /// Number of the decoder's blocks.
    pub fn num_layers(&self) -> usize {
        self.decoder.blocks.len()
    }

    /// The decoder's first token.
    pub fn decoder_start_token_id(&self) -> u32 {
        self.decoder_start_token_id
    }

    pub(super) fn embedding(&self) -> &Matrix {
        &self.shared
    }

    pub(super) fn head(&self) -> &Linear {
        &self.lm_head
    }

    /// Records the encoder over the embeddings `x [S, D]` of prompts, of which `mask` tells if there are several:
    /// `-> [S, D]`.
    pub(super) fn record_encoder(&self, r: &mut Recorder, mut x: Tensor, mask: Mask<'_>) -> Tensor {
        r.scope("language_model.encoder", |r| {
            for (i, block) in self.encoder.blocks.iter().enumerate() {
                r.scope(format!("block.{i}"), |r| {
                    self.encoder_attention(r, &block.attention, mask, &mut x);
                    self.feed_forward(r, &block.ffn, &mut x);
                });
            }
            r.rms_norm(&x, &self.encoder.final_layer_norm)
        })
    }

    /// Records the keys and values of every decoder block's cross-attention over the encoder's output `[S, D]`, once
    /// per prompt.
    pub(super) fn record_cross(&self, r: &mut Recorder, encoded: &Tensor, cross: Cached<'_>) {
        r.scope("language_model.decoder", |r| {
            for (i, block) in self.decoder.blocks.iter().enumerate() {
                let kv = r.linear(encoded, &block.cross.kv); // [S, 2 H d]
                r.store(&kv, cross.cache.layer(i), self.heads, cross.rows);
            }
        });
    }

    /// Records the decoder's blocks over `x [T, D]`, and the logits of the rows that are `wanted`.
    pub(super) fn record_decoder(
        &self,
        r: &mut Recorder,
        caches: Caches<'_>,
        mut x: Tensor,
        wanted: LogitRows<'_>,
    ) -> Tensor {
        let cross = caches.cross.expect("the session of an encoder and decoder has a cross cache");
        r.scope("decoder", |r| {
            for (i, block) in self.decoder.blocks.iter().enumerate() {
                r.scope(format!("block.{i}"), |r| {
                    self.decoder_attention(r, &block.attention, caches.own, i, &mut x);
                    self.cross_attention(r, &block.cross, cross, i, &mut x);
                    self.feed_forward(r, &block.ffn, &mut x);
                });
            }
            let last = wanted.of(r, &x); // [rows, D]
            let mut h = r.rms_norm(&last, &self.decoder.final_layer_norm); // [rows, D]
            if let Some(scale) = self.head_scale {
                h = r.scaled(&h, scale);
            }
            r.as_for_rows(wanted.count, |r| r.linear(&h, &self.lm_head)) // [rows, V]
        })
    }

    fn encoder_attention(&self, r: &mut Recorder, w: &SelfAttention, mask: Mask<'_>, x: &mut Tensor) {
        let qkv = r.norm_linear(x, &w.norm, &w.qkv); // [S, 3 H d]
        let a = r.attention_biased(&qkv, self.heads, mask, Some(&self.encoder.bias)); // [S, H d]
        r.linear_add(x, &a, &w.o); // x += a Wᵀ
    }

    fn decoder_attention(&self, r: &mut Recorder, w: &SelfAttention, own: Cached<'_>, i: usize, x: &mut Tensor) {
        let kv = own.cache.layer(i);
        let qkv = r.norm_linear(x, &w.norm, &w.qkv); // [T, 3 H d]
        r.store(&qkv, kv, self.heads, own.rows); // k and v join the cache
        let a = r.attention_cached(&qkv, kv, self.heads, own.rows, Some(&self.decoder.bias)); // [T, H d]
        r.linear_add(x, &a, &w.o); // x += a Wᵀ
    }

    fn cross_attention(&self, r: &mut Recorder, w: &CrossAttention, cross: Cached<'_>, i: usize, x: &mut Tensor) {
        let q = r.norm_linear(x, &w.norm, &w.q); // [T, H d]
        let a = r.cross_attention_cached(&q, cross.cache.layer(i), self.heads, cross.rows); // [T, H d]
        r.linear_add(x, &a, &w.o); // x += a Wᵀ
    }

    fn feed_forward(&self, r: &mut Recorder, w: &FeedForward, x: &mut Tensor) {
        let f = match self.gated {
            true => r.norm_gated(x, &w.norm, &w.wi, self.activation), // [T, F]: act(h W0ᵀ) * (h W1ᵀ)
            false => r.norm_linear_act(x, &w.norm, &w.wi, self.activation), // [T, F]
        };
        r.linear_add(x, &f, &w.wo); // x += f Wᵀ
    }
}

impl<B> Stack<B> {
    fn load(
        w: &mut Loader<'_>,
        config: &T5Config,
        stack: &str,
        blocks: u32,
        block: fn(&mut Loader<'_>, &T5Config, u32) -> Result<B>,
    ) -> Result<Stack<B>> {
        let name = |part: &str| format!("language_model.{stack}.{part}");
        let (buckets, heads) = (config.relative_attention_num_buckets, config.num_heads);
        let table = name("block.0.layer.0.SelfAttention.relative_attention_bias.weight");
        let values = w.host_values(&table, &[buckets, heads])?;
        let far = config.relative_attention_max_distance;
        let bias = || bias_by_distance(&values, config, stack == "encoder");
        Ok(Stack {
            bias: w.upload(&table, 2 * far + 1, heads, bias)?,
            blocks: (0..blocks).map(|i| w.layer(|w| block(w, config, i))).collect::<Result<_>>()?,
            final_layer_norm: w.rms_norm(&name("final_layer_norm"), config.d_model, config.layer_norm_epsilon)?,
        })
    }
}

impl EncoderBlock {
    fn load(w: &mut Loader<'_>, config: &T5Config, i: u32) -> Result<EncoderBlock> {
        let name = format!("language_model.encoder.block.{i}");
        Ok(EncoderBlock {
            attention: SelfAttention::load(w, config, &format!("{name}.layer.0"))?,
            ffn: FeedForward::load(w, config, &format!("{name}.layer.1"))?,
        })
    }
}

impl DecoderBlock {
    fn load(w: &mut Loader<'_>, config: &T5Config, i: u32) -> Result<DecoderBlock> {
        let name = format!("language_model.decoder.block.{i}");
        Ok(DecoderBlock {
            attention: SelfAttention::load(w, config, &format!("{name}.layer.0"))?,
            cross: CrossAttention::load(w, config, &format!("{name}.layer.1"))?,
            ffn: FeedForward::load(w, config, &format!("{name}.layer.2"))?,
        })
    }
}

impl SelfAttention {
    fn load(w: &mut Loader<'_>, config: &T5Config, name: &str) -> Result<SelfAttention> {
        let (d, inner) = (config.d_model, config.num_heads * config.d_kv);
        let part = |part: &str| format!("{name}.SelfAttention.{part}");
        Ok(SelfAttention {
            norm: w.rms_norm(&format!("{name}.layer_norm"), d, config.layer_norm_epsilon)?,
            qkv: w.stacked(&part("qkv"), &["q", "k", "v"].map(|p| (part(p), inner)), d, false)?,
            o: w.linear(&part("o"), d, inner, false)?,
        })
    }
}

impl CrossAttention {
    fn load(w: &mut Loader<'_>, config: &T5Config, name: &str) -> Result<CrossAttention> {
        let (d, inner) = (config.d_model, config.num_heads * config.d_kv);
        let part = |part: &str| format!("{name}.EncDecAttention.{part}");
        Ok(CrossAttention {
            norm: w.rms_norm(&format!("{name}.layer_norm"), d, config.layer_norm_epsilon)?,
            q: w.linear(&part("q"), inner, d, false)?,
            kv: w.stacked(&part("kv"), &["k", "v"].map(|p| (part(p), inner)), d, false)?,
            o: w.linear(&part("o"), d, inner, false)?,
        })
    }
}

impl FeedForward {
    fn load(w: &mut Loader<'_>, config: &T5Config, name: &str) -> Result<FeedForward> {
        let (d, f) = (config.d_model, config.d_ff);
        let part = |part: &str| format!("{name}.DenseReluDense.{part}");
        Ok(FeedForward {
            norm: w.rms_norm(&format!("{name}.layer_norm"), d, config.layer_norm_epsilon)?,
            wi: match config.is_gated_act {
                true => w.alternating(&part("wi"), [part("wi_0"), part("wi_1")], f, d, false)?,
                false => w.linear(&part("wi"), f, d, false)?,
            },
            // Where half precision overflows in the reference; the layer that suffers most from rounding.
            wo: w.kept_linear(&part("wo"), d, f, false)?,
        })
    }
}

/// The table `[buckets, H]` spread over the distances -M ..= M: `[2M + 1, H]`.
fn bias_by_distance(table: &[f32], config: &T5Config, bidirectional: bool) -> Vec<f32> {
    let (heads, far) = (config.num_heads as usize, config.relative_attention_max_distance as i32);
    let row = |distance: i32| {
        let bucket = bucket(distance, config, bidirectional) as usize;
        table[bucket * heads..][..heads].iter().copied()
    };
    (-far..=far).flat_map(row).collect()
}

/// Row of the relative position table for key's minus row's position (`_relative_position_bucket`).
fn bucket(distance: i32, config: &T5Config, bidirectional: bool) -> u32 {
    let (mut buckets, mut first) = (config.relative_attention_num_buckets, 0);
    let away = if bidirectional {
        buckets /= 2;
        first = if distance > 0 { buckets } else { 0 };
        distance.unsigned_abs()
    } else {
        (-distance).max(0) as u32
    };
    let exact = buckets / 2;
    if away < exact {
        return first + away;
    }
    // In f32, as the reference computes it: the logarithm's rounding decides which bucket a distance is in.
    let ratio = (away as f32 / exact as f32).ln();
    let range = f64::from(config.relative_attention_max_distance) / f64::from(exact);
    let further = (ratio / range.ln() as f32 * (buckets - exact) as f32) as u32;
    first + (exact + further).min(buckets - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, TextConfig};

    fn config() -> T5Config {
        let json = br#"{"model_type": "blip-2", "text_config": {"model_type": "t5"}}"#;
        let config = Config::parse(std::path::Path::new("config.json"), json).expect("a configuration");
        let TextConfig::T5(config) = config.text else { panic!("not T5") };
        config
    }

    /// First distance of every bucket past the exact ones, computed with the reference.
    #[test]
    fn trap_buckets_change_where_the_reference_changes_them() {
        let config = config();
        let both = [(8, 8), (12, 9), (16, 10), (23, 11), (32, 12), (46, 13), (64, 14), (91, 15)];
        let past = [
            (16, 16),
            (19, 17),
            (21, 18),
            (24, 19),
            (27, 20),
            (31, 21),
            (35, 22),
            (40, 23),
            (46, 24),
            (52, 25),
            (59, 26),
            (67, 27),
            (77, 28),
            (87, 29),
            (99, 30),
            (113, 31),
        ];
        for (away, want) in both {
            assert_eq!(bucket(-away, &config, true), want, "{away} back");
            assert_eq!(bucket(away, &config, true), want + 16, "{away} ahead");
            assert_eq!(bucket(1 - away, &config, true), want - 1);
        }
        for (away, want) in past {
            assert_eq!(bucket(-away, &config, false), want, "{away} back");
            assert_eq!(bucket(1 - away, &config, false), want - 1);
        }
        assert_eq!(bucket(5, &config, false), 0);
        assert_eq!(bucket(-3000, &config, false), 31);
        assert_eq!(bucket(3000, &config, true), 31);
    }
}
