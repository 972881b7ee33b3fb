//! What a cluster's objects say about replicas, in the planner's words. Pure: everything here is a function of
//! objects that were read elsewhere.
//!
//! ```text
//! Pod ─► replica ─► phase, address, trouble        Pod, ReplicaSet, Node ─► capacity ─► what can't be had
//!    └─► restarts (with those seen before)         other people's pods ─► Used ─┘
//! ```

pub mod capacity;
pub mod nodes;
pub mod refusal;
pub mod replica;
pub mod trouble;
pub mod types;
mod words;

#[cfg(test)]
mod tests;

pub use capacity::capacity;
pub use nodes::{Nodes, Used};
pub use replica::{replica, restarts};
pub use trouble::is_unheard;
pub use types::{Foreign, Node, Pod, ReplicaSet};
