//! Load cases with stated goals: a stub upstream, a load generator, and the programs that are measured.
//!
//! Everything runs on one machine and every ratio is taken within one run, target after target in each round, so
//! that what the machine does meanwhile hits all of them. Absolute figures are the machine's.

pub mod batching;
pub mod load;
pub mod operator;
pub mod program;
pub mod proxy;
pub mod report;
pub mod stub;
pub mod wire;
