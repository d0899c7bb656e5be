//! Softmax attention: full, with a key mask, in segments, and causal over a paged key and value cache.
//!
//! Each public op describes what it wants as an `Attention`; `Recorder::attend` records it in one of two forms, which
//! `Attention::shares_keys` chooses:
//!
//! | form | runs for | file |
//! | --- | --- | --- |
//! | tile | many rows that share their keys: pictures, queries, a prompt over its cache | `tile.rs` |
//! | decode | rows by themselves over a cache: steps of one or more sequences, cross-attention | `decode.rs` |
//!
//! Each form has a portable kernel and one for software adapters; `Attention::runs_wide` chooses between the two. Tiles
//! have one by matrices, too. All are compiled for keys and values of f32 and of f16, which only caches have.
//! `weights.rs` has what a tap of `….weights` adds: the weights as a tensor.

mod decode;
mod segments;
mod tile;
mod weights;

pub use segments::{Segment, Segments, Span};

use crate::runtime::caps::Caps;
use crate::runtime::kernels::Kernel;
use crate::runtime::kv_format::KvFormat;
use crate::runtime::recorder::Recorder;
use crate::runtime::tensor::Tensor;

/// Largest head the kernels take.
pub const MAX_HEAD_DIM: u32 = 256;

/// Kernels read the channels of a head four at a time: heads of other widths are padded with zeros.
const HEAD_DIM_STEP: u32 = 4;

/// Kernels for software adapters read eight channels at a time, and run only where that is possible.
const WIDE_STEP: u32 = 8;

/// The layout of attention heads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    /// Query heads, H.
    pub query: u32,
    /// Key and value heads, G; H / G query heads share each.
    pub key_value: u32,
    /// Channels per head, d.
    pub dim: u32,
    /// The factor that scores are multiplied by.
    pub scale: f32,
}

impl Heads {
    /// H heads of `dim` channels, each with its own keys and values; scores are divided by `√d`.
    pub fn full(heads: u32, dim: u32) -> Heads {
        Heads::grouped(heads, heads, dim)
    }

    /// H heads sharing G heads of keys and values; scores are divided by `√d`.
    pub fn grouped(query: u32, key_value: u32, dim: u32) -> Heads {
        Heads { query, key_value, dim, scale: (1.0 / f64::from(dim).sqrt()) as f32 }
    }

    /// Leaves scores as they are: T5 puts the scale into its weights.
    #[must_use]
    pub fn unscaled(self) -> Heads {
        Heads { scale: 1.0, ..self }
    }

    /// Columns of q: `H d`.
    pub fn width(&self) -> u32 {
        self.query * self.dim
    }

    /// Gives every head as many channels as it has in kernels and caches: the next multiple of 4. The channels that are
    /// added hold zeros and change no product.
    #[must_use]
    pub fn padded(self) -> Heads {
        Heads { dim: self.dim.next_multiple_of(HEAD_DIM_STEP), ..self }
    }

    /// Query heads that share one head of keys and values: H / G.
    fn group(&self) -> u32 {
        self.query / self.key_value
    }

    fn check(&self, op: &str) {
        let fits = (1..=MAX_HEAD_DIM).contains(&self.dim);
        assert!(fits && self.query.is_multiple_of(self.key_value), "{op}: heads {self:?}");
    }
}

/// The keys that a row sees.
#[derive(Clone, Copy, Debug)]
pub enum Mask<'a> {
    /// Every key.
    None,
    /// The keys whose entry in this `[1, S]` tensor of u32 is not 0.
    Keys(&'a Tensor),
    /// The keys of its own segment.
    Segments(&'a Segments),
}

/// The cached keys and values of one layer, each `[G * capacity, d]`, head after head, in words of one channel or two; d is
/// that of [`Heads::padded`], and the channels that are added hold zeros.
#[derive(Clone, Debug)]
pub struct KvLayer {
    /// Keys after rotation.
    pub keys: Tensor,
    /// Values.
    pub values: Tensor,
    /// Pages: positions of all sequences there is room for.
    pub capacity: u32,
    /// The storage of both.
    pub format: KvFormat,
}

impl KvLayer {
    /// Channels of a page, d.
    pub(super) fn channels(&self) -> u32 {
        self.keys.cols() * self.format.channels_in_word()
    }
}

/// The places of rows over a cache. A page holds one position of one sequence; sequences may share pages.
#[derive(Clone, Debug)]
pub struct Rows {
    /// `[T, 2]` of u32: how far a row is past `Step.pos`, and its sequence. Over a cache that is not causal the
    /// first is the number of keys the row sees.
    pub places: Tensor,
    /// `[sequences, S]` of u32: the page of every position. With one sequence, row t is at `Step.pos + t`.
    pub pages: Tensor,
    /// The rows of each sequence and the elements of `pages` for its keys, where these are whole prompts side by side,
    /// each from its first position on. Attention then shares keys as it does for one.
    pub prompts: Option<Segments>,
}

/// One attention to be recorded. Its tensors have heads as wide as [`Heads::padded`] makes them.
struct Attention<'a> {
    /// The op's name, which ends its label.
    op: &'static str,
    /// The heads as the caller has them: the result is not padded.
    heads: Heads,
    q: Columns<'a>,
    source: Source<'a>,
    /// `[2M + 1, H]`, added to scores by the distance from row to key, which is clamped to M.
    bias: Option<&'a Tensor>,
}

