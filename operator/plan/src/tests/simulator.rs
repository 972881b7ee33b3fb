//! A small applier and the world that it works on: replicas that start, fail and go, gateways that acknowledge.
//! It can be killed after every single effect.

use crate::plan::{Plan, plan_by, through};
use crate::rollout::{Judge, Rollout};
use crate::world::*;
use crate::{check, revision};
use jiff::{SignedDuration, Timestamp};
use outrigger_crds::{Engine, Model, ModelDeploymentSpec, ModelDeploymentStatus, Process, Scale};
use outrigger_verdict::{Delta, Metric, MetricVerdict, Settings, State, Verdict, Verdicts};
use outrigger_wire::{RevisionId, Routes};

/// What the analysis says of a variant of the engine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Says {
    Pass,
    Fail,
    Enough,
    TooFew,
    NoData,
    ProviderError,
}

const SAYINGS: [Says; 6] =
    [Says::Pass, Says::Fail, Says::Enough, Says::TooFew, Says::NoData, Says::ProviderError];

impl Says {
    pub(super) fn nth(n: u8) -> Self {
        SAYINGS[n as usize % SAYINGS.len()]
    }

    fn verdict(self) -> (Verdict, bool) {
        let undecided = Verdict::Undecided { samples: 1, needed: 9, eta: None };
        match self {
            Self::Pass => (Verdict::Pass, true),
            Self::Fail => (Verdict::Fail, true),
            Self::Enough => (undecided, true),
            Self::TooFew => (undecided, false),
            Self::NoData => (Verdict::NoData, false),
            Self::ProviderError => (Verdict::ProviderError, false),
        }
    }
}

/// Reads the verdicts out of the evidence, where [`Sim::world`] put them.
fn scripted(state: &State, delta: &Delta, _: &Settings) -> (State, Verdicts) {
    let of = |metric, n: u64| {
        let (verdict, enough) = Says::nth(n as u8).verdict();
        let reason = format!("{metric:?} {}", verdict.as_str());
        MetricVerdict {
            metric,
            verdict,
            canary: None,
            stable: None,
            evidence: 0.0,
            bound: 1.0,
            excluded: 0.0,
            enough,
            reason,
        }
    };
    let errors = of(Metric::Errors, u64::from(delta.canary.in_flight));
    (state.clone(), Verdicts(vec![errors, of(Metric::TimeToFirstToken, delta.canary.oldest_millis)]))
}

/// How a variant of the engine behaves.
#[derive(Clone, Debug)]
pub(super) struct Variant {
    /// Seconds until a replica is ready.
    pub(super) startup: i64,
    pub(super) errors: Says,
    pub(super) first_token: Says,
    /// Its replicas can't be had.
    pub(super) blocked: bool,
    /// Its replicas never get ready.
    pub(super) hopeless: bool,
    /// Its warm-up fails.
    pub(super) cold: bool,
}

impl Default for Variant {
    fn default() -> Self {
        let (errors, first_token) = (Says::Pass, Says::Pass);
        Self { startup: 3, errors, first_token, blocked: false, hopeless: false, cold: false }
    }
}

/// The simulated deployment.
#[derive(Clone)]
pub(super) struct Sim {
    pub(super) now: Timestamp,
    pub(super) declared: Declared,
    pub(super) status: ModelDeploymentStatus,
    pub(super) revisions: Vec<Revision>,
    pub(super) replicas: Vec<Replica>,
    pub(super) published: Option<Routes>,
    pub(super) gateways: Vec<Gateway>,
    /// Whether gateways take what is published.
    pub(super) listening: bool,
    pub(super) variants: Vec<Variant>,
    pub(super) first_tokens: u64,
    /// The annotation.
    pub(super) action: Option<String>,
    /// Actions that were ever asked for.
    asked: u32,
    /// Replicas that were ever started: no two have one name.
    started: usize,
    /// Draws whether the applier is killed after an effect; none: never.
    killer: Option<fastrand::Rng>,
    pub(super) kills: u32,
    pub(super) writes: u32,
}

pub(super) fn engine(variant: usize) -> Engine {
    let args = vec![format!("--variant={variant}")];
    Engine {
        process: Some(Process { command: "engine".into(), args, ..Process::default() }),
        ..Engine::default()
    }
}

