//! Rotary position embedding, joined with the store into the cache and, in steps of few rows, with the linear layer
//! before.

use bytemuck::{Pod, Zeroable};

use super::attention::{Heads, KvLayer, Rows};
use super::linear::{Algorithm, Form, Shape, choose, forms};
use crate::runtime::caps::Caps;
use crate::runtime::kernels::{self, Kernel};
use crate::runtime::recorder::{Dispatch, Recorder, fold};
use crate::runtime::tensor::{Linear, Norm, Tensor};

/// `Params` of `shaders/turns.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct TurnsParams {
    half: u32,
    pages_offset: u32,
    pages_stride: u32,
}

/// `Params` of `shaders/rope.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct RopeParams {
    t: u32,
    heads: u32,
    kv_heads: u32,
    d: u32,
    capacity: u32,
    page_stride: u32,
}

/// `Params` of `shaders/shared/linear_rope.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct LinearParams {
    m: u32,
    n: u32,
    k: u32,
    x_offset: u32,
    eps: f32,
    heads: u32,
    kv_heads: u32,
    d: u32,
    capacity: u32,
}

/// The rotation of packed rows of q, k and v, and the cache that k and v go to.
#[derive(Clone, Copy, Debug)]
pub struct Rotary<'a> {
    /// `[T, 2 + d]`: what [`Recorder::turns`] made for these rows.
    pub turns: &'a Tensor,
    /// The cache of this layer.
    pub kv: &'a KvLayer,
    /// The heads side by side in a row: H of q, G of k, G of v.
    pub heads: Heads,
}

/// A form of `linear_vec`, and the kernel that also norms before it and rotates after it.
struct Fused {
    form: Form,
    kernel: &'static Kernel,
}

impl Recorder {
    /// Looks up the angles that the rows turn by and the pages they go to, `[T, 2 + d]`, for all layers of a step.
    /// `angles` is `[positions, d]`: cos and sin alternating.
    pub fn turns(&mut self, angles: &Tensor, rows: &Rows) -> Tensor {
        assert!(angles.rows() >= rows.pages.cols(), "turns: angles for every position");
        let (t, half) = (rows.places.rows(), angles.cols() / 2);
        let out = self.empty(t, 2 + angles.cols());
        let params = TurnsParams { half, pages_offset: rows.pages.offset, pages_stride: rows.pages.cols() };
        let dispatch = Dispatch::new(&kernels::TURNS, self.label("turns"))
            .reads([angles, &rows.places, &rows.pages])
            .reads_step()
            .writes([&out])
            .params(&params)
            .grid([(1 + half).div_ceil(64), t, 1]);
        self.push(dispatch);
        out
    }

    /// Rotates q and k of packed `qkv [T, (H + 2G) d]`, stores k and v in the cache and returns q `[T, H d]`.
    pub fn rope_store(&mut self, qkv: &Tensor, rotary: &Rotary<'_>) -> Tensor {
        let Rotary { turns, kv, heads } = *rotary;
        assert_eq!((qkv.cols(), qkv.offset), (packed_width(heads), 0), "rope_store: shapes");
        assert_eq!((turns.rows(), turns.cols()), (qkv.rows(), 2 + heads.dim), "rope_store: one turn per row");
        assert_eq!(kv.channels(), heads.padded().dim, "rope_store: channels of the cache");
        assert_eq!(kv.format, kv.format.for_head_dim(heads.dim), "rope_store: channels side by side");
        let q = self.empty(qkv.rows(), heads.width());
        let params = RopeParams {
            t: qkv.rows(),
            heads: heads.query,
            kv_heads: heads.key_value,
            d: heads.dim,
            capacity: kv.capacity,
            page_stride: kv.channels(),
        };
        let label = self.label("rope_store");
        let pack = kv.format.channels_in_word();
        let dispatch = Dispatch::new(&kernels::ROPE, &label)
            .constant("KV_PACK", pack)
            .reads([qkv, turns])
            .writes([&q, &kv.keys, &kv.values])
            .params(&params)
            .grid(fold(u64::from(qkv.len() / 2 / pack), 64))
            .flops(3 * u64::from(qkv.len()));
        self.push(dispatch);
        self.tap(&label, &q);
        q
    }

