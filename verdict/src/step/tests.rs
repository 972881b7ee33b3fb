//! What the verdicts say of canaries of many kinds.

use super::*;
use outrigger_wire::{Histogram, Percent, Stratum};
use std::collections::BTreeMap;

fn gaps(events: u64, trials: u64) -> GapCounts {
    GapCounts { events: [events; 5], trials: [trials; 5] }
}

/// So many failures of so many requests; a tenth of the answers is slow, a twentieth beyond the margin.
fn arm(failures: u64, requests: u64) -> RevisionReport {
    let answered = requests - failures;
    let mut first_token = Histogram::default();
    (0..answered.min(100)).for_each(|n| first_token.record(100_000 + n * 1_000));
    let stratum = StratumReport {
        success: answered,
        failure: failures,
        failures: gaps(failures, requests),
        slow: gaps(answered / 10, answered),
        beyond: gaps(answered / 20, answered),
        first_token,
        ..StratumReport::default()
    };
    RevisionReport { strata: [(Stratum::Short, stratum)].into(), ..RevisionReport::default() }
}

fn delta(canary: RevisionReport, stable: RevisionReport) -> Delta {
    Delta { reference: 1, canary, stable, seconds: 5.0, gateways: 1 }
}

fn judge(state: &State, delta: &Delta) -> (State, MetricVerdict, MetricVerdict) {
    let (state, verdicts) = step(state, delta, &Settings::default());
    let [errors, token] = <[MetricVerdict; 2]>::try_from(verdicts.0).unwrap();
    assert_eq!((errors.metric, token.metric), (Metric::Errors, Metric::TimeToFirstToken));
    (state, errors, token)
}

/// The same delta, again and again, each time stored.
fn after(times: u32, delta: &Delta) -> (State, MetricVerdict, MetricVerdict) {
    let mut last = judge(&State::default(), delta);
    for _ in 1..times {
        last = judge(&last.0, delta);
    }
    last
}

/// proves R.4
///
/// Nothing that was counted is NoData, nobody who counts is ProviderError; neither passes, fails or is enough.
#[test]
fn no_traffic_is_no_data_however_long() {
    let silence = Delta { reference: 1, seconds: 10.0, gateways: 1, ..Delta::default() };
    let (state, errors, token) = after(10_000, &silence);
    assert_eq!(state, judge(&State::default(), &silence).0, "silence makes no writes");
    for verdict in [&errors, &token] {
        assert_eq!(verdict.verdict, Verdict::NoData);
        assert!(!verdict.enough && verdict.evidence == 0.0 && verdict.excluded == 0.0);
        assert!(verdict.canary.is_none());
    }
    assert_eq!(errors.reason, "no request of the canary has ended yet");
    let nobody = judge(&State::default(), &Delta::default());
    assert_eq!((nobody.1.verdict, nobody.2.verdict), (Verdict::ProviderError, Verdict::ProviderError));
    assert_eq!(nobody.1.reason, "no gateway reports");
}

#[test]
fn stable_alone_says_nothing() {
    let (_, errors, token) = after(1000, &delta(RevisionReport::default(), arm(1, 100)));
    assert_eq!((errors.verdict, token.verdict), (Verdict::NoData, Verdict::NoData));
}

#[test]
fn a_canary_alone_is_not_worse_than_nobody() {
    let (_, errors, _) = after(200, &delta(arm(4, 10), RevisionReport::default()));
    assert!(matches!(errors.verdict, Verdict::Undecided { .. }), "{errors:?}");
    assert!(errors.reason.contains("stable was not called"), "{}", errors.reason);
    assert_eq!(errors.evidence, 0.0);
}

#[test]
fn without_a_reference_latency_is_no_data_and_says_why() {
    let mut unjudged = delta(arm(0, 20), arm(0, 100));
    unjudged.reference = 0;
    let (_, errors, token) = after(20, &unjudged);
    assert_eq!((errors.verdict, token.verdict), (Verdict::Pass, Verdict::NoData));
    assert!(token.reason.contains("no reference yet"), "{}", token.reason);
    assert!(!token.enough && token.canary.is_some());
}