/// The place keys and values come from.
enum Source<'a> {
    /// Columns of rows: key s is in row s.
    Packed { k: Columns<'a>, v: Columns<'a>, mask: Mask<'a> },
    /// Pages of a cache.
    Cached(Cached<'a>),
}

/// A cache and the rows over it. A causal row sees the keys up to its own, another one as many as its place says.
#[derive(Clone, Copy)]
struct Cached<'a> {
    kv: &'a KvLayer,
    rows: &'a Rows,
    causal: bool,
}

/// Some columns of a tensor, from `first` on.
#[derive(Clone, Copy)]
struct Columns<'a> {
    tensor: &'a Tensor,
    first: u32,
}

/// Offsets and strides of keys and values, in elements.
struct Layout {
    k_offset: u32,
    v_offset: u32,
    row_stride: u32,
    head_stride: u32,
}

impl Recorder {
    /// Self-attention over packed `[T, 3 H d]` rows of q, k and v: `-> [T, H d]`.
    pub fn attention(&mut self, qkv: &Tensor, heads: Heads, mask: Mask<'_>) -> Tensor {
        self.attention_biased(qkv, heads, mask, None)
    }

    /// [`Recorder::attention`] with `bias [2M + 1, H]` added to scores by the distance from row to key, clamped to M.
    pub fn attention_biased(&mut self, qkv: &Tensor, heads: Heads, mask: Mask<'_>, bias: Option<&Tensor>) -> Tensor {
        assert_eq!(
            (qkv.cols(), heads.query),
            (3 * heads.width(), heads.key_value),
            "attention: q, k, v of equal width"
        );
        let (qkv, d) = (&self.padded_heads(qkv, heads), heads.padded().width());
        let [q, k, v] = [0, d, 2 * d].map(|first| Columns { tensor: qkv, first });
        self.attend(&Attention { op: "attention", heads, q, source: Source::Packed { k, v, mask }, bias })
    }

    /// Attention of `q [T, H d]` over packed `kv [S, 2 H d]`: `-> [T, H d]`.
    pub fn cross_attention(&mut self, q: &Tensor, kv: &Tensor, heads: Heads, mask: Mask<'_>) -> Tensor {
        assert_eq!((q.cols(), kv.cols()), (heads.width(), 2 * heads.width()), "cross_attention: widths");
        let (q, kv) = (&self.padded_heads(q, heads), &self.padded_heads(kv, heads));
        let [k, v] = [0, heads.padded().width()].map(|first| Columns { tensor: kv, first });
        let (q, source) = (Columns::of(q), Source::Packed { k, v, mask });
        self.attend(&Attention { op: "cross_attention", heads, q, source, bias: None })
    }

    /// Causal attention of the first `H d` columns of `q [T, ..]` over the cache: `-> [T, H d]`.
    pub fn attention_cached(
        &mut self,
        q: &Tensor,
        kv: &KvLayer,
        heads: Heads,
        rows: &Rows,
        bias: Option<&Tensor>,
    ) -> Tensor {
        let q = &self.padded_heads(q, heads);
        let (q, source) = (Columns::of(q), Source::Cached(Cached { kv, rows, causal: true }));
        self.attend(&Attention { op: "attention_cached", heads, q, source, bias })
    }

    /// Attention of `q [T, H d]` over the keys of the rows' sequences, whatever the step: `-> [T, H d]`.
    pub fn cross_attention_cached(&mut self, q: &Tensor, kv: &KvLayer, heads: Heads, rows: &Rows) -> Tensor {
        let q = &self.padded_heads(q, heads);
        let (q, source) = (Columns::of(q), Source::Cached(Cached { kv, rows, causal: false }));
        self.attend(&Attention { op: "cross_attention_cached", heads, q, source, bias: None })
    }

    /// Makes of `x [T, n d]`, heads side by side, what kernels read.
    fn padded_heads(&mut self, x: &Tensor, heads: Heads) -> Tensor {
        let x = self.widened(x);
        self.fit_columns(&x, heads.dim, heads.padded().dim)
    }

    /// Records `a` in the form that suits it: `-> [T, H d]`, and its weights where someone asked for them.
    fn attend(&mut self, a: &Attention<'_>) -> Tensor {
        a.check();
        let label = self.label(a.op);
        let out = match a.source {
            Source::Cached(cache) if !a.shares_keys() => self.attention_decode(&label, a, cache),
            _ => self.attention_tile(&label, a),
        };
        let out = self.fit_columns(&out, a.heads.padded().dim, a.heads.dim);
        self.tap(&label, &out);
        self.tap_weights(&label, a);
        out
    }
}

