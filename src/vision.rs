//! The vision tower: EVA-CLIP's ViT-g/14 without its last block (arXiv 2211.07636; `InstructBlipVisionModel`).
//!
//! Pixels `[3, S, S]` become patches, a class token goes in front, and 39 pre-norm blocks of self-attention and MLP
//! follow; one more LayerNorm ends them. What people get wrong: epsilon is 1e-6, GELU is the erf form, a head has 88
//! channels, the middle third of the qkv bias (the keys') is zero in the published checkpoints, and `pooler_output`
//! goes through the last LayerNorm a second time.

use crate::config::VisionConfig;
use crate::error::Result;
use crate::runtime::ops::Activation;
use crate::runtime::ops::attention::{Heads, Mask, Segment};
use crate::runtime::recorder::Recorder;
use crate::runtime::{Category, Device, Linear, Norm, Tensor};
use crate::weights::Loader;

/// The vision tower's weights.
#[derive(Debug)]
pub struct Vision {
    patch_size: u32,
    heads: Heads,
    activation: Activation,
    patch_embedding: Linear,
    /// `[N, D]`; the class embedding is already added to row 0, the convolution's bias to the others.
    positions: Tensor,
    /// Positions for pictures of the size the model was trained with.
    trained_positions: Tensor,
    blocks: Vec<Block>,
    post_layernorm: Norm,
}

#[derive(Debug)]
struct Block {
    norm1: Norm,
    qkv: Linear,
    projection: Linear,
    norm2: Norm,
    fc1: Linear,
    fc2: Linear,
}

impl Vision {
    /// Takes the weights under `vision_model.`.
    ///
    /// # Errors
    /// As [`Loader::linear`].
    pub fn load(w: &mut Loader<'_>, config: &VisionConfig) -> Result<Vision> {
        let (d, eps) = (config.hidden_size, config.layer_norm_eps);
        let embeddings = "vision_model.embeddings";
        let class = w.host_values(&format!("{embeddings}.class_embedding"), &[1, 1, d])?;
        let n = config.num_positions();
        let mut positions = w.host_values(&format!("{embeddings}.position_embedding"), &[1, n, d])?;
        let bias = w.host_values(&format!("{embeddings}.patch_embedding.bias"), &[d])?;
        let added = class.iter().chain(bias.iter().cycle());
        positions.iter_mut().zip(added).for_each(|(position, more)| *position += more);
        let positions = w.upload("positions", n, d, || positions)?;
        Ok(Vision {
            patch_size: config.patch_size,
            heads: Heads::full(config.num_attention_heads, d / config.num_attention_heads),
            activation: Activation::named(&config.hidden_act).expect("validated with the configuration"),
            patch_embedding: w.patch_convolution(&format!("{embeddings}.patch_embedding"), d, config.patch_size)?,
            trained_positions: positions.clone(),
            positions,
            blocks: (0..config.num_hidden_layers)
                .map(|i| w.layer(|w| Block::load(w, config, i)))
                .collect::<Result<_>>()?,
            post_layernorm: w.layer_norm("vision_model.post_layernorm", d, eps)?,
        })
    }

    /// The class token and a position for each patch of pictures of `side` pixels, interpolated from the trained ones
    /// (`interpolate_pos_encoding`).
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory), or whatever went wrong on the GPU.
    pub fn interpolate_positions(&mut self, device: &Device, side: u32) -> Result<()> {
        let across = (side / self.patch_size) as usize;
        let trained: Vec<f32> = device.read(&self.trained_positions)?;
        let d = self.positions.cols() as usize;
        let (class, grid) = trained.split_at(d);
        let from = (self.trained_positions.rows() - 1).isqrt() as usize;
        let values = [class, &bicubic(grid, from, across, d)].concat();
        let rows = (across * across + 1) as u32;
        self.positions = device.tensor(Category::Weights, "positions", rows, d as u32, &values)?;
        Ok(())
    }

    /// The segments of a pass over `count` pictures.
    pub fn segments(&self, count: u32) -> Vec<Segment> {
        Segment::side_by_side(&vec![self.positions.rows(); count as usize])
    }

    /// Records the whole tower over the `pixels [3 B S, S]` of B pictures, with `mask` for their segments if there are
    /// several. Gives the image features `[B N, D]` that the Q-Former reads; the first row of each belongs to the class
    /// token.
    pub fn record(&self, r: &mut Recorder, pixels: &Tensor, mask: Mask<'_>) -> Tensor {
        let (n, count) = (self.positions.rows(), pixels.rows() / (3 * pixels.cols()));
        let record = |r: &mut Recorder| {
            let patches = r.patches(pixels, count, self.patch_size); // [B N, 3 P²]
            let mut x = r.empty(count * n, self.positions.cols()); // [B N, D]
            (0..count).for_each(|i| r.copy(&mut x.slice_rows(i * n, n), &self.positions));
            let first = self.blocks.first().map(|first| &first.norm1);
            r.linear_add_before(&mut x, &patches, &self.patch_embedding, first); // x += patches Wᵀ
            for (i, block) in self.blocks.iter().enumerate() {
                let next = self.blocks.get(i + 1).map(|next| &next.norm1);
                r.scope(format!("encoder.layers.{i}"), |r| {
                    self_attention(r, block, self.heads, mask, &mut x);
                    mlp(r, block, self.activation, &mut x, next);
                });
            }
            r.layer_norm(&x, &self.post_layernorm) // [B N, D]
        };
        r.scope("vision_model", |r| r.as_for_rows(n, record))
    }

    /// Records what the reference calls the pooler's output `[1, D]` of a picture's features: its class token, normalised
    /// once more. Nothing reads it.
    pub fn record_pooler(&self, r: &mut Recorder, features: &Tensor) -> Tensor {
        r.scope("vision_model", |r| r.layer_norm(&features.slice_rows(0, 1), &self.post_layernorm))
    }
}

