//! A latency's distribution in a bounded space: what the reasons' percentiles are read from.

use outrigger_wire::{Histogram, histogram};
use serde::{Deserialize, Serialize};

/// Entries that are kept: as many buckets while they suffice (two octaves: most deployments), then pairs of them,
/// then fours. With all of twelve octaves in use an entry is one octave wide.
const KEPT: usize = 15;
/// All buckets in one entry.
const COARSEST: u16 = 8;

/// Counts by bucket of `outrigger_wire::histogram`, 2^`level` neighbours put together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Coarse {
    level: u16,
    counts: Vec<(u16, u64)>,
}

impl Coarse {
    /// Adds what was counted.
    pub(crate) fn add(&mut self, histogram: &Histogram) {
        self.level = self.level.min(COARSEST);
        for (bucket, count) in histogram.buckets() {
            self.count(bucket.min(histogram::BUCKETS - 1) >> self.level, count);
            while self.counts.len() > KEPT && self.level < COARSEST {
                self.level += 1;
                for (place, count) in std::mem::take(&mut self.counts) {
                    self.count(place >> 1, count);
                }
            }
        }
    }

    fn count(&mut self, place: u16, count: u64) {
        match self.counts.binary_search_by_key(&place, |&(at, _)| at) {
            Ok(at) => {
                if let Some((_, sum)) = self.counts.get_mut(at) {
                    *sum = sum.saturating_add(count);
                }
            }
            Err(at) => self.counts.insert(at, (place, count)),
        }
    }

    /// The 90th percentile in milliseconds; `None` where nothing was counted.
    pub(crate) fn p90_millis(&self) -> Option<f64> {
        let total: f64 = self.counts.iter().map(|&(_, count)| count as f64).sum();
        let rank = 0.9 * total;
        let mut below = 0.0;
        for &(place, count) in &self.counts {
            let here = count as f64;
            if here > 0.0 && below + here >= rank {
                let within = ((rank - below) / here).clamp(0.0, 1.0);
                let (lower, upper) = self.bounds(place);
                return Some((lower as f64 + upper.saturating_sub(lower) as f64 * within) / 1e3);
            }
            below += here;
        }
        None
    }

    /// Microseconds between which an entry's values lie.
    fn bounds(&self, place: u16) -> (u64, u64) {
        let level = u32::from(self.level.min(COARSEST));
        let first = u32::from(place) << level;
        let last = first + (1 << level) - 1;
        let bound = |bucket: u32| histogram::upper_bound(u16::try_from(bucket).unwrap_or(u16::MAX));
        let lower = first.checked_sub(1).map_or(0, bound);
        // Above the last bucket there is no upper end: the lower one is what is known.
        let upper = bound(last);
        if upper == u64::MAX { (lower.min(1 << 30), lower.min(1 << 30)) } else { (lower, upper) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_percentile_survives_the_joining() {
        let rng = &mut fastrand::Rng::with_seed(1);
        // From 1 ms to 10 s, the fast ones more often: far more buckets than are kept.
        let values: Vec<f64> = (0..20_000).map(|_| 1_000.0 * 10f64.powf(4.0 * rng.f64().powi(2))).collect();
        let mut coarse = Coarse::default();
        for part in values.chunks(100) {
            let mut histogram = Histogram::default();
            part.iter().for_each(|micros| histogram.record(*micros as u64));
            coarse.add(&histogram);
        }
        assert!(coarse.counts.len() <= KEPT);
        assert_eq!(coarse.counts.iter().map(|(_, count)| count).sum::<u64>(), 20_000);
        let found = coarse.p90_millis().unwrap() * 1e3;
        let rank = values.iter().filter(|value| **value <= found).count() as f64 / 20_000.0;
        assert!((0.87..0.93).contains(&rank), "{found} is at {rank}");
    }

    #[test]
    fn a_usual_latency_is_known_to_an_eighth() {
        let mut histogram = Histogram::default();
        (0..1000).for_each(|n| histogram.record(40_000 + n * 20));
        let mut coarse = Coarse::default();
        coarse.add(&histogram);
        let found = coarse.p90_millis().unwrap();
        assert!((found - 58.0).abs() < 58.0 / 8.0, "{found}");
        assert_eq!(Coarse::default().p90_millis(), None);
    }

    #[test]
    fn what_is_off_the_scale_has_a_finite_percentile() {
        let mut histogram = Histogram::default();
        histogram.record(u64::MAX);
        let mut coarse = Coarse::default();
        coarse.add(&histogram);
        assert!(coarse.p90_millis().is_some_and(|ms| ms.is_finite() && ms > 1e6));
    }
}
