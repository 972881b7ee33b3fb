//! The restart budget over drawn histories: sidecars that get stuck, ask, are replaced; leaders that die between any
//! two effects.

use super::simulator::Sim;
use crate::healing;
use crate::world::{Phase, Replica, Said};
use crate::{Event, plan};
use jiff::{SignedDuration, Timestamp};
use outrigger_wire::{
    EndpointReport, EngineKind, EngineState, EngineTrouble, Period, RestartAsk, RestartOrder, Restarts,
};
use proptest::prelude::*;

const PREPAID_EVERY: i64 = 600;

/// An order as it was really made.
#[derive(Clone, Copy, Debug)]
struct Order {
    number: u64,
    at: Timestamp,
    granted: bool,
    /// When it first stood in the status.
    known: Option<Timestamp>,
}

/// A sidecar as it behaves.
#[derive(Clone, Debug)]
struct Sidecar {
    replica: Replica,
    stuck: bool,
    asks: Option<(u64, Timestamp)>,
    orders: Vec<Order>,
}

struct Fleet {
    sim: Sim,
    sidecars: Vec<Sidecar>,
    gone: Vec<Order>,
    next: u64,
}

#[derive(Clone, Debug)]
enum Op {
    Pass(i64),
    /// It gets stuck (if it isn't), and climbs its ladder to the end.
    Stick(usize),
    Recover(usize),
    SidecarRestarts(usize),
    PodReplaced(usize),
    Report(usize),
    /// The leader plans; it dies before (0) or after (1) the write, or tells everybody (2).
    Plan(u8),
    LeaderRestarts,
}

fn op(replicas: usize) -> impl Strategy<Value = Op> {
    let one = 0..replicas;
    prop_oneof![
        3 => (1i64..400).prop_map(Op::Pass),
        5 => one.clone().prop_map(Op::Stick),
        1 => one.clone().prop_map(Op::Recover),
        1 => one.clone().prop_map(Op::SidecarRestarts),
        1 => one.clone().prop_map(Op::PodReplaced),
        5 => one.prop_map(Op::Report),
        5 => (0u8..3).prop_map(Op::Plan),
        1 => Just(Op::LeaderRestarts),
    ]
}

fn replica(n: u64, now: Timestamp) -> Replica {
    Replica {
        id: format!("replica-{n}").as_str().into(),
        revision: super::simulator::id(0),
        phase: Phase::Ready,
        address: None,
        created: now,
        ready_since: None,
        restarts: Vec::new(),
        trouble: None,
        said: Said::default(),
    }
}

pub(super) fn report(id: &str, restarts: Restarts) -> EndpointReport {
    EndpointReport {
        endpoint: id.into(),
        incarnation: 1,
        sequence: 1,
        serial: 1,
        kind: EngineKind::Custom,
        engine: EngineState::Stalled,
        in_flight: 0,
        queued: 0,
        draining: false,
        restarts,
        trouble: None,
    }
}

