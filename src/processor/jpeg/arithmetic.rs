//! Arithmetic coding, sequential and progressive.

use super::frame::{Block, NATURAL};
use super::markers::{Conditioning, Markers, ScanHeader};
use super::scan::Decoder;

/// Statistics of one adaptive decision: the likelier value in the top bit, the state below.
type Bin = u8;

/// Number of bins of a DC table and of an AC table.
const DC_BINS: usize = 64;
const AC_BINS: usize = 256;

/// The bins of magnitudes begin here, for DC and for the lower and higher AC coefficients.
const DC_MAGNITUDES: usize = 20;
const LOW_AC_MAGNITUDES: usize = 189;
const HIGH_AC_MAGNITUDES: usize = 217;

/// The state of an even chance, which does not adapt.
const EVEN: Bin = 113;

/// The arithmetic decoder proper: annex D of the standard, in libjpeg's arrangement.
struct Coder<'a> {
    data: &'a [u8],
    at: usize,
    /// The marker that ended the data, which zeros follow; 0 for none.
    marker: u8,
    ended: bool,
    code: i64,
    interval: i64,
    /// Bits left of those read, or less than 0 while the first two bytes are missing.
    count: i32,
}

impl Coder<'_> {
    fn byte(&mut self) -> u8 {
        let byte = self.data.get(self.at).copied();
        self.ended |= byte.is_none();
        self.at += 1;
        byte.unwrap_or(0)
    }

    /// The next byte of data: zero past a marker.
    fn input(&mut self) -> u8 {
        if self.marker != 0 || self.ended {
            return 0;
        }
        let byte = self.byte();
        if byte != 0xff {
            return byte;
        }
        let mut code = self.byte();
        while code == 0xff {
            code = self.byte();
        }
        if code == 0 && !self.ended {
            return 0xff;
        }
        self.marker = code;
        0
    }

    fn decode(&mut self, bin: &mut Bin) -> bool {
        while self.interval < 0x8000 {
            self.count -= 1;
            if self.count < 0 {
                self.code = self.code << 8 | i64::from(self.input());
                self.count += 8;
                if self.count < 0 {
                    self.count += 1;
                    if self.count == 0 {
                        self.interval = 0x8000;
                    }
                }
            }
            self.interval <<= 1;
        }
        let state = *bin;
        let (estimate, after_less, after_more) = STATES[usize::from(state & 0x7f)];
        let estimate = i64::from(estimate);
        self.interval -= estimate;
        let split = self.interval << self.count;
        let more = state >> 7 == 1;
        let less_likely = if self.code >= split {
            self.code -= split;
            let less = self.interval >= estimate;
            self.interval = estimate;
            less
        } else if self.interval < 0x8000 {
            self.interval < estimate
        } else {
            return more;
        };
        *bin = state & 0x80 ^ if less_likely { after_less } else { after_more };
        more != less_likely
    }

    fn restart(&mut self) {
        (self.code, self.interval, self.count) = (0, 0, -16);
    }
}

/// Reads the blocks of a scan that is coded arithmetically.
pub(super) struct Arithmetic<'a> {
    coder: Coder<'a>,
    dc_bins: Box<[[Bin; DC_BINS]; 16]>,
    ac_bins: Box<[[Bin; AC_BINS]; 16]>,
    conditioning: Conditioning,
    /// Numbers of the tables of each of the scan's components.
    tables: Vec<(usize, usize)>,
    last_dc: [i32; 4],
    /// First bin of a component's next DC difference, by the size of the last.
    dc_context: [usize; 4],
    pass: Pass,
    first: usize,
    last: usize,
    low: u32,
    /// True if the data made no sense; the rest of the segment is then left as it is.
    broken: bool,
}

#[derive(Clone, Copy)]
enum Pass {
    Whole,
    DcFirst,
    DcRefine,
    AcFirst,
    AcRefine,
}

impl<'a> Arithmetic<'a> {
    pub(super) fn new(markers: &Markers<'a>, scan: &ScanHeader, progressive: bool) -> Self {
        let pass = match (progressive, scan.first, scan.high) {
            (false, ..) => Pass::Whole,
            (_, 0, 0) => Pass::DcFirst,
            (_, 0, _) => Pass::DcRefine,
            (_, _, 0) => Pass::AcFirst,
            _ => Pass::AcRefine,
        };
        let mut coder =
            Coder { data: markers.data, at: markers.at, marker: 0, ended: false, code: 0, interval: 0, count: 0 };
        coder.restart();
        let (first, last, low) = if progressive { (scan.first, scan.last, scan.low) } else { (1, 63, 0) };
        Arithmetic {
            coder,
            dc_bins: Box::new([[0; DC_BINS]; 16]),
            ac_bins: Box::new([[0; AC_BINS]; 16]),
            conditioning: markers.conditioning.clone(),
            tables: scan.components.iter().map(|(_, dc, ac)| (*dc, *ac)).collect(),
            last_dc: [0; 4],
            dc_context: [0; 4],
            pass,
            first,
            last,
            low,
            broken: false,
        }
    }

