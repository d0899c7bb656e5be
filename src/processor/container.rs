//! The few facts about picture files that the decoders do not tell: what a file is, and how Pillow would
//! treat its transparency and its canvas.

use super::convert::ColorKey;

/// A picture format this library reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Png,
    Jpeg,
    Webp,
    Gif,
    Bmp,
    Tiff,
}

impl Kind {
    /// The name shown to the user.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Png => "PNG",
            Kind::Jpeg => "JPEG",
            Kind::Webp => "WebP",
            Kind::Gif => "GIF",
            Kind::Bmp => "BMP",
            Kind::Tiff => "TIFF",
        }
    }
}

/// Tells a format by its content.
pub(super) fn sniff(bytes: &[u8]) -> Option<Kind> {
    Some(match bytes {
        [0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, ..] => Kind::Png,
        [0xff, 0xd8, 0xff, ..] => Kind::Jpeg,
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Kind::Webp,
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Kind::Gif,
        [b'B', b'M', ..] => Kind::Bmp,
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => Kind::Tiff,
        _ => return None,
    })
}

/// The name of a format that is recognised only to be refused by name.
pub(super) fn refused(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [_, _, _, _, b'f', b't', b'y', b'p', brand @ ..] => match brand.get(..4)? {
            b"avif" | b"avis" => Some("AVIF"),
            b"heic" | b"heix" | b"hevc" | b"hevx" | b"heim" | b"heis" | b"mif1" | b"msf1" => Some("HEIC"),
            _ => Some("video"),
        },
        [0xff, 0x0a, ..] | [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..] => Some("JPEG XL"),
        [0, 0, 0, 12, b'j', b'P', b' ', b' ', ..] | [0xff, 0x4f, 0xff, 0x51, ..] => Some("JPEG 2000"),
        [b'%', b'P', b'D', b'F', ..] => Some("PDF"),
        [b'8', b'B', b'P', b'S', ..] => Some("PSD"),
        [0, 0, 1, 0, ..] => Some("ICO"),
        _ => is_svg(bytes).then_some("SVG"),
    }
}

/// Whether a file starts as an SVG document does.
fn is_svg(bytes: &[u8]) -> bool {
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(1024)]);
    let head = head.trim_start_matches('\u{feff}').trim_start();
    head.starts_with("<svg") || (head.starts_with('<') && head.contains("<svg"))
}

/// Width and height in pixels from a PNG's header.
pub(super) fn png_size(bytes: &[u8]) -> Option<(u32, u32)> {
    let side = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    (bytes.get(12..16)? == b"IHDR").then_some(())?;
    Some((side(16)?, side(20)?))
}

/// The transparent colour of a grey or RGB PNG as Pillow understands it; `None` without one.
///
/// Pillow keeps the value at the file's own depth, but compares it with the pixel at 8 bits: a 2-bit file's
/// "1" therefore never matches (its pixels are 0, 85, 170, 255), and of 16 bits only the low byte counts.
pub(super) fn png_color_key(bytes: &[u8]) -> Option<ColorKey> {
    let (depth, color) = (*bytes.get(24)?, *bytes.get(25)?);
    let data = png_chunk(bytes, b"tRNS")?;
    let value = |i: usize| Some([*data.get(2 * i)?, *data.get(2 * i + 1)?]);
    match (color, depth) {
        (0, 1) => Some(if value(0)? == [0, 0] { [0; 3] } else { [255; 3] }),
        (0, _) => Some([value(0)?[1]; 3]),
        (2, _) => Some([value(0)?[1], value(1)?[1], value(2)?[1]]),
        _ => None,
    }
}

/// The data of a PNG's first chunk of this name before its pixels.
fn png_chunk<'a>(bytes: &'a [u8], name: &[u8; 4]) -> Option<&'a [u8]> {
    let mut rest = bytes.get(8..)?;
    loop {
        let length = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?) as usize;
        let found = rest.get(4..8)?;
        if found == name {
            return rest.get(8..8usize.checked_add(length)?);
        }
        if found == b"IDAT" {
            return None;
        }
        rest = rest.get(length.checked_add(12)?..)?;
    }
}