pub(super) fn id(variant: usize) -> RevisionId {
    revision::of(&engine(variant))
}

impl Sim {
    pub(super) fn new(kill_seed: Option<u64>) -> Self {
        let spec = ModelDeploymentSpec {
            model: Model { name: "tiny".into(), aliases: Vec::new() },
            engine: engine(0),
            scale: Scale { replicas: 2 },
            serving: Default::default(),
            traffic: Default::default(),
            rollout: Default::default(),
        };
        let gateway = |name: &str| Gateway {
            id: name.into(),
            live: true,
            serial: 0,
            assigned_stable: 0,
            assigned_canary: 0,
            ejected: Vec::new(),
        };
        Self {
            now: "2026-11-21T08:00:00Z".parse().unwrap(),
            declared: Declared {
                key: "default/chat".into(),
                generation: 1,
                created: Default::default(),
                spec,
            },
            status: ModelDeploymentStatus::default(),
            revisions: Vec::new(),
            replicas: Vec::new(),
            published: None,
            gateways: vec![gateway("a"), gateway("b")],
            listening: true,
            variants: vec![Variant::default(); 4],
            first_tokens: 100,
            action: None,
            asked: 0,
            started: 0,
            killer: kill_seed.map(fastrand::Rng::with_seed),
            kills: 0,
            writes: 0,
        }
    }

    pub(super) fn edit(&mut self, change: impl FnOnce(&mut ModelDeploymentSpec)) {
        let mut spec = self.declared.spec.clone();
        change(&mut spec);
        if spec != self.declared.spec {
            self.declared.spec = spec;
            self.declared.generation += 1;
        }
    }

    pub(super) fn world(&self) -> World {
        let mut evidence = Evidence::default();
        (0..self.first_tokens).for_each(|_| evidence.stable_first_token.record(20_000));
        let variant = self.status.canary.as_ref().and_then(|canary| self.variant(&canary.revision));
        if let Some(variant) = variant {
            // Where nobody is sent, nothing is counted.
            let sent = self.status.weights.desired > outrigger_wire::BasisPoints::ZERO;
            let heard = |says| if sent { says } else { Says::NoData };
            let place = |says| SAYINGS.iter().position(|s| *s == heard(says)).unwrap_or_default();
            evidence.delta.canary.in_flight = place(variant.errors) as u32;
            evidence.delta.canary.oldest_millis = place(variant.first_token) as u64;
        }
        World {
            spec: self.declared.clone(),
            status: self.status.clone(),
            revisions: self.revisions.clone(),
            replicas: self.replicas.clone(),
            gateways: self.gateways.clone(),
            capacity: Capacity::default(),
            evidence,
            action: self.action.clone(),
        }
    }

    fn variant(&self, revision: &RevisionId) -> Option<&Variant> {
        (0..self.variants.len()).find(|n| id(*n) == *revision).map(|n| &self.variants[n])
    }

    /// Plans, with everything checked that must hold.
    pub(super) fn plan(&self) -> Plan {
        self.plan_in(&self.world())
    }

    fn plan_in(&self, world: &World) -> Plan {
        let judge = Judge { step: scripted, ..Judge::default() };
        let planned = plan_by(Rollout::new(world, self.now).judged_by(judge));
        let again = plan_by(Rollout::new(world, self.now).judged_by(judge));
        assert_eq!(planned, again, "the same world gave two plans");
        let broken = check::check(world, &planned, self.now);
        assert!(broken.is_empty(), "{broken:#?}\n{:#?}\n{:#?}", world.status, planned.status);
        planned
    }

    /// Every second moment by single transitions, else by as many as follow from each other at once.
    fn plan_some(&self) -> Plan {
        match self.now.as_second() % 2 {
            0 => self.plan(),
            _ => through(&self.world(), |world| self.plan_in(world)),
        }
    }

    /// Plans and applies until nothing is left to do at this time.
    pub(super) fn reconcile(&mut self) {
        for _ in 0..40 {
            let plan = self.plan_some();
            let before = (self.status.clone(), self.replicas.clone(), self.published.clone());
            let finished = self.apply(&plan);
            if finished && before == (self.status.clone(), self.replicas.clone(), self.published.clone()) {
                return;
            }
        }
        panic!("no end of planning: {:#?}", self.status);
    }

