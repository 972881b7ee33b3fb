//! The connection that is held open to notice the engine's restart.
//!
//! A connection on which nothing is sent ends when the process at the other end ends, so its end is taken for a
//! restart. Some engines also close idle connections after a while, so the held one is replaced by a fresh one well
//! before [`USUAL_HOLD`], and there is always one whose end means something. An engine that is less patient is
//! given away by the next connection being taken at once; from then on it is replaced before that time.

use std::time::{Duration, Instant};

/// Between two attempts to connect, at first; a fast engine is up again in less.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Between two attempts to connect, at most. One client on its own machine needs no jitter.
const LAST_PAUSE: Duration = Duration::from_millis(500);
/// An engine that closes idle connections sooner than this can't be held on to: its restarts are noticed by
/// refused connections alone.
const SHORTEST_HOLD: Duration = Duration::from_secs(1);

/// How long nearly every server leaves a connection alone on which nothing was ever sent: hyper's time-out for a
/// request's head is 30 s, nginx's and gunicorn's are longer, uvicorn has none.
const USUAL_HOLD: Duration = Duration::from_secs(28);

#[derive(Debug)]
pub(super) struct Hold {
    /// When the present connection was taken; absent: there is none.
    since: Option<Instant>,
    dialling: bool,
    next_dial: Option<Instant>,
    pause: Duration,
    /// How long the last connection lasted that ended; forgotten where the engine was gone after it.
    ended_after: Option<Duration>,
    /// For how long the engine leaves an idle connection alone, as far as is known.
    lasts: Duration,
}

impl Hold {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: None,
            dialling: false,
            next_dial: Some(now),
            pause: FIRST_PAUSE,
            ended_after: None,
            lasts: USUAL_HOLD,
        }
    }

    /// Whether a connection has to be opened now.
    pub(super) fn dial_due(&mut self, now: Instant) -> bool {
        let due = !self.dialling && self.next_dial.is_some_and(|at| at <= now);
        if due {
            self.dialling = true;
            self.next_dial = None;
        }
        due
    }

    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.next_dial
    }

    /// The engine took the connection.
    pub(super) fn held(&mut self, now: Instant) {
        self.dialling = false;
        self.pause = FIRST_PAUSE;
        if let Some(lasted) = self.ended_after.take() {
            self.lasts = self.lasts.min(lasted);
        }
        self.since = Some(now);
        self.next_dial = (self.lasts >= SHORTEST_HOLD).then(|| now + self.lasts * 3 / 4);
    }

    /// The engine didn't take the connection. One that is held still is.
    pub(super) fn failed(&mut self, now: Instant) {
        self.dialling = false;
        self.next_dial = Some(now + self.pause);
        self.pause = (self.pause * 3 / 2).min(LAST_PAUSE);
    }

    /// The held connection ended. Returns whether that is taken for the end of the engine.
    pub(super) fn ended(&mut self, now: Instant) -> bool {
        let lasted = self.since.take().map(|since| now.saturating_duration_since(since));
        if self.lasts < SHORTEST_HOLD {
            // Try again seldom: it may be another program by now.
            self.next_dial = Some(now + Duration::from_secs(60));
            return false;
        }
        self.ended_after = lasted;
        self.next_dial = Some(now);
        true
    }

    /// Nobody listens there any more: the held connection, if there still is one, is no longer worth anything.
    pub(super) fn lost(&mut self, now: Instant) {
        self.since = None;
        self.ended_after = None;
        if !self.dialling {
            self.next_dial = Some(now);
        }
    }
}
