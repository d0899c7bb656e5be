//! The kernel laboratory: every kernel against f64, against the clock, and against what the adapter can do at most.
//!
//! One table of [`cases`] serves all: a [`Case`] is an op at one shape with its operands, its oracle and what it costs at
//! least, and a [`Depth`] says which runs have it. [`selftest`] runs cases in every form of kernels, [`kernels`] times
//! them beside [`ceilings`], with a custom kernel if there is one, [`tune`] looks for the sizes that suit an
//! adapter, and [`model`] times a whole model stage by stage. All take plain options and give plain [`results`]; the
//! program has the arguments and the pictures.

pub mod case;
pub mod cases;
pub mod ceilings;
pub mod clock;
pub mod kernels;
pub mod model;
pub mod operands;
pub mod oracle;
pub mod results;
pub mod selftest;
pub mod tune;

pub use case::{Case, Depth};
pub use results::Results;
