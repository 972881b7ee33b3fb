//! Rates and quantiles of the last seconds, from the gateways' cumulative counts.

use crate::view::Latency;
use outrigger_wire::{DeploymentKey, GatewayId, GatewayReport, Histogram, RevisionId};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// How far back "the last seconds" reach.
const WINDOW: Duration = Duration::from_secs(5);
/// Samples that are kept: more than a window has at the pace at which they are taken.
const SAMPLES: usize = 64;
/// Between two samples.
const PACE: Duration = Duration::from_millis(200);

/// Cumulative counts of one revision.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    ended: u64,
    success: u64,
    failure: u64,
    duration: Histogram,
    first_token: Histogram,
}

impl Totals {
    fn add(&mut self, report: &outrigger_wire::RevisionReport) {
        for stratum in report.strata.values() {
            self.success += stratum.success;
            self.failure += stratum.failure;
            self.ended += stratum.success + stratum.failure + stratum.backpressure + stratum.cancelled;
            self.duration.add(&stratum.duration);
            self.first_token.add(&stratum.first_token);
        }
    }
}

/// What is shown of one revision's traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Reading {
    /// Requests per second.
    pub(crate) rate: f64,
    /// Failures as a share of what was answered; `None` before anything was.
    pub(crate) errors: Option<f64>,
    pub(crate) duration: Latency,
    pub(crate) first_token: Latency,
}

/// Keeps a few seconds of counts.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    samples: VecDeque<(Instant, BTreeMap<RevisionId, Totals>)>,
}

impl Meter {
    /// Takes in the newest reports, at most every [`PACE`].
    pub(crate) fn sample(
        &mut self,
        deployment: &DeploymentKey,
        reports: &BTreeMap<GatewayId, GatewayReport>,
        now: Instant,
    ) {
        if self.samples.back().is_some_and(|(at, _)| now.duration_since(*at) < PACE) {
            return;
        }
        let mut totals: BTreeMap<RevisionId, Totals> = BTreeMap::new();
        for report in reports.values().filter_map(|report| report.deployments.get(deployment)) {
            for (revision, counts) in &report.revisions {
                totals.entry(revision.clone()).or_default().add(counts);
            }
        }
        self.samples.push_back((now, totals));
        let old = |at: &Instant| now.duration_since(*at) > WINDOW;
        while self.samples.len() > SAMPLES || self.samples.front().is_some_and(|(at, _)| old(at)) {
            self.samples.pop_front();
        }
    }

    /// What is known of a revision's traffic.
    pub(crate) fn read(&self, revision: &RevisionId) -> Reading {
        let Some((last, newest)) = self.samples.back() else { return Reading::default() };
        let Some(now) = newest.get(revision) else { return Reading::default() };
        let (first, oldest) = self.samples.front().map_or((last, newest), |(at, totals)| (at, totals));
        let before = oldest.get(revision).cloned().unwrap_or_default();
        let seconds = last.duration_since(*first).as_secs_f64();
        // A gateway that started anew counts from zero: then all that it counted is new.
        let ended = now.ended.checked_sub(before.ended).unwrap_or(now.ended);
        let answered = now.success + now.failure;
        Reading {
            rate: if seconds > 0.0 { ended as f64 / seconds } else { 0.0 },
            errors: (answered > 0).then(|| now.failure as f64 / answered as f64),
            duration: latency(&now.duration.since(&before.duration)),
            first_token: latency(&now.first_token.since(&before.first_token)),
        }
    }
}

fn latency(histogram: &Histogram) -> Latency {
    let quantile = |q| histogram.quantile(q).map(Duration::from_micros);
    Latency { p50: quantile(0.5), p95: quantile(0.95) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_wire::{DeploymentReport, RevisionReport, Stratum, StratumReport};

    fn reports(success: u64, failure: u64) -> BTreeMap<GatewayId, GatewayReport> {
        let mut stratum = StratumReport { success, failure, ..Default::default() };
        (0..success).for_each(|_| stratum.duration.record(50_000));
        let revision = RevisionReport { strata: [(Stratum::Short, stratum)].into(), ..Default::default() };
        let deployment =
            DeploymentReport { revisions: [("r".into(), revision)].into(), ..Default::default() };
        let report = GatewayReport { deployments: [("d".into(), deployment)].into(), ..Default::default() };
        [("g".into(), report)].into()
    }

    #[test]
    fn reads_the_last_seconds() {
        let (mut meter, start) = (Meter::default(), Instant::now());
        assert_eq!(meter.read(&"r".into()), Reading::default());
        for second in 0..20 {
            meter.sample(&"d".into(), &reports(second * 9, second), start + Duration::from_secs(second));
        }
        let read = meter.read(&"r".into());
        assert!((read.rate - 10.0).abs() < 1e-9, "{read:?}");
        assert!((read.errors.unwrap() - 0.1).abs() < 1e-9, "{read:?}");
        let p50 = read.duration.p50.unwrap();
        assert!((43..57).contains(&p50.as_millis()), "{p50:?}");
        assert_eq!(read.first_token, Latency::default());
    }

    #[test]
    fn a_gateway_that_starts_anew_is_no_negative_rate() {
        let (mut meter, start) = (Meter::default(), Instant::now());
        meter.sample(&"d".into(), &reports(1000, 0), start);
        meter.sample(&"d".into(), &reports(8, 0), start + Duration::from_secs(2));
        assert!((meter.read(&"r".into()).rate - 4.0).abs() < 1e-9);
    }

    #[test]
    fn keeps_a_bounded_number_of_samples() {
        let (mut meter, start) = (Meter::default(), Instant::now());
        for i in 0..10_000u64 {
            meter.sample(&"d".into(), &reports(1, 0), start + Duration::from_millis(i));
        }
        assert!(meter.samples.len() <= SAMPLES);
    }
}
