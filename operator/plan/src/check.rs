//! What holds of every world and its plan: the rollout's contract, said once. Tests assert it after every step of
//! drawn histories; whoever applies plans may assert it before.

use crate::action::{self, Asked, Verb};
use crate::plan::Plan;
use crate::rollout::{Rollout, after, default_max_hold, within};
use crate::world::{Phase, World};
use crate::{revision, routes};
use jiff::Timestamp;
use outrigger_crds::status::Canary;
use outrigger_crds::{ModelDeploymentStatus, OnUndecided};
use outrigger_verdict::Verdict;
use outrigger_wire::{BasisPoints, Period, RevisionRoute};

/// Everything about this plan of this world that must not be, in sentences; nothing when all is well.
pub fn check(world: &World, plan: &Plan, now: Timestamp) -> Vec<String> {
    let mut found = Broken(Vec::new());
    let before = &world.status;
    serial(before, &plan.status, &mut found);
    weights(world, plan, now, &mut found);
    canary(world, plan, now, &mut found);
    stable(world, plan, now, &mut found);
    routed(world, plan, &mut found);
    workloads(world, plan, now, &mut found);
    hands(world, plan, &mut found);
    written(world, plan, now, &mut found);
    found.0
}

struct Broken(Vec<String>);

impl Broken {
    fn unless(&mut self, holds: bool, sentence: &str) {
        if !holds {
            self.0.push(sentence.to_owned());
        }
    }
}

/// R.18: the serial only grows, and grows with every change of what proxies are told, but for endpoints.
fn serial(before: &ModelDeploymentStatus, after: &ModelDeploymentStatus, found: &mut Broken) {
    let told = |status: &ModelDeploymentStatus| {
        let canary = status.canary.as_ref().map(|canary| canary.revision.clone());
        (status.stable.clone(), canary, status.weights.desired, status.reference, status.observed_generation)
    };
    found.unless(after.serial >= before.serial, "the serial fell");
    found.unless(after.serial <= before.serial + 1, "the serial grew by more than one");
    found.unless(
        (told(before) == told(after)) == (before.serial == after.serial),
        "the serial stands still although proxies are told something else, or the other way round",
    );
}

/// R.1, R.2: a new canary has no weight; an old one its step's, limited by ready replicas.
fn weights(world: &World, plan: &Plan, now: Timestamp, found: &mut Broken) {
    let weight = plan.status.weights.desired;
    found.unless(plan.routes.weight == weight, "gateways are told another weight than the status has");
    let Some(canary) = &plan.status.canary else {
        found.unless(weight == BasisPoints::ZERO, "there is a weight and no canary");
        return;
    };
    let rollout = Rollout::new(world, now);
    let (ready, needed) = (rollout.ready(&canary.revision), rollout.needed(canary.step_weight));
    let planned = u64::from(canary.step_weight) * 100;
    let allowed = if needed == 0 { 0 } else { planned * u64::from(ready.min(needed)) / u64::from(needed) };
    let same = world.status.canary.as_ref().is_some_and(|before| before.revision == canary.revision);
    let allowed = if same { allowed } else { 0 };
    found.unless(u64::from(weight.get()) == allowed, "the weight is not planned × min(1, ready / needed)");
    let fresh = canary.step == 0 && canary.passed.is_none() && canary.started == now;
    found.unless(same || fresh, "a new canary does not begin at the first step");
}

/// R.3, R.4, R.5, R.7, R.10: how a canary moves from step to step.
fn canary(world: &World, plan: &Plan, now: Timestamp, found: &mut Broken) {
    let (Some(before), Some(after)) = (&world.status.canary, &plan.status.canary) else { return };
    if before.revision != after.revision {
        return;
    }
    found.unless(before.started == after.started, "a canary under way began anew");
    let failed = plan.verdicts.iter().any(|v| v.verdict == Verdict::Fail);
    found.unless(!failed, "a canary that fails is not rolled back at once");
    let kept = world.status.reference.is_none() || world.status.reference == plan.status.reference;
    found.unless(kept, "the reference changed under a canary");
    let by_hand = accepted(world, plan).is_some_and(|asked| asked.verb == Verb::Promote);
    if after.passed.is_some() && before.passed.is_none() && !by_hand {
        found.unless(
            left_well(world, plan, before, now, true),
            "the last step was left without Pass from each",
        );
    }
    let raised = after.passed.is_none() && after.step_weight > before.step_weight;
    let steps = &world.spec.spec.rollout.steps;
    let edited = steps.iter().all(|step| step.weight != before.step_weight);
    if raised && !edited && !by_hand {
        found.unless(left_well(world, plan, before, now, false), "a step was left too early");
    }
}

