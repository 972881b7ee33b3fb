//! The operator: observes the cluster, plans, applies; serves the table to proxies; admits.
//!
//! ```text
//! watch ─► observe ─► World ─► plan ─► status, render ─► apply
//!                                 └─► table ─► gateways, sidecars ─► reports ─┐
//!            ▲────────────────────────────────────────────────────────────────┘
//! ```

pub mod names;
pub mod pod;
pub mod render;
