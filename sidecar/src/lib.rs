//! The sidecar: stands beside one inference engine and keeps it upright.
//!
//! Requests wait in a bounded queue and are merged where that is safe; the engine is judged by its progress, warmed
//! up before it is called ready, and restarted when it is stuck; a drain finishes what is in flight.
//!
//! ```text
//!  table ─► control thread ─ orders ─► data thread   stack: ready? ─ mergeable? ─ queue ─ engine ─ load
//!             │  ▲    ▲                  │
//!             │  └────┼──── gauges ◄─────┘
//!             ▼       └ helper's socket, admin port
//!          engine: held connection, warm-up, counters
//! ```
//!
//! What is decided (queue, batches, health) lives in `outrigger-decide`, how bytes move in `outrigger-dataplane`;
//! here is the order.

mod batches;
pub mod config;
mod engine;
mod flight;
mod heal;
mod helper;
mod ledger;
mod metrics;
mod orca;
mod program;
mod queue;
mod reports;
mod shared;
mod socket;
mod stack;
mod upstream;

pub use program::{Sidecar, main_with};
