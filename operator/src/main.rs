//! The operator as a program of its own.

fn main() {}
