//! LayerNorm and RMSNorm over rows.

use bytemuck::{Pod, Zeroable};

use crate::runtime::kernels;
use crate::runtime::recorder::{Dispatch, Recorder};
use crate::runtime::tensor::{Norm, Tensor};

/// `Params` of `shaders/norm.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    d: u32,
    x_offset: u32,
    y_offset: u32,
    eps: f32,
}

impl Recorder {
    /// LayerNorm of every row: `[T, D] -> [T, D]`.
    pub fn layer_norm(&mut self, x: &Tensor, norm: &Norm) -> Tensor {
        let mut y = self.empty(x.rows(), x.cols());
        self.layer_norm_into(&mut y, x, norm);
        y
    }

    /// LayerNorm of every row of `x` into `y`, which may be some rows of a larger tensor.
    pub fn layer_norm_into(&mut self, y: &mut Tensor, x: &Tensor, norm: &Norm) {
        assert!(norm.bias.is_some(), "{}: LayerNorm has a bias", norm.label);
        self.launch_norm(y, x, norm);
    }

    /// RMSNorm of every row: `[T, D] -> [T, D]`.
    pub fn rms_norm(&mut self, x: &Tensor, norm: &Norm) -> Tensor {
        assert!(norm.bias.is_none(), "{}: RMSNorm has no bias", norm.label);
        let mut y = self.empty(x.rows(), x.cols());
        self.launch_norm(&mut y, x, norm);
        y
    }

    /// Norms every row of `x` into `y`, which may be of halves.
    pub(super) fn launch_norm(&mut self, y: &mut Tensor, x: &Tensor, norm: &Norm) {
        assert_eq!(x.cols(), norm.weight.cols(), "{}: columns", norm.label);
        assert_eq!((y.rows(), y.cols()), (x.rows(), x.cols()), "{}: output shape", norm.label);
        let x = &self.widened(x);
        let params = Params { d: x.cols(), x_offset: x.offset, y_offset: y.offset, eps: norm.eps };
        let workgroup = self.caps().row_workgroup();
        let bias = norm.bias.as_ref().unwrap_or(&norm.weight);
        let dispatch = Dispatch::new(&kernels::NORM, &norm.label)
            .constant("WG", workgroup)
            .constant("CENTER", norm.bias.is_some())
            .constant("HALVED", y.is_half())
            .reads([x, &norm.weight, bias])
            .binds([y])
            .params(&params)
            .grid([x.rows(), 1, 1])
            .flops(8 * u64::from(x.len()));
        self.push(dispatch);
        self.tap(&norm.label, y);
    }
}
