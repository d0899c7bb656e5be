//! The processor against Pillow, transformers and hostile input. Needs no GPU.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use instructblip::processor::{Image, PassOrder, Processor, PromptLimits, TokenizerFiles, Tokenizers, resize};
use instructblip::{Error, Result};
use safetensors::SafeTensors;
use serde_json::{Value, json};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read_file(folder: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    Ok(std::fs::read(folder.join(name)).ok())
}

/// The limits for prompts in a checkpoint's `config.json`; every checkpoint here states all of it but defaults.
fn limits(folder: &Path) -> PromptLimits {
    let config: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
    let number = |path: &str| config.pointer(path).and_then(Value::as_u64);
    PromptLimits {
        image_token_id: ["/image_token_index", "/image_token_id", "/video_token_index"]
            .iter()
            .find_map(|name| number(name))
            .map(|id| id as u32),
        num_query_tokens: number("/num_query_tokens").unwrap_or(32) as usize,
        lm_rows: number("/text_config/vocab_size").unwrap_or(32_000) as usize,
        // BLIP-2's Q-Former reads no words.
        qformer_rows: match config["model_type"].as_str() {
            Some("blip-2") => 0,
            _ => number("/qformer_config/vocab_size").unwrap_or(30_522) as usize,
        },
        qformer_positions: number("/qformer_config/max_position_embeddings").unwrap_or(512) as usize,
    }
}

fn processor(folder: &Path) -> Processor {
    Processor::from_files(&|name| read_file(folder, name), folder, limits(folder)).unwrap()
}

fn shapes() -> Processor {
    processor(&root().join("models/shapes"))
}

// ------------------------------------------------------------------------------------------ Pillow

/// A 32-bit integer mixer: the pictures of `resize.jsonl` are made with it.
fn hash32(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x7FEB352D);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846CA68B);
    x ^ (x >> 16)
}

/// Byte `channel` of pixel `(x, y)` of a source picture `width` pixels wide.
fn source_byte(kind: &str, seed: u32, width: u32, x: u32, y: u32, channel: u32) -> u8 {
    let noise = |index: u32| (hash32(index.wrapping_mul(0x9E3779B9).wrapping_add(seed)) >> 24) as u8;
    let black_or_white = |white: bool| if white { 255 } else { 0 };
    match kind {
        "noise" => noise((y * width + x) * 3 + channel),
        "blocks" => black_or_white(noise((y / 7 * 4096 + x / 5) * 3 + channel) >= 128),
        "checker" => black_or_white((x / (seed + channel) + y / (seed + channel)) % 2 == 1),
        other => panic!("unknown source {other}"),
    }
}

fn source(kind: &str, seed: u32, width: u32, height: u32) -> Image {
    let mut pixels = Vec::with_capacity((width * height * 3) as usize);
    for y in 0..height {
        for x in 0..width {
            pixels.extend((0..3).map(|channel| source_byte(kind, seed, width, x, y, channel)));
        }
    }
    Image::from_rgb(width, height, pixels).unwrap()
}

/// 64-bit FNV-1a in hexadecimal.
fn fnv1a64(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0xCBF29CE484222325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100000001B3));
    format!("{hash:016x}")
}

#[test]
fn trap_pillow_13_resizes_in_another_order() {
    let rows = std::fs::read_to_string(root().join("tests/golden/resize.jsonl")).unwrap();
    let mut orders_differ = 0;
    for line in rows.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let number = |path: &str| row.pointer(path).and_then(Value::as_u64).unwrap() as u32;
        let (kind, seed) = (row["source"].as_str().unwrap(), number("/seed"));
        let image = source(kind, seed, number("/in/0"), number("/in/1"));
        let head = &image.pixels()[..(8 * image.width() as usize * 3).min(image.pixels().len())];
        assert_eq!(fnv1a64(head), row["source_hash"], "the test makes another source picture: {line}");
        let hash = |order| fnv1a64(resize(&image, number("/out/0"), number("/out/1"), order).pixels());
        assert_eq!(hash(PassOrder::HorizontalFirst), row["horizontal"], "{line}");
        assert_eq!(hash(PassOrder::VerticalFirst), row["vertical"], "{line}");
        assert_eq!(hash(PassOrder::Pillow13), row[row["pillow13"].as_str().unwrap()], "{line}");
        orders_differ += usize::from(row["horizontal"] != row["vertical"]);
    }
    assert!(orders_differ > 20, "the order of the passes shows in {orders_differ} cases only");
}

