//! The kernel laboratory: every kernel against f64, against the clock, and against what the adapter can do at most.
//!
//! One table of [`cases`] serves all: a [`Case`] is an op at one shape with its operands, its oracle and what it costs at
//! least, and a [`Depth`] says which runs have it. [`selftest`] runs cases in every form of kernels, [`kernels`] times
//! them beside [`ceilings`], with a custom kernel if there is one, [`tune`] looks for the sizes that suit an
//! adapter, and [`model`] times a whole model stage by stage. What they find is plain data ([`results`]); the program has
//! the arguments and the pictures.
//!
//! Every kernel against f64, in the forms of this adapter:
//!
//! ```no_run
//! use instructblip::lab::{Depth, cases, selftest};
//! use instructblip::{Device, DeviceOptions};
//!
//! # fn main() -> instructblip::Result<()> {
//! let target = selftest::Target::own(Device::open(&DeviceOptions::default())?);
//! let outcome = selftest::run(&cases::of(Depth::Small), &[target], "linear q4", &mut |_| {});
//! for row in outcome.rows.iter().filter(|row| !row.ok()) {
//!     println!("{} {}: {:?}", row.kernel, row.shape, row.error);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! `examples/bench_kernel.rs` times a layer. For one case alone: [`Case::setup`] makes its operands, [`kernels::Prepared`]
//! checks it and has a plan, and [`clock::Clock`] times that; the plan has a call for each of the setup's `copies`.

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
