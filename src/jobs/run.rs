//! The run of a job: rows out, answers in, lines to the disk.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::disk::{Written, beside};
use super::job::Job;
use super::journal::Journal;
use super::ledger::Mend;
use super::line::{Line, VERSION};
use super::manifest::Manifest;
use super::order::order;
use super::reply::{LOOK_UP, reply};
use super::row::{Id, Question, Row};
use super::status::{Counts, Status};
use super::told::Told;
use super::{Answered, Answerer, Apart, Failure};
use crate::error::{Bytes, Error, Result, is_full};
use crate::hash::fnv1a;

/// Lines, and the time, after which lines are brought to the disk.
const SYNC: (u64, Duration) = (256, Duration::from_secs(5));
/// Captions that are told by name.
const TOLD: usize = 5;
/// Deaths over one row after which it is not asked any more.
const DEATHS: u32 = 2;

/// The end of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The state of the job.
    pub counts: Counts,
    /// True if every row has a line.
    pub complete: bool,
    /// The failure that stopped it before that, if one did.
    pub stopped: Option<Failure>,
    /// The captions that were not written.
    pub captions: Captions,
}

/// Captions beside pictures that were not written.
#[derive(Clone, Debug, Default)]
pub struct Captions {
    /// The number of those that were there already and were left as they are.
    pub kept: u64,
    /// Files that several rows would have written; each has the answer of the first.
    pub shared: Told,
    /// Files that could not be written, with the reason.
    pub unwritten: Told,
}

/// A row that is being asked.
struct Ticket {
    id: Id,
    key: u64,
    image_bytes: Option<u64>,
    sidecar: Option<PathBuf>,
}

/// A job that runs.
pub struct Run<'a, 'j> {
    job: &'a Job<'j>,
    stop: &'a AtomicBool,
    report: &'a mut dyn FnMut(&Counts),
    file: Written,
    /// Bytes of whole lines in the file.
    whole: u64,
    journal: Journal,
    status: Status<'a>,
    counts: Counts,
    /// Lines that are not on the disk for sure, and since when there may be some.
    unsynced: (u64, Instant),
    in_flight: usize,
    stopped: Option<Failure>,
    /// Hashes of the names of captions that this run has met.
    captioned: HashSet<u64>,
    captions: Captions,
}

impl<'a, 'j> Run<'a, 'j> {
    /// Mends the output and begins the files beside it.
    pub fn begin(job: &'a Job<'j>, stop: &'a AtomicBool, report: &'a mut dyn FnMut(&Counts)) -> Result<Run<'a, 'j>> {
        let (setup, disk) = (&job.setup, &job.setup.disk);
        let output = &setup.output;
        disk.remove(&beside(output, ".done"))?;
        match job.ledger.mend {
            // Before the manifest, so that no lines are taken for another model's.
            _ if setup.force && output.exists() => disk.cut(output, 0)?,
            _ if setup.force => {}
            Mend::Nothing => {}
            Mend::Cut(bytes) => disk.cut(output, bytes)?,
            Mend::Rewrite => job.ledger.rewrite(disk)?,
        }
        let counts = job.counts();
        disk.replace(&beside(output, ".manifest.json"), &manifest(job, &counts).to_bytes())?;
        let mut status = Status::new(setup.status.as_deref(), &setup.host);
        status.write(disk, "running", &counts)?;
        let file = disk.append(output)?;
        let whole = file.file().metadata().map_err(|error| Error::io(output, error))?.len();
        Ok(Run {
            journal: Journal::begin(disk, output, &job.suspects)?,
            unsynced: (0, Instant::now()),
            in_flight: 0,
            stopped: None,
            captioned: HashSet::new(),
            captions: Captions::default(),
            job,
            stop,
            report,
            file,
            whole,
            status,
            counts,
        })
    }

    /// Asks the suspects one by one in a process of their own, which may end over them without harm.
    pub fn apart(&mut self, apart: &mut dyn Apart) -> Result<()> {
        if self.job.suspects.is_empty() {
            return Ok(());
        }
        let setup = &self.job.setup;
        let is_suspect = |hash| self.job.suspects.contains(&hash);
        setup.input.each(setup.defaults, &|id| is_suspect(id.hash()), &mut |row| {
            if self.is_over() {
                return Ok(ControlFlow::Break(()));
            }
            if !is_suspect(row.id.hash()) {
                return Ok(ControlFlow::Continue(()));
            }
            let (ticket, question) = self.ticket(row);
            let answered = match question {
                Ok(question) => ask_apart(apart, question),
                Err(failure) => Err(failure),
            };
            self.settle(ticket, answered)?;
            Ok(ControlFlow::Continue(()))
        })
    }

