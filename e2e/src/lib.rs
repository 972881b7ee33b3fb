//! Tests of whole programs, seen from outside.

pub mod cluster;
pub mod markdown;
pub mod program;
