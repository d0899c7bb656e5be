//! OPT (arXiv 2205.01068; `OPTForCausalLM`), the language model of the BLIP-2 OPT checkpoints.
//!
//! Pre-norm blocks of causal attention and a ReLU MLP. What people get wrong: learned positions start at row 2 of
//! their table; everything has a bias; there is a norm after the last block; the output layer is the embedding;
//! BLIP-2's answers end at a line break, not at `</s>`.

use super::{Cached, LogitRows, load_head};
use crate::config::OptConfig;
use crate::error::Result;
use crate::runtime::ops::Activation;
use crate::runtime::ops::attention::{Heads, KvLayer, Rows};
use crate::runtime::recorder::Recorder;
use crate::runtime::{Linear, Matrix, Norm, Tensor};
use crate::weights::Loader;

/// Epsilon of every norm, fixed in the reference's code.
const LAYER_NORM_EPS: f32 = 1e-5;

/// Rows of the position table before the first position.
const POSITION_OFFSET: u32 = 2;

/// The decoder's weights.
#[derive(Debug)]
pub struct Opt {
    heads: Heads,
    activation: Activation,
    embed_tokens: Matrix,
    /// `[positions, D]`.
    embed_positions: Tensor,
    blocks: Vec<Block>,
    final_layer_norm: Norm,
    lm_head: Linear,
}

#[derive(Debug)]
struct Block {
    self_attn_layer_norm: Norm,
    qkv: Linear,
    out_proj: Linear,
    final_layer_norm: Norm,
    fc1: Linear,
    fc2: Linear,
}

impl Opt {
    /// Takes the weights under `language_model.`.
    ///
    /// # Errors
    /// As [`Loader::linear`].
    pub fn load(w: &mut Loader<'_>, config: &OptConfig) -> Result<Opt> {
        let d = config.hidden_size;
        let decoder = "language_model.model.decoder";
        let tokens = format!("{decoder}.embed_tokens");
        let rows = w.rows_of(&format!("{tokens}.weight"), config.vocab_size);
        let embed_tokens = w.table(&tokens, rows, d)?;
        let positions = config.max_position_embeddings;
        let table = w.tensor(&format!("{decoder}.embed_positions.weight"), &[positions + POSITION_OFFSET, d])?;
        Ok(Opt {
            heads: Heads::full(config.num_attention_heads, d / config.num_attention_heads),
            activation: Activation::named(&config.activation_function).expect("validated with the configuration"),
            lm_head: load_head(w, &embed_tokens, rows, config.tie_word_embeddings)?,
            embed_tokens,
            embed_positions: table.slice_rows(POSITION_OFFSET, positions),
            blocks: (0..config.num_hidden_layers)
                .map(|i| w.layer(|w| Block::load(w, config, i)))
                .collect::<Result<_>>()?,
            final_layer_norm: w.layer_norm(&format!("{decoder}.final_layer_norm"), d, LAYER_NORM_EPS)?,
        })
    }

    /// The attention heads, which the cache is laid out by.
    pub fn heads(&self) -> Heads {
        self.heads
    }

    /// Longest context.
    pub fn max_positions(&self) -> u32 {
        self.embed_positions.rows()
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
        r.add_positions(&mut x, &self.embed_positions, own.rows);
        for (i, block) in self.blocks.iter().enumerate() {
            r.scope(format!("model.decoder.layers.{i}"), |r| {
                self.self_attention(r, block, own.cache.layer(i), own.rows, &mut x);
                self.mlp(r, block, &mut x);
            });
        }
        let last = wanted.of(r, &x); // [rows, D]
        r.as_for_rows(wanted.count, |r| r.norm_linear(&last, &self.final_layer_norm, &self.lm_head)) // [rows, V]
    }

    fn self_attention(&self, r: &mut Recorder, w: &Block, kv: &KvLayer, rows: &Rows, x: &mut Tensor) {
        let qkv = r.norm_linear(x, &w.self_attn_layer_norm, &w.qkv); // [T, 3D]
        r.store(&qkv, kv, self.heads, rows); // k and v join the cache
        let a = r.attention_cached(&qkv, kv, self.heads, rows, None); // [T, D], causal
        r.linear_add(x, &a, &w.out_proj); // x += a Wᵀ + b
    }

    fn mlp(&self, r: &mut Recorder, w: &Block, x: &mut Tensor) {
        let f = r.norm_linear_act(x, &w.final_layer_norm, &w.fc1, self.activation); // [T, F]
        r.linear_add(x, &f, &w.fc2); // x += f Wᵀ + b
    }
}

impl Block {
    fn load(w: &mut Loader<'_>, config: &OptConfig, i: u32) -> Result<Block> {
        let (d, f, bias) = (config.hidden_size, config.ffn_dim, config.enable_bias);
        let name = |part: &str| format!("language_model.model.decoder.layers.{i}.{part}");
        let qkv = ["q_proj", "k_proj", "v_proj"].map(|part| (name(&format!("self_attn.{part}")), d));
        Ok(Block {
            self_attn_layer_norm: w.layer_norm(&name("self_attn_layer_norm"), d, LAYER_NORM_EPS)?,
            qkv: w.stacked(&name("self_attn.qkv"), &qkv, d, bias)?,
            out_proj: w.linear(&name("self_attn.out_proj"), d, d, bias)?,
            final_layer_norm: w.layer_norm(&name("final_layer_norm"), d, LAYER_NORM_EPS)?,
            fc1: w.linear(&name("fc1"), f, d, bias)?,
            fc2: w.linear(&name("fc2"), d, f, bias)?,
        })
    }
}
