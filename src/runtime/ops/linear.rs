//! Linear layers `y = act(x Wᵀ + b)` and their fusions. [`choose`] says which form of the kernel runs.

use bytemuck::{Pod, Zeroable};

use super::Activation;
use crate::runtime::caps::{AdapterClass, Caps, MatrixSize};
use crate::runtime::kernels::{self, Kernel};
use crate::runtime::recorder::{Dispatch, Recorder};
use crate::runtime::tensor::{Linear, MatrixPart, Norm, Tensor};
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

/// The ways to compute a linear layer, one kernel for each weight format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// `linear_vec`: a workgroup sums a few columns of up to 8 rows through its memory.
    Vec,
    /// `linear_vec_subgroup`: a workgroup is one subgroup, which needs no barriers.
    VecSubgroup,
    /// `linear_vec_software`: each lane has columns of its own, for software adapters.
    VecSoftware,
    /// `linear_tile`: a workgroup makes a tile of many rows through its memory.
    Tile,
    /// `linear_tile_software`: a tile by subgroup broadcast, for software adapters.
    TileSoftware,
    /// `linear_matrix8`, `linear_matrix16`: subgroups multiply matrices.
    Matrix(MatrixSize),
}

impl Algorithm {
    fn kernel(self, format: WeightFormat) -> &'static Kernel {
        let kernels = match self {
            Algorithm::Vec => &kernels::LINEAR_VEC,
            Algorithm::VecSubgroup => &kernels::LINEAR_VEC_SUBGROUP,
            Algorithm::VecSoftware => &kernels::LINEAR_VEC_SOFTWARE,
            Algorithm::Tile => &kernels::LINEAR_TILE,
            Algorithm::TileSoftware => &kernels::LINEAR_TILE_SOFTWARE,
            Algorithm::Matrix(MatrixSize::Eight) => &kernels::LINEAR_MATRIX8,
            Algorithm::Matrix(MatrixSize::Sixteen) => &kernels::LINEAR_MATRIX16,
        };
        &kernels[format as usize]
    }

    /// Says whether the kernel can norm rows of x on the way.
    fn norms(self) -> bool {
        matches!(self, Algorithm::Vec | Algorithm::VecSubgroup)
    }

    /// Says whether the kernel can cut K into shares, which `linear_sum` adds up.
    fn splits(self) -> bool {
        matches!(self, Algorithm::Matrix(_))
    }
}

/// A kernel form: what to launch and how many outputs a workgroup makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// The way it computes.
    pub algorithm: Algorithm,
    /// The kernel: the algorithm for one weight format.
    pub kernel: &'static Kernel,
    /// Invocations in a workgroup, where the kernel leaves its sizes open.
    pub workgroup: Option<u32>,
    /// Rows of y a workgroup makes.
    pub rows: u32,
    /// Columns of y a workgroup makes.
    pub columns: u32,
}

impl Form {
    /// Shares of K that workgroups of their own add up, for `m` rows, `n` outputs and `k` inputs: skinny layers have
    /// too few tiles to fill a GPU.
    fn splits(&self, m: u32, n: u32, k: u32) -> u32 {
        if !self.algorithm.splits() {
            return 1;
        }
        let tiles = m.div_ceil(self.rows) * n.div_ceil(self.columns);
        (MATRIX_WORKGROUPS / tiles).min(k / MATRIX_SHARE).clamp(1, 8)
    }

