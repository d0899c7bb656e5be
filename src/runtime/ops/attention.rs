//! Softmax attention: full, with a key mask, and causal over a key and value cache.

use bytemuck::{Pod, Zeroable};

use crate::runtime::buffers::Tensor;
use crate::runtime::device::AdapterClass;
use crate::runtime::kernels;
use crate::runtime::recorder::{Binding, Dispatch, Recorder};

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
    scale: f32,
}

/// `Params` of `shaders/attention_decode.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct DecodeParams {
    group: u32,
    capacity: u32,
    scale: f32,
}

/// `Params` of `shaders/attention_combine.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct CombineParams {
    d: u32,
    splits: u32,
}

/// Largest head the kernels keep in workgroup memory.
pub const MAX_HEAD_DIM: u32 = 256;

/// Shares the keys are split into for one new row: 32 heads times 8 give a large GPU two workgroups a unit.
const SPLITS: u32 = 8;

/// How attention heads are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads, H.
    pub query: u32,
    /// Key and value heads, G; H / G query heads share each.
    pub key_value: u32,
    /// Channels per head, d.
    pub dim: u32,
}

impl Heads {
    /// H heads of `dim` channels, each with its own keys and values.
    pub fn full(heads: u32, dim: u32) -> Heads {
        Heads { query: heads, key_value: heads, dim }
    }

    /// `1 / √d`.
    pub fn scale(&self) -> f32 {
        (1.0 / f64::from(self.dim).sqrt()) as f32
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

/// The cached keys and values of one layer, each `[G * capacity, d]`, head after head.
#[derive(Clone, Debug)]
pub struct KvLayer {
    /// Keys after rotation.
    pub keys: Tensor,
    /// Values.
    pub values: Tensor,
    /// Positions there is room for.
    pub capacity: u32,
}

struct Tile<'a> {
    q: &'a Tensor,
    k: &'a Tensor,
    v: &'a Tensor,
    mask: Option<&'a Tensor>,
    mode: f64,
    params: TileParams,
}

impl Recorder {
    /// Self-attention over packed `[T, 3D]` rows of q, k and v: `-> [T, D]`.
    pub fn attention(&mut self, qkv: &Tensor, heads: Heads, mask: Mask<'_>) -> Tensor {
        let d = heads.query * heads.dim;
        assert_eq!((qkv.cols(), heads.query), (3 * d, heads.key_value), "attention: q, k and v of equal width");
        let columns = |tensor, first| Columns { tensor, first };
        self.attention_full("attention", columns(qkv, 0), columns(qkv, d), columns(qkv, 2 * d), heads, mask)
    }

    /// Attention of `q [T, D]` over packed `kv [S, 2D]`: `-> [T, D]`.
    pub fn cross_attention(&mut self, q: &Tensor, kv: &Tensor, heads: Heads) -> Tensor {
        let d = heads.query * heads.dim;
        assert_eq!((q.cols(), kv.cols()), (d, 2 * d), "cross_attention: widths");
        let columns = |tensor, first| Columns { tensor, first };
        self.attention_full("cross_attention", columns(q, 0), columns(kv, 0), columns(kv, d), heads, Mask::None)
    }

    fn attention_full(
        &mut self,
        op: &str,
        q: Columns<'_>,
        k: Columns<'_>,
        v: Columns<'_>,
        heads: Heads,
        mask: Mask<'_>,
    ) -> Tensor {
        let (mode, mask) = match mask {
            Mask::None => (0.0, None),
            Mask::Keys(mask) => {
                assert_eq!(mask.len(), k.tensor.rows(), "{op}: one mask entry per key");
                (1.0, Some(mask))
            }
        };
        let params = TileParams {
            t: q.tensor.rows(),
            s: k.tensor.rows(),
            group: heads.query / heads.key_value,
            q_offset: q.tensor.offset + q.first,
            q_stride: q.tensor.cols(),
            k_offset: k.tensor.offset + k.first,
            k_row_stride: k.tensor.cols(),
            k_head_stride: heads.dim,
            v_offset: v.tensor.offset + v.first,
            v_row_stride: v.tensor.cols(),
            v_head_stride: heads.dim,
            out_stride: heads.query * heads.dim,
            scale: heads.scale(),
        };
        self.launch_tile(op, Tile { q: q.tensor, k: k.tensor, v: v.tensor, mask, mode, params }, heads)
    }

