//! The frame: what the file's header says of the picture and its components.

use super::fault::Fault;

/// Natural (row by row) position of each coefficient in zigzag order. Runs that go past the block's end land on its
/// last coefficient, as in libjpeg.
pub(super) const NATURAL: [u8; 80] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21,
    28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54,
    47, 55, 62, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63,
];

/// 64 coefficients in natural order.
pub(super) type Block = [i16; 64];

/// The coding of the frame's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Sequential,
    Progressive,
    Lossless,
}

/// One component of a frame.
#[derive(Clone, Debug)]
pub(super) struct Component {
    pub(super) id: u8,
    /// Samples across and down in one interleaved unit, 1 to 4.
    pub(super) h: usize,
    pub(super) v: usize,
    /// Number of its quantisation table.
    pub(super) steps_index: usize,
    /// Width and height in samples.
    pub(super) width: usize,
    pub(super) height: usize,
    /// Width and height in blocks (in samples where lossless).
    pub(super) blocks_wide: usize,
    pub(super) blocks_high: usize,
}

/// The frame header, `SOFn`.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) coding: Coding,
    pub(super) arithmetic: bool,
    pub(super) components: Vec<Component>,
    /// The largest sampling factors.
    pub(super) h_max: usize,
    pub(super) v_max: usize,
    /// Interleaved units across and down.
    pub(super) units_wide: usize,
    pub(super) units_high: usize,
    /// Colour transform of an Adobe marker; `None` without one.
    pub(super) adobe: Option<u8>,
    /// True if there is a JFIF marker.
    pub(super) jfif: bool,
}

/// Longest side that libjpeg reads.
const MAX_SIDE: usize = 65_500;

impl Frame {
    /// Reads the data of a frame header with this marker code.
    pub(super) fn read(code: u8, data: &[u8]) -> Result<Frame, Fault> {
        let (coding, arithmetic) = match code {
            0xc0 | 0xc1 => (Coding::Sequential, false),
            0xc2 => (Coding::Progressive, false),
            0xc3 => (Coding::Lossless, false),
            0xc9 => (Coding::Sequential, true),
            0xca => (Coding::Progressive, true),
            _ => return Err(Fault::Kind),
        };
        let [precision, h0, h1, w0, w1, count, specs @ ..] = data else { return Err(Fault::Damaged) };
        let (height, width) =
            (usize::from(u16::from_be_bytes([*h0, *h1])), usize::from(u16::from_be_bytes([*w0, *w1])));
        if *precision != 8 || !matches!(count, 1 | 3 | 4) {
            return Err(Fault::Kind);
        }
        if width == 0 || height == 0 || width.max(height) > MAX_SIDE || specs.len() != usize::from(*count) * 3 {
            return Err(Fault::Damaged);
        }
        let components: Vec<Component> = specs
            .chunks_exact(3)
            .map(|spec| Component {
                id: spec[0],
                h: usize::from(spec[1] >> 4),
                v: usize::from(spec[1] & 15),
                steps_index: usize::from(spec[2]),
                width: 0,
                height: 0,
                blocks_wide: 0,
                blocks_high: 0,
            })
            .collect();
        if components.iter().any(|c| !(1..=4).contains(&c.h) || !(1..=4).contains(&c.v)) {
            return Err(Fault::Damaged);
        }
        let h_max = components.iter().map(|c| c.h).max().unwrap_or(1);
        let v_max = components.iter().map(|c| c.v).max().unwrap_or(1);
        let mut frame = Frame {
            width,
            height,
            coding,
            arithmetic,
            components,
            h_max,
            v_max,
            units_wide: 0,
            units_high: 0,
            adobe: None,
            jfif: false,
        };
        frame.measure();
        Ok(frame)
    }

    /// Fills in the sizes that follow from the sampling.
    fn measure(&mut self) {
        let unit = self.unit();
        self.units_wide = self.width.div_ceil(self.h_max * unit);
        self.units_high = self.height.div_ceil(self.v_max * unit);
        for c in &mut self.components {
            c.width = (self.width * c.h).div_ceil(self.h_max);
            c.height = (self.height * c.v).div_ceil(self.v_max);
            c.blocks_wide = (self.width * c.h).div_ceil(self.h_max * unit);
            c.blocks_high = (self.height * c.v).div_ceil(self.v_max * unit);
        }
    }

    /// Samples on a side of what is coded together: a block, or in lossless frames a sample.
    pub(super) fn unit(&self) -> usize {
        if self.coding == Coding::Lossless { 1 } else { 8 }
    }

    /// Blocks across and down of a component, filled up to whole interleaved units.
    pub(super) fn padded(&self, component: usize) -> (usize, usize) {
        let c = &self.components[component];
        (c.blocks_wide.next_multiple_of(c.h), c.blocks_high.next_multiple_of(c.v))
    }
}
