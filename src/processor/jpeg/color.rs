//! Conversion of samples to RGB: libjpeg's choice of colour space and its arithmetic, and Pillow's for four inks.

use std::borrow::Cow;
use std::ops::Range;

use super::fault::Fault;
use super::frame::{Block, Frame};
use super::idct;
use super::markers::Steps;
use super::upsample::{Channel, Method};
use crate::processor::convert::cmyk;

/// The meaning given to three components.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::processor) enum Color {
    /// The meaning that the file's markers and ids give.
    AsMarked,
    /// Luma and colour differences.
    YCbCr,
    /// Red, green and blue.
    AsStored,
}

/// The meaning of a frame's components.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ColorSpace {
    Grey,
    Rgb,
    YCbCr,
    Cmyk,
    Ycck,
}

/// Chooses by markers first, then by the components' ids: `default_decompress_parms` of libjpeg.
fn color_space(frame: &Frame, color: Color) -> ColorSpace {
    let ids: Vec<u8> = frame.components.iter().map(|c| c.id).collect();
    match (ids.len(), frame.adobe) {
        (1, _) => ColorSpace::Grey,
        (3, _) if color == Color::YCbCr => ColorSpace::YCbCr,
        (3, _) if color == Color::AsStored => ColorSpace::Rgb,
        (3, _) if frame.jfif => ColorSpace::YCbCr,
        (3, Some(0)) => ColorSpace::Rgb,
        (3, None) if ids == *b"RGB" => ColorSpace::Rgb,
        (3, _) => ColorSpace::YCbCr,
        (_, None | Some(0)) => ColorSpace::Cmyk,
        _ => ColorSpace::Ycck,
    }
}

/// The approximate number of rows of pixels that are painted together.
const BAND_ROWS: usize = 64;

/// Gives a row of blocks of a component and their quantisation steps.
pub(super) type BlockRow<'b, 's> = dyn Fn(usize, usize) -> (Cow<'s, [Block]>, &'s Steps) + Sync + 'b;

/// Makes pixels from blocks.
pub(super) struct Painter<'f> {
    pub(super) frame: &'f Frame,
    space: ColorSpace,
    methods: Vec<Method>,
}

impl<'f> Painter<'f> {
    /// Refuses a sampling that is no whole number of pixels a sample.
    pub(super) fn new(frame: &'f Frame, color: Color) -> Result<Self, Fault> {
        let methods = frame.components.iter().map(|c| Method::of(frame, c));
        let methods = methods.collect::<Option<Vec<_>>>().ok_or(Fault::Kind)?;
        Ok(Painter { frame, space: color_space(frame, color), methods })
    }

    /// The picture's bands: their rows of units and their pixels.
    pub(super) fn bands<'o>(&self, rgb: &'o mut [u8]) -> impl Iterator<Item = (Range<usize>, &'o mut [u8])> + use<'o> {
        let unit_rows = self.frame.v_max * 8;
        let (units, units_high) = (BAND_ROWS.div_ceil(unit_rows), self.frame.units_high);
        let bands = rgb.chunks_mut(self.frame.width * 3 * unit_rows * units);
        bands.enumerate().map(move |(i, out)| (i * units..((i + 1) * units).min(units_high), out))
    }

    /// Paints a band. `blocks` gives a row of blocks of a component, by its number in the picture, and their
    /// quantisation steps; it is asked for rows next to the band too.
    pub(super) fn paint<'s>(&self, units: Range<usize>, out: &mut [u8], blocks: &BlockRow<'_, 's>) {
        let frame = self.frame;
        let channel = |i: usize| {
            let c = &frame.components[i];
            let mut channel = Channel::new(frame, c, self.methods[i], &units);
            for y in channel.block_rows() {
                let stride = channel.stride;
                let samples = channel.block_row(y);
                let (blocks, steps) = blocks(i, y);
                for (x, block) in blocks[..c.blocks_wide].iter().enumerate() {
                    idct::samples(block, steps, &mut samples[x * 8..], stride);
                }
            }
            channel
        };
        let mut channels: Vec<Channel> = (0..frame.components.len()).map(channel).collect();
        let top = units.start * frame.v_max * 8;
        for (y, out) in out.chunks_exact_mut(frame.width * 3).enumerate() {
            self.paint_row(top + y, &mut channels, out);
        }
    }

    fn paint_row(&self, y: usize, channels: &mut [Channel], out: &mut [u8]) {
        match (self.space, channels) {
            (ColorSpace::Rgb, [r, g, b]) => interleave(out, r.row(y), g.row(y), b.row(y)),
            (ColorSpace::YCbCr, [luma, cb, cr]) => ycc_row(out, luma.row(y), cb.row(y), cr.row(y)),
            (ColorSpace::Cmyk, [c, m, yellow, k]) => {
                interleave(out, c.row(y), m.row(y), yellow.row(y));
                ink(out, k.row(y));
            }
            (ColorSpace::Ycck, [luma, cb, cr, k]) => {
                ycc_row(out, luma.row(y), cb.row(y), cr.row(y));
                out.iter_mut().for_each(|value| *value = 255 - *value);
                ink(out, k.row(y));
            }
            (_, channels) => {
                for (pixel, grey) in out.chunks_exact_mut(3).zip(channels[0].row(y)) {
                    pixel.fill(*grey);
                }
            }
        }
    }
}

