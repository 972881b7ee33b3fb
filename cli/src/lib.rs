//! Outrigger on the command line.

pub mod load;
pub mod screen;
pub mod view;
