//! The marker segments between and before the scans.

use super::bits::TableSpec;
use super::fault::Fault;
use super::frame::{Coding, Frame, NATURAL};

/// Quantisation steps in natural order.
pub(super) type Steps = [u16; 64];

/// Most scans a file may have. Encoders write up to a few dozen; hostile files write thousands.
const MAX_SCANS: usize = 1_000;

/// The header of a scan, `SOS`.
#[derive(Clone, Debug)]
pub(super) struct ScanHeader {
    /// Component, number of its DC table and of its AC table.
    pub(super) components: Vec<(usize, usize, usize)>,
    /// First and last coefficient of the scan; the predictor of a lossless one is its first.
    pub(super) first: usize,
    pub(super) last: usize,
    /// Bit position of successive approximation before (0: none) and after this scan.
    pub(super) high: u32,
    pub(super) low: u32,
}

/// Conditioning of arithmetic coding, by table.
#[derive(Clone)]
pub(super) struct Conditioning {
    pub(super) dc_low: [u8; 16],
    pub(super) dc_high: [u8; 16],
    pub(super) ac: [u8; 16],
}

/// A walk over a file's markers, and the tables they have set so far.
pub(super) struct Markers<'a> {
    pub(super) data: &'a [u8],
    pub(super) at: usize,
    pub(super) steps: [Option<Box<Steps>>; 4],
    pub(super) dc: [Option<Box<TableSpec>>; 4],
    pub(super) ac: [Option<Box<TableSpec>>; 4],
    pub(super) conditioning: Conditioning,
    /// Units between restart markers; 0 without them.
    pub(super) restart: usize,
    pub(super) frame: Option<Frame>,
    pub(super) scans: usize,
    adobe: Option<u8>,
    jfif: bool,
}

impl<'a> Markers<'a> {
    pub(super) fn new(data: &'a [u8]) -> Result<Self, Fault> {
        if !data.starts_with(&[0xff, 0xd8]) {
            return Err(Fault::Damaged);
        }
        Ok(Markers {
            data,
            at: 2,
            steps: Default::default(),
            dc: Default::default(),
            ac: Default::default(),
            conditioning: Conditioning { dc_low: [0; 16], dc_high: [1; 16], ac: [5; 16] },
            restart: 0,
            frame: None,
            scans: 0,
            adobe: None,
            jfif: false,
        })
    }

    /// Reads the frame header alone.
    pub(super) fn header(data: &'a [u8]) -> Result<Frame, Fault> {
        let mut markers = Markers::new(data)?;
        while markers.frame.is_none() {
            let code = markers.next_code()?;
            if matches!(code, 0xd9 | 0xda) {
                return Err(Fault::Damaged);
            }
            markers.segment(code)?;
        }
        markers.frame.ok_or(Fault::Damaged)
    }

    /// Goes on to the next scan; `None` at the end of the picture. `met` is a marker that was read already (0: none).
    pub(super) fn next_scan(&mut self, met: u8) -> Result<Option<ScanHeader>, Fault> {
        let mut code = if met == 0 { self.next_code()? } else { met };
        loop {
            match code {
                0xd9 => return Ok(None),
                0xda => return self.scan_header().map(Some),
                _ => self.segment(code)?,
            }
            code = self.next_code()?;
        }
    }

    /// Reads up to and over the next marker, whatever lies before it.
    pub(super) fn next_code(&mut self) -> Result<u8, Fault> {
        loop {
            let gap = self.data[self.at..].iter().position(|byte| *byte == 0xff).ok_or(Fault::Truncated)?;
            self.at += gap;
            let fill = self.data[self.at..].iter().position(|byte| *byte != 0xff).ok_or(Fault::Truncated)?;
            self.at += fill + 1;
            match self.data[self.at - 1] {
                0 => {}
                code => return Ok(code),
            }
        }
    }

