//! The way from a picture and a prompt to the model's inputs, and from its ids back to text. Runs on the CPU.
//!
//! Reference: `transformers.InstructBlipProcessor` 5 with the Pillow image processor.

mod class;
mod container;
mod convert;
mod decode;
mod image;
mod jpeg;
mod open;
mod orientation;
mod overlay;
mod png;
mod preprocess;
mod resize;
mod task;
mod text;
mod tiff;
mod vocabulary;

use std::path::{Path, PathBuf};

use serde_json::Value;

pub use self::image::Image;
pub use self::open::{ImageOptions, MAX_FILE_BYTES, MAX_PIXELS};
pub use self::overlay::SheetKind;
pub use self::preprocess::ImageProcessor;
pub use self::resize::{PassOrder, resize};
pub use self::task::Task;
pub use self::text::{MAX_PROMPT_BYTES, Prompt, PromptLimits, StreamDecoder, TokenizerFiles, Tokenizers};

use crate::checkpoint::names::{
    PREPROCESSOR_CONFIG, PROCESSOR_CONFIG, QFORMER_TOKENIZER, QFORMER_TOKENIZER_CONFIG, TOKENIZER, TOKENIZER_CONFIG,
    VIDEO_PREPROCESSOR_CONFIG,
};
use crate::error::{Error, Result};

/// Reads a file of a checkpoint by its name (`/` between folders); `None` if there is none.
pub type ReadFile<'a> = dyn Fn(&str) -> Result<Option<Vec<u8>>> + 'a;

/// Prepares pictures and prompts for one checkpoint.
///
/// Reference: `transformers.InstructBlipProcessor`.
#[derive(Debug)]
pub struct Processor {
    image: ImageProcessor,
    tokenizers: std::sync::Arc<Tokenizers>,
}

impl Processor {
    /// Reads the processor's files through `read`: `preprocessor_config.json` or `processor_config.json`,
    /// `tokenizer.json` and `tokenizer_config.json`, and, once these are parsed, those of `qformer_tokenizer/` where it
    /// reads text.
    ///
    /// `root` is the checkpoint's directory, or a name for it, for messages. `limits` come from `config.json`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] naming the file if one is missing, damaged, at odds with `limits`, or asks for
    /// what this library does not do; whatever `read` fails with.
    pub fn from_files(read: &ReadFile<'_>, root: &Path, limits: PromptLimits) -> Result<Self> {
        let processor_config = read_json(read, root, PROCESSOR_CONFIG)?;
        check_query_tokens(root, processor_config.as_ref(), limits.num_query_tokens)?;
        let image = read_image_processor(read, root, processor_config)?;

        let read_tokenizer = |file: &str, config: &str| {
            let bytes = read(file)?.ok_or_else(|| missing_tokenizer(root, file))?;
            Ok((root.join(file), bytes, root.join(config), read_json(read, root, config)?))
        };
        let lm = read_tokenizer(TOKENIZER, TOKENIZER_CONFIG)?;
        let lm = TokenizerFiles { as_it_is: is_taken_as_it_is(root), ..files(&lm) };
        let mut tokenizers = Tokenizers::from_files(&lm, None, limits)?;
        if limits.qformer_rows > 0 {
            let qformer = read_tokenizer(QFORMER_TOKENIZER, QFORMER_TOKENIZER_CONFIG)?;
            tokenizers = tokenizers.with_qformer(&files(&qformer))?;
        }
        Ok(Processor { image, tokenizers: tokenizers.into() })
    }

    /// Prepares pictures.
    pub fn image(&self) -> &ImageProcessor {
        &self.image
    }

    /// Chooses the order of the passes that resize pictures.
    #[must_use]
    pub fn with_pass_order(mut self, order: PassOrder) -> Self {
        self.image = self.image.with_pass_order(order);
        self
    }

    /// Makes pictures of `side` pixels a side instead of the settings' size.
    #[must_use]
    pub fn with_image_size(mut self, side: u32) -> Self {
        self.image = self.image.with_size(side, side);
        self
    }

    /// Lets special tokens written in a prompt be those tokens: see [`Tokenizers::allow_special_tokens`].
    #[must_use]
    pub fn with_special_tokens(mut self) -> Self {
        std::sync::Arc::make_mut(&mut self.tokenizers).allow_special_tokens();
        self
    }

