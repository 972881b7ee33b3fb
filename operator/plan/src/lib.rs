//! The planner: from what is wanted and observed to what is to be done, synchronous, deterministic and complete.
//! No client, no clock, no randomness.

pub mod plan;
pub mod world;

pub use plan::{Event, Plan, Waiting, Workload, plan};
pub use world::{Capacity, Declared, Evidence, Gateway, Phase, Replica, Revision, Trouble, World};