    /// Reads the data of a segment and moves behind it.
    fn take_segment(&mut self) -> Result<&'a [u8], Fault> {
        let length = self.data.get(self.at..self.at + 2).ok_or(Fault::Truncated)?;
        let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
        if length < 2 {
            return Err(Fault::Damaged);
        }
        let data = self.data.get(self.at + 2..self.at + length).ok_or(Fault::Truncated)?;
        self.at += length;
        Ok(data)
    }

    fn segment(&mut self, code: u8) -> Result<(), Fault> {
        match code {
            // Restart markers and TEM have no data.
            0x01 | 0xd0..=0xd7 => return Ok(()),
            // Refused before their data are looked for, as libjpeg does.
            0xc5..=0xc8 | 0xcd..=0xcf => return Err(Fault::Kind),
            0xc0..=0xcf | 0xdb..=0xdd | 0xe0..=0xef | 0xfe => {}
            _ => return Err(Fault::Damaged),
        }
        let data = self.take_segment()?;
        match code {
            0xc4 => self.huffman_tables(data),
            0xcc => self.arithmetic_conditioning(data),
            0xdb => self.quantisation_tables(data),
            0xdd if data.len() == 2 => {
                self.restart = usize::from(u16::from_be_bytes([data[0], data[1]]));
                Ok(())
            }
            0xc0..=0xcf => {
                let frame = Frame::read(code, data)?;
                if self.frame.is_some() {
                    return Err(Fault::Damaged);
                }
                self.frame = Some(frame);
                Ok(())
            }
            0xe0 => {
                self.jfif |= data.len() >= 14 && data.starts_with(b"JFIF\0");
                Ok(())
            }
            0xee => {
                if data.len() >= 12 && data.starts_with(b"Adobe") {
                    self.adobe = Some(data[11]);
                }
                Ok(())
            }
            0xdc | 0xe1..=0xef | 0xfe => Ok(()),
            _ => Err(Fault::Damaged),
        }
    }

    fn huffman_tables(&mut self, mut data: &[u8]) -> Result<(), Fault> {
        while data.len() > 16 {
            let (head, rest) = data.split_at(17);
            let mut spec = TableSpec { lengths: [0; 16], values: [0; 256] };
            spec.lengths.copy_from_slice(&head[1..]);
            let count = spec.lengths.iter().map(|length| usize::from(*length)).sum::<usize>();
            if count > 256 || count > rest.len() || head[0] & !0x10 > 3 {
                return Err(Fault::Damaged);
            }
            spec.values[..count].copy_from_slice(&rest[..count]);
            data = &rest[count..];
            let tables = if head[0] & 0x10 == 0 { &mut self.dc } else { &mut self.ac };
            tables[usize::from(head[0] & 3)] = Some(Box::new(spec));
        }
        if data.is_empty() { Ok(()) } else { Err(Fault::Damaged) }
    }

    fn arithmetic_conditioning(&mut self, data: &[u8]) -> Result<(), Fault> {
        for pair in data.chunks(2) {
            let [index, value] = *pair else { return Err(Fault::Damaged) };
            let (table, low, high) = (usize::from(index & 15), value & 15, value >> 4);
            match index {
                0..16 if low <= high => {
                    (self.conditioning.dc_low[table], self.conditioning.dc_high[table]) = (low, high);
                }
                16..32 => self.conditioning.ac[table] = value,
                _ => return Err(Fault::Damaged),
            }
        }
        Ok(())
    }

    fn quantisation_tables(&mut self, mut data: &[u8]) -> Result<(), Fault> {
        while let Some((head, rest)) = data.split_first() {
            let (wide, index) = (*head >> 4 != 0, usize::from(head & 15));
            let bytes = if wide { 128 } else { 64 };
            if index > 3 || rest.len() < bytes {
                return Err(Fault::Damaged);
            }
            let mut steps = Box::new([0; 64]);
            for (i, natural) in NATURAL[..64].iter().enumerate() {
                steps[usize::from(*natural)] =
                    if wide { u16::from_be_bytes([rest[2 * i], rest[2 * i + 1]]) } else { u16::from(rest[i]) };
            }
            self.steps[index] = Some(steps);
            data = &rest[bytes..];
        }
        Ok(())
    }

    fn scan_header(&mut self) -> Result<ScanHeader, Fault> {
        let data = self.take_segment()?;
        let frame = self.frame.as_mut().ok_or(Fault::Damaged)?;
        (frame.adobe, frame.jfif) = (self.adobe, self.jfif);
        let count = usize::from(*data.first().ok_or(Fault::Damaged)?);
        if !(1..=4).contains(&count) || data.len() != count * 2 + 4 {
            return Err(Fault::Damaged);
        }
        let mut components: Vec<(usize, usize, usize)> = Vec::with_capacity(count);
        for spec in data[1..1 + 2 * count].chunks_exact(2) {
            let taken = |i: usize| components.iter().any(|(other, ..)| *other == i);
            let found = frame.components.iter().enumerate().position(|(i, c)| c.id == spec[0] && !taken(i));
            components.push((found.ok_or(Fault::Damaged)?, usize::from(spec[1] >> 4), usize::from(spec[1] & 15)));
        }
        let blocks: usize = components.iter().map(|(i, ..)| frame.components[*i].h * frame.components[*i].v).sum();
        // A unit of more blocks is not allowed, except in scans of one component, whose units are one block.
        if count > 1 && blocks > 10 {
            return Err(Fault::Damaged);
        }
        self.scans += 1;
        if self.scans > MAX_SCANS {
            return Err(Fault::Damaged);
        }
        let [first, last, approximation] = data[1 + 2 * count..] else { return Err(Fault::Damaged) };
        let scan = ScanHeader {
            components,
            first: usize::from(first),
            last: usize::from(last),
            high: u32::from(approximation >> 4),
            low: u32::from(approximation & 15),
        };
        if frame.coding == Coding::Progressive { scan.check_progressive() } else { Ok(()) }?;
        Ok(scan)
    }
}

impl ScanHeader {
    fn check_progressive(&self) -> Result<(), Fault> {
        let band = if self.first == 0 {
            self.last == 0
        } else {
            self.first <= self.last && self.last < 64 && self.components.len() == 1
        };
        let refines = self.high == 0 || self.low + 1 == self.high;
        if band && refines && self.low <= 13 { Ok(()) } else { Err(Fault::Damaged) }
    }
}
