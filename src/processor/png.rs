//! Pillow's reading of a PNG's chunks, where the decoder's differs.

use std::borrow::Cow;

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

/// The file as its decoder wants it, where Pillow reads a file that breaks the rules: Pillow looks at no check sum from
/// the pixels on, and needs neither the end chunk nor the chunks between the pixels and it. `None`: Pillow refuses the
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
    let mut out = bytes[..SIGNATURE].to_vec();
    for chunk in chunks(bytes).take(first_data).chain(pixels()) {
        write_chunk(&mut out, &chunk.name, chunk.data);
    }
    write_chunk(&mut out, b"IEND", b"");
    Some(out.into())
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
