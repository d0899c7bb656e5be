//! Softmax attention: full, with a key mask, and causal over a paged key and value cache.

use bytemuck::{Pod, Zeroable};

use crate::runtime::caps::Caps;
use crate::runtime::kernels::{self, Kernel};
use crate::runtime::recorder::{Dispatch, Recorder};
use crate::runtime::tensor::Tensor;

/// `Params` of `shaders/attention_tile.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct TileParams {
    t: u32,
    s: u32,
    group: u32,
    q_offset: u32,
    q_stride: u32,
    k_offset: u32,
    k_row_stride: u32,
    k_head_stride: u32,
    v_offset: u32,
    v_row_stride: u32,
    v_head_stride: u32,
    out_stride: u32,
    index_offset: u32,
    heads: u32,
    far: u32,
    scale: f32,
}

/// `Params` of `shaders/attention_weights.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct WeightsParams {
    t: u32,
    s: u32,
    group: u32,
    d: u32,
    q_offset: u32,
    q_stride: u32,
    k_offset: u32,
    k_row_stride: u32,
    k_head_stride: u32,
    index_offset: u32,
    heads: u32,
    far: u32,
    scale: f32,
}

/// `Params` of `shaders/attention_decode.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct DecodeParams {
    heads: u32,
    group: u32,
    capacity: u32,
    q_offset: u32,
    q_stride: u32,
    pages_offset: u32,
    pages_stride: u32,
    far: u32,
    scale: f32,
}

/// `Params` of `shaders/attention_combine.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct CombineParams {
    d: u32,
    splits: u32,
}

/// Rows of q that a workgroup of `attention_tile_software` takes.
const SOFTWARE_ROWS: u32 = 16;

/// Workgroups of `attention_tile` with 32 rows that keep a GPU busy: about two for each processor of a large one.
const TILE_WORKGROUPS: u32 = 256;

/// Keys that a workgroup of `attention_decode` takes at once: a share of fewer leaves some of it idle.
const DECODE_KEYS: u32 = 64;

/// Workgroups of `attention_decode` that fill a GPU without shares: most have fewer processors than this.
const DECODE_WORKGROUPS: u32 = 128;

/// Largest head the kernels take.
pub const MAX_HEAD_DIM: u32 = 256;

/// Kernels read the channels of a head four at a time: heads of other widths are padded with zeros.
const HEAD_DIM_STEP: u32 = 4;

/// How attention heads are laid out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    /// Query heads, H.
    pub query: u32,
    /// Key and value heads, G; H / G query heads share each.
    pub key_value: u32,
    /// Channels per head, d.
    pub dim: u32,
    /// What scores are multiplied by.
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

    /// The same heads with scores as they are: T5 puts the scale into its weights.
    #[must_use]
    pub fn unscaled(self) -> Heads {
        Heads { scale: 1.0, ..self }
    }

    /// Columns of q: `H d`.
    pub fn width(&self) -> u32 {
        self.query * self.dim
    }

    /// The same heads with as many channels as kernels and caches have for each: the next multiple of 4. Zeros there
    /// change no product.
    #[must_use]
    pub fn padded(self) -> Heads {
        Heads { dim: self.dim.next_multiple_of(HEAD_DIM_STEP), ..self }
    }

    fn check(&self, op: &str) {
        let fits = (1..=MAX_HEAD_DIM).contains(&self.dim);
        assert!(fits && self.query.is_multiple_of(self.key_value), "{op}: heads {self:?}");
    }
}

/// Which keys a row sees.
#[derive(Clone, Copy, Debug)]
pub enum Mask<'a> {
    /// All.
    None,
    /// Those whose entry in this `[1, S]` tensor of u32 is not 0.
    Keys(&'a Tensor),
}

/// The cached keys and values of one layer, each `[G * capacity, d]`, head after head; d as [`Heads::padded`] has it, what
/// is added being zeros.
#[derive(Clone, Debug)]
pub struct KvLayer {
    /// Keys after rotation.
    pub keys: Tensor,
    /// Values.
    pub values: Tensor,
    /// Pages: positions of all sequences there is room for.
    pub capacity: u32,
}

/// Where rows over a cache stand. A page holds one position of one sequence; sequences may share pages.
#[derive(Clone, Debug)]
pub struct Rows {
    /// `[T, 2]` of u32: how far a row is past `Step.pos`, and its sequence. Over a cache that is not causal the
    /// first is the number of keys the row sees.
    pub places: Tensor,
    /// `[sequences, S]` of u32: the page of every position. With one sequence, row t is at `Step.pos + t`.
    pub pages: Tensor,
}

