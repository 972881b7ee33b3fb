//! The analysis' constants, each with its unit and reason. The resource may set margins and the minimum of
//! requests; everything else stands here.

use outrigger_wire::{Percent, Period};

/// What the tests are asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Canary requests below which nothing passes and no step advances.
    pub min_requests: u64,
    /// Additional errors that are tolerated, in percentage points.
    pub errors_margin: Percent,
    /// Additional time to first token that is tolerated.
    pub first_token_margin: Percent,
    /// Wrong rollbacks for errors, per rollout.
    pub errors_alpha: f64,
    /// Wrong rollbacks for each latency metric, per rollout.
    pub latency_alpha: f64,
    /// How far back restarts count for health.
    pub health_window: Period,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            min_requests: 50,
            errors_margin: Percent::whole(2),
            first_token_margin: Percent::whole(25),
            errors_alpha: 0.03,
            latency_alpha: 0.0025,
            health_window: Period::secs(600),
        }
    }
}
