//! The changes between two views, one line each, for where there is no terminal.
//!
//! `TIME WORD …`, the time in UTC. The wording is stable, so that scripts can search it:
//!
//! ```text
//! 12:03:00Z starting chat
//! 12:03:01Z revision 4b1f0c9a77 1/2 replicas ready
//! 12:03:02Z available 4b1f0c9a77 at http://127.0.0.1:8080
//! 12:03:04Z canary 6f9c2e1b4d step 1/3 weight 10% hold 5 s
//! 12:03:05Z weights desired 10% programmed 10%
//! 12:03:06Z canary 6f9c2e1b4d paused
//! 12:03:07Z canary 6f9c2e1b4d goes on
//! 12:03:09Z verdict errors Pass: errors 0.0 % against 0.0 %: …
//! 12:03:20Z promoted 6f9c2e1b4d
//! 12:03:20Z rolled back 6f9c2e1b4d: errors 9.1 % against 0.0 %: …
//! 12:03:20Z blocked: port 8080 is in use
//! ```

use super::words;
use crate::view::{EventView, LoadView, Phase, View};

/// Events that the phase, the steps and the weights tell already.
const TOLD: [&str; 10] = [
    "Starting",
    "Serving",
    "CanaryStarted",
    "StepReached",
    "StepAdvanced",
    "Promoted",
    "RolledBack",
    "Blocked",
    "Paused",
    "Resumed",
];

/// One line per change from `before` to `after`. Before the first view stands `View::default()`.
///
/// Rates, latencies, observed shares and queues change all the time and are no lines; a verdict is one when its
/// word changes.
pub fn changes(before: &View, after: &View) -> Vec<String> {
    let mut told: Vec<String> = Vec::new();
    // A start is told before what starts; every other phase after what led to it.
    let phase = phase(before, after);
    let first = after.phase == Phase::Starting;
    told.extend(phase.iter().filter(|_| first).cloned());
    told.extend(new_events(before, after).map(event));
    told.extend(replicas(before, after));
    told.extend(endpoints(before, after));
    told.extend(step(before, after));
    told.extend(weights(before, after));
    told.extend(verdicts(before, after));
    told.extend(phase.into_iter().filter(|_| !first));
    let clock = words::clock(after.now);
    told.iter().map(|line| format!("{clock} {}", one_line(line))).collect()
}

/// Messages may quote an engine's own words; a line stays a line.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn new_events<'a>(before: &'a View, after: &'a View) -> impl Iterator<Item = &'a EventView> {
    after.events.iter().filter(|e| !before.events.contains(e) && !TOLD.contains(&e.reason.as_str()))
}

fn event(event: &EventView) -> String {
    let mark = if event.warning { "warning" } else { "event" };
    format!("{mark} {}: {}", event.reason, event.message)
}

/// How many replicas of each revision are ready.
fn replicas(before: &View, after: &View) -> Vec<String> {
    let changed = after.revisions.iter().filter(|now| {
        let was = before.revisions.iter().find(|was| was.id == now.id);
        was.is_none_or(|was| (was.ready, was.wanted) != (now.ready, now.wanted))
    });
    changed
        .map(|now| {
            let role = if after.canary.as_ref() == Some(&now.id) { "canary" } else { "revision" };
            format!("{role} {} {}/{} replicas ready", now.id, now.ready, now.wanted)
        })
        .collect()
}

fn endpoints(before: &View, after: &View) -> Vec<String> {
    let mut told = Vec::new();
    for now in &after.endpoints {
        let was = before.endpoints.iter().find(|was| was.id == now.id);
        if was.is_none_or(|was| was.state != now.state) {
            told.push(format!("replica {} {}", now.id, now.state.as_str()));
        }
        if was.is_some_and(|was| was.restarts < now.restarts) {
            told.push(format!(
                "replica {} restarted, {} so far",
                now.id,
                words::plural(now.restarts.into(), "time")
            ));
        }
    }
    let gone = before.endpoints.iter().filter(|was| !after.endpoints.iter().any(|now| now.id == was.id));
    told.extend(gone.map(|was| format!("replica {} left", was.id)));
    told
}

fn step(before: &View, after: &View) -> Option<String> {
    let (canary, step) = (after.canary.as_ref()?, after.step.as_ref()?);
    let paused = before.canary == after.canary && before.step.as_ref().is_some_and(|was| was.paused);
    let here = before.step.as_ref().is_some_and(|was| was.index == step.index);
    if step.paused != paused && (here || step.paused) {
        return Some(format!("canary {canary} {}", if step.paused { "paused" } else { "goes on" }));
    }
    let same = before.step.as_ref().is_some_and(|was| was.index == step.index);
    if same && before.canary == after.canary {
        return None;
    }
    let of = after.steps.len();
    Some(match step.index < of {
        true => format!(
            "canary {canary} step {}/{of} weight {}% hold {}",
            step.index + 1,
            step.weight,
            words::rough(step.hold)
        ),
        false => format!("canary {canary} all steps done, moving to 100%"),
    })
}

fn weights(before: &View, after: &View) -> Option<String> {
    let told = |view: &View| (view.weights.desired, view.weights.programmed);
    (told(before) != told(after)).then(|| {
        let programmed = after.weights.programmed.map_or_else(|| "-".to_owned(), words::short_share);
        format!("weights desired {} programmed {programmed}", words::short_share(after.weights.desired))
    })
}

fn verdicts(before: &View, after: &View) -> Vec<String> {
    let changed = after.verdicts.iter().filter(|now| {
        let was = before.verdicts.iter().find(|was| was.metric == now.metric);
        (after.canary.is_some() && before.canary != after.canary)
            || was.is_none_or(|was| was.verdict.as_str() != now.verdict.as_str())
    });
    changed
        .map(|now| format!("verdict {} {}: {}", words::metric(now.metric), now.verdict.as_str(), now.reason))
        .collect()
}

fn phase(before: &View, after: &View) -> Vec<String> {
    if before.phase == after.phase && before.stable == after.stable && *before != View::default() {
        return Vec::new();
    }
    let stable = after.stable.clone().unwrap_or_default();
    let line = match &after.phase {
        Phase::Starting => format!("starting {}", after.deployment),
        Phase::Available => format!("available {stable} at {}", after.url),
        // The step says so.
        Phase::Canary => return Vec::new(),
        Phase::Promoted { revision } => format!("promoted {revision}"),
        Phase::RolledBack { revision, reason } => format!("rolled back {revision}: {reason}"),
        Phase::Blocked { reason } => format!("blocked: {reason}"),
        Phase::Stopping => "stopping".to_owned(),
    };
    let settled = matches!(after.phase, Phase::Promoted { .. } | Phase::RolledBack { .. } | Phase::Stopping);
    let load = after.load.as_ref().filter(|_| settled).map(load);
    [Some(line), load].into_iter().flatten().collect()
}

fn load(load: &LoadView) -> String {
    format!("load sent {} ok {} shed {} failed {}", load.sent, load.ok, load.shed, load.failed)
}
