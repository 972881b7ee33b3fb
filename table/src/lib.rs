//! The stream between planner and proxies, both ends: routes and hot fields out, acknowledgements and reports
//! back. No Kubernetes, so that `outrigger up` uses it too. The protocol's types are `outrigger_wire::stream`'s.

pub mod client;
pub mod server;

pub use client::{Client, ClientConfig, Table};
pub use server::Server;