    /// A magnitude's category as its highest bit, where the first decisions were yes; `None` if it is too large.
    fn category(coder: &mut Coder<'_>, bins: &mut [Bin], mut magnitude: i32, at: &mut usize) -> Option<i32> {
        while coder.decode(&mut bins[*at]) {
            magnitude <<= 1;
            if magnitude == 0x8000 {
                return None;
            }
            *at += 1;
        }
        Some(magnitude)
    }

    /// The bits below a magnitude's highest; the value with its sign.
    fn value(coder: &mut Coder<'_>, bin: &mut Bin, mut magnitude: i32, negative: bool) -> i32 {
        let mut value = magnitude;
        magnitude >>= 1;
        while magnitude > 0 {
            if coder.decode(bin) {
                value |= magnitude;
            }
            magnitude >>= 1;
        }
        if negative { -(value + 1) } else { value + 1 }
    }

    /// Adds the next difference to a component's DC value.
    fn dc(&mut self, slot: usize) {
        let table = self.tables[slot].0;
        let bins = &mut self.dc_bins[table];
        let context = self.dc_context[slot];
        if !self.coder.decode(&mut bins[context]) {
            self.dc_context[slot] = 0;
            return;
        }
        let negative = self.coder.decode(&mut bins[context + 1]);
        let mut at = context + 2 + usize::from(negative);
        let mut magnitude = i32::from(self.coder.decode(&mut bins[at]));
        if magnitude != 0 {
            at = DC_MAGNITUDES;
            let Some(category) = Self::category(&mut self.coder, bins, magnitude, &mut at) else {
                self.broken = true;
                return;
            };
            magnitude = category;
        }
        let sign = 4 * usize::from(negative);
        self.dc_context[slot] = if magnitude < (1 << self.conditioning.dc_low[table]) >> 1 {
            0
        } else if magnitude > (1 << self.conditioning.dc_high[table]) >> 1 {
            12 + sign
        } else {
            4 + sign
        };
        let difference = Self::value(&mut self.coder, &mut bins[at + 14], magnitude, negative);
        self.last_dc[slot] = (self.last_dc[slot] + difference) & 0xffff;
    }

    /// Reads the coefficients of a band for the first time.
    fn ac(&mut self, slot: usize, block: &mut Block) {
        let table = self.tables[slot].1;
        let bins = &mut self.ac_bins[table];
        let mut k = self.first;
        while k <= self.last {
            let mut at = 3 * (k - 1);
            if self.coder.decode(&mut bins[at]) {
                break;
            }
            while !self.coder.decode(&mut bins[at + 1]) {
                at += 3;
                k += 1;
                if k > self.last {
                    self.broken = true;
                    return;
                }
            }
            let negative = self.coder.decode(&mut { EVEN });
            at += 2;
            let mut magnitude = i32::from(self.coder.decode(&mut bins[at]));
            if magnitude != 0 && self.coder.decode(&mut bins[at]) {
                let low = k <= usize::from(self.conditioning.ac[table]);
                at = if low { LOW_AC_MAGNITUDES } else { HIGH_AC_MAGNITUDES };
                let Some(category) = Self::category(&mut self.coder, bins, 2 * magnitude, &mut at) else {
                    self.broken = true;
                    return;
                };
                magnitude = category;
            }
            let value = Self::value(&mut self.coder, &mut bins[at + 14], magnitude, negative);
            block[usize::from(NATURAL[k])] = (value << self.low) as i16;
            k += 1;
        }
    }

    fn ac_refine(&mut self, block: &mut Block) {
        let bins = &mut self.ac_bins[self.tables[0].1];
        let bit = 1i16 << self.low;
        let known = (1..=self.last).rev().find(|k| block[usize::from(NATURAL[*k])] != 0).unwrap_or(0);
        let mut k = self.first;
        while k <= self.last {
            let mut at = 3 * (k - 1);
            if k > known && self.coder.decode(&mut bins[at]) {
                break;
            }
            loop {
                let coefficient = &mut block[usize::from(NATURAL[k])];
                if *coefficient != 0 {
                    if self.coder.decode(&mut bins[at + 2]) {
                        *coefficient = coefficient.wrapping_add(if *coefficient < 0 { -bit } else { bit });
                    }
                    break;
                }
                if self.coder.decode(&mut bins[at + 1]) {
                    *coefficient = if self.coder.decode(&mut { EVEN }) { -bit } else { bit };
                    break;
                }
                at += 3;
                k += 1;
                if k > self.last {
                    self.broken = true;
                    return;
                }
            }
            k += 1;
        }
    }
}