    /// Applies one effect after the other. False when killed in between: all that it had in memory is lost.
    fn apply(&mut self, plan: &Plan) -> bool {
        for kept in &plan.revisions {
            if !self.revisions.contains(kept) {
                self.revisions.push(kept.clone());
                if self.killed() {
                    return false;
                }
            }
        }
        if plan.status != self.status {
            self.writes += 1;
            self.status = stored(&plan.status);
            if self.killed() {
                return false;
            }
        }
        if self.publish(&plan.routes) && self.killed() {
            return false;
        }
        for (revision, wanted) in self.wanted(plan) {
            while self.alive(&revision) < wanted {
                self.start(&revision);
                if self.killed() {
                    return false;
                }
            }
            while self.alive(&revision) > wanted {
                self.stop(&revision);
                if self.killed() {
                    return false;
                }
            }
        }
        true
    }

    fn wanted(&self, plan: &Plan) -> Vec<(RevisionId, usize)> {
        let mut wanted: Vec<_> =
            plan.workloads.iter().map(|w| (w.revision.clone(), w.replicas as usize)).collect();
        for replica in &self.replicas {
            if !wanted.iter().any(|(revision, _)| *revision == replica.revision) {
                wanted.push((replica.revision.clone(), 0));
            }
        }
        wanted
    }

    /// Takes routes over as a gateway does. A lower serial is refused, and nobody may ever offer one.
    fn publish(&mut self, routes: &Routes) -> bool {
        if let Some(published) = &self.published {
            assert!(routes.serial >= published.serial, "the serial fell");
            if published == routes {
                return false;
            }
        }
        self.published = Some(routes.clone());
        self.acknowledge();
        true
    }

    pub(super) fn acknowledge(&mut self) {
        let Some(published) = self.published.as_ref().filter(|_| self.listening) else { return };
        for gateway in self.gateways.iter_mut().filter(|g| g.live && g.serial != published.serial) {
            gateway.serial = published.serial;
            (gateway.assigned_stable, gateway.assigned_canary) = (0, 0);
        }
    }

    fn killed(&mut self) -> bool {
        let killed = self.killer.as_mut().is_some_and(|killer| killer.u8(..4) == 0);
        self.kills += u32::from(killed);
        killed
    }

    fn alive(&self, revision: &RevisionId) -> usize {
        self.replicas.iter().filter(|r| r.revision == *revision && r.phase != Phase::Terminating).count()
    }

    fn start(&mut self, revision: &RevisionId) {
        self.started += 1;
        self.replicas.push(Replica {
            id: format!("replica-{}", self.started).as_str().into(),
            revision: revision.clone(),
            phase: Phase::Starting,
            address: Some(format!("127.0.0.1:{}", 9000 + self.started)),
            created: self.now,
            ready_since: None,
            restarts: Vec::new(),
            trouble: None,
            said: Default::default(),
        });
    }

    /// The newest one that isn't ready goes first.
    fn stop(&mut self, revision: &RevisionId) {
        let candidates = self.replicas.iter().enumerate();
        let of = candidates.filter(|(_, r)| r.revision == *revision && r.phase != Phase::Terminating);
        let worst = of.max_by_key(|(i, r)| (r.phase != Phase::Ready, *i)).map(|(i, _)| i);
        if let Some(replica) = worst.and_then(|i| self.replicas.get_mut(i)) {
            replica.phase = Phase::Terminating;
        }
    }

