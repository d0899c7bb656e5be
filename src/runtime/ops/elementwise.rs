//! Copies and sums, element by element.

use bytemuck::{Pod, Zeroable};

use crate::runtime::kernels;
use crate::runtime::recorder::{Dispatch, Recorder, fold};
use crate::runtime::tensor::Tensor;

/// `Params` of `shaders/elementwise.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    len: u32,
    x_offset: u32,
    y_offset: u32,
    scale: f32,
}

impl Recorder {
    /// `y = x`.
    pub fn copy(&mut self, y: &mut Tensor, x: &Tensor) {
        let label = self.label("copy");
        self.launch_elementwise(&label, false, 1.0, y, x);
        self.tap(&label, y);
    }

    /// `scale * x`: `[T, D] -> [T, D]`.
    pub fn scaled(&mut self, x: &Tensor, scale: f32) -> Tensor {
        let (label, mut y) = (self.label("scaled"), self.empty(x.rows(), x.cols()));
        self.launch_elementwise(&label, false, scale, &mut y, x);
        self.tap(&label, &y);
        y
    }

    /// `y += x`.
    pub fn add(&mut self, y: &mut Tensor, x: &Tensor) {
        let label = self.label("add");
        self.launch_elementwise(&label, true, 1.0, y, x);
        self.tap(&label, y);
    }

    /// Records the dispatch alone: a tap is itself such a copy, and must not be tapped.
    pub(in crate::runtime) fn launch_elementwise(
        &mut self,
        label: &str,
        add: bool,
        scale: f32,
        y: &mut Tensor,
        x: &Tensor,
    ) {
        assert_eq!((y.rows(), y.cols()), (x.rows(), x.cols()), "{label}: shapes");
        let x = &self.widened(x);
        let dispatch = Dispatch::new(&kernels::ELEMENTWISE, label)
            .constant("ADD", add)
            .reads([x])
            .writes([y])
            .params(&Params { len: x.len(), x_offset: x.offset, y_offset: y.offset, scale })
            .grid(fold(x.len().into(), 64))
            .flops(if add { x.len().into() } else { 0 });
        self.push(dispatch);
    }
}