    /// [`Recorder::rope_store`] of `norm(x) Wᵀ + b` with an RMSNorm: `[T, K] -> [T, H d]`. Few rows take one dispatch,
    /// where nobody asked for what is between.
    pub fn norm_rope_store(&mut self, x: &Tensor, norm: &Norm, qkv: &Linear, rotary: &Rotary<'_>) -> Tensor {
        if self.can_fuse(norm, qkv, rotary.heads)
            && let Some(fused) = fused(Shape::of(self.typical_rows(x.rows()), qkv), self.caps())
        {
            return self.launch_fused(&fused, x, norm, qkv, rotary);
        }
        let qkv = self.norm_linear(x, norm, qkv);
        self.rope_store(&qkv, rotary)
    }

    /// Says whether one kernel could do all: the weight is in one part without a bias, no width is padded, and nobody
    /// asked for what is between.
    fn can_fuse(&self, norm: &Norm, qkv: &Linear, heads: Heads) -> bool {
        let weight = &qkv.weight;
        let whole = weight.parts.len() == 1 && qkv.bias.is_none();
        let unpadded = heads == heads.padded() && weight.cols == weight.padded_cols();
        whole && unpadded && !self.is_tapped(&norm.label) && !self.is_tapped(&weight.label)
    }

    fn launch_fused(
        &mut self,
        Fused { form, kernel }: &Fused,
        x: &Tensor,
        norm: &Norm,
        qkv: &Linear,
        rotary: &Rotary<'_>,
    ) -> Tensor {
        let (w, t, Rotary { turns, kv, heads }) = (&qkv.weight, x.rows(), *rotary);
        assert!(norm.bias.is_none(), "{}: RMSNorm has no bias", norm.label);
        assert_eq!((w.rows, w.cols), (packed_width(heads), x.cols()), "{}: shapes", w.label);
        assert_eq!((turns.rows(), turns.cols()), (t, 2 + heads.dim), "{}: one turn per row", w.label);
        let q = self.empty(t, heads.width());
        let (packed, scales) = (w.parts[0].packed(), w.parts[0].scales());
        let params = LinearParams {
            m: t,
            n: w.rows,
            k: w.cols,
            x_offset: x.offset,
            eps: norm.eps,
            heads: heads.query,
            kv_heads: heads.key_value,
            d: heads.dim,
            capacity: kv.capacity,
        };
        let dispatch = Dispatch::new(kernel, &w.label)
            .sizes(form.sizes(true))
            .constant("KV_PACK", kv.format.channels_in_word())
            .reads([x, &packed, scales.as_ref().unwrap_or(x), &norm.weight, turns])
            .writes([&q, &kv.keys, &kv.values])
            .params(&params)
            .grid([w.rows.div_ceil(form.columns), t.div_ceil(form.rows), 1])
            .flops(2 * u64::from(t) * u64::from(w.rows) * u64::from(w.cols))
            .needs(w.streamed.clone());
        self.push(dispatch);
        let label = self.label("rope_store");
        self.tap(&label, &q);
        q
    }
}

/// The fused form for a layer, where it was asked for or is the usual way.
fn fused(shape: Shape, caps: &Caps) -> Option<Fused> {
    let fused = |form: Form| {
        let kernels = match form.algorithm {
            Algorithm::Vec => &kernels::LINEAR_VEC_ROPE,
            Algorithm::VecSubgroup => &kernels::LINEAR_VEC_ROPE_SUBGROUP,
            _ => return None,
        };
        Some(Fused { form, kernel: &kernels[shape.format as usize] })
    };
    let asked = |fused: &Fused| caps.preferred == Some(fused.kernel.form);
    if let Some(fused) = forms(shape, caps).into_iter().filter_map(fused).find(asked) {
        return Some(fused);
    }
    let form = choose(shape, caps);
    // A user's linear layer is to run here, too.
    let ours = !caps.custom.iter().any(|custom| custom.name == form.kernel.name);
    fused(form).filter(|_| caps.tuning.fuse_norm && ours)
}

/// Columns of q, k and v side by side.
fn packed_width(heads: Heads) -> u32 {
    (heads.query + 2 * heads.key_value) * heads.dim
}
