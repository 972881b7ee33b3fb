//! The circle in a cluster: observe, plan, write the status, tell proxies, apply; again whenever something changed.
//!
//! Every replica of the operator runs it. All of them tell proxies what the stored status says; only the leader plans
//! and writes.

mod bundles;
mod memory;
mod queue;
mod reconcile;
mod shortage;
mod work;
mod world;

pub use bundles::Bundles;
pub use memory::Memory;
pub use shortage::Shortage;
pub use work::{Controller, Parts};
