//! Telling somebody how far work has come, who may stop it.

use std::ops::ControlFlow;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use crate::error::{Error, Result};

/// Work that is under way.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Work {
    /// An adapter is being opened.
    Opening,
    /// Kernels compile, which some drivers take minutes for. Told whenever a kernel begins or ends and ten times a second,
    /// and a last time when nothing compiles any more.
    Compiling(Compiling),
    /// Weights are read, converted and uploaded. Told before each file of tokenizers, too, with no byte done: parsing one
    /// is not interrupted, which takes a tenth of a second for LLaMA's or T5's.
    Loading {
        /// Bytes read so far.
        done: u64,
        /// Bytes to read.
        total: u64,
    },
    /// Kernels run, or weights come that have no room beside others.
    Running,
    /// Answers are made.
    Answering {
        /// New tokens of the longest so far.
        tokens: u32,
    },
    /// Files are written.
    Writing {
        /// Bytes written so far.
        done: u64,
        /// Bytes to write.
        total: u64,
    },
}

/// The progress of compiling.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Compiling {
    /// Kernels compiled so far of those the plan needs.
    pub done: usize,
    /// Kernels to compile, one for each set of constants.
    pub total: usize,
    /// Time since the first was begun.
    pub elapsed: Duration,
    /// The kernel that has been compiling longest, and how long. `None` at the last call of a plan: nothing compiles
    /// any more, be it that all is done or that one failed.
    pub longest: Option<(&'static str, Duration)>,
}

/// A function that hears of [`Work`] and says whether to go on.
type Hear = dyn Fn(&Work) -> ControlFlow<()> + Send + Sync;

/// A listener to long work. With [`ControlFlow::Break`] the work ends with [`Error::Cancelled`], after which device and
/// model work on as if it had not been asked for. It is called many times a second, on whichever thread works, which waits
/// for it, and may not ask anything of the device itself.
///
/// ```
/// use std::ops::ControlFlow;
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicBool, Ordering};
/// use instructblip::runtime::{Watch, Work};
///
/// let stop = Arc::new(AtomicBool::new(false));
/// let stopped = stop.clone();
/// let watch = Watch::new(move |work| {
///     if let Work::Loading { done, total } = work {
///         eprintln!("{done} of {total} bytes");
///     }
///     if stopped.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
/// });
/// # drop((watch, stop));
/// ```
#[derive(Clone, Default)]
pub struct Watch(Option<Arc<Hear>>);

impl Watch {
    /// A watch that calls `hear`.
    pub fn new(hear: impl Fn(&Work) -> ControlFlow<()> + Send + Sync + 'static) -> Watch {
        Watch(Some(Arc::new(hear)))
    }

    /// A watch that calls this one and then `hear`, each of which may end the work.
    #[must_use]
    pub fn and(&self, hear: impl Fn(&Work) -> ControlFlow<()> + Send + Sync + 'static) -> Watch {
        let first = self.clone();
        Watch::new(move |work| match first.tell(work) {
            Ok(()) => hear(work),
            Err(_) => ControlFlow::Break(()),
        })
    }

    /// Tells of work.
    ///
    /// # Errors
    /// [`Error::Cancelled`], if it is to end.
    pub fn tell(&self, work: &Work) -> Result<()> {
        match self.0.as_ref().map(|hear| hear(work)) {
            Some(ControlFlow::Break(())) => Err(Error::Cancelled),
            _ => Ok(()),
        }
    }

    /// Says whether nobody hears.
    pub(super) fn is_deaf(&self) -> bool {
        self.0.is_none()
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_deaf() { "nobody watches" } else { "a function watches" })
    }
}

/// The place of a device's watch, which its plans share.
pub(super) type Watched = Arc<RwLock<Watch>>;
