//! What benchmarks measure kernels against: the most an adapter reads and multiplies.

use bytemuck::{Pod, Zeroable};

use crate::runtime::buffers::Tensor;
use crate::runtime::device::AdapterClass;
use crate::runtime::kernels;
use crate::runtime::recorder::{Dispatch, Recorder, fold};

/// `Params` of `shaders/ceiling_fma.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct FmaParams {
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

impl Recorder {
    /// `[groups, WG]` sums of twelve chains of multiply-adds by `seed [1, 2]`, factor and summand, over `steps` steps.
    pub fn multiply_adds(&mut self, seed: &Tensor, groups: u32, steps: u32) -> Tensor {
        let workgroup = self.ceiling_workgroup();
        let out = self.empty(groups, workgroup);
        self.push(Dispatch {
            label: self.label("multiply_adds"),
            kernel: &kernels::CEILING_FMA,
            constants: vec![("WG", f64::from(workgroup))],
            bindings: vec![seed.into(), (&out).into()],
            params: bytemuck::bytes_of(&FmaParams { steps }).to_vec(),
            grid: [groups, 1, 1],
            flops: 2 * FMAS * u64::from(steps) * u64::from(groups * workgroup),
            needs: None,
        });
        out
    }

    /// Sums of `x`, 32 values each, so that almost nothing is written. Whole workgroups only: what is left is not read.
    pub fn read_sums(&mut self, x: &Tensor) -> Tensor {
        let workgroup = self.ceiling_workgroup();
        let groups = x.len() / (32 * workgroup);
        let out = self.empty(groups, workgroup);
        self.push(Dispatch {
            label: self.label("read_sums"),
            kernel: if self.caps().is_software() { &kernels::CEILING_READ_SOFTWARE } else { &kernels::CEILING_READ },
            constants: vec![("WG", f64::from(workgroup))],
            bindings: vec![x.into(), (&out).into()],
            params: bytemuck::bytes_of(&ReadParams { groups }).to_vec(),
            grid: fold(u64::from(groups), 1),
            flops: u64::from(x.len()),
            needs: None,
        });
        out
    }

    fn ceiling_workgroup(&self) -> u32 {
        if self.caps().class == AdapterClass::Gpu { 256 } else { 8 }
    }
}
