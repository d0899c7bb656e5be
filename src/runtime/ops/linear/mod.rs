//! Linear layers `y = act(x Wᵀ + b)` and their fusions. [`choose`] says which form of the kernel runs.

mod ahead;
mod forms;
mod matrix;

use bytemuck::{Pod, Zeroable};

use super::Activation;
use crate::runtime::recorder::{Dispatch, Recorder};
use crate::runtime::tensor::{Linear, MatrixPart, Norm, Tensor};

pub use forms::{Algorithm, Form, Shape, choose, forms, multiplies_matrices, reads_halves};
pub use matrix::Blocks;

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

/// Columns that halves have a multiple of, to be read eight at a time.
const COLUMN_STEP: u32 = 8;

/// The last step, from the sums `x Wᵀ` to the outputs.
#[derive(Clone, Copy, Default)]
struct Epilogue {
    activation: Activation,
    add: bool,
    gated: bool,
}

/// The part of a norm that a layer does.
#[derive(Clone, Copy)]
enum Norms<'a> {
    None,
    /// An RMSNorm of what it reads.
    Whole(&'a Norm),
    /// The rest of a LayerNorm that the layer before began.
    Rest(&'a Norm),
    /// The beginning of the LayerNorm that follows: rows for [`Norms::Rest`].
    Ahead(&'a Norm, &'a Tensor),
}

/// One layer over some rows, in the form that was chosen for them.
struct Product<'a> {
    form: Form,
    /// Rows as wide as the weight's are in memory, of halves where the form takes them.
    x: &'a Tensor,
    norms: Norms<'a>,
    layer: &'a Linear,
    epilogue: Epilogue,
}

impl Recorder {
    /// `x Wᵀ + b`: `[M, K] -> [M, N]`.
    pub fn linear(&mut self, x: &Tensor, layer: &Linear) -> Tensor {
        self.linear_act(x, layer, Activation::None)
    }

    /// `norm(x) Wᵀ + b`: `[M, K] -> [M, N]`.
    pub fn norm_linear(&mut self, x: &Tensor, norm: &Norm, layer: &Linear) -> Tensor {
        self.norm_linear_act(x, norm, layer, Activation::None)
    }

    /// `act(norm(x) Wᵀ + b)`: `[M, K] -> [M, N]`.
    pub fn norm_linear_act(&mut self, x: &Tensor, norm: &Norm, layer: &Linear, activation: Activation) -> Tensor {
        self.normed(x, norm, layer, Epilogue { activation, ..Default::default() })
    }

    /// [`Recorder::gated`] of `norm(x)`: `[M, K] -> [M, F]`.
    pub fn norm_gated(&mut self, x: &Tensor, norm: &Norm, gate_up: &Linear, activation: Activation) -> Tensor {
        self.normed(x, norm, gate_up, Epilogue { activation, gated: true, ..Default::default() })
    }

    /// Norms in the same dispatch where that pays and nobody asked for what is between the two.
    fn normed(&mut self, x: &Tensor, norm: &Norm, layer: &Linear, epilogue: Epilogue) -> Tensor {
        let form = self.form_of(x, layer);
        let mut y = self.outputs(form, x.rows(), layer, epilogue);
        // The kernel does an RMSNorm of what it reads as a whole, and the gains are no part of a larger tensor.
        let fits = norm.bias.is_none() && layer.weight.cols == layer.weight.padded_cols();
        if let Some(begun) = self.begun_ahead(x, norm, form) {
            self.launch_linear(&mut y, &begun, Norms::Rest(norm), layer, epilogue);
        } else if self.caps().tuning.fuse_norm && form.algorithm.norms() && fits && !self.is_tapped(&norm.label) {
            self.launch_linear(&mut y, x, Norms::Whole(norm), layer, epilogue);
        } else {
            let mut h = self.operand(form, x.rows(), x.cols());
            self.launch_norm(&mut h, x, norm);
            self.launch_linear(&mut y, &h, Norms::None, layer, epilogue);
        }
        y
    }

    /// The form of a layer over `x`.
    pub(super) fn form_of(&self, x: &Tensor, layer: &Linear) -> Form {
        choose(Shape::of(self.typical_rows(x.rows()), layer), self.caps())
    }

