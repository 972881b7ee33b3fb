//! Single worlds that tell something: `cases/*.yaml`, each with its plan beside it as a snapshot.

use crate::check::check;
use crate::plan::{Outcome, Plan, plan};
use crate::{Phase, World};
use jiff::Timestamp;
use outrigger_verdict::Delta;
use outrigger_wire::{BasisPoints, GAPS, GapCounts, RevisionReport, Stratum, StratumReport, document};
use std::path::Path;

fn now() -> Timestamp {
    "2026-11-21T08:00:00Z".parse().unwrap()
}

fn after(seconds: i64) -> Timestamp {
    now().checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap()
}

fn case(name: &str) -> (World, Plan) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tests/cases").join(format!("{name}.yaml"));
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let world = document::read_bytes::<World>(&bytes).unwrap_or_else(|m| panic!("{name}: {m:#?}")).value;
    let now = now();
    let planned = plan(&world, now);
    assert_eq!(check(&world, &planned, now), Vec::<String>::new(), "{name}");
    insta::with_settings!({snapshot_path => "cases", prepend_module_to_snapshot => false, omit_expression => true}, {
        insta::assert_yaml_snapshot!(name, shown(&planned));
    });
    (world, planned)
}

/// A plan without what other tests are about: the analysis' sums, and what each sidecar is told.
fn shown(plan: &Plan) -> serde_json::Value {
    let mut value = serde_json::to_value(plan).unwrap();
    for path in ["/status/canary/analysis", "/endpoints", "/routes/traffic", "/routes/timeouts", "/revisions"]
    {
        if let Some(place) = value.pointer_mut(path) {
            *place = "…".into();
        }
    }
    value
}

fn told(plan: &Plan) -> Vec<&str> {
    plan.events.iter().map(|event| event.reason.as_str()).collect()
}

fn replicas(plan: &Plan) -> Vec<u32> {
    plan.workloads.iter().map(|workload| workload.replicas).collect()
}

#[test]
fn the_first_revision_starts_and_serves_when_ready() {
    let (_, plan) = case("01_first_installation");
    assert_eq!((plan.outcome, plan.routes.stable.is_none()), (Outcome::Starting, true));
    assert_eq!(replicas(&plan), [2]);
    let (_, plan) = case("02_first_replica_ready");
    assert_eq!(told(&plan), ["Serving"]);
    assert_eq!(plan.routes.stable.map(|route| route.endpoints.len()), Some(1));
}

/// proves R.1
#[test]
fn a_canary_begins_without_weight() {
    let (world, plan) = case("03_another_engine");
    assert_eq!(told(&plan), ["CanaryStarted"]);
    assert_eq!(plan.routes.weight, BasisPoints::ZERO);
    assert!(plan.status.serial > world.status.serial);
    assert!(plan.evidence_stored, "what was counted before is not the canary's");
    // Superseded at 50 %: the write that ends the old canary begins the new one, at nothing.
    let (_, plan) = case("08_superseded");
    assert_eq!(told(&plan), ["CanaryStarted"]);
    assert_eq!(plan.routes.weight, BasisPoints::ZERO);
    assert_eq!(plan.status.canary.map(|canary| (canary.step, canary.step_reached)), Some((0, None)));
}

#[test]
fn a_step_is_held() {
    let (_, plan) = case("04_held");
    assert!(plan.waiting_for.iter().any(|waiting| waiting.what == "hold"));
    assert_eq!(plan.weights.observed, Some(BasisPoints::percent(10)));
    assert_eq!(plan.weights.programmed, Some(BasisPoints::percent(10)));
}

/// proves R.2
#[test]
fn weight_follows_ready_replicas() {
    let (_, plan) = case("05_lost_a_replica");
    assert_eq!(plan.routes.weight, BasisPoints::percent(25));
    assert!(told(&plan).contains(&"WeightLowered"));
    assert_eq!(plan.routes.canary.map(|route| route.endpoints.len()), Some(1));
}

