//! The gateway: the front door of every model.
//!
//! It finds the model that a request asks for, assigns the caller to the stable or the canary revision, picks the
//! less loaded of two replicas, sends the request there and, where that is safe, to another one. What happened it
//! counts, judges with a breaker of its own and reports.
//!
//! ```text
//!  table ─► control thread ─► Snapshot ─► data threads (one per core, each with its own listener)
//!             ▲                              │  stack: admit ─ ask ─ intake ─ route ─ side ─ replica ─ retry
//!             └── ledger ◄── records ◄───────┘
//! ```
//!
//! What is decided lives in `outrigger-decide`, how bytes move in `outrigger-dataplane`; here is the order.

mod attempt;
pub mod config;
mod control;
mod intake;
mod ledger;
mod metrics;
mod own;
mod program;
mod record;
mod send;
mod snapshot;
mod stack;
mod thread;

pub use program::{Gateway, main_with};
