//! Mistakes that people who ran or wrote this model have met, each with a test that has its name. They are known from
//! the threads given (HF: huggingface/transformers, LAVIS: salesforce/LAVIS) or from reading the reference.
//!
//! Traps whose test lies with what it belongs to, also named `trap_…`:
//! - batches: prompts of several lengths (HF #21578), expanded each for itself (HF #34223), padding that moves positions
//!   or comes between picture and text: tests/library/generate.rs, tests/library/family.rs; the Q-Former's words padded on the left:
//!   tests/library/features.rs
//! - `max_length` and `min_length` that count image places (HF #29438, #29296), repetition penalties over the prompt
//!   (LAVIS #448): tests/library/sampling.rs
//! - T5's position buckets: src/language/t5.rs
//! - Pillow 13's order of passes, too few or too many picture places in a prompt: tests/library/processor.rs
//! - published figures that need the paper's prompts (LAVIS #99, #326, #333): src/processor/task.rs
//!
//! One cannot be tested here: weights of another Vicuna than 1.1 (LAVIS #316) answer nonsense in any engine.

use crate::support::fixtures::{Fixture, Stored};
use crate::support::golden::{Golden, golden_image, max_difference, relative_l2, values};
use crate::support::models;
use crate::support::{self, Lent};
use instructblip::generate::processors::log_softmax;
use instructblip::model::{ForwardOptions, NamedTensor};
use instructblip::{Checkpoint, GenerateOptions, Image, InstructBlip, Question};
use safetensors::Dtype;
use serde_json::json;

/// A checkpoint that a test may change, and what the reference made of it unchanged.
struct Case {
    device: Lent,
    fixture: Fixture,
    golden: Golden,
}

impl Case {
    fn new(name: &str) -> Option<Case> {
        Some(Case { device: support::shared_device()?, fixture: Fixture::of(name), golden: Golden::of(name) })
    }

    fn load(&self) -> InstructBlip {
        models::load(&self.device, self.fixture.path())
    }

    /// The reason that a change is refused.
    fn refusal(&self) -> String {
        let checkpoint = Checkpoint::directory(self.fixture.path()).expect("a folder");
        InstructBlip::load(&self.device, &checkpoint).err().expect("a refusal").to_string()
    }

    fn image(&self) -> Image {
        Image::open(golden_image(self.golden.about("0.image"))).expect("a picture")
    }

    /// A named output of a forward pass over the first case.
    fn forward(&self, name: &str, taps: &[&str]) -> NamedTensor {
        let ints = |name: &str| self.golden.find(name).map_or(Vec::new(), |(_, values)| values.clone());
        let options = ForwardOptions {
            taps: taps.iter().map(|tap| tap.to_string()).collect(),
            labels: ints("0.labels").iter().map(|&id| id as i64).collect(),
            decoder_input_ids: ints("0.decoder_input_ids").iter().map(|&id| id as u32).collect(),
        };
        let (image, prompt) = (self.image(), self.golden.about("0.prompt"));
        let tensors = self.load().forward(&Question::new(&image, prompt), &options).expect("a forward pass");
        tensors.into_iter().find(|t| t.name == name).unwrap_or_else(|| panic!("no {name}"))
    }

    /// Requires that a change has left the answer and the logits as the reference had them.
    fn is_as_recorded(&self) {
        let n = self.golden.about("max_new_tokens").parse().expect("a number");
        let reply = self.load().ask(&self.image(), self.golden.about("0.prompt"), &GenerateOptions::up_to(n));
        assert_eq!(reply.expect("an answer").token_ids, self.golden.ids("0.greedy_ids"));
        self.is_close("logits");
    }

    fn is_close(&self, name: &str) {
        let bound = support::stage_bound(&self.device);
        let error = relative_l2(&values(&self.forward(name, &[])), &self.golden.tensor(&format!("0.{name}")).1);
        assert!(error <= bound, "{name} is off by {error:e}");
    }

    /// Multiplies the tensors that `which` names.
    fn scale(&self, factor: f32, which: impl Fn(&str) -> bool) {
        self.fixture.edit_tensors(|name, tensor| Some(if which(name) { tensor.map(|v| v * factor) } else { tensor }));
    }
}

/// HF #23460, LAVIS #335, #507: Vicuna's prompts begin with `</s>`, as its tokenizer says and LLaMA's defaults do not.
#[test]
fn trap_the_first_token_is_the_tokenizers() {
    let Some(case) = Case::new("ib-llama") else { return };
    for bos in [json!(0), json!(2), json!(null)] {
        case.fixture.set("config.json", "/text_config/bos_token_id", bos);
        case.is_as_recorded();
    }
    let ids = values(&case.forward("input_ids", &[]));
    let places = ids.iter().take_while(|&&id| id == 4.0).count();
    assert_eq!((places, ids[places]), (4, 1.0), "four places, then the tokenizer's first token");
}

