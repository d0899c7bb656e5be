//! The forms of linear layers: which kernels there are, and which of them suits a layer and a device.

use super::matrix::{self, Blocks};
use crate::runtime::caps::{AdapterClass, Caps, LEAST_SUBGROUP, MatrixSize};
use crate::runtime::kernels::{self, Kernel};
use crate::runtime::tensor::Linear;
use crate::runtime::weight_format::WeightFormat;

/// The ways to compute a linear layer, one kernel for each weight format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// `linear_vec`: a workgroup sums a few columns of up to 8 rows through its memory.
    Vec,
    /// `linear_vec_subgroup`: the same, first in each of its subgroups.
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
    /// The sizes that the kernel leaves open, where it norms rows of x on the way or not.
    pub(in crate::runtime::ops) fn sizes(&self, norms: bool) -> Vec<(&'static str, u32)> {
        let Form { algorithm, rows, columns, .. } = *self;
        // Of each row four columns, and of four rows the squares.
        let sums = if norms { rows + rows.div_ceil(4) } else { rows };
        let vec =
            |workgroup, shares| vec![("WG", workgroup), ("SHARES", shares), ("ROWS", rows), ("NORM", norms.into())];
        let mut sizes = match (algorithm, self.workgroup) {
            (Algorithm::Vec, Some(workgroup)) => vec(workgroup, workgroup + sums),
            (Algorithm::VecSubgroup, Some(workgroup)) => vec(workgroup, workgroup / LEAST_SUBGROUP * sums),
            (Algorithm::VecSoftware, _) => vec![("ROWS", rows)],
            (_, Some(workgroup)) => vec![("WG", workgroup), ("ROWS", rows), ("COLUMNS", columns)],
            (_, None) => Vec::new(),
        };
        if let Some(Blocks { strips, buffers }) = self.blocks {
            sizes.extend([("STRIPS", strips), ("BUFFERS", buffers)]);
        }
        sizes
    }
}

/// Rows of x that a workgroup of `linear_vec` can take, and where registers are few.
const MAX_VEC_ROWS: u32 = 8;
const FEW_VEC_ROWS: u32 = 5;

/// Rows of x for each workgroup of `linear_vec`, as many for all as can be: what several share is read once for each.
fn vec_rows(m: u32, caps: &Caps) -> u32 {
    let most = if caps.few_registers { FEW_VEC_ROWS } else { MAX_VEC_ROWS };
    m.div_ceil(m.div_ceil(most).max(1)).max(1)
}

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
    let tuning = &caps.tuning;
    let vec = |algorithm| form(algorithm, Some(tuning.vec_workgroup), (vec_rows(m, caps), 4));
    let mut vecs = vec![vec(Algorithm::Vec)];
    let mut tiles = vec![form(Algorithm::Tile, None, (64, 64))];
    if caps.subgroups {
        vecs.insert(usize::from(!tuning.vec_subgroup), vec(Algorithm::VecSubgroup));
    }
    if caps.is_software() {
        vecs.insert(0, form(Algorithm::VecSoftware, None, (vec_rows(m, caps), 32)));
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

/// Rows of a picture, about.
const MANY_ROWS: u32 = 256;

/// Says whether layers over many rows multiply matrices.
pub fn multiplies_matrices(caps: &Caps) -> bool {
    reads_halves(MANY_ROWS, caps)
}

/// Says whether layers over `m` rows read halves, whatever made them.
pub fn reads_halves(m: u32, caps: &Caps) -> bool {
    // As small as may be: of its shape rows alone decide.
    choose(Shape { m, n: 8, k: 8, format: WeightFormat::F16 }, caps).algorithm.takes_halves()
}
