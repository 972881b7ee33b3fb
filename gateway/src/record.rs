//! From the data threads to the control thread: small records of what happened, in batches.
//!
//! Each data thread owns one lock, which the control thread takes some fifty times a second while anything happens
//! and never while nothing does; the data thread itself therefore nearly always finds it free.

use outrigger_decide::breaker::Signal;
use outrigger_decide::tally::FirstToken;
use outrigger_wire::{Arm, Outcome, Stratum};
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::Notify;

/// Records that wait for the control thread, per data thread: 20 ms at 100 000 requests a second and ten records
/// each. Further ones are dropped and counted.
const MAX_RECORDS: usize = 20_000;

/// Something that happened on a data thread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Record {
    /// The hash assigned a request of this deployment (its number in the snapshot).
    Assigned {
        /// The deployment's number.
        deployment: u32,
        /// Under which serial.
        serial: u64,
        /// To which side.
        arm: Arm,
    },
    /// The first token of an attempt came, or is overdue.
    First {
        /// The number of the revision that the hash assigned.
        revision: u32,
        /// The request's length.
        stratum: Stratum,
        /// When.
        token: FirstToken,
        /// The reference that stood when the attempt began.
        generation: u32,
    },
    /// An attempt ended.
    Ended {
        /// The number of the revision that the hash assigned.
        revision: u32,
        /// The request's length.
        stratum: Stratum,
        /// How, for the analysis.
        outcome: Outcome,
        /// What it says about the revision, for its breaker.
        signal: Signal,
        /// Whether it was the revision breaker's probe.
        probe: bool,
        /// How long it took, in microseconds.
        micros: u64,
    },
    /// An attempt of this revision was made again on another endpoint.
    Retried {
        /// The number of the revision that the hash assigned.
        revision: u32,
    },
    /// A request of the canary's callers was served by stable.
    FellBack {
        /// The canary's number.
        revision: u32,
    },
    /// A request was answered by the gateway itself; one of the reasons that `x-outrigger-reason` has.
    Refused {
        /// The reason.
        reason: &'static str,
    },
}

/// What is in flight on one thread for one revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The revision's number.
    pub(crate) revision: u32,
    /// Requests.
    pub(crate) count: u32,
    /// When the oldest of them began.
    pub(crate) oldest: Instant,
}

/// What one thread holds now. All are 0 when nothing is in flight, whatever happened before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Counters {
    /// Requests being answered.
    pub(crate) requests: usize,
    /// Bytes of request bodies in memory.
    pub(crate) buffered: usize,
    /// Attempts that count for a revision.
    pub(crate) attempts: usize,
    /// Attempts at replicas of the table.
    pub(crate) tokens: usize,
}

/// What one data thread shows the control thread.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    inner: Mutex<Inner>,
    /// The version of the snapshot that the thread works by.
    seen: AtomicU64,
    /// Wakes the control thread.
    bell: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Inner {
    records: Vec<Record>,
    dropped: u64,
    standing: Vec<Standing>,
    counters: Counters,
}

/// What was taken from a desk.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// Records in the order in which they were made.
    pub(crate) records: Vec<Record>,
    /// Records that found no room since the last time.
    pub(crate) dropped: u64,
    /// What was in flight when the thread last looked.
    pub(crate) standing: Vec<Standing>,
    /// What it held then.
    pub(crate) counters: Counters,
}

impl Desk {
    /// A desk that rings this bell when there is something new.
    pub(crate) fn new(bell: Arc<Notify>) -> Self {
        Self { inner: Mutex::default(), seen: AtomicU64::new(0), bell }
    }

    /// Puts down a record.
    pub(crate) fn put(&self, record: Record) {
        let mut inner = self.lock();
        if inner.records.len() >= MAX_RECORDS {
            inner.dropped += 1;
            return;
        }
        inner.records.push(record);
        let first = inner.records.len() == 1;
        drop(inner);
        // One ring per batch: waking another thread costs a system call.
        if first {
            self.bell.notify_one();
        }
    }

    /// What is in flight now.
    pub(crate) fn set_standing(&self, standing: &[Standing], counters: Counters) {
        let mut inner = self.lock();
        inner.counters = counters;
        inner.standing.clear();
        inner.standing.extend_from_slice(standing);
    }

    /// The thread works by this version from now on.
    pub(crate) fn set_seen(&self, version: u64) {
        self.seen.store(version, Ordering::Release);
        self.bell.notify_one();
    }

    /// The version that the thread works by.
    pub(crate) fn seen(&self) -> u64 {
        self.seen.load(Ordering::Acquire)
    }

    /// Takes what lies here. `emptied` is a batch that was worked through, whose room is used again.
    pub(crate) fn take(&self, mut emptied: Vec<Record>) -> Taken {
        emptied.clear();
        let mut inner = self.lock();
        let records = std::mem::replace(&mut inner.records, emptied);
        let dropped = std::mem::take(&mut inner.dropped);
        Taken { records, dropped, standing: inner.standing.clone(), counters: inner.counters }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing between lock and unlock can panic half-way through a change.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_bounded_and_what_is_dropped_is_counted() {
        let desk = Desk::new(Arc::default());
        (0..MAX_RECORDS + 7).for_each(|_| desk.put(Record::Refused { reason: "x" }));
        let taken = desk.take(Vec::new());
        assert_eq!((taken.records.len(), taken.dropped), (MAX_RECORDS, 7));
        desk.put(Record::Refused { reason: "y" });
        let taken = desk.take(taken.records);
        assert_eq!((taken.records.as_slice(), taken.dropped), (&[Record::Refused { reason: "y" }][..], 0));
    }
}
