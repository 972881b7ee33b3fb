//! One attempt at one replica, from the moment it is chosen until its last byte: what it says about the replica
//! and about the revision, told exactly once on every path.

use crate::record::Record;
use crate::thread::{Admitted, Local, Replica, Slot, Thread, Token};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use outrigger_dataplane::body::{End, Hooks};
use outrigger_dataplane::refuse::REASON;
use outrigger_dataplane::upstream::{Cause, Error};
use outrigger_decide::balance::RESTS_FOR;
use outrigger_decide::breaker::{Admits, Signal};
use outrigger_decide::retry::Miss;
use outrigger_decide::tally::FirstToken;
use outrigger_wire::{Outcome, Stratum};
use std::rc::Rc;
use std::time::Instant;

/// For which revision an attempt counts: the one that the hash assigned. An attempt that stable makes for a
/// canary's caller counts for none: the canary's failure was counted, and stable's figures stay those of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counted {
    /// The revision's number.
    pub(crate) revision: u32,
    /// The request's length.
    pub(crate) stratum: Stratum,
    /// The reference that stands.
    pub(crate) generation: u32,
    /// Whether it is the revision breaker's probe.
    pub(crate) probe: bool,
}

/// One attempt.
#[derive(Debug)]
pub(crate) struct Attempt {
    thread: Rc<Thread>,
    local: Rc<Local>,
    replica: Rc<Replica>,
    _token: Token,
    counted: Option<Counted>,
    slot: Option<usize>,
    began: Instant,
    /// Whether the replica's breaker waits for this attempt.
    is_probe: bool,
    verdict: Verdict,
    told: bool,
}

/// What an attempt says, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// About the revision, for the analysis.
    pub(crate) outcome: Outcome,
    /// About the replica and the revision, for their breakers.
    pub(crate) signal: Signal,
}

const LEFT: Verdict = Verdict { outcome: Outcome::Cancelled, signal: Signal::Neutral };
const FAILED: Verdict = Verdict { outcome: Outcome::Failure, signal: Signal::Failure };
/// Reasons of a sidecar that takes nothing new because its replica is going away.
const LEAVING: [&[u8]; 2] = [b"draining", b"shutting_down"];
const SHED: Verdict = Verdict { outcome: Outcome::Backpressure, signal: Signal::Neutral };

impl Attempt {
    /// A request goes to this replica.
    pub(crate) fn begin(
        thread: &Rc<Thread>,
        local: &Rc<Local>,
        replica: &Rc<Replica>,
        counted: Option<Counted>,
        now: Instant,
    ) -> Self {
        let mut breaker = replica.breaker.borrow_mut();
        let is_probe = breaker.admits(local.settings(), now) == Admits::Probe;
        if is_probe {
            breaker.probe(now);
        }
        drop(breaker);
        let slot = counted.map(|counted| {
            thread.enter(Slot {
                revision: counted.revision,
                stratum: counted.stratum,
                generation: counted.generation,
                began: now,
                first: None,
            })
        });
        Self {
            thread: Rc::clone(thread),
            local: Rc::clone(local),
            replica: Rc::clone(replica),
            _token: replica.token(),
            counted,
            slot,
            began: now,
            is_probe,
            verdict: LEFT,
            told: false,
        }
    }

    /// The head of an answer came: what it says, if the rest follows.
    pub(crate) fn answered(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.verdict = judge(status, headers);
        if miss_of_answer(status, headers) == Some(Miss::NeverSent) {
            self.replica.rest_until(Instant::now() + RESTS_FOR);
            if headers.get(REASON).is_some_and(|reason| LEAVING.contains(&reason.as_bytes())) {
                // A replica that is told to go says nothing about its revision, nor about its health.
                self.verdict = LEFT;
                self.counted = None;
                self.slot.take().map(|index| self.thread.leave(index));
            }
        }
    }

    /// No answer came.
    pub(crate) fn failed(&mut self, error: &Error) {
        let overdue = is_overdue(error.cause());
        if matches!(error.cause(), Cause::NeverSent(_) | Cause::BrokeBeforeFirstByte) {
            // A dead replica has nothing in flight and would look like the best of all.
            self.replica.rest_until(Instant::now() + RESTS_FOR);
        }
        self.tell(of_error(error.cause()), overdue);
    }

    /// The answer is not passed on: another attempt follows.
    pub(crate) fn discarded(&mut self) {
        self.tell(self.verdict, false);
    }

    fn tell(&mut self, verdict: Verdict, overdue: bool) {
        if std::mem::replace(&mut self.told, true) {
            return;
        }
        let now = Instant::now();
        let settings = self.local.settings();
        self.replica.breaker.borrow_mut().record(verdict.signal, self.is_probe, settings, now);
        let slot = self.slot.take().and_then(|index| self.thread.leave(index));
        let Some(Counted { revision, stratum, generation, probe }) = self.counted else { return };
        if overdue && slot.is_some_and(|slot| slot.first.is_none()) {
            self.thread.tell(Record::First { revision, stratum, token: FirstToken::Overdue, generation });
        }
        let micros = micros(self.began, now);
        let Verdict { outcome, signal } = verdict;
        self.thread.tell(Record::Ended { revision, stratum, outcome, signal, probe, micros });
    }
}

impl Drop for Attempt {
    /// The future was dropped before an answer: the client left, or something panicked.
    fn drop(&mut self) {
        self.tell(LEFT, false);
    }
}

