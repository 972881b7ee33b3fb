//! The chart, with real helm: what it renders, what it refuses, and its life on a real cluster.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[path = "chart/alerts.rs"]
mod alerts;
#[path = "chart/life.rs"]
mod life;
#[path = "chart/render.rs"]
mod render;
#[path = "chart/rights.rs"]
mod rights;
#[path = "chart/set_up.rs"]
mod set_up;
#[path = "chart/values.rs"]
mod values;
