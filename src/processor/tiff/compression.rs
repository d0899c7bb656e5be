//! The way from a strip or tile of a TIFF file to samples of whole bytes.

use std::io::Read;

use super::directory::{Directory, Fault, tag};
use super::pixels::Layout;
use crate::processor::jpeg;

/// The compression of strips and tiles, and the transforms to undo after it.
pub(super) struct Compression<'a> {
    method: Method<'a>,
    /// The predictor: 1 none, 2 differences, 3 differences of floats by bytes.
    predictor: u64,
    /// True if the lowest bit of each byte is the first.
    reversed: bool,
    little: bool,
    bits: usize,
    bytes: usize,
}

enum Method<'a> {
    None,
    Lzw,
    Deflate,
    PackBits,
    Zstd,
    Group3,
    Group4,
    Jpeg { tables: Option<&'a [u8]>, ycc: bool },
}

impl<'a> Compression<'a> {
    pub(super) fn new(directory: &Directory<'a>, layout: &Layout) -> Result<Self, Fault> {
        let fax = layout.bits == 1 && layout.samples == 1;
        let method = match directory.number(tag::COMPRESSION)?.unwrap_or(1) {
            1 => Method::None,
            3 if fax && directory.number(tag::T4_OPTIONS)?.unwrap_or(0) & 1 == 0 => Method::Group3,
            4 if fax => Method::Group4,
            5 => Method::Lzw,
            7 if layout.bits == 8 && layout.samples != 4 && !layout.planar => {
                Method::Jpeg { tables: directory.data(tag::JPEG_TABLES), ycc: layout.photometric == 6 }
            }
            8 | 32946 => Method::Deflate,
            32773 => Method::PackBits,
            50000 => Method::Zstd,
            other => return Err(Fault::Kind(format!("TIFF with {}", name(other)))),
        };
        let predictor = directory.number(tag::PREDICTOR)?.unwrap_or(1);
        let predicts = matches!(method, Method::Lzw | Method::Deflate | Method::Zstd);
        if predicts && (predictor == 2 && layout.bits < 8 || predictor == 3 && layout.format != 3 || predictor > 3) {
            return Err(Fault::Damaged);
        }
        Ok(Compression {
            method,
            predictor: if predicts { predictor } else { 1 },
            reversed: directory.number(tag::FILL_ORDER)? == Some(2),
            little: directory.little,
            bits: layout.bits,
            bytes: layout.bytes,
        })
    }

    /// The samples of a chunk of `width` by `height` pixels of `samples` each, in bytes of native order.
    pub(super) fn expand(&self, data: &[u8], width: usize, height: usize, samples: usize) -> Result<Vec<u8>, Fault> {
        if let Method::Jpeg { tables, ycc } = self.method {
            return expand_jpeg(data, tables, ycc, (width, height, samples));
        }
        let row_bytes = (width * samples * self.bits).div_ceil(8);
        let need = row_bytes.checked_mul(height).ok_or(Fault::Damaged)?;
        let turned: Vec<u8>;
        let data = if self.reversed && !matches!(self.method, Method::None) {
            turned = data.iter().map(|byte| byte.reverse_bits()).collect();
            &turned
        } else {
            data
        };
        let mut out = Vec::new();
        out.try_reserve_exact(need).map_err(|_| Fault::Damaged)?;
        match self.method {
            Method::None => out.extend(&data[..need.min(data.len())]),
            Method::Lzw => expand_lzw(data, need, &mut out),
            Method::Deflate => read_some(flate2::read::ZlibDecoder::new(data), need, &mut out),
            Method::Zstd => {
                let decoder = ruzstd::decoding::StreamingDecoder::new(data).map_err(|_| Fault::Damaged)?;
                read_some(decoder, need, &mut out);
            }
            Method::PackBits => unpack_bits(data, need, &mut out),
            Method::Group3 | Method::Group4 => self.expand_fax(data, width, height, &mut out)?,
            Method::Jpeg { .. } => {}
        }
        if out.len() < need {
            return Err(Fault::Damaged);
        }
        if self.reversed && matches!(self.method, Method::None) {
            out.iter_mut().for_each(|byte| *byte = byte.reverse_bits());
        }
        self.undo(&mut out, row_bytes, samples);
        Ok(if self.bits < 8 { spread(&out, row_bytes, width * samples, self.bits) } else { out })
    }

    /// Undoes the predictor and the byte order.
    fn undo(&self, out: &mut [u8], row_bytes: usize, samples: usize) {
        let native = cfg!(target_endian = "little");
        if self.predictor == 3 {
            // Bytes of equal weight lie together, the highest first, each the difference to the one before.
            for row in out.chunks_exact_mut(row_bytes) {
                for i in samples..row.len() {
                    row[i] = row[i].wrapping_add(row[i - samples]);
                }
                let stored = row.to_vec();
                let count = row.len() / self.bytes;
                for (i, value) in row.chunks_exact_mut(self.bytes).enumerate() {
                    for (byte, out) in value.iter_mut().enumerate() {
                        let weight = if native { self.bytes - 1 - byte } else { byte };
                        *out = stored[weight * count + i];
                    }
                }
            }
            return;
        }
        if self.little != native && self.bytes > 1 {
            out.chunks_exact_mut(self.bytes).for_each(<[u8]>::reverse);
        }
        if self.predictor == 2 {
            for row in out.chunks_exact_mut(row_bytes) {
                add_differences(row, samples, self.bytes);
            }
        }
    }