// ------------------------------------------------------------------------------------ transformers

fn f32s(tensors: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let bytes = tensors.tensor(name).unwrap().data().to_vec();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn ids(tensors: &SafeTensors<'_>, name: &str) -> Vec<u32> {
    let tensor = tensors.tensor(name).unwrap();
    let bytes = tensor.dtype().bitsize() / 8;
    tensor.data().chunks_exact(bytes).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Pieces of the streamed text of `ids`.
fn stream(tokenizers: &Tokenizers, ids: &[u32]) -> Vec<String> {
    let mut stream = Arc::new(tokenizers.clone()).stream();
    let mut pieces: Vec<String> = ids.iter().map(|id| stream.push(*id)).collect();
    pieces.push(stream.finish());
    pieces
}

/// Compares everything the processor makes with a file of what transformers makes.
fn compare_with_transformers(checkpoint: &Path, golden: &Path, images: &Path) -> usize {
    let bytes = std::fs::read(golden).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let about: &HashMap<String, String> = metadata.metadata().as_ref().unwrap();
    let processor = processor(checkpoint);
    let mut case = 0;
    while let (Some(name), Some(prompt)) = (about.get(&format!("{case}.image")), about.get(&format!("{case}.prompt"))) {
        let what = format!("{} {name} {prompt:?}", checkpoint.display());
        let frames: Vec<Image> = name.split(',').map(|name| Image::open(images.join(name)).unwrap()).collect();
        let got = processor.tokenizers().encode(prompt, prompt, frames.len()).unwrap();
        let wanted = |name: &str| ids(&tensors, &format!("{case}.{name}"));
        assert_eq!(got.input_ids, wanted("input_ids"), "{what}");
        assert_eq!(got.attention_mask, wanted("attention_mask"), "{what}");
        match tensors.tensor(&format!("{case}.qformer_input_ids")) {
            Ok(_) => {
                assert_eq!(got.qformer_input_ids, wanted("qformer_input_ids"), "{what}");
                assert_eq!(got.qformer_attention_mask, wanted("qformer_attention_mask"), "{what}");
            }
            Err(_) => assert!(got.qformer_input_ids.is_empty(), "{what}"),
        }

        let pixels: Vec<f32> = frames.iter().flat_map(|frame| processor.image().pixels(frame)).collect();
        let wanted = f32s(&tensors, &format!("{case}.pixel_values"));
        assert_eq!(pixels.len(), wanted.len(), "{what}");
        let worst = pixels.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst == 0.0, "{what}: pixels differ by {worst}");

        let new = ids(&tensors, &format!("{case}.greedy_ids"));
        assert_eq!(processor.tokenizers().decode(&new), about[&format!("{case}.greedy_text")], "{what}");
        assert_eq!(stream(processor.tokenizers(), &new).concat(), about[&format!("{case}.greedy_text")], "{what}");
        case += 1;
    }
    case
}

#[test]
fn prompts_pixels_and_texts_are_those_of_transformers() {
    let tests = root().join("tests");
    let shapes = tests.join("shapes");
    assert!(compare_with_transformers(&root().join("models/shapes"), &shapes.join("golden.safetensors"), &shapes) > 0);
    for folder in std::fs::read_dir(tests.join("golden/checkpoints")).unwrap() {
        let folder = folder.unwrap().path();
        let cases =
            compare_with_transformers(&folder, &folder.join("golden.safetensors"), &tests.join("golden/images"));
        assert!(cases > 0, "{}", folder.display());
    }
}

/// A tokenizer of `tokenizers.jsonl`: one of this repository with what the row changes in it.
fn patched(row: &Value) -> Vec<u8> {
    let bytes = std::fs::read(root().join(row["file"].as_str().unwrap())).unwrap();
    let mut file: Value = serde_json::from_slice(&bytes).unwrap();
    for (pointer, value) in row["patch"].as_object().unwrap() {
        let (parent, last) = pointer.rsplit_once('/').unwrap_or(("", pointer));
        let place = if parent.is_empty() { &mut file } else { &mut file[parent] };
        match value.is_null() && !parent.is_empty() {
            true => drop(place.as_object_mut().unwrap().remove(last)),
            false => place[last] = value.clone(),
        }
    }
    serde_json::to_vec(&file).unwrap()
}

#[test]
fn ids_are_those_of_the_class_that_the_settings_name() {
    let rows = std::fs::read_to_string(root().join("tests/golden/tokenizers.jsonl")).unwrap();
    let mut rows = rows.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let texts = rows.next().unwrap()["texts"].clone();
    let demo = std::fs::read(root().join("models/shapes/tokenizer.json")).unwrap();
    let limits = PromptLimits {
        image_token_id: None,
        num_query_tokens: 0,
        lm_rows: 10_000,
        qformer_rows: 10_000,
        qformer_positions: 999,
    };
    let mut compared = 0;
    for row in rows {
        let (bytes, path) = (patched(&row), Path::new("tokenizer.json"));
        let what = format!("{} {} {}", row["file"], row["config"], row["patch"].to_string().get(..99).unwrap_or(""));
        let config = Some((Path::new("tokenizer_config.json"), &row["config"])).filter(|(_, config)| !config.is_null());
        let (own, plain) = (
            TokenizerFiles { path, bytes: &bytes, config, as_it_is: false },
            TokenizerFiles { path, bytes: &demo, config: None, as_it_is: false },
        );
        let is_lm = row["role"] == "lm";
        let files = if is_lm { (&own, None) } else { (&plain, Some(&own)) };
        let tokenizers = Tokenizers::from_files(files.0, files.1, limits).unwrap();
        let mut special = tokenizers.clone();
        special.allow_special_tokens();
        let bytes_are_special = row["patch"].get("added_tokens").is_some();
        for (i, text) in texts.as_array().unwrap().iter().enumerate() {
            let text = text.as_str().unwrap();
            let want: Vec<u32> = serde_json::from_value(row["ids"][i].clone()).unwrap();
            let made = |tokenizers: &Tokenizers| {
                let prompt = tokenizers.encode(text, text, 1).unwrap();
                if is_lm { prompt.input_ids } else { prompt.qformer_input_ids }
            };
            // A byte piece is what a text falls back to, not what it says.
            if !(bytes_are_special && text.contains("<0xE2>")) {
                assert_eq!(made(&special), want, "{what} {text:?}");
                compared += 1;
            }
            if !["</s>", "[SEP]", "[MASK]", "<pad>", "<0xE2>"].iter().any(|name| text.contains(name)) {
                assert_eq!(made(&tokenizers), want, "{what} {text:?}");
            }
            if is_lm && !bytes_are_special {
                assert_eq!(tokenizers.decode(&want), row["decoded"][i], "{what} {text:?}");
                let bytes: Vec<u8> = want.iter().flat_map(|&id| tokenizers.token_bytes(id)).collect();
                let (bytes, decoded) = (String::from_utf8_lossy(&bytes), tokenizers.decode(&want));
                let stripped = bytes.strip_suffix(decoded.as_str());
                assert!(matches!(stripped, Some("" | " ")), "{what} {text:?}: {bytes:?} for {decoded:?}");
            }
        }
    }
    assert!(compared > 900, "{compared}");
}

/// Parts of characters, spaces in front and line ends, each family in its own spelling; nothing of special tokens.
#[test]
fn tokens_stand_for_bytes() {
    for (name, part) in [("ib-llama", &[0xF0][..]), ("b2-opt", &[0xF0]), ("ib-opt", &[0xF0])] {
        let processor = processor(&root().join("tests/golden/checkpoints").join(name));
        let tokenizers = processor.tokenizers();
        let bytes = |text: &str| -> Vec<Vec<u8>> {
            let ids = tokenizers.encode_answer(text, None, "text").unwrap();
            ids.into_iter().map(|id| tokenizers.token_bytes(id)).collect()
        };
        let smile = bytes("x \u{1F600}\n");
        assert!(smile.iter().any(|bytes| bytes == part) && smile.contains(&b"\n".to_vec()), "{name}: {smile:?}");
        assert_eq!(String::from_utf8(smile.concat()).unwrap().trim_start(), "x \u{1F600}\n", "{name}");
        assert!(bytes("a red the").iter().skip(1).any(|bytes| bytes.starts_with(b" ")), "{name}");
        assert!(
            tokenizers.token_bytes(tokenizers.eos_token_id().unwrap()).is_empty() && bytes("a").len() < 3,
            "{name}"
        );
        assert!(tokenizers.token_bytes(1_000_000).is_empty(), "{name}");
    }
    let t5 = processor(&root().join("tests/golden/checkpoints/ib-t5-tanh"));
    let ids = t5.tokenizers().encode_answer("a red circle", None, "text").unwrap();
    let bytes: Vec<Vec<u8>> = ids.iter().map(|&id| t5.tokenizers().token_bytes(id)).collect();
    assert!(bytes[1..].iter().any(|bytes| bytes.starts_with(b" ")), "{bytes:?}");
    assert_eq!(bytes.concat(), b" a red circle");
    assert!(t5.tokenizers().token_bytes(t5.tokenizers().eos_token_id().unwrap()).is_empty());
}

/// The reference goes by the repository's name where published settings name the wrong class.
#[test]
fn published_repositories_are_known_by_name() {
    let (folder, vicuna) = (root().join("models/shapes"), root().join("tests/golden/checkpoints/bf16-theta"));
    let settings = json!({"tokenizer_class": "LlamaTokenizer"}).to_string();
    let read = |name: &str| match name {
        "tokenizer.json" => read_file(&vicuna, name),
        "tokenizer_config.json" => Ok(Some(settings.clone().into_bytes())),
        _ => read_file(&folder, name),
    };
    for (place, want) in [
        ("/c/models--Salesforce--instructblip-flan-t5-xl/snapshots/0", 2),
        ("/c/models--Salesforce--blip2-opt-2.7b/snapshots/0", 2),
        ("salesforce/blip2-flan-t5-xxl", 2),
        ("/c/models--Salesforce--instructblip-vicuna-7b/snapshots/0", 1),
        ("/models/Salesforce/blip2-opt-2.7b", 1),
        ("/c/models--me--instructblip-flan-t5-xl/snapshots/0", 1),
    ] {
        let limits = PromptLimits { image_token_id: None, ..limits(&folder) };
        let processor = Processor::from_files(&read, Path::new(place), limits).unwrap();
        let spaces = |text: &str| processor.tokenizers().encode(text, "", 0).unwrap().input_ids.len();
        // Taken as it is, this file puts a space before a space.
        assert_eq!(spaces(" ") - spaces(""), want, "{place}");
    }
}

/// Some files list the pieces that spell bytes as special tokens. The reference loses them from answers.
#[test]
fn byte_pieces_that_are_marked_special_are_text() {
    let mut file: Value =
        serde_json::from_slice(&std::fs::read(root().join("models/shapes/tokenizer.json")).unwrap()).unwrap();
    let pieces: Vec<(String, Value)> = file["model"]["vocab"].as_object().unwrap().clone().into_iter().collect();
    let added = file["added_tokens"].as_array_mut().unwrap();
    for (content, id) in pieces.into_iter().filter(|(piece, _)| piece.starts_with("<0x")) {
        added.push(json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}));
    }
    let listed = json!({"extra_special_tokens": ["<0xE2>", "<0x98>"]});
    let bytes = serde_json::to_vec(&file).unwrap();
    let path = Path::new("tokenizer.json");
    for config in [None, Some((Path::new("tokenizer_config.json"), &listed))] {
        let limits = limits(&root().join("models/shapes"));
        let tokenizers =
            Tokenizers::from_files(&TokenizerFiles { path, bytes: &bytes, config, as_it_is: false }, None, limits)
                .unwrap();
        for text in ["☀ 漢字", "😀", "<0xE2>", "a<0x98>"] {
            let ids = tokenizers.encode(text, "", 1).unwrap().input_ids;
            assert_eq!(ids, shapes().tokenizers().encode(text, "", 1).unwrap().input_ids, "{text}");
            assert_eq!(tokenizers.decode(&ids), text);
            assert_eq!(stream(&tokenizers, &ids).concat(), text);
        }
        // A cut character shows as it does in other files.
        assert_eq!(tokenizers.decode(&[5 + 0xE2]), "\u{fffd}");
    }
}

