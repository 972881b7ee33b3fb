//! Whether a failed attempt is made again.
//!
//! Only before the first byte of an answer, and only what can't have been worked on, or what its caller marked as
//! safe to repeat. A request that an engine died of is not given to a third one.

use http::{HeaderMap, Method};

/// The most attempts for one request, the first included. What was never sent costs an engine nothing, but each
/// attempt costs its caller a connection's time.
pub const MAX_ATTEMPTS: u8 = 4;
/// The most engines that may have worked on one request.
pub const MAX_ENGINES: u8 = 2;
/// Of 100 requests ten may be repeated.
const PERCENT: u32 = 10;
/// Retries that are allowed whatever the rate, in the beginning and after quiet: with a handful of requests a
/// second ten percent would forbid the first retry of all.
const FLOOR: u32 = 10;
/// The most that is saved up, in retries: what a thread serves in its busiest second (about 10 000 requests) must
/// not become a burst of a thousand.
const CAP: u32 = 100;

/// How an attempt failed before the first byte of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss {
    /// The engine can't have seen it: no connection, the connection was closed before any of it was taken, or the
    /// sidecar says that its engine wasn't there.
    NeverSent,
    /// The sidecar refused it for load before any work.
    Shed,
    /// It was sent, and the connection broke or a 502 or 503 came: the engine may have worked on it, or died of it.
    Broken,
}

/// What is known of the request whose attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Whether its whole body is still at hand.
    pub replayable: bool,
    /// Whether its caller marked it as safe to repeat, see [`is_idempotent`].
    pub idempotent: bool,
    /// Attempts that were made.
    pub attempts: u8,
    /// Engines that may have worked on it.
    pub engines: u8,
}

/// A thread's budget: each request adds a tenth of a retry, each retry takes one.
#[derive(Clone, Debug)]
pub struct Budget {
    /// In hundredths of a retry.
    saved: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Self { saved: FLOOR * 100 }
    }
}

impl Budget {
    /// A request came in.
    pub fn deposit(&mut self) {
        self.saved = (self.saved + PERCENT).min(CAP * 100);
    }

    fn withdraw(&mut self) -> bool {
        let left = self.saved.checked_sub(100);
        self.saved = left.unwrap_or(self.saved);
        left.is_some()
    }
}

/// Whether the attempt that ended in `miss` is made again, on another endpoint; takes from the budget if so.
///
/// What was never sent needs none: it adds no load to any engine, and a kill of an endpoint under load makes more
/// of them at once than a budget would hold. It is bounded by [`MAX_ATTEMPTS`].
pub fn again(miss: Miss, request: Request, budget: &mut Budget) -> bool {
    if !request.replayable || request.attempts >= MAX_ATTEMPTS {
        return false;
    }
    match miss {
        Miss::NeverSent => true,
        Miss::Shed => budget.withdraw(),
        Miss::Broken => request.idempotent && request.engines < MAX_ENGINES && budget.withdraw(),
    }
}

/// Whether the caller marked the request as safe to repeat: by a method that is so by definition, or with an
/// `idempotency-key` (as several public APIs have it).
pub fn is_idempotent(method: &Method, headers: &HeaderMap) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) || headers.contains_key("idempotency-key")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRESH: Request = Request { replayable: true, idempotent: false, attempts: 1, engines: 0 };

    fn allowed(miss: Miss, request: Request) -> bool {
        again(miss, request, &mut Budget::default())
    }

    #[test]
    fn only_what_is_safe_is_repeated() {
        assert!(allowed(Miss::NeverSent, FRESH));
        assert!(allowed(Miss::Shed, FRESH));
        assert!(!allowed(Miss::Broken, FRESH));
        assert!(allowed(Miss::Broken, Request { idempotent: true, engines: 1, ..FRESH }));
        for miss in [Miss::NeverSent, Miss::Shed, Miss::Broken] {
            assert!(!allowed(miss, Request { replayable: false, idempotent: true, ..FRESH }), "{miss:?}");
            let late = Request { attempts: MAX_ATTEMPTS, idempotent: true, ..FRESH };
            assert!(!allowed(miss, late), "{miss:?}");
        }
    }

    /// A request that kills engines takes at most two.
    #[test]
    fn no_third_engine() {
        let poisonous = Request { idempotent: true, attempts: 2, engines: 2, ..FRESH };
        assert!(!allowed(Miss::Broken, poisonous));
    }

    #[test]
    fn repeats_are_a_tenth_and_a_floor() {
        let mut budget = Budget::default();
        let mut again_of = |requests: u32| {
            (0..requests).for_each(|_| budget.deposit());
            (0..requests).filter(|_| again(Miss::Shed, FRESH, &mut budget)).count()
        };
        assert_eq!(again_of(100), 20, "the floor of ten and a tenth of 100");
        assert_eq!(again_of(100), 10);
        assert_eq!(again_of(5), 0);
        assert_eq!(again_of(5), 1, "ten requests, one repeat");
        assert_eq!(again_of(1_000_000), CAP as usize);
    }

    #[test]
    fn never_sent_needs_no_budget() {
        let mut budget = Budget::default();
        assert!((0..10_000).all(|_| again(Miss::NeverSent, FRESH, &mut budget)));
    }

    #[test]
    fn callers_mark_what_is_safe() {
        let mut headers = HeaderMap::new();
        assert!(is_idempotent(&Method::GET, &headers));
        assert!(!is_idempotent(&Method::POST, &headers));
        headers.insert("idempotency-key", http::HeaderValue::from_static("k"));
        assert!(is_idempotent(&Method::POST, &headers));
    }
}