    /// Asks all other rows, several at once.
    pub fn together(&mut self, answerer: &dyn Answerer) -> Result<()> {
        let (to, answers) = mpsc::channel();
        let setup = &self.job.setup;
        let asked = setup.input.each(setup.defaults, &|id| self.job.is_open(id.hash()), &mut |row| {
            while self.in_flight >= setup.in_flight && !self.is_over() {
                self.wait(answerer, &answers)?;
            }
            while let Ok((ticket, answered)) = answers.try_recv() {
                self.in_flight -= 1;
                self.settle(ticket, answered)?;
            }
            if self.is_over() {
                return Ok(ControlFlow::Break(()));
            }
            let hash = row.id.hash();
            if self.job.is_open(hash) {
                let (ticket, question) = self.ticket(row);
                match question {
                    Ok(question) => {
                        self.journal.asked(hash)?;
                        self.in_flight += 1;
                        let to = to.clone();
                        // Nobody listens after a failure.
                        answerer.answer(question, reply(move |answered| drop(to.send((ticket, answered)))));
                    }
                    Err(failure) => self.settle(ticket, Err(failure))?,
                }
            }
            Ok(ControlFlow::Continue(()))
        });
        // What was asked is waited for.
        asked?;
        while self.in_flight > 0 {
            self.wait(answerer, &answers)?;
        }
        Ok(())
    }

    /// Waits for an answer, for a moment.
    fn wait(&mut self, answerer: &dyn Answerer, answers: &Receiver<(Ticket, Answered)>) -> Result<()> {
        answerer.tend();
        match answers.recv_timeout(LOOK_UP) {
            Ok((ticket, answered)) => {
                self.in_flight -= 1;
                self.settle(ticket, answered)
            }
            Err(RecvTimeoutError::Timeout) => self.keep_up(),
            Err(RecvTimeoutError::Disconnected) => unreachable!("this end has a sender, too"),
        }
    }

    /// True if nothing more is to be asked.
    fn is_over(&self) -> bool {
        self.stopped.is_some() || self.stop.load(Ordering::Relaxed)
    }

    fn ticket(&self, row: Row) -> (Ticket, std::result::Result<Question, Failure>) {
        let ending = self.job.setup.sidecar.as_deref();
        let sidecar = ending.and_then(|ending| Some(row.file()?.with_extension(ending)));
        let image_bytes = row.image_bytes();
        let question = row.asked.and_then(|asked| asked.into_question(&row.id));
        (Ticket { key: row.key, image_bytes, sidecar, id: row.id }, question)
    }

    /// Writes down what became of a row.
    fn settle(&mut self, ticket: Ticket, answered: Answered) -> Result<()> {
        if let Err(failure) = &answered {
            if failure.stop {
                self.stopped.get_or_insert(failure.clone());
                return Ok(());
            }
            self.counts.last_error = Some(format!("{}: {}", ticket.id, failure.message));
        }
        let Ticket { id, key, image_bytes, sidecar } = ticket;
        let line = Line::new(id, answered, &self.job.setup.identity.model);
        let line = Line { key: Some(format!("{key:016x}")), image_bytes, ..line };
        if let (Some(path), Some(text)) = (sidecar, &line.text) {
            self.caption(path, text)?;
        }
        let text = line.to_text();
        self.file.add(text.as_bytes())?;
        self.whole += text.len() as u64;
        self.unsynced.0 += 1;
        self.counts.now += 1;
        if line.ok {
            self.counts.ok += 1
        } else {
            self.counts.failed += 1
        }
        (self.report)(&self.counts);
        self.keep_up()
    }

    /// Writes a caption beside its picture, and never over another one that is not ours.
    fn caption(&mut self, path: PathBuf, text: &str) -> Result<()> {
        let (setup, caption) = (&self.job.setup, format!("{text}\n"));
        if !self.captioned.insert(fnv1a(path.as_os_str().as_encoded_bytes().iter().copied())) {
            // Another row of this run has written it: pictures of one name, or two questions about one.
            self.captions.shared.add(&path.display(), TOLD);
            return Ok(());
        }
        match std::fs::read(&path) {
            Ok(there) if there == caption.as_bytes() => Ok(()),
            Ok(_) if !setup.force => {
                self.captions.kept += 1;
                Ok(())
            }
            // The answer is in the output: a caption that cannot be written ends no job.
            _ => match setup.disk.replace(&path, caption.as_bytes()) {
                Err(Error::Io { source, .. }) if !is_full(&source) => {
                    self.captions.unwritten.add(&format!("{} ({source})", path.display()), TOLD);
                    Ok(())
                }
                written => written,
            },
        }
    }

    /// Brings lines to the disk and tells how far the job is, where it is time to.
    fn keep_up(&mut self) -> Result<()> {
        let (lines, since) = self.unsynced;
        if lines >= SYNC.0 || (lines > 0 && since.elapsed() >= SYNC.1) {
            self.file.sync()?;
            self.unsynced = (0, Instant::now());
        }
        self.status.tell(&self.job.setup.disk, "running", &self.counts);
        Ok(())
    }