    /// Time passes: replicas get ready or don't, draining ones go.
    pub(super) fn pass(&mut self, seconds: i64) {
        self.now = self.now.checked_add(SignedDuration::from_secs(seconds)).unwrap();
        self.replicas.retain(|replica| replica.phase != Phase::Terminating);
        let variants: Vec<(RevisionId, Variant)> =
            self.variants.iter().enumerate().map(|(n, variant)| (id(n), variant.clone())).collect();
        let now = self.now;
        for replica in &mut self.replicas {
            let Some((_, variant)) = variants.iter().find(|(id, _)| *id == replica.revision) else {
                continue;
            };
            let trouble = |reason: &str, blocks| {
                Some(Trouble { reason: reason.into(), message: format!("{reason} of an engine"), blocks })
            };
            replica.trouble = match (variant.blocked, variant.cold) {
                (true, _) => trouble("PortInUse", true),
                (false, true) => trouble("WarmUpFailed", false),
                (false, false) => None,
            };
            let since = replica.restarts.last().copied().unwrap_or(replica.created).max(replica.created);
            let up = now.duration_since(since).as_secs() >= variant.startup;
            let ready = up && !variant.blocked && !variant.hopeless && !variant.cold;
            match (ready, replica.phase) {
                (true, Phase::Ready) => {}
                (true, _) => {
                    replica.phase = Phase::Ready;
                    replica.ready_since = Some(now);
                }
                (false, Phase::Ready) => replica.phase = Phase::Unready,
                (false, _) => {}
            }
        }
        self.acknowledge();
    }

    /// An engine crashes.
    pub(super) fn crash(&mut self, which: usize) {
        let now = self.now;
        if let Some(replica) = self.nth_alive(which).and_then(|i| self.replicas.get_mut(i)) {
            replica.restarts.push(now);
            replica.phase = Phase::Unready;
        }
    }

    /// A person asks: mostly of the present canary and step, sometimes of another, again, or in no known words.
    pub(super) fn ask(&mut self, verb: u8, how: u8) {
        self.asked += 1;
        let canary = self.status.canary.as_ref().map(|canary| (canary.revision.clone(), canary.step));
        let (revision, step) = canary.unwrap_or_else(|| (id(0), 0));
        let verb = ["promote", "pause", "resume", "abort", "delete"][verb as usize % 5];
        let n = self.asked;
        self.action = match how {
            0 => None,
            1 => Some(format!("{verb}@{revision}/{}/{n}", step + 1)),
            2 => Some(format!("{verb}@{}/{step}/{n}", id(3))),
            3 => Some(format!("{verb}@{revision}/{step}/{}", n / 2)),
            4 => Some("promote!".repeat(40)),
            _ => Some(format!("{verb}@{revision}/{step}/{n}")),
        };
    }

    /// A replica is gone, without a word.
    pub(super) fn vanish(&mut self, which: usize) {
        if let Some(i) = self.nth_alive(which) {
            self.replicas.remove(i);
        }
    }

    /// Whether replicas of this variant run that nobody wants any more.
    pub(super) fn leaving(&self, variant: usize) -> bool {
        let status = &self.status;
        let named = [&status.stable, &status.canary.as_ref().map(|canary| canary.revision.clone())];
        let kept = status.previous.as_ref().is_some_and(|previous| previous.revision == id(variant));
        let kept = kept || status.starting.as_ref().is_some_and(|starting| starting.revision == id(variant));
        !kept && !named.contains(&&Some(id(variant))) && self.alive(&id(variant)) > 0
    }

    /// The place of one living replica, the same one however often the applier was killed.
    fn nth_alive(&self, which: usize) -> Option<usize> {
        let all = self.replicas.iter().enumerate().filter(|(_, r)| r.phase != Phase::Terminating);
        let mut all: Vec<_> = all.map(|(i, replica)| (replica.revision.clone(), i)).collect();
        all.sort();
        all.get(which % all.len().max(1)).map(|(_, i)| *i)
    }

    /// The living replicas, to be compared.
    pub(super) fn shape(&self) -> Vec<(RevisionId, bool, Timestamp)> {
        let alive = self.replicas.iter().filter(|r| r.phase != Phase::Terminating);
        let mut all: Vec<_> =
            alive.map(|r| (r.revision.clone(), r.phase == Phase::Ready, r.created)).collect();
        all.sort();
        all
    }
}

/// What the store gives back of what was written.
fn stored(status: &ModelDeploymentStatus) -> ModelDeploymentStatus {
    let json: ModelDeploymentStatus = serde_json::from_str(&serde_json::to_string(status).unwrap()).unwrap();
    assert_eq!(json, *status, "the status did not survive being stored");
    json
}
