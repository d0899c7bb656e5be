//! JPEG files, decoded to the bytes that Pillow's libjpeg-turbo gives.
//!
//! Baseline, extended and progressive frames, Huffman and arithmetic coding, scans in any grouping, any
//! whole-number sampling, one, three or four components. The arithmetic follows libjpeg-turbo 3.1 where its result
//! can be told from another's: the integer inverse DCT with its 16-bit intermediates, the triangle filters of "fancy"
//! upsampling, smoothing of progressive files that leave coefficients out, and what is shown of damaged data. This
//! software is based in part on the work of the Independent JPEG Group.
//!
//! What Pillow refuses is refused: files that end early, frames of other depths, components that fit no colour space.
//! Of what it reads, lossless frames (`SOF3`) are refused here.

mod arithmetic;
mod bands;
mod bits;
mod color;
mod fault;
mod frame;
mod idct;
mod markers;
mod picture;
mod progressive;
mod scan;
mod sequential;
mod smoothing;
mod upsample;

pub(super) use self::color::Color;
pub(super) use self::fault::Fault;

use self::markers::Markers;

/// Width and height in pixels, from the header.
pub(super) fn size(bytes: &[u8]) -> Result<(u32, u32), Fault> {
    let frame = Markers::header(bytes)?;
    Ok((frame.width as u32, frame.height as u32))
}

/// The picture as 8-bit RGB, three bytes a pixel, rows from top to bottom.
///
/// Memory besides the picture: two bytes a sample where the file has several scans, else a few rows.
pub(super) fn decode(bytes: &[u8]) -> Result<Vec<u8>, Fault> {
    picture::read(bytes, Color::AsMarked)
}

/// The picture, as [`decode`] gives it, of three components whose meaning is known from elsewhere.
pub(super) fn decode_as(bytes: &[u8], color: Color) -> Result<Vec<u8>, Fault> {
    picture::read(bytes, color)
}
