//! The rollout machine: which revision serves, which is tried, and how much of the traffic it gets.
//!
//! ```text
//! (nothing) ─► starting ─► stable ◄───────────── promoted ◄── Pass from each ──┐
//!                            │  ▲                                              │
//!              another engine│  │Fail, reverted, superseded                    │
//!                            ▼  │                                              │
//!                          canary: step 0 ─► step 1 ─► … ─► last step ─► implicit step of 100
//! ```
//!
//! One decision at a time: a plan makes at most one transition, the next one follows from the world in which that
//! was written. Elapsed time is taken from the status alone, so a restart neither advances nor repeats anything.

mod canary;
mod hands;
mod weights;

use canary::Next;
pub(crate) use canary::{Undecided, default_max_hold};

use crate::action::Asked;
use crate::plan::{Event, Waiting};
use crate::revision;
use crate::world::{Phase, Replica, World};
use jiff::{SignedDuration, Timestamp};
use outrigger_crds::status::{Previous, Starting, Weights};
use outrigger_crds::{Engine, ModelDeploymentStatus};
use outrigger_verdict::step::Health;
use outrigger_verdict::{Delta, MetricVerdict, Settings, Verdicts};
use outrigger_wire::{Period, RevisionId};

/// Gateways acknowledge new routes in well under a second; one that has not after this long is not waited for,
/// as it may be gone.
pub(crate) const ACKNOWLEDGE: Period = Period::secs(5);
/// The tests' sums are stored at most this often, so that a canary costs a few writes a minute.
const STORE: Period = Period::secs(10);
/// Failed revisions that are remembered: only the one that is declared now decides anything, the others are told
/// to people.
const MAX_FAILED: usize = 10;

/// Why replicas can't be had.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Blocked {
    /// One word: `InsufficientResources`, `PortInUse`, `NeverReady`, `NoGateway`.
    pub(crate) reason: String,
    /// `needs 1 × nvidia.com/gpu, 0 of 2 free`.
    pub(crate) message: String,
    /// Whether the progress deadline has passed: nobody need wait any longer.
    pub(crate) over: bool,
}

/// Who says whether a canary is worse.
#[derive(Clone, Copy)]
pub(crate) struct Judge {
    pub(crate) step: fn(&outrigger_verdict::State, &Delta, &Settings) -> (outrigger_verdict::State, Verdicts),
    pub(crate) health: fn(&Health, &Settings) -> MetricVerdict,
}

impl Default for Judge {
    /// The tests of `outrigger-verdict`.
    fn default() -> Self {
        Self { step: outrigger_verdict::step, health: outrigger_verdict::health }
    }
}

/// One planning: the world, and what became of its status so far.
pub(crate) struct Rollout<'a> {
    pub(crate) world: &'a World,
    pub(crate) now: Timestamp,
    /// The revision that the spec asks for.
    pub(crate) declared: RevisionId,
    /// The status as it becomes.
    pub(crate) status: ModelDeploymentStatus,
    pub(crate) verdicts: Verdicts,
    pub(crate) events: Vec<Event>,
    pub(crate) waiting: Vec<Waiting>,
    /// Times at which something may change by itself.
    pub(crate) edges: Vec<Timestamp>,
    pub(crate) evidence_stored: bool,
    /// Why replicas can't be had.
    pub(crate) blocked: Option<Blocked>,
    /// Why the canary stays at its step although `maxHold` has passed.
    pub(crate) undecided: Option<Undecided>,
    /// What a person asks of the canary, until it is done or refused.
    asked: Option<Asked>,
    /// Who judges.
    judge: Judge,
    /// The tests' sums with this world's evidence, not yet in the status.
    state: Option<outrigger_verdict::State>,
    /// Whether revisions or the step changed: the evidence is stored with it.
    transitioned: bool,
}

