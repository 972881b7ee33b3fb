//! What a person asks of a canary: done once, to what it names, or refused in words.

use super::simulator::{Says, Sim, engine, id};
use super::steps::{at, one, pass, trying};
use crate::plan::Outcome;
use outrigger_crds::OnUndecided;
use outrigger_wire::BasisPoints;

/// A canary at the first of two long steps.
fn held() -> Sim {
    let mut sim = trying(vec![one(10, 60, 300, OnUndecided::Hold), one(50, 60, 300, OnUndecided::Hold)]);
    pass(&mut sim, 10);
    assert_eq!(at(&sim), Some((0, 10)));
    sim
}

/// Asks it, of the second variant at this step, and gives what came of it.
fn ask(sim: &mut Sim, verb: &str, step: u32, nonce: &str) -> (bool, String) {
    annotate(sim, &format!("{verb}@{}/{step}/{nonce}", id(1)))
}

fn annotate(sim: &mut Sim, text: &str) -> (bool, String) {
    sim.action = Some(text.to_owned());
    let told: Vec<String> = sim.plan().events.into_iter().map(|event| event.reason).collect();
    sim.reconcile();
    let action = sim.status.action.clone().unwrap();
    assert_eq!(told.contains(&"ActionRefused".to_owned()), !action.accepted, "{told:?}");
    (action.accepted, action.result)
}

/// proves R.21
#[test]
fn promote_goes_to_the_next_step_now_and_from_the_last_to_all() {
    let mut sim = held();
    // Hold and analysis are not waited for.
    sim.variants[1].first_token = Says::NoData;
    let (accepted, result) = ask(&mut sim, "promote", 0, "a");
    assert!(accepted && result.contains("goes on to 50%"), "{result}");
    assert_eq!(at(&sim), Some((1, 50)));
    let (accepted, result) = ask(&mut sim, "promote", 1, "b");
    assert!(accepted && result.contains("takes over as soon as"), "{result}");
    assert_eq!(at(&sim), Some((2, 100)));
    // R.2 holds: the second replica has to be ready first.
    assert_eq!(sim.status.weights.desired, BasisPoints::percent(50));
    assert_eq!(sim.status.stable, Some(id(0)));
    pass(&mut sim, 10);
    assert_eq!(sim.status.stable, Some(id(1)));
    assert_eq!(sim.plan().outcome, Outcome::Serving);
}

/// proves R.21
#[test]
fn a_failing_canary_is_rolled_back_though_somebody_promotes_it() {
    let mut sim = held();
    sim.variants[1].errors = Says::Fail;
    let (accepted, result) = ask(&mut sim, "promote", 0, "a");
    assert!(!accepted && result.contains("was rolled back: Errors"), "{result}");
    assert_eq!((at(&sim), sim.status.failed.len()), (None, 1));
}

/// proves R.21
#[test]
fn a_pause_holds_the_step_and_time_does_not_count() {
    let mut sim = held();
    let reached = sim.status.canary.clone().unwrap().step_reached.unwrap();
    assert!(ask(&mut sim, "pause", 0, "a").0);
    pass(&mut sim, 400);
    assert_eq!(at(&sim), Some((0, 10)));
    assert_eq!(sim.status.weights.desired, BasisPoints::percent(10));
    assert!(sim.status.message.contains("paused"), "{}", sim.status.message);
    let undecided = sim.status.conditions.iter().any(|c| c.type_ == "Undecided" && c.status == "True");
    assert!(!undecided, "maxHold does not pass either");
    assert_eq!(ask(&mut sim, "pause", 0, "b"), (false, format!("canary {} is paused already", id(1))));
    assert!(ask(&mut sim, "resume", 0, "c").0);
    let canary = sim.status.canary.clone().unwrap();
    assert_eq!(canary.step_reached.unwrap().duration_since(reached).as_secs(), 400);
    assert_eq!(canary.paused, None);
    assert!(!ask(&mut sim, "resume", 0, "d").0);
    // What was left of the hold before the pause is left after it.
    pass(&mut sim, 45);
    assert_eq!(at(&sim), Some((0, 10)));
    pass(&mut sim, 20);
    assert_eq!(at(&sim), Some((1, 50)));
}

/// Whatever becomes of the steps: its weight does not grow before it goes on.
#[test]
fn an_edit_raises_no_paused_canary() {
    let mut sim = held();
    ask(&mut sim, "pause", 0, "a");
    sim.edit(|spec| spec.rollout.steps = vec![one(25, 60, 300, OnUndecided::Hold)]);
    pass(&mut sim, 5);
    assert_eq!(sim.status.weights.desired, BasisPoints::percent(10));
    assert!(ask(&mut sim, "resume", 0, "b").0);
    pass(&mut sim, 5);
    assert_eq!((at(&sim), sim.status.weights.desired), (Some((0, 25)), BasisPoints::percent(25)));
}

