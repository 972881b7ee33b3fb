//! How long an engine takes: the whole timing model, pure. Benches and tests compute their ideals from it.

use std::time::Duration;

/// What each part of an engine's work costs.
#[derive(Clone, Debug, PartialEq)]
pub struct Timing {
    /// From a request's arrival until the scheduler knows of it (parsing, tokenising); many at once.
    pub overhead: Duration,
    /// Of one prompt token in an iteration that prefills.
    pub prefill_per_token: Duration,
    /// Of one scheduler iteration, whatever it does; at least [`SHORTEST_ITERATION`].
    pub iteration: Duration,
    /// Of one decoding sequence in an iteration, on top: what a larger batch costs.
    pub decode_per_sequence: Duration,
    /// Of one V1 or V2 inference call, whatever its size.
    pub call: Duration,
    /// Of one row of such a call, on top.
    pub per_row: Duration,
}

/// An iteration of no length would make the scheduler spin.
pub const SHORTEST_ITERATION: Duration = Duration::from_micros(100);

impl Default for Timing {
    /// A small model on a middling GPU: first token after about 25 ms, then 2 ms per token; V2 calls cost what a
    /// small classifier does.
    fn default() -> Self {
        Self {
            overhead: Duration::from_millis(20),
            prefill_per_token: Duration::from_micros(20),
            iteration: Duration::from_millis(2),
            decode_per_sequence: Duration::from_micros(20),
            call: Duration::from_millis(5),
            per_row: Duration::from_micros(200),
        }
    }
}

impl Timing {
    /// The length of an iteration that prefills so many prompt tokens and decodes for so many sequences.
    pub fn iteration(&self, prefilled: u32, decoding: u32) -> Duration {
        let work = self
            .prefill_per_token
            .saturating_mul(prefilled)
            .saturating_add(self.decode_per_sequence.saturating_mul(decoding));
        self.iteration.saturating_add(work).max(SHORTEST_ITERATION)
    }

    /// The length of a V1 or V2 call with so many rows.
    pub fn call(&self, rows: u32) -> Duration {
        self.call.saturating_add(self.per_row.saturating_mul(rows))
    }

    /// Everything slower (or faster) by a factor from 0.01 to 1000, and prefill by a further one.
    pub fn slowed(&self, factor: f64, prefill: f64) -> Self {
        let times = |d: Duration, f: f64| d.mul_f64(if f.is_finite() { f.clamp(0.01, 1000.0) } else { 1.0 });
        Self {
            overhead: times(self.overhead, factor),
            prefill_per_token: times(times(self.prefill_per_token, factor), prefill),
            iteration: times(self.iteration, factor),
            decode_per_sequence: times(self.decode_per_sequence, factor),
            call: times(self.call, factor),
            per_row: times(self.per_row, factor),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_larger_batch_costs_more_in_all_and_less_each() {
        let timing = Timing::default();
        assert_eq!(timing.call(0), Duration::from_millis(5));
        assert_eq!(timing.call(1), Duration::from_micros(5_200));
        assert_eq!(timing.call(32), Duration::from_micros(11_400));
        assert!(timing.iteration(0, 64) > timing.iteration(0, 1));
        assert!(timing.iteration(0, 64) / 64 < timing.iteration(0, 1));
        assert_eq!(timing.iteration(100, 0), Duration::from_millis(4));
    }

    #[test]
    fn no_factor_makes_an_iteration_vanish_or_overflow() {
        for factor in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e300] {
            let timing = Timing::default().slowed(factor, factor);
            assert!(timing.iteration(0, 0) >= SHORTEST_ITERATION, "{factor}");
            assert!(timing.iteration(u32::MAX, u32::MAX) > Duration::ZERO, "{factor}");
        }
        assert_eq!(Timing::default().slowed(3.0, 1.0).call(1), Duration::from_micros(15_600));
    }
}