#[test]
fn normalisation_is_exact_for_every_level() {
    let side = 96;
    let byte = |i: usize| (i % 256) as u8;
    let image = Image::from_rgb(side, side, (0..side as usize * side as usize * 3).map(byte).collect()).unwrap();
    let pixels = shapes().image().pixels(&image);
    let mean = [0.48145466f64, 0.4578275, 0.40821073].map(|mean| mean as f32);
    let std = [0.26862954f64, 0.26130258, 0.27577711].map(|std| std as f32);
    let plane = (side * side) as usize;
    for (i, value) in pixels.iter().enumerate() {
        let (channel, pixel) = (i / plane, i % plane);
        let scaled = (f64::from(byte(pixel * 3 + channel)) * 0.00392156862745098) as f32;
        assert_eq!(*value, (scaled - mean[channel]) / std[channel]);
    }
}

// ------------------------------------------------------------------------------------------ prompts

#[test]
fn special_tokens_that_a_user_types_are_plain_text() {
    let processor = shapes();
    let tokenizers = processor.tokenizers();
    for typed in ["</s>", "<pad>", "<s>", "<unk>", "[PAD]", "[SEP]", "[CLS]", "[DEC]", "x</s><s>y [MASK]"] {
        let prompt = tokenizers.encode(typed, typed, 1).unwrap();
        let queries = processor.num_query_tokens();
        assert!(prompt.input_ids[..queries].iter().all(|id| Some(*id) == processor.image_token_id()));
        assert_eq!(prompt.input_ids[queries], 1, "<s> begins the text");
        let text = &prompt.input_ids[queries + 1..];
        assert!(text.iter().all(|id| *id > 4), "{typed}: {text:?}");
        assert_eq!(tokenizers.decode(text), typed);
        let inner = &prompt.qformer_input_ids[1..prompt.qformer_input_ids.len() - 1];
        assert!(inner.iter().all(|id| *id == 1 || *id > 4), "{typed}: {inner:?}");
    }
}

