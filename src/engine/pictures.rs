//! Threads that read pictures and make their pixels while the GPU works for others.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::job::Caller;
use super::request::{Picture, Request};
use crate::error::{Error, Result};
use crate::model::Pixels;
use crate::processor::{Image, ImageOptions, ImageProcessor};

/// A request whose pictures are to be read.
pub(super) struct Unread {
    pub request: Request,
    pub caller: Caller,
}

/// A request whose pictures were read.
pub(super) struct Ready {
    /// The request; its pictures are in `pixels`.
    pub request: Request,
    /// The number of its pictures.
    pub pictures: usize,
    pub pixels: Pixels,
    pub caller: Caller,
}

/// Starts threads that make what comes from `unread` ready, unless the engine is `closing`. They end when nothing can come
/// any more.
pub(super) fn start(
    threads: usize,
    processor: &ImageProcessor,
    options: ImageOptions,
    unread: Receiver<Unread>,
    closing: &Arc<AtomicBool>,
    ready: impl Fn(Ready) + Clone + Send + 'static,
) -> std::io::Result<Vec<JoinHandle<()>>> {
    let unread = Arc::new(Mutex::new(unread));
    let start = |i: usize| {
        let (unread, ready, processor) = (unread.clone(), ready.clone(), processor.clone());
        let closing = closing.clone();
        let work = move || {
            loop {
                let next = unread.lock().expect("no panic while it is held").recv();
                let Ok(Unread { mut request, caller }) = next else { break };
                if caller.has_cancelled() || closing.load(Ordering::Relaxed) {
                    caller.finish(Err(Error::Cancelled));
                    continue;
                }
                let pictures = std::mem::take(&mut request.pictures);
                let count = pictures.len();
                match read(pictures, &processor, &options) {
                    Ok(pixels) => ready(Ready { request, pictures: count, pixels, caller }),
                    Err(e) => caller.finish(Err(e)),
                }
            }
        };
        std::thread::Builder::new().name(format!("pictures {i}")).spawn(work)
    };
    (0..threads).map(start).collect()
}

fn read(pictures: Vec<Picture>, processor: &ImageProcessor, options: &ImageOptions) -> Result<Pixels> {
    let read = || -> Result<Pixels> {
        let images = pictures.into_iter().map(|picture| picture.open(options)).collect::<Result<Vec<Image>>>()?;
        Ok(Pixels::of(processor, &images))
    };
    // A fault of a decoder is one picture's fault.
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| Err(Error::image("picture", "reading it failed")))
}
