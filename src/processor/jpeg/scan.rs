//! The walk over a scan: units of blocks, rows of units, restart markers.

use super::fault::Fault;
use super::frame::{Block, Frame};
use super::markers::{Markers, ScanHeader};

/// Reads the blocks of a scan: one implementation for each kind of coding.
pub(super) trait Decoder {
    /// True if data that ran out are read on as zeros, as arithmetic coding wants it.
    const ZEROS_ARE_DATA: bool;
    /// Reads one block of the scan's `slot`-th component.
    fn block(&mut self, slot: usize, block: &mut Block);
    /// Forgets the state that a restart marker ends.
    fn reset(&mut self);
    /// Leaves the coded data and gives the place of the next byte, and a marker that was met (0: none).
    fn leave(&mut self) -> (usize, u8);
    /// Goes on from a place, behind a marker that is not taken (0: none).
    fn resume(&mut self, at: usize, marker: u8);
    /// True if the rest of the segment cannot be read any more.
    fn exhausted(&self) -> bool;
    /// True if the file ended where data were wanted.
    fn ended(&self) -> bool;
}

/// The blocks of one component: of the whole picture, or of one row of units.
pub(super) struct Blocks {
    pub(super) blocks: Vec<Block>,
    /// Blocks in a row.
    pub(super) stride: usize,
    /// True if the blocks are the whole picture's.
    pub(super) whole: bool,
}

impl Blocks {
    /// Takes the blocks out and leaves zeroed ones in their place.
    pub(super) fn take(&mut self) -> Vec<Block> {
        let fresh = vec![[0; 64]; self.blocks.len()];
        std::mem::replace(&mut self.blocks, fresh)
    }

    /// `count` blocks of row `y` of the picture from column `x`, where `row` is the row of units it lies in, of `v`
    /// block rows.
    fn run(&mut self, (row, v, y): (usize, usize, usize), x: usize, count: usize) -> &mut [Block] {
        let first = if self.whole { row * v } else { 0 };
        let at = (first + y) * self.stride + x;
        &mut self.blocks[at..at + count]
    }
}

/// A scan being read.
pub(super) struct Scan<'s, 'a, D> {
    markers: &'s mut Markers<'a>,
    frame: &'s Frame,
    header: &'s ScanHeader,
    decoder: D,
    /// Units left to the next restart marker, and its number.
    left: usize,
    next: u8,
    /// True if the data of this segment are used up: libjpeg then leaves the rest as it is.
    insufficient: bool,
    /// The row of units being read, and the last one in which there were data.
    row: usize,
    last_good_row: usize,
}

/// The end of a scan.
pub(super) struct Ended {
    /// A marker that was met and not taken (0: none).
    pub(super) marker: u8,
    /// The last row of units in which there were data.
    pub(super) last_good_row: usize,
}

impl<'s, 'a, D: Decoder> Scan<'s, 'a, D> {
    pub(super) fn new(markers: &'s mut Markers<'a>, frame: &'s Frame, header: &'s ScanHeader, decoder: D) -> Self {
        let left = markers.restart;
        Scan { markers, frame, header, decoder, left, next: 0, insufficient: false, row: 0, last_good_row: 0 }
    }

    /// Reads the scan into `store`; `row_done` sees it after each row of units.
    pub(super) fn read(
        mut self,
        store: &mut [Blocks],
        row_done: &mut dyn FnMut(usize, &mut [Blocks]),
    ) -> Result<Ended, Fault> {
        for row in 0..self.frame.units_high {
            self.row = row;
            match self.header.components[..] {
                [(component, ..)] => self.read_row(component, &mut store[component])?,
                _ => self.read_interleaved_row(store)?,
            }
            if self.decoder.ended() {
                return Err(Fault::Truncated);
            }
            row_done(row, store);
        }
        let (at, marker) = self.decoder.leave();
        self.markers.at = at;
        Ok(Ended { marker, last_good_row: self.last_good_row })
    }

    /// A row of units of a scan of one component, whose units are its blocks.
    fn read_row(&mut self, component: usize, blocks: &mut Blocks) -> Result<(), Fault> {
        let c = &self.frame.components[component];
        for y in 0..c.v.min(c.blocks_high.saturating_sub(self.row * c.v)) {
            for block in blocks.run((self.row, c.v, y), 0, c.blocks_wide) {
                if self.unit()? {
                    self.decoder.block(0, block);
                    self.insufficient = self.decoder.exhausted();
                }
            }
        }
        Ok(())
    }

    fn read_interleaved_row(&mut self, store: &mut [Blocks]) -> Result<(), Fault> {
        for x in 0..self.frame.units_wide {
            if !self.unit()? {
                continue;
            }
            for (slot, (component, ..)) in self.header.components.iter().enumerate() {
                let c = &self.frame.components[*component];
                for y in 0..c.v {
                    for block in store[*component].run((self.row, c.v, y), x * c.h, c.h) {
                        self.decoder.block(slot, block);
                    }
                }
            }
            self.insufficient = self.decoder.exhausted();
        }
        Ok(())
    }

    /// Begins a unit; gives true if the unit is to be read.
    #[inline(always)]
    fn unit(&mut self) -> Result<bool, Fault> {
        if !self.insufficient || D::ZEROS_ARE_DATA {
            self.last_good_row = self.row;
        }
        if self.markers.restart > 0 {
            if self.left == 0 {
                self.restart()?;
            }
            self.left -= 1;
        }
        Ok(!self.insufficient)
    }

    #[cold]
    fn restart(&mut self) -> Result<(), Fault> {
        let (at, met) = self.decoder.leave();
        self.markers.at = at;
        let mut met = if met == 0 { self.markers.next_code()? } else { met };
        // libjpeg's way of finding back: see `jpeg_resync_to_restart`. A marker of the next two segments is left for
        // them, those of the last two are skipped, any other is taken for the one that is due.
        let kept = loop {
            let ahead = met.wrapping_sub(0xd0 + self.next) & 7;
            match met {
                0xd0..=0xd7 if ahead == 0 || (3..=5).contains(&ahead) => break 0,
                0xd0..=0xd7 if ahead <= 2 => break met,
                0x01..=0xbf | 0xd0..=0xd7 => met = self.markers.next_code()?,
                _ => break met,
            }
        };
        self.next = (self.next + 1) & 7;
        self.left = self.markers.restart;
        self.decoder.reset();
        self.decoder.resume(self.markers.at, kept);
        if kept == 0 || D::ZEROS_ARE_DATA {
            self.insufficient = false;
        }
        Ok(())
    }
}
