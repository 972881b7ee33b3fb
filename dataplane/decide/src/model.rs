//! The model's name, found without parsing the body.
//!
//! A request's body is a JSON object of up to tens of megabytes, and all that the gateway needs of it is one string
//! at the top level. The scanner goes over the bytes as they come, keeps no more of them than a name, and skips
//! everything nested without looking into it. It says where the name stands, so that an alias is replaced by
//! splicing rather than by writing the body anew.
//!
//! The name may stand anywhere. A second top-level `model` is refused: engines take the last one, and a gateway
//! that routed by the first would send the request where it doesn't belong. For the same reason keys are compared
//! after their escapes are undone. What the scanner doesn't check (numbers, commas within nested values) changes
//! no key's place in a well-formed document, and a malformed one is the engine's to refuse.

use bytes::Bytes;
use memchr::memchr2;
use std::fmt;
use std::ops::Range;

#[cfg(test)]
mod tests;

/// How deep values may be nested, the body's own object not counted. One bit each; engines' parsers refuse a few
/// hundred to a thousand levels, and the deepest tool schemas have some twenty.
pub const MAX_DEPTH: u32 = 128;
/// The longest name in bytes as it stands in the body, escapes included. Hub names have at most 96 characters, and
/// an escaped character has at most six bytes.
pub const MAX_NAME: usize = 1024;
/// `model` with every character as `\uXXXX`: a longer key can't be it.
const LONGEST_KEY: usize = 30;

/// The name that a body asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// The name, escapes undone.
    pub name: String,
    /// Where the string stands in the body, both quotes included, in bytes.
    pub at: Range<u64>,
}

/// Why no name can be had from a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Not a JSON object; the byte at this offset can't stand there.
    Malformed(u64),
    /// The body ended within the object.
    Truncated,
    /// Nested deeper than [`MAX_DEPTH`].
    TooDeep,
    /// There is no top-level `model`.
    Missing,
    /// `model` is something other than a string.
    NotAString,
    /// There is more than one top-level `model`.
    Duplicate,
    /// The name is longer than [`MAX_NAME`].
    TooLong,
    /// The name is empty, or not valid text (a broken escape, not UTF-8, a control character).
    NotText,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(at) => write!(f, "the body is not a JSON object: unexpected byte at offset {at}"),
            Self::Truncated => f.write_str("the body is not a JSON object: it ends too early"),
            Self::TooDeep => write!(f, "the body is nested deeper than {MAX_DEPTH} levels"),
            Self::Missing => f.write_str("the body has no `model`"),
            Self::NotAString => f.write_str("`model` must be a string"),
            Self::Duplicate => f.write_str("the body has more than one `model`"),
            Self::TooLong => write!(f, "`model` is longer than {MAX_NAME} bytes"),
            Self::NotText => f.write_str("`model` is empty or not valid text"),
        }
    }
}

impl std::error::Error for Fault {}

impl Fault {
    /// Whether it is `model` that is wrong, rather than the body around it.
    pub const fn is_about_model(self) -> bool {
        !matches!(self, Self::Malformed(_) | Self::Truncated | Self::TooDeep)
    }
}

/// Goes over a body's bytes in order, in pieces of any size.
#[derive(Debug, Default)]
pub struct Scanner {
    /// The offset of the next byte.
    offset: u64,
    state: State,
    /// Whether the last byte of a string was a backslash that the next one completes.
    escaped: bool,
    /// What is open below the top level, innermost lowest: 1 for an array, 0 for an object.
    kinds: u128,
    depth: u32,
    /// The key's or the name's bytes as they stand, so far.
    text: Vec<u8>,
    /// Where the name's opening quote stands.
    name_at: u64,
    model: Option<Model>,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before the object.
    #[default]
    Start,
    /// After `{`.
    KeyOrEnd,
    /// After `,`.
    Key,
    /// Within a key.
    InKey,
    /// After a key; whether it was `model`.
    Colon(bool),
    /// After a colon; whether of `model`.
    Value(bool),
    /// Within a string value that isn't the name.
    InString,
    /// Within the name.
    InName,
    /// Within an object or array.
    Nested,
    /// Within a string there.
    NestedString,
    /// Within a number, `true`, `false` or `null`.
    Scalar,
    /// After a value.
    CommaOrEnd,
    /// After the object.
    End,
}