fn self_attention(r: &mut Recorder, w: &Block, heads: Heads, mask: Mask<'_>, x: &mut Tensor) {
    let qkv = r.norm_linear(x, &w.norm1, &w.qkv); // [N, 3D]
    let a = r.attention(&qkv, heads, mask); // [N, D]
    r.linear_add_before(x, &a, &w.projection, Some(&w.norm2)); // x += a Wᵀ + b
}

fn mlp(r: &mut Recorder, w: &Block, activation: Activation, x: &mut Tensor, next: Option<&Norm>) {
    let f = r.norm_linear_act(x, &w.norm2, &w.fc1, activation); // [N, F]
    r.linear_add_before(x, &f, &w.fc2, next); // x += f Wᵀ + b
}

impl Block {
    fn load(w: &mut Loader<'_>, config: &VisionConfig, i: u32) -> Result<Block> {
        let (d, f, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let name = |part: &str| format!("vision_model.encoder.layers.{i}.{part}");
        let mut block = Block {
            norm1: w.layer_norm(&name("layer_norm1"), d, eps)?,
            qkv: w.linear(&name("self_attn.qkv"), 3 * d, d, config.qkv_bias)?,
            projection: w.linear(&name("self_attn.projection"), d, d, true)?,
            norm2: w.layer_norm(&name("layer_norm2"), d, eps)?,
            fc1: w.linear(&name("mlp.fc1"), f, d, true)?,
            fc2: w.linear(&name("mlp.fc2"), d, f, true)?,
        };
        w.fold(&mut block.norm1, &block.qkv)?;
        w.fold(&mut block.norm2, &block.fc1)?;
        Ok(block)
    }
}

/// `grid [from, from, d]` resized to `[to, to, d]` as `torch.nn.functional.interpolate` does with mode "bicubic" (a =
/// -0.75, corners not aligned, no antialiasing).
fn bicubic(grid: &[f32], from: usize, to: usize, d: usize) -> Vec<f32> {
    if from == to {
        return grid.to_vec();
    }
    let taps: Vec<[(usize, f32); 4]> = (0..to).map(|i| bicubic_taps(i, from, to)).collect();
    let mut out = Vec::with_capacity(to * to * d);
    for rows in &taps {
        for columns in &taps {
            for channel in 0..d {
                let along = |y: usize| -> f32 {
                    columns.iter().map(|&(x, weight)| weight * grid[(y * from + x) * d + channel]).sum()
                };
                out.push(rows.iter().map(|&(y, weight)| weight * along(y)).sum());
            }
        }
    }
    out
}

/// The four samples an output is made of, clamped to the border, and their weights.
fn bicubic_taps(i: usize, from: usize, to: usize) -> [(usize, f32); 4] {
    const A: f32 = -0.75;
    let near = |x: f32| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f32| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    let at = (i as f32 + 0.5) * (from as f32 / to as f32) - 0.5;
    let (first, t) = (at.floor(), at - at.floor());
    let weights = [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)];
    std::array::from_fn(|k| {
        let sample = first as isize + k as isize - 1;
        (sample.clamp(0, from as isize - 1) as usize, weights[k])
    })
}
