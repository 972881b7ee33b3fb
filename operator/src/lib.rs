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
pub mod events;
pub mod lease;
pub mod metrics;
pub mod names;
pub mod observe;
pub mod pod;
pub mod render;
pub mod watch;
