//! A checkpoint's `config.json`: every field the model needs, with the defaults of transformers, validated.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};

mod text;

pub use text::{LlamaConfig, OptConfig, T5Config, TextConfig};

/// The published family that a checkpoint belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `InstructBlipForConditionalGeneration`: the Q-Former reads the instruction.
    InstructBlip,
    /// `InstructBlipVideoForConditionalGeneration`: the same weights over several frames.
    InstructBlipVideo,
    /// `Blip2ForConditionalGeneration`: the Q-Former sees the image only.
    Blip2,
}

/// `InstructBlipConfig`, `InstructBlipVideoConfig` or `Blip2Config`.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The family.
    pub family: Family,
    /// The vision tower.
    pub vision: VisionConfig,
    /// The Q-Former.
    pub qformer: QFormerConfig,
    /// The language model.
    pub text: TextConfig,
    /// Learned queries, Q; also the image placeholders in a prompt.
    pub num_query_tokens: u32,
    /// The id of `<image>` (`<video>` for the video family). Checkpoints of 2023 have none: their features go in front
    /// of the prompt.
    pub image_token_id: Option<u32>,
}

/// `InstructBlipVisionConfig`: ViT-g/14 unless the file says otherwise.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct VisionConfig {
    /// D.
    pub hidden_size: u32,
    /// F.
    pub intermediate_size: u32,
    /// Blocks.
    pub num_hidden_layers: u32,
    /// H.
    pub num_attention_heads: u32,
    /// Side of the square input in pixels.
    pub image_size: u32,
    /// Side of a patch in pixels.
    pub patch_size: u32,
    /// Activation of the MLP.
    pub hidden_act: String,
    /// Epsilon of every LayerNorm.
    pub layer_norm_eps: f32,
    /// True if q, k and v have a bias.
    pub qkv_bias: bool,
}

impl Default for VisionConfig {
    fn default() -> Self {
        VisionConfig {
            hidden_size: 1408,
            intermediate_size: 6144,
            num_hidden_layers: 39,
            num_attention_heads: 16,
            image_size: 224,
            patch_size: 14,
            hidden_act: "gelu".into(),
            layer_norm_eps: 1e-6,
            qkv_bias: true,
        }
    }
}

impl VisionConfig {
    /// Patches across the image and the class token: rows of the vision tower, N.
    pub fn num_positions(&self) -> u32 {
        let across = self.image_size / self.patch_size;
        across * across + 1
    }
}

/// `InstructBlipQFormerConfig`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct QFormerConfig {
    /// Rows of the word embedding.
    pub vocab_size: u32,
    /// D.
    pub hidden_size: u32,
    /// Layers.
    pub num_hidden_layers: u32,
    /// H.
    pub num_attention_heads: u32,
    /// F.
    pub intermediate_size: u32,
    /// Activation of both feed-forward networks.
    pub hidden_act: String,
    /// Rows of the position embedding: the longest instruction.
    pub max_position_embeddings: u32,
    /// Epsilon of every LayerNorm.
    pub layer_norm_eps: f32,
    /// Layers 0, f, 2f, … attend to the image.
    pub cross_attention_frequency: u32,
}

impl Default for QFormerConfig {
    fn default() -> Self {
        QFormerConfig {
            vocab_size: 30522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: "gelu".into(),
            max_position_embeddings: 512,
            layer_norm_eps: 1e-12,
            cross_attention_frequency: 2,
        }
    }
}

#[derive(Deserialize)]
struct RawConfig {
    model_type: Option<String>,
    vision_config: Option<VisionConfig>,
    qformer_config: Option<QFormerConfig>,
    text_config: Option<Value>,
    num_query_tokens: Option<u32>,
    image_token_index: Option<u32>,
    image_token_id: Option<u32>,
    video_token_index: Option<u32>,
    video_token_id: Option<u32>,
}

/// Activations the kernels have, by the names transformers gives them.
const ACTIVATIONS: [&str; 6] = ["gelu", "gelu_new", "gelu_pytorch_tanh", "silu", "swish", "relu"];

/// Most channels of an activation.
const MAX_WIDTH: u32 = 65_536;

/// Most channels of a head: attention keeps a row of one in registers.
const MAX_HEAD_DIM: u32 = 256;

impl Config {
    /// Parses and validates the bytes of a `config.json`; `file` is named in errors.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] naming the field that is unsupported or out of range.
    pub fn parse(file: &Path, bytes: &[u8]) -> Result<Config> {
        let bad = |problem: String| Error::checkpoint(file, problem);
        let raw: RawConfig = serde_json::from_slice(bytes).map_err(|e| bad(unreadable(&e)))?;
        let family = match raw.model_type.as_deref() {
            Some("instructblip") => Family::InstructBlip,
            Some("instructblipvideo") => Family::InstructBlipVideo,
            Some("blip-2") => Family::Blip2,
            other => {
                return Err(bad(format!(
                    "model_type is {}; this program runs \"instructblip\", \"instructblipvideo\" and \"blip-2\"",
                    other.map_or("missing".into(), |t| format!("\"{t}\""))
                )));
            }
        };
        let token = match family {
            Family::InstructBlipVideo => raw.video_token_index.or(raw.video_token_id),
            _ => raw.image_token_index.or(raw.image_token_id),
        };
        let config = Config {
            family,
            text: TextConfig::parse(raw.text_config.as_ref()).map_err(&bad)?,
            vision: raw.vision_config.unwrap_or_default(),
            qformer: raw.qformer_config.unwrap_or_default(),
            num_query_tokens: raw.num_query_tokens.unwrap_or(32),
            image_token_id: token,
        };
        config.validate().map_err(bad)?;
        Ok(config)
    }

