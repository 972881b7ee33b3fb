//! Since when the engine has had work without anything moving.

use std::time::Instant;

/// The clock of progress: it runs while work is in flight, and stands still while none is.
///
/// A request that its caller gave up is no progress. Were it any, a stuck engine whose callers give up one after
/// the other would never be noticed.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    in_flight: u32,
    progress: Instant,
    idle_since: Instant,
}

impl Work {
    /// No work yet.
    pub fn new(now: Instant) -> Self {
        Self { in_flight: 0, progress: now, idle_since: now }
    }

    /// A request is given to the engine.
    pub fn start(&mut self, now: Instant) {
        if self.in_flight == 0 {
            self.progress += now.saturating_duration_since(self.idle_since);
        }
        self.in_flight += 1;
    }

    /// A byte of an answer came.
    pub fn moved(&mut self, now: Instant) {
        self.progress = now;
    }

    /// A request ended; `answered` by the engine, or because its caller left or it was aborted.
    pub fn end(&mut self, answered: bool, now: Instant) {
        if answered {
            self.progress = now;
        }
        self.in_flight = self.in_flight.saturating_sub(1);
        if self.in_flight == 0 {
            self.idle_since = now;
        }
    }

    /// Requests in the engine.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// When something last moved, moved forward by the time in which nothing was there to move.
    pub fn progress(&self) -> Instant {
        self.progress
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn only_time_with_work_counts() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut work = Work::new(start);
        work.start(at(100));
        assert_eq!(work.progress(), at(100), "idle until then");
        work.end(false, at(110));
        work.start(at(200));
        assert_eq!(at(200) - work.progress(), Duration::from_secs(10), "ten seconds of quiet so far");
        work.moved(at(205));
        work.start(at(206));
        work.end(true, at(207));
        assert_eq!((work.progress(), work.in_flight()), (at(207), 1));
    }
}
