//! The stream between planner and proxies, both ends: routes and hot fields out, acknowledgements and reports
//! back. No Kubernetes, so that `outrigger up` uses it too. The protocol's types are `outrigger_wire::stream`'s.
//!
//! Nothing here queues: a subscriber is behind by what it has not yet read, and is told the newest value of each
//! key when it does; of each proxy's reports only the newest is kept, for they are cumulative.

mod bounds;
pub mod client;
mod disk;
pub mod door;
pub mod forwarder;
pub mod identity;
mod inbox;
mod lines;
mod post;
pub mod server;
mod state;
pub mod tls;
mod wallet;

pub use client::{Client, ClientConfig, Table};
pub use door::{Authority, Door, Refused};
pub use forwarder::Forwarder;
pub use identity::Identity;
pub use server::{Reports, Server};
pub use wallet::ClientTls;