    fn expand_fax(&self, data: &[u8], width: usize, height: usize, out: &mut Vec<u8>) -> Result<(), Fault> {
        let short = u16::try_from(width).map_err(|_| Fault::Kind("TIFF with a fax of this width".into()))?;
        let mut line = |runs: &[u16]| {
            if out.len() < width.div_ceil(8) * height {
                let first = out.len();
                out.resize(first + width.div_ceil(8), 0);
                for (x, color) in fax::decoder::pels(runs, short).enumerate() {
                    if color == fax::Color::Black {
                        out[first + x / 8] |= 0x80 >> (x % 8);
                    }
                }
            }
        };
        let bytes = data.iter().copied();
        if matches!(self.method, Method::Group4) {
            let height = u16::try_from(height).ok();
            fax::decoder::decode_g4(bytes, short, height, &mut line);
        } else {
            fax::decoder::decode_g3(bytes, &mut line);
        }
        Ok(())
    }
}

/// The name of a kind of compression that is not read.
fn name(compression: u64) -> &'static str {
    match compression {
        2 | 3 => "this kind of fax compression",
        6 => "the JPEG compression of TIFF 6",
        7 => "this kind of JPEG compression",
        34925 => "LZMA compression",
        50001 => "WebP compression",
        _ => "this compression",
    }
}

/// Reads up to `need` bytes; fewer where the data are damaged.
fn read_some(reader: impl Read, need: usize, out: &mut Vec<u8>) {
    // What was read before an error counts.
    let _ = reader.take(need as u64).read_to_end(out);
}

fn expand_lzw(data: &[u8], need: usize, out: &mut Vec<u8>) {
    let mut decoder = weezl::decode::Decoder::with_tiff_size_switch(weezl::BitOrder::Msb, 8);
    out.resize(need, 0);
    let (mut from, mut to) = (0, 0);
    while to < need {
        let step = decoder.decode_bytes(&data[from..], &mut out[to..]);
        (from, to) = (from + step.consumed_in, to + step.consumed_out);
        if !matches!(step.status, Ok(weezl::LzwStatus::Ok)) {
            break;
        }
    }
    out.truncate(to);
}

fn unpack_bits(data: &[u8], need: usize, out: &mut Vec<u8>) {
    let mut data = data;
    while let [code, rest @ ..] = data
        && out.len() < need
    {
        data = rest;
        match code {
            0..128 => {
                let count = (usize::from(*code) + 1).min(rest.len());
                out.extend(&rest[..count]);
                data = &rest[count..];
            }
            128 => {}
            129.. => {
                let Some((byte, rest)) = rest.split_first() else { break };
                out.extend(std::iter::repeat_n(*byte, 257 - usize::from(*code)));
                data = rest;
            }
        }
    }
    out.truncate(need);
}

/// Adds each sample to the one of the next pixel, in native byte order.
fn add_differences(row: &mut [u8], samples: usize, bytes: usize) {
    for i in samples..row.len() / bytes {
        let (before, here) = ((i - samples) * bytes, i * bytes);
        let mut carry = 0;
        for byte in 0..bytes {
            let byte = if cfg!(target_endian = "little") { byte } else { bytes - 1 - byte };
            let sum = u16::from(row[before + byte]) + u16::from(row[here + byte]) + carry;
            row[here + byte] = sum as u8;
            carry = sum >> 8;
        }
    }
}

/// Samples of less than a byte, one in each byte.
fn spread(packed: &[u8], row_bytes: usize, count: usize, bits: usize) -> Vec<u8> {
    let mask = (1u16 << bits) as u8 - 1;
    let row = |row: &[u8]| {
        let value = |i: usize| row[i * bits / 8] >> (8 - bits - i * bits % 8) & mask;
        (0..count).map(value).collect::<Vec<u8>>()
    };
    packed.chunks_exact(row_bytes).flat_map(row).collect()
}

fn expand_jpeg(
    data: &[u8],
    tables: Option<&[u8]>,
    ycc: bool,
    (width, height, samples): (usize, usize, usize),
) -> Result<Vec<u8>, Fault> {
    let mut file = Vec::with_capacity(data.len());
    match tables {
        // Tables are a file of their own, of which the end and the strip's start drop out.
        Some(tables) if tables.len() >= 4 => {
            file.extend(&tables[..tables.len() - 2]);
            file.extend(data.get(2..).ok_or(Fault::Damaged)?);
        }
        _ => file.extend(data),
    }
    let damaged = |_| Fault::Damaged;
    let (wide, high) = jpeg::size(&file).map_err(damaged)?;
    let (wide, high) = (wide as usize, high as usize);
    if wide != width || high > height {
        return Err(Fault::Damaged);
    }
    let rgb = jpeg::decode_as(&file, if ycc { jpeg::Color::YCbCr } else { jpeg::Color::AsStored }).map_err(damaged)?;
    let mut out: Vec<u8> = match samples {
        3 => rgb,
        1 => rgb.chunks_exact(3).map(|pixel| pixel[0]).collect(),
        _ => return Err(Fault::Damaged),
    };
    out.resize(width * height * samples, 0);
    Ok(out)
}
