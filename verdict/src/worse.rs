//! Is the canary worse? A mixture of likelihood ratios on the canary's share of events.
//!
//! Were both revisions alike, an event (a failure, a slow answer) would belong to the canary with a probability
//! that is its share of the trials; were the canary's odds θ times stable's, with a larger one. The ratio of the two
//! likelihoods, averaged over sixteen θ, is an e-process: its mean is at most one while the revisions are alike, so
//! it reaches 1/α with a probability of at most α, however often one looks. Each delta is judged by its own trials,
//! so shares may change from one to the next; within a delta the number of the canary's events given all events is
//! hypergeometric, which is less dispersed than the binomial that is assumed (Hoeffding 1963), so the mean stays
//! below one.
//!
//! Events that come in bursts are not independent. Refractory counting (`outrigger_wire::gaps`) mends that: the
//! sums are kept for every gap, and the gap that is judged by is chosen from stable's events alone.

use outrigger_wire::{GAPS, GapCounts};
use serde::{Deserialize, Deserializer, Serialize};

/// Alternatives of the mixture: enough that the nearest is never far, few enough for the status.
const THETAS: usize = 16;
/// The smallest and the largest ratio of odds in the mixture. A smaller one takes hours to tell from none; above
/// the larger one the evidence grows no faster in practice.
const ODDS: (f64, f64) = (1.5, 20.0);
/// No sum falls below this (natural logarithm), so that a canary that was well for hours and then breaks is found
/// about as fast as a new one. Each store may thereby add e⁻¹⁶ to the mean: 0.1 % of α in a day of stores
/// every 10 s.
const FLOOR: f64 = -16.0;
/// None rises above this either: far above any bound, and short as text.
const CEILING: f64 = 9999.0;

/// Logarithms of the likelihood ratios, for each gap and θ, to four decimals: in full precision they would not fit
/// into the status, and what is lost (5·10⁻⁵ at each of some hundred stores) moves no verdict.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Worse(#[serde(deserialize_with = "of_this_shape")] [[f32; THETAS]; GAPS.len()]);

/// Sums of another shape were written by another version: they count as none, and the evidence begins anew.
fn of_this_shape<'de, D: Deserializer<'de>>(from: D) -> Result<[[f32; THETAS]; GAPS.len()], D::Error> {
    let rows = Vec::<Vec<f32>>::deserialize(from)?;
    let rows: Option<Vec<[f32; THETAS]>> = rows.into_iter().map(|row| row.try_into().ok()).collect();
    Ok(rows.and_then(|rows| rows.try_into().ok()).unwrap_or_default())
}

impl Worse {
    /// Takes in what was counted of one stratum.
    pub(crate) fn take(&mut self, canary: &GapCounts, stable: &GapCounts) {
        let odds = odds();
        for (index, sums) in self.0.iter_mut().enumerate() {
            let (Some(canary), Some(stable)) = (AtRisk::of(canary, index), AtRisk::of(stable, index)) else {
                continue;
            };
            let events = canary.events + stable.events;
            if canary.trials <= 0.0 || stable.trials <= 0.0 || events <= 0.0 {
                continue;
            }
            let share = canary.trials / (canary.trials + stable.trials);
            for (sum, (log_theta, theta)) in sums.iter_mut().zip(odds) {
                let ratio = canary.events * log_theta - events * (share * (theta - 1.0)).ln_1p();
                *sum = bounded(f64::from(*sum) + ratio, FLOOR);
            }
        }
    }

    /// The natural logarithm of the e-value for this gap.
    pub(crate) fn evidence(&self, gap: usize) -> f64 {
        self.0.get(gap).map_or(0.0, |sums| log_mean(sums.iter().map(|&sum| f64::from(sum))))
    }
}

/// Events and trials at risk of one arm within one delta, for one gap.
struct AtRisk {
    events: f64,
    trials: f64,
}

impl AtRisk {
    /// A trial that rests after an event of this very delta counts as one at risk: whether it rests is what the
    /// event decided, and the share must not depend on who had the event.
    fn of(counts: &GapCounts, index: usize) -> Option<Self> {
        let (&events, &trials) = (counts.events.get(index)?, counts.trials.get(index)?);
        let rested = u64::from(*GAPS.get(index)?).saturating_mul(events);
        let all = counts.trials.first()?.max(&trials);
        let at_risk = trials.saturating_add(rested).min(*all);
        Some(Self { events: events.min(at_risk) as f64, trials: at_risk as f64 })
    }
}

/// A sum as it is stored.
pub(crate) fn bounded(sum: f64, floor: f64) -> f32 {
    ((sum.clamp(floor, CEILING) * 1e4).round() / 1e4) as f32
}

/// The ratios of odds, evenly spaced in the logarithm: ln θ and θ.
fn odds() -> [(f64, f64); THETAS] {
    let (least, most) = (ODDS.0.ln(), ODDS.1.ln());
    std::array::from_fn(|i| {
        let log = least + (most - least) * i as f64 / (THETAS - 1) as f64;
        (log, log.exp())
    })
}

