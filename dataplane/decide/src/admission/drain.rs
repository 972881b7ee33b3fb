//! How fast requests have ended lately, for `Retry-After`.

use std::time::Instant;

/// The memory of the rate: what ended this long ago counts 1/e. Long enough to span several batches of a slow
/// engine, short enough to notice within seconds that it sped up.
const MEMORY_SECONDS: f64 = 5.0;
/// A caller is never told to come back later than this: an overload that lasts is better met by trying again
/// than by a client that has given up.
const MAX_SECONDS: f64 = 30.0;

/// An exponentially decaying count of ends.
#[derive(Debug, Default)]
pub(super) struct DrainRate {
    count: f64,
    /// When the first and the latest end were counted.
    span: Option<(Instant, Instant)>,
}

impl DrainRate {
    /// `n` requests ended.
    pub(super) fn record(&mut self, n: f64, now: Instant) {
        self.count = self.decayed(now) + n;
        let first = self.span.map_or(now, |(first, _)| first);
        self.span = Some((first, now));
    }

    fn decayed(&self, now: Instant) -> f64 {
        let since = self.span.map_or(0.0, |(_, last)| now.saturating_duration_since(last).as_secs_f64());
        self.count * (-since / MEMORY_SECONDS).exp()
    }

    /// Whole seconds in which `n` requests end at that rate, at least 1; 1 where nothing is known yet.
    pub(super) fn seconds_for(&self, n: f64, now: Instant) -> u64 {
        let Some((first, _)) = self.span else { return 1 };
        // A count that began only just now has not yet filled its memory: divide by what it has filled.
        let age = now.saturating_duration_since(first).as_secs_f64().max(1.0);
        let filled = MEMORY_SECONDS * (1.0 - (-age / MEMORY_SECONDS).exp());
        let rate = self.decayed(now) / filled;
        let seconds = if rate > 0.0 { n / rate } else { MAX_SECONDS };
        seconds.clamp(1.0, MAX_SECONDS).ceil() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_wait_follows_the_rate() {
        let start = Instant::now();
        let mut rate = DrainRate::default();
        assert_eq!(rate.seconds_for(100.0, start), 1, "nothing is known");
        for i in 0..200 {
            rate.record(1.0, start + Duration::from_millis(100 * i));
        }
        let now = start + Duration::from_secs(20);
        let wait = rate.seconds_for(100.0, now);
        assert!((9..=12).contains(&wait), "100 requests at 10/s: {wait}");
        assert_eq!(rate.seconds_for(1.0, now), 1);
        assert_eq!(rate.seconds_for(1e9, now), 30, "bounded");
        assert_eq!(rate.seconds_for(1.0, now + Duration::from_secs(3600)), 30, "nothing ends any more");
    }
}
