//! The three-outcome circuit breaker: of an endpoint on each thread, of a revision on the control thread.
//!
//! *Open* means refusing. Backpressure and a client's own mistakes are no outcome at all: an engine that refuses
//! because it is full is alive, and one that answers 400 neither works nor fails. In half-open they settle
//! nothing either, and the next request is the probe.

use outrigger_wire::traffic::CircuitBreaker;
use std::time::Instant;

/// What an attempt says about the one that it went to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// It works.
    Success,
    /// A 5xx, a refused or broken connection, a deadline.
    Failure,
    /// Backpressure, a 4xx, a client that left: nothing is said.
    Neutral,
}

/// Whether an attempt may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admits {
    /// Closed: as many as like.
    Yes,
    /// Half-open: one, and its outcome decides. [`Breaker::probe`] takes the place.
    Probe,
    /// Open, or half-open with the probe under way.
    No,
}

/// The largest window that `wire::CircuitBreaker` allows, in outcomes.
const MAX_WINDOW: usize = 1000;
const WORDS: usize = MAX_WINDOW.div_ceil(64);

/// The last outcomes of one endpoint or revision, and what follows from them.
#[derive(Clone, Debug)]
pub struct Breaker {
    /// A ring of outcomes, one bit each, set for failures.
    failed: [u64; WORDS],
    /// Where the next outcome goes.
    next: u16,
    /// How many outcomes the ring holds.
    filled: u16,
    failures: u16,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To open: enough failures in the window.
    Closed,
    /// To half-open: when the time has come, seen at the next question.
    Open { since: Instant },
    /// To closed: the probe succeeds. To open: it fails. To open with the time already up, so that the next
    /// request probes: it says nothing, or nothing was heard of it for as long as the breaker stays open.
    HalfOpen { since: Instant },
}

impl Default for Breaker {
    fn default() -> Self {
        Self { failed: [0; WORDS], next: 0, filled: 0, failures: 0, state: State::Closed }
    }
}

impl Breaker {
    /// Whether an attempt may be made now.
    pub fn admits(&self, settings: &CircuitBreaker, now: Instant) -> Admits {
        match self.state {
            State::Closed => Admits::Yes,
            State::Open { since } | State::HalfOpen { since }
                if now.saturating_duration_since(since) >= settings.open_for.get() =>
            {
                Admits::Probe
            }
            State::Open { .. } | State::HalfOpen { .. } => Admits::No,
        }
    }

    /// The caller sends the probe that [`Self::admits`] allowed, and will say [`Self::record`] with `probe` set.
    pub fn probe(&mut self, now: Instant) {
        self.state = State::HalfOpen { since: now };
    }

    /// An attempt ended; `probe` says whether it was the one that [`Self::probe`] was called for.
    pub fn record(&mut self, signal: Signal, probe: bool, settings: &CircuitBreaker, now: Instant) {
        match (self.state, signal) {
            (State::HalfOpen { .. }, Signal::Success) if probe => *self = Self::default(),
            (State::HalfOpen { .. }, Signal::Failure) if probe => self.state = State::Open { since: now },
            (State::HalfOpen { .. }, Signal::Neutral) if probe => {
                let due = now.checked_sub(settings.open_for.get()).unwrap_or(now);
                self.state = State::Open { since: due };
            }
            // Attempts that were sent before it opened say nothing about how things are now.
            (State::Open { .. } | State::HalfOpen { .. }, _) | (State::Closed, Signal::Neutral) => {}
            (State::Closed, Signal::Success | Signal::Failure) => {
                self.count(signal == Signal::Failure, settings);
                if self.is_too_many(settings) {
                    self.state = State::Open { since: now };
                }
            }
        }
    }

    /// Whether it is anything but closed.
    pub fn is_open(&self) -> bool {
        self.state != State::Closed
    }

    fn count(&mut self, failure: bool, settings: &CircuitBreaker) {
        let window = (settings.window.max(1) as usize).min(MAX_WINDOW) as u16;
        if self.filled > window || self.next >= window {
            // The window was made smaller while it ran: what was counted doesn't fit its ring any more.
            *self = Self::default();
        }
        let (word, bit) = (usize::from(self.next / 64), 1u64 << (self.next % 64));
        if let Some(word) = self.failed.get_mut(word) {
            if self.filled == window && *word & bit != 0 {
                self.failures -= 1;
            }
            *word = if failure { *word | bit } else { *word & !bit };
        }
        self.failures += u16::from(failure);
        self.filled = (self.filled + 1).min(window);
        self.next = (self.next + 1) % window;
    }

