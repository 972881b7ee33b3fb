//! The circle: observe, plan, store, tell, run; again whenever something changed.

use super::args::UpArgs;
use super::file::{Change, Watched};
use super::kubelet::Kubelet;
use super::output::Output;
use super::replica::Happening;
use super::seen;
use super::show::Show;
use super::store::Store;
use super::world::{self, Observed};
use crate::load::{self, Load};
use crate::view::EventView;
use anyhow::Context;
use jiff::Timestamp;
use outrigger_crds::ModelDeploymentSpec;
use outrigger_plan::{Declaration, Outcome, Phase, Plan, Replica, revision};
use outrigger_table::Server;
use outrigger_table::server::Reports;
use outrigger_verdict::Baselines;
use outrigger_wire::stream::Report;
use outrigger_wire::{
    DeploymentKey, EndpointId, EndpointReport, GatewayId, GatewayReport, Mistake, RevisionId,
};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};
use tokio::time::{MissedTickBehavior, interval};

/// Between two looks at the file and two pictures of the screen.
const LOOK: Duration = Duration::from_millis(250);
/// It is planned at least this often: what nobody reports (a gateway's stream that died) shows then.
const TICK: Duration = Duration::from_secs(1);
/// Transitions that may follow each other at once. A plan makes one at a time; a chain of more would be a circle of
/// its own, and is broken by the next tick.
const CHAIN: usize = 16;
/// Events that are kept for the screen.
const EVENTS: usize = 50;
/// Proxies whose reports are kept: one gateway; whoever else reports is not listened to.
const REPORTERS: usize = 16;

/// Everything that goes round.
pub(crate) struct Circle {
    pub(crate) key: DeploymentKey,
    pub(crate) spec: ModelDeploymentSpec,
    pub(crate) declared: RevisionId,
    pub(crate) file: Option<Watched>,
    pub(crate) show: Option<Show>,
    pub(crate) store: Store,
    pub(crate) kubelet: Kubelet,
    pub(crate) happenings: mpsc::Receiver<Happening>,
    pub(crate) table: Server,
    pub(crate) reports: Reports,
    pub(crate) wake: Arc<Notify>,
    pub(crate) output: Output,
    pub(crate) listen: SocketAddr,
    pub(crate) rate: Option<f64>,
    pub(crate) exit_when_settled: bool,
    pub(crate) round: Round,
}

/// What is remembered between two turns, and lost with the process.
#[derive(Default)]
pub(crate) struct Round {
    baselines: Baselines,
    gateways: BTreeMap<GatewayId, GatewayReport>,
    endpoints: BTreeMap<EndpointId, EndpointReport>,
    /// When each of them came: what they tell the age of is as old as that, and more.
    came: BTreeMap<EndpointId, Timestamp>,
    load: Option<Load>,
    events: VecDeque<EventView>,
    promoted: Option<RevisionId>,
    /// The gateway has had routes to a ready replica.
    served: bool,
    plan: Option<(Plan, Vec<Replica>)>,
    /// The state couldn't be written, in these words.
    unwritten: Option<String>,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Somebody asked for it.
    Asked,
    /// The deployment has settled.
    Settled(Outcome),
}

impl Circle {
    /// Goes round until it is asked to end or has settled.
    ///
    /// # Errors
    /// When load can't be sent.
    pub(crate) async fn run(&mut self, ask: &Notify) -> anyhow::Result<End> {
        let (mut look, mut tick) = (interval(LOOK), interval(TICK));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let wake = Arc::clone(&self.wake);
        let mut wake_at = Instant::now();
        loop {
            let due = tokio::time::sleep_until(wake_at.into());
            tokio::select! {
                () = ask.notified() => return Ok(End::Asked),
                report = self.reports.recv() => self.absorb(report),
                Some(happening) = self.happenings.recv() => self.tell(happening),
                () = wake.notified() => {}
                () = due => {}
                _ = tick.tick() => {}
                _ = look.tick() => {
                    let changed = self.look();
                    self.picture(false);
                    if !changed {
                        continue;
                    }
                }
            }
            wake_at = self.turn();
            self.round.served |= self.serves();
            self.picture(false);
            self.send_load()?;
            if let Some(outcome) = self.settled() {
                return Ok(End::Settled(outcome));
            }
        }
    }

