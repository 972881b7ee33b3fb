//! The sections that are tables: verdicts, revisions, endpoints, load, events.

use super::bars::bar;
use super::fit::{fit, rule, wrap};
use super::{BAD, GOOD, LABEL, NEW, QUIET, STRONG};
use crate::screen::words;
use crate::view::{EndpointState, EndpointView, EventView, RevisionView, Role, View};
use outrigger_verdict::{MetricVerdict, Verdict};
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span};

/// Columns before the first bar of evidence.
const VERDICT: usize = 25;
/// Columns of a bar of evidence.
const EVIDENCE: usize = 10;
/// From this width on, a verdict's whole reason has room beside it.
const WIDE: usize = 120;
/// Columns of one endpoint, so that two stand side by side in 80.
const ENDPOINT: usize = 39;
/// Rows of one event.
const EVENT_ROWS: usize = 2;
/// Requests that fill an endpoint's bar.
const BUSY: f64 = 16.0;

/// What the canary is judged by.
pub(in crate::screen) fn verdicts(view: &View, width: usize) -> Vec<Line<'static>> {
    let columns = match view.verdicts.is_empty() {
        true => String::new(),
        false => {
            format!(" {:<EVIDENCE$}  {:<EVIDENCE$} {:>17}{:>13} ", "yes", "no", "new / stable", "requests")
        }
    };
    let question = match view.canary.is_none() && !view.verdicts.is_empty() {
        true => "Was the new one worse?",
        false => "Is the new one worse?",
    };
    let mut lines = vec![rule(question, &columns, VERDICT, width)];
    if view.verdicts.is_empty() {
        let why = if view.canary.is_some() { "nothing counted yet" } else { "nothing is being tried" };
        lines.push(Line::styled(format!(" {why}"), QUIET));
    }
    lines.extend(view.verdicts.iter().map(|judged| verdict(judged, width)));
    lines
}

fn verdict(judged: &MetricVerdict, width: usize) -> Line<'static> {
    let color = match judged.verdict {
        Verdict::Pass => GOOD,
        Verdict::Fail => BAD,
        _ => Color::Reset,
    };
    let mut spans = vec![
        Span::raw(format!(" {:<13}", words::metric(judged.metric))),
        Span::styled(format!("{:<11}", words::verdict(&judged.verdict)), STRONG.fg(color)),
    ];
    let Some(compared) = words::compared(judged) else {
        let reason = fit(&judged.reason, width.saturating_sub(VERDICT + 1));
        spans.push(Span::styled(format!(" {reason}"), QUIET));
        return Line::from(spans);
    };
    for (evidence, color) in [(judged.evidence, BAD), (judged.excluded, GOOD)] {
        let share = if judged.bound > 0.0 { evidence / judged.bound } else { 0.0 };
        let (full, empty) = bar(share, EVIDENCE);
        spans.push(Span::raw(" "));
        spans.push(Span::styled(full, Style::new().fg(color)));
        spans.push(Span::styled(empty, QUIET));
        spans.push(Span::raw(" "));
    }
    spans.push(Span::raw(format!("{compared:>17}{:>13}", words::samples(&judged.verdict))));
    if width >= WIDE {
        let reason = fit(&judged.reason, width.saturating_sub(83));
        spans.push(Span::styled(format!("  {reason}"), QUIET));
    }
    Line::from(spans)
}

/// The live revisions.
pub(in crate::screen) fn revisions(view: &View, width: usize) -> Vec<Line<'static>> {
    let columns = format!(
        "{:>14}{:>7}{:>8}{:>8}{:>8}{:>11}{:>11} ",
        "ready", "req/s", "errors", "p50", "p95", "token p50", "token p95"
    );
    let mut lines = vec![rule("Revisions", &columns, 0, width)];
    lines.extend(view.revisions.iter().map(revision));
    if view.revisions.is_empty() {
        lines.push(Line::styled(" none yet", QUIET));
    }
    lines
}

fn revision(found: &RevisionView) -> Line<'static> {
    let (role, style) = match found.role {
        Role::Stable => ("stable", Style::new()),
        Role::Canary => ("new", Style::new().fg(NEW)),
        Role::Leaving => ("leaving", QUIET),
    };
    let errors = found.errors.map_or_else(|| "-".to_owned(), |e| format!("{:.1}%", e * 100.0));
    let rate = found.rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}"));
    let ready = format!("{}/{}", found.ready, found.wanted);
    Line::styled(
        format!(
            " {role:<8}{:<11}{ready:>6}{rate:>7}{errors:>8}{}{}",
            found.id.as_str(),
            words::quantiles(found.duration, 8),
            words::quantiles(found.first_token, 11),
        ),
        style,
    )
}

/// The replicas, in at most `rows` rows with the title.
pub(in crate::screen) fn endpoints(view: &View, width: usize, rows: usize) -> Vec<Line<'static>> {
    if rows < 2 || view.endpoints.is_empty() {
        return Vec::new();
    }
    let room = rows - 1;
    if view.onlooking {
        return looked_on(view, room, width);
    }
    let across = if view.endpoints.len() > room { (width / ENDPOINT).max(1) } else { 1 };
    let shown =
        if view.endpoints.len() > room * across { (room * across).saturating_sub(1) } else { usize::MAX };
    let hidden = view.endpoints.len().saturating_sub(shown);
    let columns = if across == 1 { " state      running  waiting " } else { "" };
    let mut cells: Vec<Vec<Span<'static>>> =
        view.endpoints.iter().take(shown).map(|e| endpoint(e, across, width)).collect();
    if hidden > 0 {
        cells.push(vec![Span::styled(format!(" and {hidden} more"), QUIET)]);
    }
    let mut lines = vec![rule(
        "Replicas: requests running and waiting",
        columns,
        width.saturating_sub(columns.len()),
        width,
    )];
    lines.extend(cells.chunks(across).map(|row| Line::from(row.concat())));
    lines
}

