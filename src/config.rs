//! A checkpoint's `config.json`: every field the model needs, with the defaults of transformers, validated.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};

/// `InstructBlipConfig`.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The vision tower.
    pub vision: VisionConfig,
    /// The Q-Former.
    pub qformer: QFormerConfig,
    /// The language model.
    pub text: LlamaConfig,
    /// Learned queries, Q; also the image placeholders in a prompt.
    pub num_query_tokens: u32,
    /// The id of `<image>`.
    pub image_token_id: u32,
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
    /// Whether q, k and v have a bias.
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

/// `LlamaConfig`, with what is absent from the file filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct LlamaConfig {
    /// Rows of the embedding and of the output layer, V.
    pub vocab_size: u32,
    /// D.
    pub hidden_size: u32,
    /// F.
    pub intermediate_size: u32,
    /// Blocks.
    pub num_hidden_layers: u32,
    /// H.
    pub num_attention_heads: u32,
    /// G.
    pub num_key_value_heads: u32,
    /// d; not always D / H.
    pub head_dim: u32,
    /// Longest context.
    pub max_position_embeddings: u32,
    /// Epsilon of every RMSNorm.
    pub rms_norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Whether q, k, v and o have a bias.
    pub attention_bias: bool,
    /// Whether gate, up and down have a bias.
    pub mlp_bias: bool,
    /// Whether the output layer is the embedding when the file has no output layer.
    pub tie_word_embeddings: bool,
    /// End-of-text ids the configuration names.
    pub eos_token_ids: Vec<u32>,
}

/// `text_config` as written: both the 4.x and the 5.x spelling of the rotary settings.
#[derive(Deserialize)]
#[serde(default)]
struct RawText {
    model_type: String,
    vocab_size: u32,
    hidden_size: u32,
    intermediate_size: u32,
    num_hidden_layers: u32,
    num_attention_heads: u32,
    num_key_value_heads: Option<u32>,
    head_dim: Option<u32>,
    hidden_act: String,
    max_position_embeddings: u32,
    rms_norm_eps: f32,
    rope_theta: Option<f64>,
    rope_scaling: Option<Value>,
    rope_parameters: Option<Rope>,
    attention_bias: bool,
    mlp_bias: bool,
    tie_word_embeddings: bool,
    eos_token_id: Option<Eos>,
}

impl Default for RawText {
    fn default() -> Self {
        RawText {
            model_type: String::new(),
            vocab_size: 32000,
            hidden_size: 4096,
            intermediate_size: 11008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: None,
            head_dim: None,
            hidden_act: "silu".into(),
            max_position_embeddings: 2048,
            rms_norm_eps: 1e-6,
            rope_theta: None,
            rope_scaling: None,
            rope_parameters: None,
            attention_bias: false,
            mlp_bias: false,
            tie_word_embeddings: false,
            eos_token_id: Some(Eos::One(2)),
        }
    }
}

#[derive(Deserialize)]
struct Rope {
    rope_type: Option<String>,
    rope_theta: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Eos {
    One(i64),
    Many(Vec<i64>),
}

#[derive(Deserialize)]
struct RawConfig {
    model_type: Option<String>,
    vision_config: Option<VisionConfig>,
    qformer_config: Option<QFormerConfig>,
    text_config: Option<RawText>,
    num_query_tokens: Option<u32>,
    image_token_index: Option<u32>,
    image_token_id: Option<u32>,
}

/// Activations the kernels have, by the names transformers gives them.
const ACTIVATIONS: [&str; 6] = ["gelu", "gelu_new", "gelu_pytorch_tanh", "silu", "swish", "relu"];

impl Config {
    /// Parses and validates the bytes of a `config.json`; `file` is named in errors.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] naming the field that is unsupported or out of range.
    pub fn parse(file: &Path, bytes: &[u8]) -> Result<Config> {
        let bad = |problem: String| Error::checkpoint(file, problem);
        let raw: RawConfig = serde_json::from_slice(bytes).map_err(|e| bad(unreadable(&e)))?;
        match raw.model_type.as_deref() {
            Some("instructblip") => {}
            other => {
                return Err(bad(format!(
                    "model_type is {}; this program runs \"instructblip\"",
                    other.map_or("missing".into(), |t| format!("\"{t}\""))
                )));
            }
        }
        let config = Config {
            text: text_config(raw.text_config).map_err(&bad)?,
            vision: raw.vision_config.unwrap_or_default(),
            qformer: raw.qformer_config.unwrap_or_default(),
            num_query_tokens: raw.num_query_tokens.unwrap_or(32),
            image_token_id: raw.image_token_index.or(raw.image_token_id).ok_or_else(|| {
                bad("image_token_index is missing: this checkpoint predates image tokens; \
                     load and save it once with a recent transformers"
                    .into())
            })?,
        };
        config.validate().map_err(bad)?;
        Ok(config)
    }

