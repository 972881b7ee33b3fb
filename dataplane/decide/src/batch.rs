//! Merging inference requests into one, and taking its answer apart again.
//!
//! Bodies are never parsed into values: rows are spliced as the bytes that the caller wrote, so numbers keep
//! every digit and a large tensor costs one pass. A body is validated once as a whole, so that what is spliced
//! into the middle of another is JSON for sure. Whatever is not plainly a request that can be merged (another
//! content type, the binary extension, duplicate or escaped keys, nesting deeper than [`json::MAX_DEPTH`], shapes
//! that disagree with the data) is not an error: it goes to the engine alone and untouched.
//!
//! Requests are merged when their keys are equal: path and query, every header except those in
//! [`head::NEUTRAL`], and everything in the body besides the rows and the caller's own `id`.

use bytes::Bytes;
use std::fmt;
use std::ops::Range;

pub mod head;
pub mod json;
#[cfg(test)]
mod tests;
mod v1;
mod v2;

pub use head::{Form, recognise};

/// A body that may be merged with others of the same key.
#[derive(Clone, Debug)]
pub struct Mergeable {
    form: Form,
    key: crate::admission::GroupKey,
    rows: u32,
    body: Bytes,
    /// The caller's own `id`, as it stands in the body, quotes included (V2).
    id: Option<Range<usize>>,
    /// What differs between members, in the order in which it stands in the body.
    slots: Vec<(Range<usize>, Slot)>,
    /// The rows of each tensor (V1: of `instances`), without the brackets around them.
    elements: Vec<Range<usize>>,
}

/// What a place in a body that differs between the members of a batch holds.
#[derive(Clone, Copy, Debug)]
enum Slot {
    /// The rows of this tensor: all members' are put one after the other.
    Elements(usize),
    /// The first number of a tensor's shape: the rows of all members.
    Rows,
    /// The caller's own `id`, which is left out.
    Omitted,
}

impl Mergeable {
    /// Reads a body; `head` is [`head::key`]'s. `None`: it goes alone.
    pub fn read(form: Form, head: &[u8], body: Bytes) -> Option<Self> {
        match form {
            Form::V1 => v1::read(head, body),
            Form::V2 => v2::read(head, body),
        }
    }

    /// In which protocol.
    pub fn form(&self) -> Form {
        self.form
    }

    /// What it may be merged with.
    pub fn key(&self) -> &crate::admission::GroupKey {
        &self.key
    }

    /// How many rows it has; at least one.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// The body as the caller sent it.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// What has to be known of it to take the answer apart.
    pub fn member(&self) -> Member {
        Member { rows: self.rows, id: self.id.clone().map(|range| self.body.slice(range)) }
    }
}

/// One caller of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// How many rows are its own.
    pub rows: u32,
    /// Its `id` with quotes; V2 only.
    pub id: Option<Bytes>,
}

/// Merges requests of one key into one body: the first one's, with the rows of all.
pub fn merge(members: &[&Mergeable]) -> Bytes {
    let Some(first) = members.first() else { return Bytes::new() };
    let rows: u64 = members.iter().map(|member| u64::from(member.rows)).sum();
    let size: usize = members.iter().map(|member| member.body.len()).sum();
    let mut out = Vec::with_capacity(size);
    let mut from = 0;
    for (range, slot) in &first.slots {
        out.extend_from_slice(first.body.get(from..range.start).unwrap_or_default());
        match slot {
            Slot::Omitted => {}
            Slot::Rows => out.extend_from_slice(rows.to_string().as_bytes()),
            Slot::Elements(tensor) => {
                for (place, member) in members.iter().enumerate() {
                    if place > 0 {
                        out.push(b',');
                    }
                    let elements = member.elements.get(*tensor).cloned();
                    out.extend_from_slice(elements.and_then(|r| member.body.get(r)).unwrap_or_default());
                }
            }
        }
        from = range.end;
    }
    out.extend_from_slice(first.body.get(from..).unwrap_or_default());
    out.into()
}

/// Why an answer can't be taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SplitError {
    /// The engine answered another number of rows than it was asked: a 502 to everybody, since nobody's rows are
    /// known.
    Count {
        /// Rows that were sent.
        sent: u64,
        /// Rows that came back.
        received: u64,
    },
    /// The answer is not in the protocol's shape: its callers are asked for singly.
    Shape,
}

impl fmt::Display for SplitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count { sent, received } => {
                write!(f, "the engine was sent {sent} rows and answered {received}")
            }
            Self::Shape => f.write_str("the engine's answer to a batch is not in the protocol's shape"),
        }
    }
}

impl std::error::Error for SplitError {}

/// Takes the answer to a batch apart: one body for each member, with exactly its rows, its own `id` and every
/// other field as the engine wrote it.
pub fn split(form: Form, members: &[Member], body: &[u8]) -> Result<Vec<Bytes>, SplitError> {
    match form {
        Form::V1 => v1::split(members, body),
        Form::V2 => v2::split(members, body),
    }
}
