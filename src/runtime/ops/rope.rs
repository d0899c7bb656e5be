//! Rotary position embedding, joined with the store into the cache.

use bytemuck::{Pod, Zeroable};

use super::attention::{Heads, KvLayer, Rows};
use crate::runtime::buffers::Tensor;
use crate::runtime::kernels;
use crate::runtime::recorder::{Binding, Dispatch, Recorder, fold};

/// `Params` of `shaders/rope.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    t: u32,
    heads: u32,
    kv_heads: u32,
    d: u32,
    capacity: u32,
    pages_offset: u32,
    pages_stride: u32,
}

impl Recorder {
    /// Rotates q and k of packed `qkv [T, (H + 2G) d]` by the angles of the rows' positions, stores
    /// k and v in the cache and returns q `[T, H d]`. `angles` is `[positions, d]`: cos and sin alternating.
    pub fn rope_store(&mut self, qkv: &Tensor, angles: &Tensor, kv: &KvLayer, heads: Heads, rows: &Rows) -> Tensor {
        let width = (heads.query + 2 * heads.key_value) * heads.dim;
        assert_eq!((qkv.cols(), qkv.offset, angles.cols()), (width, 0, heads.dim), "rope_store: shapes");
        assert!(angles.rows() >= rows.pages.cols(), "rope_store: angles for every position");
        assert_eq!(rows.places.rows(), qkv.rows(), "rope_store: one place per row");
        let q = self.empty(qkv.rows(), heads.query * heads.dim);
        let params = Params {
            t: qkv.rows(),
            heads: heads.query,
            kv_heads: heads.key_value,
            d: heads.dim,
            capacity: kv.capacity,
            pages_offset: rows.pages.offset,
            pages_stride: rows.pages.cols(),
        };
        let label = self.label("rope_store");
        self.push(Dispatch {
            label: label.clone(),
            kernel: &kernels::ROPE,
            constants: Vec::new(),
            bindings: vec![
                qkv.into(),
                angles.into(),
                (&rows.places).into(),
                (&rows.pages).into(),
                Binding::Step,
                (&q).into(),
                (&kv.keys).into(),
                (&kv.values).into(),
            ],
            params: bytemuck::bytes_of(&params).to_vec(),
            grid: fold(u64::from(qkv.len() / 2), 64),
            flops: 3 * u64::from(qkv.len()),
            needs: None,
        });
        self.tap(&label, &q);
        q
    }
}
