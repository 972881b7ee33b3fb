//! What a bench says: a table for people, JSON for programs.

use anyhow::Result;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// Which case, such as `sidecar`.
    pub case: String,
    /// What was measured, its unit last: `cpu per request, µs`.
    pub metric: String,
    /// Ours.
    pub ours: f64,
    /// The peer's in the same run, or the ideal's; absent for absolute goals.
    pub peer: Option<f64>,
    /// Whose that is.
    pub peer_name: String,
    /// `ours / peer`.
    pub ratio: Option<f64>,
    /// What is aimed for, in words: `ratio ≤ 1.15`.
    pub goal: String,
    /// Whether it was reached; absent where nothing is aimed for.
    pub met: Option<bool>,
}

/// What a case gives.
#[derive(Debug)]
pub struct Measured {
    /// Its lines.
    pub lines: Vec<Line>,
    /// Why it says nothing.
    pub void: Option<String>,
}

/// What is aimed for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// `ours / peer` at most.
    RatioAtMost(f64),
    /// `ours / peer` at least.
    RatioAtLeast(f64),
    /// `ours − peer` at most.
    MoreByAtMost(f64),
    /// `ours` below.
    Below(f64),
    /// Nothing: for comparison.
    None,
}

impl Line {
    /// A line, judged.
    pub fn new(case: &str, metric: &str, ours: f64, peer: Option<(&str, f64)>, goal: Goal) -> Self {
        let (peer_name, peer) = match peer {
            Some((name, value)) => (name.to_owned(), Some(value)),
            None => (String::new(), None),
        };
        let ratio = peer.map(|peer| ours / peer);
        let (goal, met) = match goal {
            Goal::RatioAtMost(x) => (format!("ratio ≤ {x}"), ratio.map(|ratio| ratio <= x)),
            Goal::RatioAtLeast(x) => (format!("ratio ≥ {x}"), ratio.map(|ratio| ratio >= x)),
            Goal::MoreByAtMost(x) => (format!("≤ +{x}"), peer.map(|peer| ours - peer <= x)),
            Goal::Below(x) => (format!("< {x}"), Some(ours < x)),
            Goal::None => (String::new(), None),
        };
        Self { case: case.to_owned(), metric: metric.to_owned(), ours, peer, peer_name, ratio, goal, met }
    }
}

/// The lines as a table.
pub fn table(lines: &[Line]) -> String {
    let mut rows =
        vec![["case", "metric", "ours", "peer", "peer's", "ratio", "goal", "met"].map(str::to_owned)];
    for line in lines {
        let number = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.3}"));
        let met = match line.met {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "",
        };
        rows.push([
            line.case.clone(),
            line.metric.clone(),
            number(Some(line.ours)),
            line.peer_name.clone(),
            number(line.peer),
            number(line.ratio),
            line.goal.clone(),
            met.to_owned(),
        ]);
    }
    let mut widths = [0; 8];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in &rows {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell}{}", " ".repeat(width.saturating_sub(cell.chars().count()))))
            .collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// Writes the lines to `target/bench/NAME.json` and gives the path.
pub fn write(name: &str, lines: &[Line]) -> Result<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
    std::fs::create_dir_all(&dir)?;
    let path = dir.join(format!("{name}.json"));
    std::fs::write(&path, serde_json::to_string_pretty(lines)? + "\n")?;
    Ok(path.canonicalize()?)
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.get(middle), values.len() % 2) {
        (Some(value), 1) => *value,
        (Some(value), _) => (value + values.get(middle.saturating_sub(1)).unwrap_or(value)) / 2.0,
        (None, _) => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_judged() {
        let met = |ours, peer: f64, goal| Line::new("c", "m", ours, Some(("p", peer)), goal).met;
        assert_eq!(met(1.0, 2.0, Goal::RatioAtMost(0.5)), Some(true));
        assert_eq!(met(1.1, 2.0, Goal::RatioAtMost(0.5)), Some(false));
        assert_eq!(met(0.9, 1.0, Goal::RatioAtLeast(0.9)), Some(true));
        assert_eq!(met(0.8, 0.2, Goal::MoreByAtMost(0.5)), Some(false));
        assert_eq!(Line::new("c", "m", 12.0, None, Goal::Below(12.0)).met, Some(false));
        // What could not be measured is not a goal that was met.
        assert_eq!(met(f64::NAN, 1.0, Goal::RatioAtMost(1.0)), Some(false));
    }

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn tables_are_aligned() {
        let lines = [Line::new("sidecar", "cpu, µs", 1.5, Some(("floor", 3.0)), Goal::RatioAtMost(1.15))];
        assert_eq!(
            table(&lines),
            "case     metric   ours   peer   peer's  ratio  goal          met\n\
             sidecar  cpu, µs  1.500  floor  3.000   0.500  ratio ≤ 1.15  yes\n"
        );
    }
}
