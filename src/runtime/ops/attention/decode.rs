//! Attention of rows by themselves over a cache: `attention_decode.wgsl`, whose shares of the keys
//! `attention_combine.wgsl` joins, and `attention_decode_software.wgsl`.

use bytemuck::{Pod, Zeroable};

use super::{Attention, Cached, HEAD_DIM_STEP};
use crate::runtime::kernels;
use crate::runtime::recorder::{Dispatch, Recorder};
use crate::runtime::tensor::Tensor;

/// `Params` of `shaders/attention_decode.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
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

/// Keys that a workgroup of `attention_decode` takes at once: a share of fewer leaves some of it idle.
const DECODE_KEYS: u32 = 64;

/// Workgroups of `attention_decode` that fill a GPU without shares: most have fewer processors than this.
const DECODE_WORKGROUPS: u32 = 128;

/// Numbers that a share has behind its d channels: its largest score, the sum of its weights, and two zeros.
const SHARE_TOTALS: u32 = 4;

impl Recorder {
    /// Records `a` row by row: `-> [T, H d]`, d padded.
    pub(super) fn attention_decode(&mut self, label: &str, a: &Attention<'_>, cache: Cached<'_>) -> Tensor {
        let (t, heads) = (a.rows(), a.heads.padded());
        let wide = a.runs_wide(&kernels::ATTENTION_DECODE, self.caps(), &[a.q.offset(), a.q.tensor.cols()]);
        // One subgroup is all that works on a head there, and there are few threads to fill.
        let most = if wide { 1 } else { self.caps().tuning.decode_splits };
        let splits = shares(t * heads.query, cache.rows.pages.cols(), most);
        let out = self.empty(t, heads.width());
        if splits == 1 {
            self.push(dispatch(label, a, cache, wide, 1, &out));
            return out;
        }
        let shares = self.empty(t * heads.query * splits, heads.dim + SHARE_TOTALS);
        self.push(dispatch(label, a, cache, wide, splits, &shares));
        let combine = Dispatch::new(&kernels::ATTENTION_COMBINE, label)
            .reads([&shares])
            .writes([&out])
            .params(&CombineParams { d: heads.dim, splits })
            .grid([heads.query, t, 1])
            .flops(2 * u64::from(t * splits * heads.width()));
        self.push(combine);
        out
    }
}

/// Makes `splits` shares for each row and head; where there is one, it is the result.
fn dispatch(label: &str, a: &Attention<'_>, cache: Cached<'_>, wide: bool, splits: u32, to: &Tensor) -> Dispatch {
    let Cached { kv, rows, causal } = cache;
    let (q, heads) = (a.q.tensor, a.heads.padded());
    assert_eq!(rows.places.rows(), q.rows(), "{}: one place per row", a.op);
    assert_eq!(kv.keys.cols(), heads.dim, "{}: channels of the cache", a.op);
    let fits = [q.offset, q.cols()].iter().all(|place| place.is_multiple_of(HEAD_DIM_STEP));
    assert!(fits, "{}: where q starts", a.op);
    let params = Params {
        heads: heads.query,
        group: heads.group(),
        capacity: kv.capacity,
        q_offset: q.offset,
        q_stride: q.cols(),
        pages_offset: rows.pages.offset,
        pages_stride: rows.pages.cols(),
        far: a.far(),
        scale: heads.scale,
    };
    let kernel = if wide { &kernels::ATTENTION_DECODE_SOFTWARE } else { &kernels::ATTENTION_DECODE };
    Dispatch::new(kernel, label)
        .constant("HEAD_DIM", heads.dim)
        .constant("CAUSAL", causal)
        .constant("BIAS", a.bias.is_some())
        // Only the portable kernel leaves its shares open.
        .sizes((!wide).then_some(("SPLITS", splits)))
        .reads([q, &kv.keys, &kv.values, &rows.places, &rows.pages, a.bias.unwrap_or(q)])
        .reads_step()
        .writes([to])
        .params(&params)
        .grid([heads.query, splits, q.rows()])
        .flops(4 * u64::from(rows.pages.cols()) * u64::from(q.rows() * heads.width()))
}

/// Shares to split the keys into: as many as there are chunks of keys, at most `most`. None where rows and heads fill a
/// GPU by themselves: a second dispatch that joins the shares would take longer than it saves.
fn shares(rows_and_heads: u32, keys: u32, most: u32) -> u32 {
    if rows_and_heads >= DECODE_WORKGROUPS { 1 } else { keys.div_ceil(DECODE_KEYS).clamp(1, most) }
}
