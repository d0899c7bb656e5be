//! Synthetic weights, made on the device.

use bytemuck::{Pod, Zeroable};

use crate::runtime::buffers::{Matrix, Tensor};
use crate::runtime::kernels;
use crate::runtime::recorder::{Dispatch, Recorder, fold};
use crate::runtime::weight_format::WeightFormat;

/// `Params` of `shaders/fill.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    words: u32,
    seed: u32,
    range: f32,
}

/// What the words are.
#[derive(Clone, Copy)]
enum Words {
    /// Pairs of halves in (-range, range).
    Halves = 0,
    /// Random bits: integers of any width.
    Bits = 1,
    /// Pairs of halves that are `range`.
    Constant = 2,
}

impl Recorder {
    /// Fills every part of `matrix` with values uniform in `(-range, range)`, the same for the same seed.
    pub fn fill(&mut self, matrix: &Matrix, seed: u32, range: f32) {
        for (i, part) in matrix.parts.iter().enumerate() {
            let seed = seed.wrapping_add(i as u32);
            let (words, largest) = match matrix.format {
                WeightFormat::F16 => (Words::Halves, 1.0),
                WeightFormat::Q8 => (Words::Bits, 127.0),
                WeightFormat::Q4 => (Words::Bits, 8.0),
            };
            self.launch_fill(matrix, &part.packed(), words, seed, range);
            if let Some(scales) = part.scales() {
                self.launch_fill(matrix, &scales, Words::Constant, seed, range / largest);
            }
        }
    }

    fn launch_fill(&mut self, matrix: &Matrix, part: &Tensor, words: Words, seed: u32, range: f32) {
        let params = Params { words: part.len(), seed, range };
        self.push(Dispatch {
            label: matrix.label.clone(),
            kernel: &kernels::FILL,
            constants: vec![("WORDS", f64::from(words as u32))],
            bindings: vec![part.into()],
            params: bytemuck::bytes_of(&params).to_vec(),
            grid: fold(part.len().into(), 64),
            flops: 0,
            needs: None,
        });
    }
}
