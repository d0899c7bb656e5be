//! Conversion of samples to RGB, for every kind of pixel that Pillow reads in a TIFF file.

use super::directory::{Directory, Fault, tag};
use crate::processor::convert::{cmyk, map, over_white};

/// The layout of stored pixels.
pub(super) struct Layout {
    pub(super) photometric: u64,
    /// The format of samples: 1 unsigned, 2 signed, 3 float.
    pub(super) format: u64,
    /// Bits of each sample, and the whole bytes each takes in memory.
    pub(super) bits: usize,
    pub(super) bytes: usize,
    /// Samples of a pixel.
    pub(super) samples: usize,
    /// True if each sample has strips or tiles of its own.
    pub(super) planar: bool,
    kind: Kind,
}

/// The meaning of a pixel's samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Grey {
        inverted: bool,
    },
    GreyAlpha,
    Palette,
    PaletteAlpha,
    Rgb,
    Rgba,
    /// Colours that are multiplied by alpha already.
    Premultiplied,
    Cmyk,
}

impl Layout {
    pub(super) fn new(directory: &Directory<'_>) -> Result<Self, Fault> {
        let numbers = |tag, default: &[u64]| Ok(directory.numbers(tag)?.unwrap_or_else(|| default.to_vec()));
        let compression = directory.number(tag::COMPRESSION)?.unwrap_or(1);
        let photometric = directory.number(tag::PHOTOMETRIC)?.unwrap_or(0);
        let mut formats: Vec<u64> = numbers(tag::SAMPLE_FORMAT, &[1])?;
        formats.dedup();
        let extra: Vec<u64> = numbers(tag::EXTRA_SAMPLES, &[])?;
        let samples = directory.number(tag::SAMPLES)?.unwrap_or(1) as usize;
        let mut bits: Vec<u64> = numbers(tag::BITS, &[1])?;
        bits.truncate(samples);
        bits.dedup();
        let ([bits], [format]) = (&bits[..], &formats[..]) else { return Err(unknown(photometric, 0, samples)) };
        let (bits, format) = (*bits as usize, *format);
        let kind = match (photometric, format, bits, samples, &extra[..]) {
            (0, 1, 1 | 2 | 4 | 8, 1, []) => Kind::Grey { inverted: true },
            // Pillow does not invert wider samples.
            (0, 1, 16, 1, []) if directory.little => Kind::Grey { inverted: false },
            (0 | 1, 3, 32, 1, []) => Kind::Grey { inverted: false },
            (1, 1, 1 | 2 | 4 | 8 | 16, 1, []) | (1, 2, 8 | 16 | 32, 1, []) => Kind::Grey { inverted: false },
            (1, 1, 32, 1, []) if directory.little => Kind::Grey { inverted: false },
            (1, 1, 8, 2, [2]) => Kind::GreyAlpha,
            (2, 1, 8 | 16, 3, []) => Kind::Rgb,
            (2, 1, 8, 4, [] | [2 | 999]) | (2, 1, 8, 5, [2, 0]) | (2, 1, 8, 6, [2, 0, 0]) => Kind::Rgba,
            (2, 1, 16, 4, [] | [2]) => Kind::Rgba,
            (2, 1, 8 | 16, 4, [0]) | (2, 1, 8, 5, [0, 0]) | (2, 1, 8, 6, [0, 0, 0]) => Kind::Rgb,
            (2, 1, 8 | 16, 4, [1]) | (2, 1, 8, 5, [1, 0]) | (2, 1, 8, 6, [1, 0, 0]) => Kind::Premultiplied,
            (3, 1, 1 | 2 | 4 | 8, 1, []) | (3, 1, 8, 2, [0]) => Kind::Palette,
            (3, 1, 8, 2, [2]) => Kind::PaletteAlpha,
            (5, 1, 8 | 16, 4, []) | (5, 1, 8, 5, [0]) | (5, 1, 8, 6, [0, 0]) => Kind::Cmyk,
            (6, 1, 8, 1, []) => Kind::Grey { inverted: false },
            (6, 1, 8, 3, []) if compression == 7 => Kind::Rgb,
            _ => return Err(unknown(photometric, bits, samples)),
        };
        let planar = directory.number(tag::PLANAR)? == Some(2) && samples > 1;
        Ok(Layout { photometric, format, bits, bytes: bits.div_ceil(8), samples, planar, kind })
    }

