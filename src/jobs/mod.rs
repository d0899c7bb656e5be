//! Jobs: many rows in, as many rows out, whatever happens meanwhile.
//!
//! A [`Job`] asks an [`Answerer`] every row of an [`Input`] and writes a line for each to a file. That file is the job's
//! state: a job that was killed is begun again and goes on where its file ends. [`merge()`] puts the files of several shards
//! together and proves that no row is missing or doubled; [`serve`] answers the same rows over pipes.
//!
//! ```text
//! rows      lines, folders, archives -> Row, one after another and never all of them    source, archive, row
//! survey    ids, the output as it is -> what is to be done                              ledger, index
//! asking    Row -> Answerer -> Line, a bounded number at a time                         job, worker
//! files     lines, manifest, lock, journal: each write, sync and rename                 disk, lock, journal, manifest
//! ```
//!
//! Nothing here knows a model or a device. Every write goes through [`Disk`], which tests have fail.

mod archive;
mod disk;
mod index;
mod job;
mod journal;
mod ledger;
mod line;
mod lock;
mod manifest;
mod merge;
mod order;
mod places;
mod reply;
mod row;
mod run;
mod setup;
mod source;
mod status;
mod told;
mod worker;

pub use disk::{Disk, Operation};
pub use job::Job;
pub use line::{Finding, Line, Score, VERSION};
pub use lock::STALE_AFTER;
pub use manifest::{Identity, Shard};
pub use merge::{Merge, Merged, asked_with, merge};
pub use row::{Defaults, Id, Picture, Question, Worded, Wording};
pub use run::{Captions, Outcome};
pub use setup::Setup;
pub use source::Input;
pub use status::Counts;
pub use told::Told;
pub use worker::{Service, serve};

use serde::{Deserialize, Serialize};

/// Something that answers questions: a model, or a stand-in in tests.
pub trait Answerer {
    /// Takes a question and calls `done` once there is an answer, from any thread and in any order. Returns at once, or
    /// waits while as much is in work as there is room for.
    ///
    /// A `done` that is dropped without being called counts as a failure that stops the job.
    fn answer(&self, question: Question, done: Done);

    /// Looks after what it is made of. It is called many times a second by whoever asks and waits, for answerers that have no
    /// thread of their own for that.
    fn tend(&self) {}
}

impl<A: Answerer + ?Sized> Answerer for &A {
    fn answer(&self, question: Question, done: Done) {
        (**self).answer(question, done);
    }

    fn tend(&self) {
        (**self).tend();
    }
}

/// The one that hears of the answer to a question.
pub type Done = Box<dyn FnOnce(Answered) + Send>;

/// An answer, or the reason why there is none.
pub type Answered = std::result::Result<Finding, Failure>;

/// A process of its own that answers questions one by one, so that one of them may end it.
pub trait Apart {
    /// Asks a question; `None` if the process ended over it. The next question begins a new one.
    ///
    /// # Errors
    /// The failure of a process that cannot be begun, which stops the job.
    fn ask(&mut self, question: Question) -> Result<Option<Answered>, Failure>;

    /// Ends the process; there is nothing more to ask.
    fn end(&mut self) {}
}

/// The reason why a question has no answer.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// A word that programs may rely on: `image`, `request`, `io`, `crashed` and so on.
    pub code: String,
    /// The reason in words.
    pub message: String,
    /// True if the same question may have an answer another time.
    #[serde(skip)]
    pub retry: bool,
    /// True if no other question will be answered, either: the row stays as if it had not been asked.
    #[serde(skip)]
    pub stop: bool,
}

impl Failure {
    /// A failure that asking again would not mend.
    pub fn new(code: &str, message: impl Into<String>) -> Failure {
        Failure { code: code.into(), message: message.into(), retry: false, stop: false }
    }

    /// A failure that another time may mend.
    pub fn passing(code: &str, message: impl Into<String>) -> Failure {
        Failure { retry: true, ..Failure::new(code, message) }
    }

    /// A failure after which nothing else is answered.
    pub fn stopping(code: &str, message: impl Into<String>) -> Failure {
        Failure { retry: true, stop: true, ..Failure::new(code, message) }
    }
}
