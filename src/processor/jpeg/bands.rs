//! Painting bands of a picture at a time, on several threads where it is large.

use std::ops::Range;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};

use super::color::{BlockRow, Painter};
use super::frame::Block;
use super::markers::Steps;

/// Pictures of fewer pixels are painted by the thread that reads them.
const PARALLEL_PIXELS: usize = 1 << 19;
/// Most threads that paint.
const MAX_PAINTERS: usize = 4;
/// Bands that wait for a thread.
const WAITING: usize = 4;

/// The blocks of a row of units, by component.
pub(super) type UnitRow = Vec<Vec<Block>>;

/// A band to be painted, with the rows of units it takes.
pub(super) struct Band<'o> {
    pub(super) units: Range<usize>,
    /// The rows of units from number `first` on: those of the band, the one above and the one below.
    pub(super) rows: Vec<Arc<UnitRow>>,
    pub(super) first: usize,
    /// The place for the band's pixels.
    pub(super) out: &'o mut [u8],
}

impl Band<'_> {
    fn paint(self, painter: &Painter<'_>, steps: &[Option<Box<Steps>>]) {
        painter.paint(self.units, self.out, &|i, y| {
            let c = &painter.frame.components[i];
            let row = &self.rows[y / c.v - self.first][i];
            let stride = row.len() / c.v;
            let steps = steps[i].as_deref().expect("the only scan has every component");
            (row[y % c.v * stride..][..stride].into(), steps)
        });
    }
}

fn painters(painter: &Painter<'_>) -> usize {
    if painter.frame.width * painter.frame.height < PARALLEL_PIXELS {
        return 0;
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    if threads == 1 { 0 } else { threads.min(MAX_PAINTERS) }
}

/// Runs `read`, which hands bands over to be painted, and returns when all are.
pub(super) fn with_painters<'o, T>(
    painter: &Painter<'_>,
    steps: &[Option<Box<Steps>>],
    read: impl FnOnce(&mut dyn FnMut(Band<'o>)) -> T,
) -> T {
    let painters = painters(painter);
    if painters == 0 {
        return read(&mut |band| band.paint(painter, steps));
    }
    let (sender, receiver) = sync_channel::<Band<'o>>(WAITING);
    let receiver = Mutex::new(receiver);
    std::thread::scope(|scope| {
        // Owned by the scope: where painters are gone, the sender must see it.
        let receiver = &receiver;
        for _ in 0..painters {
            scope.spawn(move || {
                loop {
                    let band = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    match band {
                        Ok(band) => band.paint(painter, steps),
                        Err(_) => break,
                    }
                }
            });
        }
        let result = read(&mut |band| sender.send(band).expect("painters wait until the last band"));
        drop(sender);
        result
    })
}

/// Paints the whole picture from blocks that are all there.
pub(super) fn paint_all<'s>(painter: &Painter<'_>, rgb: &mut [u8], blocks: &BlockRow<'_, 's>) {
    let bands = Mutex::new(painter.bands(rgb));
    let work = || {
        loop {
            let band = bands.lock().unwrap_or_else(PoisonError::into_inner).next();
            match band {
                Some((units, out)) => painter.paint(units, out, blocks),
                None => break,
            }
        }
    };
    match painters(painter) {
        0 => work(),
        painters => std::thread::scope(|scope| {
            for _ in 0..painters {
                scope.spawn(work);
            }
        }),
    }
}