    /// Ends the run: a manifest with its counts and, if every row has a line, the mark that says so, last.
    pub fn conclude(mut self, ran: Result<()>) -> Result<Outcome> {
        let setup = &self.job.setup;
        let (disk, output) = (&setup.disk, &setup.output);
        if let Err(error) = ran {
            // Half a line would be cut next time, too.
            let _ = std::fs::OpenOptions::new().write(true).open(output).and_then(|file| file.set_len(self.whole));
            // The process lives: no row has ended it.
            let _ = self.journal.end();
            return Err(self.job.with_need(error, self.counts.left()));
        }
        let complete = self.counts.left() == 0;
        let manifest = Manifest { complete, ..manifest(self.job, &self.counts) };
        let synced = self.file.sync();
        // The file may get a new content under its name.
        drop(self.file);
        let concluded = synced.and_then(|()| {
            if complete && setup.ordered {
                order(setup)?;
            }
            disk.replace(&beside(output, ".manifest.json"), &manifest.to_bytes())?;
            self.journal.end()?;
            self.status.write(disk, if complete { "done" } else { "stopped" }, &self.counts)?;
            let done = serde_json::json!({
                "rows": self.counts.rows, "ok": self.counts.ok, "failed": self.counts.failed, "v": VERSION,
            });
            match complete {
                true => disk.replace(&beside(output, ".done"), format!("{done}\n").as_bytes()),
                false => Ok(()),
            }
        });
        concluded.map_err(|error| self.job.with_need(error, self.counts.left()))?;
        Ok(Outcome { complete, stopped: self.stopped, captions: self.captions, counts: self.counts })
    }
}

impl Job<'_> {
    /// Asks what is left: suspects apart, then all others by what `answerer` makes. It is called when nothing runs apart any
    /// more, as there may be room for one model only, and not at all if nothing is left. `report` hears of every line; once
    /// `stop` is set, nothing more is asked.
    ///
    /// # Errors
    /// [`Error::Io`] for what cannot be written; lines that were written stay. The error of `answerer`.
    pub fn run<A: Answerer, E: From<Error>>(
        self,
        answerer: impl FnOnce() -> Result<A, E>,
        apart: &mut dyn Apart,
        stop: &AtomicBool,
        report: &mut dyn FnMut(&Counts),
    ) -> Result<Outcome, E> {
        if self.suspects.is_empty() && self.ledger.open > 0 {
            // Before anything is written: there may be none.
            let answerer = answerer()?;
            let mut run = Run::begin(&self, stop, report)?;
            let ran = run.together(&answerer);
            return Ok(run.conclude(ran)?);
        }
        let mut run = Run::begin(&self, stop, report)?;
        let ran = run.apart(apart);
        apart.end();
        if ran.is_err() || run.is_over() || run.counts.left() == 0 {
            return Ok(run.conclude(ran)?);
        }
        match answerer() {
            Ok(answerer) => {
                let ran = run.together(&answerer);
                Ok(run.conclude(ran)?)
            }
            Err(error) => {
                run.conclude(Ok(()))?;
                Err(error)
            }
        }
    }

    fn is_open(&self, hash: u64) -> bool {
        self.ledger.is_open(hash) && !self.suspects.contains(&hash)
    }

    /// An error that says how much room is needed, where there is none.
    fn with_need(&self, error: Error, rows: u64) -> Error {
        match error {
            Error::Io { path, source } if is_full(&source) => {
                let need = Bytes(self.bytes_for(rows) + 65_536);
                let what =
                    if rows > 0 { format!("the {rows} rows that are left need") } else { "the end needs".into() };
                let words = format!(
                    "no space is left; {what} about {need}. Make room and start the same again: it goes on where it stopped"
                );
                Error::Io { path, source: std::io::Error::new(source.kind(), words) }
            }
            error => error,
        }
    }
}

/// Asks a question that may end the process that answers.
fn ask_apart(apart: &mut dyn Apart, question: Question) -> Answered {
    for _ in 0..DEATHS {
        match apart.ask(question.clone()) {
            Ok(Some(answered)) => return answered,
            Ok(None) => {}
            Err(failure) => return Err(failure),
        }
    }
    let problem = format!("the process ended {DEATHS} times over this row, and is not risked again");
    Err(Failure::new("crashed", problem))
}

fn manifest(job: &Job<'_>, counts: &Counts) -> Manifest {
    let (setup, defaults) = (&job.setup, job.setup.defaults);
    Manifest {
        identity: setup.identity.clone(),
        shard: setup.shard,
        defaults: serde_json::json!({
            "prompt": defaults.prompt, "qformer_prompt": defaults.qformer_prompt, "choices": defaults.choices,
            "params": defaults.options, "task": defaults.task,
        }),
        input_rows: job.ledger.rows,
        rows: counts.rows,
        ok: counts.ok,
        failed: counts.failed,
        complete: false,
        v: VERSION,
    }
}