impl<'a> Rollout<'a> {
    pub(crate) fn new(world: &'a World, now: Timestamp) -> Self {
        Self {
            world,
            now,
            declared: revision::of(&world.spec.spec.engine),
            status: world.status.clone(),
            verdicts: Verdicts::default(),
            events: Vec::new(),
            waiting: Vec::new(),
            edges: Vec::new(),
            evidence_stored: false,
            blocked: None,
            undecided: None,
            asked: None,
            judge: Judge::default(),
            state: None,
            transitioned: false,
        }
    }

    /// The same with another judge: histories drawn in tests decide verdicts rather than count requests.
    #[cfg(test)]
    pub(crate) fn judged_by(self, judge: Judge) -> Self {
        Self { judge, ..self }
    }

    /// Brings the status to where this world leads, by at most one transition.
    pub(crate) fn decide(&mut self) {
        self.status.observed_generation = Some(self.world.spec.generation);
        self.forget_lost();
        self.hear();
        for failed in &mut self.status.failed {
            failed.withdrawn |= failed.revision != self.declared;
        }
        match self.status.stable.clone() {
            None => self.start(),
            Some(stable) => self.follow(&stable),
        }
        self.leave_unobeyed();
        self.expire_previous();
        self.weigh();
    }

    /// There is no stable revision: the declared one becomes it as soon as one of its replicas is ready. Nobody is
    /// served before, so there is nothing that a canary could spare.
    fn start(&mut self) {
        let declared = self.declared.clone();
        if self.status.starting.as_ref().is_none_or(|starting| starting.revision != declared) {
            self.status.starting = Some(Starting { revision: declared.clone(), since: self.now });
            self.transitioned = true;
            let replicas = self.world.spec.spec.scale.replicas;
            let message = format!("starting revision {declared} with {}", counted(replicas, "replica"));
            self.events.push(Event::normal("Starting", message));
            return;
        }
        if self.ready(&declared) > 0 || self.world.spec.spec.scale.replicas == 0 {
            self.status.starting = None;
            self.status.stable = Some(declared.clone());
            self.transitioned = true;
            self.events.push(Event::normal("Serving", format!("revision {declared} is ready and serves")));
        }
    }

    /// There is a stable revision: the declared one is it, was it just before, has failed, or is to be tried.
    fn follow(&mut self, stable: &RevisionId) {
        let tried = self.status.canary.as_ref().map(|canary| canary.revision.clone());
        if self.declared == *stable {
            if let Some(tried) = tried {
                self.end_canary();
                let message = format!(
                    "rolled back (reverted): the spec asks for {stable} again, {tried} is not tried further"
                );
                self.events.push(Event::normal("RolledBack", message));
            }
        } else if self.previous_is_warm() {
            self.swap_back(stable);
        } else if self.has_failed() {
            // Remembered: it is not tried again until the spec asks for something else in between.
        } else if self.world.spec.spec.scale.replicas == 0 && tried.is_none() {
            let message =
                format!("revision {} replaces {stable}: there are no replicas to try it on", self.declared);
            self.promote(stable, message);
        } else if tried.as_ref() == Some(&self.declared) {
            self.judge(stable);
        } else {
            self.begin(stable, tried);
        }
    }

    /// What the status names and nobody has kept can't be run.
    fn forget_lost(&mut self) {
        if let Some(stable) = self.status.stable.clone().filter(|id| self.engine(id).is_none()) {
            self.status.stable = None;
            self.end_canary();
            let message = format!(
                "what revision {stable} runs is no longer known; starting over with {}",
                self.declared
            );
            self.events.push(Event::warning("RevisionLost", message));
        }
        if self.status.previous.as_ref().is_some_and(|previous| self.engine(&previous.revision).is_none()) {
            self.status.previous = None;
        }
    }

