//! Rows of a file into rows of a matrix: read, looked at, converted and packed, a few at a time.

use std::ops::Range;
use std::sync::Mutex;

use half::f16;
use half::slice::HalfFloatSliceExt;
use safetensors::Dtype;

use super::adapter::LowRank;
use super::files::{Stored, StoredRows, TensorFiles};
use crate::error::{Error, Result};
use crate::runtime::WeightFormat;

/// Values handled at a time: what they become stays in a core's own cache.
const BLOCK: usize = 32 << 10;
/// Magnitudes from here on become infinite in 16 bits.
const F16_OVERFLOW: f32 = 65520.0;
/// Magnitudes below become zero in 16 bits.
const F16_UNDERFLOW: f32 = 2.98e-8;
/// Magnitudes below lose precision in 16 bits.
const F16_SUBNORMAL: f32 = 6.104e-5;

/// A summary of a tensor's values, taken while they are read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scan {
    /// Largest magnitude of the finite values.
    pub max_abs: f32,
    /// Number of NaN and infinite values.
    pub not_finite: u64,
    /// Number of values that f16 makes zero.
    pub flushed: u64,
    /// Number of values that f16 holds with fewer bits than others.
    pub subnormal: u64,
}

impl Scan {
    pub(super) fn join(&mut self, other: &Scan) {
        self.max_abs = self.max_abs.max(other.max_abs);
        self.not_finite += other.not_finite;
        self.flushed += other.flushed;
        self.subnormal += other.subnormal;
    }

    fn see(&mut self, values: &[f32]) {
        // Bit patterns of magnitudes sort as the magnitudes do, and integers are compared many at a time.
        let bits = |v: &f32| v.to_bits() & 0x7fff_ffff;
        let largest = values.iter().map(bits).max().unwrap_or(0);
        let (underflow, subnormal) = (F16_UNDERFLOW.to_bits(), F16_SUBNORMAL.to_bits());
        let count = |below: u32| values.iter().map(|v| u32::from((1..below).contains(&bits(v)))).sum::<u32>();
        let flushed = count(underflow);
        self.flushed += u64::from(flushed);
        self.subnormal += u64::from(count(subnormal) - flushed);
        if largest < 0x7f80_0000 {
            self.max_abs = self.max_abs.max(f32::from_bits(largest));
            return;
        }
        self.not_finite += values.iter().filter(|v| !v.is_finite()).count() as u64;
        self.max_abs = values.iter().filter(|v| v.is_finite()).fold(self.max_abs, |a, v| a.max(v.abs()));
    }

    fn see_halves(&mut self, bytes: &[u8]) {
        let halves = || bytes.as_chunks::<2>().0.iter().map(|&b| u16::from_le_bytes(b) & 0x7fff);
        let largest = halves().max().unwrap_or(0);
        let subnormal = halves().map(|h| u32::from((1..0x400).contains(&h))).sum::<u32>();
        self.subnormal += u64::from(subnormal);
        if largest < 0x7c00 {
            self.max_abs = self.max_abs.max(f16::from_bits(largest).to_f32());
            return;
        }
        self.not_finite += halves().filter(|&h| h >= 0x7c00).count() as u64;
        let finite = halves().filter(|&h| h < 0x7c00).max().unwrap_or(0);
        self.max_abs = self.max_abs.max(f16::from_bits(finite).to_f32());
    }
}

/// A matrix in the files on its way into rows of `padded` columns in `format`.
pub struct RowSource<'a> {
    /// The tensor's name, for messages.
    pub name: String,
    stored: StoredRows<'a>,
    /// The product that an adapter adds.
    update: Option<LowRank>,
    width: usize,
    padded: usize,
    format: WeightFormat,
    /// Scales of a row as it is written.
    row_scales: usize,
    scan: Mutex<Scan>,
}

/// Takes the next bytes.
pub type Out<'a> = dyn FnMut(&[u8]) + 'a;

