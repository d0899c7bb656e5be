//! The memory that a model works with besides its weights: caches, intermediate results, inputs and tables.

use crate::config::Config;
use crate::generate::options::MAX_NEW_TOKENS;
use crate::generate::processors::CANDIDATES;
use crate::generate::session::SessionPlan;
use crate::generate::{Capacity, MAX_PROMPT_TOKENS, Room};
use crate::language::Language;
use crate::model::{MAX_RUN_ROWS, Parts, Workload};
use crate::runtime::ops::attention::Mask;
use crate::runtime::recorder::Recorder;
use crate::runtime::{Caps, DryPool, Tensor, whole};

/// Bytes that a model works with.
pub(super) struct Working {
    pub kv_cache: u64,
    pub scratch: u64,
    pub io: u64,
    /// Scratch, inputs and tables of the vision stage alone.
    pub vision_stage: u64,
    /// Scratch, inputs and tables of the language stage alone, without its cache.
    pub language_stage: u64,
}

/// The largest questions of a workload that the model takes.
struct Questions {
    /// Tokens of a prompt's text.
    words: u32,
    /// Rows of a question's image features.
    features: u32,
    /// Tokens of a prompt, the picture's places included.
    tokens: u32,
    new_tokens: u32,
    /// Rows for each question.
    rows: u32,
    /// Questions of one run.
    batch: u32,
}

/// The recordings of a question on its way through the model.
struct Recordings {
    pixel_bytes: u64,
    vision: Recorder,
    qformer: Recorder,
    /// The scratch buffers of the Q-Former's outputs, which are kept while the question is answered.
    outputs: [Option<usize>; 2],
    session: SessionPlan,
}

/// Bytes of intermediate results, as the pool hands them out.
struct Scratch {
    /// Bytes that the pool makes for two runs, one after the other.
    all: u64,
    /// Bytes that are there before the language model's.
    vision_stage: u64,
    /// Bytes of the Q-Former's outputs that are kept.
    kept: u64,
    /// Bytes of the language model's, if the pool is empty before.
    language_stage: u64,
}

impl Working {
    /// The bytes that the largest questions of `workload` take of a model of these `parts`.
    pub fn of(config: &Config, caps: &Caps, parts: &Parts, workload: Workload, offload: bool) -> Working {
        let questions = Questions::of(config, &parts.language, workload);
        let recordings = Recordings::new(config, caps, parts, &questions);
        let scratch = recordings.scratch(questions.batch);
        let Questions { words, features, tokens, rows, batch, .. } = questions;
        let bytes = |elements: u32| whole(4 * u64::from(elements));
        let feature_bytes = whole(4 * u64::from(features) * u64::from(config.text.hidden_size()));
        let questions_io = u64::from(batch) * (feature_bytes + bytes(features) + bytes(tokens));
        let Recordings { pixel_bytes, vision, qformer, session, .. } = recordings;
        let vision_io = pixel_bytes + vision.io_bytes() + qformer.io_bytes() + bytes(words);
        // Logits are read back through memory of their own, a token through less.
        let language_io = session.io_bytes + bytes(rows * batch * parts.language.head_rows());
        let language_scratch = scratch.language_stage + scratch.kept;
        Working {
            kv_cache: session.kv_bytes,
            scratch: if offload { scratch.vision_stage.max(language_scratch) } else { scratch.all },
            io: questions_io + if offload { vision_io.max(language_io) } else { vision_io + language_io },
            vision_stage: scratch.vision_stage + vision_io + questions_io,
            language_stage: language_scratch + language_io + questions_io,
        }
    }
}

impl Questions {
    fn of(config: &Config, language: &Language, workload: Workload) -> Questions {
        let Workload { prompt_tokens, new_tokens, rows, batch, frames } = workload;
        // What is longer than any prompt may be is refused when it is asked.
        let longest = config.text.max_positions().unwrap_or(MAX_PROMPT_TOKENS).min(MAX_PROMPT_TOKENS);
        let features = config.num_query_tokens.saturating_mul(frames).min(longest);
        let words = prompt_tokens.min(longest);
        // Without places of their own the features come in front; either way they are part of the prompt.
        let tokens = words.saturating_add(features).min(longest);
        // The end of the context ends an answer, too.
        let new_tokens = match language.is_encoder_decoder() {
            true => new_tokens.min(MAX_NEW_TOKENS),
            false => new_tokens.min(longest.saturating_sub(tokens).max(1)),
        };
        let batch = batch.min((MAX_RUN_ROWS as u32 / rows).max(1));
        Questions { words, features, tokens, new_tokens, rows, batch }
    }
}

impl Recordings {
    fn new(config: &Config, caps: &Caps, parts: &Parts, questions: &Questions) -> Recordings {
        let Questions { words, features, tokens, new_tokens, rows, batch } = *questions;
        let side = config.vision.image_size;
        let pixels = Tensor::unbacked(3 * side, side);
        let mut vision = Recorder::new(*caps);
        let seen = parts.vision.record(&mut vision, &pixels).last_hidden_state;
        let mut qformer = Recorder::new(*caps);
        let words = Tensor::unbacked(1, words.clamp(1, config.qformer.max_position_embeddings));
        let words = Some(&words).filter(|_| config.qformer_reads_text());
        let image = Tensor::unbacked(seen.rows(), seen.cols());
        let looked = parts.qformer.record(&mut qformer, &image, words, Mask::None);
        let outputs = [&looked.last_hidden_state, &looked.language_model_inputs].map(|t| qformer.scratch_of(t));
        let need = Capacity::of(&vec![Room::of(&parts.language, tokens, rows, new_tokens); batch as usize]);
        let session = SessionPlan::new(*caps, &parts.language, need, tokens, features).with_largest(CANDIDATES);
        Recordings { pixel_bytes: pixels.buffer_bytes(), vision, qformer, outputs, session }
    }

    /// Scratch memory for two runs of `batch` questions each, one after the other.
    fn scratch(&self, batch: u32) -> Scratch {
        let (decode, prefill) = (self.session.decode.scratch_bytes(), self.session.prefill.scratch_bytes());
        let mut pool = DryPool::default();
        pool.take(&self.vision.scratch_bytes());
        let (mut vision_stage, mut first) = (0, 0);
        let mut held = Vec::new();
        for question in 0..2 * batch {
            if question == batch {
                pool.free(std::mem::take(&mut held)); // with what was asked first
            }
            let buffers = pool.take(&self.qformer.scratch_bytes());
            let (kept, free): (Vec<_>, Vec<_>) =
                buffers.into_iter().enumerate().partition(|(i, _)| self.outputs.contains(&Some(*i)));
            pool.give_back(free.into_iter().map(|(_, bytes)| bytes));
            held.extend(kept.into_iter().map(|(_, bytes)| bytes));
            if question + 1 == batch {
                vision_stage = pool.bytes();
                pool.take(&decode);
                let prompt = pool.take(&prefill);
                pool.give_back(prompt);
                first = pool.bytes();
            }
        }
        let mut alone = DryPool::default();
        alone.take(&decode);
        alone.take(&prefill);
        Scratch { all: pool.bytes().max(first), vision_stage, kept: held.iter().sum(), language_stage: alone.bytes() }
    }
}
