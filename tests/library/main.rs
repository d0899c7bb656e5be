//! Tests of the library, as one program: it is linked once, and a kernel that several of them need is compiled once.
//! `cargo test --test library ops::` runs those of one file.

#[path = "../support/mod.rs"]
mod support;

#[cfg(feature = "embedded-model")]
mod engine;
mod errors;
mod family;
#[cfg(feature = "embedded-model")]
mod features;
mod floors;
#[cfg(feature = "embedded-model")]
mod generate;
mod isa;
#[cfg(feature = "jobs")]
mod jobs;
mod lab;
#[cfg(feature = "embedded-model")]
mod loading;
#[cfg(feature = "embedded-model")]
mod logprobs;
#[cfg(feature = "embedded-model")]
mod matrices;
mod memory;
mod ops;
mod pictures;
mod plans;
mod processor;
mod prose;
mod rooms;
mod runtime;
mod sampling;
mod shaders;
#[cfg(feature = "embedded-model")]
mod shapes;
#[cfg(feature = "embedded-model")]
mod slots;
mod stages;
mod stopping;
#[cfg(feature = "embedded-model")]
mod synthesize;
mod traps;