    /// An uninitialised tensor that layers in this form read.
    fn operand(&mut self, form: Form, rows: u32, cols: u32) -> Tensor {
        match form.algorithm.takes_halves() && cols.is_multiple_of(COLUMN_STEP) {
            true => self.empty_halves(rows, cols),
            false => self.empty(rows, cols),
        }
    }

    /// An uninitialised tensor for what `layer` gives. After an activation comes another layer, for as many rows.
    fn outputs(&mut self, form: Form, rows: u32, layer: &Linear, epilogue: Epilogue) -> Tensor {
        let outputs = if epilogue.gated { layer.weight.rows / 2 } else { layer.weight.rows };
        match epilogue.activation {
            Activation::None => self.empty(rows, outputs),
            _ => self.operand(form, rows, outputs),
        }
    }

    /// `act(x Wᵀ + b)`: `[M, K] -> [M, N]`.
    pub fn linear_act(&mut self, x: &Tensor, layer: &Linear, activation: Activation) -> Tensor {
        self.finished(x, layer, Epilogue { activation, ..Default::default() })
    }

    /// `y += x Wᵀ + b`: the residual connection.
    pub fn linear_add(&mut self, y: &mut Tensor, x: &Tensor, layer: &Linear) {
        self.launch_linear(y, x, Norms::None, layer, Epilogue { add: true, ..Default::default() });
    }

    /// `act(x Wgᵀ) * (x Wuᵀ)`: `[M, K] -> [M, F]`, rows of gate and up alternating in the `[2F, K]` weight.
    pub fn gated(&mut self, x: &Tensor, gate_up: &Linear, activation: Activation) -> Tensor {
        self.finished(x, gate_up, Epilogue { activation, gated: true, ..Default::default() })
    }

    /// SwiGLU: [`Recorder::gated`] with SiLU.
    pub fn swiglu(&mut self, x: &Tensor, gate_up: &Linear) -> Tensor {
        self.gated(x, gate_up, Activation::Silu)
    }

    fn finished(&mut self, x: &Tensor, layer: &Linear, epilogue: Epilogue) -> Tensor {
        let form = self.form_of(x, layer);
        let mut y = self.outputs(form, x.rows(), layer, epilogue);
        self.launch_linear(&mut y, x, Norms::None, layer, epilogue);
        y
    }

    /// One dispatch for each part of the weight.
    fn launch_linear(&mut self, y: &mut Tensor, x: &Tensor, norms: Norms<'_>, layer: &Linear, epilogue: Epilogue) {
        let (w, label) = (&layer.weight, &layer.weight.label);
        let outputs = if epilogue.gated { w.rows / 2 } else { w.rows };
        // Rows of patches come as wide as the weight's are in memory; others are made so.
        let k = w.padded_cols();
        assert!([w.cols, k].contains(&x.cols()), "{label}: {} input columns for {}", x.cols(), w.cols);
        assert_eq!((y.rows(), y.cols()), (x.rows(), outputs), "{label}: output shape");
        let form = self.form_of(x, layer);
        let x = if form.algorithm.takes_halves() { x.clone() } else { self.widened(x) };
        let x = self.fit_columns(&x, x.cols(), k);
        let x = &if form.algorithm.takes_halves() { self.halved(&x) } else { x };
        let product = Product { form, x, norms, layer, epilogue };
        for part in &w.parts {
            self.launch_part(y, &product, part);
        }
        self.tap(label, y);
    }

    fn launch_part(&mut self, y: &Tensor, product: &Product<'_>, part: &MatrixPart) {
        let dispatch = match product.form.algorithm {
            Algorithm::Matrix(_) => self.matrix_part(y, product, part),
            _ => product.part(y, part),
        };
        self.push(dispatch);
    }

