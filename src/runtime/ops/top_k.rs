//! The largest values in each row, with their columns.

use bytemuck::{Pod, Zeroable};

use crate::runtime::kernels;
use crate::runtime::recorder::{Dispatch, Recorder};
use crate::runtime::tensor::Tensor;

/// `Params` of `shaders/top_k.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    n: u32,
    k: u32,
    x_offset: u32,
}

/// Most values of a row that can be asked for.
pub const MAX_TOP_K: u32 = 256;

impl Recorder {
    /// The `k` largest values of each row of `x [R, N]` as `[R, 2k]` of u32: bits of the largest, its column, bits of
    /// the next one, and so on. Of equals the lower column comes first; a NaN comes before all numbers.
    ///
    /// Where only the largest values of a row count, it need not be read back: 64 of 32,000 are 512 bytes, not 128,000.
    pub fn top_k(&mut self, x: &Tensor, k: u32) -> Tensor {
        assert!((1..=x.cols().min(MAX_TOP_K)).contains(&k), "top_k: {k} of {} values", x.cols());
        let out = self.empty(x.rows(), 2 * k);
        // Not to be tapped: a tap copies numbers, and columns as numbers may be flushed to zero.
        let dispatch = Dispatch::new(&kernels::TOP_K, self.label("top_k"))
            .reads([x])
            .writes([&out])
            .params(&Params { n: x.cols(), k, x_offset: x.offset })
            .grid([x.rows(), 1, 1])
            .flops(2 * u64::from(x.len()));
        self.push(dispatch);
        out
    }
}