/// What a person asked for and this plan does.
fn accepted(world: &World, plan: &Plan) -> Option<Asked> {
    let action = plan.status.action.as_ref().filter(|action| action.accepted)?;
    (plan.status.action != world.status.action).then(|| action.text.parse().ok())?
}

/// R.21: an action is read once, done only to the canary and step that it names, and what is refused changes
/// nothing; a paused canary stays where it is.
fn hands(world: &World, plan: &Plan, found: &mut Broken) {
    let (before, after) = (&world.status, &plan.status);
    let text = |status: &ModelDeploymentStatus| status.action.as_ref().map(|action| action.text.clone());
    let asked = world.action.as_ref().filter(|text| !text.is_empty());
    let asked = asked.map(|text| text.chars().take(action::MAX_TEXT).collect::<String>());
    found.unless(asked.is_none() || asked == text(after), "what a person asked for is not answered");
    found.unless(
        asked.is_some() && asked != text(before) || before.action == after.action,
        "an action was answered that nobody asked for, or twice",
    );
    if let Some(asked) = accepted(world, plan) {
        let used = before.action.as_ref().is_some_and(|action| action.used.contains(&asked.nonce));
        found.unless(!used, "a nonce was acted on twice");
        let aimed = before.canary.as_ref().is_some_and(|canary| canary.revision == asked.revision);
        found.unless(aimed, "an action was done to a canary that it does not name");
    }
    let resumed = accepted(world, plan).is_some();
    let Some(canary) = before.canary.as_ref().filter(|canary| canary.paused.is_some() && !resumed) else {
        return;
    };
    found.unless(after.stable.as_ref() != Some(&canary.revision), "a paused canary became stable");
    if let Some(now) = after.canary.as_ref().filter(|now| now.revision == canary.revision) {
        found.unless(now.paused == canary.paused, "a pause ended by itself");
        let stays = now.step_weight <= canary.step_weight && now.passed == canary.passed;
        found.unless(stays, "a paused canary went on");
    }
}

/// Whether the step of `before` could be left at this time with these verdicts.
fn left_well(world: &World, plan: &Plan, before: &Canary, now: Timestamp, last: bool) -> bool {
    let steps = &world.spec.spec.rollout.steps;
    // An edit may have moved the canary to another step of no greater weight, which it then must have held.
    let Some(step) = steps.iter().rev().find(|step| step.weight <= before.step_weight) else { return false };
    let Some(reached) = before.step_reached else { return false };
    let held = now >= after(reached, step.hold);
    let blind = |v: &Verdict| matches!(v, Verdict::NoData | Verdict::ProviderError | Verdict::Fail);
    if !held || plan.verdicts.is_empty() || plan.verdicts.iter().any(|v| v.verdict == Verdict::Fail) {
        return false;
    }
    let enough = plan.verdicts.iter().all(|v| v.enough && !blind(&v.verdict));
    let pass = plan.verdicts.iter().all(|v| v.verdict == Verdict::Pass);
    let outwaited = step.on_undecided == OnUndecided::Promote
        && now >= after(reached, step.max_hold.unwrap_or_else(|| default_max_hold(step.hold)))
        && !plan.verdicts.iter().any(|v| !v.enough && blind(&v.verdict));
    outwaited || (enough && (!last || pass))
}

/// R.5, R.6, R.9: what may become stable, and how.
fn stable(world: &World, plan: &Plan, now: Timestamp, found: &mut Broken) {
    let (before, after_) = (&world.status, &plan.status);
    if before.stable == after_.stable {
        return;
    }
    let Some(new) = &after_.stable else {
        let lost = before.stable.as_ref().is_some_and(|id| world.revisions.iter().all(|kept| kept.id != *id));
        found.unless(lost, "the stable revision was given up");
        return;
    };
    let rollout = Rollout::new(world, now);
    let all = world.spec.spec.scale.replicas;
    let first = before.stable.is_none() && (rollout.ready(new) > 0 || all == 0);
    let tried = before.canary.as_ref().is_some_and(|canary| {
        canary.revision == *new && canary.passed.is_some() && before.weights.desired == BasisPoints::FULL
    });
    let warm = before.previous.as_ref().is_some_and(|previous| {
        let window = world.spec.spec.rollout.rollback_window;
        previous.revision == *new && now < after(previous.until, window)
    });
    let ready = rollout.ready(new) >= all;
    found.unless(first || all == 0 || (ready && (tried || warm)), "a revision became stable that may not");
    found.unless(
        *new == revision::of(&world.spec.spec.engine),
        "another revision than the declared became stable",
    );
    let running = rollout.replicas(new).count() as u32;
    let kept = plan.workloads.iter().any(|w| w.revision == *new && w.replicas >= running.min(all));
    found.unless(kept, "a replica of the promoted revision is stopped");
}

