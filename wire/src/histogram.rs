//! Log-linear histograms of microseconds with bounds that never change, so that reports of any version add up.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Each power of two is cut into this many equal buckets: a value is known to within 12.5 %.
const PARTS: u64 = 8;
/// 2^6 µs = 64 µs: nothing that an engine answers is faster, so everything below shares the first bucket.
const FIRST_EXPONENT: u32 = 6;
/// 2^30 µs = 18 min: everything above shares the last bucket.
const LAST_EXPONENT: u32 = 30;
/// How many buckets there are: one below, the ladder, one above.
pub const BUCKETS: u16 = ((LAST_EXPONENT - FIRST_EXPONENT) as u16) * (PARTS as u16) + 2;

/// The bucket of a value in microseconds.
#[inline]
pub fn bucket(micros: u64) -> u16 {
    if micros < 1 << FIRST_EXPONENT {
        return 0;
    }
    let exponent = micros.ilog2();
    if exponent >= LAST_EXPONENT {
        return BUCKETS - 1;
    }
    // Within [2^e, 2^(e+1)) the part is (value - 2^e) / 2^(e-3): eight parts need three bits.
    let part = (micros - (1 << exponent)) >> (exponent - PARTS.ilog2());
    (u64::from(exponent - FIRST_EXPONENT) * PARTS + part) as u16 + 1
}

/// The smallest value in microseconds that is above everything in this bucket.
pub fn upper_bound(bucket: u16) -> u64 {
    if bucket == 0 {
        return 1 << FIRST_EXPONENT;
    }
    if bucket >= BUCKETS - 1 {
        return u64::MAX;
    }
    let place = u64::from(bucket - 1);
    let exponent = (place / PARTS) as u32 + FIRST_EXPONENT;
    (1u64 << exponent) + ((place % PARTS + 1) << (exponent - PARTS.ilog2()))
}

/// Counts per bucket, sparse: most latencies of one deployment fall into a dozen buckets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Histogram {
    counts: BTreeMap<u16, u64>,
}

impl Histogram {
    /// Counts one value.
    #[inline]
    pub fn record(&mut self, micros: u64) {
        *self.counts.entry(bucket(micros)).or_default() += 1;
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.counts.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The buckets that anything was counted in, lowest first, with their counts.
    pub fn buckets(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        self.counts.iter().map(|(&bucket, &count)| (bucket, count))
    }

    /// The value below which a share `q` of what was counted lies, in microseconds, interpolated within its bucket;
    /// `None` when nothing was counted.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let total = self.count();
        if total == 0 {
            return None;
        }
        let rank = q.clamp(0.0, 1.0) * total as f64;
        let mut below = 0.0;
        for (&index, &count) in &self.counts {
            let here = count as f64;
            if below + here >= rank {
                let lower = if index == 0 { 0 } else { upper_bound(index - 1) };
                let upper = upper_bound(index).min(1 << LAST_EXPONENT);
                let share = ((rank - below) / here).clamp(0.0, 1.0);
                return Some(lower + (upper.saturating_sub(lower) as f64 * share) as u64);
            }
            below += here;
        }
        self.counts.keys().next_back().map(|&last| upper_bound(last).min(1 << LAST_EXPONENT))
    }

    /// What came since `earlier`, or everything when a counter ran backwards (another incarnation).
    pub fn since(&self, earlier: &Self) -> Self {
        let mut out = self.clone();
        for (index, before) in &earlier.counts {
            match out.counts.get_mut(index) {
                Some(now) if *now >= *before => *now -= before,
                _ => return self.clone(),
            }
        }
        out.counts.retain(|_, count| *count > 0);
        out
    }

    /// Adds `other`.
    pub fn add(&mut self, other: &Self) {
        for (&index, &count) in &other.counts {
            let sum = self.counts.entry(index.min(BUCKETS - 1)).or_default();
            *sum = sum.saturating_add(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_value_lies_within_its_bucket(micros in 0u64..u64::MAX) {
            let index = bucket(micros);
            prop_assert!(index < BUCKETS);
            prop_assert!(micros < upper_bound(index) || index == BUCKETS - 1);
            prop_assert!(index == 0 || micros >= upper_bound(index - 1));
        }

        #[test]
        fn quantiles_are_within_an_eighth(values in prop::collection::vec(64u64..10_000_000, 1..200), q in 0.0f64..1.0) {
            let mut histogram = Histogram::default();
            values.iter().for_each(|v| histogram.record(*v));
            let mut sorted = values.clone();
            sorted.sort_unstable();
            let exact = sorted[((q * values.len() as f64).ceil() as usize).clamp(1, values.len()) - 1] as f64;
            let found = histogram.quantile(q).unwrap() as f64;
            prop_assert!((found - exact).abs() <= exact / 8.0 + 1.0, "{found} for {exact}");
        }
    }

    #[test]
    fn differences_and_sums_agree() {
        let mut early = Histogram::default();
        early.record(100);
        let mut late = early.clone();
        late.record(100);
        late.record(5_000);
        let mut sum = early.clone();
        sum.add(&late.since(&early));
        assert_eq!(sum, late);
        assert_eq!(early.since(&late), early);
    }
}
