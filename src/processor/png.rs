//! Pillow's reading of a PNG's chunks, where the decoder's differs.

use std::borrow::Cow;

use flate2::{Decompress, FlushDecompress, Status};

use super::convert::ColorKey;

/// Bytes before the first chunk.
const SIGNATURE: usize = 8;

/// A chunk: its name, its data as far as they are there, and what follows it.
struct Chunk<'a> {
    name: [u8; 4],
    data: &'a [u8],
    /// The check sum, if the file has it.
    sum: Option<u32>,
    rest: &'a [u8],
}

fn next_chunk(bytes: &[u8]) -> Option<Chunk<'_>> {
    let length = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let name = bytes.get(4..8)?.try_into().ok()?;
    let (data, rest) = bytes[8..].split_at_checked(length).unwrap_or((&bytes[8..], &[]));
    let sum = rest.first_chunk().map(|sum| u32::from_be_bytes(*sum));
    Some(Chunk { name, data, sum, rest: rest.get(4..).unwrap_or_default() })
}

fn chunks(bytes: &[u8]) -> impl Iterator<Item = Chunk<'_>> {
    let mut rest = bytes.get(SIGNATURE..).unwrap_or_default();
    std::iter::from_fn(move || {
        let chunk = next_chunk(rest)?;
        rest = chunk.rest;
        Some(chunk)
    })
}

/// The file as its decoder wants it, where Pillow reads a file that breaks the rules: Pillow looks at no chunk's check sum
/// from the pixels on, but at that of the pixels themselves, where it gets as far, and needs neither the end chunk nor the chunks between the pixels and it. `None`: Pillow refuses the
/// file too.
pub(super) fn mended(bytes: &[u8]) -> Option<Cow<'_, [u8]>> {
    let first_data = chunks(bytes).position(|chunk| &chunk.name == b"IDAT")?;
    for chunk in chunks(bytes).take(first_data) {
        (chunk.sum? == check_sum(&chunk.name, chunk.data)).then_some(())?;
    }
    let is_data = |chunk: &Chunk<'_>| &chunk.name == b"IDAT";
    let pixels = || chunks(bytes).skip(first_data).take_while(is_data);
    let sound = pixels().all(|chunk| chunk.sum == Some(check_sum(&chunk.name, chunk.data)));
    let after = chunks(bytes).skip(first_data).find(|chunk| !is_data(chunk));
    if sound && after.is_some_and(|chunk| &chunk.name == b"IEND" && chunk.sum == Some(check_sum(b"IEND", b""))) {
        return Some(bytes.into());
    }
    // The decoder ignores the check sum of the pixels. Pillow goes without it where damage makes them longer.
    (sound || are_right(bytes, pixels().map(|chunk| chunk.data))?).then_some(())?;
    let mut out = bytes[..SIGNATURE].to_vec();
    for chunk in chunks(bytes).take(first_data).chain(pixels()) {
        write_chunk(&mut out, &chunk.name, chunk.data);
    }
    write_chunk(&mut out, b"IEND", b"");
    Some(out.into())
}

/// Says whether nothing is found wrong with compressed pixels up to the last one, and with their check sum if it follows that:
/// Pillow reads no further.
fn are_right<'a>(file: &[u8], pieces: impl Iterator<Item = &'a [u8]>) -> Option<bool> {
    let mut left = bytes_of_pixels(file)?;
    let (mut inflater, mut room) = (Decompress::new(true), vec![0; 1 << 16]);
    for mut piece in pieces {
        while !piece.is_empty() {
            let (read, written) = (inflater.total_in(), inflater.total_out());
            // One byte more than there are pixels is not asked for; the check sum needs no room.
            let room = &mut room[..left.min(1 << 16) as usize];
            let Ok(status) = inflater.decompress(piece, room, FlushDecompress::None) else { return Some(false) };
            let (read, written) = (inflater.total_in() - read, inflater.total_out() - written);
            left -= written;
            if status == Status::StreamEnd || read + written == 0 {
                return Some(true);
            }
            piece = &piece[read as usize..];
        }
    }
    Some(true)
}

/// Bytes of all rows before compression, each with the one that names its filter.
fn bytes_of_pixels(file: &[u8]) -> Option<u64> {
    /// First column and row of each pass of an interlaced picture, and the steps between them.
    const PASSES: [[u64; 4]; 7] =
        [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]];
    let (width, height) = size(file)?;
    let channels = match file.get(25)? {
        2 => 3,
        4 => 2,
        6 => 4,
        _ => 1,
    };
    let bits = u64::from(*file.get(24)?) * channels;
    let rows = |width: u64, height: u64| if width == 0 { 0 } else { height * (1 + (width * bits).div_ceil(8)) };
    let (width, height) = (u64::from(width), u64::from(height));
    let pass =
        |[x, y, dx, dy]: [u64; 4]| rows(width.saturating_sub(x).div_ceil(dx), height.saturating_sub(y).div_ceil(dy));
    Some(if *file.get(28)? == 1 { PASSES.into_iter().map(pass).sum() } else { rows(width, height) })
}

fn write_chunk(out: &mut Vec<u8>, name: &[u8; 4], data: &[u8]) {
    out.extend((data.len() as u32).to_be_bytes());
    out.extend(name);
    out.extend(data);
    out.extend(check_sum(name, data).to_be_bytes());
}

fn check_sum(name: &[u8; 4], data: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(name);
    sum.update(data);
    sum.finalize()
}

/// Width and height in pixels from the header.
pub(super) fn size(bytes: &[u8]) -> Option<(u32, u32)> {
    let side = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    (bytes.get(12..16)? == b"IHDR").then_some(())?;
    Some((side(16)?, side(20)?))
}

/// The transparent colour of a grey or RGB PNG as Pillow understands it; `None` without one.
///
/// Pillow keeps the value at the file's own depth, but compares it with the pixel at 8 bits: a 2-bit file's
/// "1" therefore never matches (its pixels are 0, 85, 170, 255), and of 16 bits only the low byte counts.
pub(super) fn color_key(bytes: &[u8]) -> Option<ColorKey> {
    let (depth, color) = (*bytes.get(24)?, *bytes.get(25)?);
    let data = chunks(bytes).take_while(|chunk| &chunk.name != b"IDAT").find(|chunk| &chunk.name == b"tRNS")?.data;
    let value = |i: usize| Some([*data.get(2 * i)?, *data.get(2 * i + 1)?]);
    match (color, depth) {
        (0, 1) => Some(if value(0)? == [0, 0] { [0; 3] } else { [255; 3] }),
        (0, _) => Some([value(0)?[1]; 3]),
        (2, _) => Some([value(0)?[1], value(1)?[1], value(2)?[1]]),
        _ => None,
    }
}

/// The data of the first chunk of this name.
pub(super) fn chunk<'a>(bytes: &'a [u8], name: &[u8; 4]) -> Option<&'a [u8]> {
    chunks(bytes).find(|chunk| &chunk.name == name).map(|chunk| chunk.data)
}

/// XMP data that are not compressed.
pub(super) fn xmp(bytes: &[u8]) -> Option<&[u8]> {
    let data = chunk(bytes, b"iTXt")?.strip_prefix(b"XML:com.adobe.xmp\0")?;
    (data.first() == Some(&0)).then_some(data)
}
