//! The ceilings that benchmarks measure kernels against: the most an adapter reads and multiplies.

use bytemuck::{Pod, Zeroable};

use crate::runtime::caps::{AdapterClass, MatrixSize};
use crate::runtime::kernels::{self, Kernel};
use crate::runtime::recorder::{Dispatch, Recorder, fold};
use crate::runtime::tensor::Tensor;

/// `Params` of `shaders/ceiling_fma.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct FmaParams {
    steps: u32,
}

/// `Params` of `shaders/ceiling_matrix.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct MatrixParams {
    steps: u32,
}

/// `Params` of `shaders/ceiling_read.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ReadParams {
    groups: u32,
}

/// Multiply-adds of one invocation in one step of `ceiling_fma`.
const FMAS: u64 = 96;

/// Rows of x, and of W, that a subgroup of `ceiling_matrix` multiplies.
const MATRIX_ROWS: u64 = 32;

impl Recorder {
    /// `[groups, WG]` sums of twelve chains of multiply-adds by `seed [1, 2]`, factor and summand, over `steps` steps.
    pub fn multiply_adds(&mut self, seed: &Tensor, groups: u32, steps: u32) -> Tensor {
        self.chains(&kernels::CEILING_FMA, 1, seed, groups, steps)
    }

    /// [`Recorder::multiply_adds`] with chains of two f16, where shaders may use them.
    pub fn multiply_adds_f16(&mut self, seed: &Tensor, groups: u32, steps: u32) -> Tensor {
        assert!(self.caps().f16, "multiply_adds_f16 needs 16-bit floats");
        self.chains(&kernels::CEILING_FMA_F16, 2, seed, groups, steps)
    }

    fn chains(&mut self, kernel: &'static Kernel, width: u64, seed: &Tensor, groups: u32, steps: u32) -> Tensor {
        let workgroup = self.ceiling_workgroup();
        let out = self.empty(groups, workgroup);
        let dispatch = Dispatch::new(kernel, self.label("multiply_adds"))
            .constant("WG", workgroup)
            .reads([seed])
            .writes([&out])
            .params(&FmaParams { steps })
            .grid([groups, 1, 1])
            .flops(2 * FMAS * width * u64::from(steps) * u64::from(groups * workgroup));
        self.push(dispatch);
        out
    }

    /// `[groups, WG]` sums of what the subgroups of a workgroup have after adding x Wᵀ of `seed [64, edge]` `steps`
    /// times, where subgroups multiply matrices.
    pub fn matrix_multiply_adds(&mut self, seed: &Tensor, groups: u32, steps: u32) -> Tensor {
        let (size, lanes) =
            self.caps().matrix.zip(self.caps().subgroup_size).expect("matrix_multiply_adds needs matrices");
        let subgroups = if self.caps().class == AdapterClass::Gpu { 4 } else { 1 };
        let workgroup = subgroups * lanes;
        let out = self.empty(groups, workgroup);
        let products = MATRIX_ROWS * MATRIX_ROWS * u64::from(size.edge());
        let kernel = match size {
            MatrixSize::Eight => &kernels::CEILING_MATRIX8,
            MatrixSize::Sixteen => &kernels::CEILING_MATRIX16,
        };
        let dispatch = Dispatch::new(kernel, self.label("matrix_multiply_adds"))
            .sizes([("WG", workgroup), ("SUBGROUPS", subgroups)])
            .reads([seed])
            .writes([&out])
            .params(&MatrixParams { steps })
            .grid([groups, 1, 1])
            .flops(2 * products * u64::from(steps) * u64::from(groups * subgroups));
        self.push(dispatch);
        out
    }

    /// Sums of `x`, 32 values each, so that almost nothing is written. Whole workgroups only: what is left is not read.
    pub fn read_sums(&mut self, x: &Tensor) -> Tensor {
        let workgroup = self.ceiling_workgroup();
        let groups = x.len() / (32 * workgroup);
        let out = self.empty(groups, workgroup);
        let software = self.caps().is_software();
        let kernel = if software { &kernels::CEILING_READ_SOFTWARE } else { &kernels::CEILING_READ };
        let dispatch = Dispatch::new(kernel, self.label("read_sums"))
            .constant("WG", workgroup)
            .reads([x])
            .writes([&out])
            .params(&ReadParams { groups })
            .grid(fold(u64::from(groups), 1))
            .flops(x.len().into());
        self.push(dispatch);
        out
    }

    fn ceiling_workgroup(&self) -> u32 {
        if self.caps().class == AdapterClass::Gpu { 256 } else { 8 }
    }
}
