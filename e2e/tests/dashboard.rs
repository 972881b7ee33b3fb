//! The *Canary* dashboard: Grafana's own types, what a person at three in the morning needs, and data for each target
//! of each panel from a real Prometheus that scraped a promoted and a rolled-back canary.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[path = "dashboard/data.rs"]
mod data;
#[path = "dashboard/panels.rs"]
mod panels;
#[path = "dashboard/prometheus.rs"]
mod prometheus;
#[path = "dashboard/types.rs"]
mod types;
