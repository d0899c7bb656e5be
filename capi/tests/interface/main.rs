//! The C interface: its header, its examples, and what it makes of mistakes.

mod arguments;
mod header;
mod options;
mod programs;
mod results;
mod stopping;
mod support;
