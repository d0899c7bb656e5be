//! Synthetic weights, made on the device.

use bytemuck::{Pod, Zeroable};

use crate::runtime::kernels;
use crate::runtime::recorder::{Dispatch, Recorder, fold};
use crate::runtime::tensor::{Matrix, Tensor};
use crate::runtime::weight_format::WeightFormat;

/// `Params` of `shaders/fill.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    words: u32,
    seed: u32,
    range: f32,
    second: f32,
}

/// The kind of words that are filled in.
#[derive(Clone, Copy)]
enum Words {
    /// Pairs of halves in (-range, range).
    Halves = 0,
    /// Random bits: integers of any width.
    Bits = 1,
    /// Pairs of halves, `range` and `second`.
    Constant = 2,
}

impl Recorder {
    /// Fills every part of `matrix` with values uniform in `(-range, range)`, the same for the same seed.
    pub fn fill(&mut self, matrix: &Matrix, seed: u32, range: f32) {
        for (i, part) in matrix.parts.iter().enumerate() {
            let seed = seed.wrapping_add(i as u32);
            let (words, scales) = match matrix.format {
                WeightFormat::F16 => (Words::Halves, [range, 0.0]),
                WeightFormat::Q8 => (Words::Bits, [range / 127.0; 2]),
                WeightFormat::Q4 => (Words::Bits, [range / 7.5, -range]),
            };
            self.launch_fill(matrix, &part.packed(), words, seed, [range, 0.0]);
            if let Some(part) = part.scales() {
                self.launch_fill(matrix, &part, Words::Constant, seed, scales);
            }
        }
    }

    fn launch_fill(&mut self, matrix: &Matrix, part: &Tensor, words: Words, seed: u32, values: [f32; 2]) {
        let params = Params { words: part.len(), seed, range: values[0], second: values[1] };
        let dispatch = Dispatch::new(&kernels::FILL, &matrix.label)
            .constant("WORDS", words as u32)
            .writes([part])
            .params(&params)
            .grid(fold(part.len().into(), 64));
        self.push(dispatch);
    }
}
