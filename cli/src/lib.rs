//! Outrigger on the command line.

pub mod load;
pub mod plan;
pub mod screen;
pub mod view;
