//! Who goes to the canary: a hash, so that every gateway answers alike without talking to another.

use crate::{BasisPoints, DeploymentKey, RevisionId};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// The salt of one canary: of deployment and canary revision, so that it isn't always the same callers who try
/// what is new. Computed once per table, not per request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Salt(u64);

impl Salt {
    /// The salt of `canary` of `deployment`.
    pub fn new(deployment: &DeploymentKey, canary: &RevisionId) -> Self {
        Self(xxh3_64(format!("{deployment}\n{canary}").as_bytes()))
    }

    /// Whether the caller with this key belongs to the canary at this weight.
    ///
    /// The same key gets the same answer while the weight stands, and a growing weight only ever moves keys
    /// towards the canary: each key has a fixed place in [0, 1), and the canary takes those below the weight.
    pub fn is_canary(self, key: &[u8], weight: BasisPoints) -> bool {
        let place = xxh3_64_with_seed(key, self.0);
        // 2^64 × weight / 10 000 without rounding: at 100 % every place is below it, at 0 % none.
        u128::from(place) * 10_000 < (u128::from(weight.get()) << 64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn salt() -> Salt {
        Salt::new(&"default/chat".into(), &"6f9c2e1b4d".into())
    }

    /// proves G.1
    #[test]
    fn share_is_within_three_sigma() {
        let n = 100_000u32;
        for points in [1u16, 33, 100, 1_000, 5_000, 9_999] {
            let weight = BasisPoints::new(points);
            let hits = (0..n).filter(|i| salt().is_canary(format!("caller-{i}").as_bytes(), weight)).count();
            let (n, p) = (f64::from(n), weight.fraction());
            let sigma = (n * p * (1.0 - p)).sqrt();
            assert!((hits as f64 - n * p).abs() <= 3.0 * sigma.max(1.0), "{points}: {hits}");
        }
    }

    /// proves G.1
    #[test]
    fn another_revision_takes_other_callers() {
        let other = Salt::new(&"default/chat".into(), &"aaaaaaaaaa".into());
        let weight = BasisPoints::percent(10);
        let both = (0..10_000u32)
            .map(|i| format!("caller-{i}"))
            .filter(|key| salt().is_canary(key.as_bytes(), weight) && other.is_canary(key.as_bytes(), weight))
            .count();
        assert!((50..200).contains(&both), "{both} of an expected 100");
    }

    proptest! {
        /// proves G.1
        #[test]
        fn growing_weight_only_moves_towards_the_canary(key: Vec<u8>, a in 0u16..=10_000, b in 0u16..=10_000) {
            let (low, high) = (BasisPoints::new(a.min(b)), BasisPoints::new(a.max(b)));
            prop_assert!(!salt().is_canary(&key, low) || salt().is_canary(&key, high));
            prop_assert!(!salt().is_canary(&key, BasisPoints::ZERO));
            prop_assert!(salt().is_canary(&key, BasisPoints::FULL));
        }
    }
}