#[test]
fn another_reference_starts_the_latency_test_anew_and_no_other() {
    let mut slow = delta(arm(0, 20), arm(0, 100));
    slow.canary.strata.get_mut(&Stratum::Short).unwrap().slow = gaps(18, 20);
    slow.canary.strata.get_mut(&Stratum::Short).unwrap().beyond = gaps(18, 20);
    let (state, errors, token) = after(3, &slow);
    assert_eq!(token.verdict, Verdict::Fail, "{token:?}");
    assert!(token.reason.contains("the canary is worse (e-value 10^"), "{}", token.reason);
    let again = Delta { reference: 2, ..Delta::default() };
    let (state, after, token) = judge(&state, &again);
    assert_eq!((after.excluded, token.verdict), (errors.excluded, Verdict::ProviderError));
    assert_eq!(token.evidence, 0.0);
    // What still comes in against the old one is left out.
    let (_, _, token) = judge(&state, &slow);
    assert_eq!((token.evidence, token.enough), (0.0, false));
}

#[test]
fn a_difference_within_the_margin_is_tolerated_however_sure() {
    // 2.2 % against 1 %, and enough requests to know it for certain; the margin is 2 percentage points.
    let (_, errors, _) = after(400, &delta(arm(11, 500), arm(50, 5000)));
    assert!(errors.evidence > errors.bound, "{errors:?}");
    assert_eq!(errors.verdict, Verdict::Pass, "{errors:?}");
    let strict = Settings { errors_margin: Percent::whole(1), ..Settings::default() };
    let (mut state, mut last) = (State::default(), Verdicts::default());
    for _ in 0..400 {
        (state, last) = step(&state, &delta(arm(11, 500), arm(50, 5000)), &strict);
    }
    assert_eq!(last.0[0].verdict, Verdict::Fail, "{last:?}");
}

#[test]
fn an_accident_of_stable_at_the_start_keeps_nobody_waiting() {
    // An engine of stable is killed at the canary's first requests: six failures in a row, then none ever again.
    let burst = |failures, requests| {
        let mut counter = outrigger_wire::GapCounter::default();
        (0..requests).for_each(|n| counter.record(n < failures));
        let mut arm = arm(failures, requests);
        arm.strata.get_mut(&Stratum::Short).unwrap().failures = counter.counts();
        arm
    };
    let (mut state, mut errors, _) = judge(&State::default(), &delta(burst(0, 5), burst(6, 7)));
    while errors.verdict != Verdict::Pass {
        (state, errors, _) = judge(&state, &delta(burst(0, 150), burst(0, 150)));
        assert!(errors_samples(&state) < 700, "{errors:?}");
    }
}

#[test]
fn nothing_passes_below_the_minimum_of_requests() {
    let generous = Settings { errors_margin: Percent::whole(50), ..Settings::default() };
    let (_, verdicts) = step(&State::default(), &delta(arm(0, 49), arm(0, 1000)), &generous);
    let errors = &verdicts.0[0];
    assert!(errors.excluded > errors.bound && !errors.enough);
    assert!(matches!(errors.verdict, Verdict::Undecided { samples: 49, needed: 50, .. }), "{errors:?}");
    assert!(errors.reason.ends_with("49 requests of at least 50"), "{}", errors.reason);
    let (_, verdicts) = step(&State::default(), &delta(arm(0, 50), arm(0, 1000)), &generous);
    assert_eq!(verdicts.0[0].verdict, Verdict::Pass);
}

#[test]
fn what_is_undecided_says_when_it_will_be_known() {
    // 4 requests a second, no error anywhere.
    let one = delta(arm(0, 20), arm(0, 300));
    let (mut state, mut errors, _) = judge(&State::default(), &one);
    let mut forecasts = Vec::new();
    while let Verdict::Undecided { samples, needed, eta } = errors.verdict {
        assert!(samples < needed && needed >= 50, "{errors:?}");
        let eta = eta.unwrap().get().as_secs_f64();
        assert!((eta - (needed - samples) as f64 / 4.0).abs() <= 1.0, "{errors:?}");
        forecasts.push(needed);
        (state, errors, _) = judge(&state, &one);
    }
    assert_eq!(errors.verdict, Verdict::Pass);
    let needed = errors_samples(&state);
    assert!((100..400).contains(&needed), "{needed}");
    let near = |forecast: &u64| (needed / 3..needed * 3).contains(forecast);
    assert!(forecasts.iter().all(near), "{forecasts:?} for {needed}");
}

