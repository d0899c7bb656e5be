//! Rows by index: token embeddings, and image features into their places.

use bytemuck::{Pod, Zeroable};

use crate::runtime::kernels;
use crate::runtime::recorder::{Dispatch, Recorder};
use crate::runtime::tensor::{Matrix, Tensor};
use crate::runtime::weight_format::WeightFormat;

/// `Params` of `shaders/embed.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct EmbedParams {
    d: u32,
    first: u32,
    rows: u32,
}

/// `Params` of `shaders/put_rows.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct PutParams {
    d: u32,
    x_offset: u32,
}

impl Recorder {
    /// `table[ids]`: ids `[1, T]` of u32, table `[V, D]` `-> [T, D]`.
    pub fn embed(&mut self, ids: &Tensor, table: &Matrix) -> Tensor {
        assert_eq!(ids.offset, 0, "{}: ids start their buffer", table.label);
        assert_eq!(table.format, WeightFormat::F16, "{}: tables are f16", table.label);
        let out = self.empty(ids.len(), table.cols);
        for part in &table.parts {
            let packed = part.packed();
            let params = EmbedParams { d: table.cols, first: part.first_row, rows: part.rows };
            let dispatch = Dispatch::new(&kernels::EMBED, &table.label)
                .reads([ids, &packed])
                .writes([&out])
                .params(&params)
                .grid([table.cols.div_ceil(2 * 64), ids.len(), 1]);
            self.push(dispatch);
        }
        self.tap(&table.label, &out);
        out
    }

    /// `out[index[i]] = x[i]` for every row of `x [R, D]`; `index` is `[1, R]` of distinct u32.
    pub fn put_rows(&mut self, out: &mut Tensor, x: &Tensor, index: &Tensor) {
        assert_eq!((out.cols(), out.offset, index.offset), (x.cols(), 0, 0), "put_rows: shapes");
        assert_eq!(x.rows(), index.len(), "put_rows: one index per row");
        let label = self.label("put_rows");
        let dispatch = Dispatch::new(&kernels::PUT_ROWS, &label)
            .reads([x, index])
            .writes([out])
            .params(&PutParams { d: x.cols(), x_offset: x.offset })
            .grid([x.cols().div_ceil(64), x.rows(), 1]);
        self.push(dispatch);
        self.tap(&label, out);
    }
}