impl<'a> Columns<'a> {
    /// Every column of `tensor`.
    fn of(tensor: &'a Tensor) -> Columns<'a> {
        Columns { tensor, first: 0 }
    }

    /// First element in the tensor's storage.
    fn offset(&self) -> u32 {
        self.tensor.offset + self.first
    }
}

impl<'a> Attention<'a> {
    fn check(&self) {
        let (op, keys) = (self.op, self.keys());
        self.heads.check(op);
        if let Source::Packed { mask: Mask::Keys(mask), .. } = self.source {
            assert_eq!(mask.len(), keys, "{op}: one mask entry per key");
        }
        let Some(bias) = self.bias else { return };
        let fits = bias.offset == 0 && bias.cols() == self.heads.query && bias.rows() % 2 == 1;
        assert!(fits, "{op}: shape of the bias");
    }

    /// Says whether many rows share their keys, which a tile then reads once for all of them.
    fn shares_keys(&self) -> bool {
        match self.source {
            Source::Packed { .. } => true,
            Source::Cached(Cached { rows, causal, .. }) => {
                causal && (rows.prompts.is_some() || self.rows() > 1 && rows.pages.rows() == 1)
            }
        }
    }

    /// Says whether the form for software adapters runs in the place of the `others`: queries begin at `starts`, and so
    /// do keys and values if they are among them, which all have to be multiples of what it reads at a time.
    fn runs_wide(&self, others: &[&Kernel], caps: &Caps, starts: &[u32]) -> bool {
        caps.is_software()
            && !others.iter().any(|other| caps.preferred == Some(other.form))
            && self.heads.padded().dim.is_multiple_of(WIDE_STEP)
            && starts.iter().all(|start| start.is_multiple_of(WIDE_STEP))
    }

    /// Rows of q, T.
    fn rows(&self) -> u32 {
        self.q.tensor.rows()
    }

    /// Keys, S: the most that a row can see. Over a cache a prompt's rows see each other, other rows the whole of it.
    fn keys(&self) -> u32 {
        match self.source {
            Source::Packed { k, .. } => k.tensor.rows(),
            Source::Cached(_) if self.shares_keys() => self.rows(),
            Source::Cached(Cached { rows, .. }) => rows.pages.cols(),
        }
    }

    /// Keys and values as whole tensors.
    fn keys_and_values(&self) -> (&'a Tensor, &'a Tensor) {
        match self.source {
            Source::Packed { k, v, .. } => (k.tensor, v.tensor),
            Source::Cached(Cached { kv, .. }) => (&kv.keys, &kv.values),
        }
    }

    /// The offsets and strides of keys and values in their tensors.
    fn layout(&self) -> Layout {
        let dim = self.heads.padded().dim;
        match self.source {
            Source::Packed { k, v, .. } => {
                Layout { k_offset: k.offset(), v_offset: v.offset(), row_stride: k.tensor.cols(), head_stride: dim }
            }
            Source::Cached(Cached { kv, .. }) => {
                assert_eq!((kv.keys.offset, kv.values.offset), (0, 0), "{}: a cache has its buffers alone", self.op);
                Layout { k_offset: 0, v_offset: 0, row_stride: kv.channels(), head_stride: kv.capacity * kv.channels() }
            }
        }
    }

    /// The storage of keys and values.
    fn kv_format(&self) -> KvFormat {
        match self.source {
            Source::Packed { .. } => KvFormat::F32,
            Source::Cached(Cached { kv, .. }) => kv.format,
        }
    }

    /// The kernels' constant MODE: how keys are hidden and found.
    fn mode(&self) -> u32 {
        match self.source {
            Source::Packed { mask: Mask::None | Mask::Segments(_), .. } => 0,
            Source::Packed { mask: Mask::Keys(_), .. } => 1,
            Source::Cached(Cached { causal: true, .. }) => 2,
            Source::Cached(Cached { causal: false, .. }) => 3,
        }
    }

    /// The tensor by which keys are hidden or found, if there is one.
    fn index(&self) -> Option<&'a Tensor> {
        match self.source {
            Source::Packed { mask: Mask::None | Mask::Segments(_), .. } => None,
            Source::Packed { mask: Mask::Keys(mask), .. } => Some(mask),
            Source::Cached(Cached { rows, .. }) => Some(&rows.pages),
        }
    }

    /// The segments, if there are several.
    fn segments(&self) -> Option<&'a Segments> {
        match self.source {
            Source::Packed { mask: Mask::Segments(segments), .. } => Some(segments),
            Source::Packed { .. } => None,
            Source::Cached(Cached { rows, .. }) => rows.prompts.as_ref(),
        }
    }

    /// M of a bias `[2M + 1, H]`.
    fn far(&self) -> u32 {
        self.bias.map_or(0, |bias| (bias.rows() - 1) / 2)
    }
}
