//! Draws a [`View`]: on a terminal as one screen, elsewhere as one line per change.
//!
//! A screen is a list of lines, made section by section from the top; what does not fit is left out from the bottom,
//! so that the sentence that says what is happening is always there. Every colour has a word beside it.

pub mod lines;
mod sections;
mod terminal;
#[cfg(test)]
mod tests;
pub(crate) mod words;

pub use terminal::Terminal;

use crate::view::View;
use ratatui::Frame;
use ratatui::text::Line;
use ratatui::widgets::Paragraph;

/// Events are told in at least this many rows, title included, when anything happened.
const EVENT_ROWS: usize = 4;

/// Above this height, that of the smallest usual terminal, nothing has to make way.
const ROOMY: usize = 24;

/// Draws the whole screen. Made for 80 × 24 and more; smaller ones show the upper part of it.
pub fn draw(frame: &mut Frame<'_>, view: &View) {
    let area = frame.area();
    let lines = compose(view, usize::from(area.width), usize::from(area.height));
    frame.render_widget(Paragraph::new(lines), area);
}

fn compose(view: &View, width: usize, height: usize) -> Vec<Line<'static>> {
    let mut lines = sections::title(view, width);
    lines.extend(sections::happening(view, width, height > ROOMY));
    lines.extend(sections::weights(view, width));
    lines.extend(sections::verdicts(view, width));
    lines.extend(sections::revisions(view, width));
    let load = sections::load(view, width);
    let events = if view.events.is_empty() { 0 } else { EVENT_ROWS };
    let room = height.saturating_sub(lines.len() + load.len() + events);
    lines.extend(sections::endpoints(view, width, room));
    lines.extend(load);
    let room = height.saturating_sub(lines.len());
    lines.extend(sections::events(view, width, room));
    lines.truncate(height);
    lines
}
