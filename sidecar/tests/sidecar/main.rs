//! A whole sidecar between real sockets: callers on one side, a small engine of the test's own on the other.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod admission;
mod batching;
mod budget;
mod client;
mod drain;
mod fake;
mod health;
mod hot;
mod pod;
mod sim;
mod table;
mod world;
