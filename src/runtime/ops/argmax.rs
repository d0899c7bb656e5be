//! The column of the largest value in each row.

use bytemuck::{Pod, Zeroable};

use crate::runtime::caps::AdapterClass;
use crate::runtime::kernels;
use crate::runtime::recorder::{Dispatch, Recorder};
use crate::runtime::tensor::Tensor;

/// `Params` of `shaders/argmax.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    n: u32,
    x_offset: u32,
}

impl Recorder {
    /// Writes the lowest column of the largest value of each row of `x [R, N]` into `out [1, R]` of u32.
    pub fn argmax(&mut self, out: &mut Tensor, x: &Tensor) {
        assert_eq!((out.len(), out.offset), (x.rows(), 0), "argmax: one result per row");
        let workgroup = if self.caps().class == AdapterClass::Gpu { 256.0 } else { 8.0 };
        let label = self.label("argmax");
        let dispatch = Dispatch::new(&kernels::ARGMAX, &label)
            .constant("WG", workgroup)
            .reads([x])
            .writes([out])
            .params(&Params { n: x.cols(), x_offset: x.offset })
            .grid([x.rows(), 1, 1])
            .flops(x.len().into());
        self.push(dispatch);
        self.tap(&label, out);
    }
}