#[test]
fn special_tokens_that_are_allowed_are_those_tokens() {
    let processor = shapes().with_special_tokens();
    let tokenizers = processor.tokenizers();
    // The reference's way is the library's own.
    let raw = |name: &str| tokenizers::Tokenizer::from_file(root().join("models/shapes").join(name)).unwrap();
    let (lm, qformer) = (raw("tokenizer.json"), raw("qformer_tokenizer/tokenizer.json"));
    for typed in ["red</s>circle", "a <pad> b", "x</s><s>y [MASK]", "[SEP] shape"] {
        let prompt = tokenizers.encode(typed, typed, 1).unwrap();
        assert_eq!(prompt.input_ids[processor.num_query_tokens()..], *lm.encode_fast(typed, true).unwrap().get_ids());
        assert_eq!(prompt.qformer_input_ids, qformer.encode_fast(typed, true).unwrap().get_ids());
    }
    assert!(tokenizers.encode("</s>", "x", 1).unwrap().input_ids.ends_with(&[2]));
    assert!(tokenizers.encode("a <image> b", "x", 1).is_err(), "the picture's place stays refused");
}

#[test]
fn trap_a_prompt_that_names_the_pictures_place_is_refused() {
    let error = shapes().tokenizers().encode("what is <image> here?", "x", 1).unwrap_err().to_string();
    assert!(error.contains("<image>") && error.contains("leave it out"), "{error}");
}

