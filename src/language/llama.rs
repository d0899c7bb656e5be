//! LLaMA (arXiv 2302.13971; `LlamaForCausalLM`), the language model of the Vicuna checkpoints.
//!
//! Pre-norm blocks of causal attention with rotary positions and a SwiGLU MLP. What people get wrong: rotation pairs
//! channel j with j + d/2, not with j + 1; head_dim may differ from D / H; key-value heads may be fewer than query
//! heads; the output layer is the embedding only when the file has no other.

use super::{Cached, LogitRows, load_head};
use crate::config::LlamaConfig;
use crate::error::Result;
use crate::runtime::ops::Activation;
use crate::runtime::ops::attention::Heads;
use crate::runtime::recorder::Recorder;
use crate::runtime::{Linear, Matrix, Norm, Rotary, Tensor};
use crate::weights::Loader;

/// The decoder's weights.
#[derive(Debug)]
pub struct Llama {
    heads: Heads,
    embed_tokens: Matrix,
    /// `[positions, d]`: cos and sin of every angle, alternating.
    angles: Tensor,
    blocks: Vec<Block>,
    norm: Norm,
    lm_head: Linear,
}

#[derive(Debug)]
struct Block {
    input_layernorm: Norm,
    qkv: Linear,
    o_proj: Linear,
    post_attention_layernorm: Norm,
    gate_up: Linear,
    down_proj: Linear,
}

impl Llama {
    /// Takes the weights under `language_model.`.
    ///
    /// # Errors
    /// As [`Loader::linear`].
    pub fn load(w: &mut Loader<'_>, config: &LlamaConfig) -> Result<Llama> {
        let (d, eps) = (config.hidden_size, config.rms_norm_eps);
        let embedding = "language_model.model.embed_tokens";
        let rows = w.rows_of(&format!("{embedding}.weight"), config.vocab_size);
        let embed_tokens = w.table(embedding, rows, d)?;
        let lm_head = load_head(w, &embed_tokens, config.vocab_size, config.tie_word_embeddings)?;
        Ok(Llama {
            heads: heads(config),
            embed_tokens,
            angles: w.upload("rotary angles", config.max_position_embeddings, config.head_dim, || angles(config))?,
            blocks: (0..config.num_hidden_layers)
                .map(|i| w.layer(|w| Block::load(w, config, i)))
                .collect::<Result<_>>()?,
            norm: w.rms_norm("language_model.model.norm", d, eps)?,
            lm_head,
        })
    }

    /// The attention heads, which the cache is laid out by.
    pub fn heads(&self) -> Heads {
        self.heads
    }

    /// Longest context.
    pub fn max_positions(&self) -> u32 {
        self.angles.rows()
    }

    /// Number of blocks.
    pub fn num_layers(&self) -> usize {
        self.blocks.len()
    }

    pub(super) fn embedding(&self) -> &Matrix {
        &self.embed_tokens
    }

    pub(super) fn head(&self) -> &Linear {
        &self.lm_head
    }

    /// Records all blocks over `x [T, D]`, and the logits of the rows that are `wanted`.
    pub fn record(&self, r: &mut Recorder, own: Cached<'_>, mut x: Tensor, wanted: LogitRows<'_>) -> Tensor {
        let turns = r.turns(&self.angles, own.rows); // [T, 2 + d]
        for (i, block) in self.blocks.iter().enumerate() {
            r.scope(format!("model.layers.{i}"), |r| {
                self.self_attention(r, own, i, &turns, &mut x);
                mlp(r, block, &mut x);
            });
        }
        let last = wanted.of(r, &x); // [rows, D]
        r.as_for_rows(wanted.count, |r| r.norm_linear(&last, &self.norm, &self.lm_head)) // [rows, V]
    }

    fn self_attention(&self, r: &mut Recorder, own: Cached<'_>, i: usize, turns: &Tensor, x: &mut Tensor) {
        let (w, kv) = (&self.blocks[i], own.cache.layer(i));
        // [T, H d]; k, rotated as q is, and v join the cache
        let q = r.norm_rope_store(x, &w.input_layernorm, &w.qkv, &Rotary { turns, kv, heads: self.heads });
        let a = r.attention_cached(&q, kv, self.heads, own.rows, None); // [T, H d], causal
        r.linear_add(x, &a, &w.o_proj); // x += a Wᵀ
    }
}

fn mlp(r: &mut Recorder, w: &Block, x: &mut Tensor) {
    let f = r.norm_gated(x, &w.post_attention_layernorm, &w.gate_up, Activation::Silu); // [T, F]
    r.linear_add(x, &f, &w.down_proj); // x += f Wᵀ
}

impl Block {
    fn load(w: &mut Loader<'_>, config: &LlamaConfig, i: u32) -> Result<Block> {
        let (d, f, eps) = (config.hidden_size, config.intermediate_size, config.rms_norm_eps);
        let (queries, keys) =
            (config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim);
        let (attention_bias, mlp_bias) = (config.attention_bias, config.mlp_bias);
        let name = |part: &str| format!("language_model.model.layers.{i}.{part}");
        let qkv =
            [(name("self_attn.q_proj"), queries), (name("self_attn.k_proj"), keys), (name("self_attn.v_proj"), keys)];
        let gate_up = [name("mlp.gate_proj"), name("mlp.up_proj")];
        Ok(Block {
            input_layernorm: w.rms_norm(&name("input_layernorm"), d, eps)?,
            qkv: w.stacked(&name("self_attn.qkv"), &qkv, d, attention_bias)?,
            o_proj: w.linear(&name("self_attn.o_proj"), d, queries, attention_bias)?,
            post_attention_layernorm: w.rms_norm(&name("post_attention_layernorm"), d, eps)?,
            gate_up: w.alternating(&name("mlp.gate_up"), gate_up, f, d, mlp_bias)?,
            down_proj: w.linear(&name("mlp.down_proj"), d, f, mlp_bias)?,
        })
    }
}

fn heads(config: &LlamaConfig) -> Heads {
    Heads::grouped(config.num_attention_heads, config.num_key_value_heads, config.head_dim)
}

/// cos and sin of `position * theta^(-2j / d)` for every position and j < d / 2, alternating.
///
/// Frequencies are rounded to f32 before they are multiplied, as the reference does.
fn angles(config: &LlamaConfig) -> Vec<f32> {
    let half = config.head_dim / 2;
    let frequency = |j: u32| config.rope_theta.powf(-2.0 * f64::from(j) / f64::from(config.head_dim)) as f32;
    let frequencies: Vec<f32> = (0..half).map(frequency).collect();
    let row = |position: u32| {
        let angles: Vec<f32> = frequencies.iter().map(|f| position as f32 * f).collect();
        angles.into_iter().flat_map(|angle| [f64::from(angle).cos() as f32, f64::from(angle).sin() as f32])
    };
    (0..config.max_position_embeddings).flat_map(row).collect()
}
