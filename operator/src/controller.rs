//! The circle in a cluster: observe, plan, write the status, tell proxies, apply; again whenever something changed.
//!
//! Every replica of the operator runs it. All of them tell proxies what the stored status says; only the leader plans
//! and writes.

mod memory;
mod queue;
mod reconcile;
mod world;
mod work;

pub use memory::Memory;
pub use work::{Controller, Parts};
