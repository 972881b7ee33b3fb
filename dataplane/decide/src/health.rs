//! Whether the engine lives, judged by its progress: the ladder from a quiet moment to a restart.
//!
//! Busy is not dead. With work in flight, anything that moves is progress: a byte of an answer, an answer's end,
//! a counter of tokens, batches or scheduler iterations. Only when nothing has moved for
//! [`Settings::stall_after`] — longer while a long prompt has not been answered — is the engine stuck, and then
//! the ladder is climbed:
//!
//! 1. quiet for a quarter of the bound: the engine's counters are read;
//! 2. for half of it: it is asked for one small inference of its own, as a request that nobody waits for;
//! 3. for all of it: [`EngineState::Stalled`]; what has stood still for as long is aborted, new requests are
//!    refused;
//! 4. for half as long again: the engine's own probe is told to restart this incarnation, if the prepaid restart
//!    is left, or else when one is granted (see [`spend`]).
//!
//! Counters that can't be read are not counters that stand still: without them, the answer to that small
//! inference decides. An engine that refuses because it is busy is alive.
//!
//! An engine is ready when it has answered a real inference since it last started. A restart is noticed by a
//! refused connection, or by the end of a connection that is held open for this together with what it is found to
//! be then (see [`doubt`]): the engine's *incarnation* grows, and neither "warmed up" nor "stuck" is inherited.

use outrigger_wire::EngineState;
use std::time::{Duration, Instant};

mod doubt;
mod hold;
mod spend;
#[cfg(test)]
mod tests;
mod work;

use doubt::{Doubt, Stage};
use hold::Hold;
use spend::Spend;
pub use spend::{Ask, Order, PREPAID_EVERY};
pub use work::Work;

/// What is hot about the judgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// See [`outrigger_wire::serving::Health::stall_after`].
    pub stall_after: Duration,
    /// In this time one restart may be ordered without asking; absent: none ever.
    pub prepaid_every: Option<Duration>,
}

/// How often an engine that is up fails to answer its first inference before that is called a failure; with the
/// pauses between, some ten seconds. It is asked further.
const WARM_UPS: u32 = 8;

/// For each this many bytes of a request that has not had its first byte answered, the bound is a second longer:
/// about 500 tokens, which the slowest CPU engine prefills in that time.
const BYTES_PER_SECOND_OF_PREFILL: u64 = 2048;

/// How much longer an engine may be quiet over a request of this many bytes that has not been answered yet.
pub fn stretch(body_bytes: u64) -> Duration {
    Duration::from_millis(body_bytes.saturating_mul(1000) / BYTES_PER_SECOND_OF_PREFILL)
}

/// What is in the engine now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Requests given to it and not yet answered to the end.
    pub in_flight: u32,
    /// When something last moved; see [`Work::progress`].
    pub progress: Instant,
    /// The longest [`stretch`] of those that have not had their first byte.
    pub stretch: Duration,
}

/// How the engine answered something that it was asked by its own sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// As hoped.
    Good,
    /// It refused because it is busy (429, or 503 with Retry-After).
    Busy,
    /// It answered something else.
    Bad,
    /// It didn't answer in time, or the connection broke.
    Nothing,
}

/// How a connection to the engine went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dial {
    /// It was taken.
    Taken,
    /// It was refused: nobody listens.
    Refused,
    /// It failed otherwise, such as by taking too long; that says nothing about an engine whose connection is
    /// still held.
    Failed,
}

/// Something happened. Answers carry the incarnation that was asked, and are ignored when it is over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event {
    /// Nothing but time.
    Tick,
    /// The settings are now these.
    Settings(Settings),
    /// What [`Action::Dial`] came to.
    Dialled(Dial),
    /// The held connection ended.
    HoldEnded,
    /// A request's connection to the engine was refused.
    Refused,
    /// A request's connection to the engine broke while the engine had the request.
    Broke,
    /// What [`Action::AskReady`] came to.
    AskedReady(u64, Answer),
    /// What [`Action::WarmUp`] came to.
    WarmedUp(u64, Answer),
    /// What [`Action::Probe`] came to.
    Probed(u64, Answer),
    /// What [`Action::ReadCounters`] came to: the sum of everything that counts progress, if it can be read.
    Counted(u64, Option<f64>),
    /// What is in the engine now.
    Load(Load),
    /// The restart that was asked for by this number is granted; others' numbers mean nothing.
    Granted(u64),
}

/// What has to be done. Each is answered by the event of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Open a connection to the engine, and hold it instead of the one held so far.
    Dial,
    /// Ask the engine whether it is up.
    AskReady(u64),
    /// Make a real inference, for an engine that has just come up.
    WarmUp(u64),
    /// Make a small inference, to see whether a quiet engine still works.
    Probe(u64),
    /// Read the engine's counters.
    ReadCounters(u64),
    /// Abort every request that has had no byte for this long.
    Abort(Duration),
}

/// The engine has to be restarted: what its liveness probe is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restart {
    /// Which run of it.
    pub incarnation: u64,
    /// Why, in words without line breaks.
    pub reason: String,
}

/// What of the ladder concerns an engine that is up.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    probe: bool,
    counters: bool,
}

