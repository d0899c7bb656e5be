//! The few facts about picture files that the decoders do not tell: what a file is, and how Pillow would
//! treat its canvas.

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
        [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Kind::Tiff,
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

/// True if a file starts as an SVG document does.
fn is_svg(bytes: &[u8]) -> bool {
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(1024)]);
    let head = head.trim_start_matches('\u{feff}').trim_start();
    head.starts_with("<svg") || (head.starts_with('<') && head.contains("<svg"))
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
    /// True if it has a palette of its own.
    local_palette: bool,
}

/// The file with a grey palette added, as Pillow reads a GIF that has none; `None` where the file has a palette.
pub(super) fn gif_with_palette(bytes: &[u8]) -> Option<Vec<u8>> {
    (gif_palette_bytes(*bytes.get(10)?) == 0).then_some(())?;
    let mut with = bytes[..13.min(bytes.len())].to_vec();
    with[10] |= 0x87;
    with.extend((0..=255).flat_map(|grey| [grey; 3]));
    with.extend(bytes.get(13..)?);
    Some(with)
}

/// True if the first frame of a GIF has a palette of its own.
pub(super) fn gif_has_local_palette(bytes: &[u8]) -> bool {
    gif_frame(bytes).is_some_and(|frame| frame.local_palette)
}

/// Bytes of a palette, from the flags that tell of it.
fn gif_palette_bytes(flags: u8) -> usize {
    if flags & 0x80 != 0 { 3usize << ((flags & 7) + 1) } else { 0 }
}

/// Finds the first frame of a GIF; `None` for a damaged file, which the decoder will refuse.
pub(super) fn gif_frame(bytes: &[u8]) -> Option<GifFrame> {
    let global = gif_palette_bytes(*bytes.get(10)?);
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
                let local = gif_palette_bytes(frame[8]);
                if local > 0 {
                    palette = bytes.get(at + 10..at + 10 + local)?;
                }
                let first = palette.get(..3).map_or([0; 3], |c| [c[0], c[1], c[2]]);
                let around = if transparent { [255; 3] } else { first };
                let edges = [short(0), short(2), short(0) + short(4), short(2) + short(6)];
                return Some(GifFrame { edges, around, local_palette: local > 0 });
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
        assert_eq!(frame, GifFrame { edges: [1, 2, 3, 3], around: [9, 8, 7], local_palette: false });
        for cut in 0..gif.len() {
            assert_eq!(gif_frame(&gif[..cut]), None);
        }
    }
}