fn errors_samples(state: &State) -> u64 {
    state.errors.canary.trials[0]
}

#[test]
fn a_forecast_is_never_nonsense() {
    for (failures, requests) in [(0, 1), (1, 1), (1, 60), (3, 100), (0, 10), (30, 1000)] {
        for times in [1, 7, 300] {
            let (_, errors, token) = after(times, &delta(arm(failures, requests), arm(10, 1000)));
            for verdict in [errors, token] {
                if let Verdict::Undecided { samples, needed, eta } = verdict.verdict {
                    assert!(samples < needed && needed <= FORECAST, "{verdict:?}");
                    assert!(eta.is_none_or(|eta| eta.get().as_secs() <= 86_400));
                }
            }
        }
    }
    // Traffic that has ceased gives no time.
    let (state, _, _) = judge(&State::default(), &delta(arm(0, 20), arm(0, 300)));
    let ceased = Delta { reference: 1, seconds: 1e9, gateways: 1, ..Delta::default() };
    let (_, errors, _) = judge(&state, &ceased);
    assert!(matches!(errors.verdict, Verdict::Undecided { eta: None, .. }), "{errors:?}");
}

/// proves R.20
///
/// Refusals because of load are told and change no test.
#[test]
fn backpressure_is_neither_success_nor_failure() {
    let plain = delta(arm(1, 20), arm(1, 100));
    let mut refused = plain.clone();
    refused.canary.strata.get_mut(&Stratum::Short).unwrap().backpressure = 500;
    let ((_, without, _), (_, with, _)) = (after(5, &plain), after(5, &refused));
    assert_eq!(
        (with.evidence, with.excluded, &with.verdict),
        (without.evidence, without.excluded, &without.verdict)
    );
    assert!(with.reason.ends_with("; 2500 more refused because of load"), "{}", with.reason);
}

#[test]
fn a_reference_below_all_of_stable_still_tells() {
    // Latencies so even that all of stable's lie above their own 90th percentile as a bucket gives it.
    let even = |micros: u64, beyond: bool| {
        let mut arm = arm(0, 100);
        let stratum = arm.strata.get_mut(&Stratum::Short).unwrap();
        stratum.slow = gaps(100, 100);
        stratum.beyond = gaps(if beyond { 100 } else { 0 }, 100);
        stratum.first_token = Histogram::default();
        (0..100).for_each(|_| stratum.first_token.record(micros));
        arm
    };
    let (_, _, token) = after(4, &delta(even(100_000, true), even(50_000, false)));
    assert_eq!(token.verdict, Verdict::Fail, "{token:?}");
    let (_, _, token) = after(4, &delta(even(51_000, false), even(50_000, false)));
    assert_eq!(token.verdict, Verdict::Pass, "{token:?}");
}

#[test]
fn strata_are_compared_each_with_its_own() {
    // Long prompts fail ten times as often, and the canary happens to get most of them: nobody's fault.
    let mixed = |short: (u64, u64), long: (u64, u64)| {
        let mut report = arm(short.0, short.1);
        report.strata.extend(arm(long.0, long.1).strata.into_values().map(|s| (Stratum::Long, s)));
        report
    };
    let unlike = delta(mixed((1, 100), (90, 900)), mixed((9, 900), (10, 100)));
    let (_, errors, _) = after(20, &unlike);
    assert!(errors.evidence < 0.0, "{errors:?}");
    let pooled = delta(arm(91, 1000), arm(19, 1000));
    assert_eq!(after(20, &pooled).1.verdict, Verdict::Fail, "which it would seem, put together");
}

/// proves R.19
///
/// A state that went through the status judges on as if it had stayed in memory.
#[test]
fn a_stored_state_judges_on_as_before() {
    let (state, _, _) = after(57, &delta(arm(1, 37), arm(13, 1013)));
    let json = serde_json::to_string(&state).unwrap();
    let back: State = serde_json::from_str(&json).unwrap();
    assert_eq!(back, state);
    let next = delta(arm(3, 30), arm(5, 500));
    assert_eq!(judge(&back, &next), judge(&state, &next));
}