/// What a status says. A client's own mistake is answered as it should be, so the analysis counts it as served; it
/// says nothing about health, so breakers don't.
pub(crate) fn judge(status: StatusCode, headers: &HeaderMap) -> Verdict {
    let told_when = headers.contains_key(header::RETRY_AFTER);
    match status.as_u16() {
        429 => SHED,
        503 if told_when => SHED,
        500.. => FAILED,
        400..500 => Verdict { outcome: Outcome::Success, signal: Signal::Neutral },
        _ => Verdict { outcome: Outcome::Success, signal: Signal::Success },
    }
}

fn of_error(cause: Cause) -> Verdict {
    match cause {
        // The client's doing.
        Cause::ClientGone | Cause::RequestBodyTooLarge | Cause::RequestBodyRefused => LEFT,
        _ => FAILED,
    }
}

const fn is_overdue(cause: Cause) -> bool {
    matches!(cause, Cause::FirstByteTimeout | Cause::IdleTimeout | Cause::TotalTimeout)
}

/// How an attempt failed before the first byte of an answer, if it may be made again at all.
pub(crate) fn miss_of_error(cause: Cause) -> Option<Miss> {
    match cause {
        Cause::NeverSent(_) => Some(Miss::NeverSent),
        Cause::BrokeBeforeFirstByte => Some(Miss::Broken),
        // The caller's time is up, the caller is gone, or an answer of some kind came.
        _ => None,
    }
}

/// Likewise for an answer: those of a sidecar that say that its engine has not worked on it, and those that may
/// be repeated where the caller says so.
pub(crate) fn miss_of_answer(status: StatusCode, headers: &HeaderMap) -> Option<Miss> {
    match status {
        StatusCode::TOO_MANY_REQUESTS => Some(Miss::Shed),
        // A sidecar's own 503 says that nothing can serve there: its engine has not seen the request.
        StatusCode::SERVICE_UNAVAILABLE if headers.contains_key(REASON) => Some(Miss::NeverSent),
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY => Some(Miss::Broken),
        _ => None,
    }
}

/// Microseconds between two instants.
pub(crate) fn micros(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_duration_since(from).as_micros()).unwrap_or(u64::MAX)
}

/// What hears of the end of an answer that is passed on.
#[derive(Debug)]
pub(crate) struct Served {
    attempt: Attempt,
    _admitted: Admitted,
}

impl Served {
    /// The answer to this attempt is passed on.
    pub(crate) fn new(attempt: Attempt, admitted: Admitted) -> Self {
        Self { attempt, _admitted: admitted }
    }
}

impl Hooks for Served {
    fn first_byte(&mut self) {
        let attempt = &self.attempt;
        // Only answers of an engine in order have a latency: how fast errors come says nothing about tokens.
        if attempt.verdict.signal == Signal::Success
            && let Some(index) = attempt.slot
        {
            attempt.thread.first(index, micros(attempt.began, Instant::now()));
        }
    }

    fn data(&mut self, _data: &Bytes) {}

    fn end(&mut self, end: End) {
        let answered = self.attempt.verdict;
        let (verdict, overdue) = match end {
            End::Complete => (answered, false),
            End::Broke(error) => (of_error(error.cause()), is_overdue(error.cause())),
            // What has failed already stays failed, whoever leaves afterwards.
            End::ClientGone if answered.outcome == Outcome::Success => (LEFT, false),
            End::ClientGone => (answered, false),
        };
        self.attempt.tell(verdict, overdue);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (k.parse().unwrap(), HeaderValue::from_static(v))).collect()
    }

    /// proves H.3
    #[test]
    fn backpressure_and_client_errors_are_no_failures() {
        let of = |status: u16, pairs: &[(&'static str, &'static str)]| {
            let verdict = judge(StatusCode::from_u16(status).unwrap(), &headers(pairs));
            (verdict.outcome, verdict.signal)
        };
        assert_eq!(of(200, &[]), (Outcome::Success, Signal::Success));
        assert_eq!(of(429, &[]), (Outcome::Backpressure, Signal::Neutral));
        assert_eq!(of(503, &[("retry-after", "1")]), (Outcome::Backpressure, Signal::Neutral));
        assert_eq!(of(503, &[]), (Outcome::Failure, Signal::Failure));
        assert_eq!(of(500, &[]), (Outcome::Failure, Signal::Failure));
        for status in [400, 401, 404, 413, 422] {
            assert_eq!(of(status, &[]), (Outcome::Success, Signal::Neutral), "{status}");
        }
    }

    #[test]
    fn only_what_was_not_worked_on_may_be_repeated() {
        let of = |status: u16, pairs: &[(&'static str, &'static str)]| {
            miss_of_answer(StatusCode::from_u16(status).unwrap(), &headers(pairs))
        };
        assert_eq!(of(503, &[("x-outrigger-reason", "connect_refused")]), Some(Miss::NeverSent));
        assert_eq!(of(503, &[("x-outrigger-reason", "draining")]), Some(Miss::NeverSent));
        assert_eq!(of(429, &[]), Some(Miss::Shed));
        assert_eq!(of(503, &[]), Some(Miss::Broken), "an engine's own 503 says nothing of what it did");
        assert_eq!(of(502, &[("x-outrigger-reason", "upstream_broke")]), Some(Miss::Broken));
        for status in [200, 400, 404, 500, 504] {
            assert_eq!(of(status, &[("x-outrigger-reason", "connect_refused")]), None, "{status}");
        }
        assert_eq!(miss_of_error(Cause::FirstByteTimeout), None, "its time is up");
    }
}