/// The judgement. Time is an argument; nothing here waits.
#[derive(Debug)]
pub struct Health {
    settings: Settings,
    state: EngineState,
    incarnation: u64,
    hold: Hold,
    /// Whether this still is the run that was warmed up, while that is not certain.
    doubt: Option<Doubt>,
    /// When a request's connection last broke.
    broke: Option<Instant>,
    /// When the engine is next asked whether it is up, or warmed up.
    next_ask: Option<Instant>,
    asking_since: Option<Instant>,
    failed_asks: u32,
    load: Load,
    /// Progress that was seen elsewhere than in answers' bytes.
    seen_progress: Instant,
    counters: Option<f64>,
    counters_known: bool,
    asked: Asked,
    stalled_since: Option<Instant>,
    restart: Option<Restart>,
    spend: Spend,
}

impl Health {
    /// Nothing is known yet, but for the restarts that a predecessor ordered, the newest last. Numbers of further
    /// ones count from `first_number`, drawn so that they are nobody else's.
    pub fn new(settings: Settings, ordered: Vec<Order>, first_number: u64, now: Instant) -> Self {
        Self {
            settings,
            state: EngineState::Starting,
            incarnation: 0,
            hold: Hold::new(now),
            doubt: None,
            broke: None,
            next_ask: None,
            asking_since: None,
            failed_asks: 0,
            load: Load { in_flight: 0, progress: now, stretch: Duration::ZERO },
            seen_progress: now,
            counters: None,
            counters_known: false,
            asked: Asked::default(),
            stalled_since: None,
            restart: None,
            spend: Spend::new(ordered, first_number),
        }
    }

    /// What the engine is doing.
    pub fn state(&self) -> EngineState {
        self.state
    }

    /// Which run of the engine this is, from 1; 0 before the first.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The restart that is ordered, while it is.
    pub fn restart(&self) -> Option<&Restart> {
        self.restart.as_ref()
    }

    /// The restarts that were ordered last, the newest at the end.
    pub fn orders(&self) -> &[Order] {
        self.spend.orders()
    }

    /// The restart that is asked for, while it is.
    pub fn asks(&self) -> Option<Ask> {
        self.spend.asks()
    }

    /// Whether the engine is up and has failed to answer a first inference for so long that it is at fault.
    pub fn warm_up_failed(&self) -> bool {
        self.state == EngineState::Warming && self.failed_asks >= WARM_UPS
    }

    /// For how long nothing has moved while work was in flight, and how long that may last.
    pub fn quiet(&self, now: Instant) -> (Duration, Duration) {
        let since = self.load.progress.max(self.seen_progress);
        (now.saturating_duration_since(since), self.bound())
    }

    /// Takes in what happened and says what to do.
    pub fn step(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Tick => {}
            Event::Settings(settings) => self.settings = settings,
            Event::Dialled(Dial::Taken) => self.connected(now),
            Event::Dialled(Dial::Failed) => self.dial_failed(now),
            Event::Dialled(Dial::Refused) => {
                self.hold.lost(now);
                self.hold.failed(now);
                self.gone();
            }
            Event::HoldEnded => self.hold_ended(now),
            Event::Broke => self.request_broke(now),
            Event::Refused => {
                self.hold.lost(now);
                self.gone();
            }
            Event::AskedReady(n, answer) if n == self.incarnation => {
                self.asked_ready(answer, now, &mut actions)
            }
            Event::WarmedUp(n, answer) if n == self.incarnation => self.warmed_up(answer, now),
            Event::Probed(n, answer) if n == self.incarnation => self.probed(answer, now),
            Event::Counted(n, counters) if n == self.incarnation => self.counted(counters, now),
            Event::Load(load) => self.load = load,
            Event::Granted(number) => self.granted(number, now),
            Event::AskedReady(..) | Event::WarmedUp(..) | Event::Probed(..) | Event::Counted(..) => {}
        }
        if self.hold.dial_due(now) {
            actions.push(Action::Dial);
        }
        match self.state {
            EngineState::Starting | EngineState::Warming => self.ask(now, &mut actions),
            EngineState::Ready | EngineState::Stalled => {
                self.ask(now, &mut actions);
                self.judge(now, &mut actions);
            }
            EngineState::Gone => {}
        }
        actions
    }

    /// When [`Event::Tick`] (or [`Event::Load`], where work is in flight) is due at the latest; `None`: only
    /// when something happens.
    pub fn wake_at(&self, now: Instant) -> Option<Instant> {
        let watching = match self.state {
            // An answer that is waited for comes by itself.
            EngineState::Starting | EngineState::Warming => {
                self.next_ask.filter(|_| self.asking_since.is_none())
            }
            EngineState::Ready if self.load.in_flight == 0 => None,
            // Often enough that each rung is climbed when it is due, seldom enough to cost nothing.
            EngineState::Ready | EngineState::Stalled => {
                let pause = self.settings.stall_after / 8;
                Some(now + pause.clamp(Duration::from_millis(50), Duration::from_secs(1)))
            }
            EngineState::Gone => None,
        };
        [watching, self.hold.wake_at()].into_iter().flatten().min()
    }
}

