//! Outrigger on the command line.

fn main() {}
