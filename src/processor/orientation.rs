//! The orientation that EXIF or XMP data of a picture tell.
//!
//! Reference: `PIL.Image.Image.getexif` and `PIL.ImageOps.exif_transpose`.

use super::container::Kind;
use super::png;

/// The tag `Orientation`.
const ORIENTATION: u16 = 0x0112;

/// A file's orientation, 2 to 8; `None` where it is upright or does not tell.
pub(super) fn of_file(kind: Kind, bytes: &[u8]) -> Option<u8> {
    let (exif, xmp) = match kind {
        Kind::Jpeg => jpeg_metadata(bytes),
        Kind::Png => (png::chunk(bytes, b"eXIf").map(<[u8]>::to_vec), png::xmp(bytes).map(<[u8]>::to_vec)),
        Kind::Webp => (riff_chunk(bytes, b"EXIF").map(<[u8]>::to_vec), riff_chunk(bytes, b"XMP ").map(<[u8]>::to_vec)),
        Kind::Gif | Kind::Bmp | Kind::Tiff => return None,
    };
    let exif = exif.as_deref().and_then(of_exif);
    exif.or_else(|| xmp.as_deref().and_then(of_xmp)).filter(|value| (2..=8).contains(value))
}

/// The orientation in EXIF data: a TIFF file's first directory.
fn of_exif(data: &[u8]) -> Option<u8> {
    let mut data = data;
    while let Some(rest) = data.strip_prefix(b"Exif\0\0") {
        data = rest;
    }
    let little = match data.get(..4)? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let short = |at: usize| {
        let bytes = [*data.get(at)?, *data.get(at + 1)?];
        Some(if little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    };
    let long = |at: usize| {
        let halves = [u32::from(short(at)?), u32::from(short(at + 2)?)];
        Some(if little { halves[0] | halves[1] << 16 } else { halves[1] | halves[0] << 16 })
    };
    let directory = long(4)? as usize;
    let entries = usize::from(short(directory)?);
    let entry = (0..entries).map(|i| directory + 2 + 12 * i).find(|entry| short(*entry) == Some(ORIENTATION))?;
    match (short(entry + 2)?, long(entry + 4)?) {
        (3, 1) => u8::try_from(short(entry + 8)?).ok(),
        (4, 1) => u8::try_from(long(entry + 8)?).ok(),
        _ => None,
    }
}

/// The orientation in XMP data: Pillow looks for `tiff:Orientation="6"` or `<tiff:Orientation>6`.
fn of_xmp(data: &[u8]) -> Option<u8> {
    const NAME: &[u8] = b"tiff:Orientation";
    data.windows(NAME.len()).enumerate().filter(|(_, window)| *window == NAME).find_map(|(at, _)| {
        let rest = &data[at + NAME.len()..];
        let digit = rest.strip_prefix(b"=\"").or_else(|| rest.strip_prefix(b">"))?.first()?;
        digit.is_ascii_digit().then(|| digit - b'0')
    })
}

/// The EXIF data of a JPEG, its segments put together, and its XMP data.
fn jpeg_metadata(bytes: &[u8]) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let (mut exif, mut xmp): (Option<Vec<u8>>, _) = (None, None);
    let mut at = 2;
    while let [0xff, code, rest @ ..] = bytes.get(at..).unwrap_or_default() {
        if matches!(code, 0xff | 0x01 | 0xd0..=0xd8) {
            at += if *code == 0xff { 1 } else { 2 };
            continue;
        }
        let [high, low, ..] = rest else { break };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some(data) = rest.get(2..length).filter(|_| *code != 0xda) else { break };
        if *code == 0xe1 && data.starts_with(b"Exif\0\0") {
            match &mut exif {
                Some(exif) => exif.extend(&data[6..]),
                None => exif = Some(data.to_vec()),
            }
        } else if *code == 0xe1 && data.starts_with(b"http://ns.adobe.com/xap/1.0/\0") {
            xmp = Some(data.to_vec());
        }
        at += 2 + length;
    }
    (exif, xmp)
}

/// The data of the first chunk of this name in a RIFF file.
fn riff_chunk<'a>(bytes: &'a [u8], name: &[u8; 4]) -> Option<&'a [u8]> {
    let mut rest = bytes.get(12..)?;
    loop {
        let length = u32::from_le_bytes(rest.get(4..8)?.try_into().ok()?) as usize;
        if &rest[..4] == name {
            return rest.get(8..8usize.checked_add(length)?);
        }
        rest = rest.get(length.checked_add(8 + length % 2)?..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orientations_are_found_in_exif_and_xmp() {
        let little = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        let big = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x03\0\0";
        assert_eq!((of_exif(little), of_exif(big)), (Some(6), Some(3)));
        assert_eq!(of_xmp(b"<x tiff:Orientation=\"8\"/>"), Some(8));
        assert_eq!(of_xmp(b"<tiff:Orientation>2</tiff:Orientation>"), Some(2));
        for cut in 0..little.len() - 4 {
            assert!(of_exif(&little[..cut]).is_none_or(|value| value == 6));
        }
    }
}
