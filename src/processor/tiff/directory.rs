//! The directory of a TIFF or BigTIFF file.

/// The reason that a file is not decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::processor) enum Fault {
    /// The file ends early or breaks the format's rules.
    Damaged,
    /// A kind of TIFF that is not read, by name.
    Kind(String),
}

/// The tags that are looked at.
pub(super) mod tag {
    pub(in crate::processor::tiff) const WIDTH: u16 = 256;
    pub(in crate::processor::tiff) const HEIGHT: u16 = 257;
    pub(in crate::processor::tiff) const BITS: u16 = 258;
    pub(in crate::processor::tiff) const COMPRESSION: u16 = 259;
    pub(in crate::processor::tiff) const PHOTOMETRIC: u16 = 262;
    pub(in crate::processor::tiff) const FILL_ORDER: u16 = 266;
    pub(in crate::processor::tiff) const STRIP_OFFSETS: u16 = 273;
    pub(in crate::processor::tiff) const ORIENTATION: u16 = 274;
    pub(in crate::processor::tiff) const SAMPLES: u16 = 277;
    pub(in crate::processor::tiff) const ROWS_PER_STRIP: u16 = 278;
    pub(in crate::processor::tiff) const STRIP_BYTES: u16 = 279;
    pub(in crate::processor::tiff) const PLANAR: u16 = 284;
    pub(in crate::processor::tiff) const T4_OPTIONS: u16 = 292;
    pub(in crate::processor::tiff) const PREDICTOR: u16 = 317;
    pub(in crate::processor::tiff) const COLOR_MAP: u16 = 320;
    pub(in crate::processor::tiff) const TILE_WIDTH: u16 = 322;
    pub(in crate::processor::tiff) const TILE_HEIGHT: u16 = 323;
    pub(in crate::processor::tiff) const TILE_OFFSETS: u16 = 324;
    pub(in crate::processor::tiff) const TILE_BYTES: u16 = 325;
    pub(in crate::processor::tiff) const EXTRA_SAMPLES: u16 = 338;
    pub(in crate::processor::tiff) const SAMPLE_FORMAT: u16 = 339;
    pub(in crate::processor::tiff) const JPEG_TABLES: u16 = 347;
}

/// A file's first directory.
pub(super) struct Directory<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) little: bool,
    /// Tag, type, number of values, and place of the values.
    entries: Vec<(u16, u16, usize, usize)>,
}

impl<'a> Directory<'a> {
    pub(super) fn first(bytes: &'a [u8]) -> Result<Self, Fault> {
        let (little, big) = match bytes.get(..4).ok_or(Fault::Damaged)? {
            b"II*\0" => (true, false),
            b"MM\0*" => (false, false),
            b"II+\0" => (true, true),
            b"MM\0+" => (false, true),
            _ => return Err(Fault::Damaged),
        };
        let mut directory = Directory { bytes, little, entries: Vec::new() };
        let (at, entry_bytes) = if big { (directory.read(8, 8)?, 20) } else { (directory.read(4, 4)?, 12) };
        let count_bytes = if big { 8 } else { 2 };
        let count = directory.read(at, count_bytes)?;
        if count > bytes.len() / entry_bytes {
            return Err(Fault::Damaged);
        }
        for i in 0..count {
            let entry = at + count_bytes + i * entry_bytes;
            let (tag, kind) = (directory.read(entry, 2)? as u16, directory.read(entry + 2, 2)? as u16);
            let field = if big { 8 } else { 4 };
            let values = directory.read(entry + 4, field)?;
            let inline = values.checked_mul(size_of_type(kind)).is_some_and(|bytes| bytes <= field);
            let place = if inline { entry + 4 + field } else { directory.read(entry + 4 + field, field)? };
            directory.entries.push((tag, kind, values, place));
        }
        Ok(directory)
    }

    /// An unsigned number of `size` bytes.
    fn read(&self, at: usize, size: usize) -> Result<usize, Fault> {
        let bytes = at.checked_add(size).and_then(|end| self.bytes.get(at..end)).ok_or(Fault::Damaged)?;
        let join = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
        let value = if self.little { bytes.iter().rev().fold(0, join) } else { bytes.iter().fold(0, join) };
        usize::try_from(value).map_err(|_| Fault::Damaged)
    }

    fn entry(&self, tag: u16) -> Option<(u16, usize, usize)> {
        self.entries.iter().find(|entry| entry.0 == tag).map(|(_, kind, count, place)| (*kind, *count, *place))
    }

    /// The unsigned numbers of a tag; `None` where the file has none.
    pub(super) fn numbers(&self, tag: u16) -> Result<Option<Vec<u64>>, Fault> {
        let Some((kind, count, place)) = self.entry(tag) else { return Ok(None) };
        let size = size_of_type(kind);
        if !matches!(kind, 1 | 3 | 4 | 13 | 16 | 18) || count > self.bytes.len() / size {
            return Err(Fault::Damaged);
        }
        (0..count).map(|i| Ok(self.read(place + i * size, size)? as u64)).collect::<Result<_, _>>().map(Some)
    }

    /// The first number of a tag.
    pub(super) fn number(&self, tag: u16) -> Result<Option<u64>, Fault> {
        Ok(self.numbers(tag)?.and_then(|numbers| numbers.first().copied()))
    }

    /// The bytes of a tag.
    pub(super) fn data(&self, tag: u16) -> Option<&'a [u8]> {
        let (_, count, place) = self.entry(tag)?;
        self.bytes.get(place..place.checked_add(count)?)
    }
}

/// Bytes of a value of a type; unknown ones are taken to be of one.
fn size_of_type(kind: u16) -> usize {
    match kind {
        3 | 8 => 2,
        4 | 9 | 11 | 13 => 4,
        5 | 10 | 12 | 16..=18 => 8,
        _ => 1,
    }
}