/// The logarithm of the mean of numbers that are given by their logarithms.
pub(crate) fn log_mean(logs: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest = logs.clone().fold(f64::NEG_INFINITY, f64::max);
    if !largest.is_finite() {
        return 0.0;
    }
    let (sum, count) = logs.fold((0.0, 0.0), |(sum, n), log| (sum + (log - largest).exp(), n + 1.0));
    largest + (sum / count).ln()
}

/// Index of the smallest gap whose hazard in `stable` is within `ratio` of that of the largest: the plateau beyond
/// which bursts no longer show. The largest, while stable had fewer than `min_events` events.
pub(crate) fn plateau(stable: &GapCounts, ratio: f64, min_events: u64) -> usize {
    let last = GAPS.len() - 1;
    if stable.events.last().copied().unwrap_or(0) < min_events {
        return last;
    }
    let top = hazard(stable, last);
    (0..last).find(|&index| hazard(stable, index) <= ratio * top).unwrap_or(last)
}

/// Events per trial at risk, for the gap with this index.
pub(crate) fn hazard(counts: &GapCounts, index: usize) -> f64 {
    match (counts.events.get(index), counts.trials.get(index)) {
        (Some(&events), Some(&trials)) if trials > 0 => events as f64 / trials as f64,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_wire::GapCounter;

    fn counts(events: u64, trials: u64) -> GapCounts {
        GapCounts { events: [events; GAPS.len()], trials: [trials; GAPS.len()] }
    }

    /// How likely it is that of `k` events among `n + m` requests, all alike, so many fall on the first `n`.
    fn hypergeometric(n: u64, m: u64, k: u64) -> Vec<f64> {
        let choose = |n: u64, k: u64| (0..k).map(|i| (n - i) as f64 / (i + 1) as f64).product::<f64>();
        (0..=k.min(n))
            .map(|j| if k - j > m { 0.0 } else { choose(n, j) * choose(m, k - j) / choose(n + m, k) })
            .collect()
    }

    #[test]
    fn the_mean_is_at_most_one_where_the_arms_are_alike() {
        for (canary, stable, events) in
            [(3, 47, 2), (5, 5, 4), (30, 20, 10), (1, 99, 1), (10, 10, 20), (2, 8, 5)]
        {
            let mut mean = 0.0;
            for (of_canary, p) in hypergeometric(canary, stable, events).into_iter().enumerate() {
                let mut worse = Worse::default();
                worse.take(&counts(of_canary as u64, canary), &counts(events - of_canary as u64, stable));
                mean += p * worse.evidence(0).exp();
            }
            assert!(mean <= 1.0001 && mean > 0.05, "{mean} for {canary} {stable} {events}");
        }
    }

    #[test]
    fn evidence_grows_with_a_worse_canary_and_falls_with_a_better_one() {
        let evidence = |canary, stable| {
            let mut worse = Worse::default();
            (0..10).for_each(|_| worse.take(&counts(canary, 50), &counts(stable, 50)));
            worse.evidence(0)
        };
        assert!(evidence(3, 1) > 2.0 && evidence(6, 1) > evidence(3, 1));
        assert!(evidence(1, 1) < 0.5 && evidence(0, 2) < -2.0);
    }

    #[test]
    fn after_hours_of_good_conduct_a_bad_turn_is_found_about_as_fast() {
        let turns = |before: u32| {
            let mut worse = Worse::default();
            (0..before).for_each(|_| worse.take(&counts(0, 5), &counts(1, 95)));
            (1..).find(|_| {
                worse.take(&counts(1, 5), &counts(1, 95));
                worse.evidence(0) > 5.0
            })
        };
        let (fresh, late) = (turns(0).unwrap(), turns(10_000).unwrap());
        assert!(late < fresh * 6, "{late} instead of {fresh}");
    }

    #[test]
    fn the_gap_covers_the_bursts_of_stable() {
        let gap = |burst: u32, requests: u32| {
            let mut counter = GapCounter::default();
            (0..requests).for_each(|n| counter.record(n % (100 * burst) < burst));
            GAPS[plateau(&counter.counts(), 1.4, 6)]
        };
        assert_eq!(gap(1, 10_000), 0);
        assert_eq!(gap(3, 10_000), 2);
        assert_eq!(gap(5, 10_000), 5);
        assert_eq!(gap(15, 30_000), 20);
        assert_eq!(gap(1, 500), 20, "too few events to tell");
    }

    #[test]
    fn a_rest_within_a_delta_does_not_shrink_the_share() {
        // The canary's only failure makes its other two requests of this delta rest.
        let mut counter = GapCounter::default();
        [true, false, false].into_iter().for_each(|event| counter.record(event));
        let at_risk = AtRisk::of(&counter.counts(), GAPS.len() - 1).unwrap();
        assert_eq!((at_risk.events, at_risk.trials), (1.0, 3.0));
        // Those that rest after an earlier delta's failure are no trials.
        let before = counter.counts();
        [false, false].into_iter().for_each(|event| counter.record(event));
        assert_eq!(AtRisk::of(&counter.counts().since(&before), GAPS.len() - 1).unwrap().trials, 0.0);
    }
}