    /// True if the Q-Former has word embeddings and a feed-forward network for text.
    pub fn qformer_reads_text(&self) -> bool {
        self.family != Family::Blip2
    }

    /// True if a prompt takes several pictures, the frames of a video.
    pub fn takes_frames(&self) -> bool {
        self.family == Family::InstructBlipVideo
    }

    /// Refuses what no kernel or plan could run, before anything is allocated.
    fn validate(&self) -> Result<(), String> {
        self.check_counts()?;
        self.check_widths()?;
        self.check_heads()?;
        self.check_reals()?;
        self.text.validate()?;
        let acts = [
            ("vision_config.hidden_act", &self.vision.hidden_act),
            ("qformer_config.hidden_act", &self.qformer.hidden_act),
        ];
        match acts.iter().find(|(_, act)| !ACTIVATIONS.contains(&act.as_str())) {
            Some((name, act)) => Err(format!("{name} is \"{act}\"; supported are {}", ACTIVATIONS.join(", "))),
            None => Ok(()),
        }
    }

    fn check_counts(&self) -> Result<(), String> {
        let (v, q) = (&self.vision, &self.qformer);
        let counts = [
            ("vision_config.num_hidden_layers", v.num_hidden_layers, 1, 1_000),
            ("vision_config.num_attention_heads", v.num_attention_heads, 1, 1_000),
            ("vision_config.patch_size", v.patch_size, 1, 128),
            ("vision_config.image_size", v.image_size, v.patch_size, 2_048),
            ("qformer_config.num_hidden_layers", q.num_hidden_layers, 1, 1_000),
            ("qformer_config.num_attention_heads", q.num_attention_heads, 1, 1_000),
            ("qformer_config.vocab_size", q.vocab_size, 1, 10_000_000),
            ("qformer_config.max_position_embeddings", q.max_position_embeddings, 1, 8_192),
            ("qformer_config.cross_attention_frequency", q.cross_attention_frequency, 1, 1_000),
            ("num_query_tokens", self.num_query_tokens, 1, 4_096),
        ];
        match counts.into_iter().find(|&(_, value, low, high)| value < low || value > high) {
            Some((name, value, low, high)) => Err(format!("{name} is {value}; it must be from {low} to {high}")),
            None => Ok(()),
        }
    }

    fn check_widths(&self) -> Result<(), String> {
        let (v, q) = (&self.vision, &self.qformer);
        // A position is a row of a dispatch, and elements of activations are counted in 32 bits.
        let positions = (v.image_size / v.patch_size).pow(2) + 1;
        if positions > 16_384 {
            let (image, patch) = (v.image_size, v.patch_size);
            return Err(format!(
                "vision_config: image_size {image} over patch_size {patch} gives {positions} positions; at most 16384 \
                 are supported"
            ));
        }
        let widths = [
            ("vision_config.hidden_size", v.hidden_size),
            ("vision_config.intermediate_size", v.intermediate_size),
            ("qformer_config.hidden_size", q.hidden_size),
            ("qformer_config.intermediate_size", q.intermediate_size),
        ];
        match widths.into_iter().find(|&(_, value)| value == 0 || value > MAX_WIDTH) {
            Some((name, value)) => Err(format!("{name} is {value}; it must be from 1 to {MAX_WIDTH}")),
            None => Ok(()),
        }
    }

    fn check_heads(&self) -> Result<(), String> {
        let (v, q) = (&self.vision, &self.qformer);
        let heads = [
            ("vision_config", v.hidden_size, v.num_attention_heads),
            ("qformer_config", q.hidden_size, q.num_attention_heads),
        ];
        heads.into_iter().try_for_each(|(name, width, heads)| heads_divide(name, width, heads))
    }

    fn check_reals(&self) -> Result<(), String> {
        let reals = [
            ("vision_config.layer_norm_eps", f64::from(self.vision.layer_norm_eps)),
            ("qformer_config.layer_norm_eps", f64::from(self.qformer.layer_norm_eps)),
        ];
        match reals.into_iter().find(|(_, x)| !x.is_finite() || *x < 0.0) {
            Some((name, value)) => Err(format!("{name} is {value}; it must be a finite number that is not negative")),
            None => Ok(()),
        }
    }
}

/// Checks that `width` channels are whole heads that attention can take.
fn heads_divide(part: &str, width: u32, heads: u32) -> Result<(), String> {
    if !width.is_multiple_of(heads) {
        return Err(format!("{part}: num_attention_heads {heads} does not divide hidden_size {width} evenly"));
    }
    match width / heads {
        1..=MAX_HEAD_DIM => Ok(()),
        of => Err(format!(
            "{part}: hidden_size {width} over num_attention_heads {heads} gives heads of {of} channels; at most \
             {MAX_HEAD_DIM} are supported"
        )),
    }
}

/// Describes in our own words what serde_json found.
fn unreadable(e: &serde_json::Error) -> String {
    let (line, column) = (e.line(), e.column());
    match e.classify() {
        serde_json::error::Category::Data => {
            format!(
                "the value before line {line}, column {column} has the wrong type, is out of range or is there twice"
            )
        }
        _ => format!("is not valid JSON at line {line}, column {column}"),
    }
}
