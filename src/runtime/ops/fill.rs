//! Synthetic weights, made on the device.

use bytemuck::{Pod, Zeroable};

use crate::runtime::buffers::Matrix;
use crate::runtime::kernels;
use crate::runtime::recorder::{Dispatch, Recorder, fold};

/// `Params` of `shaders/fill.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    words: u32,
    seed: u32,
    range: f32,
}

impl Recorder {
    /// Fills every part of `matrix` with values uniform in `(-range, range)`, the same for the same seed.
    pub fn fill(&mut self, matrix: &Matrix, seed: u32, range: f32) {
        for (i, part) in matrix.parts.iter().enumerate() {
            let part = part.packed();
            let params = Params { words: part.len(), seed: seed.wrapping_add(i as u32), range };
            self.push(Dispatch {
                label: matrix.label.clone(),
                kernel: &kernels::FILL,
                constants: Vec::new(),
                bindings: vec![(&part).into()],
                params: bytemuck::bytes_of(&params).to_vec(),
                grid: fold(part.len().into(), 64),
                flops: 0,
            });
        }
    }
}