/// One operation's queries, keys and values, and which of them it weighs how.
struct Attention<'a> {
    q: Columns<'a>,
    k: Columns<'a>,
    v: Columns<'a>,
    /// Whether k and v are caches, laid out head by head.
    paged: bool,
    index: Option<&'a Tensor>,
    bias: Option<&'a Tensor>,
    mode: f64,
    keys: u32,
}

impl Recorder {
    /// Self-attention over packed `[T, 3 H d]` rows of q, k and v: `-> [T, H d]`.
    pub fn attention(&mut self, qkv: &Tensor, heads: Heads, mask: Mask<'_>) -> Tensor {
        self.attention_biased(qkv, heads, mask, None)
    }

    /// The same with `bias [2M + 1, H]` added to scores by the distance from row to key, clamped to M.
    pub fn attention_biased(&mut self, qkv: &Tensor, heads: Heads, mask: Mask<'_>, bias: Option<&Tensor>) -> Tensor {
        assert_eq!(
            (qkv.cols(), heads.query),
            (3 * heads.width(), heads.key_value),
            "attention: q, k, v of equal width"
        );
        let (qkv, d) = (&self.padded_heads(qkv, heads), heads.padded().width());
        let columns = |first| Columns { tensor: qkv, first };
        self.attention_full("attention", columns(0), columns(d), columns(2 * d), heads, mask, bias)
    }

    /// Attention of `q [T, H d]` over packed `kv [S, 2 H d]`: `-> [T, H d]`.
    pub fn cross_attention(&mut self, q: &Tensor, kv: &Tensor, heads: Heads) -> Tensor {
        assert_eq!((q.cols(), kv.cols()), (heads.width(), 2 * heads.width()), "cross_attention: widths");
        let (q, kv) = (&self.padded_heads(q, heads), &self.padded_heads(kv, heads));
        let d = heads.padded().width();
        let columns = |tensor, first| Columns { tensor, first };
        self.attention_full("cross_attention", columns(q, 0), columns(kv, 0), columns(kv, d), heads, Mask::None, None)
    }

    #[allow(clippy::too_many_arguments)]
    fn attention_full(
        &mut self,
        op: &str,
        q: Columns<'_>,
        k: Columns<'_>,
        v: Columns<'_>,
        heads: Heads,
        mask: Mask<'_>,
        bias: Option<&Tensor>,
    ) -> Tensor {
        let keys = k.tensor.rows();
        let (mode, index) = match mask {
            Mask::None => (0.0, None),
            Mask::Keys(mask) => {
                assert_eq!(mask.len(), keys, "{op}: one mask entry per key");
                (1.0, Some(mask))
            }
        };
        self.launch_tile(op, &Attention { q, k, v, paged: false, index, bias, mode, keys }, heads)
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
        if q.rows() == 1 || rows.pages.rows() > 1 {
            return self.attention_decode("attention_cached", q, kv, heads, rows, bias, true);
        }
        let q = &self.padded_heads(q, heads);
        let columns = |tensor| Columns { tensor, first: 0 };
        let (q, k, v) = (columns(q), columns(&kv.keys), columns(&kv.values));
        // How many keys there are is the step's business; a prompt's rows see each other.
        let (index, keys) = (Some(&rows.pages), q.tensor.rows());
        let prompt = Attention { q, k, v, paged: true, index, bias, mode: 2.0, keys };
        self.launch_tile("attention_cached", &prompt, heads)
    }

    /// Attention of `q [T, H d]` over the keys of the rows' sequences, whatever the step: `-> [T, H d]`.
    pub fn cross_attention_cached(&mut self, q: &Tensor, kv: &KvLayer, heads: Heads, rows: &Rows) -> Tensor {
        self.attention_decode("cross_attention_cached", q, kv, heads, rows, None, false)
    }

    /// `x [T, n d]`, heads side by side, as kernels read it.
    fn padded_heads(&mut self, x: &Tensor, heads: Heads) -> Tensor {
        self.fit_columns(x, heads.dim, heads.padded().dim)
    }

