//! The patches of an image as rows, so that the patch convolution is a linear layer.

use bytemuck::{Pod, Zeroable};

use super::linear::reads_halves;
use crate::runtime::kernels;
use crate::runtime::recorder::{Dispatch, Recorder};
use crate::runtime::tensor::Tensor;

/// `Params` of `shaders/patch_embed.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    height: u32,
    width: u32,
    side: u32,
    k: u32,
}

impl Recorder {
    /// Pixels `[3 B height, width]` of B = `count` pictures `-> [B N, 3 P²]`, N = `1 + (height / P)(width / P)`, columns
    /// padded with zeros to a multiple of 8. A patch is ordered channel, y, x, as the convolution's weight is; zeros in front of a picture's are the class token's.
    pub fn patches(&mut self, pixels: &Tensor, count: u32, patch: u32) -> Tensor {
        let (height, width) = (pixels.rows() / (3 * count), pixels.cols());
        assert_eq!((pixels.rows() % (3 * count), pixels.offset), (0, 0), "patches: three planes of each picture");
        let k = (3 * patch * patch).next_multiple_of(8);
        let each = 1 + (height / patch) * (width / patch);
        let rows = count * each;
        let out = if reads_halves(self.typical_rows(rows), self.caps()) {
            self.empty_halves(rows, k)
        } else {
            self.empty(rows, k)
        };
        let label = self.label("patches");
        let dispatch = Dispatch::new(&kernels::PATCH_EMBED, &label)
            .constant("HALVED", out.is_half())
            .reads([pixels])
            .binds([&out])
            .params(&Params { height, width, side: patch, k })
            .grid([k.div_ceil(128), each, count]);
        self.push(dispatch);
        self.tap(&label, &out);
        out
    }
}