/// A small Unigram tokenizer as T5 has: special tokens are pieces of its vocabulary.
fn unigram(extra: &[&str]) -> Vec<u8> {
    let pieces = ["<pad>", "</s>", "<unk>", "▁", "<", "/", "s", ">", "▁a", "b", "."];
    let vocab: Vec<Value> = pieces.iter().map(|p| json!([p, if p.len() > 3 { 0.0 } else { -3.0 }])).collect();
    let special = |(id, name): (usize, &&str)| {
        json!({"id": id, "content": name, "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": true})
    };
    let mut added: Vec<Value> = pieces.iter().take(3).enumerate().map(special).collect();
    added.extend(extra.iter().enumerate().map(|(i, name)| special((pieces.len() + i, name))));
    let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    let end = json!({"SpecialToken": {"id": "</s>", "type_id": 0}});
    let sequence = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": metaspace, "decoder": metaspace,
        "post_processor": {"type": "TemplateProcessing", "single": [sequence("A"), end],
            "pair": [sequence("A"), sequence("B"), end],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}},
        "model": {"type": "Unigram", "unk_id": 2, "vocab": vocab, "byte_fallback": false},
    });
    serde_json::to_vec(&tokenizer).unwrap()
}

fn unigram_tokenizers(config: &Value) -> Tokenizers {
    let limits = PromptLimits {
        image_token_id: Some(11),
        num_query_tokens: 2,
        lm_rows: 12,
        qformer_rows: 12,
        qformer_positions: 99,
    };
    let (lm, qformer) = (unigram(&["<image>"]), unigram(&[]));
    let files = |bytes, config| TokenizerFiles { path: Path::new("tokenizer.json"), bytes, config, as_it_is: false };
    let (lm, qformer) = (files(&lm, Some((Path::new("c.json"), config))), files(&qformer, None));
    Tokenizers::from_files(&lm, Some(&qformer), limits).unwrap()
}

