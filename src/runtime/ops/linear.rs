//! Linear layers `y = act(x Wᵀ + b)` and their fusions.

use bytemuck::{Pod, Zeroable};

use super::Activation;
use crate::runtime::caps::{AdapterClass, Caps, MatrixSize};
use crate::runtime::kernels::{self, Kernel};
use crate::runtime::recorder::{Dispatch, Recorder};
use crate::runtime::tensor::{Linear, Norm, Tensor};
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
    eps: f32,
}

/// A kernel form: what to launch and how many outputs a workgroup makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// The kernel.
    pub kernel: &'static Kernel,
    /// Invocations in a workgroup, where the kernel leaves its sizes open.
    pub workgroup: Option<u32>,
    /// Rows of y a workgroup makes.
    pub rows: u32,
    /// Columns of y a workgroup makes.
    pub columns: u32,
}

impl Form {
    /// Whether it is `linear_vec`, which can norm on the way.
    fn is_vec(&self) -> bool {
        self.kernel.file == "linear_vec"
    }

    /// Shares of K that workgroups of their own add up, for `m` rows, `n` outputs and `k` inputs: skinny layers have too few
    /// tiles to fill a GPU.
    fn splits(&self, m: u32, n: u32, k: u32) -> u32 {
        let tiles = m.div_ceil(self.rows) * n.div_ceil(self.columns);
        match self.kernel.file {
            "linear_matrix" => (MATRIX_WORKGROUPS / tiles).min(k / MATRIX_SHARE).clamp(1, 8),
            _ => 1,
        }
    }

    /// The sizes that the kernel leaves open.
    pub(super) fn sizes(&self) -> impl Iterator<Item = (&'static str, u32)> {
        let rows = self.workgroup.is_some() || self.kernel.file == "linear_vec_software";
        let all = [("WG", self.workgroup), ("ROWS", rows.then_some(self.rows))];
        let columns = self.workgroup.map(|_| ("COLUMNS", self.columns));
        all.into_iter().filter_map(|(name, size)| Some((name, size?))).chain(columns)
    }
}

/// Rows of x that `linear_vec` can take at once.
const MAX_VEC_ROWS: u32 = 8;

/// Rows from which matrices pay: of fewer, most of a matrix would be padding.
const MATRIX_ROWS: u32 = 16;

/// Outputs that one subgroup of `linear_matrix` owns.
const MATRIX_BLOCK: u32 = 32 * 32;

/// Workgroups that fill a GPU with some to spare. A layer of fewer is cut along K.
const MATRIX_WORKGROUPS: u32 = 256;

/// Least inputs that are worth a workgroup of their own.
const MATRIX_SHARE: u32 = 512;

/// Rows and columns of a tile of `linear_matrix` for `m` rows: the height that leaves fewer rows empty.
fn matrix_tile(m: u32) -> (u32, u32) {
    match m {
        0..=32 => (32, 128),
        _ if m.next_multiple_of(96) <= m.next_multiple_of(64) => (96, 64),
        _ => (64, 64),
    }
}

/// The forms that can run `m` rows and weights in `format` on a device, the usual choice first.
pub fn forms(m: u32, format: WeightFormat, caps: &Caps) -> Vec<Form> {
    let tuning = &caps.tuning;
    let vec = |kernels: &'static [Kernel; 3], workgroup: u32| Form {
        kernel: &kernels[format as usize],
        workgroup: Some(workgroup),
        rows: m.clamp(1, MAX_VEC_ROWS),
        columns: tuning.vec_columns,
    };
    let tile = |kernels: &'static [Kernel; 3], rows, columns| Form {
        kernel: &kernels[format as usize],
        workgroup: None,
        rows,
        columns,
    };
    let mut vecs = vec![vec(&kernels::LINEAR_VEC, tuning.vec_workgroup)];
    let mut tiles = vec![tile(&kernels::LINEAR_TILE, 64, 64)];
    // A workgroup of one subgroup needs no barriers.
    if let Some(lanes) = caps.subgroup_size {
        vecs.insert(usize::from(!tuning.vec_subgroup), vec(&kernels::LINEAR_VEC_SUBGROUP, lanes));
    }
    if caps.is_software() {
        // Unpacking a quantised element for one row pays only where it is whole.
        let first = if m > 1 || format == WeightFormat::F16 { 0 } else { 1 };
        vecs.insert(first, tile(&kernels::LINEAR_VEC_SOFTWARE, m.clamp(1, MAX_VEC_ROWS), 32));
        tiles.insert(0, tile(&kernels::LINEAR_TILE_SOFTWARE, 16, 64));
    }
    if let (Some(size), Some(lanes)) = (caps.matrix, caps.subgroup_size)
        && m >= MATRIX_ROWS
    {
        let kernels = match size {
            MatrixSize::Eight => &kernels::LINEAR_MATRIX8,
            MatrixSize::Sixteen => &kernels::LINEAR_MATRIX16,
        };
        let (rows, columns) = matrix_tile(m);
        let workgroup = Some(rows * columns / MATRIX_BLOCK * lanes);
        // A processor has no faster way to multiply them: there they run only where they are asked for.
        let at = if caps.class == AdapterClass::Gpu { 0 } else { tiles.len() };
        tiles.insert(at, Form { workgroup, ..tile(kernels, rows, columns) });
    }
    match m <= tuning.vec_rows {
        true => [vecs, tiles].concat(),
        false => [tiles, vecs].concat(),
    }
}

