//! The gateway in this process, real sockets on free ports, small upstreams whose behaviour each test sets.
#![allow(unreachable_pub, reason = "a test's modules are read by its other modules alone")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod client;
mod engines;
mod hostile;
mod live;
mod program;
mod retries;
mod routing;
mod set_up;
mod split;
mod streams;
mod upstream;
