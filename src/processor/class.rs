//! The changes that transformers makes to a `tokenizer.json` by the class that `tokenizer_config.json` names.
//!
//! Reference: `AutoTokenizer` and the tokenizer classes of transformers 5. Four classes take only the vocabulary and the
//! merges of the file and build the rest anew, from settings of their own; every other class takes the file as it is.

use serde_json::{Map, Value, json};

/// The mark that stands for a space in the vocabularies of SentencePiece.
const SPACE: &str = "▁";

/// Makes of a `tokenizer.json` what its class makes of it; `config` is the `tokenizer_config.json` beside it.
pub(super) fn apply(file: &mut Value, config: &Value) {
    let Some(class) = config.get("tokenizer_class").and_then(Value::as_str) else { return };
    let class = class.strip_suffix("Fast").unwrap_or(class);
    let kind = file.pointer("/model/type").and_then(Value::as_str).map(str::to_owned);
    let kind = kind.or_else(|| guessed(file.get("model")?).map(str::to_owned));
    match (class, kind.as_deref()) {
        // The reference takes byte-level files of this class as they are, too.
        ("LlamaTokenizer", Some("BPE")) if !is_byte_level(file) => llama(file, config),
        ("GPT2Tokenizer", Some("BPE")) => gpt2(file, config),
        ("T5Tokenizer", Some("Unigram")) => t5(file, config),
        ("BertTokenizer", Some("WordPiece")) => bert(file, config),
        _ => return,
    }
    added_tokens(file, config);
}

/// The algorithm of a file that does not name it.
fn guessed(model: &Value) -> Option<&'static str> {
    let listed = model.get("vocab")?.is_array();
    match (model.get("merges").is_some(), listed) {
        (true, _) => Some("BPE"),
        (false, true) => Some("Unigram"),
        (false, false) => Some("WordPiece"),
    }
}

fn is_byte_level(file: &Value) -> bool {
    ["pre_tokenizer", "decoder"].iter().any(|part| file[*part].to_string().contains("\"ByteLevel\""))
}

/// `LlamaTokenizer`: one mark in front of the text unless it begins with a space.
fn llama(file: &mut Value, config: &Value) {
    let prefix = flag(config, "add_prefix_space", true);
    let scheme = match (prefix, flag(config, "legacy", false)) {
        (true, true) => "always",
        (true, false) => "first",
        (false, _) => "never",
    };
    model(file, &json!({"type": "BPE", "byte_fallback": true, "fuse_unk": true}));
    file["normalizer"] = Value::Null;
    file["pre_tokenizer"] = metaspace(scheme, false);
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    file["decoder"] = json!({"type": "Sequence", "decoders": decoders});
}

/// `GPT2Tokenizer`, of OPT too: bytes, with a space in front of the text on request.
fn gpt2(file: &mut Value, config: &Value) {
    let prefix = flag(config, "add_prefix_space", false);
    model(file, &json!({"type": "BPE", "continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": false}));
    let bytes = |prefix: bool| json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": true});
    file["normalizer"] = Value::Null;
    file["pre_tokenizer"] = bytes(prefix);
    file["decoder"] = bytes(true);
}

/// `T5Tokenizer`: words, each with a mark in front, and the end token.
fn t5(file: &mut Value, config: &Value) {
    model(file, &json!({"type": "Unigram", "unk_id": 2, "byte_fallback": false}));
    let charsmap = normalizers(&file["normalizer"]).into_iter().find(|n| n["type"] == "Precompiled");
    file["normalizer"] = charsmap.cloned().unwrap_or_default();
    file["pre_tokenizer"] = json!({
        "type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace("always", true)],
    });
    file["decoder"] = metaspace("always", true);
    let end = named(config, "eos_token", "</s>");
    if let Some(id) = id_of(file, end) {
        file["post_processor"] = template(&[], &[("</s>", id)]);
    }
}