#[test]
fn the_state_fits_into_a_status() {
    // Counts of months of heavy traffic, all strata, latencies over the whole range.
    let mut first_token = Histogram::default();
    (0..190).for_each(|n| {
        (0..=n).for_each(|_| first_token.record(outrigger_wire::histogram::upper_bound(n) - 1))
    });
    let mut state = State::default();
    for n in 0..30u64 {
        let many = |share: u64| {
            let counts = |part: u64| {
                let trials = [0, 1, 2, 3, 4].map(|gap| 123_456_789 * share - gap * 1_234_567);
                GapCounts { events: trials.map(|trials| trials / part + n), trials }
            };
            let stratum = StratumReport {
                backpressure: 1_234_567_890,
                failures: counts(91),
                slow: counts(9),
                beyond: counts(19),
                first_token: first_token.clone(),
                ..StratumReport::default()
            };
            let all = [Stratum::Short, Stratum::Medium, Stratum::Long, Stratum::VeryLong];
            let strata: BTreeMap<_, _> = all.map(|s| (s, stratum.clone())).into();
            RevisionReport { strata, ..RevisionReport::default() }
        };
        state = judge(&state, &delta(many(7), many(93))).0;
    }
    let json = serde_json::to_string(&state).unwrap();
    assert!(json.len() <= 4096, "{} bytes: {json}", json.len());
    assert_eq!(serde_json::from_str::<State>(&json).unwrap(), state);
    // And where every number is as long as numbers get: sums, and counts of a trillion requests.
    let mut longest: serde_json::Value = serde_json::from_str(&json).unwrap();
    lengthen(&mut longest);
    let json = longest.to_string();
    assert!(json.len() <= 4096, "{} bytes: {json}", json.len());
}

fn lengthen(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Number(n) if n.is_f64() => *value = (-15.1235).into(),
        // Smaller whole numbers are buckets.
        serde_json::Value::Number(n) if n.as_u64() >= Some(1000) => *value = 999_999_999_999u64.into(),
        serde_json::Value::Array(values) => values.iter_mut().for_each(lengthen),
        serde_json::Value::Object(fields) => fields.values_mut().for_each(lengthen),
        _ => (),
    }
}

#[test]
fn a_state_of_another_version_is_read_as_far_as_it_is_known() {
    let other = r#"{"errors": {"worse": [[1.5, 2.5]], "within": [1.0], "later": {}}, "latencies": 7}"#;
    let state: State = serde_json::from_str(other).unwrap();
    assert_eq!(state, State::default());
}

#[test]
fn impossible_counts_harm_nobody() {
    let max = GapCounts { events: [u64::MAX; 5], trials: [1; 5] };
    let stratum = StratumReport {
        success: u64::MAX,
        failure: u64::MAX,
        backpressure: u64::MAX,
        failures: max,
        slow: max,
        beyond: GapCounts { events: [1; 5], trials: [u64::MAX; 5] },
        ..StratumReport::default()
    };
    let arm = RevisionReport { strata: [(Stratum::Short, stratum)].into(), ..RevisionReport::default() };
    for seconds in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-300] {
        let wild = Delta { seconds, ..delta(arm.clone(), arm.clone()) };
        let (state, ..) = after(3, &wild);
        let json = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<State>(&json).unwrap(), state);
    }
}

#[test]
fn reasons_are_sentences_with_numbers() {
    let (_, errors, token) = after(3, &delta(arm(12, 100), arm(10, 1000)));
    assert_eq!(errors.verdict, Verdict::Fail);
    assert!(
        errors.reason.starts_with("errors 12.0 % against 1.0 %: the canary is worse (e-value 10^"),
        "{}",
        errors.reason
    );
    assert!(errors.reason.ends_with(", bound 10^1.5, 300 requests)"), "{}", errors.reason);
    assert!(
        token.reason.starts_with("first token (90th percentile) 1") && token.reason.contains(" ms against 1"),
        "{}",
        token.reason
    );
    let (_, errors, _) = after(20, &delta(arm(0, 20), arm(0, 300)));
    assert!(errors.reason.contains("more than 2 percentage points worse is excluded"), "{}", errors.reason);
}