#[test]
fn special_pieces_of_a_unigram_vocabulary_are_not_found_in_a_text() {
    let tokenizers = unigram_tokenizers(&json!({"eos_token": {"content": "</s>"}}));
    assert_eq!(tokenizers.eos_token_id(), Some(1));
    let prompt = tokenizers.encode("ab</s>", "", 1).unwrap();
    assert_eq!(prompt.input_ids, [11, 11, 8, 9, 4, 5, 6, 7, 1]);
    assert_eq!(prompt.attention_mask, [1; 9]);
    assert_eq!(prompt.qformer_input_ids, [1]);
    assert_eq!(tokenizers.decode(&prompt.input_ids), "ab</s>");
    let unknown = tokenizers.encode("ab 漢", "<image>", 1).unwrap();
    assert!(unknown.input_ids.contains(&2) && !unknown.qformer_input_ids[1..].contains(&11));
}

#[test]
fn streams_clean_up_spaces_as_the_whole_text_does() {
    let tokenizers = unigram_tokenizers(&json!({"clean_up_tokenization_spaces": true}));
    let ids = [8, 9, 9, 3, 10, 8, 9, 9, 9, 3, 10, 8];
    assert_eq!(tokenizers.decode(&ids), "abb. abbb. a");
    assert_eq!(stream(&tokenizers, &ids).concat(), "abb. abbb. a");
}