    /// The pixels as RGB, transparency composited over white.
    pub(super) fn to_rgb(&self, samples: &[u8], directory: &Directory<'_>) -> Result<Vec<u8>, Fault> {
        // 16-bit colours keep their high byte.
        let high;
        let samples = if self.bytes == 2 && !matches!(self.kind, Kind::Grey { .. }) {
            high = samples.chunks_exact(2).map(|b| (u16::from_ne_bytes([b[0], b[1]]) >> 8) as u8).collect::<Vec<u8>>();
            &high
        } else {
            samples
        };
        Ok(match self.kind {
            Kind::Grey { inverted } => self.grey(samples, inverted),
            Kind::GreyAlpha => map(samples, |[v, a]: [u8; 2]| over_white([v; 3], a)),
            Kind::Palette | Kind::PaletteAlpha => {
                let palette = self.palette(directory)?;
                let color = |pixel: &[u8]| palette[usize::from(pixel[0])];
                let alpha = self.kind == Kind::PaletteAlpha;
                let pixel = |p: &[u8]| if alpha { over_white(color(p), p[1]) } else { color(p) };
                samples.chunks_exact(self.samples).flat_map(pixel).collect()
            }
            Kind::Rgb if self.samples == 3 => samples.to_vec(),
            Kind::Rgb => self.each(samples, |p| [p[0], p[1], p[2]]),
            Kind::Rgba => self.each(samples, |p| over_white([p[0], p[1], p[2]], p[3])),
            Kind::Premultiplied => self.each(samples, |p| over_white(divided([p[0], p[1], p[2]], p[3]), p[3])),
            Kind::Cmyk => self.each(samples, |p| cmyk([p[0], p[1], p[2], p[3]])),
        })
    }

    fn each(&self, samples: &[u8], pixel: impl Fn(&[u8]) -> [u8; 3]) -> Vec<u8> {
        samples.chunks_exact(self.samples).flat_map(pixel).collect()
    }

    /// Greys: small ones are spread over 0 to 255, wide ones cut to it.
    fn grey(&self, samples: &[u8], inverted: bool) -> Vec<u8> {
        let cut = |value: i64| [value.clamp(0, 255) as u8; 3];
        match (self.bits, self.format) {
            (16, 1) => map(samples, |[v]: [u16; 1]| cut(i64::from(v))),
            (16, _) => map(samples, |[v]: [u16; 1]| cut(i64::from(v as i16))),
            // Pillow takes unsigned numbers of 32 bits for signed ones.
            (32, 1 | 2) => map(samples, |[v]: [u32; 1]| cut(i64::from(v as i32))),
            (32, _) => map(samples, |[v]: [u32; 1]| [f32::from_bits(v).clamp(0.0, 255.0) as u8; 3]),
            (bits, _) => {
                let step = (255 / ((1u16 << bits) - 1)) as u8;
                map(samples, |[v]: [u8; 1]| [if inverted { 255 - v * step } else { v * step }; 3])
            }
        }
    }

    /// The palette at 8 bits; black beyond its end.
    fn palette(&self, directory: &Directory<'_>) -> Result<Box<[[u8; 3]; 256]>, Fault> {
        let values = directory.numbers(tag::COLOR_MAP)?.ok_or(Fault::Damaged)?;
        let count = values.len() / 3;
        let mut palette = Box::new([[0; 3]; 256]);
        for (i, color) in palette.iter_mut().enumerate().take(count) {
            *color = std::array::from_fn(|channel| (values[channel * count + i] / 256) as u8);
        }
        Ok(palette)
    }
}

/// Colours that alpha was multiplied into, without it.
fn divided(color: [u8; 3], alpha: u8) -> [u8; 3] {
    match alpha {
        0 => [0; 3],
        _ => color.map(|value| (u32::from(value) * 255 / u32::from(alpha)).min(255) as u8),
    }
}

fn unknown(photometric: u64, bits: usize, samples: usize) -> Fault {
    let color = match photometric {
        0 | 1 => "grey",
        2 => "RGB",
        3 => "palette",
        5 => "CMYK",
        6 => "YCbCr",
        8..=10 => "Lab",
        _ => "other",
    };
    let bits = if bits == 0 { "several sizes of".to_string() } else { format!("{bits}-bit") };
    Fault::Kind(format!("TIFF with {samples} {bits} {color} samples a pixel"))
}
