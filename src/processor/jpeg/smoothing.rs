//! Smoothing of progressive files that leave coefficients out: libjpeg-turbo's `decompress_smooth_data`.
//!
//! The lowest coefficients of a block are estimated from the DC values of the 5 x 5 blocks round it, where the file
//! has not told them exactly.

use super::frame::{Block, Coding, Frame};
use super::markers::{ScanHeader, Steps};
use super::scan::Blocks;

/// Coefficients that are looked at: DC and the first nine in zigzag order.
const SAVED: usize = 10;
/// The natural positions of those coefficients.
const POSITIONS: [usize; SAVED] = [0, 1, 8, 16, 9, 2, 3, 10, 17, 24];

/// Bits by which each coefficient is still rounded; -1: nothing is known of it.
type Rounding = [i32; 64];

/// The precision of each component's coefficients that the scans so far have given.
pub(super) struct KnownBits {
    now: Vec<Rounding>,
    /// The values of `now` before the component's last scan.
    before: Vec<Rounding>,
    scans: usize,
}

impl KnownBits {
    pub(super) fn new(components: usize) -> Self {
        KnownBits { now: vec![[-1; 64]; components], before: vec![[-1; 64]; components], scans: 0 }
    }

    pub(super) fn begin_scan(&mut self, scan: &ScanHeader) {
        self.scans += 1;
        for (i, ..) in &scan.components {
            for k in scan.first.min(1)..=scan.last.max(SAVED - 1) {
                self.before[*i][k] = if self.scans > 1 { self.now[*i][k] } else { 0 };
            }
            self.now[*i][scan.first..=scan.last].fill(scan.low as i32);
        }
    }
}

/// The data that smoothing needs of the whole picture.
pub(super) struct Smoothing<'f> {
    frame: &'f Frame,
    now: Vec<[i32; SAVED]>,
    before: Vec<[i32; SAVED]>,
    last_good_row: usize,
}

impl<'f> Smoothing<'f> {
    /// Prepares smoothing; `None` where nothing is to be smoothed.
    pub(super) fn new(
        frame: &'f Frame,
        known: &KnownBits,
        steps: &[Option<Box<Steps>>],
        last_good_row: usize,
    ) -> Option<Self> {
        let divides = |steps: &Option<Box<Steps>>| {
            steps.as_ref().is_some_and(|steps| POSITIONS.iter().all(|position| steps[*position] != 0))
        };
        let told = |bits: &Rounding| bits[0] >= 0;
        let incomplete = |bits: &Rounding| bits[1..SAVED].iter().any(|bits| *bits != 0);
        let smooths = frame.coding == Coding::Progressive
            && steps.iter().all(divides)
            && known.now.iter().all(told)
            && known.now.iter().any(incomplete);
        let head = |bits: &Rounding| std::array::from_fn(|k| bits[k]);
        let before = |bits: &Rounding| if known.scans > 1 { head(bits) } else { [-1; SAVED] };
        smooths.then(|| Smoothing {
            frame,
            now: known.now.iter().map(head).collect(),
            before: known.before.iter().map(before).collect(),
            last_good_row,
        })
    }

    /// A block of a component, at column `x` and row `y`, with its estimates.
    pub(super) fn smooth(&self, blocks: &Blocks, (component, x, y): (usize, usize, usize), steps: &Steps) -> Block {
        let c = &self.frame.components[component];
        let mut block = blocks.blocks[y * blocks.stride + x];
        let row = y / c.v;
        let bits = if row > self.last_good_row { &self.before[component] } else { &self.now[component] };
        let dc = neighbours(blocks, c.blocks_wide, x, y, self.rows(component, y));
        let change_dc = bits[1..].iter().all(|bits| *bits == -1);
        let scale = i32::from(steps[0]);
        let kernels = if change_dc { &WITHOUT_AC[..] } else { &WITH_AC[..] };
        for (k, kernel) in kernels.iter().enumerate() {
            let position = POSITIONS[k + 1];
            if bits[k + 1] != 0 && block[position] == 0 {
                block[position] = estimate(scale, sum(kernel, &dc), i32::from(steps[position]), bits[k + 1]);
            }
        }
        if change_dc {
            block[0] = estimate(scale, sum(&DC, &dc), scale, 0);
        }
        block
    }

