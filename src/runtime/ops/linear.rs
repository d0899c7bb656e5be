//! Linear layers `y = act(x Wᵀ + b)` and their fusions.

use bytemuck::{Pod, Zeroable};

use super::Activation;
use crate::runtime::buffers::{Linear, Tensor};
use crate::runtime::device::{AdapterClass, Caps};
use crate::runtime::kernels::{self, Kernel};
use crate::runtime::recorder::{Dispatch, Recorder};
use crate::runtime::weight_format::WeightFormat;

/// `Params` of `shaders/shared/linear.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    m: u32,
    n: u32,
    k: u32,
    x_offset: u32,
    y_offset: u32,
    y_stride: u32,
    column0: u32,
}

/// A kernel form: what to launch and how many outputs a workgroup covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// The kernel.
    pub kernel: &'static Kernel,
    /// Invocations in a workgroup, where the kernel leaves it open.
    pub workgroup: Option<u32>,
    /// Rows of x a workgroup covers.
    pub rows: u32,
    /// Rows of W a workgroup covers.
    pub columns: u32,
}

/// Rows from which a tile pays: below, every row reads the weights again, from the cache.
const TILE_ROWS: u32 = 5;

/// The form for `m` rows and weights in `format`.
pub fn choose(m: u32, format: WeightFormat, caps: &Caps) -> Form {
    let pick = |kernels: [&'static Kernel; 3]| match format {
        WeightFormat::F16 => kernels[0],
        WeightFormat::Q8 => kernels[1],
        WeightFormat::Q4 => kernels[2],
    };
    let tile = |kernels, rows, columns| Form { kernel: pick(kernels), workgroup: None, rows, columns };
    match caps.class {
        _ if m < TILE_ROWS => {
            let kernel = pick([&kernels::LINEAR_VEC, &kernels::LINEAR_VEC_Q8, &kernels::LINEAR_VEC_Q4]);
            let workgroup = Some(if caps.class == AdapterClass::Gpu { 64 } else { 8 });
            Form { kernel, workgroup, rows: 1, columns: 4 }
        }
        AdapterClass::Cpu if caps.subgroup_size == Some(8) => {
            use kernels::{LINEAR_TILE_SUBGROUP, LINEAR_TILE_SUBGROUP_Q4, LINEAR_TILE_SUBGROUP_Q8};
            tile([&LINEAR_TILE_SUBGROUP, &LINEAR_TILE_SUBGROUP_Q8, &LINEAR_TILE_SUBGROUP_Q4], 16, 32)
        }
        _ => tile([&kernels::LINEAR_TILE, &kernels::LINEAR_TILE_Q8, &kernels::LINEAR_TILE_Q4], 64, 64),
    }
}

#[derive(Clone, Copy, Default)]
struct Epilogue {
    activation: Activation,
    add: bool,
    gated: bool,
}

impl Recorder {
    /// `x Wᵀ + b`: `[M, K] -> [M, N]`.
    pub fn linear(&mut self, x: &Tensor, layer: &Linear) -> Tensor {
        self.linear_act(x, layer, Activation::None)
    }

    /// `act(x Wᵀ + b)`: `[M, K] -> [M, N]`.
    pub fn linear_act(&mut self, x: &Tensor, layer: &Linear, activation: Activation) -> Tensor {
        let mut y = self.empty(x.rows(), layer.weight.rows);
        self.launch_linear(&mut y, x, layer, Epilogue { activation, ..Default::default() });
        y
    }

    /// `y += x Wᵀ + b`: the residual connection.
    pub fn linear_add(&mut self, y: &mut Tensor, x: &Tensor, layer: &Linear) {
        self.launch_linear(y, x, layer, Epilogue { add: true, ..Default::default() });
    }

    /// `act(x Wgᵀ) * (x Wuᵀ)`: `[M, K] -> [M, F]`, rows of gate and up alternating in the `[2F, K]` weight.
    pub fn gated(&mut self, x: &Tensor, gate_up: &Linear, activation: Activation) -> Tensor {
        let mut y = self.empty(x.rows(), gate_up.weight.rows / 2);
        self.launch_linear(&mut y, x, gate_up, Epilogue { activation, gated: true, ..Default::default() });
        y
    }

    /// SwiGLU: [`Recorder::gated`] with SiLU.
    pub fn swiglu(&mut self, x: &Tensor, gate_up: &Linear) -> Tensor {
        self.gated(x, gate_up, Activation::Silu)
    }

    fn launch_linear(&mut self, y: &mut Tensor, x: &Tensor, layer: &Linear, epilogue: Epilogue) {
        let (w, label) = (&layer.weight, &layer.weight.label);
        let outputs = if epilogue.gated { w.rows / 2 } else { w.rows };
        assert_eq!(x.cols(), w.cols, "{label}: input columns");
        assert_eq!((y.rows(), y.cols()), (x.rows(), outputs), "{label}: output shape");
        let form = choose(x.rows(), w.format, self.caps());
        for part in &w.parts {
            let (packed, scales) = (part.packed(), part.scales());
            let params = Params {
                m: x.rows(),
                n: part.rows,
                k: w.cols,
                x_offset: x.offset,
                y_offset: y.offset,
                y_stride: y.cols(),
                column0: part.first_row,
            };
            let mut constants = vec![
                ("ACT", f64::from(epilogue.activation as u32)),
                ("BIAS", f64::from(u8::from(layer.bias.is_some()))),
                ("ADD", f64::from(u8::from(epilogue.add))),
                ("GATED", f64::from(u8::from(epilogue.gated))),
            ];
            constants.extend(form.workgroup.map(|n| ("WG", f64::from(n))));
            let bias = layer.bias.as_ref().unwrap_or(x);
            self.push(Dispatch {
                label: label.clone(),
                kernel: form.kernel,
                constants,
                bindings: vec![
                    x.into(),
                    (&packed).into(),
                    scales.as_ref().unwrap_or(x).into(),
                    bias.into(),
                    (&*y).into(),
                ],
                params: bytemuck::bytes_of(&params).to_vec(),
                grid: [part.rows.div_ceil(form.columns), x.rows().div_ceil(form.rows), 1],
                flops: 2 * u64::from(x.rows()) * u64::from(part.rows) * u64::from(w.cols),
                needs: w.streamed.clone(),
            });
        }
        self.tap(label, y);
    }
}
