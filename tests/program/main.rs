//! Tests of the program as a child process.

#[path = "../support/mod.rs"]
mod support;

// The first to begin, as the alphabet has it: its longest test is the longest of all.
mod checkup;
mod cli;
mod commands;
mod forms;
#[cfg(feature = "hub")]
mod hub;
mod jobs;
#[cfg(all(feature = "server", feature = "embedded-model", unix))]
mod serve;
mod watch;
