//! The connection that is held open to notice the engine's restart.
//!
//! A connection on which nothing is sent ends when the process at the other end ends, so its end raises a doubt.
//! Many engines also close idle connections after a while, so the held one is replaced by a fresh one well before
//! [`USUAL_HOLD`], and there is always one whose end means something. An engine that is less patient gives itself
//! away when an end turns out not to have been a restart; from then on it is replaced before that time.

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
    /// How long the longest connection lasted of those whose ends are not explained yet.
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
        if self.ended_after.is_none() {
            self.pause = FIRST_PAUSE;
        }
        self.since = Some(now);
        self.renew();
    }

    fn renew(&mut self) {
        if let Some(since) = self.since {
            self.next_dial = (self.lasts >= SHORTEST_HOLD).then(|| since + self.lasts * 3 / 4);
        }
    }

    /// Whether there is a connection now.
    pub(super) fn is_held(&self) -> bool {
        self.since.is_some()
    }

    /// The ends were the engine's way with idle connections. One that was thought to leave none open is known
    /// better once one has lasted.
    pub(super) fn learn(&mut self) {
        let Some(lasted) = self.ended_after.take() else { return };
        let before = if self.lasts < SHORTEST_HOLD { USUAL_HOLD } else { self.lasts };
        self.lasts = before.min(lasted);
        self.pause = FIRST_PAUSE;
        if !self.dialling {
            self.renew();
        }
    }

    /// The ends say nothing about the engine's way with idle connections: it was gone.
    pub(super) fn forget(&mut self) {
        self.ended_after = None;
    }

    /// The engine didn't take the connection. One that is held still is.
    pub(super) fn failed(&mut self, now: Instant) {
        self.dialling = false;
        self.next_dial = Some(now + self.pause);
        self.pause = (self.pause * 3 / 2).min(LAST_PAUSE);
    }

    /// The held connection ended. Returns whether that may be the end of the engine.
    pub(super) fn ended(&mut self, now: Instant) -> bool {
        // One that was given up already says nothing more, and the next is under way.
        let Some(since) = self.since.take() else { return false };
        let lasted = now.saturating_duration_since(since);
        let short = lasted < SHORTEST_HOLD;
        if short && self.lasts < SHORTEST_HOLD {
            // Try again seldom: it may be another program by now.
            self.next_dial = Some(now + Duration::from_secs(60));
            return false;
        }
        self.next_dial = Some(now);
        if short && self.ended_after.is_some() {
            // One end after the other, before the first is explained.
            self.next_dial = Some(now + self.pause);
            self.pause = (self.pause * 3 / 2).min(LAST_PAUSE);
        }
        self.ended_after = self.ended_after.max(Some(lasted));
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