/// proves R.3, R.12, R.17
#[test]
fn a_crashing_canary_is_out_of_the_routes_with_one_write() {
    let (mut world, planned) = case("06_crashes_again_and_again");
    assert_eq!(told(&planned), ["RolledBack"]);
    assert_eq!((planned.routes.canary, planned.routes.weight), (None, BasisPoints::ZERO));
    assert_eq!(planned.status.failed.len(), 1);
    // Where stable's engines crash too, it is the node's fault or a request's; and one restart is nobody's.
    world.replicas[0].restarts = world.replicas[2].restarts.clone();
    assert_eq!(plan(&world, now()).status.failed, []);
    world.replicas[0].restarts.clear();
    world.replicas[2].restarts.truncate(1);
    assert_eq!(plan(&world, now()).status.failed, []);
}

/// proves R.9
#[test]
fn reverting_ends_the_canary_and_skips_steps_only_when_warm() {
    let (_, plan) = case("07_reverted");
    assert!(plan.events.iter().any(|event| event.message.starts_with("rolled back (reverted)")));
    assert!(plan.status.failed.is_empty());
    assert_eq!(plan.routes.canary, None);
    let (world, plan) = case("13_back_while_warm");
    assert_eq!(plan.status.stable, world.status.previous.map(|previous| previous.revision));
    let (world, plan) = case("14_back_when_cold");
    assert_eq!(plan.status.stable, world.status.stable);
    assert_eq!(plan.routes.weight, BasisPoints::ZERO);
    assert_eq!(told(&plan), ["CanaryStarted"]);
}

/// proves R.6
#[test]
fn promotion_swaps_names_and_touches_no_replica() {
    let (world, plan) = case("09_takes_over");
    assert_eq!(told(&plan), ["Promoted"]);
    let canary = world.status.canary.unwrap().revision;
    assert_eq!(
        plan.routes.stable.map(|route| (route.revision, route.endpoints.len())),
        Some((canary.clone(), 2))
    );
    assert!(plan.workloads.iter().any(|workload| workload.revision == canary && workload.replicas == 2));
}

/// proves R.17
#[test]
fn what_cannot_be_had_blocks_and_what_does_not_start_fails() {
    let (_, plan) = case("10_blocked");
    assert_eq!((plan.outcome, told(&plan)), (Outcome::Blocked, vec!["Blocked"]));
    assert!(plan.status.message.starts_with("Blocked: port 9003 is in use"), "{}", plan.status.message);
    assert!(plan.status.failed.is_empty());
    let (_, plan) = case("11_no_progress");
    assert_eq!((plan.outcome, told(&plan)), (Outcome::RolledBack, vec!["RolledBack"]));
}

/// Said at once, in the same words everywhere: condition, event and message. Only those who wait for an outcome are
/// told at the deadline.
///
/// proves O.5
#[test]
fn what_is_lacking_is_told_at_once_and_room_that_is_being_made_is_not() {
    let (mut world, planned) = case("19_no_gpu");
    let condition = |plan: &Plan| {
        let found = plan.status.conditions.iter().find(|c| c.type_ == "Blocked").unwrap();
        (found.status.clone(), found.reason.clone(), found.message.clone(), found.observed_generation)
    };
    let words = "needs 1 × nvidia.com/gpu, 0 of 2 free";
    let told = ("True".to_owned(), "InsufficientResources".to_owned(), words.to_owned(), Some(1));
    assert_eq!(condition(&planned), told);
    assert_eq!(planned.status.message, format!("Blocked: {words}"));
    let event = planned.events.iter().find(|event| event.reason == "Blocked").unwrap();
    assert_eq!(event.message, words);
    assert_eq!(planned.outcome, Outcome::Starting, "a node may still come");
    world.status = planned.status.clone();
    let late = plan(&world, after(600));
    assert_eq!((late.outcome, condition(&late)), (Outcome::Blocked, told));
    // A replica that still drains has what is lacking, and gives it back.
    world.capacity.missing[0].blocks = false;
    let draining = plan(&world, after(1));
    assert_eq!(condition(&draining).0, "False");
    assert!(draining.status.message.contains(&format!("are ready: {words}")), "{}", draining.status.message);
    // An image is the revision's own fault: told at once, and a canary's is rolled back at the deadline.
    let (mut world, _) = case("11_no_progress");
    let said = "the image registry/engine:2 can't be pulled: not found";
    let lacking = world.replicas.iter_mut().filter(|replica| replica.phase != Phase::Ready);
    lacking.for_each(|replica| {
        let (reason, message) = ("ImageNotPulled".to_owned(), said.to_owned());
        replica.trouble = Some(crate::Trouble { reason, message, blocks: true });
    });
    let early = plan(&world, after(-600));
    assert_eq!((early.outcome, condition(&early).2.as_str()), (Outcome::RollingOut, said));
    let failed = plan(&world, now());
    assert!(failed.status.failed[0].reason.ends_with(&format!(": {said}")), "{:?}", failed.status.failed);
}