/// HF #24492, LAVIS #457: old answers have ids 0 and −1 that ended as a crash or as `<unk>` in the text.
#[test]
fn trap_unknown_and_special_ids_are_no_text() {
    let Some(case) = Case::new("ib-llama") else { return };
    let model = case.load();
    let tokenizers = model.processor().tokenizers();
    let word = tokenizers.encode_answer("red circle", None, "word").expect("ids");
    assert_eq!(tokenizers.decode(&[&[0, 1], &word[..], &[2, 2, 0]].concat()), tokenizers.decode(&word));
    assert_eq!(tokenizers.decode(&[u32::MAX, word[0]]), tokenizers.decode(&word[..1]), "an id that there is not");
}

/// HF #25426, LAVIS #425: the padding token of the configuration is −1 or `<unk>`; nothing may depend on it.
#[test]
fn trap_a_padding_token_that_is_none() {
    let Some(case) = Case::new("ib-llama") else { return };
    for pad in [json!(-1), json!(0), json!(null)] {
        case.fixture.set("config.json", "/text_config/pad_token_id", pad);
        case.is_as_recorded();
    }
}

/// HF #25951: the configuration leaves out the Q-Former's vocabulary, whose default is a row short of `[DEC]`.
/// LAVIS #799: language models of 32000, 32001 and 32064 rows go by one name. The tensor knows.
#[test]
fn trap_vocabularies_are_as_large_as_their_tensors() {
    let Some(case) = Case::new("ib-llama") else { return };
    case.fixture.set("config.json", "/qformer_config/vocab_size", json!(null));
    case.is_as_recorded();
    case.fixture.set("config.json", "/text_config/vocab_size", json!(700));
    case.is_as_recorded();
}

/// HF #34876: configurations from before image tokens have none, and the picture goes in front of the prompt.
#[test]
fn trap_a_configuration_without_image_token() {
    let Some(case) = Case::new("legacy-llama") else { return };
    assert_eq!(case.load().config().image_token_id, None);
    case.is_as_recorded();
}

/// HF #37068, LAVIS #418, and dtypes of the configuration that are not those of the files: parts are stored as f16,
/// bf16 and f32 beside each other.
#[test]
fn trap_dtypes_are_mixed() {
    let Some(case) = Case::new("ib-llama") else { return };
    case.fixture.edit_tensors(|name, tensor| {
        Some(match name {
            _ if name.starts_with("qformer.") => tensor.map(|v| v), // f32
            // Norms of ones and zeros are the same in bf16.
            _ if name.ends_with("norm.weight") && tensor.values().all(|v| half::bf16::from_f32(v).to_f32() == v) => {
                let bytes = tensor.values().flat_map(|v| half::bf16::from_f32(v).to_le_bytes()).collect();
                Stored { dtype: Dtype::BF16, bytes, ..tensor }
            }
            _ => tensor,
        })
    });
    case.fixture.set("config.json", "/dtype", json!("float64"));
    case.is_as_recorded();
}

/// HF #20287, #21574, LAVIS #91, #206: activations of T5 that half precision cannot hold. Everything that is added to
/// the residual is scaled by a power of two, which its norms take out again.
#[test]
fn trap_t5_outgrows_half_precision() {
    let Some(case) = Case::new("ib-t5-erf") else { return };
    let last = "language_model.encoder.block.2.layer.1.DenseReluDense.wo";
    let residual = |case: &Case| values(&case.forward(last, &[last])).iter().fold(0f64, |a, v| a.max(v.abs()));
    let before = residual(&case);
    case.scale(8192.0, |name| {
        let added = [".shared.weight", ".o.weight", ".wo.weight"].iter().any(|end| name.ends_with(end));
        added || name.starts_with("language_projection.")
    });
    let after = residual(&case);
    assert!(after > f64::from(half::f16::MAX) && (after / before / 8192.0 - 1.0).abs() < 1e-3, "{before}, {after}");
    case.is_close("logits");
}

/// HF #24884, #30383: numbers of eight bits mean nothing without the scales that go with them.
#[test]
fn trap_quantised_tensors_are_not_read_as_numbers() {
    let Some(case) = Case::new("ib-llama") else { return };
    case.fixture.edit_tensors(|name, tensor| {
        let bytes = vec![1; tensor.shape.iter().product()];
        Some(if name == "query_tokens" { Stored { dtype: Dtype::I8, bytes, ..tensor } } else { tensor })
    });
    let error = case.refusal();
    assert!(error.contains("query_tokens is stored as I8"), "{error}");
}

