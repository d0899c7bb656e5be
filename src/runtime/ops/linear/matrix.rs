//! `linear_matrix`: its tiles, which of them suits a layer, and how workgroups share k.

use bytemuck::{Pod, Zeroable};

use crate::runtime::caps::{Caps, MatrixSize, Tuning};

/// `Params` of `shaders/linear_matrix.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct Params {
    pub m: u32,
    pub n: u32,
    pub k: u32,
    pub x_offset: u32,
    pub y_offset: u32,
    pub y_stride: u32,
    pub column0: u32,
    pub steps: u32,
    pub eps: f32,
}

/// Rows from which matrices pay: of fewer, most of a matrix would be padding.
const ROWS: u32 = 16;

/// Rows of weights, and of outputs, that the kernel takes whole multiples of.
const COLUMN_STEP: u32 = 8;

/// Values of k that are multiplied in a step.
pub(super) const DEPTH: u32 = 32;

/// Columns of a block, the outputs that a subgroup owns.
const BLOCK_COLUMNS: u32 = 32;

/// Times that a lane loads eight values of x, or of w, in a step: `MOST` of the kernel.
const MOST_LOADS: u32 = 8;

/// Bytes of a row of a tile in workgroup memory.
const ROW_BYTES: u32 = 80;

/// Workgroups that fill a large GPU with some to spare. A layer of fewer is cut along k.
const WORKGROUPS: u32 = 256;

/// Workgroups of which a large GPU is half full.
const FEW_WORKGROUPS: u32 = WORKGROUPS / 2;

/// Least steps that are worth a workgroup of their own.
const SHARE_STEPS: u32 = 10;

/// The way a workgroup's outputs are cut into blocks, one for each subgroup, and how they come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// Rows of matrices in a block.
    pub strips: u32,
    /// Steps of k that workgroup memory holds at once.
    pub buffers: u32,
}

/// A tile of outputs that a workgroup makes.
pub(super) struct Tile {
    pub size: MatrixSize,
    pub rows: u32,
    pub columns: u32,
    pub workgroup: u32,
    pub blocks: Blocks,
}

/// Rows and columns of a tile, strips of its blocks, and its rate: multiplications by matrices for each instruction, in
/// percent of the best tile's. At most eight blocks.
type Candidate = (u32, u32, u32, u32);

const SIXTEEN: [Candidate; 5] =
    [(128, 128, 4, 100), (96, 128, 3, 80), (64, 128, 4, 85), (64, 64, 2, 65), (32, 128, 2, 55)];
const EIGHT: [Candidate; 4] = [(64, 128, 4, 100), (96, 64, 4, 95), (64, 64, 4, 90), (32, 128, 4, 80)];

/// The tile for `m` rows of x, `n` of weights and `k` inputs; `None` where the kernel cannot run or would not pay.
pub(super) fn tile((m, n, k): (u32, u32, u32), caps: &Caps) -> Option<Tile> {
    let (size, lanes) = caps.matrix.zip(caps.subgroup_size)?;
    if m < ROWS || !n.is_multiple_of(COLUMN_STEP) {
        return None;
    }
    let candidates = match size {
        MatrixSize::Sixteen => &SIXTEEN[..],
        MatrixSize::Eight => &EIGHT[..],
    };
    let made = |&(rows, columns, strips, rate): &Candidate| {
        let blocks = rows / (strips * size.edge()) * (columns / BLOCK_COLUMNS);
        if rows.max(columns) * (DEPTH / 8) > MOST_LOADS * blocks * lanes {
            return None;
        }
        // A second buffer saves a barrier in each step.
        let buffers = [2, 1].into_iter().find(|buffers| {
            let bytes = buffers * (rows + columns) * ROW_BYTES + blocks * size.edge() * size.edge() * 4;
            bytes <= caps.max_workgroup_bytes
        })?;
        let tile = Tile { size, rows, columns, workgroup: blocks * lanes, blocks: Blocks { strips, buffers } };
        Some((cost((m, n, k), &tile, rate, &caps.tuning), tile))
    };
    let Tuning { matrix_rows, matrix_columns, .. } = caps.tuning;
    let is_asked = |tile: &Tile| [0, tile.rows].contains(&matrix_rows) && [0, tile.columns].contains(&matrix_columns);
    let tiles: Vec<(u64, Tile)> = candidates.iter().filter_map(made).collect();
    // A tile that was asked for may not be one of this size of matrices.
    let is_any = tiles.iter().any(|(_, tile)| is_asked(tile));
    let tiles = tiles.into_iter().filter(|(_, tile)| !is_any || is_asked(tile));
    tiles.min_by_key(|(cost, _)| *cost).map(|(_, tile)| tile)
}

/// Time that a layer takes in tiles of one size, in some unit: all that is multiplied, padding included, and more where
/// even shares of k leave a large GPU half empty.
fn cost((m, n, k): (u32, u32, u32), tile: &Tile, rate: u32, tuning: &Tuning) -> u64 {
    let (down, across) = (m.div_ceil(tile.rows), n.div_ceil(tile.columns));
    let area = u64::from(down * tile.rows) * u64::from(across * tile.columns);
    let (splits, _) = shares(down * across, k, tuning);
    let workgroups = u64::from((down * across * splits).min(FEW_WORKGROUPS));
    area * 100 / u64::from(rate) * u64::from(FEW_WORKGROUPS) / workgroups
}

/// Workgroups that share the k of each of so many tiles, and the steps of a share.
pub(super) fn shares(tiles: u32, k: u32, tuning: &Tuning) -> (u32, u32) {
    let steps = k.div_ceil(DEPTH);
    let most = (WORKGROUPS / tiles).min(steps / SHARE_STEPS).clamp(1, tuning.matrix_splits);
    let each = steps.div_ceil(most);
    (steps.div_ceil(each), each)
}