fn endpoint(found: &EndpointView, across: usize, width: usize) -> Vec<Span<'static>> {
    let state = Span::styled(format!("{:<9}", found.state.as_str()), Style::new().fg(color(found.state)));
    let counts = format!("{:>4} +{:<4}", found.in_flight, found.queued);
    if across > 1 {
        return vec![Span::raw(format!(" {} ", fit(found.id.as_str(), 17))), state, Span::raw(counts)];
    }
    let room = width.saturating_sub(25 + 9 + 20);
    let (running, _) = bar(f64::from(found.in_flight) / BUSY, room / 2);
    let (waiting, _) = bar(f64::from(found.queued) / BUSY, room / 2);
    let blank = room.saturating_sub(running.chars().count() + waiting.chars().count());
    let again = if found.restarts > 0 { format!("restarted {}×", found.restarts) } else { String::new() };
    let again = if blank > again.chars().count() { again } else { String::new() };
    vec![
        Span::raw(format!(" {}", fit(found.id.as_str(), 24))),
        Span::styled(running, Style::new().fg(GOOD)),
        Span::styled(waiting, Style::new().fg(BAD)),
        Span::styled(format!("{again:>blank$} "), QUIET),
        state,
        Span::raw(format!("{:>9}{:>9} ", found.in_flight, found.queued)),
    ]
}

/// The replicas of a cluster, of which is known how they are and not what they do.
fn looked_on(view: &View, room: usize, width: usize) -> Vec<Line<'static>> {
    let hidden = if view.endpoints.len() > room { view.endpoints.len() - room.saturating_sub(1) } else { 0 };
    let mut lines = vec![rule("Replicas", " restarts ", width.saturating_sub(10), width)];
    for found in view.endpoints.iter().take(view.endpoints.len() - hidden) {
        let name = fit(found.id.as_str(), width.saturating_sub(9 + 10 + 2));
        lines.push(Line::from(vec![
            Span::raw(format!(" {name} ")),
            Span::styled(format!("{:<9}", found.state.as_str()), Style::new().fg(color(found.state))),
            Span::raw(format!("{:>9} ", found.restarts)),
        ]));
    }
    if hidden > 0 {
        lines.push(Line::styled(format!(" and {hidden} more"), QUIET));
    }
    lines
}

fn color(state: EndpointState) -> Color {
    match state {
        EndpointState::Ready => GOOD,
        EndpointState::Stalled | EndpointState::Gone | EndpointState::Unready => BAD,
        _ => Color::Reset,
    }
}

/// What the load generator saw.
pub(in crate::screen) fn load(view: &View, width: usize) -> Vec<Line<'static>> {
    let Some(load) = &view.load else { return Vec::new() };
    let told = format!(
        "{} sent, {} answered, {} shed, {} failed; {:.0}/s, p95 {}",
        load.sent,
        load.ok,
        load.shed,
        load.failed,
        load.rate,
        words::latency(load.duration.p95),
    );
    let style = if load.failed > 0 { Style::new().fg(BAD) } else { Style::new() };
    vec![Line::from(vec![
        Span::styled(format!("─ {:<11}", "Callers"), STRONG),
        Span::styled(fit(&told, width.saturating_sub(LABEL)), style),
    ])]
}

/// The last events, newest first, in at most `rows` rows with the title. What happened again is told once, with how
/// often.
pub(in crate::screen) fn events(view: &View, width: usize, rows: usize) -> Vec<Line<'static>> {
    if rows < 2 || view.events.is_empty() {
        return Vec::new();
    }
    let mut told: Vec<(&EventView, usize)> = Vec::new();
    for event in view.events.iter().rev() {
        match told.iter_mut().find(|(e, _)| (&e.reason, &e.message) == (&event.reason, &event.message)) {
            Some((_, times)) => *times += 1,
            None => told.push((event, 1)),
        }
    }
    let mut lines = vec![rule("What happened, newest first", "", 0, width)];
    lines.extend(told.into_iter().flat_map(|(told, times)| event(told, times, width)).take(rows - 1));
    lines
}

fn event(told: &EventView, times: usize, width: usize) -> Vec<Line<'static>> {
    let mark = if told.warning { "! " } else { "" };
    let style = if told.warning { Style::new().fg(BAD) } else { Style::new() };
    let times = if times > 1 { format!("({times} times) ") } else { String::new() };
    let text = format!("{mark}{}: {times}{}", told.reason, told.message);
    let rows = wrap(&text, width.saturating_sub(11), EVENT_ROWS).into_iter().enumerate();
    rows.map(|(row, text)| {
        let margin = if row == 0 { words::clock(told.at) } else { String::new() };
        Line::from(vec![Span::styled(format!(" {margin:<10}"), QUIET), Span::styled(text, style)])
    })
    .collect()
}