    /// The numbers of rows above and below its own at which a block may look, by libjpeg's count of rows, which takes
    /// every row of units to have as many as this one.
    fn rows(&self, component: usize, y: usize) -> (usize, usize) {
        let c = &self.frame.components[component];
        let last = self.frame.units_high - 1;
        let rows_here = match c.blocks_high % c.v {
            rows if rows > 0 && y / c.v == last => rows,
            _ => c.v,
        };
        let here = (y / c.v) * rows_here + y % c.v;
        (here.min(2), (rows_here * self.frame.units_high - 1 - here).min(2))
    }
}

/// The DC values of the 5 x 5 blocks around one, which may look at `above` and `below` rows. At the picture's edges,
/// the nearest value that is there stands for those that are not.
fn neighbours(blocks: &Blocks, wide: usize, x: usize, y: usize, (above, below): (usize, usize)) -> [i32; 25] {
    let mut dc = [0; 25];
    for (j, line) in dc.chunks_exact_mut(5).enumerate() {
        let row = (y + j.max(2 - above).min(2 + below)) - 2;
        for (i, value) in line.iter_mut().enumerate() {
            let column = (x + i).saturating_sub(2).min(wide - 1);
            *value = i32::from(blocks.blocks[row * blocks.stride + column][0]);
        }
    }
    dc
}

fn sum(kernel: &[i32; 25], dc: &[i32; 25]) -> i32 {
    kernel.iter().zip(dc).map(|(weight, value)| weight * value).sum()
}

/// A coefficient from a weighted sum of DC values, kept below what its known bits allow.
fn estimate(dc_step: i32, sum: i32, step: i32, bits: i32) -> i16 {
    let number = i64::from(dc_step) * i64::from(sum);
    let step = i64::from(step);
    let mut size = ((step << 7) + number.abs()) / (step << 8);
    if bits > 0 && size >= 1 << bits {
        size = (1 << bits) - 1;
    }
    (if number < 0 { -size } else { size }) as i16
}

/// Weights for AC 01, 10, 20, 11 and 02 where some AC coefficients are known.
const WITH_AC: [[i32; 25]; 5] = [
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -7, 50, 0, -50, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    [0, 0, -7, 0, 0, 0, 0, 50, 0, 0, 0, 0, 0, 0, 0, 0, 0, -50, 0, 0, 0, 0, 7, 0, 0],
    [0, 0, -1, 0, 0, 0, 0, 13, 0, 0, 0, 0, -24, 0, 0, 0, 0, 13, 0, 0, 0, 0, -1, 0, 0],
    [0, -1, 0, 1, 0, -1, 10, 0, -10, 1, 0, 0, 0, 0, 0, 1, -10, 0, 10, -1, 0, 1, 0, -1, 0],
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -1, 13, -24, 13, -1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
];

/// Weights for AC 01, 10, 20, 11, 02, 03, 12, 21 and 30 where nothing but DC is known.
const WITHOUT_AC: [[i32; 25]; 9] = [
    [-1, -1, 0, 1, 1, -3, 13, 0, -13, 3, -3, 38, 0, -38, 3, -3, 13, 0, -13, 3, -1, -1, 0, 1, 1],
    [-1, -3, -3, -3, -1, -1, 13, 38, 13, -1, 0, 0, 0, 0, 0, 1, -13, -38, -13, 1, 1, 3, 3, 3, 1],
    [0, 0, 1, 0, 0, 0, 2, 7, 2, 0, 0, -5, -14, -5, 0, 0, 2, 7, 2, 0, 0, 0, 1, 0, 0],
    [-1, 0, 0, 0, 1, 0, 9, 0, -9, 0, 0, 0, 0, 0, 0, 0, -9, 0, 9, 0, 1, 0, 0, 0, -1],
    [0, 0, 0, 0, 0, 0, 2, -5, 2, 0, 1, 7, -14, 7, 1, 0, 2, -5, 2, 0, 0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0, 0, 1, 0, -1, 0, 0, 2, 0, -2, 0, 0, 1, 0, -1, 0, 0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0, 0, 1, -3, 1, 0, 0, 0, 0, 0, 0, 0, -1, 3, -1, 0, 0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0, 0, 1, 0, -1, 0, 0, -3, 0, 3, 0, 0, 1, 0, -1, 0, 0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0, 0, 1, 2, 1, 0, 0, 0, 0, 0, 0, 0, -1, -2, -1, 0, 0, 0, 0, 0, 0],
];

/// Weights for DC itself.
const DC: [i32; 25] = [-2, -6, -8, -6, -2, -6, 6, 42, 6, -6, -8, 42, 152, 42, -8, -6, 6, 42, 6, -6, -2, -6, -8, -6, -2];
