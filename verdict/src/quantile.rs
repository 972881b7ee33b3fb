//! A latency's distribution in a bounded space: what the reasons' percentiles are read from.

use outrigger_wire::{Histogram, histogram};
use serde::{Deserialize, Serialize};

/// Buckets that are kept. Latencies of one deployment fall into a dozen or two; where they don't, the emptiest
/// neighbours are put together, which moves a percentile by no more requests than those held.
const KEPT: usize = 20;

/// Counts by bucket of `outrigger_wire::histogram`, the bucket being the highest of those put together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Coarse(Vec<(u16, u64)>);

impl Coarse {
    /// Adds what was counted.
    pub(crate) fn add(&mut self, histogram: &Histogram) {
        for (bucket, count) in histogram.buckets() {
            match self.0.binary_search_by_key(&bucket, |&(at, _)| at) {
                Ok(at) => {
                    if let Some((_, sum)) = self.0.get_mut(at) {
                        *sum = sum.saturating_add(count);
                    }
                }
                Err(at) => self.0.insert(at, (bucket, count)),
            }
        }
        while self.0.len() > KEPT {
            self.join_emptiest();
        }
    }

    fn join_emptiest(&mut self) {
        let pairs = self.0.iter().zip(self.0.iter().skip(1)).map(|(low, high)| low.1.saturating_add(high.1));
        let emptiest = pairs.enumerate().min_by_key(|&(_, sum)| sum).map(|(index, _)| index);
        if let Some(index) = emptiest {
            let (_, low) = self.0.remove(index);
            if let Some((_, high)) = self.0.get_mut(index) {
                *high = high.saturating_add(low);
            }
        }
    }

    /// The 90th percentile in milliseconds; `None` where nothing was counted.
    pub(crate) fn p90_millis(&self) -> Option<f64> {
        let total: f64 = self.0.iter().map(|&(_, count)| count as f64).sum();
        let rank = 0.9 * total;
        let mut below = 0.0;
        for &(bucket, count) in &self.0 {
            let here = count as f64;
            if here > 0.0 && below + here >= rank {
                let lower = bucket.checked_sub(1).map_or(0, histogram::upper_bound);
                // Above the last bucket there is no upper end: its lower one is what is known.
                let upper = match histogram::upper_bound(bucket) {
                    u64::MAX => lower,
                    upper => upper,
                };
                let within = ((rank - below) / here).clamp(0.0, 1.0);
                return Some((lower as f64 + upper.saturating_sub(lower) as f64 * within) / 1e3);
            }
            below += here;
        }
        None
    }
}