    /// Whether replicas can't be had and the progress deadline has passed.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked.as_ref().is_some_and(|blocked| blocked.over)
    }

    /// Whether the declared revision was rolled back and the spec has asked for nothing else since.
    pub(crate) fn has_failed(&self) -> bool {
        self.status.failed.iter().any(|failed| failed.revision == self.declared && !failed.withdrawn)
    }

    /// Whether the declared revision was stable just before and can take all traffic at once.
    fn previous_is_warm(&self) -> bool {
        let Some(previous) = &self.status.previous else { return false };
        let all = self.world.spec.spec.scale.replicas;
        previous.revision == self.declared
            && self.now < self.window_end(previous)
            && all > 0
            && self.ready(&previous.revision) >= all
    }

    fn window_end(&self, previous: &Previous) -> Timestamp {
        after(previous.until, self.world.spec.spec.rollout.rollback_window)
    }

    fn swap_back(&mut self, stable: &RevisionId) {
        let declared = self.declared.clone();
        self.end_canary();
        self.status.previous = Some(Previous { revision: stable.clone(), until: self.now });
        self.status.stable = Some(declared.clone());
        let message = format!("revision {declared} serves again at once: its replicas were still ready");
        self.events.push(Event::normal("Promoted", message));
    }

    /// The canary's revision, or a first one, takes over: a swap of names, no replica is touched.
    fn promote(&mut self, stable: &RevisionId, message: String) {
        let window = self.world.spec.spec.rollout.rollback_window;
        let declared = self.declared.clone();
        self.end_canary();
        self.status.previous =
            (window > Period::default()).then(|| Previous { revision: stable.clone(), until: self.now });
        self.status.failed.retain(|failed| failed.revision != declared);
        self.status.stable = Some(declared);
        self.events.push(Event::normal("Promoted", message));
    }

    /// Takes the canary out of the routes at once, whatever it and stable are doing.
    fn end_canary(&mut self) {
        self.status.canary = None;
        self.status.weights = Weights::default();
        self.state = None;
        self.transitioned = true;
        // What it waited for, nobody waits for any more.
        (self.blocked, self.undecided) = (None, None);
        self.waiting.clear();
        self.edges.clear();
    }

    /// The replaced revision's replicas are kept for the window, and never beside a canary.
    fn expire_previous(&mut self) {
        let Some(previous) = &self.status.previous else { return };
        let end = self.window_end(previous);
        if self.now >= end || self.status.canary.is_some() {
            self.status.previous = None;
        } else {
            self.edges.push(end);
        }
    }

    /// Grows the serial when anything changed of what proxies are told, but for endpoints. Gateways refuse a lower
    /// serial than they know, so one that is ahead was told by somebody whose word is lost (a status that was restored
    /// from a backup, an object of the same name that is gone): it is overtaken.
    pub(crate) fn seal(&mut self) {
        let (then, now) = (&self.world.status, &self.status);
        let ahead = self.world.gateways.iter().filter(|gateway| gateway.live).map(|gateway| gateway.serial);
        let ahead = ahead.max().filter(|serial| *serial > then.serial);
        let same = then.observed_generation == now.observed_generation
            && then.stable == now.stable
            && then.canary.as_ref().map(|c| &c.revision) == now.canary.as_ref().map(|c| &c.revision)
            && then.weights.desired == now.weights.desired
            && then.reference == now.reference;
        if !same || ahead.is_some() {
            let known = then.serial.max(ahead.unwrap_or(0)).max(self.first_serial());
            self.status.serial = known.saturating_add(1);
            self.status.changed = Some(self.now);
            self.status.weights.programmed = None;
            self.status.weights.observed = None;
        }
    }

    /// Where serials begin: at the milliseconds of the declaration, which no serial of a former object of this name has
    /// reached. It would have had to change a thousand times a second.
    fn first_serial(&self) -> u64 {
        u64::try_from(self.world.spec.created.as_millisecond()).unwrap_or(0)
    }

    /// The status to write. Numbers that move with every request alone are no reason to write one more often than
    /// every ten seconds.
    pub(crate) fn settle(&mut self) -> ModelDeploymentStatus {
        let then = &self.world.status;
        // That gateways have heard of routes without a canary is worth no write of its own.
        if self.status.canary.is_none() {
            self.status.weights.programmed = None;
        }
        let mut calm = self.status.clone();
        calm.message.clone_from(&then.message);
        calm.verdicts.clone_from(&then.verdicts);
        calm.weights.observed = then.weights.observed;
        let moved = calm != *then;
        let stored = then.canary.as_ref().map(|canary| canary.analysed);
        let due = stored.is_none_or(|stored| !within(self.now, stored, STORE));
        let news = self.state.is_some() || self.status != calm;
        if self.transitioned || (due && news) {
            let now = self.now;
            let state = self.state.take();
            self.evidence_stored = self.transitioned || state.is_some();
            if let Some(canary) = self.status.canary.as_mut().filter(|_| self.evidence_stored) {
                canary.analysed = now;
                canary.analysis = state.unwrap_or_else(|| canary.analysis.clone());
            }
            return self.status.clone();
        }
        if let Some(stored) = stored.filter(|_| news) {
            self.edges.push(after(stored, STORE));
        }
        if moved { self.status.clone() } else { then.clone() }
    }

    // === What the world says ===

    /// What a revision's replicas run.
    pub(crate) fn engine(&self, id: &RevisionId) -> Option<&'a Engine> {
        if *id == self.declared {
            return Some(&self.world.spec.spec.engine);
        }
        self.world.revisions.iter().find(|revision| revision.id == *id).map(|revision| &revision.engine)
    }

    /// The replicas of a revision, those that go excepted.
    pub(crate) fn replicas(&self, id: &RevisionId) -> impl Iterator<Item = &'a Replica> + use<'a> {
        let id = id.clone();
        self.world.replicas.iter().filter(move |r| r.revision == id && r.phase != Phase::Terminating)
    }

    /// How many replicas of a revision may be sent to.
    pub(crate) fn ready(&self, id: &RevisionId) -> u32 {
        self.replicas(id).filter(|r| r.phase == Phase::Ready && r.address.is_some()).count() as u32
    }

    /// Whether every gateway whose stream lives works by the routes that stand, or has had time to.
    pub(crate) fn acknowledged_or_late(&self) -> bool {
        // Routes that are not even written yet are acknowledged by nobody.
        if self.status.serial != self.world.status.serial {
            return false;
        }
        let late = self.acknowledge_by().is_none_or(|by| self.now >= by);
        late || self.acknowledged()
    }

    /// Whether every gateway whose stream lives works by the routes that stand.
    pub(crate) fn acknowledged(&self) -> bool {
        let serial = self.world.status.serial;
        self.world.gateways.iter().filter(|gateway| gateway.live).all(|gateway| gateway.serial >= serial)
    }

    /// Whether some gateway whose stream lives works by the routes that stand: one is enough to serve.
    pub(crate) fn reached(&self) -> bool {
        let serial = self.status.serial;
        self.world.status.serial == serial
            && self.world.gateways.iter().any(|gateway| gateway.live && gateway.serial >= serial)
    }

    /// Until when acknowledgements are waited for.
    pub(crate) fn acknowledge_by(&self) -> Option<Timestamp> {
        self.status.changed.map(|changed| after(changed, ACKNOWLEDGE))
    }
}

/// `time` + `period`; the end of time where that is beyond it.
pub(crate) fn after(time: Timestamp, period: Period) -> Timestamp {
    SignedDuration::try_from(period.get())
        .ok()
        .and_then(|period| time.checked_add(period).ok())
        .unwrap_or(Timestamp::MAX)
}

/// Whether less than `period` has passed since `then`. A clock that was set back far does not stop everything
/// until it has caught up: then it has.
pub(crate) fn within(now: Timestamp, then: Timestamp, period: Period) -> bool {
    now < after(then, period) && then <= after(now, period)
}

/// `1 replica`, `2 replicas`.
pub(crate) fn counted(n: u32, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}