impl Fleet {
    fn new(replicas: usize, per: u64, max: u32) -> Self {
        let mut sim = Sim::new(None);
        sim.edit(|spec| {
            spec.serving.health.restart_budget =
                outrigger_wire::serving::RestartBudget { per: Period::secs(per), max };
        });
        let mut fleet = Self { sim, sidecars: Vec::new(), gone: Vec::new(), next: 100 };
        for n in 0..replicas {
            let replica = replica(n as u64, fleet.sim.now);
            fleet.sidecars.push(Sidecar { replica, stuck: false, asks: None, orders: Vec::new() });
        }
        fleet
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn climb(&mut self, n: usize) {
        let (now, number) = (self.sim.now, self.number());
        let every = self.budget().0.max(SignedDuration::from_secs(PREPAID_EVERY));
        let sidecar = &mut self.sidecars[n];
        let spent = sidecar.orders.last().is_some_and(|order| now.duration_since(order.at) < every);
        if !sidecar.stuck {
            return;
        }
        if !spent {
            sidecar.orders.push(Order { number, at: now, granted: false, known: None });
            (sidecar.stuck, sidecar.asks) = (false, None);
        } else if sidecar.asks.is_none() {
            sidecar.asks = Some((number, now));
        }
    }

    fn budget(&self) -> (SignedDuration, usize) {
        let budget = self.sim.declared.spec.serving.health.restart_budget;
        (SignedDuration::try_from(budget.per.get()).unwrap(), budget.max as usize)
    }

    fn report(&mut self, n: usize) {
        let now = self.sim.now;
        let sidecar = &mut self.sidecars[n];
        let age = |at: Timestamp| now.duration_since(at).as_millis() as u64;
        let orders = sidecar.orders.iter().map(|o| RestartOrder { number: o.number, age_millis: age(o.at) });
        let asks =
            sidecar.asks.map(|(number, since)| RestartAsk { number, incarnation: 1, age_millis: age(since) });
        let said = Restarts { orders: orders.collect(), asks };
        sidecar.replica.heard(&report("x", said), now, now);
    }

    fn plan(&mut self, until: u8) {
        self.sim.replicas = self.sidecars.iter().map(|sidecar| sidecar.replica.clone()).collect();
        let planned = self.sim.plan();
        if until == 0 {
            return;
        }
        self.sim.status = planned.status.clone();
        let now = self.sim.now;
        for order in self.sidecars.iter_mut().flat_map(|s| &mut s.orders).filter(|o| o.known.is_none()) {
            let stands = planned.status.restarts.iter().any(|restart| restart.number == order.number);
            order.known = stands.then_some(now);
        }
        if until == 1 {
            return;
        }
        for config in planned.endpoints {
            let sidecar = self.sidecars.iter_mut().find(|s| s.replica.id == config.endpoint).unwrap();
            let asks = sidecar.asks.filter(|(number, _)| sidecar.stuck && config.grant == Some(*number));
            if let Some((number, _)) = asks {
                sidecar.orders.push(Order { number, at: now, granted: true, known: Some(now) });
                (sidecar.stuck, sidecar.asks) = (false, None);
            }
        }
    }

    fn act(&mut self, op: &Op) {
        match *op {
            Op::Pass(seconds) => {
                self.sim.now = self.sim.now.checked_add(SignedDuration::from_secs(seconds)).unwrap();
            }
            Op::Stick(n) => {
                self.sidecars[n].stuck = true;
                self.climb(n);
            }
            Op::Recover(n) => (self.sidecars[n].stuck, self.sidecars[n].asks) = (false, None),
            Op::SidecarRestarts(n) => {
                self.sidecars[n].asks = None;
                self.climb(n);
            }
            Op::PodReplaced(n) => {
                let replica = replica(self.number(), self.sim.now);
                let new = Sidecar { replica, stuck: false, asks: None, orders: Vec::new() };
                self.gone.extend(std::mem::replace(&mut self.sidecars[n], new).orders);
            }
            Op::Report(n) => self.report(n),
            Op::Plan(until) => self.plan(until),
            Op::LeaderRestarts => {
                self.sidecars.iter_mut().for_each(|sidecar| sidecar.replica.said = Said::default());
            }
        }
    }

    /// At each granted order: the orders before it that were granted too, or were known, are within the budget.
    fn check(&self) -> Result<(), TestCaseError> {
        let (per, max) = self.budget();
        let all: Vec<Order> =
            self.sidecars.iter().flat_map(|s| &s.orders).chain(&self.gone).copied().collect();
        for order in all.iter().filter(|order| order.granted) {
            let counts = |other: &&Order| {
                let recent = other.at <= order.at && order.at.duration_since(other.at) < per;
                recent && (other.granted || other.known.is_some_and(|known| known < order.at))
            };
            let counted = all.iter().filter(counts).count();
            prop_assert!(counted <= max, "{counted} of {max} at {}: {all:#?}", order.at);
        }
        Ok(())
    }
}

/// `PROPTEST_CASES` draws more than the test command has time for.
fn cases(few: u32) -> ProptestConfig {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let cases = if asked { ProptestConfig::default().cases } else { few };
    ProptestConfig { cases, max_shrink_iters: 2000, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(400))]

    /// proves H.5
    #[test]
    fn the_budget_holds_over_every_history(
        (replicas, ops) in (1usize..6).prop_flat_map(|n| (Just(n), prop::collection::vec(op(n), 1..120))),
        per in prop_oneof![Just(60u64), Just(600), Just(3600)],
        max in 0u32..5,
    ) {
        let mut fleet = Fleet::new(replicas, per, max);
        for op in &ops {
            fleet.act(op);
            fleet.check()?;
        }
        // And nobody is forgotten: all that are stuck get theirs, one after the other. What replicas that are gone
        // ordered counts for a minute longer, as nobody says when that was.
        for _ in 0..replicas + 1 {
            for n in 0..replicas {
                fleet.climb(n);
                fleet.report(n);
            }
            fleet.plan(2);
            fleet.check()?;
            fleet.act(&Op::Pass(per as i64 + 62));
        }
        let stuck = fleet.sidecars.iter().filter(|sidecar| sidecar.stuck).count();
        prop_assert!(stuck == 0 || max == 0, "{stuck} wait for ever: {:#?}", fleet.sidecars);
    }
}

/// What `Plan` is told by a leader that wrote, and died before it told anybody.
const UNTOLD: Op = Op::Plan(1);
const TOLD: Op = Op::Plan(2);

/// Numbers of the restarts that stand in the status, and the most that were really ordered in one `per`.
fn played(fleet: &mut Fleet, ops: &[Op]) -> Vec<u64> {
    for op in ops {
        fleet.act(op);
        fleet.check().unwrap();
    }
    fleet.sim.status.restarts.iter().map(|restart| restart.number).collect()
}

