//! A thread that fills matrices while the loader already makes the next ones: making one that the host can write costs
//! about as much as filling it, as its memory is cleared.

use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::files::TensorFiles;
use super::pack::Scan;
use super::transfer::{Ahead, Rows, write_rows};
use crate::error::{Error, Result};
use crate::runtime::upload::Uploader;
use crate::runtime::{Watch, Work};

/// Matrices that wait to be filled.
const WAITING: usize = 2;

/// A piece of work that the thread has done.
pub(super) enum Done {
    /// It read this many bytes.
    Read(u64),
    /// It wrote rows of these tensors, and saw this in them.
    Rows(Vec<(String, Scan)>),
}

/// The thread and the channels to it.
pub(super) struct Worker {
    jobs: Option<SyncSender<Rows>>,
    done: Receiver<Result<Done>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// A thread that fills matrices from `files`, as long as `watch` lets it.
    pub fn new(uploader: &Arc<Mutex<Uploader>>, files: &Arc<TensorFiles>, mut ahead: Ahead, watch: Watch) -> Worker {
        let (jobs, rows) = sync_channel::<Rows>(WAITING);
        let (tell, done) = channel();
        let (uploader, files) = (uploader.clone(), files.clone());
        let thread = std::thread::spawn(move || {
            ahead.go_on(&files, 0);
            for rows in rows {
                let result = fill(&uploader, &files, &rows, &mut |bytes| {
                    watch.tell(&Work::Running)?;
                    ahead.go_on(&files, bytes);
                    let heard = tell.send(Ok(Done::Read(bytes)));
                    heard.map_err(|_| Error::request("loading was given up"))
                });
                let failed = result.is_err();
                if tell.send(result.map(Done::Rows)).is_err() || failed {
                    return;
                }
            }
        });
        Worker { jobs: Some(jobs), done, thread: Some(thread) }
    }

    /// Sends rows to be written, and their matrix to be handed over if they are its last. Waits while too many others
    /// wait.
    pub fn write(&self, rows: Rows) {
        // A thread that gave up has said why, which is heard next.
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(rows);
        }
    }

    /// The work that was done since the last call.
    pub fn hear(&self) -> Option<Result<Done>> {
        self.done.try_recv().ok()
    }

    /// Takes no more rows, and gives what is left to hear once everything is written.
    pub fn finish(mut self) -> Vec<Result<Done>> {
        self.jobs = None;
        let mut done: Vec<_> = self.done.iter().collect();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            done.push(Err(Error::request("a thread that loads weights failed; please report it")));
        }
        done
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs = None;
        // Nobody listens any more, which ends the thread early; nothing of a failed loading may stay on the device.
        self.done = channel().1;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn fill(
    uploader: &Mutex<Uploader>,
    files: &TensorFiles,
    rows: &Rows,
    read: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Vec<(String, Scan)>> {
    let mut uploader = uploader.lock().map_err(|_| Error::request("an earlier upload failed"))?;
    let scans = write_rows(&mut uploader, files, rows, read)?;
    if rows.are_last() {
        uploader.finish(&rows.matrix)?;
    }
    Ok(rows.names.iter().cloned().zip(scans).collect())
}
