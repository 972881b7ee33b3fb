//! A deployment's status as a calm text.

use crate::screen::words;
use crate::view::{Role, View};
use outrigger_crds::ModelDeploymentStatus;
use outrigger_verdict::MetricVerdict;
use outrigger_wire::BasisPoints;
use std::fmt::Write as _;

/// The last events that are told.
const EVENTS: usize = 5;

/// What is so, why it waits and what was asked last, as text that ends with a line break.
pub(super) fn tree(view: &View, status: &ModelDeploymentStatus) -> String {
    let mut text = String::new();
    let model = if view.model == view.deployment { String::new() } else { format!(" ({})", view.model) };
    line(&mut text, &format!("{}{model} at {}", view.deployment, view.url));
    line(&mut text, &words::happening(view));
    section(&mut text, "Why it waits", waits(status));
    section(&mut text, "Revisions", view.revisions.iter().flat_map(|found| revision(view, found)).collect());
    if view.canary.is_some() {
        section(&mut text, "Callers sent to the new revision", weights(view));
        section(&mut text, "Steps", vec![steps(view)]);
    }
    let question = if view.canary.is_some() { "Is the new one worse?" } else { "Was the new one worse?" };
    section(&mut text, question, view.verdicts.iter().map(verdict).collect());
    section(&mut text, "Asked last, by hand", asked(status));
    section(&mut text, "What happened", happened(view));
    text
}

fn line(text: &mut String, words: &str) {
    // Writing to a String does not fail. What an engine said may hold line breaks; a line stays a line.
    let words: String = words.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let _written = writeln!(text, "{}", words.trim_end());
}

fn section(text: &mut String, title: &str, lines: Vec<String>) {
    if lines.is_empty() {
        return;
    }
    text.push('\n');
    line(text, title);
    lines.iter().for_each(|words| line(text, &format!("  {words}")));
}

/// What the status message says is waited for.
fn waits(status: &ModelDeploymentStatus) -> Vec<String> {
    status.message.split("; ").filter_map(|part| part.strip_prefix("waiting: ")).map(str::to_owned).collect()
}

fn revision(view: &View, found: &crate::view::RevisionView) -> Vec<String> {
    let role = match found.role {
        Role::Stable => "stable",
        Role::Canary => "new",
        Role::Leaving => "leaving",
    };
    let pods = words::plural(u64::from(found.wanted), "pod");
    let mut lines = vec![format!("{role:<8}{}  {} of {pods} ready", found.id, found.ready)];
    for pod in view.endpoints.iter().filter(|pod| pod.revision == found.id) {
        let again = match pod.restarts {
            0 => String::new(),
            n => format!(", engine restarted {}", words::plural(u64::from(n), "time")),
        };
        lines.push(format!("  {:<9} {}{again}", pod.state.as_str(), pod.id));
    }
    lines
}

fn weights(view: &View) -> Vec<String> {
    let one = |label: &str, share: Option<BasisPoints>, what: &str| {
        let share = share.map_or_else(|| "-".to_owned(), words::share);
        format!("{label:<11}{share:>7}  {what}")
    };
    vec![
        one("desired", Some(view.weights.desired), "the step's, by ready replicas"),
        one("programmed", view.weights.programmed, "confirmed by every gateway"),
        one("observed", view.weights.observed, "counted in requests"),
    ]
}

/// The road: `5% done > [25% now, 4 s left] > 50% > 100%`.
fn steps(view: &View) -> String {
    let Some(step) = &view.step else { return String::new() };
    let left = match step.left {
        _ if step.paused => ", paused".to_owned(),
        Some(left) if !left.is_zero() => format!(", {} left", words::rough(left)),
        Some(_) => String::new(),
        None => ", not reached yet".to_owned(),
    };
    let one = |(index, weight): (usize, &u8)| match index {
        i if i < step.index => format!("{weight}% done"),
        i if i == step.index => format!("[{weight}% now{left}]"),
        _ => format!("{weight}%"),
    };
    view.steps.iter().chain([&100]).enumerate().map(one).collect::<Vec<_>>().join(" > ")
}

fn verdict(judged: &MetricVerdict) -> String {
    let (metric, word) = (words::metric(judged.metric), words::verdict(&judged.verdict));
    let samples = match words::samples(&judged.verdict) {
        none if none.is_empty() => none,
        samples => format!(" ({samples} requests)"),
    };
    format!("{metric:<13}{word:<11}{}{samples}", judged.reason)
}

fn asked(status: &ModelDeploymentStatus) -> Vec<String> {
    let Some(action) = &status.action else { return Vec::new() };
    let what = if action.verb.is_empty() { "what can't be read" } else { &action.verb };
    let came = if action.accepted { "done" } else { "refused" };
    let at = action.at.map(|at| format!(" at {}", words::clock(at))).unwrap_or_default();
    vec![format!("{what}{at}: {came}: {}", action.result)]
}

fn happened(view: &View) -> Vec<String> {
    let skipped = view.events.len().saturating_sub(EVENTS);
    let told = view.events.iter().skip(skipped);
    told.map(|event| format!("{}  {:<15} {}", words::clock(event.at), event.reason, event.message)).collect()
}