/// proves H.5
#[test]
fn a_grant_is_not_told_while_prepaid_ones_that_became_known_later_spend_the_budget() {
    use Op::{LeaderRestarts, Pass, Report, Stick};
    let mut fleet = Fleet::new(2, 3600, 2);
    let untold = [Stick(0), Stick(1), Stick(1), Report(1), UNTOLD];
    assert_eq!(played(&mut fleet, &untold), [102, 103]);
    assert_eq!(played(&mut fleet, &[LeaderRestarts, Report(0), Report(1), UNTOLD]).len(), 3);
    assert_eq!(played(&mut fleet, &[Pass(1), TOLD]).len(), 3);
    assert_eq!(fleet.sidecars[1].orders.len(), 1, "held back");
    // The prepaid ones are over: it is granted anew, and used.
    played(&mut fleet, &[Pass(3661), Report(0), Report(1), TOLD]);
    assert_eq!(fleet.sidecars[1].orders.last().map(|order| order.number), Some(103));
}

/// proves H.5
#[test]
fn a_grant_that_is_used_late_counts_from_its_use_even_when_that_is_never_reported() {
    use Op::{LeaderRestarts, Pass, PodReplaced, Report, Stick};
    for lost in [Report(1), LeaderRestarts, PodReplaced(0)] {
        let mut fleet = Fleet::new(2, 60, 1);
        let spend = [Stick(0), Stick(1), Report(0), Report(1), TOLD, Pass(122)];
        assert_eq!(played(&mut fleet, &spend).len(), 2);
        // Both ask; the first is granted, and hears of it when all but a moment of the budget's time has passed.
        let granted = played(&mut fleet, &[Stick(0), Report(0), UNTOLD, Pass(60), LeaderRestarts, TOLD]);
        assert_eq!(granted, [103], "{lost:?}");
        assert_eq!(fleet.sidecars[0].orders.len(), 2, "{lost:?}");
        let late = [lost.clone(), Stick(1), Report(1), Pass(58), TOLD];
        assert_eq!(played(&mut fleet, &late), [103], "{lost:?}");
        played(&mut fleet, &[Pass(64), Report(0), Report(1), TOLD, Pass(1), TOLD]);
    }
}

#[test]
fn the_longest_asking_is_granted_first_and_the_rest_is_told_why_it_waits() {
    let mut fleet = Fleet::new(3, 600, 2);
    let now = fleet.sim.now;
    let ago = |seconds| now.checked_sub(SignedDuration::from_secs(seconds)).unwrap();
    fleet.sim.replicas = fleet.sidecars.iter().map(|sidecar| sidecar.replica.clone()).collect();
    fleet.sim.replicas.iter_mut().for_each(|replica| replica.said.heard = true);
    fleet.sim.replicas[0].said.asks = Some((7, ago(5)));
    fleet.sim.replicas[1].said.asks = Some((7, ago(50)));
    fleet.sim.replicas[2].said.ordered = vec![(3, ago(100)), (1, ago(700))];
    let world = fleet.sim.world();
    let granted = healing::grants(&world, now);
    let found: Vec<_> = granted.iter().map(|g| (g.replica.as_str(), g.number, g.at)).collect();
    assert_eq!(found, [("replica-2", 3, ago(100)), ("replica-1", 7, now)]);
    let first = plan(&world, now);
    assert_eq!(first.status.restarts, granted);
    let told: Vec<_> = first.endpoints.iter().map(|config| config.grant).collect();
    assert_eq!(told, [None, Some(7), Some(3)]);
    fleet.sim.status = first.status.clone();
    let second = plan(&fleet.sim.world(), now);
    let waits = second.waiting_for.iter().find(|waiting| waiting.what == "restarts").unwrap();
    assert_eq!(
        waits.why,
        "the engine of replica-0 is stuck, and the restart budget is spent (2 of 2 within 10m)"
    );
    assert_eq!(waits.until, Some(now.checked_add(SignedDuration::from_secs(501)).unwrap()));
    assert!(second.wake_at <= waits.until);
    let told = |planned: &crate::Plan| -> Vec<String> {
        let of = |event: &Event| (event.reason == "EngineRestart").then(|| event.message.clone());
        planned.events.iter().filter_map(of).collect()
    };
    assert_eq!(told(&first).len(), 2);
    assert_eq!(
        told(&first)[1],
        "the engine of replica-1 is stuck and is restarted (2 restarts within 10m, 2 allowed)"
    );
    assert_eq!(told(&second), [""; 0], "once");
}

/// proves R.17
#[test]
fn a_warm_up_that_failed_is_the_replicas_trouble_unless_it_cannot_be_had_at_all() {
    let now = Timestamp::UNIX_EPOCH;
    let mut said = report("replica-1", Restarts::default());
    let message = "POST /v1/completions was answered 500".to_owned();
    said.trouble = Some(EngineTrouble { reason: "WarmUpFailed".into(), message });
    let mut found = replica(1, now);
    found.heard(&said, now, now);
    assert_eq!(found.trouble, None, "one that is ready gets on");
    found.phase = Phase::Starting;
    found.heard(&said, now, now);
    let trouble = found.trouble.clone().unwrap();
    assert_eq!((trouble.reason.as_str(), trouble.blocks), ("WarmUpFailed", false));
    found.trouble = Some(crate::Trouble { reason: "ImagePull".into(), message: String::new(), blocks: true });
    found.heard(&said, now, now);
    assert_eq!(found.trouble.unwrap().reason, "ImagePull");
}
