//! A file mapped into memory, read without fear of its being cut.
//!
//! Unix tells a program that touches a mapped page past the end of a file that became shorter with SIGBUS, which ends
//! it. A handler here puts a page of zeros in that place instead and remembers that the map is broken; whoever read
//! from it asks [`Map::check_intact`] afterwards. Signals for other addresses go where they went before. Windows does
//! not let anybody cut a file that is mapped.

use std::fs::File;
use std::ops::Range;

/// A whole file in memory.
#[derive(Debug)]
pub struct Map {
    // First, as it has to go first: nobody may be watched who is not there.
    #[cfg(unix)]
    guard: guard::Guard,
    map: memmap2::Mmap,
    file: File,
}

impl Map {
    /// Maps the file; gives it back where the system cannot.
    pub fn new(file: File) -> Result<Map, File> {
        let Some(map) = Map::of(&file) else { return Err(file) };
        #[cfg(unix)]
        let Some(guard) = guard::Guard::new(map.as_ptr() as usize, map.len()) else { return Err(file) };
        Ok(Map {
            #[cfg(unix)]
            guard,
            map,
            file,
        })
    }

    #[allow(unsafe_code)]
    fn of(file: &File) -> Option<memmap2::Mmap> {
        // SAFETY: others may change the file meanwhile. What is read are numbers, of which every one is valid, and a
        // file that is cut is what the guard is for.
        unsafe { memmap2::Mmap::map(file) }.ok()
    }

    /// Bytes of the file; `None` past its end.
    pub fn bytes(&self, start: u64, count: usize) -> Option<&[u8]> {
        let start = usize::try_from(start).ok()?;
        self.map.get(start..start.checked_add(count)?)
    }

    /// Checks that everything read so far was in the file.
    pub fn check_intact(&self) -> std::io::Result<()> {
        #[cfg(unix)]
        let hit = self.guard.was_hit();
        #[cfg(not(unix))]
        let hit = false;
        // What is past the end of the last page that is left reads as zeros, without a signal.
        if hit || self.file.metadata()?.len() < self.map.len() as u64 {
            let problem = "became shorter while it was being read; download it again";
            return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, problem));
        }
        Ok(())
    }

    /// Asks the system to read a part ahead.
    pub fn prefetch(&self, range: Range<u64>) {
        #[cfg(unix)]
        let _ =
            self.map.advise_range(memmap2::Advice::WillNeed, range.start as usize, (range.end - range.start) as usize);
        #[cfg(not(unix))]
        let _ = range;
    }

    /// Releases a part's pages; reading them again reads the file again.
    #[allow(unsafe_code)]
    pub fn release(&self, range: Range<u64>) {
        #[cfg(unix)]
        {
            // SAFETY: the map is of a file and is never written, so nothing is lost.
            let _ = unsafe {
                let (start, count) = (range.start as usize, (range.end - range.start) as usize);
                self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, count)
            };
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

#[cfg(unix)]
mod guard {
    use std::mem::MaybeUninit;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
    use std::sync::{Mutex, OnceLock};

    /// Maps that may exist at once; a checkpoint has a shard for every few gigabytes.
    const MAPS: usize = 256;

    struct Watched {
        start: AtomicUsize,
        end: AtomicUsize,
        hit: AtomicBool,
    }

    static WATCHED: [Watched; MAPS] =
        [const { Watched { start: AtomicUsize::new(0), end: AtomicUsize::new(0), hit: AtomicBool::new(false) } }; MAPS];
    /// The lock for taking a place in [`WATCHED`]. The signal handler does not look at it.
    static PLACES: Mutex<()> = Mutex::new(());
    static BEFORE: OnceLock<Handler> = OnceLock::new();
    static PAGE_BYTES: AtomicUsize = AtomicUsize::new(0);

    /// The signal's handler before this one.
    struct Handler(libc::sigaction);

    /// A guard during whose life a map is watched.
    #[derive(Debug)]
    pub struct Guard(usize);

    impl Guard {
        /// Watches `bytes` from address `start` on; `None` if too many maps are watched or the system refuses.
        pub fn new(start: usize, bytes: usize) -> Option<Guard> {
            let _held = PLACES.lock().ok()?;
            if BEFORE.get().is_none() {
                BEFORE.set(install()?).ok()?;
            }
            let place = WATCHED.iter().position(|w| w.end.load(SeqCst) == 0)?;
            WATCHED[place].hit.store(false, SeqCst);
            WATCHED[place].start.store(start, SeqCst);
            WATCHED[place].end.store(start + bytes.next_multiple_of(PAGE_BYTES.load(SeqCst)), SeqCst);
            Some(Guard(place))
        }

        pub fn was_hit(&self) -> bool {
            WATCHED[self.0].hit.load(SeqCst)
        }
    }

    impl Drop for Guard {
        fn drop(&mut self) {
            WATCHED[self.0].end.store(0, SeqCst);
        }
    }

    #[allow(unsafe_code)]
    fn install() -> Option<Handler> {
        // SAFETY: both structures are plain data that the calls fill or read, and the handler only does what a signal
        // handler may: atomics, mmap and sigaction.
        unsafe {
            PAGE_BYTES.store(usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)).ok()?, SeqCst);
            let mut ours = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
            let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_signal;
            ours.sa_sigaction = handler as usize;
            ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            let mut before = MaybeUninit::<libc::sigaction>::zeroed();
            (libc::sigaction(libc::SIGBUS, &ours, before.as_mut_ptr()) == 0).then(|| Handler(before.assume_init()))
        }
    }

    #[allow(unsafe_code)]
    extern "C" fn on_signal(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
        // SAFETY: the kernel gives a valid siginfo_t; the page put in place lies inside a map that is watched, which
        // nobody but readers of the file uses, and they are told.
        unsafe {
            let address = (*info).si_addr() as usize;
            let inside = |w: &&Watched| (w.start.load(SeqCst)..w.end.load(SeqCst)).contains(&address);
            if let Some(watched) = WATCHED.iter().find(inside) {
                let bytes = PAGE_BYTES.load(SeqCst);
                let page = (address & !(bytes - 1)) as *mut libc::c_void;
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
                if libc::mmap(page, bytes, libc::PROT_READ, flags, -1, 0) != libc::MAP_FAILED {
                    watched.hit.store(true, SeqCst);
                    return;
                }
            }
            // Not ours: the instruction runs again and meets whoever was there before.
            match BEFORE.get() {
                Some(before) => libc::sigaction(signal, &before.0, std::ptr::null_mut()),
                None => libc::signal(signal, libc::SIG_DFL) as libc::c_int,
            };
        }
    }
}
