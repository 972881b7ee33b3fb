//! Is degradation beyond the margin excluded? A bet against it.
//!
//! The hypothesis to be excluded is that the canary's share of events is at least another one plus a margin:
//! p_c ≥ p_s + δ, both unknown. For a guess (θ_c, θ_s) outside of that set, let (a + δ, a) be the point of the set
//! that is nearest to the guess (least Kullback-Leibler divergence, weighted by each arm's requests). The
//! likelihood ratio of the guess to that point has a mean of at most one under *every* point of the set, because
//! the set is convex: the logarithm of that mean is concave in (p_c, p_s), zero at the nearest point, and there
//! falls in every direction into the set, which is what being nearest means (Turner and Grünwald 2022, "Exact
//! anytime-valid confidence intervals for contingency tables and beyond"). So the product over deltas is an
//! e-process as long as guesses come from earlier deltas alone, and averaging several guesses keeps it one.
//!
//! All requests count here (gap 0): a share of requests is to be bounded, which thinned counts don't show. Where
//! events come in bursts, the logarithm is divided by the mean size of a burst: for groups of up to B requests,
//! however dependent within, the B-th root of the product has a mean of at most one (Hölder).

use crate::worse::{bounded, hazard, log_mean};
use outrigger_wire::{GAPS, GapCounts};
use serde::{Deserialize, Deserializer, Serialize};

/// Guesses that a bet is spread over.
const GUESSES: usize = 4;
/// As in [`crate::worse`]: no sum falls below, so that a poor start doesn't keep a canary from passing for hours. Each
/// store may add e⁻¹² to the mean: 5 % of α in a day of stores every 10 s.
const FLOOR: f64 = -12.0;
/// A hazard that falls by less than this from gap 0 to the largest is noise, not bursts.
const NO_BURSTS: f64 = 1.2;
/// Bursts of both arms together from which their size is judged.
const SOME_BURSTS: u64 = 3;

/// Logarithms of the bets' wealth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Bet(#[serde(deserialize_with = "of_this_shape")] [f32; GUESSES]);

/// A bet of another shape was written by another version: it counts as none.
fn of_this_shape<'de, D: Deserializer<'de>>(from: D) -> Result<[f32; GUESSES], D::Error> {
    Ok(Vec::<f32>::deserialize(from)?.try_into().unwrap_or_default())
}

/// Events among requests.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Share {
    pub(crate) events: f64,
    pub(crate) trials: f64,
}

impl Share {
    /// All requests of these counts: gap 0.
    pub(crate) fn of(counts: &GapCounts) -> Self {
        let (events, trials) = (counts.events.first().copied(), counts.trials.first().copied());
        let trials = trials.unwrap_or(0);
        Self { events: events.unwrap_or(0).min(trials) as f64, trials: trials as f64 }
    }

    /// The share; `None` of nothing.
    pub(crate) fn value(self) -> Option<f64> {
        (self.trials > 0.0).then(|| self.events / self.trials)
    }
}

impl Bet {
    /// Takes in what came of the canary and of whom it is compared with. `guesses` are pairs (θ_c, θ_s), made
    /// before these counts were seen.
    pub(crate) fn take(&mut self, canary: Share, other: Share, margin: f64, guesses: [(f64, f64); GUESSES]) {
        if canary.trials <= 0.0 {
            return;
        }
        for (wealth, (guess_canary, guess_other)) in self.0.iter_mut().zip(guesses) {
            let nearest = nearest(guess_canary, guess_other, canary.trials, other.trials, margin);
            let ratio =
                log_ratio(canary, guess_canary, nearest + margin) + log_ratio(other, guess_other, nearest);
            *wealth = bounded(f64::from(*wealth) + ratio, FLOOR);
        }
    }

    /// Takes in what came of the canary, against a fixed share instead of another arm.
    pub(crate) fn take_fixed(&mut self, canary: Share, bound: f64, guesses: [f64; GUESSES]) {
        for (wealth, guess) in self.0.iter_mut().zip(guesses) {
            *wealth = bounded(f64::from(*wealth) + log_ratio(canary, guess, bound), FLOOR);
        }
    }

    /// The natural logarithm of the e-value, where events come in bursts of `burst` on average.
    pub(crate) fn evidence(&self, burst: f64) -> f64 {
        log_mean(self.0.iter().map(|&wealth| f64::from(wealth) / burst.max(1.0)))
    }
}

/// log of the likelihood of `guess` over that of `at`. Both lie strictly between 0 and 1.
fn log_ratio(seen: Share, guess: f64, at: f64) -> f64 {
    let part = |count: f64, ratio: f64| if count > 0.0 { count * ratio.ln() } else { 0.0 };
    part(seen.events, guess / at) + part(seen.trials - seen.events, (1.0 - guess) / (1.0 - at))
}