/// The first revision, which nothing can be rolled back to: it is said why, it is tried further, and what gets
/// ready after all serves.
#[test]
fn a_first_revision_that_never_starts_blocks_and_goes_on() {
    let (mut world, planned) = case("17_first_never_starts");
    assert_eq!((planned.outcome, told(&planned)), (Outcome::Blocked, vec!["Blocked"]));
    let message = &planned.events[0].message;
    assert!(message.contains("within 1m") && message.contains("exited with code 1: no weights"), "{message}");
    assert_eq!(replicas(&planned), [2], "it is tried further");
    assert_eq!(plan(&world, after(-1)).outcome, Outcome::Starting);
    assert_eq!(plan(&world, after(-1)).wake_at, Some(after(-1)), "the trouble is told before");
    world.status = planned.status;
    let again = plan(&world, after(5));
    assert_eq!((again.outcome, again.status == world.status), (Outcome::Blocked, true));
    // Begun anew, on one machine: the replicas are new and have the deadline of their own.
    let mut anew = world.clone();
    anew.replicas.iter_mut().for_each(|replica| replica.created = after(5));
    assert_eq!(plan(&anew, after(64)).outcome, Outcome::Starting);
    assert_eq!(plan(&anew, after(65)).outcome, Outcome::Blocked);
    anew.replicas.clear();
    assert_eq!(plan(&anew, after(5)).outcome, Outcome::Starting);
    (world.replicas[0].phase, world.replicas[0].trouble) = (Phase::Ready, None);
    let cleared = plan(&world, after(9));
    assert_eq!(told(&cleared), ["Serving", "Unblocked"]);
    assert_eq!(check(&world, &cleared, after(9)), Vec::<String>::new());
    assert!(cleared.status.stable.is_some());
}

/// What no gateway sends requests to serves nobody, whatever its replicas say.
#[test]
fn without_a_gateway_nothing_serves() {
    let (mut world, planned) = case("18_no_gateway");
    assert_eq!((planned.outcome, told(&planned)), (Outcome::Starting, vec![]));
    assert_eq!(planned.waiting_for[0].what, "gateways");
    world.status = planned.status;
    assert_eq!(plan(&world, now()).wake_at, Some(after(50)));
    let blocked = plan(&world, after(50));
    assert_eq!((blocked.outcome, told(&blocked)), (Outcome::Blocked, vec!["Blocked"]));
    let message = &blocked.events[0].message;
    assert!(message.contains("can't listen on 127.0.0.1:8080"), "{message}");
    // One that is connected and has old routes is no better; one that has left, neither.
    world.gateways[0].live = true;
    assert_eq!(plan(&world, after(50)).outcome, Outcome::Blocked);
    (world.gateways[0].live, world.gateways[0].serial) = (false, 2);
    assert_eq!(plan(&world, after(50)).outcome, Outcome::Blocked);
    world.status = blocked.status;
    world.gateways[0].live = true;
    let served = plan(&world, after(60));
    assert_eq!((served.outcome, told(&served)), (Outcome::Serving, vec!["Unblocked"]));
    // Lost long after the last change: the deadline counts from the loss.
    world.status = served.status;
    world.gateways[0].live = false;
    let lost = plan(&world, after(500));
    assert_eq!((lost.outcome, told(&lost)), (Outcome::Starting, vec![]));
    world.status = lost.status;
    assert_eq!(plan(&world, after(559)).outcome, Outcome::Starting);
    assert_eq!(plan(&world, after(560)).outcome, Outcome::Blocked);
}

/// proves R.4
#[test]
fn no_data_neither_promotes_nor_rolls_back() {
    let (_, plan) = case("12_nothing_known");
    assert_eq!(plan.status.canary.map(|canary| canary.step), Some(0));
    assert!(plan.status.failed.is_empty());
    let undecided = plan.status.conditions.iter().find(|c| c.type_ == "Undecided").unwrap();
    assert_eq!((undecided.status.as_str(), undecided.reason.as_str()), ("True", "NoData"));
}

