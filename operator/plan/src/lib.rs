//! The planner: from what is wanted and observed to what is to be done, synchronous, deterministic and complete.
//! No client, no clock, no randomness.
//!
//! ```text
//! document ─► validate ─► World ─► plan ─┬─ rollout: which revision, which step   ─► status
//!                                        ├─ routes: a pure function of that status ─► gateways, sidecars
//!                                        ├─ workloads: how many replicas of which
//!                                        └─ report: conditions, message, waiting_for, wake_at
//! ```
//!
//! `check` states what holds of every world and its plan; the tests assert it after every step of drawn histories.

pub mod action;
pub mod check;
pub mod document;
pub mod healing;
pub mod plan;
mod report;
pub mod revision;
mod rollout;
pub mod routes;
pub mod validate;
mod workloads;
pub mod world;

#[cfg(test)]
mod tests;

pub use document::Declaration;
pub use plan::{Event, Outcome, Plan, Waiting, Workload, plan, plan_through};
pub use routes::routes;
pub use validate::{check_local, validate};
pub use world::{Capacity, Declared, Evidence, Gateway, Phase, Replica, Revision, Said, Trouble, World};