#[test]
fn prompts_beyond_a_limit_are_refused() {
    let folder = root().join("models/shapes");
    let processor = shapes();
    let tokenizers = processor.tokenizers();
    match tokenizers.encode("hello", &"red ".repeat(1000), 1) {
        Err(Error::PromptTooLong { need: 1002, have: 128, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert!(matches!(tokenizers.encode(&"\n".repeat((1 << 20) + 1), "", 1), Err(Error::Request { .. })));
    assert_eq!(tokenizers.encode("", "", 1).unwrap().qformer_input_ids, [2, 3]);
    let nul = tokenizers.encode("\0\u{202e}é", "x", 1).unwrap();
    assert_eq!(tokenizers.decode(&nul.input_ids), "\0\u{202e}é");

    let few_rows = PromptLimits { lm_rows: 300, ..limits(&folder) };
    let processor = Processor::from_files(&|name| read_file(&folder, name), &folder, few_rows).unwrap();
    let text = processor.tokenizers().encode("What is in the image?", "x", 1).unwrap_err().to_string();
    assert!(text.contains("the language model has only 300 embedding rows"), "{text}");
    let no_row = PromptLimits { image_token_id: Some(640), ..limits(&folder) };
    assert!(matches!(
        Processor::from_files(&|name| read_file(&folder, name), &folder, no_row),
        Err(Error::Checkpoint { .. })
    ));
}

#[test]
fn streams_never_cut_a_character() {
    let processor = shapes();
    let tokenizers = processor.tokenizers();
    for text in ["a red circle", "two  spaces ", "漢字 と 😀👩‍👩‍👧 café", "😀", "", "x😀y漢z", "Ωmega ½ ﬁ\n\ttab"]
    {
        let prompt = tokenizers.encode(text, "", 1).unwrap();
        let pieces = stream(tokenizers, &prompt.input_ids);
        assert_eq!(pieces.concat(), text);
        assert_eq!(tokenizers.decode(&prompt.input_ids), text);
        assert!(pieces.iter().all(|piece| !piece.contains(char::REPLACEMENT_CHARACTER)), "{pieces:?}");
    }
    let early = stream(tokenizers, &tokenizers.encode("a red circle", "", 1).unwrap().input_ids);
    assert!(early.iter().filter(|piece| !piece.is_empty()).count() > 2, "words come one by one: {early:?}");
}

#[test]
fn streams_equal_the_whole_for_any_ids() {
    let processor = shapes();
    let tokenizers = processor.tokenizers();
    let mut state = 7u32;
    let mut random = |below: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % below
    };
    for _ in 0..300 {
        // Bytes (ids 5 to 260) often, so that characters are broken in every way; ids beyond the vocabulary too.
        let ids: Vec<u32> =
            (0..random(20)).map(|_| if random(2) == 0 { 5 + random(256) } else { random(660) }).collect();
        assert_eq!(stream(tokenizers, &ids).concat(), tokenizers.decode(&ids), "{ids:?}");
    }
}

// -------------------------------------------------------------------------------------- checkpoints

/// Reads the processor of the demo model with one file replaced (`None`: missing).
fn with_file(name: &str, content: Option<&str>) -> Result<Processor> {
    let folder = root().join("models/shapes");
    let read = |asked: &str| {
        if asked == name { Ok(content.map(|text| text.as_bytes().to_vec())) } else { read_file(&folder, asked) }
    };
    Processor::from_files(&read, Path::new("model"), limits(&folder))
}

#[test]
fn missing_and_damaged_files_are_named() {
    let problem = |name, content| match with_file(name, content) {
        Err(Error::Checkpoint { file, problem }) => {
            assert_eq!(file, Path::new("model").join(name));
            problem
        }
        other => panic!("{name}: {other:?}"),
    };
    for name in ["tokenizer.json", "qformer_tokenizer/tokenizer.json"] {
        let text = problem(name, None);
        assert!(text.contains("missing") && text.contains("save_pretrained"), "{text}");
        for damaged in ["", "{}", "[1", "{\"model\": {\"type\": \"BPE\"}}", "{\"model\": {\"type\": \"Newer\"}}"] {
            assert!(problem(name, Some(damaged)).contains("damaged"), "{name} {damaged}");
        }
    }
    assert_eq!(problem("processor_config.json", Some("{\n x")), "not valid JSON at line 2, column 2");
    let queries = problem("processor_config.json", Some("{\"num_query_tokens\": 32}"));
    assert_eq!(queries, "\"num_query_tokens\" is 32 here, but 16 in config.json");
    assert!(problem("tokenizer_config.json", Some("{\"eos_token\": \"<end>\"}")).contains("\"<end>\""));
}

#[test]
fn both_layouts_of_the_image_settings_are_read() {
    let processor = with_file("preprocessor_config.json", None).unwrap();
    assert_eq!((processor.image().width(), processor.image().height()), (96, 96));
    assert_eq!(processor.tokenizers().eos_token_id(), Some(2));
    assert_eq!(with_file("processor_config.json", None).unwrap().image().width(), 96);
    assert_eq!(with_file("tokenizer_config.json", None).unwrap().tokenizers().eos_token_id(), None);
    let folder = root().join("models/shapes");
    let read = |asked: &str| if asked.contains("processor_config") { Ok(None) } else { read_file(&folder, asked) };
    let error = Processor::from_files(&read, &folder, limits(&folder)).unwrap_err().to_string();
    assert!(error.contains("preprocessor_config.json: this file is missing"), "{error}");
}
