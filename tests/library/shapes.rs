//! The published shapes, against what is known of the published checkpoints: parameters by part, and tensors.

use instructblip::config::{Config, Family, TextConfig};
use instructblip::shapes::{Layers, PUBLISHED, Shape};
use instructblip::synthesize::tensors;
use serde_json::json;

const VISION: u64 = 985_952_256;
const QUERIES: u64 = 24_576;

/// Parameters of the Q-Former, the projection and the language model; tensors in all.
const KNOWN: [(&str, [u64; 3], usize); 8] = [
    ("instructblip-vicuna-7b", [185_660_160, 3_149_824, 6_738_939_904], 1096),
    ("instructblip-vicuna-13b", [185_660_160, 3_937_280, 13_016_519_680], 1168),
    ("instructblip-flan-t5-xl", [185_660_160, 1_574_912, 2_849_757_184], 1363),
    ("instructblip-flan-t5-xxl", [185_660_160, 3_149_824, 11_135_332_352], 1363),
    ("blip2-opt-2.7b", [105_137_664, 1_968_640, 2_651_678_720], 1247),
    ("blip2-opt-6.7b", [105_137_664, 3_149_824, 6_658_605_056], 1247),
    ("blip2-flan-t5-xl", [105_137_664, 1_574_912, 2_849_757_184], 1289),
    ("blip2-flan-t5-xxl", [105_137_664, 3_149_824, 11_135_332_352], 1289),
];

#[test]
fn every_part_has_the_published_number_of_parameters() {
    assert_eq!(PUBLISHED.map(|shape| shape.name()), KNOWN.map(|(name, ..)| name));
    for (shape, (name, [qformer, projection, language], count)) in PUBLISHED.iter().zip(KNOWN) {
        let tensors = tensors(&shape.config()).expect("tensors");
        let parameters = |part: &str| -> u64 {
            let of = tensors.iter().filter(|(name, _)| name.starts_with(part));
            of.map(|(_, shape)| shape.iter().map(|&n| u64::from(n)).product::<u64>()).sum()
        };
        let parts = ["vision_model.", "query_tokens", "qformer.", "language_projection.", "language_model."];
        assert_eq!(parts.map(parameters), [VISION, QUERIES, qformer, projection, language], "{name}");
        assert_eq!(tensors.len(), count, "{name}");
    }
}

#[test]
fn short_names_stand_for_the_first_of_that_name() {
    for shape in PUBLISHED {
        assert_eq!(Shape::named(shape.name()), Some(shape));
    }
    let name = |short| Shape::named(short).map(|shape| shape.name());
    assert_eq!(name("vicuna-7b"), Some("instructblip-vicuna-7b"));
    assert_eq!(name("flan-t5-xl"), Some("instructblip-flan-t5-xl"));
    assert_eq!(name("opt-6.7b"), Some("blip2-opt-6.7b"));
    assert_eq!(name("vicuna"), None);
    assert_eq!(name(""), None);
}

#[test]
fn configurations_say_what_sets_the_families_apart() {
    let config = |name| Shape::named(name).expect("a shape").config();
    let vicuna = config("vicuna-13b");
    assert_eq!((vicuna.family, vicuna.image_token_id), (Family::InstructBlip, Some(32001)));
    assert_eq!(vicuna.text.generation().pad_token_id, None);
    let opt = config("opt-2.7b");
    assert_eq!((opt.family, opt.image_token_id), (Family::Blip2, Some(50265)));
    assert_eq!(opt.text.generation().eos_token_ids, [50118]);
    let TextConfig::T5(t5) = config("blip2-flan-t5-xxl").text else { panic!("not T5") };
    assert_eq!((t5.dense_act_fn.as_str(), t5.is_gated_act, t5.scale_decoder_outputs), ("gelu", true, false));
}

/// Any width is taken that divides into heads, of up to 256 channels; rotary positions want an even number.
#[test]
fn widths_are_any_and_heads_are_of_at_most_256_channels() {
    let refused = |part: &'static str, problem: &'static str| Some((part, problem));
    for (name, part, fields, refusal) in [
        ("vicuna-7b", "vision_config", json!({"hidden_size": 37, "num_attention_heads": 1}), None),
        ("vicuna-7b", "vision_config", json!({"intermediate_size": 1}), None),
        ("vicuna-7b", "qformer_config", json!({"num_attention_heads": 128, "intermediate_size": 101}), None),
        ("vicuna-7b", "text_config", json!({"head_dim": 66, "hidden_size": 4099, "intermediate_size": 37}), None),
        ("vicuna-7b", "text_config", json!({"head_dim": 37}), refused("text_config.head_dim is 37", "even")),
        ("vicuna-7b", "text_config", json!({"head_dim": 258}), refused("text_config.head_dim is 258", "from 2 to 256")),
        (
            "vicuna-7b",
            "text_config",
            json!({"num_attention_heads": 1000, "num_key_value_heads": 1}),
            refused("text_config: 1000 heads of head_dim 128", "65536"),
        ),
        (
            "vicuna-7b",
            "vision_config",
            json!({"hidden_size": 1409}),
            refused("vision_config: num_attention_heads 16", "1409"),
        ),
        (
            "vicuna-7b",
            "qformer_config",
            json!({"num_attention_heads": 2}),
            refused("qformer_config: hidden_size 768", "at most 256"),
        ),
        (
            "opt-2.7b",
            "text_config",
            json!({"hidden_size": 37, "word_embed_proj_dim": 37, "num_attention_heads": 1}),
            None,
        ),
        (
            "opt-2.7b",
            "text_config",
            json!({"num_attention_heads": 5}),
            refused("text_config: hidden_size 2560", "at most 256"),
        ),
        ("flan-t5-xl", "text_config", json!({"d_kv": 5, "d_model": 37, "d_ff": 101, "vocab_size": 250}), None),
        ("flan-t5-xl", "text_config", json!({"d_kv": 257}), refused("text_config.d_kv is 257", "from 1 to 256")),
        ("flan-t5-xl", "text_config", json!({"d_model": 0}), refused("text_config.d_model is 0", "from 1 to 65536")),
    ] {
        let mut document = Shape::named(name).expect("a shape").document();
        for (field, value) in fields.as_object().expect("an object") {
            document[part][field] = value.clone();
        }
        let config = Config::parse("config.json".as_ref(), document.to_string().as_bytes());
        match (config, refusal) {
            (Ok(_), None) => {}
            (Err(e), Some((what, why))) => {
                assert!(e.to_string().contains(what) && e.to_string().contains(why), "{name}: {e}");
            }
            (config, _) => panic!("{name} {part} with {fields}: {config:?}"),
        }
    }
}

#[test]
fn layers_change_what_they_name() {
    for shape in PUBLISHED {
        let mut document = shape.document();
        Layers::default().put_into(&mut document);
        assert_eq!(document, shape.document());
        Layers { language: Some(3), vision: Some(2), qformer: Some(1) }.put_into(&mut document);
        let json = document.to_string();
        let config = Config::parse("config.json".as_ref(), json.as_bytes()).expect("valid");
        let language = match config.text {
            TextConfig::Llama(c) => [c.num_hidden_layers; 2],
            TextConfig::Opt(c) => [c.num_hidden_layers; 2],
            TextConfig::T5(c) => [c.num_layers, c.num_decoder_layers],
        };
        let others = [config.vision.num_hidden_layers, config.qformer.num_hidden_layers];
        assert_eq!((language, others), ([3, 3], [2, 1]), "{}", shape.name());
    }
}