impl Scanner {
    /// A scanner before the first byte.
    pub fn new() -> Self {
        Self::default()
    }

    /// The name, once it was found. More may follow: only [`Self::finish`] says that there is no second one.
    pub fn model(&self) -> Option<&Model> {
        self.model.as_ref()
    }

    /// Takes in the next piece of the body. After an error the scanner is of no further use.
    pub fn feed(&mut self, mut rest: &[u8]) -> Result<(), Fault> {
        while let Some(&byte) = rest.first() {
            let taken = self.advance(byte, rest)?;
            self.offset += taken as u64;
            rest = rest.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    /// The body is over: the name, if there was exactly one in a whole object.
    pub fn finish(self) -> Result<Model, Fault> {
        match self.state {
            State::End => self.model.ok_or(Fault::Missing),
            _ => Err(Fault::Truncated),
        }
    }

    /// Takes in at least one byte of `rest`, which begins with `byte`; returns how many.
    fn advance(&mut self, byte: u8, rest: &[u8]) -> Result<usize, Fault> {
        match self.state {
            State::InKey | State::InName | State::InString | State::NestedString => self.within_string(rest),
            State::Nested => self.within_nested(rest),
            State::Scalar => Ok(self.within_scalar(rest)),
            _ if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') => Ok(1),
            _ => self.between(byte).map(|()| 1),
        }
    }

    /// A byte between strings and values at the top level.
    fn between(&mut self, byte: u8) -> Result<(), Fault> {
        self.state = match (self.state, byte) {
            (State::Start, b'{') => State::KeyOrEnd,
            (State::KeyOrEnd | State::CommaOrEnd, b'}') => State::End,
            (State::KeyOrEnd | State::Key, b'"') => {
                self.text.clear();
                State::InKey
            }
            (State::CommaOrEnd, b',') => State::Key,
            (State::Colon(is_model), b':') => State::Value(is_model),
            (State::Value(true), b'"') => {
                self.text.clear();
                self.name_at = self.offset;
                State::InName
            }
            (State::Value(true), _) => return Err(Fault::NotAString),
            (State::Value(false), b'"') => State::InString,
            (State::Value(false), b'{' | b'[') => {
                self.open(byte)?;
                State::Nested
            }
            (State::Value(false), b'-' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z') => State::Scalar,
            _ => return Err(Fault::Malformed(self.offset)),
        };
        Ok(())
    }

    fn within_string(&mut self, rest: &[u8]) -> Result<usize, Fault> {
        if self.escaped {
            self.escaped = false;
            self.keep(rest, 1)?;
            return Ok(1);
        }
        let Some(plain) = memchr2(b'"', b'\\', rest) else {
            self.keep(rest, rest.len())?;
            return Ok(rest.len());
        };
        if rest.get(plain) == Some(&b'\\') {
            self.escaped = true;
            self.keep(rest, plain + 1)?;
        } else {
            self.keep(rest, plain)?;
            self.close_string(self.offset + plain as u64 + 1)?;
        }
        Ok(plain + 1)
    }

    /// Keeps the first `count` bytes of a key or of the name, as far as they matter.
    fn keep(&mut self, rest: &[u8], count: usize) -> Result<(), Fault> {
        let room = match self.state {
            // One byte more than could match, so that a longer key doesn't.
            State::InKey => (LONGEST_KEY + 1).saturating_sub(self.text.len()),
            State::InName if self.text.len() + count > MAX_NAME => return Err(Fault::TooLong),
            State::InName => count,
            _ => 0,
        };
        self.text.extend(rest.iter().take(count.min(room)));
        Ok(())
    }

    /// The string that is being read ends before the byte at `end`.
    fn close_string(&mut self, end: u64) -> Result<(), Fault> {
        self.state = match self.state {
            State::InKey => {
                let is_model = self.text == b"model"
                    || (self.text.contains(&b'\\') && undo_escapes(&self.text).as_deref() == Some("model"));
                if is_model && self.model.is_some() {
                    return Err(Fault::Duplicate);
                }
                State::Colon(is_model)
            }
            State::InName => {
                let name = undo_escapes(&self.text).filter(|name| !name.is_empty()).ok_or(Fault::NotText)?;
                self.model = Some(Model { name, at: self.name_at..end });
                State::CommaOrEnd
            }
            State::NestedString => State::Nested,
            _ => State::CommaOrEnd,
        };
        Ok(())
    }

    fn within_nested(&mut self, rest: &[u8]) -> Result<usize, Fault> {
        let structural = |b: &u8| matches!(b, b'"' | b'{' | b'}' | b'[' | b']');
        let Some(at) = rest.iter().position(structural) else {
            return Ok(rest.len());
        };
        match rest.get(at) {
            Some(b'"') => self.state = State::NestedString,
            Some(&open @ (b'{' | b'[')) => self.open(open)?,
            Some(&close) => self.close(close, self.offset + at as u64)?,
            None => {}
        }
        Ok(at + 1)
    }

    fn open(&mut self, byte: u8) -> Result<(), Fault> {
        if self.depth == MAX_DEPTH {
            return Err(Fault::TooDeep);
        }
        self.depth += 1;
        self.kinds = (self.kinds << 1) | u128::from(byte == b'[');
        Ok(())
    }

    fn close(&mut self, byte: u8, at: u64) -> Result<(), Fault> {
        if self.kinds & 1 != u128::from(byte == b']') {
            return Err(Fault::Malformed(at));
        }
        self.kinds >>= 1;
        self.depth -= 1;
        if self.depth == 0 {
            self.state = State::CommaOrEnd;
        }
        Ok(())
    }

    fn within_scalar(&mut self, rest: &[u8]) -> usize {
        let of_scalar = |b: &u8| matches!(b, b'+' | b'-' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z');
        let length = rest.iter().take_while(|b| of_scalar(b)).count();
        if length == rest.len() {
            return length;
        }
        // The byte after it isn't taken: it is the top level's to judge, with the state changed so that it is.
        self.state = State::CommaOrEnd;
        length
    }
}

/// The text of a JSON string's inside.
fn undo_escapes(inside: &[u8]) -> Option<String> {
    let mut quoted = Vec::with_capacity(inside.len() + 2);
    quoted.push(b'"');
    quoted.extend_from_slice(inside);
    quoted.push(b'"');
    serde_json::from_slice(&quoted).ok()
}

/// The body with the string at `at` replaced by `name`: the same pieces, cut around it, none of them copied.
/// Its length is `length - (at.end - at.start) + inserted`, which is returned beside it as the difference.
pub fn splice(body: Vec<Bytes>, at: &Range<u64>, name: &str) -> (Vec<Bytes>, i64) {
    let quoted = Bytes::from(serde_json::Value::from(name).to_string());
    let grown = quoted.len() as i64 - at.end.saturating_sub(at.start) as i64;
    let mut quoted = Some(quoted);
    let mut out = Vec::with_capacity(body.len() + 2);
    let mut offset = 0u64;
    for piece in body {
        let cut = |place: u64| (place.saturating_sub(offset) as usize).min(piece.len());
        let (from, to) = (cut(at.start), cut(at.end));
        offset += piece.len() as u64;
        if from > 0 {
            out.push(piece.slice(..from));
        }
        // The piece in which the old string ends.
        if offset >= at.end
            && let Some(quoted) = quoted.take()
        {
            out.push(quoted);
        }
        if to < piece.len() {
            out.push(piece.slice(to..));
        }
    }
    (out, grown)
}