// === impl Health: coming up ===

/// Between two times of asking an engine that is not up yet: a quarter of a second at first, so that a fast one is
/// noticed, and at most two.
fn pause(failed: u32) -> Duration {
    Duration::from_millis(250 << failed.min(3))
}

impl Health {
    fn connected(&mut self, now: Instant) {
        self.hold.held(now);
        if matches!(self.state, EngineState::Starting | EngineState::Gone) && self.next_ask.is_none() {
            self.begin(now);
        }
        self.dialled_in_doubt(now);
    }

    /// A new run of the engine, of which nothing is known yet.
    fn begin(&mut self, now: Instant) {
        self.incarnation += 1;
        self.state = EngineState::Starting;
        self.failed_asks = 0;
        self.next_ask = Some(now);
        self.counters = None;
    }

    /// This run of the engine is over, as far as can be told. What was known of it holds no longer.
    fn gone(&mut self) {
        if self.incarnation > 0 {
            self.state = EngineState::Gone;
        }
        self.doubt = None;
        self.hold.forget();
        self.next_ask = None;
        self.asking_since = None;
        self.asked = Asked::default();
        self.stalled_since = None;
        self.restart = None;
        self.spend.settled();
    }

    fn ask(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.asking_since.is_none() && self.next_ask.is_some_and(|at| at <= now) {
            self.asking_since = Some(now);
            actions.push(match self.state {
                EngineState::Warming => Action::WarmUp(self.incarnation),
                _ if self.doubts(Stage::Inferring) => Action::WarmUp(self.incarnation),
                _ => Action::AskReady(self.incarnation),
            });
        }
    }

    fn ask_again(&mut self, now: Instant) {
        self.asking_since = None;
        self.next_ask = Some(now + pause(self.failed_asks));
        self.failed_asks = self.failed_asks.saturating_add(1);
    }

    fn asked_ready(&mut self, answer: Answer, now: Instant, actions: &mut Vec<Action>) {
        if self.doubts(Stage::Asking) {
            return self.asked_in_doubt(answer, now, actions);
        }
        if self.state != EngineState::Starting {
            return;
        }
        self.ask_again(now);
        if answer == Answer::Good {
            self.state = EngineState::Warming;
            self.failed_asks = 0;
            self.next_ask = Some(now);
            self.ask(now, actions);
        }
    }

    fn warmed_up(&mut self, answer: Answer, now: Instant) {
        if self.doubts(Stage::Inferring) {
            return self.inferred_in_doubt(answer, now);
        }
        if self.state != EngineState::Warming {
            return;
        }
        self.ask_again(now);
        if answer == Answer::Good {
            self.state = EngineState::Ready;
            self.next_ask = None;
            self.seen_progress = now;
        }
    }
}

// === impl Health: being up ===

impl Health {
    fn bound(&self) -> Duration {
        self.settings.stall_after.saturating_add(self.load.stretch)
    }

    fn judge(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let (quiet, bound) = self.quiet(now);
        if self.state == EngineState::Ready && self.load.in_flight == 0 {
            return;
        }
        if let Some(since) = self.stalled_since {
            // Bytes of requests that went on in spite of it show that it works.
            if self.load.progress.max(self.seen_progress) > since {
                return self.recovered();
            }
            self.order_restart(since, now);
        }
        if quiet * 4 >= bound && !self.asked.counters {
            self.asked.counters = true;
            actions.push(Action::ReadCounters(self.incarnation));
        }
        if quiet * 2 >= bound && !self.asked.probe {
            self.asked.probe = true;
            actions.push(Action::Probe(self.incarnation));
        }
        if quiet >= bound {
            if self.stalled_since.is_none() {
                self.stalled_since = Some(now);
                self.state = EngineState::Stalled;
            }
            if self.load.in_flight > 0 {
                actions.push(Action::Abort(self.settings.stall_after));
            }
        }
    }

    fn recovered(&mut self) {
        self.state = EngineState::Ready;
        self.stalled_since = None;
        self.spend.settled();
        if self.restart.take().is_some() {
            // Nobody restarted it, and it came back by itself: nothing was spent.
            self.spend.take_back();
        }
    }

    fn progressed(&mut self, now: Instant) {
        self.seen_progress = now;
        if self.stalled_since.is_some() {
            self.recovered();
        }
    }

    fn probed(&mut self, answer: Answer, now: Instant) {
        self.asked.probe = false;
        match answer {
            // An error is an answer too: the engine may be broken, it isn't stuck. That is the breaker's affair.
            Answer::Good | Answer::Bad => self.progressed(now),
            // While its counters stand still, "busy" proves only that the front of it lives.
            Answer::Busy if !self.counters_known => self.progressed(now),
            Answer::Busy | Answer::Nothing => {}
        }
    }

    fn counted(&mut self, counters: Option<f64>, now: Instant) {
        self.asked.counters = false;
        self.counters_known = counters.is_some();
        let Some(counters) = counters else { return };
        let before = self.counters.replace(counters);
        // The first reading has nothing to be compared with.
        if before.is_some_and(|before| before != counters) {
            self.progressed(now);
        }
    }
}