/// The largest value of each channel in the pixels of a 16-bit BMP; `None` for any other BMP.
pub(super) fn bmp_channel_max(bytes: &[u8]) -> Option<[u32; 3]> {
    (bytes.get(28..30)? == [16, 0]).then_some(())?;
    let masked = *bytes.get(30)? == 3;
    let green = u32::from_le_bytes(bytes.get(58..62)?.try_into().ok()?);
    Some(if masked && green == 0x7e0 { [31, 63, 31] } else { [31; 3] })
}

/// The first frame of a GIF, where Pillow and the decoder could differ.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GifFrame {
    /// Left, top, right and bottom edge on the canvas, in pixels.
    pub(super) edges: [usize; 4],
    /// Colour of the canvas round the frame: the palette's first, white where the frame has transparency.
    pub(super) around: [u8; 3],
}

/// Finds the first frame of a GIF; `None` for a damaged file, which the decoder will refuse.
pub(super) fn gif_frame(bytes: &[u8]) -> Option<GifFrame> {
    let palette_bytes = |flags: u8| if flags & 0x80 != 0 { 3usize << ((flags & 7) + 1) } else { 0 };
    let global = palette_bytes(*bytes.get(10)?);
    let mut palette = bytes.get(13..13 + global)?;
    let mut at = 13 + global;
    let mut transparent = false;
    loop {
        match *bytes.get(at)? {
            b'!' => {
                // Only the graphic control block (0xf9) matters: bit 0 of its flags is transparency.
                if *bytes.get(at + 1)? == 0xf9 {
                    transparent = *bytes.get(at + 3)? & 1 != 0;
                }
                at = skip_gif_blocks(bytes, at + 2)?;
            }
            b',' => {
                let frame = bytes.get(at + 1..at + 10)?;
                let short = |i: usize| usize::from(u16::from_le_bytes([frame[i], frame[i + 1]]));
                let local = palette_bytes(frame[8]);
                if local > 0 {
                    palette = bytes.get(at + 10..at + 10 + local)?;
                }
                let first = palette.get(..3).map_or([0; 3], |c| [c[0], c[1], c[2]]);
                let around = if transparent { [255; 3] } else { first };
                let edges = [short(0), short(2), short(0) + short(4), short(2) + short(6)];
                return Some(GifFrame { edges, around });
            }
            _ => return None,
        }
    }
}

/// Skips a chain of GIF data blocks that starts at `at`.
fn skip_gif_blocks(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1 + length;
        if length == 0 {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_content() {
        assert_eq!(sniff(b"\x89PNG\r\n\x1a\n...."), Some(Kind::Png));
        assert_eq!(sniff(b"RIFF\x01\0\0\0WEBPVP8 "), Some(Kind::Webp));
        assert_eq!(sniff(b"RIFF\x01\0\0\0WAVEfmt "), None);
        assert_eq!(sniff(b""), None);
        assert_eq!(refused(b"\0\0\0\x18ftypheic\0\0\0\0"), Some("HEIC"));
        assert_eq!(refused(b"\0\0\0\x18ftyp"), None);
        assert_eq!(refused(b"<?xml version='1.0'?>\n<svg xmlns=''/>"), Some("SVG"));
        assert_eq!(refused(b"<html></html>"), None);
    }

    #[test]
    fn the_first_gif_frame_is_found_behind_extensions() {
        let mut gif = b"GIF89a\x04\0\x04\0\x80\0\0\x09\x08\x07\x01\x02\x03".to_vec();
        gif.extend(b"!\xfe\x03abc\0!\xf9\x04\0\0\0\0\0,\x01\0\x02\0\x02\0\x01\0\0");
        let frame = gif_frame(&gif).unwrap();
        assert_eq!(frame, GifFrame { edges: [1, 2, 3, 3], around: [9, 8, 7] });
        for cut in 0..gif.len() {
            assert_eq!(gif_frame(&gif[..cut]), None);
        }
    }
}
