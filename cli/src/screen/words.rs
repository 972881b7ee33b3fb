//! Values in words.

use crate::view::{Latency, Phase, Role, StepView, View};
use jiff::Timestamp;
use outrigger_verdict::{Metric, MetricVerdict, Verdict};
use outrigger_wire::{BasisPoints, RevisionId};
use std::time::Duration;

/// One or two sentences that say what is happening to somebody who sees this for the first time.
pub(crate) fn happening(view: &View) -> String {
    match &view.phase {
        Phase::Starting => starting(view),
        Phase::Available => match &view.stable {
            Some(stable) => format!("Revision {stable} serves all callers; nothing new is being tried."),
            None => "Nothing serves yet.".to_owned(),
        },
        Phase::Canary => trying(view),
        Phase::Promoted { revision } => {
            format!("Promoted: revision {revision} did well and now serves all callers.")
        }
        Phase::RolledBack { revision, reason } => match &view.stable {
            Some(stable) => {
                format!(
                    "Rolled back: all callers get revision {stable} again, none {revision}. Why: {reason}"
                )
            }
            None => format!("Rolled back: no caller gets revision {revision}. Why: {reason}"),
        },
        Phase::Blocked { reason } => format!("Blocked: {reason}"),
        Phase::Stopping => "Stopping: what is in flight is finished, nothing new is taken.".to_owned(),
    }
}

fn starting(view: &View) -> String {
    match view.revisions.first() {
        Some(first) => format!(
            "Starting revision {}: {} of {} are ready.",
            first.id,
            first.ready,
            plural(u64::from(first.wanted), "replica")
        ),
        None => "Starting.".to_owned(),
    }
}

fn trying(view: &View) -> String {
    let canary = view.canary.clone().unwrap_or_default();
    let Some(step) = &view.step else {
        return format!("A new revision, {canary}, is about to be tried; no caller gets it yet.");
    };
    if step.paused {
        let callers = share(view.weights.desired);
        return format!("Paused by hand: {callers} of callers get revision {canary} until somebody goes on.");
    }
    let Some(left) = step.left else { return reaching(view, &canary, step) };
    let Some(number) = number(view, step) else {
        return format!(
            "Revision {canary} did well in every step: all callers are being moved to it, {} so far.",
            share(view.weights.desired)
        );
    };
    let now = format!("Trying revision {canary} on {}% of callers: {number}", step.weight);
    let next = match view.steps.get(step.index + 1) {
        Some(weight) => format!("then {weight}%"),
        None => "then all of them".to_owned(),
    };
    if left > Duration::ZERO {
        return format!("{now}, {} left; {next}.", rough(left));
    }
    match view.verdicts.iter().filter(|v| v.verdict != Verdict::Pass).map(|v| metric(v.metric)).next() {
        Some(open) => format!("{now}, held long enough; still judging {open}, {next}."),
        None => format!("{now}, held long enough; {next}."),
    }
}

/// The step's weight is not reached: replicas are still missing.
fn reaching(view: &View, canary: &RevisionId, step: &StepView) -> String {
    let (ready, wanted) =
        view.revisions.iter().find(|r| r.role == Role::Canary).map_or((0, 0), |r| (r.ready, r.wanted));
    let callers = match view.weights.desired {
        BasisPoints::ZERO => "no caller gets it yet".to_owned(),
        some => format!("{} of callers get it so far", share(some)),
    };
    format!(
        "Starting the new revision {canary} for {}% of callers: {ready} of {} ready; {callers}.",
        step.weight,
        plural(u64::from(wanted), "replica"),
    )
}

/// `step 2 of 3`, or nothing for the implicit step of 100.
fn number(view: &View, step: &StepView) -> Option<String> {
    (step.index < view.steps.len()).then(|| format!("step {} of {}", step.index + 1, view.steps.len()))
}

/// What is judged, in words.
pub(crate) const fn metric(metric: Metric) -> &'static str {
    match metric {
        Metric::Errors => "errors",
        Metric::TimeToFirstToken => "first token",
        Metric::Health => "health",
    }
}

/// A verdict in words.
pub(crate) const fn verdict(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Fail => "FAIL",
        Verdict::Undecided { .. } => "undecided",
        Verdict::NoData => "no data",
        Verdict::ProviderError => "not known",
    }
}

/// The new and the old revision's value: `6.1% / 1.0%`.
pub(crate) fn compared(judged: &MetricVerdict) -> Option<String> {
    let value = |v: f64| match judged.metric {
        Metric::Errors => format!("{:.1}%", v * 100.0),
        _ => millis(v),
    };
    let one = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), value);
    // Health is told in words: its values are counts of several kinds.
    let told = judged.metric != Metric::Health && (judged.canary.is_some() || judged.stable.is_some());
    told.then(|| format!("{} / {}", one(judged.canary), one(judged.stable)))
}

/// How many of the canary's requests an undecided verdict rests on, and at how many it may be known: `34 of 120`.
pub(crate) fn samples(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Undecided { samples, needed, .. } if needed > samples => format!("{samples} of {needed}"),
        Verdict::Undecided { samples, .. } => samples.to_string(),
        _ => String::new(),
    }
}

/// A share of callers: `10.0%`.
pub(crate) fn share(points: BasisPoints) -> String {
    format!("{:.1}%", points.fraction() * 100.0)
}

/// A share of callers as short as can be: `10%`, `9.7%`.
pub(crate) fn short_share(points: BasisPoints) -> String {
    let percent = points.fraction() * 100.0;
    if points.get().is_multiple_of(100) { format!("{percent:.0}%") } else { format!("{percent:.1}%") }
}

/// A span of time to the second: `5 s`, `2 min 5 s`, `3 h 20 min`.
pub(crate) fn rough(span: Duration) -> String {
    // What is left is rounded up: `0 s left` would say that it is over.
    let seconds = span.as_millis().div_ceil(1000);
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, 0) => format!("{m} min"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, 0, _) => format!("{h} h"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

/// A latency with three digits: `87 ms`, `1.25 s`.
pub(crate) fn latency(span: Option<Duration>) -> String {
    span.map_or_else(|| "-".to_owned(), |d| millis(d.as_secs_f64() * 1000.0))
}

fn millis(value: f64) -> String {
    match value {
        v if v < 9.95 => format!("{v:.1} ms"),
        v if v < 999.5 => format!("{v:.0} ms"),
        v if v < 9_995.0 => format!("{:.2} s", v / 1000.0),
        v => format!("{:.0} s", v / 1000.0),
    }
}

/// Both quantiles of a latency: `120 ms  180 ms`, each in `width` columns.
pub(crate) fn quantiles(found: Latency, width: usize) -> String {
    format!("{:>width$}{:>width$}", latency(found.p50), latency(found.p95))
}

/// `1 replica`, `2 replicas`.
pub(crate) fn plural(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The time of day, in UTC: `12:03:04Z`.
pub(crate) fn clock(at: Timestamp) -> String {
    let of_day = at.as_second().rem_euclid(86_400);
    format!("{:02}:{:02}:{:02}Z", of_day / 3600, of_day / 60 % 60, of_day % 60)
}
