//! Attention of rows by themselves over a cache: `attention_decode.wgsl`, whose last workgroup of a row and head joins the
//! shares of the keys, and `attention_decode_software.wgsl`.

use bytemuck::{Pod, Zeroable};

use super::{Attention, Cached, HEAD_DIM_STEP};
use crate::runtime::caps::{AdapterClass, Caps, Tuning};
use crate::runtime::kernels::{self, Kernel};
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
        let format = cache.kv.format as usize;
        let [whole, shared, software] =
            [&kernels::ATTENTION_DECODE, &kernels::ATTENTION_DECODE_SHARES, &kernels::ATTENTION_DECODE_SOFTWARE]
                .map(|kernels| &kernels[format]);
        let others: &[&Kernel] = if self.caps().coherent { &[whole, shared] } else { &[whole] };
        let wide = a.runs_wide(others, self.caps(), &[a.q.offset(), a.q.tensor.cols()]);
        let splits =
            if wide { 1 } else { shares(self.typical_rows(t) * heads.query, cache.rows.pages.cols(), self.caps()) };
        if splits == 1 {
            let kernel = if wide { software } else { whole };
            let out = self.empty(t, heads.width());
            self.push(dispatch(kernel, label, a, cache, &out));
            return out;
        }
        // The shares lie behind the result.
        let behind = t * heads.query * splits * (heads.dim + SHARE_TOTALS);
        let all = self.empty(t + behind.div_ceil(heads.width()), heads.width());
        let dispatch = dispatch(shared, label, a, cache, &all)
            .counts_arrivals(t * heads.query)
            .sizes([("SPLITS", splits)])
            .grid([heads.query, splits, t]);
        self.push(dispatch);
        all.slice_rows(0, t)
    }
}

/// One workgroup of `kernel` for each row and head, which writes to `out`.
fn dispatch(kernel: &'static Kernel, label: &str, a: &Attention<'_>, cache: Cached<'_>, out: &Tensor) -> Dispatch {
    let Cached { kv, rows, causal } = cache;
    let (q, heads) = (a.q.tensor, a.heads.padded());
    assert_eq!(rows.places.rows(), q.rows(), "{}: one place per row", a.op);
    assert_eq!(kv.channels(), heads.dim, "{}: channels of the cache", a.op);
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
    Dispatch::new(kernel, label)
        .constant("HEAD_DIM", heads.dim)
        .constant("CAUSAL", causal)
        .constant("BIAS", a.bias.is_some())
        .reads([q, &kv.keys, &kv.values, &rows.places, &rows.pages, a.bias.unwrap_or(q)])
        .reads_step()
        .writes([out])
        .params(&params)
        .grid([heads.query, 1, q.rows()])
        .flops(4 * u64::from(rows.pages.cols()) * u64::from(q.rows() * heads.width()))
}

/// Shares to split the keys into: as many as there are chunks of keys, at most as many as are good for the adapter. None
/// where rows and heads fill a GPU by themselves, or where its workgroups cannot tell each other that they are done.
fn shares(rows_and_heads: u32, keys: u32, caps: &Caps) -> u32 {
    let most = match caps.preferred {
        Some(form) if form == kernels::ATTENTION_DECODE[0].form => 1,
        Some(form) if form == kernels::ATTENTION_DECODE_SHARES[0].form => Tuning::of(AdapterClass::Gpu).decode_splits,
        _ => caps.tuning.decode_splits,
    };
    let alone = rows_and_heads >= DECODE_WORKGROUPS || !caps.coherent;
    if alone { 1 } else { keys.div_ceil(DECODE_KEYS).clamp(1, most) }
}