/// R.3, R.12: requests go only to ready replicas of revisions that the status names.
fn routed(world: &World, plan: &Plan, found: &mut Broken) {
    let again = routes::routes(&world.spec, &plan.status, &world.replicas);
    found.unless(again == plan.routes, "the routes are no function of the status and the replicas");
    let named = |route: &Option<RevisionRoute>| route.as_ref().map(|route| route.revision.clone());
    found.unless(named(&plan.routes.stable) == plan.status.stable, "the routes name another stable revision");
    let canary = plan.status.canary.as_ref().map(|canary| canary.revision.clone());
    found.unless(named(&plan.routes.canary) == canary, "the routes name another canary");
    for route in plan.routes.stable.iter().chain(&plan.routes.canary) {
        for endpoint in &route.endpoints {
            let ready = world.replicas.iter().any(|replica| {
                replica.id == endpoint.id
                    && replica.phase == Phase::Ready
                    && replica.revision == route.revision
            });
            found.unless(ready, "requests go to a replica that isn't ready");
        }
    }
}

/// R.18 and what runs: stable all its replicas, a failed revision none but those that gateways still know.
fn workloads(world: &World, plan: &Plan, now: Timestamp, found: &mut Broken) {
    let all = world.spec.spec.scale.replicas;
    let of = |id| plan.workloads.iter().find(|workload| workload.revision == id);
    if let Some(stable) = plan.status.stable.clone() {
        found.unless(of(stable).is_some_and(|w| w.replicas == all), "stable does not have its replicas");
    }
    let failed = plan.status.failed.iter().any(|failed| {
        let declared = failed.revision == revision::of(&world.spec.spec.engine) && !failed.withdrawn;
        declared && plan.status.canary.as_ref().is_some_and(|canary| canary.revision == failed.revision)
    });
    found.unless(!failed, "a failed revision is tried again by itself");
    let mut ids: Vec<_> = plan.workloads.iter().map(|workload| workload.revision.clone()).collect();
    ids.sort();
    ids.dedup();
    found.unless(ids.len() == plan.workloads.len(), "a revision has two workloads");
    let status = &plan.status;
    let named = [
        status.stable.as_ref(),
        status.starting.as_ref().map(|s| &s.revision),
        status.canary.as_ref().map(|c| &c.revision),
        status.previous.as_ref().map(|p| &p.revision),
    ];
    found.unless(named.iter().flatten().count() <= 2, "more than two revisions are to run");
    let late = status.changed.is_none_or(|changed| now >= after(changed, crate::rollout::ACKNOWLEDGE));
    for workload in &plan.workloads {
        let retires = !named.contains(&Some(&workload.revision));
        found.unless(!retires || !late, "a revision that nobody wants runs on");
        let kept =
            plan.revisions.iter().any(|kept| kept.id == workload.revision && kept.engine == workload.engine);
        found.unless(kept, "a revision that runs is not kept");
    }
}

/// R.7, R.8 and economy: an unchanged status has no events, a changed one is planned from again at once.
fn written(world: &World, plan: &Plan, now: Timestamp, found: &mut Broken) {
    let (before, status) = (&world.status, &plan.status);
    if before == status {
        found.unless(plan.events.is_empty(), "something happened and nothing is written");
        found.unless(!plan.evidence_stored, "evidence is said to be stored and nothing is written");
        found.unless(plan.wake_at.is_none_or(|at| at > now), "to be woken in the past");
    } else {
        found.unless(plan.wake_at == Some(now), "what was decided is not planned from again");
    }
    found.unless(
        status.observed_generation == Some(world.spec.generation),
        "the status answers to another generation",
    );
    found.unless(status.failed.len() <= 10, "too many failed revisions are remembered");
    if let (Some(before), Some(after)) = (&before.canary, &status.canary) {
        // An edit may have led back just as far as a step or a person led on.
        let place = |canary: &Canary| {
            (canary.revision.clone(), canary.step, canary.step_weight, canary.passed, canary.step_reached)
        };
        let moved = place(before) != place(after) || accepted(world, plan).is_some();
        let often = before.analysed != after.analysed && within(now, before.analysed, Period::secs(10));
        found.unless(moved || !often, "the analysis is stored more often than every ten seconds");
    }
    for condition in &status.conditions {
        let Some(then) = before.conditions.iter().find(|then| then.type_ == condition.type_) else {
            continue;
        };
        let stood = then.status == condition.status;
        let same = then.last_transition_time == condition.last_transition_time;
        found.unless(!stood || same, "a condition stands and has another time of transition");
    }
    found.unless(status.conditions.len() == 6, "a condition is missing or there twice");
}