/// The a for which (a + margin, a) is nearest to the guess.
fn nearest(canary: f64, other: f64, canary_trials: f64, other_trials: f64, margin: f64) -> f64 {
    if other_trials <= 0.0 {
        return (canary - margin).max(0.0);
    }
    // The divergence's derivative grows with a, so halving finds its root; what is left after 32 halvings is 2e-10.
    let slope = |at: f64, guess: f64, trials: f64| trials * (at - guess) / (at * (1.0 - at));
    let (mut low, mut high) = (0.0, 1.0 - margin);
    for _ in 0..32 {
        let middle = 0.5 * (low + high);
        if slope(middle + margin, canary, canary_trials) + slope(middle, other, other_trials) > 0.0 {
            high = middle;
        } else {
            low = middle;
        }
    }
    0.5 * (low + high)
}

/// The mean size of a burst of events, from how far the hazard falls from gap 0 to the largest gap: the canary's
/// own, or that of both arms together once some were seen. 1 where there are none. A single burst of stable's, such
/// as an engine's restart makes, is no habit; of the canary's it may be the beginning of one.
pub(crate) fn burst(canary: &GapCounts, stable: &GapCounts) -> f64 {
    let size = |counts: &GapCounts, least: u64| {
        let (bursts, thinned) = (counts.events.last().copied().unwrap_or(0), hazard(counts, GAPS.len() - 1));
        let ratio = if thinned > 0.0 && bursts >= least { hazard(counts, 0) / thinned } else { 1.0 };
        if ratio < NO_BURSTS { 1.0 } else { ratio }
    };
    let mut both = *canary;
    both.add(stable);
    size(&both, SOME_BURSTS).max(size(canary, 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GUESS: [f64; GUESSES] = [0.01, 0.015, 0.02, 0.08];

    fn binomial(n: u32, p: f64) -> Vec<f64> {
        let mut terms = vec![(1.0 - p).powi(n as i32)];
        for k in 1..=n {
            terms.push(terms[k as usize - 1] * f64::from(n - k + 1) / f64::from(k) * p / (1.0 - p));
        }
        terms
    }

    /// The exact mean of a bet's factor, where the shares are these.
    fn mean(canary: (u32, f64), stable: (u32, f64), margin: f64, guesses: [(f64, f64); GUESSES]) -> f64 {
        let of_stable = binomial(stable.0, stable.1);
        let mut sum = 0.0;
        for (k, p) in binomial(canary.0, canary.1).into_iter().enumerate() {
            for (j, q) in of_stable.iter().enumerate() {
                let mut bet = Bet::default();
                let share =
                    |events: usize, trials| Share { events: events as f64, trials: f64::from(trials) };
                bet.take(share(k, canary.0), share(j, stable.0), margin, guesses);
                sum += p * q * bet.evidence(1.0).exp();
            }
        }
        sum
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn the_mean_is_at_most_one_wherever_the_margin_is_exceeded(
            canary_trials in 1u32..25, stable_trials in 0u32..40, p_stable in 0.001f64..0.6, margin in 0.0f64..0.2,
            beyond in 0.0f64..0.15, expected in 0.001f64..0.3,
        ) {
            let p_canary = (p_stable + margin + beyond).min(0.999);
            let guesses = [0.05, 0.3, 0.6, 0.9].map(|part| (part * expected + margin * part, expected));
            let mean = mean((canary_trials, p_canary), (stable_trials, p_stable), margin, guesses);
            // Sums are rounded to four decimals.
            prop_assert!(mean <= 1.0005, "{mean}");
        }
    }

    #[test]
    fn the_mean_is_one_at_the_bound_itself() {
        // Not merely small everywhere: at the nearest point the bet is fair.
        let one = mean((20, 0.02), (0, 0.5), 0.02, [0.005, 0.01, 0.015, 0.019].map(|guess| (guess, 0.01)));
        assert!((one - 1.0).abs() < 0.001, "{one}");
    }

    #[test]
    fn a_fixed_bound_is_bet_against_fairly() {
        let mean = |p: f64| -> f64 {
            let terms = binomial(30, p).into_iter().enumerate();
            let factor = |k: usize| {
                let mut bet = Bet::default();
                bet.take_fixed(Share { events: k as f64, trials: 30.0 }, 0.1, GUESS);
                bet.evidence(1.0).exp()
            };
            terms.map(|(k, p)| p * factor(k)).sum()
        };
        assert!((mean(0.1) - 1.0).abs() < 1e-3, "{}", mean(0.1));
        assert!(mean(0.2) < 0.5 && mean(0.02) > 2.0, "{} {}", mean(0.2), mean(0.02));
    }

    #[test]
    fn bursts_are_measured() {
        let counts = |burst: u32| {
            let mut counter = outrigger_wire::GapCounter::default();
            (0..100_000u32).for_each(|n| counter.record(n % (100 * burst) < burst));
            counter.counts()
        };
        let none = GapCounts::default();
        for size in [1, 2, 5] {
            let found = burst(&none, &counts(size));
            assert!((found - f64::from(size)).abs() < 0.5, "{found} for {size}");
        }
        assert!(burst(&counts(5), &counts(1)) > 4.0, "the canary's own bursts count");
        assert_eq!(burst(&none, &none), 1.0);
    }
}