/// proves R.18
#[test]
fn a_failed_revision_is_not_tried_again_by_itself() {
    let (_, plan) = case("15_failed_is_remembered");
    assert_eq!(plan.outcome, Outcome::RolledBack);
    assert_eq!(plan.status.canary, None);
    assert_eq!(plan.workloads.len(), 1);
}

/// proves R.13
#[test]
fn another_share_than_told_is_a_condition() {
    let (_, plan) = case("16_gateway_sends_otherwise");
    assert!(told(&plan).contains(&"WeightMismatch"));
    let (_, held) = case("04_held");
    assert!(!told(&held).contains(&"WeightMismatch"));
}

/// Replicas that gateways may still be sending to go on until these have acknowledged, or for five seconds.
#[test]
fn replicas_outlive_the_routes_to_them_until_gateways_know() {
    let (mut world, plan_now) = case("09_takes_over");
    let canary = world.status.canary.clone().unwrap().revision;
    world.status = plan_now.status;
    let old = |world: &World, at| {
        let planned = plan(world, at);
        assert_eq!(check(world, &planned, at), Vec::<String>::new());
        planned
            .workloads
            .iter()
            .find(|workload| workload.revision != canary)
            .map(|workload| workload.replicas)
    };
    assert_eq!(old(&world, after(1)), Some(2));
    assert_eq!(plan(&world, after(1)).wake_at, Some(after(5)));
    assert_eq!(old(&world, after(5)), None);
    world.gateways[0].serial = world.status.serial;
    assert_eq!(old(&world, after(1)), None);
}

/// An operator that starts anew, ten times in a row, plans the same: nothing of the rollout is in its memory.
///
/// proves R.7
#[test]
fn restarts_neither_advance_nor_repeat_a_step() {
    let (world, first) = case("04_held");
    let mut stored = world.clone();
    stored.status = first.status;
    for second in 0..10 {
        let planned = plan(&stored, after(second));
        assert_eq!(planned.status.canary.clone().map(|canary| canary.step), Some(0));
        assert_eq!(planned.status.canary, stored.status.canary);
        stored.status = planned.status;
    }
}

/// What gateways counted of a revision: this many requests, of which so many failed and so many were slow.
fn counted(requests: u64, failures: u64, slow: u64, beyond: u64) -> RevisionReport {
    let gaps = |events: u64| GapCounts { events: [events; GAPS.len()], trials: [requests; GAPS.len()] };
    let mut stratum = StratumReport {
        success: requests - failures,
        failure: failures,
        failures: gaps(failures),
        slow: gaps(slow),
        beyond: gaps(beyond),
        ..StratumReport::default()
    };
    (0..requests).for_each(|i| stratum.first_token.record(if i < slow { 22_000 } else { 12_000 }));
    RevisionReport { strata: [(Stratum::Short, stratum)].into(), ..RevisionReport::default() }
}

/// The tests of `outrigger-verdict` themselves decide here: a canary as good as stable passes the only step, one
/// that fails more often, or is slower, is rolled back.
#[test]
fn the_shipped_analysis_promotes_and_rolls_back() {
    let (mut world, _) = case("04_held");
    world.spec.spec.rollout.steps.truncate(1);
    let stable = counted(40_000, 400, 4_000, 1_000);
    for (canary, event) in [
        (counted(10_000, 100, 1_000, 250), "StepAdvanced"),
        (counted(10_000, 600, 1_000, 250), "RolledBack"),
        (counted(10_000, 100, 6_000, 5_000), "RolledBack"),
    ] {
        world.evidence.delta =
            Delta { reference: 1, stable: stable.clone(), canary, seconds: 10.0, gateways: 1 };
        let planned = plan(&world, after(31));
        assert_eq!(check(&world, &planned, after(31)), Vec::<String>::new());
        assert_eq!(told(&planned), [event], "{:#?}", planned.verdicts);
        assert!(planned.evidence_stored);
    }
}

