//! Components with fewer samples than the picture has pixels, widened as libjpeg's "fancy" upsampling does.

use std::ops::Range;

use super::frame::{Component, Frame};

/// The method that widens a component's rows to the picture's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// Every pixel has its sample.
    Full,
    /// A triangle filter across two to one.
    Wide,
    /// A triangle filter down two to one.
    High,
    /// Triangle filters across and down.
    Both,
    /// Each sample stands for a rectangle of pixels, this many across and down.
    Repeat(usize, usize),
}

impl Method {
    /// Chooses the method; `None` for a sampling that is no whole number of pixels a sample.
    pub(super) fn of(frame: &Frame, c: &Component) -> Option<Method> {
        if !frame.h_max.is_multiple_of(c.h) || !frame.v_max.is_multiple_of(c.v) {
            return None;
        }
        Some(match (frame.h_max / c.h, frame.v_max / c.v) {
            (1, 1) => Method::Full,
            (2, 1) if c.width > 2 => Method::Wide,
            (1, 2) => Method::High,
            (2, 2) if c.width > 2 => Method::Both,
            (across, down) => Method::Repeat(across, down),
        })
    }
}

/// One component's samples in a band, given at the picture's size row by row.
pub(super) struct Channel {
    samples: Vec<u8>,
    /// Samples in a row, filled up to whole blocks.
    pub(super) stride: usize,
    /// Rows of blocks that are there: of the band, and next to it where the filter looks beyond.
    rows: Range<usize>,
    width: usize,
    height: usize,
    method: Method,
    /// Room for a row, and for the sums of two rows.
    row: Vec<u8>,
    sums: Vec<i16>,
}

impl Channel {
    pub(super) fn new(frame: &Frame, c: &Component, method: Method, units: &Range<usize>) -> Self {
        let beyond = usize::from(matches!(method, Method::High | Method::Both));
        let rows = (units.start * c.v).saturating_sub(beyond)..(units.end * c.v + beyond).min(c.blocks_high);
        let stride = c.blocks_wide * 8;
        Channel {
            samples: vec![0; stride * rows.len() * 8],
            stride,
            rows,
            width: c.width,
            height: c.height,
            method,
            row: vec![0; c.width * (frame.h_max / c.h)],
            sums: vec![0; c.width],
        }
    }

    pub(super) fn block_rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    /// Room for the samples of a row of blocks.
    pub(super) fn block_row(&mut self, row: usize) -> &mut [u8] {
        let bytes = self.stride * 8;
        &mut self.samples[(row - self.rows.start) * bytes..][..bytes]
    }

    fn samples(&self, y: usize) -> &[u8] {
        &self.samples[(y - self.rows.start * 8) * self.stride..][..self.width]
    }

    /// The samples of a row of the picture, at least its width of them.
    pub(super) fn row(&mut self, y: usize) -> &[u8] {
        let (mut row, mut sums) = (std::mem::take(&mut self.row), std::mem::take(&mut self.sums));
        match self.method {
            Method::Full => {}
            Method::Wide => wide(self.samples(y), &mut row),
            Method::High => {
                let (near, far) = self.pair(y);
                let bias = if y.is_multiple_of(2) { 1 } else { 2 };
                for (out, (near, far)) in row.iter_mut().zip(near.iter().zip(far)) {
                    *out = ((u16::from(*near) * 3 + u16::from(*far) + bias) >> 2) as u8;
                }
            }
            Method::Both => {
                let (near, far) = self.pair(y);
                for (sum, (near, far)) in sums.iter_mut().zip(near.iter().zip(far)) {
                    *sum = i16::from(*near) * 3 + i16::from(*far);
                }
                both(&sums, &mut row);
            }
            Method::Repeat(across, down) => {
                for (out, sample) in row.chunks_exact_mut(across).zip(self.samples(y / down)) {
                    out.fill(*sample);
                }
            }
        }
        (self.row, self.sums) = (row, sums);
        if self.method == Method::Full { self.samples(y) } else { &self.row }
    }

    /// The sample row nearest to a row of the picture, and the one on its other side.
    fn pair(&self, y: usize) -> (&[u8], &[u8]) {
        let near = y / 2;
        let far = if y.is_multiple_of(2) { near.saturating_sub(1) } else { (near + 1).min(self.height - 1) };
        (self.samples(near), self.samples(far))
    }
}

fn wide(samples: &[u8], out: &mut [u8]) {
    let last = samples.len() - 1;
    let three = |i: usize| u16::from(samples[i]) * 3;
    out[0] = samples[0];
    out[1] = ((three(0) + u16::from(samples[1]) + 2) >> 2) as u8;
    for (window, out) in samples.windows(3).zip(out[2..].chunks_exact_mut(2)) {
        let near = u16::from(window[1]) * 3;
        out[0] = ((near + u16::from(window[0]) + 1) >> 2) as u8;
        out[1] = ((near + u16::from(window[2]) + 2) >> 2) as u8;
    }
    out[2 * last] = ((three(last) + u16::from(samples[last - 1]) + 1) >> 2) as u8;
    out[2 * last + 1] = samples[last];
}

/// Widens a row of sums of three times the near sample and the far one.
fn both(sums: &[i16], out: &mut [u8]) {
    let last = sums.len() - 1;
    out[0] = ((sums[0] * 4 + 8) >> 4) as u8;
    out[1] = ((sums[0] * 3 + sums[1] + 7) >> 4) as u8;
    for (window, out) in sums.windows(3).zip(out[2..].chunks_exact_mut(2)) {
        let near = window[1] * 3;
        out[0] = ((near + window[0] + 8) >> 4) as u8;
        out[1] = ((near + window[2] + 7) >> 4) as u8;
    }
    out[2 * last] = ((sums[last] * 3 + sums[last - 1] + 8) >> 4) as u8;
    out[2 * last + 1] = ((sums[last] * 4 + 7) >> 4) as u8;
}
