//! Text in a given number of columns.

use super::{QUIET, STRONG};
use ratatui::text::{Line, Span};

/// The text in exactly `width` columns: padded, or cut with an ellipsis.
pub(super) fn fit(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return format!("{text:<width$}");
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    if width == 0 { kept } else { format!("{kept}…") }
}

/// The text in at most `rows` rows of at most `width` columns, broken at spaces; what is left over is cut with an
/// ellipsis.
pub(super) fn wrap(text: &str, width: usize, rows: usize) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    if rows == 0 {
        return out;
    }
    for word in text.split_whitespace() {
        let full = out.len() == rows;
        match out.last_mut() {
            Some(row) if full || row.chars().count() + 1 + word.chars().count() <= width => {
                row.push(' ');
                row.push_str(word);
            }
            _ => out.push(word.to_owned()),
        }
    }
    for row in &mut out {
        if row.chars().count() > width {
            *row = fit(row, width);
        }
    }
    out
}

/// The line above a section: its name, and from column `at` on the names of its columns.
pub(super) fn rule(name: &str, columns: &str, at: usize, width: usize) -> Line<'static> {
    let name = format!("─ {name} ");
    let before = "─".repeat(at.min(width).saturating_sub(name.chars().count()));
    let used = name.chars().count() + before.chars().count() + columns.chars().count();
    let after = "─".repeat(width.saturating_sub(used));
    Line::from(vec![Span::styled(name, STRONG), Span::styled(format!("{before}{columns}{after}"), QUIET)])
}

#[cfg(test)]
mod tests {
    use super::{fit, wrap};

    #[test]
    fn fitted_text_has_exactly_its_width() {
        for width in 0..12 {
            assert_eq!(fit("größer", width).chars().count(), width, "{width}");
        }
        assert_eq!(fit("größer", 4), "grö…");
    }

    #[test]
    fn wrapped_text_keeps_its_words_and_its_bounds() {
        assert_eq!(wrap("one two three", 7, 3), ["one two", "three"]);
        assert_eq!(wrap("one two three", 7, 1), ["one tw…"]);
        assert_eq!(wrap("extraordinarily", 7, 2), ["extrao…"]);
        assert!(wrap("", 7, 2).is_empty() && wrap("one", 7, 0).is_empty());
    }
}
