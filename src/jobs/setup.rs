//! The setup of a job: everything that it is told.

use std::path::PathBuf;

use super::disk::Disk;
use super::manifest::{Identity, Shard};
use super::row::Defaults;
use super::source::Input;

/// Everything that a job is told.
pub struct Setup<'a> {
    /// The rows.
    pub input: &'a Input,
    /// The parts that rows do not say.
    pub defaults: &'a Defaults,
    /// The file of lines.
    pub output: PathBuf,
    /// The rows of it that are this job's.
    pub shard: Shard,
    /// Everything that all answers depend on.
    pub identity: Identity,
    /// Asks every row, whatever the output has.
    pub force: bool,
    /// Asks rows again that have no answer.
    pub retry_failed: bool,
    /// Puts the lines in the order of the input, once every row has one.
    pub ordered: bool,
    /// The ending of files beside the pictures that get the answers.
    pub sidecar: Option<String>,
    /// A file that says how far the job is.
    pub status: Option<PathBuf>,
    /// Rows that are asked at once.
    pub in_flight: usize,
    /// The name of this machine.
    pub host: String,
    /// The way to the disk.
    pub disk: Disk,
}