    /// The sizes that the kernel leaves open.
    pub(super) fn sizes(&self) -> Vec<(&'static str, u32)> {
        match (self.algorithm, self.workgroup) {
            (Algorithm::VecSoftware, _) => vec![("ROWS", self.rows)],
            (_, Some(workgroup)) => vec![("WG", workgroup), ("ROWS", self.rows), ("COLUMNS", self.columns)],
            (_, None) => Vec::new(),
        }
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
    let form = |algorithm: Algorithm, workgroup, (rows, columns)| Form {
        algorithm,
        kernel: algorithm.kernel(format),
        workgroup,
        rows,
        columns,
    };
    let (tuning, vec_rows) = (&caps.tuning, m.clamp(1, MAX_VEC_ROWS));
    let vec = |algorithm, workgroup| form(algorithm, Some(workgroup), (vec_rows, tuning.vec_columns));
    let mut vecs = vec![vec(Algorithm::Vec, tuning.vec_workgroup)];
    let mut tiles = vec![form(Algorithm::Tile, None, (64, 64))];
    // A workgroup of one subgroup needs no barriers.
    if let Some(lanes) = caps.subgroup_size {
        vecs.insert(usize::from(!tuning.vec_subgroup), vec(Algorithm::VecSubgroup, lanes));
    }
    if caps.is_software() {
        // Unpacking a quantised element for one row pays only where it is whole.
        let first = if m > 1 || format == WeightFormat::F16 { 0 } else { 1 };
        vecs.insert(first, form(Algorithm::VecSoftware, None, (vec_rows, 32)));
        tiles.insert(0, form(Algorithm::TileSoftware, None, (16, 64)));
    }
    if let (Some(size), Some(lanes)) = (caps.matrix, caps.subgroup_size)
        && m >= MATRIX_ROWS
    {
        let (rows, columns) = matrix_tile(m);
        let workgroup = rows * columns / MATRIX_BLOCK * lanes;
        // A processor has no faster way to multiply them: there they run only where they are asked for.
        let at = if caps.class == AdapterClass::Gpu { 0 } else { tiles.len() };
        tiles.insert(at, form(Algorithm::Matrix(size), Some(workgroup), (rows, columns)));
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
    let custom = caps.custom.iter().find(|custom| custom.name == form.kernel.name);
    match custom.and_then(|custom| custom.tile) {
        Some((rows, columns)) => Form { rows, columns, ..form },
        None => form,
    }
}

/// The last step, from the sums `x Wᵀ` to the outputs.
#[derive(Clone, Copy, Default)]
struct Epilogue {
    activation: Activation,
    add: bool,
    gated: bool,
}

/// One layer over some rows, in the form that was chosen for them.
struct Product<'a> {
    form: Form,
    /// Rows as wide as the weight's are in memory.
    x: &'a Tensor,
    /// The RMSNorm that the rows go through on the way.
    norm: Option<&'a Norm>,
    layer: &'a Linear,
    epilogue: Epilogue,
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

    /// Norms in the same dispatch where that pays and nobody asked for what is between the two.
    fn normed(&mut self, x: &Tensor, norm: &Norm, layer: &Linear, epilogue: Epilogue) -> Tensor {
        assert!(norm.bias.is_none(), "{}: RMSNorm has no bias", norm.label);
        let outputs = if epilogue.gated { layer.weight.rows / 2 } else { layer.weight.rows };
        let mut y = self.empty(x.rows(), outputs);
        let form = choose(x.rows(), layer.weight.format, self.caps());
        // The kernel norms what it reads as a whole, and the gains are no part of a larger tensor.
        let whole = layer.weight.cols == layer.weight.padded_cols();
        if self.caps().tuning.fuse_norm && form.algorithm.norms() && whole && !self.is_tapped(&norm.label) {
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

    /// One dispatch, or two, for each part of the weight. With a norm the rows of `x` go through it on the way.
    fn launch_linear(&mut self, y: &mut Tensor, x: &Tensor, norm: Option<&Norm>, layer: &Linear, epilogue: Epilogue) {
        let (w, label) = (&layer.weight, &layer.weight.label);
        let outputs = if epilogue.gated { w.rows / 2 } else { w.rows };
        // Rows of patches come as wide as the weight's are in memory; others are made so.
        let k = w.padded_cols();
        assert!([w.cols, k].contains(&x.cols()), "{label}: {} input columns for {}", x.cols(), w.cols);
        assert_eq!((y.rows(), y.cols()), (x.rows(), outputs), "{label}: output shape");
        let x = &self.fit_columns(x, x.cols(), k);
        let form = choose(x.rows(), w.format, self.caps());
        let product = Product { form, x, norm, layer, epilogue };
        for part in &w.parts {
            self.launch_part(y, &product, part);
        }
        self.tap(label, y);
    }

    fn launch_part(&mut self, y: &Tensor, product: &Product<'_>, part: &MatrixPart) {
        let splits = product.form.splits(product.x.rows(), part.rows, product.x.cols());
        let finished = product.params(y, part);
        if splits == 1 {
            return self.push(product.dispatch(part, 1, &finished, y).sizes(product.finish()));
        }
        let shares = &self.empty(splits * product.x.rows(), part.rows.next_multiple_of(4));
        let unfinished = Params { y_offset: 0, y_stride: shares.cols(), column0: 0, ..finished };
        self.push(product.dispatch(part, splits, &unfinished, shares).constant("SPLITS", splits));
        let sum = Dispatch::new(&kernels::LINEAR_SUM, &product.layer.weight.label)
            .sizes(product.finish())
            .reads([shares, shares, shares, product.layer.bias.as_ref().unwrap_or(shares), shares])
            .writes([y])
            .params(&Params { k: splits, x_offset: 0, ..finished })
            .grid([part.rows.div_ceil(4 * 64), product.x.rows(), 1])
            .flops(u64::from(splits) * u64::from(product.x.rows()) * u64::from(part.rows))
            .needs(product.layer.weight.streamed.clone());
        self.push(sum);
    }
}

impl Product<'_> {
    /// The parameters of a dispatch that makes the columns of `y` which `part` stands for.
    fn params(&self, y: &Tensor, part: &MatrixPart) -> Params {
        Params {
            m: self.x.rows(),
            n: part.rows,
            k: self.x.cols(),
            x_offset: self.x.offset,
            y_offset: y.offset,
            y_stride: y.cols(),
            column0: part.first_row,
            eps: self.norm.map_or(0.0, |norm| norm.eps),
        }
    }

    /// Multiplies all rows by `part` and puts the sums, or `splits` shares of each, into `to`; how it finishes them is
    /// not yet said.
    fn dispatch(&self, part: &MatrixPart, splits: u32, params: &Params, to: &Tensor) -> Dispatch {
        let (Product { form, x, norm, layer, .. }, w) = (self, &self.layer.weight);
        let (packed, scales) = (part.packed(), part.scales());
        // What a variant does not read is bound to another input.
        let (scales, bias) = (scales.as_ref().unwrap_or(x), layer.bias.as_ref().unwrap_or(x));
        let gain = norm.map_or(*x, |norm| &norm.weight);
        let norms = form.algorithm.norms().then_some(("NORM", norm.is_some().into()));
        Dispatch::new(form.kernel, &w.label)
            .sizes(form.sizes())
            .sizes(norms)
            .reads([x, &packed, scales, bias, gain])
            .writes([to])
            .params(params)
            .grid([part.rows.div_ceil(form.columns), x.rows().div_ceil(form.rows), splits])
            .flops(2 * u64::from(x.rows()) * u64::from(part.rows) * u64::from(x.cols()))
            .needs(w.streamed.clone())
    }

    /// The constants of shaders/shared/linear.wgsl that say what becomes of the sums.
    fn finish(&self) -> [(&'static str, u32); 4] {
        let Epilogue { activation, add, gated } = self.epilogue;
        let bias = self.layer.bias.is_some();
        [("ACT", activation as u32), ("BIAS", bias.into()), ("ADD", add.into()), ("GATED", gated.into())]
    }
}
