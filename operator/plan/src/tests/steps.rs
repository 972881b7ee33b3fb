//! How a canary goes from step to step: what lets it, what holds it, what an edit changes.

use super::histories::steps;
use super::simulator::{Says, Sim, engine, id};
use crate::plan::Outcome;
use outrigger_crds::{OnUndecided, Step};
use outrigger_wire::{BasisPoints, Period};

/// A serving deployment whose second variant is about to be tried in these steps.
pub(super) fn trying(steps: Vec<Step>) -> Sim {
    let mut sim = Sim::new(None);
    sim.reconcile();
    sim.pass(5);
    sim.edit(|spec| spec.rollout.steps = steps);
    sim.reconcile();
    sim.edit(|spec| spec.engine = engine(1));
    sim.reconcile();
    sim
}

/// One second at a time.
pub(super) fn pass(sim: &mut Sim, seconds: i64) {
    for _ in 0..seconds {
        sim.pass(1);
        sim.reconcile();
    }
}

pub(super) fn at(sim: &Sim) -> Option<(u32, u8)> {
    sim.status.canary.as_ref().map(|canary| (canary.step, canary.step_weight))
}

pub(super) fn one(weight: u8, hold: u64, max_hold: u64, on_undecided: OnUndecided) -> Step {
    Step { weight, hold: Period::secs(hold), max_hold: Some(Period::secs(max_hold)), on_undecided }
}

/// proves R.5
#[test]
fn a_sound_canary_walks_all_steps_and_becomes_stable() {
    let mut sim = trying(steps(0));
    let mut seen = vec![at(&sim)];
    for _ in 0..60 {
        pass(&mut sim, 1);
        if seen.last() != Some(&at(&sim)) {
            seen.push(at(&sim));
        }
    }
    assert_eq!(seen, [Some((0, 10)), Some((1, 50)), Some((2, 100)), None]);
    assert_eq!(sim.status.stable, Some(id(1)));
    assert_eq!(sim.plan().outcome, Outcome::Serving);
}

/// proves R.5
#[test]
fn the_last_step_needs_pass_and_earlier_ones_enough() {
    let mut sim = trying(vec![one(10, 5, 300, OnUndecided::Hold), one(50, 5, 300, OnUndecided::Hold)]);
    sim.variants[1].first_token = Says::TooFew;
    pass(&mut sim, 60);
    assert_eq!(at(&sim), Some((0, 10)));
    sim.variants[1].first_token = Says::Enough;
    pass(&mut sim, 60);
    assert_eq!(at(&sim), Some((1, 50)));
    sim.variants[1].first_token = Says::Pass;
    pass(&mut sim, 20);
    assert_eq!(sim.status.stable, Some(id(1)));
}

/// proves R.4
#[test]
fn no_data_and_provider_errors_hold_whatever_the_step_says() {
    for (says, on_undecided) in [
        (Says::NoData, OnUndecided::Promote),
        (Says::NoData, OnUndecided::Abort),
        (Says::ProviderError, OnUndecided::Promote),
        (Says::ProviderError, OnUndecided::Abort),
    ] {
        let mut sim = trying(vec![one(10, 5, 20, on_undecided)]);
        sim.variants[1].first_token = says;
        pass(&mut sim, 120);
        assert_eq!(at(&sim), Some((0, 10)), "{says:?} {on_undecided:?}");
        assert!(sim.status.failed.is_empty());
        assert!(sim.status.message.contains("nothing is known"), "{}", sim.status.message);
    }
}

/// proves R.5
#[test]
fn past_max_hold_the_step_decides() {
    for (on_undecided, stable, failed) in
        [(OnUndecided::Hold, 0, 0), (OnUndecided::Promote, 1, 0), (OnUndecided::Abort, 0, 1)]
    {
        let mut sim = trying(vec![one(10, 5, 20, on_undecided)]);
        sim.variants[1].first_token = Says::Enough;
        pass(&mut sim, 15);
        assert_eq!(at(&sim), Some((0, 10)));
        pass(&mut sim, 60);
        assert_eq!(sim.status.stable, Some(id(stable)), "{on_undecided:?}");
        assert_eq!(sim.status.failed.len(), failed, "{on_undecided:?}");
        let held = sim.status.conditions.iter().any(|c| c.type_ == "Undecided" && c.status == "True");
        assert_eq!(held, on_undecided == OnUndecided::Hold);
    }
}

