//! The tests.

use crate::{Delta, MetricVerdict, Settings, Verdicts};
use serde::{Deserialize, Serialize};

/// The tests' sums since the canary began: at most 4 KiB as JSON, stored in the status.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct State {}

/// What the canary's replicas went through, for the health analysis.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Health {
    /// Engine restarts of canary replicas within the window.
    pub canary_restarts: u32,
    /// Engine restarts of stable replicas within the window.
    pub stable_restarts: u32,
    /// Canary replicas that are ready and warmed.
    pub ready: u32,
    /// Canary replicas that there should be.
    pub wanted: u32,
    /// Why a canary replica's warm-up failed for good, or that the progress deadline has passed.
    pub failed: Option<String>,
}

/// Takes in what was counted since `state` was stored.
pub fn step(state: &State, _delta: &Delta, _settings: &Settings) -> (State, Verdicts) {
    (state.clone(), Verdicts::default())
}

/// Health is an analysis of its own: Fail when warm-up failed, when there is no progress by the deadline, or when
/// canary replicas restarted at least three times within the window while stable's did not.
pub fn health(_facts: &Health, _settings: &Settings) -> MetricVerdict {
    MetricVerdict {
        metric: crate::Metric::Health,
        verdict: crate::Verdict::NoData,
        canary: None,
        stable: None,
        evidence: 0.0,
        bound: 0.0,
        excluded: 0.0,
        enough: false,
        reason: String::new(),
    }
}
