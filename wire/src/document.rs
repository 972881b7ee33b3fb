//! Reads documents that people write by hand: YAML (and so JSON) with every mistake, its path and its line.
//!
//! Three passes, each bounded. The text becomes a tree of paths and lines (`index`), which refuses what must not
//! reach a recursive reader: deep nesting, aliases that multiply, several documents. Then `serde_yaml` reads the
//! values. Then the values become the type asked for (`values`); whatever is refused is taken out and the rest is
//! tried again, so that one wrong field does not hide the next.

mod fields;
mod index;
#[cfg(test)]
mod tests;
mod values;
mod wording;

use crate::Mistake;
use index::Index;
use serde::de::DeserializeOwned;

/// The largest file that is read, in bytes: 1 MiB, what the API server takes, and far beyond what a person writes.
pub const MAX_BYTES: usize = 1 << 20;
/// The deepest nesting. The resource's own fields need twelve levels; a Kubernetes pod needs about fifteen.
pub const MAX_DEPTH: usize = 64;
/// The most values in one document, aliases written out: the time and memory that a hostile file can cost.
pub const MAX_VALUES: usize = 100_000;
/// The most mistakes that are returned: more would bury the first.
const MAX_MISTAKES: usize = 50;

/// A document that was read, with the lines of its fields for mistakes that show only later.
#[derive(Debug)]
pub struct Document<T> {
    /// What it says.
    pub value: T,
    index: Index,
}

impl<T> Document<T> {
    /// What it says, and the lines alone.
    pub fn split(self) -> (T, Document<()>) {
        (self.value, Document { value: (), index: self.index })
    }

    /// Gives each mistake the line of its path, or of the nearest field above it, and sorts them by line.
    pub fn locate(&self, mistakes: Vec<Mistake>) -> Vec<Mistake> {
        self.index.locate(mistakes)
    }
}

/// Reads one YAML (or JSON) document. Wrong types, unknown fields, duplicate keys, too deep nesting, a too large
/// file and what is not YAML at all are each mistakes with path and line; as many as can be found are returned at
/// once, in the order of the file.
pub fn read<T: DeserializeOwned>(text: &str) -> Result<Document<T>, Vec<Mistake>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.len() > MAX_BYTES {
        return Err(vec![Mistake::new(
            "",
            format!("the file has {} bytes; allowed: at most {MAX_BYTES} (1 MiB)", text.len()),
        )]);
    }
    refuse_binary(text)?;
    let index = Index::build(text)?;
    let value: serde_yaml::Value = serde_yaml::from_str(text).map_err(|e| vec![wording::syntax(&e)])?;
    match values::into_type(&value) {
        Ok(value) => Ok(Document { value, index }),
        Err(mistakes) => Err(cut(&index, mistakes)),
    }
}

/// Reads one document from bytes, as a file gives them; see [`read`]. What is not UTF-8 is a mistake too.
pub fn read_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<Document<T>, Vec<Mistake>> {
    match std::str::from_utf8(bytes) {
        Ok(text) => read(text),
        Err(e) => {
            let before = bytes.get(..e.valid_up_to()).unwrap_or_default();
            let found = bytes.get(e.valid_up_to()).copied().unwrap_or_default();
            let line = line_of(before);
            Err(vec![Mistake {
                path: String::new(),
                line: Some(line),
                message: format!("this is not text: byte 0x{found:02x} is not UTF-8; expected: a YAML file"),
            }])
        }
    }
}

/// Reads a part of a document that was kept as it is, which stands at `at`: with every mistake, each with its path from
/// the document's root.
pub fn fit<T: DeserializeOwned>(value: &impl serde::Serialize, at: &str) -> Result<T, Vec<Mistake>> {
    let value = serde_yaml::to_value(value).map_err(|e| vec![Mistake::new(at, e.to_string())])?;
    values::into_type(&value).map_err(|mistakes| {
        let below = |path: &str| match path.chars().next() {
            None => at.to_owned(),
            Some('[') => format!("{at}{path}"),
            Some(_) => format!("{at}.{path}"),
        };
        let placed = mistakes.into_iter().map(|mistake| Mistake { path: below(&mistake.path), ..mistake });
        placed.take(MAX_MISTAKES).collect()
    })
}

/// Control characters mean that the wrong file was named; YAML forbids them and its readers say so obscurely.
fn refuse_binary(text: &str) -> Result<(), Vec<Mistake>> {
    let control = |byte: u8| (byte < 0x20 && !matches!(byte, b'\t' | b'\n' | b'\r')) || byte == 0x7f;
    let Some(at) = text.bytes().position(control) else { return Ok(()) };
    let found = text.as_bytes().get(at).copied().unwrap_or_default();
    Err(vec![Mistake {
        path: String::new(),
        line: Some(line_of(text.as_bytes().get(..at).unwrap_or_default())),
        message: format!(
            "this is not text: it has the control character 0x{found:02x}; expected: a YAML file"
        ),
    }])
}

/// The line, from 1, on which what follows `before` stands.
fn line_of(before: &[u8]) -> u32 {
    before.iter().filter(|b| **b == b'\n').count() as u32 + 1
}

/// At most [`MAX_MISTAKES`] with their lines, and the number of the others.
fn cut(index: &Index, mut mistakes: Vec<Mistake>) -> Vec<Mistake> {
    let more = mistakes.len().saturating_sub(MAX_MISTAKES);
    mistakes.truncate(MAX_MISTAKES);
    let mut located = index.locate(mistakes);
    if more > 0 {
        located.push(Mistake::new("", format!("and {more} more mistakes")));
    }
    located
}

/// Writes a value as YAML, which [`read`] reads again.
pub fn write<T: serde::Serialize>(value: &T) -> Result<String, Mistake> {
    serde_yaml::to_string(value).map_err(|e| Mistake::new("", format!("this can't be written as YAML: {e}")))
}