    /// Of padded queries, keys and values; what is returned is not.
    fn launch_tile(&mut self, op: &str, a: &Attention<'_>, heads: Heads) -> Tensor {
        heads.check(op);
        let (dim, heads) = (heads.dim, heads.padded());
        let rows = a.q.tensor.rows();
        let out = self.empty(rows, heads.width());
        let params = a.params(heads);
        let TileParams { q_offset, q_stride, k_offset, k_row_stride, k_head_stride, v_offset, .. } = params;
        let places = [q_offset, q_stride, k_offset, k_row_stride, k_head_stride, v_offset];
        assert!(places.iter().all(|place| place.is_multiple_of(HEAD_DIM_STEP)), "{op}: starts {places:?}");
        let software = wide(&kernels::ATTENTION_TILE, self.caps(), heads, &places);
        let tile = if software { SOFTWARE_ROWS } else { tile_rows(rows, heads.query) };
        let label = self.label(op);
        let kernel = if software { &kernels::ATTENTION_TILE_SOFTWARE } else { &kernels::ATTENTION_TILE };
        let mut dispatch = Dispatch::new(kernel, &label)
            .constant("HEAD_DIM", heads.dim)
            .constant("MODE", a.mode)
            .constant("BIAS", a.bias.is_some())
            .reads([a.q.tensor, a.k.tensor, a.v.tensor, a.index.unwrap_or(a.q.tensor), a.bias.unwrap_or(a.q.tensor)])
            .reads_step()
            .writes([&out])
            .params(&params)
            .grid([rows.div_ceil(tile), heads.query, 1])
            .flops(4 * u64::from(rows) * u64::from(a.keys) * u64::from(heads.width()));
        if !software {
            dispatch = dispatch.constant("ROWS", tile);
        }
        self.push(dispatch);
        let out = self.fit_columns(&out, heads.dim, dim);
        self.tap(&label, &out);
        self.tap_weights(&label, a, heads);
        out
    }

    /// What the values are weighed by, `[H T, S]`, where someone asked for it. Over a cache, of one sequence.
    fn tap_weights(&mut self, label: &str, a: &Attention<'_>, heads: Heads) {
        let label = format!("{label}.weights");
        if !self.is_tapped(&label) {
            return;
        }
        let tile = a.params(heads);
        let out = self.empty(heads.query * tile.t, tile.s);
        let workgroup = self.caps().row_workgroup();
        let TileParams { t, s, group, q_offset, q_stride, k_offset, k_row_stride, k_head_stride, .. } = tile;
        let TileParams { index_offset, heads: all, far, scale, .. } = tile;
        let d = heads.dim;
        let params = WeightsParams {
            t,
            s,
            group,
            d,
            q_offset,
            q_stride,
            k_offset,
            k_row_stride,
            k_head_stride,
            index_offset,
            heads: all,
            far,
            scale,
        };
        let dispatch = Dispatch::new(&kernels::ATTENTION_WEIGHTS, &label)
            .constant("WG", workgroup)
            .constant("MODE", a.mode)
            .constant("BIAS", a.bias.is_some())
            .reads([a.q.tensor, a.k.tensor, a.index.unwrap_or(a.q.tensor), a.bias.unwrap_or(a.q.tensor)])
            .reads_step()
            .writes([&out])
            .params(&params)
            .grid([t, heads.query, 1])
            .flops(2 * u64::from(t) * u64::from(s) * u64::from(heads.width()));
        self.push(dispatch);
        self.tap(&label, &out);
    }

