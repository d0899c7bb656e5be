//! LayerNorm and RMSNorm over rows: `norm.wgsl`, and `norm_software.wgsl` for software adapters.

use bytemuck::{Pod, Zeroable};

use crate::runtime::kernels;
use crate::runtime::recorder::{Dispatch, Recorder};
use crate::runtime::tensor::{Norm, Tensor};

/// Values that the form for software adapters reads at a time.
const WIDE_STEP: u32 = 8;

/// `Params` of `shaders/norm.wgsl`; those of `norm_software.wgsl` are the same.
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
        let bias = norm.bias.as_ref().unwrap_or(&norm.weight);
        let starts = [x.cols(), x.offset, y.offset, norm.weight.offset, bias.offset];
        let wide = starts.iter().all(|start| start.is_multiple_of(WIDE_STEP)) && !y.is_half();
        // A user's norm is to run here, too.
        let caps = self.caps();
        let ours = !caps.custom.iter().any(|custom| custom.name == kernels::NORM.name);
        let wide = wide && ours && caps.is_software() && caps.preferred != Some(kernels::NORM.form);
        let (kernel, sizes) = match wide {
            true => (&kernels::NORM_SOFTWARE, Vec::new()),
            false => (&kernels::NORM, vec![("WG", self.caps().row_workgroup()), ("HALVED", y.is_half().into())]),
        };
        let dispatch = Dispatch::new(kernel, &norm.label)
            .constant("CENTER", norm.bias.is_some())
            .sizes(sizes)
            .reads([x, &norm.weight, bias])
            .binds([y])
            .params(&params)
            .grid([x.rows(), 1, 1])
            .flops(8 * u64::from(x.len()));
        self.push(dispatch);
        self.tap(&norm.label, y);
    }
}
