//! What the callers' side saw.

use crate::view::{Latency, LoadView};
use outrigger_wire::Histogram;
use std::fmt;
use std::time::Duration;

/// What was sent and how it ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// Requests per second that were asked for.
    pub rate: f64,
    /// Requests that were sent.
    pub sent: u64,
    /// Arrivals that were not sent, because too many requests were open.
    pub unsent: u64,
    /// Answered in full with a 2xx.
    pub ok: u64,
    /// Refused because of load: 429, or 503 with Retry-After.
    pub shed: u64,
    /// Everything else that ended: another status, a broken connection or stream, no answer in time.
    pub failed: u64,
    /// Time to the answer's end, of what is in `ok`.
    pub duration: Histogram,
    /// Time to the first byte of the answer's body, of streamed answers in `ok`.
    pub first_token: Histogram,
}

/// How one request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) how: How,
    pub(super) took: Duration,
    pub(super) first_token: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    Ok,
    Shed,
    Failed,
}

impl Ended {
    /// Failed, whenever it did.
    pub(super) const FAILED: Self = Self { how: How::Failed, took: Duration::ZERO, first_token: None };
    /// Refused because of load.
    pub(super) const SHED: Self = Self { how: How::Shed, took: Duration::ZERO, first_token: None };
}

impl Counts {
    pub(super) fn count(&mut self, ended: &Ended) {
        let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        match ended.how {
            How::Shed => self.shed += 1,
            How::Failed => self.failed += 1,
            How::Ok => {
                self.ok += 1;
                self.duration.record(micros(ended.took));
                ended.first_token.iter().for_each(|first| self.first_token.record(micros(*first)));
            }
        }
    }

    /// Requests that were sent and have not ended yet.
    pub const fn in_flight(&self) -> u64 {
        self.sent.saturating_sub(self.ok + self.shed + self.failed)
    }

    /// For the screen.
    pub fn view(&self) -> LoadView {
        LoadView {
            rate: self.rate,
            sent: self.sent,
            ok: self.ok,
            shed: self.shed,
            failed: self.failed,
            duration: latency(&self.duration),
        }
    }
}

/// The two quantiles that are shown.
fn latency(histogram: &Histogram) -> Latency {
    let quantile = |q| histogram.quantile(q).map(Duration::from_micros);
    Latency { p50: quantile(0.5), p95: quantile(0.95) }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spell = |histogram: &Histogram| {
            let one = |q| {
                histogram.quantile(q).map_or_else(|| "-".to_owned(), |v| format!("{:.1}", v as f64 / 1e3))
            };
            format!("p50 {} ms, p95 {} ms, p99 {} ms", one(0.5), one(0.95), one(0.99))
        };
        writeln!(f, "sent         {}", self.sent)?;
        writeln!(f, "answered     {}", self.ok)?;
        writeln!(f, "shed         {}", self.shed)?;
        writeln!(f, "failed       {}", self.failed)?;
        writeln!(f, "not sent     {} (too many were open)", self.unsent)?;
        writeln!(f, "duration     {}", spell(&self.duration))?;
        write!(f, "first token  {}", spell(&self.first_token))
    }
}