    /// Causal attention of `q [T, H d]` at positions `Step.pos ..` over the cache: `-> [T, H d]`.
    pub fn attention_cached(&mut self, q: &Tensor, kv: &KvLayer, heads: Heads) -> Tensor {
        assert_eq!(q.cols(), heads.query * heads.dim, "attention_cached: width");
        // One row on a GPU needs the keys split to fill it; a software adapter pays more for a second dispatch.
        if q.rows() == 1 && self.caps().class == AdapterClass::Gpu {
            return self.attention_decode(q, kv, heads);
        }
        let params = TileParams {
            t: q.rows(),
            s: 0,
            group: heads.query / heads.key_value,
            q_offset: q.offset,
            q_stride: q.cols(),
            k_offset: 0,
            k_row_stride: heads.dim,
            k_head_stride: kv.capacity * heads.dim,
            v_offset: 0,
            v_row_stride: heads.dim,
            v_head_stride: kv.capacity * heads.dim,
            out_stride: heads.query * heads.dim,
            scale: heads.scale(),
        };
        let tile = Tile { q, k: &kv.keys, v: &kv.values, mask: None, mode: 2.0, params };
        self.launch_tile("attention_cached", tile, heads)
    }

    fn launch_tile(&mut self, op: &str, tile: Tile<'_>, heads: Heads) -> Tensor {
        assert!(heads.dim <= MAX_HEAD_DIM && heads.query.is_multiple_of(heads.key_value), "{op}: heads {heads:?}");
        let rows = tile.params.t;
        let out = self.empty(rows, heads.query * heads.dim);
        let workgroup = if self.caps().class == AdapterClass::Gpu { 64.0 } else { 8.0 };
        let label = self.label(op);
        // Over a cache the keys are counted by the step; the capacity bounds them.
        let keys = if tile.params.s > 0 { tile.params.s } else { rows };
        self.push(Dispatch {
            label: label.clone(),
            kernel: &kernels::ATTENTION_TILE,
            constants: vec![("WG", workgroup), ("HEAD_DIM", f64::from(heads.dim)), ("MODE", tile.mode)],
            bindings: vec![
                tile.q.into(),
                tile.k.into(),
                tile.v.into(),
                tile.mask.unwrap_or(tile.q).into(),
                Binding::Step,
                (&out).into(),
            ],
            params: bytemuck::bytes_of(&tile.params).to_vec(),
            grid: [rows.div_ceil(4), heads.query, 1],
            flops: 4 * u64::from(rows) * u64::from(keys) * u64::from(heads.query * heads.dim),
        });
        self.tap(&label, &out);
        out
    }

    fn attention_decode(&mut self, q: &Tensor, kv: &KvLayer, heads: Heads) -> Tensor {
        assert!(heads.dim <= MAX_HEAD_DIM && q.offset == 0, "attention_cached: heads {heads:?}");
        let partials = self.empty(heads.query * SPLITS, heads.dim + 2);
        let out = self.empty(1, heads.query * heads.dim);
        let label = self.label("attention_cached");
        let group = heads.query / heads.key_value;
        let params = DecodeParams { group, capacity: kv.capacity, scale: heads.scale() };
        self.push(Dispatch {
            label: label.clone(),
            kernel: &kernels::ATTENTION_DECODE,
            constants: vec![("WG", 64.0), ("HEAD_DIM", f64::from(heads.dim)), ("SPLITS", f64::from(SPLITS))],
            bindings: vec![q.into(), (&kv.keys).into(), (&kv.values).into(), Binding::Step, (&partials).into()],
            params: bytemuck::bytes_of(&params).to_vec(),
            grid: [heads.query, SPLITS, 1],
            flops: 4 * u64::from(kv.capacity) * u64::from(heads.query * heads.dim),
        });
        self.push(Dispatch {
            label: label.clone(),
            kernel: &kernels::ATTENTION_COMBINE,
            constants: Vec::new(),
            bindings: vec![(&partials).into(), (&out).into()],
            params: bytemuck::bytes_of(&CombineParams { d: heads.dim, splits: SPLITS }).to_vec(),
            grid: [heads.query, 1, 1],
            flops: 2 * u64::from(SPLITS * heads.query * heads.dim),
        });
        self.tap(&label, &out);
        out
    }
}

/// Some columns of a tensor, from `first` on.
struct Columns<'a> {
    tensor: &'a Tensor,
    first: u32,
}
