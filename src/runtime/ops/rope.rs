//! Rotary position embedding, joined with the store into the cache and, in steps of few rows, with the linear layer before.

use bytemuck::{Pod, Zeroable};

use super::attention::{Heads, KvLayer, Rows};
use super::linear::{Algorithm, Form, choose, forms};
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

impl Recorder {
    /// What the rows turn by and which pages they go to, `[T, 2 + d]`: for all layers of a step. `angles` is
    /// `[positions, d]`: cos and sin alternating.
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

    /// Rotates q and k of packed `qkv [T, (H + 2G) d]` as [`Recorder::turns`] say, stores k and v in the cache and returns
    /// q `[T, H d]`.
    pub fn rope_store(&mut self, qkv: &Tensor, turns: &Tensor, kv: &KvLayer, heads: Heads) -> Tensor {
        assert_eq!((qkv.cols(), qkv.offset), (packed_width(heads), 0), "rope_store: shapes");
        assert_eq!((turns.rows(), turns.cols()), (qkv.rows(), 2 + heads.dim), "rope_store: one turn per row");
        assert_eq!(kv.keys.cols(), heads.padded().dim, "rope_store: channels of the cache");
        let q = self.empty(qkv.rows(), heads.width());
        let params = RopeParams {
            t: qkv.rows(),
            heads: heads.query,
            kv_heads: heads.key_value,
            d: heads.dim,
            capacity: kv.capacity,
            page_stride: kv.keys.cols(),
        };
        let label = self.label("rope_store");
        let dispatch = Dispatch::new(&kernels::ROPE, &label)
            .reads([qkv, turns])
            .writes([&q, &kv.keys, &kv.values])
            .params(&params)
            .grid(fold(u64::from(qkv.len() / 2), 64))
            .flops(3 * u64::from(qkv.len()));
        self.push(dispatch);
        self.tap(&label, &q);
        q
    }

    /// [`Recorder::rope_store`] of `norm(x) Wᵀ + b` with an RMSNorm: `[T, K] -> [T, H d]`. In one dispatch for few rows,
    /// where nobody asked for what is between.
    pub fn norm_rope_store(
        &mut self,
        x: &Tensor,
        norm: &Norm,
        qkv: &Linear,
        turns: &Tensor,
        kv: &KvLayer,
        heads: Heads,
    ) -> Tensor {
        if let Some((form, kernel)) = self.turning_form(x, norm, qkv, heads) {
            return self.launch_turning(form, kernel, x, norm, qkv, turns, kv, heads);
        }
        let qkv = self.norm_linear(x, norm, qkv);
        self.rope_store(&qkv, turns, kv, heads)
    }

    /// The form of `linear_vec` that would make q, k and v, and the kernel that also norms and turns them, where there is
    /// one: over weights in one part, without a bias, of widths that are not padded, where that is the usual way or was
    /// asked for.
    fn turning_form(&self, x: &Tensor, norm: &Norm, qkv: &Linear, heads: Heads) -> Option<(Form, &'static Kernel)> {
        let (weight, caps) = (&qkv.weight, self.caps());
        let kernel = |form: &Form| match form.algorithm {
            Algorithm::Vec => Some(&kernels::LINEAR_VEC_ROPE[weight.format as usize]),
            Algorithm::VecSubgroup => Some(&kernels::LINEAR_VEC_ROPE_SUBGROUP[weight.format as usize]),
            _ => None,
        };
        let whole = weight.parts.len() == 1 && qkv.bias.is_none();
        let fits = heads == heads.padded() && weight.cols == weight.padded_cols();
        if !whole || !fits || self.is_tapped(&norm.label) || self.is_tapped(&weight.label) {
            return None;
        }
        let mut pairs =
            forms(x.rows(), weight.format, caps).into_iter().filter_map(|form| Some((form, kernel(&form)?)));
        let asked = pairs.find(|(_, kernel)| caps.preferred == Some(kernel.form));
        let usual = || {
            let form = choose(x.rows(), weight.format, caps);
            // A user's linear layer is to run here, too.
            let ours = !caps.replaced.iter().any(|replacement| replacement.name == form.kernel.name);
            Some((form, kernel(&form)?)).filter(|_| caps.tuning.fuse_norm && ours)
        };
        asked.or_else(usual)
    }

    #[allow(clippy::too_many_arguments)]
    fn launch_turning(
        &mut self,
        form: Form,
        kernel: &'static Kernel,
        x: &Tensor,
        norm: &Norm,
        qkv: &Linear,
        turns: &Tensor,
        kv: &KvLayer,
        heads: Heads,
    ) -> Tensor {
        assert!(norm.bias.is_none(), "{}: RMSNorm has no bias", norm.label);
        let (w, t) = (&qkv.weight, x.rows());
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
            .sizes(form.sizes())
            .constant("NORM", true)
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

/// Columns of q, k and v side by side.
fn packed_width(heads: Heads) -> u32 {
    (heads.query + 2 * heads.key_value) * heads.dim
}
