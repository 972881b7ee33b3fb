//! The load of this replica as every answer carries it, in ORCA's text format:
//! `TEXT application_utilization=0.5,rps_fractional=12.3,named_metrics.queued=3`.

use bytes::Bytes;
use http::HeaderValue;
use std::fmt::Write;
use std::time::{Duration, Instant};

/// Over what the rate is averaged: what was answered this long ago counts 1/e.
const MEMORY_SECONDS: f64 = 2.0;
/// A value as old as this is written anew even where the load has not changed, for the rate in it.
const REWRITTEN_AFTER: Duration = Duration::from_millis(100);

/// Writes the line, and remembers it while nothing in it changes.
#[derive(Debug, Default)]
pub(crate) struct LoadLine {
    rate: f64,
    last: Option<Instant>,
    written: Option<(Written, HeaderValue)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Written {
    in_flight: u32,
    concurrency: u32,
    queued: usize,
    at: Instant,
}

impl LoadLine {
    /// One more request was answered; the line of now. `in_flight` are calls of at most `concurrency`.
    pub(crate) fn value(
        &mut self,
        in_flight: u32,
        concurrency: u32,
        queued: usize,
        now: Instant,
    ) -> Option<HeaderValue> {
        let since = self.last.map_or(0.0, |last| now.saturating_duration_since(last).as_secs_f64());
        self.last = Some(now);
        self.rate = self.rate * (-since / MEMORY_SECONDS).exp() + 1.0 / MEMORY_SECONDS;
        let fresh = Written { in_flight, concurrency, queued, at: now };
        if let Some((written, value)) = &self.written
            && (Written { at: now, ..*written }) == fresh
            && now.saturating_duration_since(written.at) < REWRITTEN_AFTER
        {
            return Some(value.clone());
        }
        let mut text = String::with_capacity(96);
        let utilization = f64::from(in_flight) / f64::from(concurrency.max(1));
        // Writing into a string can't fail.
        let _ = write!(
            text,
            "TEXT application_utilization={utilization:.3},rps_fractional={:.1},named_metrics.queued={queued},named_metrics.in_flight={in_flight}",
            self.rate
        );
        let value = HeaderValue::from_maybe_shared(Bytes::from(text)).ok()?;
        self.written = Some((fresh, value.clone()));
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;
    use outrigger_decide::balance::{LOAD_HEADER, Reported};

    #[test]
    fn the_gateway_reads_what_is_written() {
        let start = Instant::now();
        let mut line = LoadLine::default();
        let mut value = None;
        for i in 0..1000 {
            value = line.value(2, 4, 7, start + Duration::from_millis(10 * i));
        }
        let value = value.unwrap();
        let text = value.to_str().unwrap();
        let rate: f64 =
            text.split("rps_fractional=").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
        assert!((90.0..110.0).contains(&rate), "100 requests a second: {text}");
        let headers: HeaderMap = [(LOAD_HEADER.parse().unwrap(), value)].into_iter().collect();
        let read = Reported::read(&headers, start).unwrap();
        assert_eq!((read.utilization, read.queued), (0.5, 7.0));
        let changed = line.value(3, 4, 7, start + Duration::from_secs(10)).unwrap();
        assert!(
            changed.to_str().unwrap().contains("application_utilization=0.750"),
            "a change shows at once"
        );
    }
}