impl Decoder for Arithmetic<'_> {
    const ZEROS_ARE_DATA: bool = true;

    fn block(&mut self, slot: usize, block: &mut Block) {
        // Within a unit as between units: nothing is read after a value that made no sense.
        if self.broken {
            return;
        }
        match self.pass {
            Pass::Whole => {
                self.dc(slot);
                if !self.broken {
                    block[0] = self.last_dc[slot] as i16;
                    self.ac(slot, block);
                }
            }
            Pass::DcFirst => {
                self.dc(slot);
                if !self.broken {
                    block[0] = (self.last_dc[slot] << self.low) as i16;
                }
            }
            Pass::DcRefine => {
                if self.coder.decode(&mut { EVEN }) {
                    block[0] |= 1 << self.low;
                }
            }
            Pass::AcFirst => self.ac(slot, block),
            Pass::AcRefine => self.ac_refine(block),
        }
    }

    fn reset(&mut self) {
        for (slot, (dc, ac)) in self.tables.iter().enumerate() {
            if matches!(self.pass, Pass::Whole | Pass::DcFirst) {
                self.dc_bins[*dc] = [0; DC_BINS];
                (self.last_dc[slot], self.dc_context[slot]) = (0, 0);
            }
            self.ac_bins[*ac] = [0; AC_BINS];
        }
        self.coder.restart();
        self.broken = false;
    }

    fn leave(&mut self) -> (usize, u8) {
        (self.coder.at.min(self.coder.data.len()), std::mem::take(&mut self.coder.marker))
    }

    fn resume(&mut self, at: usize, marker: u8) {
        (self.coder.at, self.coder.marker) = (at, marker);
    }

    fn exhausted(&self) -> bool {
        self.broken
    }

    fn ended(&self) -> bool {
        self.coder.ended
    }
}

/// Estimate of the less likely value's chance, and the states after it (with a bit that swaps the values) and after
/// the likelier one: table D.3 of the standard, and a last state that stays at an even chance.
#[rustfmt::skip]
const STATES: [(u16, u8, u8); 114] = [
    (0x5a1d, 129, 1), (0x2586, 14, 2), (0x1114, 16, 3), (0x080b, 18, 4), (0x03d8, 20, 5), (0x01da, 23, 6),
    (0x00e5, 25, 7), (0x006f, 28, 8), (0x0036, 30, 9), (0x001a, 33, 10), (0x000d, 35, 11), (0x0006, 9, 12),
    (0x0003, 10, 13), (0x0001, 12, 13), (0x5a7f, 143, 15), (0x3f25, 36, 16), (0x2cf2, 38, 17), (0x207c, 39, 18),
    (0x17b9, 40, 19), (0x1182, 42, 20), (0x0cef, 43, 21), (0x09a1, 45, 22), (0x072f, 46, 23), (0x055c, 48, 24),
    (0x0406, 49, 25), (0x0303, 51, 26), (0x0240, 52, 27), (0x01b1, 54, 28), (0x0144, 56, 29), (0x00f5, 57, 30),
    (0x00b7, 59, 31), (0x008a, 60, 32), (0x0068, 62, 33), (0x004e, 63, 34), (0x003b, 32, 35), (0x002c, 33, 9),
    (0x5ae1, 165, 37), (0x484c, 64, 38), (0x3a0d, 65, 39), (0x2ef1, 67, 40), (0x261f, 68, 41), (0x1f33, 69, 42),
    (0x19a8, 70, 43), (0x1518, 72, 44), (0x1177, 73, 45), (0x0e74, 74, 46), (0x0bfb, 75, 47), (0x09f8, 77, 48),
    (0x0861, 78, 49), (0x0706, 79, 50), (0x05cd, 48, 51), (0x04de, 50, 52), (0x040f, 50, 53), (0x0363, 51, 54),
    (0x02d4, 52, 55), (0x025c, 53, 56), (0x01f8, 54, 57), (0x01a4, 55, 58), (0x0160, 56, 59), (0x0125, 57, 60),
    (0x00f6, 58, 61), (0x00cb, 59, 62), (0x00ab, 61, 63), (0x008f, 61, 32), (0x5b12, 193, 65), (0x4d04, 80, 66),
    (0x412c, 81, 67), (0x37d8, 82, 68), (0x2fe8, 83, 69), (0x293c, 84, 70), (0x2379, 86, 71), (0x1edf, 87, 72),
    (0x1aa9, 87, 73), (0x174e, 72, 74), (0x1424, 72, 75), (0x119c, 74, 76), (0x0f6b, 74, 77), (0x0d51, 75, 78),
    (0x0bb6, 77, 79), (0x0a40, 77, 48), (0x5832, 208, 81), (0x4d1c, 88, 82), (0x438e, 89, 83), (0x3bdd, 90, 84),
    (0x34ee, 91, 85), (0x2eae, 92, 86), (0x299a, 93, 87), (0x2516, 86, 71), (0x5570, 216, 89), (0x4ca9, 95, 90),
    (0x44d9, 96, 91), (0x3e22, 97, 92), (0x3824, 99, 93), (0x32b4, 99, 94), (0x2e17, 93, 86), (0x56a8, 223, 96),
    (0x4f46, 101, 97), (0x47e5, 102, 98), (0x41cf, 103, 99), (0x3c3d, 104, 100), (0x375e, 99, 93), (0x5231, 105, 102),
    (0x4c0f, 106, 103), (0x4639, 107, 104), (0x415e, 103, 99), (0x5627, 233, 106), (0x50e7, 108, 107), (0x4b85, 109, 103),
    (0x5597, 110, 109), (0x504f, 111, 107), (0x5a10, 238, 111), (0x5522, 112, 109), (0x59eb, 240, 111), (0x5a1d, 113, 113),
];