    fn is_too_many(&self, settings: &CircuitBreaker) -> bool {
        let full = u32::from(self.filled) >= settings.window.min(MAX_WINDOW as u32);
        let rate = u64::from(settings.failure_rate.basis_points());
        full && u64::from(self.failures) * 10_000 >= rate * u64::from(self.filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_wire::{Percent, Period};
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::time::Duration;

    fn settings(window: u32) -> CircuitBreaker {
        CircuitBreaker { failure_rate: Percent::whole(50), window, open_for: Period::secs(1) }
    }

    fn opened(settings: &CircuitBreaker, now: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        (0..settings.window).for_each(|_| breaker.record(Signal::Failure, false, settings, now));
        assert_eq!(breaker.admits(settings, now), Admits::No);
        breaker
    }

    #[test]
    fn opens_at_the_rate_on_a_full_window_only() {
        let (settings, now) = (settings(10), Instant::now());
        let mut breaker = Breaker::default();
        for _ in 0..9 {
            breaker.record(Signal::Failure, false, &settings, now);
            assert_eq!(breaker.admits(&settings, now), Admits::Yes);
        }
        breaker.record(Signal::Success, false, &settings, now);
        assert_eq!(breaker.admits(&settings, now), Admits::No);
    }

    /// proves H.3
    #[test]
    fn backpressure_and_client_errors_touch_nothing() {
        let (settings, now) = (settings(4), Instant::now());
        let mut breaker = Breaker::default();
        (0..3).for_each(|_| breaker.record(Signal::Failure, false, &settings, now));
        (0..1000).for_each(|_| breaker.record(Signal::Neutral, false, &settings, now));
        assert_eq!(breaker.admits(&settings, now), Admits::Yes, "neutral outcomes neither fill the window");
        breaker.record(Signal::Failure, false, &settings, now);
        assert_eq!(breaker.admits(&settings, now), Admits::No, "nor push failures out of it");

        let later = now + Duration::from_secs(1);
        assert_eq!(breaker.admits(&settings, later), Admits::Probe);
        breaker.probe(later);
        breaker.record(Signal::Neutral, true, &settings, later);
        assert!(breaker.is_open(), "in half-open a 4xx doesn't close it");
        assert_eq!(breaker.admits(&settings, later), Admits::Probe, "and doesn't hold up the next probe");
    }

    #[test]
    fn one_probe_decides() {
        let (settings, now) = (settings(3), Instant::now());
        let later = now + Duration::from_secs(1);
        let mut breaker = opened(&settings, now);
        breaker.probe(later);
        assert_eq!(breaker.admits(&settings, later), Admits::No, "one at a time");
        breaker.record(Signal::Success, false, &settings, later);
        assert!(breaker.is_open(), "what was sent before it opened decides nothing");
        breaker.record(Signal::Failure, true, &settings, later);
        assert_eq!(breaker.admits(&settings, later + Duration::from_millis(999)), Admits::No);
        let again = later + Duration::from_secs(1);
        assert_eq!(breaker.admits(&settings, again), Admits::Probe);
        breaker.probe(again);
        breaker.record(Signal::Success, true, &settings, again);
        assert_eq!(breaker.admits(&settings, again), Admits::Yes);
        (0..2).for_each(|_| breaker.record(Signal::Failure, false, &settings, again));
        assert_eq!(breaker.admits(&settings, again), Admits::Yes, "it starts with an empty window");
    }

    /// A probe whose end is never heard of (its record was dropped) doesn't keep the breaker open for ever.
    #[test]
    fn a_lost_probe_is_replaced() {
        let (settings, now) = (settings(3), Instant::now());
        let mut breaker = opened(&settings, now);
        let later = now + Duration::from_secs(1);
        breaker.probe(later);
        assert_eq!(breaker.admits(&settings, later + Duration::from_secs(1)), Admits::Probe);
    }

    #[test]
    fn a_smaller_window_starts_over() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        (0..20).for_each(|_| breaker.record(Signal::Success, false, &settings(100), now));
        (0..4).for_each(|_| breaker.record(Signal::Failure, false, &settings(5), now));
        assert!(!breaker.is_open());
        breaker.record(Signal::Failure, false, &settings(5), now);
        assert!(breaker.is_open());
    }

    proptest! {
        /// The ring of bits counts as a plain list would.
        #[test]
        fn opens_exactly_when_a_list_says_so(
            window in 1u32..=200,
            rate in 1u32..=100,
            outcomes in prop::collection::vec(any::<bool>(), 0..600),
        ) {
            let settings = CircuitBreaker {
                failure_rate: Percent::whole(rate), window, open_for: Period::secs(1),
            };
            let now = Instant::now();
            let (mut breaker, mut list) = (Breaker::default(), VecDeque::new());
            for failure in outcomes {
                let signal = if failure { Signal::Failure } else { Signal::Success };
                breaker.record(signal, false, &settings, now);
                list.push_back(failure);
                if list.len() > window as usize {
                    list.pop_front();
                }
                let failures = list.iter().filter(|f| **f).count();
                let expected = list.len() == window as usize && failures * 100 >= rate as usize * list.len();
                prop_assert_eq!(breaker.is_open(), expected);
                if expected {
                    break;
                }
            }
        }
    }
}
