//! The work of loading: rows from files to the device, what is read ahead, and whether a stored tensor is what it should
//! be.

use safetensors::Dtype;

use super::files::{Stored, TensorFiles};
use super::pack::{Room, RowSource, Scan};
use crate::error::{Error, Result};
use crate::runtime::Matrix;
use crate::runtime::upload::{Sink, Uploader};

/// Bytes the system is asked to read ahead.
const AHEAD_BYTES: u64 = 128 << 20;
/// Bytes it is asked for at a time: Linux reads no more than its largest transfer, whatever it is asked for.
const AHEAD_STEP: u64 = 128 << 10;

/// Rows of a matrix and where they come from.
pub(super) struct Rows {
    pub matrix: Matrix,
    pub names: Vec<String>,
    pub shape: Vec<u32>,
    pub first: u32,
}

/// The bytes that the system was asked to read ahead.
#[derive(Default)]
pub(super) struct Ahead {
    /// Name and bytes of what will be read.
    order: Vec<(String, u64)>,
    next: usize,
    next_byte: u64,
    asked: u64,
    read: u64,
}

impl Rows {
    /// True if nothing of the matrix comes after these rows.
    pub fn are_last(&self) -> bool {
        self.first + self.names.len() as u32 * self.shape[0] == self.matrix.rows
    }
}

impl Ahead {
    /// Plans to read these tensors, in this order.
    pub fn of<'n>(files: &TensorFiles, names: impl Iterator<Item = &'n str>) -> Ahead {
        let matrix = |name: &str| {
            let format = files.rows(name).and_then(|rows| rows.format());
            match format {
                Some(format) => vec![format!("{name}.{format}"), format!("{name}.scales")],
                None => vec![name.to_string()],
            }
        };
        let bytes = |name: String| Some((name.clone(), files.stored(&name)?.bytes()));
        Ahead { order: names.flat_map(matrix).filter_map(bytes).collect(), ..Ahead::default() }
    }

    /// Counts bytes that were read and asks for the next ones.
    pub fn go_on(&mut self, files: &TensorFiles, bytes: u64) {
        self.read += bytes;
        while self.asked < self.read + AHEAD_BYTES {
            let Some((name, whole)) = self.order.get(self.next) else { return };
            let end = (self.next_byte + AHEAD_STEP).min(*whole);
            files.prefetch(name, self.next_byte..end);
            self.asked += end - self.next_byte;
            self.next_byte = end;
            if end == *whole {
                (self.next, self.next_byte) = (self.next + 1, 0);
            }
        }
    }
}

/// Reads, converts and uploads rows; `read` hears the bytes read.
pub(super) fn write_rows(
    uploader: &mut Uploader,
    files: &TensorFiles,
    rows: &Rows,
    read: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Vec<Scan>> {
    let matrix = &rows.matrix;
    let width = rows.shape[1..].iter().product();
    let source = |name: &String| RowSource::new(files, name, width, matrix.padded_cols(), matrix.format);
    let sources: Vec<RowSource<'_>> = rows.names.iter().map(source).collect::<Result<_>>()?;
    let count = sources.len();
    let pack = |range: std::ops::Range<u32>, packed: &mut Sink, scales: &mut Sink| {
        let (packed, scales) = (&mut |bytes: &[u8]| packed.put(bytes), &mut |bytes: &[u8]| scales.put(bytes));
        let mut room = Room::default();
        let range = range.start as usize..range.end as usize;
        match sources.as_slice() {
            [source] => source.pack(range, &mut room, packed, scales),
            many => range.into_iter().try_for_each(|row| {
                let from = row / count;
                many[row % count].pack(from..from + 1, &mut room, packed, scales)
            }),
        }
    };
    let row_bytes = sources.iter().map(RowSource::row_bytes).sum::<u64>() / count as u64;
    let total = count as u32 * rows.shape[0];
    uploader.write(matrix, rows.first, total, &pack, &mut |rows| read(u64::from(rows) * row_bytes))?;
    sources.iter().map(RowSource::finish).collect()
}

/// Shape and type of a tensor of a file.
pub(super) fn check_stored(name: &str, stored: Stored<'_>, shape: &[u32], supported: &[Dtype]) -> Result<()> {
    let want: Vec<usize> = shape.iter().map(|&n| n as usize).collect();
    if stored.shape() != want {
        let problem = format!("tensor {name} has shape {:?}, the configuration asks for {want:?}", stored.shape());
        return Err(Error::checkpoint(stored.path(), problem));
    }
    stored.check_type(name, supported)
}
