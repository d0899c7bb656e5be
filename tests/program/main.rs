//! Tests of the program as a child process.

#[path = "../support/mod.rs"]
mod support;

mod cli;
mod commands;
mod forms;
#[cfg(feature = "hub")]
mod hub;
mod selftest;
