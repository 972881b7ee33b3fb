//! How the verdicts fare in simulated rollouts: the shipped counters, the shipped tests, fixed seeds. The example
//! `simulate` prints a larger table.
#![allow(clippy::panic, reason = "a test fails by panicking")]

#[path = "simulation/arms.rs"]
mod arms;

use arms::{Arm, Outcome, Setting, Stretch, rollout};
use outrigger_verdict::Metric;
use std::thread;

/// `runs` rollouts, on two threads.
fn rollouts(setting: &Setting, runs: u64) -> Vec<Outcome> {
    let half = |from: u64, to: u64| (from..to).map(|seed| rollout(setting, seed)).collect::<Vec<_>>();
    thread::scope(|scope| {
        let other = scope.spawn(|| half(0, runs / 2));
        let mut all = half(runs / 2, runs);
        all.extend(other.join().unwrap_or_else(|_| panic!("a rollout panicked")));
        all
    })
}

/// The probability that of `runs` at most `seen` come out so, when each does with probability `share`.
fn at_most(seen: usize, runs: usize, share: f64) -> f64 {
    let mut term = (runs as f64 * (1.0 - share).ln()).exp();
    let mut sum = term;
    for k in 1..=seen {
        term *= (runs - k + 1) as f64 / k as f64 * share / (1.0 - share);
        sum += term;
    }
    sum
}

/// That fewer than `share` of rollouts come out so: were it `share`, one would see as few as were seen in at most
/// one of twenty series.
fn assert_rarer_than(share: f64, outcomes: &[Outcome], counts: impl Fn(&Outcome) -> bool) {
    let seen = outcomes.iter().filter(|outcome| counts(outcome)).count();
    let chance = at_most(seen, outcomes.len(), share);
    assert!(chance <= 0.05, "{seen} of {}: {chance:.3}", outcomes.len());
}

fn rolled_back_within(minutes: f64) -> impl Fn(&Outcome) -> bool {
    move |outcome| outcome.failed.is_some_and(|(at, _)| at <= minutes)
}

/// proves R.15
///
/// A healthy canary, errors independent: rolled back in fewer than 2 % of rollouts (95 % confidence), both
/// metrics together.
#[test]
fn a_healthy_canary_stays() {
    let healthy = Arm::failing(0.01);
    let outcomes = rollouts(&Setting::r15(healthy, healthy), 1200);
    assert_rarer_than(0.02, &outcomes, |outcome| outcome.failed.is_some());
    let passed = |index: usize| outcomes.iter().filter(|o| o.passed[index].is_some()).count();
    assert!(passed(0) > 800 && passed(1) > 1000, "{} {}", passed(0), passed(1));
}

/// proves R.15
///
/// Likewise where errors come five at a time.
#[test]
fn a_healthy_canary_stays_though_errors_come_in_bursts() {
    let healthy = Arm::bursting(0.01);
    let outcomes = rollouts(&Setting::r15(healthy, healthy), 1200);
    assert_rarer_than(0.02, &outcomes, |outcome| outcome.failed.is_some());
}

/// proves R.15
///
/// 5 % errors against 1 % are caught in a median of at most 4 min when independent and 20 min in bursts: more than
/// half are by then (95 % confidence), and for their errors.
#[test]
fn a_bad_canary_is_caught() {
    let caught_half_the_time_within = |minutes, setting: Setting, runs| {
        let outcomes = rollouts(&setting, runs);
        assert_rarer_than(0.5, &outcomes, |outcome| !rolled_back_within(minutes)(outcome));
        let blamed = |outcome: &Outcome| outcome.failed.is_some_and(|(_, by)| by != Metric::Errors);
        assert!(outcomes.iter().filter(|outcome| blamed(outcome)).count() * 50 < outcomes.len());
    };
    caught_half_the_time_within(4.0, Setting::r15(Arm::failing(0.01), Arm::failing(0.05)), 600);
    caught_half_the_time_within(20.0, Setting::r15(Arm::bursting(0.01), Arm::bursting(0.05)), 1000);
}

/// The weights move from step to step and the load with them: no evidence in itself.
#[test]
fn changing_weights_are_no_evidence() {
    let share = |share| Stretch { share, seconds: 240 };
    let stretches = vec![share(0.01), share(0.5), share(0.05), share(0.9), share(0.1)];
    for arm in [Arm::failing(0.03), Arm::bursting(0.03)] {
        let setting = Setting { stretches: stretches.clone(), ..Setting::r15(arm, arm) };
        assert_rarer_than(0.04, &rollouts(&setting, 300), |outcome| outcome.failed.is_some());
    }
}

/// A canary that is worse by exactly the margin must not pass: 3 % errors against 1 %, 1.25 × slower.
#[test]
fn what_is_worse_by_the_margin_does_not_pass() {
    let outcomes = rollouts(&Setting::r15(Arm::failing(0.01), Arm::failing(0.03)), 300);
    assert_rarer_than(0.03, &outcomes, |outcome| outcome.passed[0].is_some());
    let outcomes = rollouts(&Setting::r15(Arm::bursting(0.01), Arm::bursting(0.03)), 300);
    assert_rarer_than(0.05, &outcomes, |outcome| outcome.passed[0].is_some());
    let slower = Arm { slower: 1.25, ..Arm::failing(0.01) };
    let outcomes = rollouts(&Setting::r15(Arm::failing(0.01), slower), 300);
    // The test's own bound is 1 %; the reference is an estimate from a thousand requests, which adds to it.
    assert_rarer_than(0.03, &outcomes, |outcome| outcome.passed[1].is_some());
}

/// 90 s at 60 requests/s, 10 % and then 50 % of them to the canary.
fn show(canary: Arm) -> Vec<Outcome> {
    let stretches = vec![Stretch { share: 0.1, seconds: 30 }, Stretch { share: 0.5, seconds: 60 }];
    rollouts(&Setting { rps: 60, stretches, stable: Arm::failing(0.0), canary }, 100)
}

#[test]
fn ninety_seconds_are_enough_to_pass() {
    for outcome in show(Arm::failing(0.0)) {
        assert!(outcome.failed.is_none(), "{outcome:?}");
        for passed in outcome.passed {
            let (minutes, requests) = passed.unwrap_or_else(|| panic!("{outcome:?}"));
            assert!(minutes <= 1.25 && requests <= 1200, "{outcome:?}");
        }
    }
}

#[test]
fn ninety_seconds_are_enough_to_find_what_is_bad() {
    let plain = Arm::failing(0.0);
    let bad = [
        (Arm { slower: 2.0, ..plain }, Metric::TimeToFirstToken),
        (Arm::failing(0.2), Metric::Errors),
        (Arm::failing(1.0), Metric::Errors),
    ];
    for (arm, metric) in bad {
        for outcome in show(arm) {
            let (minutes, by) = outcome.failed.unwrap_or_else(|| panic!("{arm:?} is not found"));
            assert!(by == metric && minutes <= 1.0, "{arm:?}: {outcome:?}");
        }
    }
}
