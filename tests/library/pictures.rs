//! Hostile pictures: refused in our own words, without a panic and without taking memory. Needs no GPU.

use std::path::PathBuf;

use instructblip::Error;
use instructblip::processor::{Image, ImageOptions};
use serde_json::Value;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn png_bytes() -> Vec<u8> {
    std::fs::read(root().join("tests/golden/images/rgba-48x40.png")).unwrap()
}

fn refusal(bytes: &[u8]) -> String {
    let error = Image::decode("picture.png", bytes).expect_err("it decodes");
    assert!(matches!(error, Error::Image { .. } | Error::ImageTooLarge { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.starts_with("picture.png: "), "{text}");
    text
}

#[test]
fn damaged_pictures_are_refused_in_our_own_words() {
    let png = png_bytes();
    let damaged = "picture.png: not a decodable picture (PNG): it ends early or is damaged";
    for cut in [8, 20, 30, 40, 60, png.len() / 2, png.len() - 60] {
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
    assert_eq!(
        text,
        "picture.png: the picture has 3600000000 pixels (60000x60000); the limit is 178956970 \
         (ImageOptions::max_pixels)"
    );
    assert!(refusal(&png_claiming(13_378, 13_378)).contains("13378x13378"));
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

/// 64-bit FNV-1a in hexadecimal.
fn fnv1a64(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0xCBF29CE484222325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100000001B3));
    format!("{hash:016x}")
}

/// The files of a packed golden, `tests/golden/NAME.bin`, each with its row of `NAME.jsonl`.
fn packed(name: &str) -> Vec<(Value, Vec<u8>)> {
    let folder = root().join("tests/golden");
    let bytes = std::fs::read(folder.join(name).with_extension("bin")).unwrap();
    let rows = std::fs::read_to_string(folder.join(name).with_extension("jsonl")).unwrap();
    let number = |row: &Value, field: &str| row[field].as_u64().unwrap() as usize;
    let rows = rows.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    rows.map(|row| {
        let file = bytes[number(&row, "offset")..][..number(&row, "bytes")].to_vec();
        (row, file)
    })
    .collect()
}

/// Compares every file of a packed golden with what is recorded of it; at least `count` files.
fn compare_with_pillow(name: &str, count: usize) {
    let files = packed(name);
    assert!(files.len() >= count, "{} files", files.len());
    let wrong: Vec<String> =
        files.iter().filter_map(|(row, bytes)| Some(format!("{}: {}", row["name"], differs(row, bytes)?))).collect();
    assert!(wrong.is_empty(), "{} of {} files:\n{}", wrong.len(), files.len(), wrong.join("\n"));
}

/// Says how a file is read otherwise than its row says.
fn differs(row: &Value, bytes: &[u8]) -> Option<String> {
    let image = match Image::decode("a file", bytes) {
        Ok(_) if row["refused"] == true => return Some("it is read; Pillow refuses it".to_string()),
        Ok(image) => image,
        Err(_) if row["refused"] == true => return None,
        Err(error) if row["unsupported"] == true => {
            return (!error.to_string().contains("is not supported")).then(|| error.to_string());
        }
        Err(error) => return Some(error.to_string()),
    };
    let size = (Some(image.width().into()), Some(image.height().into()));
    if size != (row["width"].as_u64(), row["height"].as_u64()) {
        return Some(format!("{}x{}", image.width(), image.height()));
    }
    if row["hash"] != fnv1a64(image.pixels()) {
        return Some("other pixels".to_string());
    }
    if image.orientation().is_some() != row["turned"].is_string() {
        return Some(format!("orientation {:?}", image.orientation()));
    }
    let options = ImageOptions { exif_rotate: true, ..ImageOptions::default() };
    let turned = Image::decode_with("a file", bytes, &options).expect("it was read before");
    let recorded = if row["turned"].is_string() { &row["turned"] } else { &row["hash"] };
    (*recorded != fnv1a64(turned.pixels())).then(|| "other pixels when turned".to_string())
}

#[test]
fn jpegs_of_every_kind_have_pillows_bytes() {
    compare_with_pillow("jpeg", 600);
}

#[test]
fn tiffs_of_every_kind_have_pillows_bytes() {
    compare_with_pillow("tiff", 250);
}

#[test]
fn damaged_jpegs_and_tiffs_are_survived() {
    let names = [
        "pillow-420-33x31",
        "pillow-420-33x31-progressive",
        "cjpeg-2x2-arithmetic-progressive",
        "pillow-ycck-17x15",
        "<planes-strips-deflate",
        "pillow-big-zstd",
        "jpeg-strips",
        ">tiles-16-raw",
        "group3",
        "group4",
    ];
    let mut tried = 0;
    for (row, bytes) in packed("jpeg").into_iter().chain(packed("tiff")) {
        let name = row["name"].as_str().unwrap();
        if !names.contains(&name) {
            continue;
        }
        tried += 1;
        for at in 0..bytes.len() {
            for wrong in [0x00, 0x7f, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] = wrong;
                let _ = Image::decode(name, &damaged);
            }
            let _ = Image::decode(name, &bytes[..at]);
        }
    }
    assert_eq!(tried, names.len());
}

#[test]
fn pngs_and_gifs_that_break_rules_are_read_as_pillow_reads_them() {
    let png = png_bytes();
    let whole = Image::decode("whole", &png).unwrap();
    let same = |bytes: &[u8]| assert_eq!(Image::decode("broken", bytes).unwrap(), whole);
    same(&png[..png.len() - 12]);
    same(&png[..png.len() - 16]);
    let mut wrong_sum = png.clone();
    wrong_sum[png.len() - 14] ^= 1;
    same(&wrong_sum);
    let mut wrong_header = png;
    wrong_header[30] ^= 1;
    assert!(refusal(&wrong_header).contains("damaged"));
    // Two by one pixels, colours 1 and 2, no palette: greys.
    let gif = b"GIF89a\x02\0\x01\0\0\0\0,\0\0\0\0\x02\0\x01\0\0\x02\x02\x8c\x0a\0;";
    assert_eq!(Image::decode("grey.gif", gif).unwrap().pixels(), [1, 1, 1, 2, 2, 2]);
}

/// A byte is damaged, each in turn. Those that are read are read right: the damage is in check sums that nobody looks at.
/// Pillow 12.3 reads 87 more, as other pictures, where the check sum of the pixels comes too late for it.
#[test]
fn damaged_pixels_are_refused() {
    let file = std::fs::read(crate::support::golden::tests_folder().join("shapes/samples/10.png")).expect("a picture");
    let whole = Image::decode("whole", &file).expect("a picture");
    let (mut read, mut others) = (0, 0);
    for i in 33..file.len() {
        let mut damaged = file.clone();
        damaged[i] ^= 0x10;
        if let Ok(image) = Image::decode("damaged", &damaged) {
            read += 1;
            others += u32::from(image.pixels() != whole.pixels());
        }
    }
    assert_eq!((read, others), (26, 0));
}