/// Memory one thread converts in.
#[derive(Default)]
pub struct Room {
    bytes: Vec<u8>,
    more_bytes: Vec<u8>,
    halves: Vec<f16>,
    values: Vec<f32>,
    row: Vec<f32>,
    packed: Vec<u8>,
    scales: Vec<f16>,
}

impl<'a> RowSource<'a> {
    /// Rows of tensor `name`, which was checked, for a matrix on the device.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] or [`Error::Io`], from an adapter.
    pub(super) fn new(
        files: &'a TensorFiles,
        name: &str,
        width: u32,
        padded: u32,
        format: WeightFormat,
    ) -> Result<Self> {
        let (stored, update) = (files.rows(name).expect("what is written was checked"), files.low_rank(name)?);
        let row_scales = format.scale_bytes(padded) as usize / 2;
        let (width, padded) = (width as usize, padded as usize);
        let scan = Mutex::default();
        Ok(RowSource { name: name.into(), stored, update, width, padded, format, row_scales, scan })
    }

    /// Rows for a file: nothing is padded.
    ///
    /// # Errors
    /// As for the device.
    pub(super) fn unpadded(files: &'a TensorFiles, name: &str, width: u32, format: WeightFormat) -> Result<Self> {
        let row_scales = format.scales_in_row(width as usize);
        Ok(RowSource { row_scales, ..RowSource::new(files, name, width, width, format)? })
    }

    /// Bytes of a row in the files.
    pub fn row_bytes(&self) -> u64 {
        match &self.stored {
            StoredRows::Plain(stored) => (self.width * stored.element_bytes()) as u64,
            StoredRows::Packed { format, .. } => {
                format.row_bytes(self.width as u32) + (format.scales_in_row(self.width) * size_of::<f16>()) as u64
            }
        }
    }

    /// Packs rows of the file: values to `packed`, scales to `scales`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn pack(&self, rows: Range<usize>, room: &mut Room, packed: &mut Out<'_>, scales: &mut Out<'_>) -> Result<()> {
        let at_once = (BLOCK / self.width).max(1);
        let mut scan = Scan::default();
        for first in rows.clone().step_by(at_once) {
            let block = first..(first + at_once).min(rows.end);
            match self.stored {
                StoredRows::Plain(s) if s.dtype() == Dtype::F16 && self.is_copied(WeightFormat::F16) => {
                    let bytes = s.elements(block.start * self.width, block.len() * self.width, &mut room.bytes)?;
                    scan.see_halves(bytes);
                    packed(bytes);
                }
                StoredRows::Packed { format, values, scales: own } if self.is_copied(format) => {
                    let row = format.row_bytes(self.width as u32) as usize;
                    packed(values.elements(block.start * row, block.len() * row, &mut room.bytes)?);
                    let row = format.scales_in_row(self.width);
                    let bytes = own.elements(block.start * row, block.len() * row, &mut room.bytes)?;
                    scan.see_halves(bytes);
                    let padding = 2 * (self.row_scales - row);
                    for row in bytes.chunks(2 * row) {
                        scales(row);
                        scales(&[0; 8][..padding]);
                    }
                }
                _ => {
                    self.values(block.clone(), room)?;
                    if let Some(update) = &self.update {
                        update.add(block, &mut room.values);
                    }
                    scan.see(&room.values);
                    self.pack_values(room, packed, scales);
                }
            }
        }
        self.scan.lock().expect("no panic while it is held").join(&scan);
        Ok(())
    }

    fn is_copied(&self, format: WeightFormat) -> bool {
        self.format == format && self.width == self.padded && self.update.is_none()
    }

    /// The values of some rows.
    fn values(&self, rows: Range<usize>, room: &mut Room) -> Result<()> {
        room.values.clear();
        let (first, count) = (rows.start * self.width, rows.len() * self.width);
        match self.stored {
            StoredRows::Plain(stored) => read_values(stored, first, count, room),
            StoredRows::Packed { format, values, scales } => {
                let row = format.row_bytes(self.width as u32) as usize;
                let packed = values.elements(rows.start * row, rows.len() * row, &mut room.bytes)?;
                let row = format.scales_in_row(self.width);
                let bytes = scales.elements(rows.start * row, rows.len() * row, &mut room.more_bytes)?;
                aligned_halves(bytes, &mut room.halves);
                format.unpack(packed, &room.halves, &mut room.values);
                Ok(())
            }
        }
    }

    fn pack_values(&self, room: &mut Room, packed: &mut Out<'_>, scales: &mut Out<'_>) {
        room.packed.clear();
        room.scales.clear();
        if self.width == self.padded && self.row_scales == self.format.scales_in_row(self.width) {
            self.format.pack(&room.values, &mut room.packed, &mut room.scales);
        } else {
            for (i, row) in room.values.chunks(self.width).enumerate() {
                room.row.clear();
                room.row.extend_from_slice(row);
                room.row.resize(self.padded, 0.0);
                self.format.pack(&room.row, &mut room.packed, &mut room.scales);
                room.scales.resize((i + 1) * self.row_scales, f16::ZERO);
            }
        }
        packed(&room.packed);
        scales(bytemuck::cast_slice(&room.scales));
    }

    /// Ends the reading: releases the memory of the file and gives the scan of the values, if they may be used.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for values that are not finite or that the format cannot hold; [`Error::Io`] if the file
    /// was cut meanwhile.
    pub fn finish(&self) -> Result<Scan> {
        for stored in self.stored.tensors() {
            stored.check_intact()?;
            stored.release();
        }
        let scan = *self.scan.lock().expect("no panic while it is held");
        let (StoredRows::Plain(stored) | StoredRows::Packed { values: stored, .. }) = self.stored;
        check(&self.name, &scan, self.format, stored)?;
        Ok(scan)
    }
}