/// The form for `m` rows and weights in `format`: the preferred one if it can run, else the usual one.
pub fn choose(m: u32, format: WeightFormat, caps: &Caps) -> Form {
    let forms = forms(m, format, caps);
    let preferred = forms.iter().find(|form| caps.preferred == Some(form.kernel.form));
    let form = *preferred.unwrap_or(&forms[0]);
    let replacement = caps.replaced.iter().find(|replacement| replacement.name == form.kernel.name);
    match replacement.and_then(|replacement| replacement.tile) {
        Some((rows, columns)) => Form { rows, columns, ..form },
        None => form,
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

    /// `norm(x) Wᵀ + b` with an RMSNorm: `[M, K] -> [M, N]`.
    pub fn norm_linear(&mut self, x: &Tensor, norm: &Norm, layer: &Linear) -> Tensor {
        self.norm_linear_act(x, norm, layer, Activation::None)
    }

    /// `act(norm(x) Wᵀ + b)` with an RMSNorm: `[M, K] -> [M, N]`.
    pub fn norm_linear_act(&mut self, x: &Tensor, norm: &Norm, layer: &Linear, activation: Activation) -> Tensor {
        self.normed(x, norm, layer, Epilogue { activation, ..Default::default() })
    }

    /// [`Recorder::gated`] of `norm(x)` with an RMSNorm: `[M, K] -> [M, F]`.
    pub fn norm_gated(&mut self, x: &Tensor, norm: &Norm, gate_up: &Linear, activation: Activation) -> Tensor {
        self.normed(x, norm, gate_up, Epilogue { activation, gated: true, ..Default::default() })
    }

    /// In one dispatch where that pays and nobody asked for what is between the two.
    fn normed(&mut self, x: &Tensor, norm: &Norm, layer: &Linear, epilogue: Epilogue) -> Tensor {
        assert!(norm.bias.is_none(), "{}: RMSNorm has no bias", norm.label);
        let outputs = if epilogue.gated { layer.weight.rows / 2 } else { layer.weight.rows };
        let mut y = self.empty(x.rows(), outputs);
        let form = choose(x.rows(), layer.weight.format, self.caps());
        // The kernel norms what it reads as a whole, and the gains are no part of a larger tensor.
        let whole = layer.weight.cols == layer.weight.padded_cols();
        if self.caps().tuning.fuse_norm && form.is_vec() && whole && !self.is_tapped(&norm.label) {
            self.launch_linear(&mut y, x, Some(norm), layer, epilogue);
        } else {
            let h = self.rms_norm(x, norm);
            self.launch_linear(&mut y, &h, None, layer, epilogue);
        }
        y
    }

    /// `act(x Wᵀ + b)`: `[M, K] -> [M, N]`.
    pub fn linear_act(&mut self, x: &Tensor, layer: &Linear, activation: Activation) -> Tensor {
        let mut y = self.empty(x.rows(), layer.weight.rows);
        self.launch_linear(&mut y, x, None, layer, Epilogue { activation, ..Default::default() });
        y
    }

    /// `y += x Wᵀ + b`: the residual connection.
    pub fn linear_add(&mut self, y: &mut Tensor, x: &Tensor, layer: &Linear) {
        self.launch_linear(y, x, None, layer, Epilogue { add: true, ..Default::default() });
    }

    /// `act(x Wgᵀ) * (x Wuᵀ)`: `[M, K] -> [M, F]`, rows of gate and up alternating in the `[2F, K]` weight.
    pub fn gated(&mut self, x: &Tensor, gate_up: &Linear, activation: Activation) -> Tensor {
        let mut y = self.empty(x.rows(), gate_up.weight.rows / 2);
        self.launch_linear(&mut y, x, None, gate_up, Epilogue { activation, gated: true, ..Default::default() });
        y
    }

    /// SwiGLU: [`Recorder::gated`] with SiLU.
    pub fn swiglu(&mut self, x: &Tensor, gate_up: &Linear) -> Tensor {
        self.gated(x, gate_up, Activation::Silu)
    }

    /// With a norm the rows of `x` go through it on the way.
    fn launch_linear(&mut self, y: &mut Tensor, x: &Tensor, norm: Option<&Norm>, layer: &Linear, epilogue: Epilogue) {
        let (w, label) = (&layer.weight, &layer.weight.label);
        let outputs = if epilogue.gated { w.rows / 2 } else { w.rows };
        // Rows of patches come as wide as the weight's are in memory; others are made so.
        let k = w.padded_cols();
        assert!([w.cols, k].contains(&x.cols()), "{label}: {} input columns for {}", x.cols(), w.cols);
        assert_eq!((y.rows(), y.cols()), (x.rows(), outputs), "{label}: output shape");
        let x = &self.fit_columns(x, x.cols(), k);
        let form = choose(x.rows(), w.format, self.caps());
        for part in &w.parts {
            let (packed, scales) = (part.packed(), part.scales());
            let splits = form.splits(x.rows(), part.rows, k);
            let finished = Params {
                m: x.rows(),
                n: part.rows,
                k,
                x_offset: x.offset,
                y_offset: y.offset,
                y_stride: y.cols(),
                column0: part.first_row,
                eps: norm.map_or(0.0, |norm| norm.eps),
            };
            let epilogue = [
                ("ACT", epilogue.activation as u32),
                ("BIAS", layer.bias.is_some().into()),
                ("ADD", epilogue.add.into()),
                ("GATED", epilogue.gated.into()),
            ];
            let bias = layer.bias.as_ref().unwrap_or(x);
            let shares = (splits > 1).then(|| self.empty(splits * x.rows(), part.rows.next_multiple_of(4)));
            let mut dispatch = Dispatch::new(form.kernel, label);
            let (params, to) = match &shares {
                None => {
                    dispatch = dispatch.sizes(epilogue);
                    (finished, &*y)
                }
                Some(shares) => {
                    dispatch = dispatch.constant("SPLITS", splits);
                    (Params { y_offset: 0, y_stride: shares.cols(), column0: 0, ..finished }, shares)
                }
            };
            dispatch = dispatch.sizes(form.sizes());
            if form.is_vec() {
                dispatch = dispatch.constant("NORM", norm.is_some());
            }
            let gain = norm.map_or(x, |norm| &norm.weight);
            let dispatch = dispatch
                .reads([x, &packed, scales.as_ref().unwrap_or(x), bias, gain])
                .writes([to])
                .params(&params)
                .grid([part.rows.div_ceil(form.columns), x.rows().div_ceil(form.rows), splits])
                .flops(2 * u64::from(x.rows()) * u64::from(part.rows) * u64::from(k))
                .needs(w.streamed.clone());
            self.push(dispatch);
            if let Some(shares) = shares {
                let params = Params { k: splits, x_offset: 0, ..finished };
                let bias = layer.bias.as_ref().unwrap_or(&shares);
                let dispatch = Dispatch::new(&kernels::LINEAR_SUM, label)
                    .sizes(epilogue)
                    .reads([&shares, &shares, &shares, bias, &shares])
                    .writes([y])
                    .params(&params)
                    .grid([part.rows.div_ceil(4 * 64), x.rows(), 1])
                    .flops(u64::from(splits) * u64::from(x.rows()) * u64::from(part.rows))
                    .needs(w.streamed.clone());
                self.push(dispatch);
            }
        }
        self.tap(label, y);
    }
}
