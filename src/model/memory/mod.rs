//! The memory that a model takes, before there is a device: from the configuration and the files' headers alone.
//!
//! Nothing here is a second description of the model: shapes come from the same code that loads weights, scratch memory
//! from the same recordings that become plans, and caches and tables from the same lines that make a session.

mod plan;
mod planner;
mod working;

pub use plan::{MemoryPlan, PartBytes};
