//! Hostile pictures: refused in our own words, without a panic and without taking memory. Needs no GPU.

use std::path::PathBuf;

use instructblip::Error;
use instructblip::processor::Image;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn png_bytes() -> Vec<u8> {
    std::fs::read(root().join("tests/golden/images/rgba-48x40.png")).unwrap()
}

fn refusal(bytes: &[u8]) -> String {
    let error = Image::decode("picture.png", bytes).expect_err("it decodes");
    assert!(matches!(error, Error::Image { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.starts_with("picture.png: "), "{text}");
    text
}

#[test]
fn damaged_pictures_are_refused_in_our_own_words() {
    let png = png_bytes();
    let damaged = "picture.png: not a decodable picture (PNG): it ends early or is damaged";
    for cut in [8, 20, 30, 40, 60, png.len() / 2, png.len() - 20] {
        assert_eq!(refusal(&png[..cut]), damaged, "cut to {cut} bytes");
    }
    let mut garbled = png.clone();
    garbled[60..].iter_mut().for_each(|byte| *byte ^= 0x55);
    assert_eq!(refusal(&garbled), damaged);
    assert_eq!(refusal(b""), "picture.png: the file is empty");
    assert!(refusal(b"\x00\x01garbage").contains("not a picture of a known format"));
    assert!(refusal(b"hello").contains("PNG, JPEG, WebP, GIF, BMP or TIFF"));
    for magic in [&b"\xff\xd8\xff\xe0"[..], b"RIFF\x10\0\0\0WEBPVP8L", b"GIF89a", b"BM", b"II*\0", b"MM\0*"] {
        assert!(refusal(magic).contains("ends early or is damaged"), "{magic:?}");
    }
}

/// A PNG header that claims a size, with a matching check sum so that only the size is wrong.
fn png_claiming(width: u32, height: u32) -> Vec<u8> {
    let mut chunk = b"IHDR".to_vec();
    chunk.extend(width.to_be_bytes().into_iter().chain(height.to_be_bytes()).chain([8, 2, 0, 0, 0]));
    let crc = !chunk.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB88320 & (crc & 1).wrapping_neg()))
    });
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    png.extend(chunk.into_iter().chain(crc.to_be_bytes()));
    png.extend(b"\0\0\0\x0cIDAT\x78\x9c");
    png
}

#[test]
fn sizes_are_checked_before_memory_is_taken() {
    let text = refusal(&png_claiming(60_000, 60_000));
    assert_eq!(text, "picture.png: the picture is 60000x60000 pixels; the limit is 16384 a side and 64 million in all");
    assert!(refusal(&png_claiming(9_000, 9_000)).contains("9000x9000"));
    assert!(refusal(&png_claiming(u32::MAX, 1)).contains("4294967295x1"));
    assert!(refusal(&png_claiming(0, 7)).contains("0x7 pixels: it has no pixels"));
    let mut gif = b"GIF89a".to_vec();
    gif.extend([0xff; 4]);
    gif.extend(b"\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\x02\x4c\x01\0;");
    assert!(refusal(&gif).contains("65535x65535"));
    let mut bmp = b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0".to_vec();
    bmp.extend([60_000i32.to_le_bytes(), 60_000i32.to_le_bytes()].concat());
    bmp.extend([1, 0, 24, 0].into_iter().chain([0; 24]));
    assert!(refusal(&bmp).contains("60000x60000"));
}

#[test]
fn other_formats_are_refused_by_name() {
    for (bytes, name) in [
        (&b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"[..], "HEIC"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "AVIF"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"%PDF-1.7\n", "PDF"),
        (b"\n<?xml version=\"1.0\"?><svg xmlns=\"http://www.w3.org/2000/svg\"/>", "SVG"),
    ] {
        assert_eq!(refusal(bytes), format!("picture.png: {name} is not supported; convert it to PNG or JPEG"));
    }
}

#[test]
fn every_single_wrong_byte_is_survived() {
    let folder = root().join("tests/golden/images");
    for name in
        ["rgba-48x40.png", "animated-38x38.gif", "lossless-64x47.webp", "bitmap-41x29.bmp", "jpeg-420-77x53.jpg"]
    {
        let bytes = std::fs::read(folder.join(name)).unwrap();
        for at in (0..bytes.len()).step_by(1 + bytes.len() / 300) {
            let mut wrong = bytes.clone();
            wrong[at] ^= 0xff;
            let _ = Image::decode(name, &wrong);
            let _ = Image::decode(name, &bytes[..at]);
        }
    }
}

#[test]
fn files_are_told_by_content_and_must_be_files() {
    let folder = tempfile::tempdir().unwrap();
    let misnamed = folder.path().join("picture.jpg");
    std::fs::write(&misnamed, png_bytes()).unwrap();
    let image = Image::open(&misnamed).unwrap();
    assert_eq!((image.width(), image.height()), (48, 40));
    assert!(matches!(Image::open(folder.path().join("none.png")), Err(Error::Io { .. })));
    assert!(Image::open(folder.path()).unwrap_err().to_string().contains("is a directory"));
    if cfg!(unix) {
        assert!(Image::open("/dev/zero").unwrap_err().to_string().contains("a device or a pipe"));
    }
    assert!(Image::from_rgb(2, 2, vec![0; 11]).unwrap_err().to_string().contains("2x2 RGB needs 12 bytes, got 11"));
    assert!(Image::from_rgb(0, 2, Vec::new()).is_err());
}
