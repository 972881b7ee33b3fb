//! What the end of the held connection means: that the engine ended, or only that it closes idle connections.
//!
//! The two look alike where the next connection is taken at once. Most servers close idle connections, many after
//! five seconds, so a ready engine stays ready and keeps its incarnation while it is found out:
//!
//! - the next connection is refused or fails: the engine is gone;
//! - a request's connection broke at the same moment: the process ended, for that ends all its connections;
//! - work was in it and did not break: it is the same process, however slow its answers are;
//! - else its readiness is asked, and one inference is made, while it goes on serving. A new run that is not up yet
//!   fails one of them and is warmed up like any other. One that passes both has answered an inference, which is
//!   what ready means.
//!
//! While the engine is not ready anyway, an end costs nothing and decides nothing: what is asked then is asked of
//! whichever run is there. An engine that is stuck is what a restart is expected of, so there an end is taken for
//! one.

use super::{Action, Answer, EngineState, Health};
use std::time::{Duration, Instant};

/// How far apart a process's connections are seen to end, at most: the kernel ends them all at once, and the
/// threads that notice it may be late on a busy machine.
const SAME_MOMENT: Duration = Duration::from_secs(1);

/// How far a doubt has been followed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The next connection has not been taken yet.
    Dialling,
    /// Its readiness is asked.
    Asking,
    /// It makes an inference.
    Inferring,
}

/// The held connection ended, and it is not clear why.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doubt {
    /// When it ended, the last time if several did.
    ended: Instant,
    /// Whether work was in the engine at that time.
    working: bool,
    stage: Stage,
}

impl Health {
    /// Whether there is a doubt at this stage about an engine that was ready; it may have become stuck since.
    pub(super) fn doubts(&self, stage: Stage) -> bool {
        let was_ready = matches!(self.state, EngineState::Ready | EngineState::Stalled);
        was_ready && self.doubt.is_some_and(|doubt| doubt.stage == stage)
    }

    pub(super) fn hold_ended(&mut self, now: Instant) {
        if !self.hold.ended(now) {
            return;
        }
        let broke = self.broke.is_some_and(|at| now.saturating_duration_since(at) <= SAME_MOMENT);
        match self.state {
            EngineState::Gone => {}
            EngineState::Stalled => self.gone(),
            EngineState::Ready if broke => self.gone(),
            EngineState::Starting | EngineState::Warming | EngineState::Ready => {
                // A question that is under way is answered by whichever run is there.
                let stage = self.doubt.map_or(Stage::Dialling, |doubt| doubt.stage);
                self.doubt = Some(Doubt { ended: now, working: self.load.in_flight > 0, stage });
            }
        }
    }

    /// The connection that was to tell is there.
    pub(super) fn dialled_in_doubt(&mut self, now: Instant) {
        let Some(doubt) = &mut self.doubt else { return };
        if self.state != EngineState::Ready {
            self.doubt = None;
            self.hold.learn();
        } else if doubt.stage == Stage::Dialling {
            doubt.stage = Stage::Asking;
            self.next_ask = Some(now);
        }
    }

    pub(super) fn dial_failed(&mut self, now: Instant) {
        let lost = self.doubt.is_some() && !self.hold.is_held();
        if lost {
            self.hold.lost(now);
        }
        self.hold.failed(now);
        if lost {
            self.gone();
        }
    }

    pub(super) fn request_broke(&mut self, now: Instant) {
        self.broke = Some(now);
        let same = |doubt: Doubt| now.saturating_duration_since(doubt.ended) <= SAME_MOMENT;
        if self.state == EngineState::Ready && self.doubt.is_some_and(same) {
            self.restarted(now);
        }
    }

    pub(super) fn asked_in_doubt(&mut self, answer: Answer, now: Instant, actions: &mut Vec<Action>) {
        self.asking_since = None;
        self.next_ask = None;
        let Some(doubt) = &mut self.doubt else { return };
        match answer {
            Answer::Good | Answer::Busy => {
                doubt.stage = Stage::Inferring;
                self.hold.learn();
                self.next_ask = Some(now);
                self.ask(now, actions);
            }
            // Its work went on: a process that is busy with it may be late with all else.
            Answer::Nothing if doubt.working => self.believed(),
            Answer::Nothing | Answer::Bad => self.restarted(now),
        }
    }

    pub(super) fn inferred_in_doubt(&mut self, answer: Answer, now: Instant) {
        match answer {
            Answer::Good => {
                self.believed();
                self.progressed(now);
            }
            Answer::Busy => self.believed(),
            // It says that it is up; whether it is stuck is for the ladder to find out.
            Answer::Nothing if self.load.in_flight > 0 || self.state == EngineState::Stalled => {
                self.believed()
            }
            Answer::Nothing | Answer::Bad => self.restarted(now),
        }
    }

    /// It was the same run, or one that is as good.
    fn believed(&mut self) {
        self.doubt = None;
        self.hold.learn();
        self.asking_since = None;
        self.next_ask = None;
    }

    /// It is another run, and has to be warmed up.
    fn restarted(&mut self, now: Instant) {
        self.gone();
        if self.hold.is_held() {
            self.begin(now);
        }
    }
}