/// proves R.10
#[test]
fn editing_steps_re_evaluates_the_step_and_restarts_nothing() {
    let mut sim = trying(vec![
        one(1, 5, 300, OnUndecided::Hold),
        one(10, 60, 300, OnUndecided::Hold),
        one(50, 5, 300, OnUndecided::Hold),
    ]);
    pass(&mut sim, 15);
    assert_eq!(at(&sim), Some((1, 10)));
    let before = sim.status.canary.clone().unwrap();
    // A step more before it: it stays where it is, and its hold goes on counting.
    sim.edit(|spec| spec.rollout.steps.insert(1, one(5, 5, 300, OnUndecided::Hold)));
    sim.reconcile();
    let after = sim.status.canary.clone().unwrap();
    assert_eq!((after.step, after.step_weight), (2, 10));
    assert_eq!((after.started, after.step_reached), (before.started, before.step_reached));
    // Its own weight is gone: back to the step below, never up to one that it has not been through.
    sim.edit(|spec| {
        spec.rollout.steps = vec![one(5, 60, 300, OnUndecided::Hold), one(50, 60, 300, OnUndecided::Hold)]
    });
    sim.reconcile();
    assert_eq!(at(&sim), Some((0, 5)));
    assert_eq!(sim.status.weights.desired, BasisPoints::percent(5));
    // A shorter hold that is over already lets it go on at once.
    pass(&mut sim, 10);
    sim.edit(|spec| spec.rollout.steps[0].hold = Period::secs(5));
    sim.reconcile();
    assert_eq!(at(&sim), Some((1, 50)));
    assert_eq!(sim.status.canary.clone().unwrap().started, before.started);
}

/// proves R.9
#[test]
fn within_the_window_going_back_skips_the_steps() {
    let mut sim = trying(steps(0));
    sim.edit(|spec| spec.rollout.rollback_window = Period::secs(60));
    pass(&mut sim, 40);
    assert_eq!(sim.status.stable, Some(id(1)));
    assert_eq!(sim.shape().len(), 4, "both revisions are kept warm");
    sim.edit(|spec| spec.engine = engine(0));
    sim.reconcile();
    assert_eq!((sim.status.stable.clone(), sim.status.canary.clone()), (Some(id(0)), None));
    // The window over, the replaced revision drains, and going back is a rollout like any other.
    pass(&mut sim, 70);
    assert_eq!(sim.shape().len(), 2);
    sim.edit(|spec| spec.engine = engine(1));
    sim.reconcile();
    assert_eq!(at(&sim), Some((0, 10)));
}

/// proves R.18
#[test]
fn a_failed_revision_is_tried_again_only_when_asked_for_anew() {
    let mut sim = trying(steps(0));
    sim.variants[1].errors = Says::Fail;
    pass(&mut sim, 20);
    assert_eq!((at(&sim), sim.status.failed.len()), (None, 1));
    assert_eq!(sim.plan().outcome, Outcome::RolledBack);
    // Neither time nor another edit brings it back.
    sim.variants[1].errors = Says::Pass;
    sim.edit(|spec| spec.rollout.analysis.min_requests = 7);
    pass(&mut sim, 60);
    assert_eq!(at(&sim), None);
    // Asked for something else, and then for it again: tried again.
    sim.edit(|spec| spec.engine = engine(0));
    sim.reconcile();
    sim.edit(|spec| spec.engine = engine(1));
    pass(&mut sim, 40);
    assert_eq!(sim.status.stable, Some(id(1)));
    assert!(sim.status.failed.is_empty());
}

/// The reference is made of stable's first tokens when there are enough, and stands while the canary lives.
#[test]
fn the_reference_is_fixed_for_a_canary() {
    let mut sim = trying(steps(4));
    sim.first_tokens = 100;
    pass(&mut sim, 5);
    let first = sim.status.reference.unwrap();
    assert_eq!(first.generation, 1);
    assert_eq!(first.beyond_micros, (first.slow_micros as f64 * 1.25).ceil() as u64);
    sim.first_tokens = 5_000;
    sim.edit(|spec| spec.rollout.analysis.first_token_margin = outrigger_wire::Percent::whole(100));
    pass(&mut sim, 5);
    assert_eq!(sim.status.reference, Some(first));
    sim.first_tokens = 10;
    sim.edit(|spec| spec.engine = engine(2));
    pass(&mut sim, 5);
    assert_eq!(sim.status.reference, None, "too few first tokens");
    sim.first_tokens = 50;
    pass(&mut sim, 1);
    assert_eq!(sim.status.reference.map(|reference| reference.generation), Some(2));
}
