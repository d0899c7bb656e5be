//! The published checkpoints' shapes by name, as `config.json` documents: for benchmarks, plans and synthetic
//! checkpoints, where the weights themselves are not at hand. What the files on the hub say, with every key that
//! transformers 5 writes.

use std::path::Path;

use serde_json::{Value, json};

use crate::config::{Config, Family};

/// A published checkpoint without its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    name: &'static str,
    family: Family,
    text: Text,
}

/// The sizes that distinguish the language models; everything else follows from the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Text {
    Llama { hidden_size: u32, intermediate_size: u32, layers: u32, heads: u32 },
    T5 { d_model: u32, d_ff: u32, heads: u32 },
    Opt { hidden_size: u32 },
}

/// All published shapes. Where a short name stands for two of them, the first is meant.
pub const PUBLISHED: [Shape; 8] = {
    use Family::{Blip2, InstructBlip};
    let vicuna_7b = Text::Llama { hidden_size: 4096, intermediate_size: 11008, layers: 32, heads: 32 };
    let vicuna_13b = Text::Llama { hidden_size: 5120, intermediate_size: 13824, layers: 40, heads: 40 };
    let (xl, xxl) =
        (Text::T5 { d_model: 2048, d_ff: 5120, heads: 32 }, Text::T5 { d_model: 4096, d_ff: 10240, heads: 64 });
    [
        Shape { name: "instructblip-vicuna-7b", family: InstructBlip, text: vicuna_7b },
        Shape { name: "instructblip-vicuna-13b", family: InstructBlip, text: vicuna_13b },
        Shape { name: "instructblip-flan-t5-xl", family: InstructBlip, text: xl },
        Shape { name: "instructblip-flan-t5-xxl", family: InstructBlip, text: xxl },
        Shape { name: "blip2-opt-2.7b", family: Blip2, text: Text::Opt { hidden_size: 2560 } },
        Shape { name: "blip2-opt-6.7b", family: Blip2, text: Text::Opt { hidden_size: 4096 } },
        Shape { name: "blip2-flan-t5-xl", family: Blip2, text: xl },
        Shape { name: "blip2-flan-t5-xxl", family: Blip2, text: xxl },
    ]
};

impl Shape {
    /// The shape of this name, with or without `instructblip-` or `blip2-` in front.
    pub fn named(name: &str) -> Option<Shape> {
        let short = |shape: &Shape| shape.name.split_once('-').is_some_and(|(_, short)| short == name);
        let exact = PUBLISHED.iter().find(|shape| shape.name == name);
        exact.or(PUBLISHED.iter().find(|shape| short(shape))).copied()
    }

    /// The checkpoint's name on the hub, without its owner.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The checkpoint's repository on the hub.
    pub fn repo(&self) -> String {
        format!("Salesforce/{}", self.name)
    }

    /// The whole of `config.json`, to be changed or written.
    pub fn document(&self) -> Value {
        let (model_type, prefix) = match self.family {
            Family::Blip2 => ("blip-2", "blip_2"),
            _ => ("instructblip", "instructblip"),
        };
        let (text, image_token) = self.text.document();
        let mut document = json!({
            "architectures": [match self.family {
                Family::Blip2 => "Blip2ForConditionalGeneration",
                _ => "InstructBlipForConditionalGeneration",
            }],
            // Vicuna's files are in half precision, the others are not.
            "dtype": if matches!(self.text, Text::Llama { .. }) { "float16" } else { "float32" },
            "image_token_index": image_token,
            "initializer_factor": 1.0, "initializer_range": 0.02,
            "model_type": model_type,
            "num_query_tokens": 32,
            "qformer_config": {
                "attention_probs_dropout_prob": 0.1, "cross_attention_frequency": 2, "encoder_hidden_size": 1408,
                "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 768, "initializer_range": 0.02,
                "intermediate_size": 3072, "layer_norm_eps": 1e-12, "max_position_embeddings": 512,
                "model_type": format!("{prefix}_qformer"), "num_attention_heads": 12, "num_hidden_layers": 12,
                "pad_token_id": 0,
                // BERT's words, and [DEC] where the Q-Former reads any.
                "vocab_size": if self.family == Family::Blip2 { 30522 } else { 30523 },
            },
            "text_config": text,
            "use_decoder_only_language_model": !matches!(self.text, Text::T5 { .. }),
            "vision_config": {
                "attention_dropout": 0.0, "hidden_act": "gelu", "hidden_size": 1408, "image_size": 224,
                "initializer_range": 1e-10, "intermediate_size": 6144, "layer_norm_eps": 1e-6,
                "model_type": format!("{prefix}_vision_model"), "num_attention_heads": 16, "num_hidden_layers": 39,
                "patch_size": 14, "qkv_bias": true,
            },
        });
        if self.family == Family::Blip2 {
            document["image_text_hidden_size"] = 256.into();
            document["qformer_config"]["use_qformer_text_input"] = false.into();
        }
        document
    }

