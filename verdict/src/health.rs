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

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(facts: Health) -> MetricVerdict {
        health(&facts, &Settings::default())
    }

    /// proves R.17
    #[test]
    fn repeated_restarts_fail_a_canary_while_stable_runs() {
        let well = Health { ready: 2, wanted: 2, ..Health::default() };
        let restarts = |canary, stable| {
            judged(Health { canary_restarts: canary, stable_restarts: stable, ..well.clone() })
        };
        assert_eq!(restarts(0, 0).verdict, Verdict::Pass);
        assert_eq!(restarts(1, 0).verdict, Verdict::Pass, "a single restart isn't the revision's fault");
        assert_eq!(restarts(2, 0).verdict, Verdict::Pass);
        assert_eq!(restarts(3, 0).verdict, Verdict::Fail);
        assert_eq!(restarts(9, 1).verdict, Verdict::Pass, "stable's restart too: a node's fault");
        assert_eq!(
            restarts(3, 0).reason,
            "engines of the canary restarted 3 times within 10m, stable's did not"
        );
        assert_eq!(
            restarts(1, 0).reason,
            "2 of 2 canary replicas are ready; engine restarts within 10m: 1 of the canary, 0 of stable"
        );
        assert_eq!((restarts(3, 1).canary, restarts(3, 1).stable), (Some(3.0), Some(1.0)));
    }

    /// proves R.17
    #[test]
    fn a_failed_warm_up_or_a_passed_deadline_fails_whatever_else_is_so() {
        let facts = Health { ready: 2, wanted: 2, failed: Some("warm-up: 500".into()), ..Health::default() };
        let verdict = judged(facts);
        assert_eq!(
            (verdict.verdict, verdict.reason.as_str()),
            (Verdict::Fail, "the canary failed: warm-up: 500")
        );
    }

    #[test]
    fn what_is_not_ready_yet_is_undecided() {
        let of = |ready, wanted| judged(Health { ready, wanted, ..Health::default() });
        assert_eq!(of(0, 2).verdict, Verdict::Undecided { samples: 0, needed: 2, eta: None });
        assert!(!of(0, 2).enough && of(1, 2).enough);
        assert_eq!(of(1, 2).reason, "1 of 2 canary replicas are ready");
        assert_eq!(of(3, 2).verdict, Verdict::Pass);
        assert_eq!(of(0, 0).verdict, Verdict::NoData);
    }
}
