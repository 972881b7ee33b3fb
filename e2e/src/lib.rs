//! Tests of whole programs, seen from outside.

pub mod caller;
pub mod cluster;
pub mod installed;
pub mod markdown;
pub mod program;
pub mod simulated;
