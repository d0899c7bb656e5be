//! The forms of linear layers: which kernels there are, and which of them suits a layer and a device.

use super::matrix::{self, Blocks};
use crate::runtime::caps::{AdapterClass, Caps, MatrixSize};
use crate::runtime::kernels::{self, Kernel};
use crate::runtime::tensor::Linear;
use crate::runtime::weight_format::WeightFormat;

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
    /// `linear_matrix8`, `linear_matrix16`: subgroups multiply matrices of halves.
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
    pub(super) fn norms(self) -> bool {
        matches!(self, Algorithm::Vec | Algorithm::VecSubgroup)
    }

    /// Says whether the kernel reads halves, and writes them where it is asked to.
    pub(super) fn takes_halves(self) -> bool {
        matches!(self, Algorithm::Matrix(_))
    }
}

/// A linear layer over some rows, in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows of x.
    pub m: u32,
    /// Rows of the weights.
    pub n: u32,
    /// Inputs.
    pub k: u32,
    /// The storage of the weights.
    pub format: WeightFormat,
}

impl Shape {
    /// `layer` over `m` rows.
    pub fn of(m: u32, layer: &Linear) -> Shape {
        Shape { m, n: layer.weight.rows, k: layer.weight.padded_cols(), format: layer.weight.format }
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
    /// The way it is cut into blocks, where matrices are multiplied.
    pub blocks: Option<Blocks>,
}

impl Form {
    /// The sizes that the kernel leaves open.
    pub(in crate::runtime::ops) fn sizes(&self) -> Vec<(&'static str, u32)> {
        let mut sizes = match (self.algorithm, self.workgroup) {
            (Algorithm::VecSoftware, _) => vec![("ROWS", self.rows)],
            (_, Some(workgroup)) => vec![("WG", workgroup), ("ROWS", self.rows), ("COLUMNS", self.columns)],
            (_, None) => Vec::new(),
        };
        if let Some(Blocks { strips, buffers }) = self.blocks {
            sizes.extend([("STRIPS", strips), ("BUFFERS", buffers)]);
        }
        sizes
    }
}

/// Rows of x that `linear_vec` can take at once.
const MAX_VEC_ROWS: u32 = 8;

/// The forms in which a layer can run on a device, the usual choice first.
pub fn forms(shape: Shape, caps: &Caps) -> Vec<Form> {
    let Shape { m, format, .. } = shape;
    let form = |algorithm: Algorithm, workgroup, (rows, columns)| Form {
        algorithm,
        kernel: algorithm.kernel(format),
        workgroup,
        rows,
        columns,
        blocks: None,
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
    if let Some(tile) = matrix::tile((shape.m, shape.n, shape.k), caps) {
        let matrix = form(Algorithm::Matrix(tile.size), Some(tile.workgroup), (tile.rows, tile.columns));
        // A processor has no faster way to multiply them: there they run only where they are asked for.
        let at = if caps.class == AdapterClass::Gpu { 0 } else { tiles.len() };
        tiles.insert(at, Form { blocks: Some(tile.blocks), ..matrix });
    }
    match m <= tuning.vec_rows {
        true => [vecs, tiles].concat(),
        false => [tiles, vecs].concat(),
    }
}

/// The form for a layer: the preferred one if it can run, else the usual one.
pub fn choose(shape: Shape, caps: &Caps) -> Form {
    let forms = forms(shape, caps);
    let preferred = forms.iter().find(|form| caps.preferred == Some(form.kernel.form));
    let form = *preferred.unwrap_or(&forms[0]);
    let custom = caps.custom.iter().find(|custom| custom.name == form.kernel.name);
    match custom.and_then(|custom| custom.tile) {
        Some((rows, columns)) => Form { rows, columns, ..form },
        None => form,
    }
}