    #[allow(clippy::too_many_arguments)]
    fn attention_decode(
        &mut self,
        op: &str,
        q: &Tensor,
        kv: &KvLayer,
        heads: Heads,
        rows: &Rows,
        bias: Option<&Tensor>,
        causal: bool,
    ) -> Tensor {
        heads.check(op);
        let (q, dim, heads) = (&self.padded_heads(q, heads), heads.dim, heads.padded());
        assert_eq!(rows.places.rows(), q.rows(), "{op}: one place per row");
        assert_eq!(kv.keys.cols(), heads.dim, "{op}: channels of the cache");
        assert!([q.offset, q.cols()].iter().all(|place| place.is_multiple_of(HEAD_DIM_STEP)), "{op}: where q starts");
        let software = wide(&kernels::ATTENTION_DECODE, self.caps(), heads, &[q.offset, q.cols()]);
        // One subgroup is all that works on a head there, and there are few threads to fill.
        let most = if software { 1 } else { self.caps().tuning.decode_splits };
        let splits = shares(q.rows() * heads.query, rows.pages.cols(), most);
        let out = self.empty(q.rows(), heads.width());
        let shares = if splits > 1 { self.empty(q.rows() * heads.query * splits, heads.dim + 4) } else { out.clone() };
        let label = self.label(op);
        let params = DecodeParams {
            heads: heads.query,
            group: heads.query / heads.key_value,
            capacity: kv.capacity,
            q_offset: q.offset,
            q_stride: q.cols(),
            pages_offset: rows.pages.offset,
            pages_stride: rows.pages.cols(),
            far: far(bias, heads),
            scale: heads.scale,
        };
        let kernel = if software { &kernels::ATTENTION_DECODE_SOFTWARE } else { &kernels::ATTENTION_DECODE };
        let mut dispatch = Dispatch::new(kernel, &label)
            .constant("HEAD_DIM", heads.dim)
            .constant("CAUSAL", causal)
            .constant("BIAS", bias.is_some())
            .reads([q, &kv.keys, &kv.values, &rows.places, &rows.pages, bias.unwrap_or(q)])
            .reads_step()
            .writes([&shares])
            .params(&params)
            .grid([heads.query, splits, q.rows()])
            .flops(4 * u64::from(rows.pages.cols()) * u64::from(q.rows() * heads.width()));
        if !software {
            dispatch = dispatch.constant("SPLITS", splits);
        }
        self.push(dispatch);
        if splits > 1 {
            let dispatch = Dispatch::new(&kernels::ATTENTION_COMBINE, &label)
                .reads([&shares])
                .writes([&out])
                .params(&CombineParams { d: heads.dim, splits })
                .grid([heads.query, q.rows(), 1])
                .flops(2 * u64::from(q.rows() * splits * heads.width()));
            self.push(dispatch);
        }
        let out = self.fit_columns(&out, heads.dim, dim);
        self.tap(&label, &out);
        if rows.pages.rows() == 1 {
            let columns = |tensor| Columns { tensor, first: 0 };
            let (q, k, v) = (columns(q), columns(&kv.keys), columns(&kv.values));
            let (mode, index, keys) = (if causal { 2.0 } else { 3.0 }, Some(&rows.pages), rows.pages.cols());
            self.tap_weights(&label, &Attention { q, k, v, paged: true, index, bias, mode, keys }, heads);
        }
        out
    }
}

impl Attention<'_> {
    fn params(&self, heads: Heads) -> TileParams {
        let (row_stride, head_stride) = match self.paged {
            true => (self.k.tensor.cols(), self.k.tensor.len() / heads.key_value),
            false => (self.k.tensor.cols(), heads.dim),
        };
        TileParams {
            t: self.q.tensor.rows(),
            s: self.keys,
            group: heads.query / heads.key_value,
            q_offset: self.q.tensor.offset + self.q.first,
            q_stride: self.q.tensor.cols(),
            k_offset: self.k.tensor.offset + self.k.first,
            k_row_stride: row_stride,
            k_head_stride: head_stride,
            v_offset: self.v.tensor.offset + self.v.first,
            v_row_stride: row_stride,
            v_head_stride: head_stride,
            out_stride: heads.width(),
            index_offset: self.index.map_or(0, |index| index.offset),
            heads: heads.query,
            far: far(self.bias, heads),
            scale: heads.scale,
        }
    }
}

/// Whether the form of `portable` for software adapters runs in its place: it reads eight numbers at a time, so all that
/// it starts from has to be a multiple of that.
fn wide(portable: &Kernel, caps: &Caps, heads: Heads, places: &[u32]) -> bool {
    caps.is_software()
        && caps.preferred != Some(portable.form)
        && heads.dim.is_multiple_of(8)
        && places.iter().all(|place| place.is_multiple_of(8))
}

/// Rows of q that a workgroup of `attention_tile` takes: 32, which read keys and values half as often, where they are
/// enough to keep a GPU busy; else 16 make twice as many workgroups.
fn tile_rows(rows: u32, heads: u32) -> u32 {
    if rows.div_ceil(32) * heads >= TILE_WORKGROUPS { 32 } else { 16 }
}

/// Shares to split the keys into: as many as there are chunks of keys, at most `most`. None where rows and heads fill a
/// GPU by themselves: a second dispatch that joins the shares would take longer than it saves.
fn shares(rows_and_heads: u32, keys: u32, most: u32) -> u32 {
    if rows_and_heads >= DECODE_WORKGROUPS { 1 } else { keys.div_ceil(DECODE_KEYS).clamp(1, most) }
}

/// M of a bias `[2M + 1, H]`.
fn far(bias: Option<&Tensor>, heads: Heads) -> u32 {
    let Some(bias) = bias else { return 0 };
    assert!(bias.offset == 0 && bias.cols() == heads.query && bias.rows() % 2 == 1, "attention: shape of the bias");
    (bias.rows() - 1) / 2
}

/// Some columns of a tensor, from `first` on.
struct Columns<'a> {
    tensor: &'a Tensor,
    first: u32,
}
