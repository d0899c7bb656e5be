//! Tensors of one checkpoint as another one stores them.

use super::files::TensorFiles;
use super::pack::{Room, RowSource};
use super::shards::Put;
use crate::error::Result;
use crate::runtime::WeightFormat;

/// Bytes copied at a time.
const PIECE_BYTES: usize = 4 << 20;

/// The half of a matrix that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// Its values, packed.
    Values,
    /// Their scales.
    Scales,
}

/// Gives the bytes of tensor `name` as they are.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io).
pub fn copy(files: &TensorFiles, name: &str, put: &mut Put<'_>) -> Result<()> {
    let Some(stored) = files.stored(name) else { return Ok(()) };
    let count: usize = stored.shape().iter().product();
    let (mut room, at_once) = (Vec::new(), PIECE_BYTES / stored.element_bytes());
    for first in (0..count).step_by(at_once) {
        put(stored.elements(first, at_once.min(count - first), &mut room)?)?;
    }
    stored.check_intact()?;
    stored.release();
    Ok(())
}

/// Gives half of matrix `name` of these dimensions in `format`.
///
/// # Errors
/// [`Error::Checkpoint`](crate::Error::Checkpoint) for values the format cannot hold, [`Error::Io`](crate::Error::Io).
pub fn matrix(
    files: &TensorFiles,
    name: &str,
    shape: &[u32],
    format: WeightFormat,
    half: Half,
    put: &mut Put<'_>,
) -> Result<()> {
    if files.rows(name).is_none() {
        return Ok(());
    }
    let (rows, width) = (shape[0] as usize, shape[1..].iter().product::<u32>());
    let source = RowSource::unpadded(files, name, width, format)?;
    let at_once = (PIECE_BYTES / (4 * width as usize)).max(1);
    let (mut room, mut packed, mut scales) = (Room::default(), Vec::new(), Vec::new());
    for first in (0..rows).step_by(at_once) {
        packed.clear();
        scales.clear();
        let range = first..(first + at_once).min(rows);
        source.pack(range, &mut room, &mut |b| packed.extend_from_slice(b), &mut |b| scales.extend_from_slice(b))?;
        put(if half == Half::Values { &packed } else { &scales })?;
    }
    source.finish()?;
    Ok(())
}
