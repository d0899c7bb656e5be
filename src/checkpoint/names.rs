//! The files of a checkpoint by name: one list, for the loader, for `pull` and for the cache.
//!
//! Reference: `from_pretrained` of transformers' models and processors and of peft's adapters.

use std::collections::BTreeSet;

use serde_json::Value;

/// The model's configuration.
pub const CONFIG: &str = "config.json";
/// The weights, where they are in one file.
pub const WEIGHTS: &str = "model.safetensors";
/// The index, which says which shard has which tensor, where the weights are in several files.
pub const INDEX: &str = "model.safetensors.index.json";
/// The processor's settings; transformers 5 puts the image processor's into it.
pub const PROCESSOR_CONFIG: &str = "processor_config.json";
/// The image processor's settings.
pub const PREPROCESSOR_CONFIG: &str = "preprocessor_config.json";
/// The settings for videos, a file of its own in transformers 4.52 to 4.57.
pub const VIDEO_PREPROCESSOR_CONFIG: &str = "video_preprocessor_config.json";
/// The language model's tokenizer.
pub const TOKENIZER: &str = "tokenizer.json";
/// The settings of the language model's tokenizer.
pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// The Q-Former's tokenizer, where the Q-Former reads the instruction.
pub const QFORMER_TOKENIZER: &str = "qformer_tokenizer/tokenizer.json";
/// The settings of the Q-Former's tokenizer.
pub const QFORMER_TOKENIZER_CONFIG: &str = "qformer_tokenizer/tokenizer_config.json";
/// An adapter's configuration, which names its base.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
/// An adapter's weights.
pub const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";
/// The model card, with the licence.
pub const README: &str = "README.md";

/// The files beside the weights that a model, or a reader of its folder, may need.
const SMALL: [&str; 13] = [
    CONFIG,
    INDEX,
    ADAPTER_CONFIG,
    "generation_config.json",
    PREPROCESSOR_CONFIG,
    VIDEO_PREPROCESSOR_CONFIG,
    PROCESSOR_CONFIG,
    TOKENIZER,
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    README,
];
/// The folder of the Q-Former's tokenizer.
const QFORMER: &str = "qformer_tokenizer/";

/// The place of a model's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// One file, [`WEIGHTS`].
    Single,
    /// The shards that [`INDEX`] names.
    Sharded,
}

impl Weights {
    /// Finds the weights among files: as in the reference, a single file comes before an index.
    pub fn among(has: impl Fn(&str) -> bool) -> Option<Weights> {
        match (has(WEIGHTS), has(INDEX)) {
            (true, _) => Some(Weights::Single),
            (false, true) => Some(Weights::Sharded),
            (false, false) => None,
        }
    }
}

/// True if the files are an adapter without its base.
pub fn is_adapter_alone(has: impl Fn(&str) -> bool) -> bool {
    has(ADAPTER_CONFIG) && Weights::among(has).is_none()
}

/// The wanted small files among those that there are, in the order in which they are wanted. Other names are not looked
/// at, whatever they are; nor is an index beside a single file.
pub fn wanted<'a>(all: impl Iterator<Item = &'a str> + Clone) -> Vec<&'a str> {
    let has = |name: &str| all.clone().any(|other| other == name);
    let single = Weights::among(has) == Some(Weights::Single);
    let listed = SMALL.into_iter().filter(|name| !(single && *name == INDEX));
    let listed = listed.filter_map(|name| all.clone().find(|other| *other == name));
    listed.chain(all.clone().filter(|name| is_qformer_file(name))).collect()
}

fn is_qformer_file(name: &str) -> bool {
    let rest = name.strip_prefix(QFORMER);
    rest.is_some_and(|rest| is_plain(rest) && (rest.ends_with(".json") || rest.ends_with(".txt")))
}

/// True if a file of this name holds weights in a form that can run code when it is opened.
pub fn is_pickle(name: &str) -> bool {
    [".bin", ".pth", ".pt"].iter().any(|end| name.ends_with(end))
}

/// The files that an index names; `None` when it is no index.
pub fn shards(index: &[u8]) -> Option<BTreeSet<String>> {
    let json: Value = serde_json::from_slice(index).ok()?;
    let names: Option<BTreeSet<String>> =
        json.get("weight_map")?.as_object()?.values().map(|v| Some(v.as_str()?.to_string())).collect();
    names.filter(|names| !names.is_empty())
}

/// True if a name that an index gives may be opened, which only plain names beside the index may.
pub fn is_shard(name: &str) -> bool {
    is_plain(name) && name.ends_with(".safetensors")
}

/// True if a name is a plain file name: no separators, nothing hidden, nothing that means another folder.
pub fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !name.is_empty() && name.len() <= 255 && !name.starts_with('.') && name.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_files_are_wanted() {
        let names = [
            "config.json",
            "../../x",
            "/etc/x",
            "model.safetensors.index.json",
            "pytorch_model.bin",
            "qformer_tokenizer/vocab.txt",
            "qformer_tokenizer/../x.json",
            "qformer_tokenizer/a/b.json",
            "qformer_tokenizer/.x.json",
            "tokenizer.json",
            "qformer_tokenizer/x.bin",
            "sub/config.json",
            "README.md",
            "modeling.py",
            "video_preprocessor_config.json",
        ];
        let mut want = vec![
            "config.json",
            "model.safetensors.index.json",
            "video_preprocessor_config.json",
            "tokenizer.json",
            "README.md",
            "qformer_tokenizer/vocab.txt",
        ];
        assert_eq!(wanted(names.into_iter()), want);
        // As the reference, which does not look at an index then.
        want.remove(1);
        assert_eq!(wanted(names.into_iter().chain(["model.safetensors"])), want);
    }

    #[test]
    fn a_single_file_comes_before_an_index() {
        let among = |names: &[&str]| Weights::among(|name| names.contains(&name));
        assert_eq!(among(&[WEIGHTS, INDEX]), Some(Weights::Single));
        assert_eq!(among(&[INDEX]), Some(Weights::Sharded));
        assert_eq!(among(&["pytorch_model.bin"]), None);
        let alone = |names: &[&str]| is_adapter_alone(|name| names.contains(&name));
        assert!(alone(&[ADAPTER_CONFIG, ADAPTER_WEIGHTS]) && !alone(&[ADAPTER_CONFIG, WEIGHTS]) && !alone(&[CONFIG]));
    }
}
