//! Tests of whole programs, seen from outside.

pub mod markdown;
pub mod program;
