//! LayerNorms folded into the layers that follow them, where layers multiply matrices.

use super::Loader;
use crate::error::Result;
use crate::runtime::ops::linear::multiplies_matrices;
use crate::runtime::recorder::Recorder;
use crate::runtime::{Category, Linear, Norm, Tensor};

impl Loader<'_> {
    /// Folds a LayerNorm into `layer`, which follows it, if layers multiply matrices and the layer's weights are here to
    /// stay. Its sums are made when all weights are there.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub fn fold(&mut self, norm: &mut Norm, layer: &Linear) -> Result<()> {
        let n = layer.weight.rows;
        norm.folded = match self.device {
            _ if self.streaming.is_some() => None,
            None => Some(Tensor::unbacked(2, n)),
            Some(device) if !multiplies_matrices(&device.caps()) => None,
            Some(device) => Some(device.zeros(Category::Weights, &norm.label, 2, n)?),
        };
        if self.device.is_some() && norm.folded.is_some() {
            self.folds.push((norm.clone(), layer.clone()));
        }
        Ok(())
    }

    /// Makes the sums of all norms that were folded.
    pub(super) fn make_folds(&mut self) -> Result<()> {
        let Some(device) = self.device.filter(|_| !self.folds.is_empty()) else { return Ok(()) };
        let mut r = Recorder::new(device.caps());
        self.folds.drain(..).for_each(|(norm, layer)| r.fold(&norm, &layer));
        r.finish(device)?.submit()
    }
}
