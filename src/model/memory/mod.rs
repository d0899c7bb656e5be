//! What a model takes on a device, before there is one: from the configuration and the headers of the files alone.
//!
//! Nothing here is a second description of the model: shapes come from the same code that loads weights, scratch memory
//! from the same recordings that become plans, and caches and tables from the same lines that make a session.

mod plan;
mod planner;
mod working;

pub use plan::{MemoryPlan, PartBytes};
