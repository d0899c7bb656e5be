//! Conversion between f32 and the halves that linear layers by matrices read.

use bytemuck::{Pod, Zeroable};

use crate::runtime::kernels;
use crate::runtime::recorder::{Dispatch, Recorder, fold};
use crate::runtime::tensor::Tensor;

/// `Params` of `shaders/convert.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    pairs: u32,
    x_offset: u32,
    y_offset: u32,
}

impl Recorder {
    /// `x` as halves: itself where it is that already.
    pub fn halved(&mut self, x: &Tensor) -> Tensor {
        if x.is_half() {
            return x.clone();
        }
        let (label, y) = (self.label("halved"), self.empty_halves(x.rows(), x.cols()));
        self.launch_convert(&label, &y, x);
        y
    }

    /// `x` as f32: itself where it is that already.
    pub fn widened(&mut self, x: &Tensor) -> Tensor {
        if !x.is_half() {
            return x.clone();
        }
        let (label, y) = (self.label("widened"), self.empty(x.rows(), x.cols()));
        self.launch_convert(&label, &y, x);
        y
    }

    fn launch_convert(&mut self, label: &str, y: &Tensor, x: &Tensor) {
        assert_eq!((y.rows(), y.cols()), (x.rows(), x.cols()), "{label}: shapes");
        let halves = if x.is_half() { x } else { y };
        let fits = halves.cols().is_multiple_of(2) && halves.offset.is_multiple_of(2) && x.is_half() != y.is_half();
        assert!(fits, "{label}: {} columns of halves", halves.cols());
        let params = Params { pairs: x.len() / 2, x_offset: x.offset, y_offset: y.offset };
        let dispatch = Dispatch::new(&kernels::CONVERT, label)
            .constant("WIDEN", x.is_half())
            .binds([x, y])
            .params(&params)
            .grid(fold(params.pairs.into(), 64));
        self.push(dispatch);
    }
}
