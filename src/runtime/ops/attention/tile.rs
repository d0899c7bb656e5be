//! Attention of many rows over keys they share: `attention_tile.wgsl`, `attention_matrix.wgsl`,
//! `attention_tile_software.wgsl`.

use bytemuck::{Pod, Zeroable};

use super::{Attention, HEAD_DIM_STEP, Layout, Segments};
use crate::runtime::caps::{AdapterClass, Caps, MatrixSize};
use crate::runtime::kernels::{self, Kernel, Needs};
use crate::runtime::ops::linear::reads_halves;
use crate::runtime::recorder::{Dispatch, Recorder};
use crate::runtime::tensor::Tensor;

/// `Params` of `shaders/attention_tile.wgsl`; those of `attention_matrix.wgsl` are the same.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    t: u32,
    s: u32,
    group: u32,
    q_offset: u32,
    q_stride: u32,
    k_offset: u32,
    k_row_stride: u32,
    k_head_stride: u32,
    v_offset: u32,
    v_row_stride: u32,
    v_head_stride: u32,
    out_stride: u32,
    index_offset: u32,
    heads: u32,
    far: u32,
    scale: f32,
}

/// Rows of q that a workgroup of `attention_tile_software` takes.
const SOFTWARE_ROWS: u32 = 16;

/// Rows of q that a workgroup of `attention_matrix` takes, its subgroups, and the widest heads.
const MATRIX_ROWS: u32 = 32;
const MATRIX_SUBGROUPS: u32 = 4;
const MATRIX_HEAD_DIM: u32 = 128;

/// Rows from which matrices pay: of fewer, most of a matrix would be padding.
const FEWEST_MATRIX_ROWS: u32 = 16;

/// Workgroups of `attention_tile` with 32 rows that keep a GPU busy: about two for each processor of a large one.
const TILE_WORKGROUPS: u32 = 256;

impl Recorder {
    /// Records `a` in tiles of rows: `-> [T, H d]`, d padded.
    pub(super) fn attention_tile(&mut self, label: &str, a: &Attention<'_>) -> Tensor {
        let (rows, heads) = (a.rows(), a.heads.padded());
        let params = params(a);
        let starts = params.starts();
        assert!(starts.iter().all(|start| start.is_multiple_of(HEAD_DIM_STEP)), "{}: starts {starts:?}", a.op);
        let ((k, v), q) = (a.keys_and_values(), a.q.tensor);
        // Whoever else is in the pass, a segment's rows are made in the same form.
        let typical = self.typical_rows(rows);
        let Form { kernel, rows: tile, size } = form(a, typical, self.caps(), &starts);
        let segments = a.segments();
        let longest = segments.map_or(rows, Segments::longest);
        let pairs = segments.map_or(u64::from(rows) * u64::from(a.keys()), Segments::pairs);
        // A linear layer is next, unless channels that were added have to go first.
        let is_next = a.heads == heads && heads.width().is_multiple_of(8) && reads_halves(typical, self.caps());
        let out = match kernel.needs == Needs::Matrices && is_next {
            true => self.empty_halves(rows, heads.width()),
            false => self.empty(rows, heads.width()),
        };
        let dispatch = Dispatch::new(kernel, label)
            .sizes([("HEAD_DIM", heads.dim), ("MODE", a.mode())])
            .constant("BIAS", a.bias.is_some())
            .constant("SEGMENTED", segments.is_some())
            .sizes(size)
            .sizes((kernel.needs == Needs::Matrices).then_some(("HALVED", out.is_half().into())))
            .reads([
                q,
                k,
                v,
                a.index().unwrap_or(q),
                a.bias.unwrap_or(q),
                segments.and_then(Segments::table).unwrap_or(q),
            ])
            .reads_step()
            .binds([&out])
            .params(&params)
            .grid([longest.div_ceil(tile), heads.query, segments.map_or(1, Segments::count)])
            .flops(4 * pairs * u64::from(heads.width()));
        self.push(dispatch);
        out
    }
}

/// A kernel, the rows of q that its workgroups take, and the size that it leaves open.
struct Form {
    kernel: &'static Kernel,
    rows: u32,
    size: Option<(&'static str, u32)>,
}

/// The form for so many rows: the one that was asked for if it can run, else the usual one.
fn form(a: &Attention<'_>, rows: u32, caps: &Caps, starts: &[u32]) -> Form {
    let (tile, format) = (tile_rows(rows, a.heads.query), a.kv_format() as usize);
    let tile = Form { kernel: &kernels::ATTENTION_TILE[format], rows: tile, size: Some(("ROWS", tile)) };
    let asked = |form: &Form| caps.preferred == Some(form.kernel.form);
    match matrix_form(a, rows, caps) {
        // A processor has no faster way to multiply matrices: there they run only where they are asked for.
        Some(matrix) if asked(&matrix) || (caps.class == AdapterClass::Gpu && !asked(&tile)) => matrix,
        _ if a.runs_wide(&[tile.kernel], caps, starts) => {
            Form { kernel: &kernels::ATTENTION_TILE_SOFTWARE[format], rows: SOFTWARE_ROWS, size: None }
        }
        _ => tile,
    }
}

/// The form by matrices, where it can run.
fn matrix_form(a: &Attention<'_>, rows: u32, caps: &Caps) -> Option<Form> {
    let kernels = match caps.matrix? {
        MatrixSize::Eight => &kernels::ATTENTION_MATRIX8,
        MatrixSize::Sixteen => &kernels::ATTENTION_MATRIX16,
    };
    let kernel = &kernels[a.kv_format() as usize];
    let fits = rows >= FEWEST_MATRIX_ROWS && a.heads.padded().dim <= MATRIX_HEAD_DIM;
    let size = Some(("WG", MATRIX_SUBGROUPS * caps.subgroup_size?));
    fits.then_some(Form { kernel, rows: MATRIX_ROWS, size })
}

fn params(a: &Attention<'_>) -> Params {
    let (heads, Layout { k_offset, v_offset, row_stride, head_stride }) = (a.heads.padded(), a.layout());
    Params {
        t: a.rows(),
        s: a.keys(),
        group: heads.group(),
        q_offset: a.q.offset(),
        q_stride: a.q.tensor.cols(),
        k_offset,
        k_row_stride: row_stride,
        k_head_stride: head_stride,
        v_offset,
        v_row_stride: row_stride,
        v_head_stride: head_stride,
        out_stride: heads.width(),
        index_offset: a.index().map_or(0, |index| index.offset),
        heads: heads.query,
        far: a.far(),
        scale: heads.scale,
    }
}

impl Params {
    /// The numbers that starts in q, k and v are sums of. Kernels read several channels at a time, so all are
    /// multiples.
    fn starts(&self) -> [u32; 6] {
        [self.q_offset, self.q_stride, self.k_offset, self.k_row_stride, self.k_head_stride, self.v_offset]
    }
}

/// Rows of q that a workgroup of `attention_tile` takes: 32, which read keys and values half as often, where they are
/// enough to keep a GPU busy; else 16 make twice as many workgroups.
fn tile_rows(rows: u32, heads: u32) -> u32 {
    if rows.div_ceil(32) * heads >= TILE_WORKGROUPS { 32 } else { 16 }
}
