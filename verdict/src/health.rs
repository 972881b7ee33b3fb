//! The canary's health: warm-up, progress, restarts.

use crate::{Metric, MetricVerdict, Settings, Verdict};

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

/// Health is an analysis of its own: Fail when warm-up failed, when there is no progress by the deadline, or when
/// canary replicas restarted at least three times within the window while stable's did not. The verdict's values
/// are restarts; there is no e-value, so evidence and bound are zero.
pub fn health(facts: &Health, settings: &Settings) -> MetricVerdict {
    let (verdict, reason) = judge(facts, settings);
    MetricVerdict {
        metric: Metric::Health,
        verdict,
        canary: Some(f64::from(facts.canary_restarts)),
        stable: Some(f64::from(facts.stable_restarts)),
        evidence: 0.0,
        bound: 0.0,
        excluded: 0.0,
        enough: facts.ready > 0,
        reason,
    }
}

fn judge(facts: &Health, settings: &Settings) -> (Verdict, String) {
    let (ready, wanted) = (facts.ready, facts.wanted);
    if let Some(why) = &facts.failed {
        return (Verdict::Fail, format!("the canary failed: {why}"));
    }
    let window = settings.health_window;
    if facts.canary_restarts >= settings.restarts && facts.stable_restarts == 0 {
        let times = facts.canary_restarts;
        return (
            Verdict::Fail,
            format!("engines of the canary restarted {times} times within {window}, stable's did not"),
        );
    }
    let restarts = match (facts.canary_restarts, facts.stable_restarts) {
        (0, 0) => String::new(),
        (canary, stable) => {
            format!("; engine restarts within {window}: {canary} of the canary, {stable} of stable")
        }
    };
    if wanted == 0 {
        return (Verdict::NoData, format!("no replica of the canary is wanted yet{restarts}"));
    }
    let counted = format!("{ready} of {wanted} canary replicas are ready{restarts}");
    if ready >= wanted {
        return (Verdict::Pass, counted);
    }
    (Verdict::Undecided { samples: u64::from(ready), needed: u64::from(wanted), eta: None }, counted)
}
