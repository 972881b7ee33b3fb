//! Events and trials at risk for each refractory gap: what a sequential test needs to bear bursts.
//!
//! After a counted event the next `gap` requests of that arm are neither trials nor events, so that a burst no
//! longer than the gap is one event. Which gap is needed shows only in the counts themselves, so all of them are
//! counted, where the requests pass. Independent events have the same hazard (events per trial) at every gap.

use serde::{Deserialize, Serialize};

/// The gaps that are counted, in requests. Twenty is four times the burst that a single engine hiccup makes.
pub const GAPS: [u32; 5] = [0, 2, 5, 10, 20];

/// Cumulative events and trials at risk, one of each for every gap in [`GAPS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GapCounts {
    /// Events that were counted.
    pub events: [u64; GAPS.len()],
    /// Requests that could have been an event.
    pub trials: [u64; GAPS.len()],
}

impl GapCounts {
    /// What came since `earlier`, or everything when a counter ran backwards (another incarnation).
    pub fn since(&self, earlier: &Self) -> Self {
        let pairs = self.events.iter().zip(&earlier.events).chain(self.trials.iter().zip(&earlier.trials));
        if pairs.into_iter().any(|(now, before)| now < before) {
            return *self;
        }
        let minus = |now: &[u64; GAPS.len()], before: &[u64; GAPS.len()]| {
            let mut out = *now;
            out.iter_mut().zip(before).for_each(|(n, b)| *n -= b);
            out
        };
        Self { events: minus(&self.events, &earlier.events), trials: minus(&self.trials, &earlier.trials) }
    }

    /// Adds `other`.
    pub fn add(&mut self, other: &Self) {
        self.events.iter_mut().zip(&other.events).for_each(|(sum, n)| *sum = sum.saturating_add(*n));
        self.trials.iter_mut().zip(&other.trials).for_each(|(sum, n)| *sum = sum.saturating_add(*n));
    }
}

/// Counts the requests of one arm as they end.
#[derive(Clone, Debug, Default)]
pub struct GapCounter {
    counts: GapCounts,
    /// Requests still to be passed over, for each gap.
    resting: [u32; GAPS.len()],
}

impl GapCounter {
    /// One request of this arm ended; `event` says whether it was one (a failure, a slow answer).
    #[inline]
    pub fn record(&mut self, event: bool) {
        let counts = self.counts.events.iter_mut().zip(&mut self.counts.trials);
        for (((events, trials), resting), gap) in counts.zip(&mut self.resting).zip(GAPS) {
            if *resting > 0 {
                *resting -= 1;
                continue;
            }
            *trials += 1;
            if event {
                *events += 1;
                *resting = gap;
            }
        }
    }

    /// The counts so far.
    pub fn counts(&self) -> GapCounts {
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_one_event_for_gaps_that_cover_it() {
        let mut counter = GapCounter::default();
        for i in 0..100 {
            counter.record((50..55).contains(&i));
        }
        assert_eq!(counter.counts().events, [5, 2, 1, 1, 1]);
        assert_eq!(counter.counts().trials, [100, 96, 95, 90, 80]);
    }

    #[test]
    fn a_restarted_counter_starts_over() {
        let of = |n| GapCounts { events: [n; 5], trials: [n * 10; 5] };
        assert_eq!(of(7).since(&of(5)), of(2));
        assert_eq!(of(3).since(&of(5)), of(3));
    }
}
