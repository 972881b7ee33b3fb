//! Bars of eighths of a column.

const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/// A bar for `share` of `width` columns: the full part and the empty part. What is above zero shows at least an
/// eighth of a column.
pub(super) fn bar(share: f64, width: usize) -> (String, String) {
    let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
    let mut eighths = (share * width as f64 * 8.0).round() as usize;
    if eighths == 0 && share > 0.0 && width > 0 {
        eighths = 1;
    }
    let part = EIGHTHS.get(eighths % 8).copied().unwrap_or_default();
    let full = format!("{}{part}", "█".repeat(eighths / 8));
    let used = eighths.div_ceil(8);
    (full, "·".repeat(width.saturating_sub(used)))
}

#[cfg(test)]
mod tests {
    use super::bar;

    #[test]
    fn a_bar_always_has_its_width() {
        for width in 0..40 {
            for thousandth in 0..=1000 {
                let (full, empty) = bar(f64::from(thousandth) / 1000.0, width);
                assert_eq!(full.chars().count() + empty.chars().count(), width);
            }
        }
    }

    #[test]
    fn little_is_not_nothing_and_nonsense_is() {
        assert_eq!(bar(0.0001, 10).0, "▏");
        assert_eq!(bar(f64::NAN, 3), (String::new(), "···".to_owned()));
        assert_eq!(bar(7.0, 3), ("███".to_owned(), String::new()));
    }
}
