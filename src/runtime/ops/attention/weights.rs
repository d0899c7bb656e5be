//! The weights of an attention as a tensor, for whoever taps them: `attention_weights.wgsl`.

use bytemuck::{Pod, Zeroable};

use super::{Attention, Cached, Layout, Source};
use crate::runtime::kernels;
use crate::runtime::recorder::{Dispatch, Recorder};

/// `Params` of `shaders/attention_weights.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
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

impl Recorder {
    /// Makes `[H T, S]`, what values are weighed by, where someone asked for it. There must be one segment, and
    /// over a cache one sequence.
    pub(super) fn tap_weights(&mut self, label: &str, a: &Attention<'_>) {
        let label = format!("{label}.weights");
        let of_several =
            a.segments().is_some() || matches!(a.source, Source::Cached(Cached { rows, .. }) if rows.pages.rows() > 1);
        if of_several || !self.is_tapped(&label) {
            return;
        }
        let (params, heads, q) = (params(a), a.heads.padded(), a.q.tensor);
        let out = self.empty(heads.query * params.t, params.s);
        let (k, v) = a.keys_and_values();
        let dispatch = Dispatch::new(&kernels::ATTENTION_WEIGHTS[a.kv_format() as usize], &label)
            .constant("WG", self.caps().row_workgroup())
            .constant("MODE", a.mode())
            .constant("BIAS", a.bias.is_some())
            .reads([q, k, v, a.index().unwrap_or(q), a.bias.unwrap_or(q)])
            .reads_step()
            .writes([&out])
            .params(&params)
            .grid([params.t, heads.query, 1])
            .flops(2 * u64::from(params.t) * u64::from(params.s) * u64::from(heads.width()));
        self.push(dispatch);
        self.tap(&label, &out);
    }
}

fn params(a: &Attention<'_>) -> Params {
    let (heads, Layout { k_offset, row_stride, head_stride, .. }) = (a.heads.padded(), a.layout());
    Params {
        t: a.rows(),
        s: a.keys(),
        group: heads.group(),
        d: heads.dim,
        q_offset: a.q.offset(),
        q_stride: a.q.tensor.cols(),
        k_offset,
        k_row_stride: row_stride,
        k_head_stride: head_stride,
        index_offset: a.index().map_or(0, |index| index.offset),
        heads: heads.query,
        far: a.far(),
        scale: heads.scale,
    }
}