/// The values of a whole tensor, as 32-bit floats.
pub(super) fn host_values(name: &str, stored: Stored<'_>) -> Result<(Vec<f32>, Scan)> {
    let count = stored.shape().iter().product();
    let (mut room, mut scan) = (Room::default(), Scan::default());
    read_values(stored, 0, count, &mut room)?;
    stored.check_intact()?;
    scan.see(&room.values);
    if scan.not_finite > 0 {
        return Err(not_finite(name, &scan, stored));
    }
    Ok((room.values, scan))
}

fn read_values(stored: Stored<'_>, first: usize, count: usize, room: &mut Room) -> Result<()> {
    let bytes = stored.elements(first, count, &mut room.bytes)?;
    match stored.dtype() {
        Dtype::F32 => room.values.extend(bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b))),
        Dtype::F16 => {
            aligned_halves(bytes, &mut room.halves);
            room.values.resize(count, 0.0);
            room.halves.convert_to_f32_slice(&mut room.values);
        }
        _ => {
            let wide = |&b: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16); // bf16
            room.values.extend(bytes.as_chunks::<2>().0.iter().map(wide));
        }
    }
    Ok(())
}

/// A file's halves may begin at any byte.
fn aligned_halves(bytes: &[u8], halves: &mut Vec<f16>) {
    halves.resize(bytes.len() / 2, f16::ZERO);
    bytemuck::cast_slice_mut(halves).copy_from_slice(bytes);
}

fn check(name: &str, scan: &Scan, format: WeightFormat, stored: Stored<'_>) -> Result<()> {
    if scan.not_finite > 0 {
        return Err(not_finite(name, scan, stored));
    }
    // A group's scale and offset are halves too.
    let largest = match format {
        WeightFormat::F16 | WeightFormat::Q4 => F16_OVERFLOW,
        WeightFormat::Q8 => F16_OVERFLOW * 127.0,
    };
    if scan.max_abs < largest {
        return Ok(());
    }
    let problem = format!("tensor {name} holds values beyond ±65504, which 16-bit floats cannot");
    Err(Error::checkpoint(stored.path(), problem))
}

fn not_finite(name: &str, scan: &Scan, stored: Stored<'_>) -> Error {
    let problem = format!("tensor {name} holds {} values that are not finite; the file is damaged", scan.not_finite);
    Error::checkpoint(stored.path(), problem)
}
