//! `text_config`: the language model, in three families.

use serde::Deserialize;
use serde_json::Value;

use super::{ACTIVATIONS, MAX_HEAD_DIM, MAX_WIDTH, heads_divide};

/// A language model's configuration.
#[derive(Clone, Debug, PartialEq)]
pub enum TextConfig {
    /// Vicuna.
    Llama(LlamaConfig),
    /// OPT.
    Opt(OptConfig),
    /// Flan-T5, and mT5, which is the same with other defaults and logits that are never scaled.
    T5(T5Config),
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
    /// True if q, k, v and o have a bias.
    pub attention_bias: bool,
    /// True if gate, up and down have a bias.
    pub mlp_bias: bool,
    /// True if the output layer is the embedding when the file has no output layer.
    pub tie_word_embeddings: bool,
    /// Ids and lengths for generation.
    pub generation: GenerationConfig,
}

/// `OPTConfig` of the pre-norm models.
#[derive(Clone, Debug, PartialEq)]
pub struct OptConfig {
    /// Rows of the embedding and of the output layer, V.
    pub vocab_size: u32,
    /// D.
    pub hidden_size: u32,
    /// F.
    pub ffn_dim: u32,
    /// Blocks.
    pub num_hidden_layers: u32,
    /// H.
    pub num_attention_heads: u32,
    /// Longest context; the table has two rows more.
    pub max_position_embeddings: u32,
    /// Activation of the MLP.
    pub activation_function: String,
    /// True if linear layers have a bias.
    pub enable_bias: bool,
    /// True if the output layer is the embedding when the file has no output layer.
    pub tie_word_embeddings: bool,
    /// Ids and lengths for generation.
    pub generation: GenerationConfig,
}

/// `T5Config` or `MT5Config`.
#[derive(Clone, Debug, PartialEq)]
pub struct T5Config {
    /// Rows of the embedding and of the output layer, V.
    pub vocab_size: u32,
    /// D.
    pub d_model: u32,
    /// d: channels of a head, not D / H.
    pub d_kv: u32,
    /// F.
    pub d_ff: u32,
    /// Blocks of the encoder.
    pub num_layers: u32,
    /// Blocks of the decoder.
    pub num_decoder_layers: u32,
    /// H.
    pub num_heads: u32,
    /// Rows of the relative position table.
    pub relative_attention_num_buckets: u32,
    /// Distance from which all share the last bucket.
    pub relative_attention_max_distance: u32,
    /// Epsilon of every RMSNorm.
    pub layer_norm_epsilon: f32,
    /// The activation that runs: `dense_act_fn` where the file has it, whatever `feed_forward_proj` says.
    pub dense_act_fn: String,
    /// True if the feed-forward network has a gate.
    pub is_gated_act: bool,
    /// True if the decoder's output is scaled by `1 / √D`, as in models whose logits come from the embedding.
    pub scale_decoder_outputs: bool,
    /// The decoder's first token.
    pub decoder_start_token_id: u32,
    /// Ids and lengths for generation.
    pub generation: GenerationConfig,
}

/// The settings of generation in a `text_config`. The reference takes its defaults from here, not from
/// `generation_config.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GenerationConfig {
    /// Start-of-text id.
    pub bos_token_id: Option<u32>,
    /// End-of-text ids.
    pub eos_token_ids: Vec<u32>,
    /// Padding id; ids that are not tokens are left out.
    pub pad_token_id: Option<u32>,
}

impl TextConfig {
    /// Reads a `text_config`, which means OPT's defaults when there is none.
    pub(super) fn parse(json: Option<&Value>) -> Result<TextConfig, String> {
        let empty = Value::Object(serde_json::Map::new());
        let json = json.filter(|json| !json.is_null()).unwrap_or(&empty);
        match json.get("model_type").map_or(Some("opt"), Value::as_str) {
            Some("llama") => llama(json).map(TextConfig::Llama),
            Some("opt") => opt(json).map(TextConfig::Opt),
            Some("t5") => t5(json).map(TextConfig::T5),
            Some("mt5") => mt5(json).map(TextConfig::T5),
            other => {
                let named = other.map_or("not a name".into(), |name| format!("\"{name}\""));
                Err(format!("text_config.model_type is {named}; supported are \"llama\", \"opt\", \"t5\" and \"mt5\""))
            }
        }
    }

    /// D.
    pub fn hidden_size(&self) -> u32 {
        match self {
            TextConfig::Llama(c) => c.hidden_size,
            TextConfig::Opt(c) => c.hidden_size,
            TextConfig::T5(c) => c.d_model,
        }
    }

    /// Rows of the embedding, as the configuration says.
    pub fn vocab_size(&self) -> u32 {
        match self {
            TextConfig::Llama(c) => c.vocab_size,
            TextConfig::Opt(c) => c.vocab_size,
            TextConfig::T5(c) => c.vocab_size,
        }
    }