    /// Everything that is to be done now; until when nothing more is, if nothing changes.
    fn turn(&mut self) -> Instant {
        let latest = Instant::now() + TICK;
        for _ in 0..CHAIN {
            let now = Timestamp::now();
            let Some(wake_at) = self.plan_once(now) else { return latest };
            match wake_at.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default()) {
                Some(Duration::ZERO) => {}
                Some(rest) => return latest.min(Instant::now() + rest),
                None => return latest,
            }
        }
        latest
    }

    /// One plan and its effects, in their order. `None` when the state can't be written: then nothing is done.
    fn plan_once(&mut self, now: Timestamp) -> Option<Option<Timestamp>> {
        let stored = match self.store.stored() {
            Some(stored) => stored.clone().declare(&self.spec),
            None => super::store::Stored::new(self.key.clone(), self.spec.clone()),
        };
        let round = &mut self.round;
        let mut replicas = self.kubelet.observe();
        for replica in &mut replicas {
            if let Some((report, came)) = round.endpoints.get(&replica.id).zip(round.came.get(&replica.id)) {
                replica.heard(report, *came, now);
            }
        }
        let observed = Observed {
            replicas: replicas.clone(),
            reports: &round.gateways,
            live: self.table.live_gateways(),
            gateway: self.kubelet.gateway_trouble(),
            baselines: &round.baselines,
        };
        let world = world::world(&stored, &self.spec, observed, now);
        let plan = outrigger_plan::plan_through(&world, now);
        if let Err(e) = self.store.write(stored.planned(&plan.status, &plan.revisions)) {
            self.unwritten(now, &e);
            return None;
        }
        round.unwritten = None;
        if plan.evidence_stored {
            round.baselines.stored(&self.key, now);
        }
        self.table.publish(vec![plan.routes.clone()]);
        self.table.publish_endpoints(plan.endpoints.clone());
        self.kubelet.set_max_drain(self.spec.serving.max_drain.0.get());
        self.kubelet.apply(&plan.workloads, &self.spec.model.name, now);
        for event in &plan.events {
            if event.reason == "Promoted" {
                round.promoted.clone_from(&plan.status.stable);
            }
            let (reason, message) = (event.reason.clone(), event.message.clone());
            round.events.push_back(EventView { at: now, warning: event.warning, reason, message });
        }
        round.endpoints.retain(|id, _| replicas.iter().any(|replica| replica.id == *id));
        round.came.retain(|id, _| round.endpoints.contains_key(id));
        while round.events.len() > EVENTS {
            round.events.pop_front();
        }
        let wake_at = plan.wake_at;
        round.plan = Some((plan, replicas));
        Some(wake_at)
    }

    fn unwritten(&mut self, now: Timestamp, error: &std::io::Error) {
        let words = format!("the state can't be written, so nothing is changed: {error}");
        if self.round.unwritten.as_ref() != Some(&words) {
            self.event(now, true, "StateUnwritten", words.clone());
            self.round.unwritten = Some(words);
        }
    }

    fn event(&mut self, at: Timestamp, warning: bool, reason: &str, message: String) {
        self.round.events.push_back(EventView { at, warning, reason: reason.to_owned(), message });
    }

    fn absorb(&mut self, report: Option<Report>) {
        match report {
            Some(Report::Gateway(report)) => {
                let round = &mut self.round;
                if round.gateways.len() < REPORTERS || round.gateways.contains_key(&report.gateway) {
                    round.baselines.absorb(&report, Timestamp::now());
                    round.gateways.insert(report.gateway.clone(), *report);
                }
            }
            Some(Report::Endpoint(report)) => {
                let before = self.round.endpoints.get(&report.endpoint).map(|before| before.engine);
                if before != Some(report.engine) {
                    self.kubelet.poke(&report.endpoint);
                }
                self.round.came.insert(report.endpoint.clone(), Timestamp::now());
                self.round.endpoints.insert(report.endpoint.clone(), *report);
            }
            None => {}
        }
    }

    /// Looks at the file, or at the show's script; whether something is declared anew.
    fn look(&mut self) -> bool {
        let now = Timestamp::now();
        if let Some(file) = &mut self.file {
            let name = file.path().display().to_string();
            return match file.look() {
                Change::Nothing => false,
                Change::Declared(declaration) => self.declare(&name, *declaration),
                Change::Broken(mistakes) => {
                    self.mistaken(now, &name, &mistakes);
                    false
                }
                Change::Gone(e) => {
                    let message = format!("{name} can't be read ({e}); what it said last stays");
                    self.event(now, true, "FileGone", message);
                    false
                }
            };
        }
        let serving =
            self.outcome() == Some(Outcome::Serving) && (self.round.load.is_some() || self.rate.is_none());
        let next = self.show.as_mut().and_then(|show| show.next(&self.spec, serving, Instant::now()));
        match next {
            Some(spec) => {
                self.set(spec);
                let message = "the example's engine was edited, as saving a changed file would";
                self.event(now, false, "Edited", message.to_owned());
                true
            }
            None => false,
        }
    }

    fn declare(&mut self, name: &str, declaration: Declaration) -> bool {
        let now = Timestamp::now();
        if declaration.key != self.key {
            let message = format!("{} runs here; another name needs another `outrigger up`", self.key);
            let mistakes = declaration.locate(vec![Mistake::new("metadata.name", message)]);
            self.mistaken(now, name, &mistakes);
            return false;
        }
        let before = (self.declared.clone(), self.spec.clone());
        self.set(declaration.spec);
        let message = match () {
            () if before.1 == self.spec => return false,
            () if before.0 == self.declared => "hot fields changed; nothing is restarted".to_owned(),
            () => format!("revision {} is asked for", self.declared),
        };
        self.event(now, false, "Edited", format!("{name}: {message}"));
        true
    }

    fn set(&mut self, spec: ModelDeploymentSpec) {
        self.declared = revision::of(&spec.engine);
        self.spec = spec;
    }

    fn mistaken(&mut self, now: Timestamp, name: &str, mistakes: &[Mistake]) {
        for mistake in mistakes {
            self.event(now, true, "FileMistaken", format!("{name}: {mistake}"));
        }
        self.event(now, true, "FileMistaken", format!("{name} is not taken; what it said before stays"));
    }

    fn tell(&mut self, happening: Happening) {
        let log = self.store.dirs.logs.display();
        let message = match happening.tail.last() {
            Some(last) => format!("{}; it said last: {last} (logs: {log})", happening.message),
            None => happening.message.clone(),
        };
        self.event(happening.at, happening.warning, happening.reason, message);
        self.picture(false);
        // Nobody reads any more: see `picture`.
        let _ = self.output.tail(&happening);
    }

    fn outcome(&self) -> Option<Outcome> {
        self.round.plan.as_ref().map(|(plan, _)| plan.outcome)
    }

    /// How it ended, where it is to end when it has settled.
    fn settled(&self) -> Option<Outcome> {
        let edited = self.show.as_ref().is_none_or(Show::is_edited);
        // What was planned must be about what is declared now.
        let outcome = self.outcome().filter(|_| self.exit_when_settled && edited)?;
        let (plan, _) = self.round.plan.as_ref()?;
        let current =
            self.store.stored().is_some_and(|s| Some(s.generation) == plan.status.observed_generation);
        let over = matches!(outcome, Outcome::Serving | Outcome::RolledBack | Outcome::Blocked);
        (over && current && self.store.stored().is_some_and(|s| s.spec == self.spec)).then_some(outcome)
    }

    /// Whether the gateway has routes to a ready replica of the revision that serves.
    fn serves(&self) -> bool {
        let Some((plan, replicas)) = &self.round.plan else { return false };
        let serial = plan.status.serial;
        let mut reports = self.round.gateways.values().filter_map(|report| report.deployments.get(&self.key));
        let of_stable = |replica: &Replica| Some(&replica.revision) == plan.status.stable.as_ref();
        reports.any(|deployment| deployment.serial == serial)
            && replicas.iter().any(|replica| replica.phase == Phase::Ready && of_stable(replica))
    }

    /// Load begins when somebody can answer it.
    fn send_load(&mut self) -> anyhow::Result<()> {
        let Some(rate) = self.rate.filter(|_| self.round.load.is_none() && self.round.served) else {
            return Ok(());
        };
        let target = format!("http://{}", self.listen).parse().context("the gateway's address")?;
        let config = load::Config { rate, ..load::Config::new(target, &self.spec.model.name) };
        self.round.load = Some(Load::start(config)?);
        Ok(())
    }

    /// Shows how it is now. When nobody reads any more, it goes on: what runs may be in use.
    pub(crate) fn picture(&mut self, stopping: bool) {
        let Some((plan, replicas)) = &self.round.plan else { return };
        let view = seen::view(seen::From {
            now: Timestamp::now(),
            deployment: &self.key,
            url: &format!("http://{}", self.listen),
            spec: &self.spec,
            declared: &self.declared,
            plan,
            replicas,
            reports: &self.round.endpoints,
            baselines: &self.round.baselines,
            load: self.round.load.as_ref(),
            events: self.round.events.iter().cloned().collect(),
            promoted: self.round.promoted.as_ref(),
            served: self.round.served,
            stopping,
        });
        let _ = self.output.show(view);
    }

    /// Ends everything in order.
    pub(crate) async fn stop(&mut self) {
        if let Some(load) = &self.round.load {
            load.halt();
        }
        self.picture(true);
        self.kubelet.stop().await;
    }
}

/// What the file says, or the example.
pub(crate) fn declared(args: &UpArgs) -> Result<(Option<Watched>, Declaration), Vec<Mistake>> {
    match &args.file {
        Some(path) => Watched::open(path).map(|(watched, declaration)| (Some(watched), declaration)),
        None => super::file::check(super::show::EXAMPLE.as_bytes()).map(|declaration| (None, declaration)),
    }
}