/// HF #33222: the Q-Former has a tokenizer of its own, which one save of the processor lost.
#[test]
fn trap_the_qformers_tokenizer_is_lost() {
    let Some(case) = Case::new("ib-llama") else { return };
    std::fs::remove_dir_all(case.fixture.file("qformer_tokenizer")).expect("removed");
    let error = case.refusal();
    assert!(error.contains("qformer_tokenizer"), "{error}");
}

/// HF #26508, LAVIS #106, #418: epsilons are those of the code that trained the model: 1e-6 for the vision tower, 1e-12
/// for the Q-Former, and the configuration's where it has them.
#[test]
fn trap_epsilons_of_norms() {
    let Some(case) = Case::new("ib-llama") else { return };
    case.fixture.set("config.json", "/vision_config/layer_norm_eps", json!(null));
    case.fixture.set("config.json", "/qformer_config/layer_norm_eps", json!(null));
    let defaults = case.load();
    assert_eq!(defaults.config().vision.layer_norm_eps, 1e-6);
    assert_eq!(defaults.config().qformer.layer_norm_eps, 1e-12);
    case.is_as_recorded();
    case.fixture.set("config.json", "/vision_config/layer_norm_eps", json!(0.5));
    let changed = relative_l2(
        &values(&case.forward("vision_last_hidden_state", &[])),
        &case.golden.tensor("0.vision_last_hidden_state").1,
    );
    assert!(changed > 1e-2, "the configuration's epsilon is used");
}

/// HF #48493: labels are shifted against logits once: row t is scored by label t + 1, and −100 does not count.
#[test]
fn trap_labels_are_shifted_once() {
    let Some(case) = Case::new("ib-llama") else { return };
    let labels: Vec<i64> = case.golden.tensor("0.labels").1.iter().map(|&id| id as i64).collect();
    assert!(labels.contains(&-100) && labels.iter().any(|&id| id >= 0));
    let logits = case.forward("logits", &[]);
    let scored = logits.rows().zip(&labels[1..]).filter(|(_, label)| **label >= 0);
    let losses: Vec<f64> = scored.map(|(row, &label)| -f64::from(log_softmax(row)[label as usize])).collect();
    let want = losses.iter().sum::<f64>() / losses.len() as f64;
    assert!((values(&case.forward("loss", &[]))[0] - want).abs() < 1e-5);
    case.is_close("loss");
}