/// `BertTokenizer`, of the Q-Former: case, accents and Chinese characters as its settings say.
fn bert(file: &mut Value, config: &Value) {
    let unknown = named(config, "unk_token", "[UNK]");
    model(
        file,
        &json!({
            "type": "WordPiece", "unk_token": unknown, "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
        }),
    );
    file["normalizer"] = json!({
        "type": "BertNormalizer", "clean_text": true,
        "handle_chinese_chars": flag(config, "tokenize_chinese_chars", true),
        "strip_accents": config.get("strip_accents").filter(|value| value.is_boolean()),
        "lowercase": flag(config, "do_lower_case", true),
    });
    file["pre_tokenizer"] = json!({"type": "BertPreTokenizer"});
    file["decoder"] = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
    let (begin, end) = (named(config, "cls_token", "[CLS]"), named(config, "sep_token", "[SEP]"));
    let ids = (id_of(file, begin), id_of(file, end));
    if let (Some(begin_id), Some(end_id)) = ids {
        file["post_processor"] = template(&[(begin, begin_id)], &[(end, end_id)]);
    }
}

/// Gives the algorithm these settings; only the vocabulary and the merges stay.
fn model(file: &mut Value, settings: &Value) {
    let mut model = settings.as_object().cloned().unwrap_or_default();
    for part in ["vocab", "merges"] {
        if let Some(value) = file.get_mut("model").and_then(|model| model.get_mut(part)) {
            model.insert(part.into(), value.take());
        }
    }
    file["model"] = Value::Object(model);
}

/// The added tokens that the settings list take the place of the file's.
fn added_tokens(file: &mut Value, config: &Value) {
    let Some(listed) = config.get("added_tokens_decoder").and_then(Value::as_object) else { return };
    let Some(added) = file.get_mut("added_tokens").and_then(Value::as_array_mut) else { return };
    for (id, token) in listed {
        let (Ok(id), Some(token)) = (id.parse::<u32>(), token.as_object()) else { continue };
        let Some(content) = token.get("content").filter(|content| content.is_string()) else { continue };
        let mut told = Map::from_iter([("id".into(), Value::from(id)), ("content".into(), content.clone())]);
        for name in ["single_word", "lstrip", "rstrip", "normalized", "special"] {
            told.insert(name.into(), Value::Bool(token.get(name).and_then(Value::as_bool).unwrap_or(false)));
        }
        match added.iter_mut().find(|other| other.get("content") == Some(content)) {
            Some(other) => *other = Value::Object(told),
            None => added.push(Value::Object(told)),
        }
    }
    added.sort_by_key(|token| token.get("id").and_then(Value::as_u64));
}

fn metaspace(scheme: &str, split: bool) -> Value {
    json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": split})
}

/// Tokens in front of and behind every text.
fn template(before: &[(&str, u32)], after: &[(&str, u32)]) -> Value {
    let special = |(name, _): &(&str, u32)| json!({"SpecialToken": {"id": name, "type_id": 0}});
    let sequence = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    let round = |inner: Vec<Value>| -> Vec<Value> {
        before.iter().map(special).chain(inner).chain(after.iter().map(special)).collect()
    };
    let tokens = before.iter().chain(after);
    let tokens = tokens.map(|&(name, id)| (name.to_string(), json!({"id": name, "ids": [id], "tokens": [name]})));
    json!({
        "type": "TemplateProcessing", "single": round(vec![sequence("A")]),
        "pair": round(vec![sequence("A"), sequence("B")]), "special_tokens": Map::from_iter(tokens),
    })
}

/// The parts of a normalizer, which may be one or a sequence.
fn normalizers(normalizer: &Value) -> Vec<&Value> {
    match normalizer.get("normalizers").and_then(Value::as_array) {
        Some(all) => all.iter().collect(),
        None => vec![normalizer],
    }
}

fn flag(config: &Value, name: &str, otherwise: bool) -> bool {
    config.get(name).and_then(Value::as_bool).unwrap_or(otherwise)
}

fn named<'a>(config: &'a Value, name: &str, otherwise: &'a str) -> &'a str {
    config.get(name).and_then(token_name).unwrap_or(otherwise)
}

/// The id of a token, added or of the vocabulary.
fn id_of(file: &Value, token: &str) -> Option<u32> {
    let added = file["added_tokens"].as_array().into_iter().flatten().find(|other| other["content"] == token);
    let id = added.and_then(|added| added["id"].as_u64()).or_else(|| match &file["model"]["vocab"] {
        Value::Object(vocab) => vocab.get(token)?.as_u64(),
        Value::Array(pieces) => pieces.iter().position(|piece| piece[0] == token).map(|at| at as u64),
        _ => None,
    });
    id.and_then(|id| u32::try_from(id).ok())
}

/// The name of a token in `tokenizer_config.json`: a string, or an object that has it as `content`.
pub(super) fn token_name(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}