    /// Most positions, of prompt and answer together; T5 has no limit.
    pub fn max_positions(&self) -> Option<u32> {
        match self {
            TextConfig::Llama(c) => Some(c.max_position_embeddings),
            TextConfig::Opt(c) => Some(c.max_position_embeddings),
            TextConfig::T5(_) => None,
        }
    }

    /// Ids for generation.
    pub fn generation(&self) -> &GenerationConfig {
        match self {
            TextConfig::Llama(c) => &c.generation,
            TextConfig::Opt(c) => &c.generation,
            TextConfig::T5(c) => &c.generation,
        }
    }

    /// The decoder's first token; decoder-only models have none.
    pub fn decoder_start_token_id(&self) -> Option<u32> {
        match self {
            TextConfig::T5(c) => Some(c.decoder_start_token_id),
            _ => None,
        }
    }

    /// Refuses what no kernel or plan could run.
    pub(super) fn validate(&self) -> Result<(), String> {
        match self {
            TextConfig::Llama(c) => c.validate(),
            TextConfig::Opt(c) => c.validate(),
            TextConfig::T5(c) => c.validate(),
        }
    }
}

impl LlamaConfig {
    fn validate(&self) -> Result<(), String> {
        in_range(&[
            ("num_hidden_layers", self.num_hidden_layers, 1, 1_000),
            ("num_attention_heads", self.num_attention_heads, 1, 1_000),
            ("num_key_value_heads", self.num_key_value_heads, 1, self.num_attention_heads),
            ("head_dim", self.head_dim, 2, MAX_HEAD_DIM),
            ("vocab_size", self.vocab_size, 1, 10_000_000),
            ("max_position_embeddings", self.max_position_embeddings, 1, 1 << 18),
            ("hidden_size", self.hidden_size, 1, MAX_WIDTH),
            ("intermediate_size", self.intermediate_size, 1, MAX_WIDTH),
        ])?;
        heads_fit("head_dim", self.num_attention_heads, self.head_dim)?;
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return Err(format!(
                "text_config: {} heads over {} key-value heads do not divide evenly",
                self.num_attention_heads, self.num_key_value_heads
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            let problem = "it must be even, as rotary positions turn channels in pairs";
            return Err(format!("text_config.head_dim is {}; {problem}", self.head_dim));
        }
        // A smaller base would make frequencies that grow, without bound as it nears 0.
        if !(1.0..=f64::MAX).contains(&self.rope_theta) {
            return Err(format!("text_config.rope_theta is {}; it must be at least 1", self.rope_theta));
        }
        epsilon("rms_norm_eps", self.rms_norm_eps)
    }
}

impl OptConfig {
    fn validate(&self) -> Result<(), String> {
        in_range(&[
            ("num_hidden_layers", self.num_hidden_layers, 1, 1_000),
            ("num_attention_heads", self.num_attention_heads, 1, 1_000),
            ("vocab_size", self.vocab_size, 1, 10_000_000),
            ("max_position_embeddings", self.max_position_embeddings, 1, 1 << 16),
            ("hidden_size", self.hidden_size, 1, MAX_WIDTH),
            ("ffn_dim", self.ffn_dim, 1, MAX_WIDTH),
        ])?;
        heads_divide("text_config", self.hidden_size, self.num_attention_heads)?;
        activation("activation_function", &self.activation_function)
    }
}

impl T5Config {
    fn validate(&self) -> Result<(), String> {
        in_range(&[
            ("num_layers", self.num_layers, 1, 1_000),
            ("num_decoder_layers", self.num_decoder_layers, 1, 1_000),
            ("num_heads", self.num_heads, 1, 1_000),
            ("d_kv", self.d_kv, 1, MAX_HEAD_DIM),
            ("vocab_size", self.vocab_size, 1, 10_000_000),
            ("relative_attention_num_buckets", self.relative_attention_num_buckets, 4, 1_024),
            (
                "relative_attention_max_distance",
                self.relative_attention_max_distance,
                self.relative_attention_num_buckets / 2 + 1,
                1 << 16,
            ),
            ("decoder_start_token_id", self.decoder_start_token_id, 0, self.vocab_size.saturating_sub(1)),
            ("d_model", self.d_model, 1, MAX_WIDTH),
            ("d_ff", self.d_ff, 1, MAX_WIDTH),
        ])?;
        heads_fit("d_kv", self.num_heads, self.d_kv)?;
        activation("dense_act_fn", &self.dense_act_fn)?;
        epsilon("layer_norm_epsilon", self.layer_norm_epsilon)
    }
}

fn in_range(counts: &[(&str, u32, u32, u32)]) -> Result<(), String> {
    match counts.iter().find(|&&(_, value, low, high)| value < low || value > high) {
        Some((name, value, low, high)) => {
            Err(format!("text_config.{name} is {value}; it must be from {low} to {high}"))
        }
        None => Ok(()),
    }
}

/// Checks that the channels of all heads are no more than an activation may have.
fn heads_fit(name: &str, heads: u32, of: u32) -> Result<(), String> {
    match heads * of <= MAX_WIDTH {
        true => Ok(()),
        false => Err(format!("text_config: {heads} heads of {name} {of} are more than {MAX_WIDTH} channels")),
    }
}

fn epsilon(name: &str, value: f32) -> Result<(), String> {
    match value.is_finite() && value >= 0.0 {
        true => Ok(()),
        false => Err(format!("text_config.{name} is {value}; it must be a finite number that is not negative")),
    }
}

fn activation(name: &str, value: &str) -> Result<(), String> {
    match ACTIVATIONS.contains(&value) {
        true => Ok(()),
        false => Err(format!("text_config.{name} is \"{value}\"; supported are {}", ACTIVATIONS.join(", "))),
    }
}

/// A field of `text_config`, or `otherwise` where it is absent or null.
fn field<'a, T: Deserialize<'a>>(json: &'a Value, name: &str, otherwise: T) -> Result<T, String> {
    match json.get(name) {
        None | Some(Value::Null) => Ok(otherwise),
        Some(value) => {
            T::deserialize(value).map_err(|_| format!("text_config.{name} has the wrong type or is out of range"))
        }
    }
}

/// Ids as the configuration gives them: one, several or none. Negative ones stand for none.
fn ids(json: &Value, name: &str, otherwise: &[i64]) -> Result<Vec<u32>, String> {
    let all = match json.get(name) {
        None => otherwise.to_vec(),
        Some(Value::Null) => Vec::new(),
        Some(Value::Array(_)) => field(json, name, Vec::new())?,
        Some(_) => vec![field(json, name, 0)?],
    };
    Ok(all.into_iter().filter_map(|id| u32::try_from(id).ok()).collect())
}

/// `bos`, `eos` and `pad` with a class's defaults.
fn generation(json: &Value, bos: &[i64], eos: i64, pad: &[i64]) -> Result<GenerationConfig, String> {
    Ok(GenerationConfig {
        bos_token_id: ids(json, "bos_token_id", bos)?.first().copied(),
        eos_token_ids: ids(json, "eos_token_id", &[eos])?,
        pad_token_id: ids(json, "pad_token_id", pad)?.first().copied(),
    })
}

fn llama(json: &Value) -> Result<LlamaConfig, String> {
    let hidden_act: String = field(json, "hidden_act", "silu".into())?;
    if hidden_act != "silu" {
        return Err(format!("text_config.hidden_act is \"{hidden_act}\"; supported is \"silu\""));
    }
    let heads = field(json, "num_attention_heads", 32)?;
    let hidden_size = field(json, "hidden_size", 4096)?;
    Ok(LlamaConfig {
        vocab_size: field(json, "vocab_size", 32000)?,
        hidden_size,
        intermediate_size: field(json, "intermediate_size", 11008)?,
        num_hidden_layers: field(json, "num_hidden_layers", 32)?,
        num_attention_heads: heads,
        num_key_value_heads: field(json, "num_key_value_heads", heads)?,
        head_dim: field(json, "head_dim", hidden_size / heads.max(1))?,
        max_position_embeddings: field(json, "max_position_embeddings", 2048)?,
        rms_norm_eps: field(json, "rms_norm_eps", 1e-6)?,
        rope_theta: rope_theta(json)?,
        attention_bias: field(json, "attention_bias", false)?,
        mlp_bias: field(json, "mlp_bias", false)?,
        tie_word_embeddings: field(json, "tie_word_embeddings", false)?,
        generation: generation(json, &[1], 2, &[])?,
    })
}

/// The base of the rotary frequencies: transformers 5 keeps it in `rope_parameters`, 4 beside `rope_scaling`. Where a file
/// has both, `rope_scaling` counts (`RotaryEmbeddingConfigMixin.convert_rope_params_to_dict`).
fn rope_theta(json: &Value) -> Result<f64, String> {
    let some = |name: &str| json.get(name).filter(|value| !value.is_null());
    let named = |s: &Value| s.get("rope_type").or(s.get("type")).and_then(Value::as_str).map(str::to_owned);
    let scaling = some("rope_scaling").filter(|scaling| scaling.as_object().is_none_or(|scaling| !scaling.is_empty()));
    let parameters = scaling.or(some("rope_parameters"));
    let unnamed = if scaling.is_some() { "unnamed" } else { "default" };
    let rope_type = parameters.and_then(named).unwrap_or(unnamed.into());
    if rope_type != "default" {
        return Err(format!("text_config: rope_type \"{rope_type}\" is not supported, only \"default\""));
    }
    match parameters.filter(|p| p.get("rope_theta").is_some()) {
        Some(parameters) => field(parameters, "rope_theta", 10_000.0),
        None => field(json, "rope_theta", 10_000.0),
    }
}

fn opt(json: &Value) -> Result<OptConfig, String> {
    let hidden_size = field(json, "hidden_size", 768)?;
    let embedding: u32 = field(json, "word_embed_proj_dim", hidden_size)?;
    if embedding != hidden_size {
        return Err(format!(
            "text_config.word_embed_proj_dim is {embedding}; only hidden_size {hidden_size} is supported"
        ));
    }
    for name in ["do_layer_norm_before", "layer_norm_elementwise_affine"] {
        if !field(json, name, true)? {
            return Err(format!("text_config.{name} is false; supported are OPT models where it is true"));
        }
    }
    Ok(OptConfig {
        vocab_size: field(json, "vocab_size", 50272)?,
        hidden_size,
        ffn_dim: field(json, "ffn_dim", 3072)?,
        num_hidden_layers: field(json, "num_hidden_layers", 12)?,
        num_attention_heads: field(json, "num_attention_heads", 12)?,
        max_position_embeddings: field(json, "max_position_embeddings", 2048)?,
        activation_function: field(json, "activation_function", "relu".into())?,
        enable_bias: field(json, "enable_bias", true)?,
        tie_word_embeddings: field(json, "tie_word_embeddings", true)?,
        generation: generation(json, &[2], 2, &[1])?,
    })
}

fn t5(json: &Value) -> Result<T5Config, String> {
    let projection: String = field(json, "feed_forward_proj", "relu".into())?;
    let (is_gated_act, plain) = match projection.strip_prefix("gated-") {
        Some(act) => (true, act),
        None => (false, projection.as_str()),
    };
    // What "gated-gelu" means by itself is the tanh approximation; the published checkpoints override it.
    let derived = if projection == "gated-gelu" { "gelu_new" } else { plain };
    let num_layers = field(json, "num_layers", 6)?;
    let generation = generation(json, &[], 1, &[0])?;
    let start = ids(json, "decoder_start_token_id", &[])?.first().copied().or(generation.bos_token_id);
    Ok(T5Config {
        vocab_size: field(json, "vocab_size", 32128)?,
        d_model: field(json, "d_model", 512)?,
        d_kv: field(json, "d_kv", 64)?,
        d_ff: field(json, "d_ff", 2048)?,
        num_layers,
        num_decoder_layers: field(json, "num_decoder_layers", num_layers)?,
        num_heads: field(json, "num_heads", 8)?,
        relative_attention_num_buckets: field(json, "relative_attention_num_buckets", 32)?,
        relative_attention_max_distance: field(json, "relative_attention_max_distance", 128)?,
        layer_norm_epsilon: field(json, "layer_norm_epsilon", 1e-6)?,
        dense_act_fn: field(json, "dense_act_fn", derived.into())?,
        is_gated_act,
        // transformers 5 keeps this under a name of its own, and then calls every T5 tied.
        scale_decoder_outputs: field(json, "scale_decoder_outputs", field(json, "tie_word_embeddings", true)?)?,
        decoder_start_token_id: start.unwrap_or(0),
        generation,
    })
}

/// `MT5Config`: T5 of the second kind, whatever the file says of scaling.
fn mt5(json: &Value) -> Result<T5Config, String> {
    let mut json = json.clone();
    let defaults = [
        ("vocab_size", Value::from(250_112)),
        ("d_ff", Value::from(1024)),
        ("num_layers", Value::from(8)),
        ("num_heads", Value::from(6)),
        ("feed_forward_proj", Value::from("gated-gelu")),
        ("decoder_start_token_id", Value::from(0)),
    ];
    if let Some(fields) = json.as_object_mut() {
        for (name, value) in defaults {
            fields.entry(name).or_insert(value);
        }
    }
    Ok(T5Config { scale_decoder_outputs: false, ..t5(&json)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `MT5Config()`; what a file says of scaling is not heard.
    #[test]
    fn mt5_is_t5_with_defaults_of_its_own() {
        let json = serde_json::json!({"model_type": "mt5", "tie_word_embeddings": true, "scale_decoder_outputs": true});
        let TextConfig::T5(config) = TextConfig::parse(Some(&json)).expect("a configuration") else { panic!("not T5") };
        let sizes = (config.vocab_size, config.d_model, config.d_kv, config.d_ff, config.num_layers, config.num_heads);
        assert_eq!(sizes, (250_112, 512, 64, 1024, 8, 6));
        assert_eq!((config.num_decoder_layers, config.decoder_start_token_id), (8, 0));
        assert_eq!((config.is_gated_act, config.dense_act_fn.as_str()), (true, "gelu_new"));
        assert!(!config.scale_decoder_outputs);
    }
}