/// vLLM #5954, and a `generation_config.json` that the reference does not use here: an answer ends where `text_config`
/// says, which for OPT is a line break that the tokenizer does not call its end.
#[test]
fn trap_answers_end_where_the_text_configuration_says() {
    let Some(case) = Case::new("ib-opt") else { return };
    case.fixture.write("generation_config.json", r#"{"eos_token_id": 2, "max_new_tokens": 1}"#);
    case.is_as_recorded();
    let first = case.golden.ids("0.greedy_ids")[0];
    case.fixture.set("config.json", "/text_config/eos_token_id", json!(first));
    let reply = case.load().ask(&case.image(), case.golden.about("0.prompt"), &GenerateOptions::up_to(12));
    assert_eq!(reply.expect("an answer").token_ids, [first]);
}

/// A tokenizer's settings that name no end: T5's choices are still scored with it.
#[test]
fn trap_a_tokenizer_that_names_no_end() {
    let Some(case) = Case::new("ib-t5-erf") else { return };
    case.fixture.remove("tokenizer_config.json");
    let (image, prompt) = (case.image(), case.golden.about("0.prompt"));
    let scores = case.load().score(&Question::new(&image, prompt), &["left"]).expect("a score");
    assert_eq!(scores[0].token_ids.last(), Some(&1), "{scores:?}");
}

/// `dense_act_fn` overrides the activation that `feed_forward_proj` names: the published T5 checkpoints say
/// `gated-gelu`, which alone means tanh's approximation, and compute the exact one.
#[test]
fn trap_dense_act_fn_overrides_the_activation() {
    let Some(case) = Case::new("ib-t5-erf") else { return };
    case.is_as_recorded();
    case.fixture.set("config.json", "/text_config/dense_act_fn", json!("gelu_new"));
    let changed = relative_l2(&values(&case.forward("logits", &[])), &case.golden.tensor("0.logits").1);
    assert!(changed > 1e-4, "tanh's approximation is another function: {changed:e}");
}

/// `pooler_output` of the vision tower is normed twice.
#[test]
fn trap_the_pooled_row_is_normed_twice() {
    let Some(case) = Case::new("ib-llama") else { return };
    case.is_close("vision_pooler_output");
    let last = values(&case.forward("vision_last_hidden_state", &[]));
    let pooled = values(&case.forward("vision_pooler_output", &[]));
    assert!(relative_l2(&pooled, &last[..pooled.len()]) > 1e-3, "more than the row itself");
}

/// The reference fills finished beams up with padding, which is the end token where there is none of its own.
#[cfg(feature = "embedded-model")]
#[test]
fn trap_beams_come_back_padded() {
    let Some(device) = support::shared_device() else { return };
    let mut model = InstructBlip::embedded(&device).expect("the embedded model");
    let image = Image::open(support::golden::tests_folder().join("shapes/samples/01.png")).expect("a picture");
    let options = GenerateOptions { num_beams: 5, num_return_sequences: 5, ..GenerateOptions::default() };
    let reply = model.ask(&image, "Please describe the photo in detail.", &options).expect("answers");
    let lengths: Vec<usize> = reply.sequences.iter().map(|s| s.token_ids.len()).collect();
    assert!(lengths.iter().any(|&n| n != lengths[0]), "answers of several lengths: {lengths:?}");
    for sequence in &reply.sequences {
        assert_eq!(sequence.token_ids.iter().position(|&id| id == 2), Some(sequence.token_ids.len() - 1));
    }
}

/// Queries have no positions: in another order they give the same rows in that order, and the words, whose positions
/// begin at 0, stay as they are.
#[test]
fn trap_queries_have_no_positions() {
    let Some(case) = Case::new("ib-llama") else { return };
    let before = values(&case.forward("qformer_last_hidden_state", &[]));
    case.fixture.edit_tensors(|name, mut tensor| {
        if name == "query_tokens" {
            let row = tensor.bytes.len() / 4;
            tensor.bytes.rotate_left(row);
        }
        Some(tensor)
    });
    let after = values(&case.forward("qformer_last_hidden_state", &[]));
    let width = 32;
    let turned: Vec<f64> = [&before[width..4 * width], &before[..width], &before[4 * width..]].concat();
    assert!(max_difference(&after, &turned) < 1e-5 && max_difference(&after, &before) > 1e-3);
}

/// Cross-attention reads rows as wide as the vision tower's, not the Q-Former's.
#[test]
fn trap_cross_attention_reads_the_vision_towers_width() {
    let Some(case) = Case::new("ib-llama") else { return };
    let config = case.load().config().clone();
    assert_ne!(config.vision.hidden_size, config.qformer.hidden_size);
    case.is_close("qformer_last_hidden_state");
    case.fixture.edit_tensors(|name, mut tensor| {
        if name == "qformer.encoder.layer.0.crossattention.attention.key.weight" {
            tensor.shape = vec![32, 32];
            tensor.bytes.truncate(32 * 32 * tensor.bytes.len() / (32 * 48));
        }
        Some(tensor)
    });
    let error = case.refusal();
    assert!(error.contains("[32, 32]") && error.contains("[32, 48]"), "{error}");
}

/// The keys' third of the vision tower's bias is zero in the published checkpoints; it is a bias like the others. A bias
/// of keys moves all scores of a row by the same amount, which softmax takes out, so the last layer's own keys tell.
#[test]
fn trap_the_keys_third_of_the_bias_is_read() {
    let Some(case) = Case::new("ib-llama") else { return };
    let qkv = "vision_model.encoder.layers.0.self_attn.qkv";
    let before = values(&case.forward(qkv, &[qkv]));
    case.fixture.edit_tensors(|name, tensor| match name == format!("{qkv}.bias") {
        true => {
            let values: Vec<f32> =
                tensor.values().enumerate().map(|(i, v)| v + if i / 48 == 1 { 1.0 } else { 0.0 }).collect();
            Some(tensor.with(&values))
        }
        false => Some(tensor),
    });
    let after = values(&case.forward(qkv, &[qkv]));
    for (i, (before, after)) in before.iter().zip(&after).enumerate() {
        let want = if i % 144 / 48 == 1 { 1.0 } else { 0.0 };
        assert!((after - before - want).abs() < 1e-2, "column {}: {before}, {after}", i % 144);
    }
}

/// Heads of 88 channels, as the vision tower has, and of 80 as OPT-2.7b: no powers of two, and no multiples of 16.
#[test]
fn trap_heads_are_no_powers_of_two() {
    for name in ["mha-untied-d88", "ib-opt"] {
        let Some(case) = Case::new(name) else { return };
        let vision = case.load().config().vision.clone();
        let width = vision.hidden_size / vision.num_attention_heads;
        assert!(!width.is_power_of_two(), "{name}: {width}");
        case.is_as_recorded();
    }
}
