//! What is observed: watches that survive 410, silence and restarts, and an index of what they say by deployment.

pub mod index;
pub mod kept;
pub mod streams;

pub use index::{Entry, Index, Kind};

#[cfg(test)]
mod tests;
