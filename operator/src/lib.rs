//! The operator: observes the cluster, plans, applies; serves the table to proxies; admits.
//!
//! ```text
//! watch ─► observe ─► World ─► plan ─► status, render ─► apply
//!                                 └─► table ─► gateways, sidecars ─► reports ─┐
//!            ▲────────────────────────────────────────────────────────────────┘
//! ```

pub mod apply;
pub mod check;
pub mod config;
pub mod controller;
pub mod events;
pub mod lease;
pub mod metrics;
pub mod names;
pub mod observe;
pub mod pod;
pub mod program;
pub mod render;
pub mod trust;
pub mod upgrade;
pub mod watch;
pub mod webhook;

pub use program::main_with;
