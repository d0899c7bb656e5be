//! Progressive frames with Huffman coding: bands of coefficients, a few bits at a time.

use super::bits::{Bits, Table};
use super::fault::Fault;
use super::frame::{Block, NATURAL};
use super::markers::{Markers, ScanHeader};
use super::scan::Decoder;
use super::sequential::LARGEST_DC;

/// Reads what one scan adds to the blocks.
pub(super) struct Progressive<'a> {
    bits: Bits<'a>,
    /// Tables of each of the scan's components; none where DC bits are refined.
    tables: Vec<Table>,
    last_dc: [i32; 4],
    /// Blocks left of a run of blocks whose bands are over.
    end_of_band_run: u32,
    pass: Pass,
    first: usize,
    last: usize,
    low: u32,
}

#[derive(Clone, Copy)]
enum Pass {
    DcFirst,
    DcRefine,
    AcFirst,
    AcRefine,
}

impl<'a> Progressive<'a> {
    pub(super) fn new(markers: &Markers<'a>, scan: &ScanHeader) -> Result<Self, Fault> {
        let pass = match (scan.first, scan.high) {
            (0, 0) => Pass::DcFirst,
            (0, _) => Pass::DcRefine,
            (_, 0) => Pass::AcFirst,
            _ => Pass::AcRefine,
        };
        let tables = scan.components.iter().filter(|_| !matches!(pass, Pass::DcRefine)).map(|(_, dc, ac)| {
            let (tables, index, largest) =
                if scan.first == 0 { (&markers.dc, *dc, LARGEST_DC) } else { (&markers.ac, *ac, u8::MAX) };
            let spec = tables.get(index).and_then(Option::as_ref).ok_or(Fault::Damaged)?;
            Table::new(spec, largest)
        });
        Ok(Progressive {
            tables: tables.collect::<Result<_, _>>()?,
            bits: Bits::new(markers.data, markers.at),
            last_dc: [0; 4],
            end_of_band_run: 0,
            pass,
            first: scan.first,
            last: scan.last,
            low: scan.low,
        })
    }

    fn dc_first(&mut self, slot: usize, block: &mut Block) {
        let size = self.tables[slot].value(&mut self.bits);
        self.last_dc[slot] = self.last_dc[slot].wrapping_add(self.bits.signed(u32::from(size)));
        block[0] = (self.last_dc[slot] << self.low) as i16;
    }

    fn ac_first(&mut self, block: &mut Block) {
        if self.end_of_band_run > 0 {
            self.end_of_band_run -= 1;
            return;
        }
        let mut k = self.first;
        while k <= self.last {
            let code = self.tables[0].value(&mut self.bits);
            let (run, size) = (usize::from(code >> 4), u32::from(code & 15));
            if size > 0 {
                k += run;
                block[usize::from(NATURAL[k])] = (self.bits.signed(size) << self.low) as i16;
                k += 1;
            } else if run == 15 {
                k += 16;
            } else {
                self.end_of_band_run = self.run_length(run as u32) - 1;
                break;
            }
        }
    }

    /// Blocks in a run of ended bands with this code, the present one included.
    fn run_length(&mut self, code: u32) -> u32 {
        if code == 0 { 1 } else { (1 << code) + self.bits.take(code) }
    }

    fn ac_refine(&mut self, block: &mut Block) {
        let bit = 1i16 << self.low;
        let mut k = self.first;
        if self.end_of_band_run == 0 {
            while k <= self.last {
                let code = self.tables[0].value(&mut self.bits);
                let (mut zeros, size) = (i32::from(code >> 4), code & 15);
                let mut new = 0;
                if size > 0 {
                    new = if self.bits.take(1) == 1 { bit } else { -bit };
                } else if zeros != 15 {
                    self.end_of_band_run = self.run_length(zeros as u32);
                    break;
                }
                // Past coefficients that are known, which get a bit each, and the zeros of the run.
                while k <= self.last {
                    let coefficient = &mut block[usize::from(NATURAL[k])];
                    if *coefficient != 0 {
                        refine(&mut self.bits, coefficient, bit);
                    } else {
                        zeros -= 1;
                        if zeros < 0 {
                            break;
                        }
                    }
                    k += 1;
                }
                if new != 0 {
                    block[usize::from(NATURAL[k])] = new;
                }
                k += 1;
            }
        }
        if self.end_of_band_run > 0 {
            for natural in &NATURAL[k..(self.last + 1).max(k)] {
                let coefficient = &mut block[usize::from(*natural)];
                if *coefficient != 0 {
                    refine(&mut self.bits, coefficient, bit);
                }
            }
            self.end_of_band_run -= 1;
        }
    }
}

/// Reads the next bit of a coefficient's magnitude.
fn refine(bits: &mut Bits<'_>, coefficient: &mut i16, bit: i16) {
    if bits.take(1) == 1 && *coefficient & bit == 0 {
        *coefficient = coefficient.wrapping_add(if *coefficient >= 0 { bit } else { -bit });
    }
}

impl Decoder for Progressive<'_> {
    const ZEROS_ARE_DATA: bool = false;

    fn block(&mut self, slot: usize, block: &mut Block) {
        match self.pass {
            Pass::DcFirst => self.dc_first(slot, block),
            Pass::DcRefine => block[0] |= (self.bits.take(1) << self.low) as i16,
            Pass::AcFirst => self.ac_first(block),
            Pass::AcRefine => self.ac_refine(block),
        }
    }

    fn reset(&mut self) {
        self.last_dc = [0; 4];
        self.end_of_band_run = 0;
    }

    fn leave(&mut self) -> (usize, u8) {
        self.bits.leave()
    }

    fn resume(&mut self, at: usize, marker: u8) {
        self.bits.resume(at, marker);
    }

    fn exhausted(&self) -> bool {
        self.bits.starved()
    }

    fn ended(&self) -> bool {
        self.bits.ended
    }
}
