//! Rows of another width, for what reads several columns at a time.

use bytemuck::{Pod, Zeroable};

use crate::runtime::kernels;
use crate::runtime::recorder::{Dispatch, Recorder, fold};
use crate::runtime::tensor::Tensor;

/// `Params` of `shaders/fit_columns.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    len: u32,
    x_offset: u32,
    x_width: u32,
    out_width: u32,
}

impl Recorder {
    /// Every `from` columns of `x [T, n from]` as `to` columns: `-> [T, n to]`. Those that are new are zeros, those
    /// that are too many are left out. Where nothing changes it gives `x` itself.
    pub fn fit_columns(&mut self, x: &Tensor, from: u32, to: u32) -> Tensor {
        assert!(x.cols().is_multiple_of(from), "fit_columns: {from} of {} columns", x.cols());
        if from == to {
            return x.clone();
        }
        let (x, out) = (&self.widened(x), self.empty(x.rows(), x.cols() / from * to));
        let label = self.label("fit_columns");
        let params = Params { len: out.len(), x_offset: x.offset, x_width: from, out_width: to };
        let dispatch = Dispatch::new(&kernels::FIT_COLUMNS, &label)
            .reads([x])
            .writes([&out])
            .params(&params)
            .grid(fold(out.len().into(), 64));
        self.push(dispatch);
        self.tap(&label, &out);
        out
    }
}
