//! The way from the scans of a file to its picture.

use std::collections::VecDeque;
use std::sync::Arc;

use super::arithmetic::Arithmetic;
use super::bands::{Band, UnitRow, paint_all, with_painters};
use super::color::{Color, Painter};
use super::fault::Fault;
use super::frame::{Coding, Frame};
use super::markers::{Markers, ScanHeader, Steps};
use super::progressive::Progressive;
use super::scan::{Blocks, Decoder, Ended, Scan};
use super::sequential::Sequential;
use super::smoothing::{KnownBits, Smoothing};

/// Reads a file into RGB.
pub(super) fn read(bytes: &[u8], color: Color) -> Result<Vec<u8>, Fault> {
    let mut markers = Markers::new(bytes)?;
    let scan = markers.next_scan(0)?.ok_or(Fault::Damaged)?;
    let frame = markers.frame.clone().ok_or(Fault::Damaged)?;
    let painter = Painter::new(&frame, color)?;
    if frame.coding == Coding::Lossless {
        return Err(Fault::Kind);
    }
    if frame.coding == Coding::Progressive || scan.components.len() < frame.components.len() {
        read_scans(&mut markers, &frame, scan, &painter)
    } else {
        read_only_scan(&mut markers, &frame, &scan, &painter)
    }
}

/// Reads a file whose one scan has everything: bands are painted as they are read, coefficients are not kept.
fn read_only_scan(
    markers: &mut Markers<'_>,
    frame: &Frame,
    scan: &ScanHeader,
    painter: &Painter<'_>,
) -> Result<Vec<u8>, Fault> {
    let steps = latch_steps(markers, frame, scan, vec![None; frame.components.len()])?;
    let mut store = blocks(frame, false);
    let mut rgb = vec![0; frame.width * frame.height * 3];
    let ended = with_painters(painter, &steps, |paint| {
        let mut bands = painter.bands(&mut rgb);
        let mut next = bands.next();
        // Rows of units from the one above the next band.
        let mut rows: VecDeque<Arc<UnitRow>> = VecDeque::new();
        let mut first = 0;
        read_scan(markers, frame, scan, &mut store, &mut |row, store| {
            rows.push_back(Arc::new(store.iter_mut().map(Blocks::take).collect()));
            let last = row + 1 == frame.units_high;
            while let Some((units, out)) = next.take_if(|(units, _)| row >= units.end || last) {
                let end = units.end;
                paint(Band { units, first, rows: rows.iter().cloned().collect(), out });
                rows.drain(..(end - 1 - first).min(rows.len()));
                first = end - 1;
                next = bands.next();
            }
        })
    })?;
    // Pillow has its rows now, and does not mind a missing end; but a second scan cannot be.
    match markers.next_scan(ended.marker) {
        Ok(Some(_)) => Err(Fault::Damaged),
        Ok(None) | Err(Fault::Truncated) => Ok(rgb),
        Err(fault) => Err(fault),
    }
}

/// Reads a file of several scans: its coefficients are kept until the last.
fn read_scans(
    markers: &mut Markers<'_>,
    frame: &Frame,
    mut scan: ScanHeader,
    painter: &Painter<'_>,
) -> Result<Vec<u8>, Fault> {
    let mut steps = vec![None; frame.components.len()];
    let mut known = KnownBits::new(frame.components.len());
    let mut store = blocks(frame, true);
    let mut last_good_row;
    loop {
        steps = latch_steps(markers, frame, &scan, steps)?;
        if frame.coding == Coding::Progressive {
            known.begin_scan(&scan);
        }
        let ended = read_scan(markers, frame, &scan, &mut store, &mut |_, _| {})?;
        last_good_row = ended.last_good_row;
        match markers.next_scan(ended.marker)? {
            Some(next) => scan = next,
            None => break,
        }
    }
    let smoothing = Smoothing::new(frame, &known, &steps, last_good_row);
    // A component without a scan has no steps: its samples are all grey.
    const NOTHING: &Steps = &[0; 64];
    let mut rgb = vec![0; frame.width * frame.height * 3];
    paint_all(painter, &mut rgb, &|i, y| {
        let steps = steps[i].as_deref().unwrap_or(NOTHING);
        let blocks = match &smoothing {
            Some(smoothing) => {
                let columns = 0..frame.components[i].blocks_wide;
                columns.map(|x| smoothing.smooth(&store[i], (i, x, y), steps)).collect::<Vec<_>>().into()
            }
            None => store[i].blocks[y * store[i].stride..][..store[i].stride].into(),
        };
        (blocks, steps)
    });
    Ok(rgb)
}

/// Zeroed blocks for every component: of the whole picture or of one row of units.
fn blocks(frame: &Frame, whole: bool) -> Vec<Blocks> {
    let component = |i: usize| {
        let (wide, high) = frame.padded(i);
        let rows = if whole { high } else { frame.components[i].v };
        Blocks { blocks: vec![[0; 64]; wide * rows], stride: wide, whole }
    };
    (0..frame.components.len()).map(component).collect()
}

/// Keeps the quantisation steps of components whose first scan this is: later tables do not count for them.
fn latch_steps(
    markers: &Markers<'_>,
    frame: &Frame,
    scan: &ScanHeader,
    mut steps: Vec<Option<Box<Steps>>>,
) -> Result<Vec<Option<Box<Steps>>>, Fault> {
    for (i, ..) in &scan.components {
        if steps[*i].is_none() {
            let table = markers.steps.get(frame.components[*i].steps_index).ok_or(Fault::Damaged)?;
            steps[*i] = Some(table.clone().ok_or(Fault::Damaged)?);
        }
    }
    Ok(steps)
}

/// Reads one scan with the decoder of its coding.
fn read_scan(
    markers: &mut Markers<'_>,
    frame: &Frame,
    scan: &ScanHeader,
    store: &mut [Blocks],
    row_done: &mut dyn FnMut(usize, &mut [Blocks]),
) -> Result<Ended, Fault> {
    fn run<'a, D: Decoder>(
        decoder: D,
        (markers, frame, scan): (&mut Markers<'a>, &Frame, &ScanHeader),
        store: &mut [Blocks],
        row_done: &mut dyn FnMut(usize, &mut [Blocks]),
    ) -> Result<Ended, Fault> {
        Scan::new(markers, frame, scan, decoder).read(store, row_done)
    }
    let progressive = frame.coding == Coding::Progressive;
    if frame.arithmetic {
        run(Arithmetic::new(markers, scan, progressive), (markers, frame, scan), store, row_done)
    } else if progressive {
        run(Progressive::new(markers, scan)?, (markers, frame, scan), store, row_done)
    } else {
        run(Sequential::new(markers, scan)?, (markers, frame, scan), store, row_done)
    }
}