fn interleave(out: &mut [u8], r: &[u8], g: &[u8], b: &[u8]) {
    for (pixel, ((r, g), b)) in out.chunks_exact_mut(3).zip(r.iter().zip(g).zip(b)) {
        pixel.copy_from_slice(&[*r, *g, *b]);
    }
}

/// Pixels that are converted together.
const RUN: usize = 64;

/// Converts YCbCr to RGB, of equally many samples of each.
fn ycc_row(out: &mut [u8], luma: &[u8], cb: &[u8], cr: &[u8]) {
    for (i, out) in out.chunks_mut(3 * RUN).enumerate() {
        let run = |samples: &[u8]| {
            let samples = &samples[i * RUN..];
            samples.first_chunk().copied().unwrap_or_else(|| {
                let mut run = [0; RUN];
                run[..samples.len()].copy_from_slice(samples);
                run
            })
        };
        let (luma, cb, cr) = (run(luma), run(cb), run(cr));
        if let Ok(out) = out.try_into() {
            ycc_run(out, &luma, &cb, &cr);
        } else {
            let mut rgb = [0; 3 * RUN];
            ycc_run(&mut rgb, &luma, &cb, &cr);
            out.copy_from_slice(&rgb[..out.len()]);
        }
    }
}

/// The factors are 1.402, 0.344136, 0.714136 and 1.772 in 65536ths, with whole parts taken out so that products fit
/// 16 by 16 bits.
fn ycc_run(out: &mut [u8; 3 * RUN], luma: &[u8; RUN], cb: &[u8; RUN], cr: &[u8; RUN]) {
    // Loops of one kind of number each are what compilers make vector code of.
    let wide = |samples: &[u8; RUN], less: i16| samples.map(|sample| i16::from(sample) - less);
    let (y, cb, cr) = (wide(luma, 0), wide(cb, 128), wide(cr, 128));
    // A product's upper half, rounded: that of twice the number, halved.
    let scaled = |value: i16, by: i16| (((i32::from(2 * value) * i32::from(by)) >> 16) as i16 + 1) >> 1;
    let level = |value: i16| value.clamp(0, 255) as u16;
    let mut red = [0; RUN];
    let mut green = [0; RUN];
    let mut blue = [0; RUN];
    for i in 0..RUN {
        red[i] = level(y[i] + cr[i] + scaled(cr[i], 26345));
        blue[i] = level(y[i] + 2 * cb[i] + scaled(cb[i], -14942));
    }
    for i in 0..RUN {
        let sum = i32::from(cb[i]) * -22554 + i32::from(cr[i]) * 18734;
        green[i] = level(y[i] - cr[i] + ((sum + 32768) >> 16) as i16);
    }
    // Red, green and blue from the lowest byte of each pixel.
    let pixels: [u32; RUN] = std::array::from_fn(|i| u32::from(red[i] | green[i] << 8) | u32::from(blue[i]) << 16);
    // Two at a time: eight bytes are written, of which the last two are written over.
    let pair = |i: usize| u64::from(pixels[2 * i]) | u64::from(pixels[2 * i + 1]) << 24;
    for i in 0..RUN / 2 - 1 {
        out[6 * i..6 * i + 8].copy_from_slice(&pair(i).to_le_bytes());
    }
    out[3 * RUN - 6..].copy_from_slice(&pair(RUN / 2 - 1).to_le_bytes()[..6]);
}

/// Colour inks in `out`, black in `black`, both inverted as Adobe stores them and Pillow takes every file to be.
fn ink(out: &mut [u8], black: &[u8]) {
    for (pixel, black) in out.chunks_exact_mut(3).zip(black) {
        let rgb = cmyk([255 - pixel[0], 255 - pixel[1], 255 - pixel[2], 255 - *black]);
        pixel.copy_from_slice(&rgb);
    }
}