    /// Refuses what no kernel or plan could run, before anything is allocated.
    fn validate(&self) -> Result<(), String> {
        self.check_counts()?;
        self.check_widths()?;
        self.check_heads()?;
        self.check_reals()?;
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
        let (v, q, t) = (&self.vision, &self.qformer, &self.text);
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
            ("text_config.num_hidden_layers", t.num_hidden_layers, 1, 1_000),
            ("text_config.num_attention_heads", t.num_attention_heads, 1, 1_000),
            ("text_config.num_key_value_heads", t.num_key_value_heads, 1, t.num_attention_heads),
            ("text_config.head_dim", t.head_dim, 2, 256),
            ("text_config.vocab_size", t.vocab_size, 1, 10_000_000),
            ("text_config.max_position_embeddings", t.max_position_embeddings, 1, 1 << 18),
            ("num_query_tokens", self.num_query_tokens, 1, 4_096),
        ];
        match counts.into_iter().find(|&(_, value, low, high)| value < low || value > high) {
            Some((name, value, low, high)) => Err(format!("{name} is {value}; it must be from {low} to {high}")),
            None => Ok(()),
        }
    }

    fn check_widths(&self) -> Result<(), String> {
        let (v, q, t) = (&self.vision, &self.qformer, &self.text);
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
            ("text_config.hidden_size", t.hidden_size),
            ("text_config.intermediate_size", t.intermediate_size),
            ("text_config.num_attention_heads * head_dim", t.num_attention_heads * t.head_dim),
        ];
        match widths.into_iter().find(|&(_, value)| value == 0 || value > 65_536 || value % 8 != 0) {
            Some((name, value)) => Err(format!("{name} is {value}; it must be a multiple of 8 from 8 to 65536")),
            None => Ok(()),
        }
    }

    fn check_heads(&self) -> Result<(), String> {
        let (v, q, t) = (&self.vision, &self.qformer, &self.text);
        let heads = [
            ("vision_config", v.hidden_size, v.num_attention_heads),
            ("qformer_config", q.hidden_size, q.num_attention_heads),
        ];
        for (name, width, heads) in heads {
            if width % heads != 0 || width / heads > 256 {
                return Err(format!("{name}: {heads} heads do not divide {width} into heads of at most 256 channels"));
            }
        }
        if t.num_attention_heads % t.num_key_value_heads != 0 || t.head_dim % 2 != 0 {
            return Err(format!(
                "text_config: {} heads of {} channels over {} key-value heads do not divide evenly",
                t.num_attention_heads, t.head_dim, t.num_key_value_heads
            ));
        }
        Ok(())
    }

    fn check_reals(&self) -> Result<(), String> {
        let reals = [
            ("vision_config.layer_norm_eps", f64::from(self.vision.layer_norm_eps)),
            ("qformer_config.layer_norm_eps", f64::from(self.qformer.layer_norm_eps)),
            ("text_config.rms_norm_eps", f64::from(self.text.rms_norm_eps)),
        ];
        // A smaller base would make frequencies that grow, without bound as it nears 0.
        if !(1.0..=f64::MAX).contains(&self.text.rope_theta) {
            return Err(format!("text_config.rope_theta is {}; it must be at least 1", self.text.rope_theta));
        }
        match reals.into_iter().find(|(_, x)| !x.is_finite() || *x < 0.0) {
            Some((name, value)) => Err(format!("{name} is {value}; it must be a finite number that is not negative")),
            None => Ok(()),
        }
    }
}

/// Our own words for what serde_json found.
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

fn text_config(raw: Option<RawText>) -> Result<LlamaConfig, String> {
    let raw = raw.ok_or("text_config is missing, which means an OPT language model; supported is \"llama\"")?;
    if raw.model_type != "llama" {
        return Err(format!("text_config.model_type is \"{}\"; supported is \"llama\"", raw.model_type));
    }
    if raw.hidden_act != "silu" {
        return Err(format!("text_config.hidden_act is \"{}\"; supported is \"silu\"", raw.hidden_act));
    }
    let named = |s: &Value| s.get("rope_type").or(s.get("type")).and_then(Value::as_str).map(str::to_owned);
    let scaling = raw.rope_scaling.as_ref().map(|s| named(s).unwrap_or("unnamed".into()));
    let rope_type =
        raw.rope_parameters.as_ref().and_then(|r| r.rope_type.as_deref()).or(scaling.as_deref()).unwrap_or("default");
    if rope_type != "default" {
        return Err(format!("text_config: rope_type \"{rope_type}\" is not supported, only \"default\""));
    }
    let heads = raw.num_attention_heads.max(1);
    let theta = raw.rope_parameters.as_ref().and_then(|r| r.rope_theta).or(raw.rope_theta);
    let eos = match raw.eos_token_id {
        None => Vec::new(),
        Some(Eos::One(id)) => vec![id],
        Some(Eos::Many(ids)) => ids,
    };
    Ok(LlamaConfig {
        vocab_size: raw.vocab_size,
        hidden_size: raw.hidden_size,
        intermediate_size: raw.intermediate_size,
        num_hidden_layers: raw.num_hidden_layers,
        num_attention_heads: raw.num_attention_heads,
        num_key_value_heads: raw.num_key_value_heads.unwrap_or(raw.num_attention_heads),
        head_dim: raw.head_dim.unwrap_or(raw.hidden_size / heads),
        max_position_embeddings: raw.max_position_embeddings,
        rms_norm_eps: raw.rms_norm_eps,
        rope_theta: theta.unwrap_or(10_000.0),
        attention_bias: raw.attention_bias,
        mlp_bias: raw.mlp_bias,
        tie_word_embeddings: raw.tie_word_embeddings,
        eos_token_ids: eos.into_iter().filter_map(|id| u32::try_from(id).ok()).collect(),
    })
}