    /// Prepares prompts and reads ids.
    pub fn tokenizers(&self) -> &Tokenizers {
        &self.tokenizers
    }

    /// The tokenizers as a shared pointer, for callers that keep them.
    pub fn shared_tokenizers(&self) -> std::sync::Arc<Tokenizers> {
        self.tokenizers.clone()
    }

    /// Number of picture tokens in a prompt.
    pub fn num_query_tokens(&self) -> usize {
        self.tokenizers.limits().num_query_tokens
    }

    /// Id that marks the place of a picture token.
    pub fn image_token_id(&self) -> Option<u32> {
        self.tokenizers.limits().image_token_id
    }
}

/// A tokenizer's files: `tokenizer.json` and its bytes, `tokenizer_config.json` and what it says.
fn files((path, bytes, config_path, config): &(PathBuf, Vec<u8>, PathBuf, Option<Value>)) -> TokenizerFiles<'_> {
    let config = config.as_ref().map(|config| (config_path.as_path(), config));
    TokenizerFiles { path, bytes, config, as_it_is: false }
}

/// True if the reference takes the language model's tokenizer of this checkpoint as its file is: it does so for some
/// published repositories, by their names (`MODEL_IDS_TO_TOKENIZERS_BACKEND`).
fn is_taken_as_it_is(root: &Path) -> bool {
    const NAMES: [&str; 3] = ["salesforce/blip2-opt-", "salesforce/blip2-flan-t5-", "salesforce/instructblip-flan-t5-"];
    let listed = |name: &str| NAMES.iter().any(|beginning| name.to_lowercase().starts_with(beginning));
    let cached = |part: &std::ffi::OsStr| Some(part.to_str()?.strip_prefix("models--")?.replace("--", "/"));
    root.to_str().is_some_and(listed) || root.iter().filter_map(cached).any(|name| listed(&name))
}

fn missing_tokenizer(root: &Path, name: &str) -> Error {
    let path = root.join(name);
    let folder = path.parent().unwrap_or(root).display().to_string();
    Error::checkpoint(
        &path,
        format!(
            "this file is missing; transformers writes it from the older tokenizer files: \
             AutoTokenizer.from_pretrained({folder:?}).save_pretrained({folder:?})"
        ),
    )
}

/// Reads a JSON file of the checkpoint.
fn read_json(read: &ReadFile<'_>, root: &Path, name: &str) -> Result<Option<Value>> {
    let Some(bytes) = read(name)? else { return Ok(None) };
    match serde_json::from_slice(&bytes) {
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            let (line, column) = (error.line(), error.column());
            Err(Error::checkpoint(root.join(name), format!("not valid JSON at line {line}, column {column}")))
        }
    }
}

fn check_query_tokens(root: &Path, processor_config: Option<&Value>, expected: usize) -> Result<()> {
    let stated = processor_config.and_then(|config| config.get("num_query_tokens")).filter(|value| !value.is_null());
    match stated {
        Some(value) if value.as_u64() != Some(expected as u64) => Err(Error::checkpoint(
            root.join(PROCESSOR_CONFIG),
            format!("\"num_query_tokens\" is {value} here, but {expected} in config.json"),
        )),
        _ => Ok(()),
    }
}

/// Reads the image processor's settings from whichever file has them.
fn read_image_processor(read: &ReadFile<'_>, root: &Path, processor_config: Option<Value>) -> Result<ImageProcessor> {
    // transformers 5 writes them into the processor's file, which it also prefers when reading.
    let settings = |name| processor_config.as_ref().and_then(|config| config.get(name));
    if let Some(settings) = settings("image_processor").or(settings("video_processor")) {
        return ImageProcessor::from_json(&root.join(PROCESSOR_CONFIG), settings);
    }
    for name in [PREPROCESSOR_CONFIG, VIDEO_PREPROCESSOR_CONFIG] {
        if let Some(settings) = read_json(read, root, name)? {
            return ImageProcessor::from_json(&root.join(name), &settings);
        }
    }
    Err(Error::checkpoint(
        root.join(PREPROCESSOR_CONFIG),
        "this file is missing, and processor_config.json has no \"image_processor\"",
    ))
}