    /// All rows by `part`, whose columns of `y` are made, by matrices.
    fn matrix_part(&mut self, y: &Tensor, product: &Product<'_>, part: &MatrixPart) -> Dispatch {
        let (form, x) = (product.form, product.x);
        let fits = [y.offset, y.cols()].iter().all(|place| place.is_multiple_of(4)) && x.offset.is_multiple_of(8);
        assert!(fits, "{}: where rows start", product.layer.weight.label);
        let grid = [part.rows.div_ceil(form.columns), x.rows().div_ceil(form.rows)];
        let tiles = grid[0] * grid[1];
        let typical = grid[0] * self.typical_rows(x.rows()).div_ceil(form.rows);
        let (splits, steps) = matrix::shares(typical, x.cols(), &self.caps().tuning);
        let shared = if splits > 1 { tiles * splits * form.rows * form.columns } else { 0 };
        // What a variant does not read is bound to another input, what it does not write to something small.
        let bias = product.layer.bias.as_ref().unwrap_or(x);
        let (bias, norm, ahead, eps) = match product.norms {
            Norms::Rest(norm) => (norm.folded.as_ref().expect("it was begun for that"), x, None, norm.eps),
            Norms::Ahead(norm, rows) => (bias, &norm.weight, Some(rows), norm.eps),
            Norms::None | Norms::Whole(_) => (bias, x, None, 0.0),
        };
        let (ends, begins) = (matches!(product.norms, Norms::Rest(_)), ahead.is_some());
        let (rows, joined) = if begins { (2 * tiles * form.rows, grid[1]) } else { (0, 0) };
        let shares = self.empty(1, (shared + rows).max(4));
        let ahead = &ahead.map_or_else(|| self.empty(1, 4), Tensor::clone);
        let params = matrix::Params {
            m: x.rows(),
            n: part.rows,
            k: x.cols(),
            x_offset: x.offset,
            y_offset: y.offset,
            y_stride: y.cols(),
            column0: part.first_row,
            steps,
            eps,
        };
        let (packed, scales) = (part.packed(), part.scales());
        product
            .begun(part)
            .sizes([("SPLITS", splits), ("HALVED", y.is_half().into())])
            .sizes([("NORMED", ends.into()), ("AHEAD", begins.into())])
            .constant("WHOLE", x.cols().is_multiple_of(matrix::DEPTH))
            .binds([x, &packed, scales.as_ref().unwrap_or(x), bias])
            .writes([&shares])
            .counts_arrivals(tiles + joined)
            .binds([y, norm, ahead])
            .params(&params)
            .grid([grid[0], grid[1], splits])
    }
}

impl Product<'_> {
    /// All rows by `part`, whose columns of `y` are made.
    fn part(&self, y: &Tensor, part: &MatrixPart) -> Dispatch {
        let Product { form, x, layer, .. } = self;
        let norm = self.norm();
        let params = Params {
            m: x.rows(),
            n: part.rows,
            k: x.cols(),
            x_offset: x.offset,
            y_offset: y.offset,
            y_stride: y.cols(),
            column0: part.first_row,
            eps: norm.map_or(0.0, |norm| norm.eps),
        };
        let (packed, scales) = (part.packed(), part.scales());
        // What a variant does not read is bound to another input.
        let (scales, bias) = (scales.as_ref().unwrap_or(x), layer.bias.as_ref().unwrap_or(x));
        let gain = norm.map_or(*x, |norm| &norm.weight);
        self.begun(part).reads([x, &packed, scales, bias, gain]).writes([y]).params(&params).grid([
            part.rows.div_ceil(form.columns),
            x.rows().div_ceil(form.rows),
            1,
        ])
    }

    /// The parts that a dispatch has in every form.
    fn begun(&self, part: &MatrixPart) -> Dispatch {
        let w = &self.layer.weight;
        Dispatch::new(self.form.kernel, &w.label)
            .sizes(self.form.sizes(self.norm().is_some()))
            .sizes(self.finish())
            .flops(2 * u64::from(self.x.rows()) * u64::from(part.rows) * u64::from(self.x.cols()))
            .needs(w.streamed.clone())
    }

    /// The RMSNorm that rows go through on the way.
    fn norm(&self) -> Option<&Norm> {
        match self.norms {
            Norms::Whole(norm) => Some(norm),
            Norms::None | Norms::Rest(_) | Norms::Ahead(..) => None,
        }
    }

    /// The constants that say what becomes of the sums.
    fn finish(&self) -> [(&'static str, u32); 4] {
        let Epilogue { activation, add, gated } = self.epilogue;
        let bias = self.layer.bias.is_some() || matches!(self.norms, Norms::Rest(_));
        [("ACT", activation as u32), ("BIAS", bias.into()), ("ADD", add.into()), ("GATED", gated.into())]
    }
}
