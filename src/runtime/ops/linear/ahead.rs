//! LayerNorms between two layers by matrices: begun by the one before, ended by the one after.

use super::{Epilogue, Form, Norms, Shape, choose};
use crate::runtime::recorder::{Ahead, Recorder};
use crate::runtime::tensor::{Linear, Norm, Tensor};

impl Recorder {
    /// [`Recorder::linear_add`] in front of a norm and another layer. Where both layers multiply matrices and the norm is
    /// folded into the next one, it needs no dispatch of its own.
    pub fn linear_add_before(&mut self, y: &mut Tensor, x: &Tensor, layer: &Linear, norm: Option<&Norm>) {
        let epilogue = Epilogue { add: true, ..Default::default() };
        let Some(norm) = norm.filter(|norm| self.can_begin(y, layer, norm)) else {
            return self.launch_linear(y, x, Norms::None, layer, epilogue);
        };
        let more = (8 * y.rows()).div_ceil(y.cols());
        let rows = self.empty_halves(y.rows() + more, y.cols()).slice_rows(0, y.rows());
        self.launch_linear(y, x, Norms::Ahead(norm, &rows), layer, epilogue);
        self.ahead = Some(Ahead { norm: norm.label.clone(), buffer: self.scratch_of(y), rows, dispatches: self.len() });
    }

    fn can_begin(&self, y: &Tensor, layer: &Linear, norm: &Norm) -> bool {
        let caps = self.caps();
        let can_end = |folded: &Tensor| {
            let next =
                Shape { m: self.typical_rows(y.rows()), n: folded.cols(), k: y.cols(), format: layer.weight.format };
            choose(next, caps).algorithm.takes_halves()
        };
        norm.folded.as_ref().is_some_and(can_end)
            && self.form_of(y, layer).algorithm.takes_halves()
            && caps.tuning.fuse_norm
            && caps.custom.iter().all(|custom| custom.does_the_same())
            && !self.is_tapped(&norm.label)
            // All of y, in one dispatch.
            && (y.offset, layer.weight.parts.len()) == (0, 1)
            && y.cols().is_multiple_of(8)
    }

    /// The rows that the last dispatch made of `x`, if it began `norm` for a layer in this form.
    pub(super) fn begun_ahead(&mut self, x: &Tensor, norm: &Norm, form: Form) -> Option<Tensor> {
        let Ahead { norm: label, buffer, rows, dispatches } = self.ahead.take()?;
        let is_next = (dispatches, label == norm.label) == (self.len(), true);
        let is_x = buffer.is_some() && buffer == self.scratch_of(x) && (x.rows(), x.offset) == (rows.rows(), 0);
        (is_next && is_x && form.algorithm.takes_halves()).then_some(rows)
    }

    /// Makes the norm's sums over the layer that follows it.
    pub fn fold(&mut self, norm: &Norm, layer: &Linear) {
        let (folded, shift) = norm.folded.as_ref().zip(norm.bias.as_ref()).expect("a LayerNorm that is to be folded");
        self.linear_add(&mut folded.slice_rows(0, 1), shift, layer);
        let weight = layer.weight.clone();
        self.linear_add(&mut folded.slice_rows(1, 1), &norm.weight, &Linear { weight, bias: None });
    }
}
