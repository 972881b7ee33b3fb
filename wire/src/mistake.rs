//! What is wrong with something that a person wrote.

use serde::{Deserialize, Serialize};
use std::fmt;

/// One mistake: where it is, what stands there, what is allowed.
///
/// `Display` gives `spec.rollout.steps[1].weight (line 12): 5 is below the step before it (10); …`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mistake {
    /// The field's path from the document's root, as kubectl writes it: `spec.rollout.steps[1].weight`. Empty for
    /// the whole document.
    pub path: String,
    /// The line in the file, from 1, where a file was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The value found and what is allowed.
    pub message: String,
}

impl Mistake {
    /// A mistake at `path`, its line not yet known.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), line: None, message: message.into() }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.path.is_empty(), self.line) {
            (true, None) => write!(f, "{}", self.message),
            (true, Some(line)) => write!(f, "line {line}: {}", self.message),
            (false, None) => write!(f, "{}: {}", self.path, self.message),
            (false, Some(line)) => write!(f, "{} (line {line}): {}", self.path, self.message),
        }
    }
}

impl std::error::Error for Mistake {}