/// proves R.19
#[test]
fn what_was_counted_is_stored_every_ten_seconds() {
    let (mut world, _) = case("04_held");
    world.evidence.delta = Delta {
        reference: 1,
        stable: counted(400, 4, 40, 10),
        canary: counted(100, 1, 10, 2),
        seconds: 1.0,
        gateways: 1,
    };
    let analysed = world.status.canary.clone().unwrap().analysed;
    let early = plan(&world, after(0));
    assert_eq!(early.status.canary.map(|canary| canary.analysed), Some(analysed));
    assert!(!early.evidence_stored);
    let due = plan(&world, after(5));
    assert!(due.evidence_stored);
    assert_eq!(due.status.canary.clone().map(|canary| canary.analysed), Some(after(5)));
    // A leader that begins anew from what was written goes on with the same sums, and nothing counts twice.
    let mut next = world.clone();
    next.status = due.status.clone();
    next.evidence.delta = Delta { gateways: 1, reference: 1, ..Delta::default() };
    let first: Vec<_> = plan(&next, after(6)).verdicts.iter().map(|v| (v.metric, v.evidence)).collect();
    let before: Vec<_> = due.verdicts.iter().map(|v| (v.metric, v.evidence)).collect();
    assert_eq!(first, before);
    let text = serde_json::to_string(&due.status.canary.map(|canary| canary.analysis)).unwrap();
    assert!(text.len() <= 4096, "the sums take {} bytes", text.len());
}

/// A status that was restored from a backup, and an object that replaces one of its name: gateways that know a higher
/// serial are overtaken, for they would refuse everything below it.
#[test]
fn a_serial_that_gateways_know_is_overtaken() {
    let (mut world, _) = case("04_held");
    let serial = world.status.serial;
    assert_eq!(plan(&world, now()).status.serial, serial);
    world.gateways[0].serial = serial + 7;
    let overtaken = plan(&world, now());
    assert_eq!((overtaken.status.serial, overtaken.routes.serial), (serial + 8, serial + 8));
    world.gateways[0].live = false;
    assert_eq!(plan(&world, now()).status.serial, serial, "nobody serves by that");

    let (mut anew, _) = case("01_first_installation");
    anew.status = Default::default();
    anew.spec.created = now();
    assert!(plan(&anew, now()).status.serial > now().as_millisecond() as u64);
}

/// proves O.1
#[test]
fn a_replica_of_a_silent_node_is_sent_to_and_counts_while_its_sidecar_is_heard() {
    let (mut world, settled) = case("02_first_replica_ready");
    world.status = settled.status;
    let lone = world.replicas.iter_mut().find(|replica| replica.phase == Phase::Ready).unwrap();
    lone.phase = Phase::Unheard;
    let mut heard = lone.clone();
    let silent = plan(&world, after(1));
    assert_eq!(silent.routes.stable.map(|route| route.endpoints.len()), Some(1));
    let available = silent.status.conditions.iter().find(|condition| condition.type_ == "Available");
    assert_eq!(available.unwrap().status, "False", "nobody knows whether it answers");

    let mut report = super::healing::report("replica-1", Default::default());
    heard.heard(&report, now(), after(20));
    assert_eq!(heard.phase, Phase::Unheard, "long ago");
    heard.heard(&report, now(), after(5));
    assert_eq!(heard.phase, Phase::Unheard, "its engine is stuck");
    report.engine = outrigger_wire::EngineState::Ready;
    heard.heard(&report, now(), after(5));
    assert_eq!(heard.phase, Phase::Ready);
}

/// What can't be made is told although all that is there is ready.
///
/// proves O.5
#[test]
fn a_refusal_is_told_while_everything_is_ready() {
    let (mut world, _) = case("16_gateway_sends_otherwise");
    let message = "services \"chat\" is forbidden: exceeded quota".to_owned();
    let refused = crate::Trouble { reason: "Refused".to_owned(), message: message.clone(), blocks: true };
    world.capacity.missing.push(refused);
    let planned = plan(&world, now());
    let degraded = planned.status.conditions.iter().find(|condition| condition.type_ == "Degraded").unwrap();
    assert_eq!((degraded.status.as_str(), degraded.reason.as_str()), ("True", "Refused"));
    assert!(planned.status.message.contains(&message), "{}", planned.status.message);
    assert!(told(&planned).contains(&"Refused"), "{:?}", told(&planned));
}
