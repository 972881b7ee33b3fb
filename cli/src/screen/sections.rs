//! The parts of the screen, each a list of lines for a given width.

mod bars;
mod fit;
mod tables;

pub(super) use tables::{endpoints, events, load, revisions, verdicts};

use super::words;
use crate::view::{Phase, View};
use bars::bar;
use fit::{fit, rule, wrap};
use outrigger_wire::BasisPoints;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

/// A label in the first column.
const LABEL: usize = 13;
/// Below this width the bars need the room of their explanations.
const EXPLAINED: usize = 72;
/// Rows of the status message.
const MESSAGE_ROWS: usize = 2;
/// Rows of the sentence that says what is happening: a rollback's reason may need them all.
const SENTENCE_ROWS: usize = 4;

pub(super) const GOOD: Color = Color::Green;
pub(super) const BAD: Color = Color::Red;
pub(super) const NEW: Color = Color::Yellow;
pub(super) const QUIET: Style = Style::new().add_modifier(Modifier::DIM);
pub(super) const STRONG: Style = Style::new().add_modifier(Modifier::BOLD);

/// Who this is, where it answers, how to leave, what time it is.
pub(super) fn title(view: &View, width: usize) -> Vec<Line<'static>> {
    let model = if view.model == view.deployment { String::new() } else { format!(" ({})", view.model) };
    let left = format!(" outrigger  {}{model} at {} ", view.deployment, view.url);
    let leave = if view.onlooking { "leaves" } else { "stops" };
    let right = format!("Ctrl-C {leave}  {} ", words::clock(view.now));
    let style = Style::new().add_modifier(Modifier::REVERSED);
    let free = width.saturating_sub(right.chars().count());
    vec![Line::styled(format!("{}{right}", fit(&left, free)), style)]
}

/// What is happening, in a sentence; below it the status message and, while a revision is tried, the road through
/// the steps, for which the message makes way unless there is room.
pub(super) fn happening(view: &View, width: usize, roomy: bool) -> Vec<Line<'static>> {
    let color = match view.phase {
        Phase::Promoted { .. } => GOOD,
        Phase::RolledBack { .. } | Phase::Blocked { .. } => BAD,
        Phase::Canary => NEW,
        Phase::Starting | Phase::Available | Phase::Stopping => Color::Reset,
    };
    let style = STRONG.fg(color);
    let mut lines: Vec<Line<'static>> = wrap(&words::happening(view), width.saturating_sub(2), SENTENCE_ROWS)
        .into_iter()
        .map(|row| Line::styled(format!(" {row}"), style))
        .collect();
    let road = road(view);
    // Of what is over or blocked the sentence has told all.
    let told = matches!(
        view.phase,
        Phase::Promoted { .. } | Phase::RolledBack { .. } | Phase::Blocked { .. } | Phase::Stopping
    );
    let rows = if told || (road.is_some() && !roomy) { 0 } else { MESSAGE_ROWS };
    let message = wrap(&view.message, width.saturating_sub(2), rows);
    lines.extend(message.into_iter().map(|row| Line::styled(format!(" {row}"), QUIET)));
    lines.extend(road);
    lines
}

/// The steps, those that are done and the present one marked: `5% done > [25% now] > 50% > 100%`.
fn road(view: &View) -> Option<Line<'static>> {
    let now = view.step.as_ref()?.index;
    let mut spans = vec![Span::styled(" steps  ", QUIET)];
    for (index, weight) in view.steps.iter().chain([&100]).enumerate() {
        if index > 0 {
            spans.push(Span::styled(" > ", QUIET));
        }
        spans.push(match index {
            i if i < now => Span::styled(format!("{weight}% done"), Style::new().fg(GOOD)),
            i if i == now => Span::styled(format!("[{weight}% now]"), STRONG.fg(NEW)),
            _ => Span::styled(format!("{weight}%"), QUIET),
        });
    }
    Some(Line::from(spans))
}

/// The new revision's share of callers, three ways.
pub(super) fn weights(view: &View, width: usize) -> Vec<Line<'static>> {
    let shares = view.weights;
    let mut lines = vec![rule("Callers sent to the new revision", "", 0, width)];
    lines.push(weight("desired", Some(shares.desired), "step, by ready replicas", width));
    lines.push(weight("programmed", shares.programmed, "confirmed by the gateway", width));
    lines.push(weight("observed", shares.observed, "counted in requests", width));
    lines
}

fn weight(label: &str, share: Option<BasisPoints>, what: &str, width: usize) -> Line<'static> {
    let number = share.map_or_else(|| "-".to_owned(), words::share);
    let what = if width < EXPLAINED { String::new() } else { format!("  {}", fit(what, 25)) };
    // One column of margin, the number's seven and two spaces before the bar.
    let room = width.saturating_sub(LABEL + 11 + what.chars().count());
    let (full, empty) = bar(share.map_or(0.0, BasisPoints::fraction), room);
    Line::from(vec![
        Span::raw(format!(" {label:<LABEL$}{number:>7}  ")),
        Span::styled(full, Style::new().fg(NEW)),
        Span::styled(empty, QUIET),
        Span::styled(what, QUIET),
    ])
}