    /// The text of `config.json`.
    pub fn config_json(&self) -> String {
        format!("{:#}\n", self.document())
    }

    /// The configuration in it.
    pub fn config(&self) -> Config {
        let json = self.config_json();
        Config::parse(Path::new(self.name), json.as_bytes()).expect("published configurations are valid")
    }
}

impl Text {
    /// `text_config`, and the id of `<image>`.
    fn document(self) -> (Value, u32) {
        match self {
            Text::Llama { hidden_size, intermediate_size, layers, heads } => (
                // Vicuna's own ids, which are off by one from what its tokenizer has.
                json!({
                    "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 0, "eos_token_id": 1,
                    "head_dim": hidden_size / heads, "hidden_act": "silu", "hidden_size": hidden_size,
                    "initializer_range": 0.02, "intermediate_size": intermediate_size, "max_position_embeddings": 2048,
                    "mlp_bias": false, "model_type": "llama", "num_attention_heads": heads, "num_hidden_layers": layers,
                    "num_key_value_heads": heads, "pad_token_id": -1, "pretraining_tp": 1, "rms_norm_eps": 1e-6,
                    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "tie_word_embeddings": false,
                    "use_cache": true, "vocab_size": 32064,
                }),
                32001,
            ),
            Text::T5 { d_model, d_ff, heads } => (
                json!({
                    "bos_token_id": 1, "classifier_dropout": 0.0, "d_ff": d_ff, "d_kv": 64, "d_model": d_model,
                    "decoder_start_token_id": 0, "dense_act_fn": "gelu", "dropout_rate": 0.1, "eos_token_id": 1,
                    "feed_forward_proj": "gated-gelu", "initializer_factor": 1.0, "is_decoder": false,
                    "is_encoder_decoder": true, "is_gated_act": true, "layer_norm_epsilon": 1e-6, "model_type": "t5",
                    "num_decoder_layers": 24, "num_heads": heads, "num_layers": 24, "pad_token_id": 0,
                    "relative_attention_max_distance": 128, "relative_attention_num_buckets": 32,
                    "scale_decoder_outputs": false, "tie_word_embeddings": false, "use_cache": true,
                    "vocab_size": 32128,
                }),
                32100,
            ),
            Text::Opt { hidden_size } => (
                // BLIP-2's answers end at a line break, 50118.
                json!({
                    "_remove_final_layer_norm": false, "activation_function": "relu", "attention_dropout": 0.0,
                    "bos_token_id": 2, "do_layer_norm_before": true, "dropout": 0.1, "enable_bias": true,
                    "eos_token_id": 50118, "ffn_dim": 4 * hidden_size, "hidden_size": hidden_size, "init_std": 0.02,
                    "layer_norm_elementwise_affine": true, "layerdrop": 0.0, "max_position_embeddings": 2048,
                    "model_type": "opt", "num_attention_heads": 32, "num_hidden_layers": 32, "pad_token_id": 1,
                    "tie_word_embeddings": true, "use_cache": true, "vocab_size": 50304,
                    "word_embed_proj_dim": hidden_size,
                }),
                50265,
            ),
        }
    }
}

/// Numbers of layers to use in place of a document's, for work that should not take all layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layers {
    /// Layers of the language model, for T5 of its encoder and of its decoder.
    pub language: Option<u32>,
    /// Layers of the vision tower.
    pub vision: Option<u32>,
    /// Layers of the Q-Former.
    pub qformer: Option<u32>,
}

impl Layers {
    /// Puts the numbers that are set into a `config.json` document.
    pub fn put_into(&self, document: &mut Value) {
        let language: &[&str] = match document["text_config"]["model_type"] == "t5" {
            true => &["num_layers", "num_decoder_layers"],
            false => &["num_hidden_layers"],
        };
        let parts = [
            ("text_config", language, self.language),
            ("vision_config", &["num_hidden_layers"], self.vision),
            ("qformer_config", &["num_hidden_layers"], self.qformer),
        ];
        for (part, fields, count) in parts {
            if let Some(count) = count {
                fields.iter().for_each(|field| document[part][*field] = count.into());
            }
        }
    }
}
