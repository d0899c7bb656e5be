//! The memory that a model works with besides its weights: caches, intermediate results, inputs and tables.

use crate::config::Config;
use crate::generate::options::MAX_NEW_TOKENS;
use crate::generate::processors::CANDIDATES;
use crate::generate::session::SessionPlan;
use crate::generate::{Capacity, MAX_PROMPT_TOKENS, Room};
use crate::language::Language;
use crate::model::look;
use crate::model::{MAX_RUN_ROWS, PASS_TOKENS, Parts, Workload};
use crate::qformer::Instructions;
use crate::runtime::ops::attention::Segments;
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
    /// Pictures of one pass.
    at_once: u32,
}

/// The recordings of questions on their way through the model.
struct Recordings {
    look: LookRecordings,
    session: SessionPlan,
}

/// The recordings of the stage that looks, and what they read.
struct LookRecordings {
    /// The vision tower over one picture, over two, ..., up to those of a pass.
    towers: Vec<Recorder>,
    qformer: Recorder,
    /// Bytes of pixels, words, tables and the features of pictures.
    bytes: u64,
}

/// Bytes of intermediate results, as the pool hands them out.
struct Scratch {
    all: u64,
    /// Bytes that are there before the language model's.
    vision_stage: u64,
    /// Bytes of the language model's, if the pool is empty before.
    language_stage: u64,
}

impl Working {
    /// The bytes that the largest questions of `workload` take of a model of these `parts`.
    pub fn of(config: &Config, caps: &Caps, parts: &Parts, workload: Workload, offload: bool) -> Working {
        let questions = Questions::of(config, &parts.language, workload);
        let recordings = Recordings::new(config, caps, parts, &questions);
        let scratch = recordings.scratch();
        let Questions { rows, batch, .. } = questions;
        let bytes = |elements: u32| whole(4 * u64::from(elements));
        let Recordings { look, session } = recordings;
        let recorded = look.towers.iter().chain([&look.qformer]);
        let vision_io = look.bytes + recorded.map(Recorder::io_bytes).sum::<u64>();
        // Logits are read back through memory of their own, a token through less.
        let language_io = session.io_bytes + bytes(rows * batch * parts.language.head_rows());
        Working {
            kv_cache: session.kv_bytes,
            scratch: if offload { scratch.vision_stage.max(scratch.language_stage) } else { scratch.all },
            io: if offload { vision_io.max(language_io) } else { vision_io + language_io },
            vision_stage: scratch.vision_stage + vision_io,
            language_stage: scratch.language_stage + language_io,
        }
    }
}

impl Questions {
    fn of(config: &Config, language: &Language, workload: Workload) -> Questions {
        let Workload { prompt_tokens, new_tokens, rows, batch, frames, at_once } = workload;
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
        Questions { words, features, tokens, new_tokens, rows, batch, at_once: at_once.max(1) }
    }
}

impl Recordings {
    fn new(config: &Config, caps: &Caps, parts: &Parts, questions: &Questions) -> Recordings {
        let Questions { words, features, tokens, new_tokens, rows, batch, at_once } = *questions;
        let words =
            if config.qformer_reads_text() { words.clamp(1, config.qformer.max_position_embeddings) } else { 0 };
        let at_once = look::at_once(&config.vision, caps, at_once);
        let look = LookRecordings::new(config.vision.image_size, caps, parts, (at_once, words));
        let prompts = (PASS_TOKENS / tokens.max(1)).clamp(1, at_once);
        let need = Capacity::of(&vec![Room::of(&parts.language, tokens, rows, new_tokens); batch as usize]);
        let session =
            SessionPlan::new(*caps, &parts.language, need, (prompts, tokens), features).with_largest(CANDIDATES);
        Recordings { look, session }
    }

    /// Scratch memory for questions one after the other.
    fn scratch(&self) -> Scratch {
        let (decode, prefill) = (self.session.decode.scratch_bytes(), self.session.prefill.scratch_bytes());
        let mut all = DryPool::default();
        for recorder in self.look.towers.iter().chain([&self.look.qformer]) {
            all.take(&recorder.scratch_bytes());
        }
        let vision_stage = all.bytes();
        let mut alone = DryPool::default();
        for pool in [&mut all, &mut alone] {
            pool.take(&decode);
            pool.take(&prefill);
        }
        Scratch { all: all.bytes(), vision_stage, language_stage: alone.bytes() }
    }
}

impl LookRecordings {
    /// The recordings for passes of up to `at_once` pictures and instructions of `words` words.
    fn new(side: u32, caps: &Caps, parts: &Parts, (at_once, words): (u32, u32)) -> LookRecordings {
        let (mut bytes, mut towers, mut seen) = (0, Vec::new(), (0, 0));
        for count in (0..).map(|i| 1 << i).take_while(|&count| count <= at_once) {
            let pixels = Tensor::unbacked(3 * side * count, side);
            let segments = Segments::unbacked(&parts.vision.segments(count));
            let mut r = Recorder::new(*caps);
            let features = parts.vision.record(&mut r, &pixels, segments.as_mask());
            bytes += pixels.buffer_bytes() + segments.table().map_or(0, Tensor::buffer_bytes);
            seen = (features.rows() / count, features.cols());
            towers.push(r);
        }
        let (patches, width) = seen;
        let image = Tensor::unbacked(at_once * patches, width);
        // The pictures seen last, and those of a pass side by side.
        if at_once > 1 {
            bytes += u64::from(at_once) * Tensor::unbacked(patches, width).buffer_bytes() + image.buffer_bytes();
        }
        let pictures: Vec<u32> = (0..at_once).collect();
        let lengths = vec![words; at_once as usize];
        let ids = (words > 0).then(|| Tensor::unbacked(1, at_once * words));
        let segments = parts.qformer.segments(&lengths, &pictures, patches);
        let [own, seen] = segments.map(|segments| Segments::unbacked(&segments));
        let tables = [&own, &seen].into_iter().filter_map(Segments::table);
        bytes += ids.iter().chain(tables).map(Tensor::buffer_bytes).sum::<u64>();
        let (own, seen) = (own.as_mask(), seen.as_mask());
        let instructions = Instructions { lengths: &lengths, ids: ids.as_ref(), own, seen, patches };
        let mut qformer = Recorder::new(*caps);
        parts.qformer.record(&mut qformer, &image, &instructions);
        LookRecordings { towers, qformer, bytes }
    }
}
