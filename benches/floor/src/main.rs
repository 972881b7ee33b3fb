//! A bare hyper forwarder, the floor of every ratio.

fn main() {}
