//! Progress of a device's work on stderr.

use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

use instructblip::runtime::{Compiling, Watch, Work};

use crate::common::Common;
use crate::progress::{Progress, say};

/// The shortest compiling that is shown.
const NOTICEABLE: Duration = Duration::from_millis(300);

/// A kernel that takes this long is named: its driver may never end.
const LONG: Duration = Duration::from_secs(60);

/// Shows what is loaded and written, shows that kernels compile when that takes a while, and names one that takes very long.
/// Ends all of it where the program is asked to.
pub fn watch(common: &Common) -> Watch {
    let (stop, quiet) = (common.stop.clone(), common.quiet);
    if quiet && stop.is_none() {
        return Watch::default();
    }
    let shown = Mutex::new(Shown::default());
    Watch::new(move |work| {
        if let (false, Ok(mut shown)) = (quiet, shown.lock()) {
            shown.tell(work);
        }
        match stop.as_ref().is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    })
}

#[derive(Default)]
struct Shown {
    bytes: Option<Progress>,
    kernels: Option<Progress>,
    named: Option<&'static str>,
}

impl Shown {
    fn tell(&mut self, work: &Work) {
        match *work {
            Work::Loading { done, total } => self.count("loading", done, total),
            Work::Writing { done, total } => self.count("writing", done, total),
            Work::Compiling(ref now) => self.compiling(now),
            _ => {}
        }
    }

    fn count(&mut self, what: &'static str, done: u64, total: u64) {
        self.bytes.get_or_insert_with(|| Progress::bytes(false, what)).report(done, total);
        if done == total {
            self.bytes = None;
        }
    }

    fn compiling(&mut self, now: &Compiling) {
        let Some((kernel, time)) = now.longest else {
            if let Some(mut progress) = self.kernels.take() {
                progress.count(now.done as u64);
                progress.clear();
            }
            return;
        };
        if now.elapsed > NOTICEABLE {
            let new = || Progress::counting(false, "kernels compiled", Some(now.total as u64));
            self.kernels.get_or_insert_with(new).count(now.done as u64);
        }
        if time > LONG && self.named != Some(kernel) {
            self.named = Some(kernel);
            let line = format!("the driver has been compiling kernel {kernel} for {} s", LONG.as_secs());
            self.kernels.as_ref().map_or_else(|| say(&line), |progress| progress.note(&line));
        }
    }
}