/// proves R.21
#[test]
fn a_paused_canary_is_judged_and_may_be_promoted_or_aborted() {
    let mut sim = held();
    ask(&mut sim, "pause", 0, "a");
    assert!(ask(&mut sim, "promote", 0, "b").0);
    assert_eq!((at(&sim), sim.status.canary.clone().unwrap().paused), (Some((1, 50)), None));
    ask(&mut sim, "pause", 1, "c");
    sim.variants[1].errors = Says::Fail;
    pass(&mut sim, 1);
    assert_eq!((at(&sim), sim.status.failed.len()), (None, 1));
}

/// proves R.21
#[test]
fn a_canary_paused_in_the_implicit_step_does_not_become_stable() {
    let mut sim = held();
    ask(&mut sim, "promote", 0, "a");
    ask(&mut sim, "promote", 1, "b");
    assert!(ask(&mut sim, "pause", 2, "c").0);
    pass(&mut sim, 60);
    assert_eq!((at(&sim), sim.status.stable.clone()), (Some((2, 100)), Some(id(0))));
    assert!(ask(&mut sim, "promote", 2, "d").0);
    pass(&mut sim, 10);
    assert_eq!(sim.status.stable, Some(id(1)));
}

/// proves R.18, R.21
#[test]
fn an_aborted_revision_is_remembered_as_failed() {
    let mut sim = held();
    assert!(ask(&mut sim, "abort", 0, "a").0);
    assert_eq!((at(&sim), sim.status.weights.desired), (None, BasisPoints::ZERO));
    assert_eq!(sim.status.failed[0].reason, "aborted by hand");
    assert_eq!(sim.plan().outcome, Outcome::RolledBack);
    pass(&mut sim, 60);
    assert_eq!(at(&sim), None);
    // Asked for anew it is tried again, and the old annotation, which still stands there, is not heard again.
    sim.edit(|spec| spec.engine = engine(0));
    pass(&mut sim, 1);
    sim.edit(|spec| spec.engine = engine(1));
    pass(&mut sim, 5);
    assert_eq!(at(&sim), Some((0, 10)));
}

/// proves R.21
#[test]
fn an_action_is_done_once_whatever_is_written_in_between() {
    let mut sim = held();
    assert!(ask(&mut sim, "pause", 0, "a").0);
    assert!(ask(&mut sim, "resume", 0, "b").0);
    // Somebody applies an older manifest again, a leader starts anew: the nonce is known.
    let (accepted, result) = ask(&mut sim, "pause", 0, "a");
    assert!(!accepted && result.contains("nonce a was used before"), "{result}");
    let (accepted, result) = ask(&mut sim, "abort", 0, "b");
    assert!(!accepted && result.contains("nonce b was used before"), "{result}");
    assert_eq!(sim.status.canary.clone().unwrap().paused, None);
    sim.action = None;
    sim.reconcile();
    let writes = sim.writes;
    sim.action = Some(format!("abort@{}/0/b", id(1)));
    sim.reconcile();
    assert_eq!(sim.writes, writes, "the same text is not even answered again");
}

/// proves R.21
#[test]
fn what_names_something_else_is_refused_and_changes_nothing() {
    let mut sim = held();
    let before = sim.status.clone();
    for (text, words) in [
        (format!("promote@{}/1/a", id(1)), "status.canary.step is 0 now, not 1".to_owned()),
        (format!("abort@{}/0/b", id(2)), format!("{} is tried now, not {}", id(1), id(2))),
        ("abort".to_owned(), "an action has the form <verb>@<revision>/<step>/<nonce>".to_owned()),
        ("x".repeat(100_000), "an action has the form <verb>@<revision>/<step>/<nonce>".to_owned()),
    ] {
        assert_eq!(annotate(&mut sim, &text), (false, words));
    }
    assert_eq!(sim.status.canary, before.canary);
    assert!(sim.status.action.clone().unwrap().text.len() <= 200);
    let mut calm = Sim::new(None);
    calm.reconcile();
    let (accepted, result) = ask(&mut calm, "promote", 0, "a");
    assert!(!accepted && result.contains("no canary is under way"), "{result}");
    // Superseded in the same moment: what was asked of the old one is not done to the new one.
    sim.edit(|spec| spec.engine = engine(2));
    let (accepted, result) = ask(&mut sim, "promote", 0, "z");
    assert!(!accepted && result.contains(&format!("{} is tried now", id(2))), "{result}");
    assert_eq!(at(&sim), Some((0, 10)));
}

/// Nonces are remembered within bounds: the status stays small whoever asks however often.
#[test]
fn a_thousand_actions_leave_a_small_status() {
    let mut sim = held();
    for n in 0..500 {
        ask(&mut sim, "pause", 0, &format!("pause-{n}-{}", "n".repeat(50)));
        ask(&mut sim, "resume", 0, &format!("resume-{n}"));
    }
    let action = sim.status.action.clone().unwrap();
    assert_eq!(action.used.len(), 32);
    assert!(serde_json::to_string(&action).unwrap().len() < 4096);
}
