//! Keys and values into a cache as they are, without rotation.

use bytemuck::{Pod, Zeroable};

use super::attention::{Heads, KvLayer, Rows};
use crate::runtime::kernels;
use crate::runtime::recorder::{Dispatch, Recorder, fold};
use crate::runtime::tensor::Tensor;

/// `Params` of `shaders/store.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    t: u32,
    x_offset: u32,
    x_stride: u32,
    kv_heads: u32,
    d: u32,
    capacity: u32,
    page_stride: u32,
    pages_offset: u32,
    pages_stride: u32,
}

impl Recorder {
    /// Puts the last `2 G d` columns of every row of `x`, its k and v heads, on the pages of the rows' positions.
    pub fn store(&mut self, x: &Tensor, kv: &KvLayer, heads: Heads, rows: &Rows) {
        let width = heads.key_value * heads.dim;
        assert!(x.cols() >= 2 * width && rows.places.rows() == x.rows(), "store: shapes");
        assert_eq!(kv.channels(), heads.padded().dim, "store: channels of the cache");
        assert_eq!(kv.format, kv.format.for_head_dim(heads.dim), "store: channels side by side");
        let params = Params {
            t: x.rows(),
            x_offset: x.offset + x.cols() - 2 * width,
            x_stride: x.cols(),
            kv_heads: heads.key_value,
            d: heads.dim,
            capacity: kv.capacity,
            page_stride: kv.channels(),
            pages_offset: rows.pages.offset,
            pages_stride: rows.pages.cols(),
        };
        let pack = kv.format.channels_in_word();
        let dispatch = Dispatch::new(&kernels::STORE, self.label("store"))
            .constant("KV_PACK", pack)
            .reads([x, &rows.places, &rows.pages])
            .reads_step()
            .writes([&kv.keys, &kv.values])
            .params(&params)
            .grid(fold(u64::from(x.rows()) * u64::from(width / pack), 64));
        self.push(dispatch);
    }
}
