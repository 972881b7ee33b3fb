//! Taking the framing off a response's body.

use bytes::{Buf, Bytes, BytesMut};

/// The most bytes of a size line or a trailer line.
const MAX_LINE: usize = 4096;

/// Where a body ends, and how far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decoder(State);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Length(u64),
    UntilClose,
    /// Before a size line; `first`: there is no CR LF of a chunk before it.
    Size {
        first: bool,
    },
    Chunk(u64),
    Trailers,
    Done,
}

/// What a look at the buffer gave.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decoded {
    /// Data, all that was there.
    Data(Bytes),
    /// Nothing: read on.
    More,
    /// The end, which had been reached before.
    End,
}

impl Decoder {
    pub(super) fn length(bytes: u64) -> Self {
        Self(if bytes == 0 { State::Done } else { State::Length(bytes) })
    }

    pub(super) fn until_close() -> Self {
        Self(State::UntilClose)
    }

    pub(super) fn chunked() -> Self {
        Self(State::Size { first: true })
    }

    /// Whether the last byte was taken.
    pub(super) fn is_done(self) -> bool {
        self.0 == State::Done
    }

    /// Bytes still to come, where that is known.
    pub(super) fn remaining(self) -> Option<u64> {
        match self.0 {
            State::Length(left) => Some(left),
            State::Done => Some(0),
            _ => None,
        }
    }

    /// Whether the end of the connection is the end of the body.
    pub(super) fn ends_at_close(self) -> bool {
        self.0 == State::UntilClose
    }

    /// Takes what is there. All chunks that have arrived come as one piece: their data is moved together within
    /// the buffer, which costs less than a write for each.
    pub(super) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, &'static str> {
        match self.0 {
            State::Done => Ok(Decoded::End),
            _ if buffer.is_empty() => Ok(Decoded::More),
            State::UntilClose => Ok(Decoded::Data(buffer.split().freeze())),
            State::Length(left) => {
                let here = left.min(buffer.len() as u64);
                self.0 = if left == here { State::Done } else { State::Length(left - here) };
                Ok(Decoded::Data(buffer.split_to(here as usize).freeze()))
            }
            State::Size { .. } | State::Chunk(_) | State::Trailers => self.chunks(buffer),
        }
    }

    fn chunks(&mut self, buffer: &mut BytesMut) -> Result<Decoded, &'static str> {
        // Data found so far stands at `begin..end`, the next byte to look at is at `at`.
        let (mut begin, mut end, mut at) = (0, 0, 0);
        loop {
            let rest = buffer.get(at..).unwrap_or_default();
            match self.0 {
                State::Chunk(left) => {
                    let here = left.min(rest.len() as u64) as usize;
                    if begin == end {
                        (begin, end) = (at, at);
                    } else if here > 0 {
                        buffer.copy_within(at..at + here, end);
                    }
                    end += here;
                    at += here;
                    let left = left - here as u64;
                    if left > 0 {
                        self.0 = State::Chunk(left);
                        break;
                    }
                    self.0 = State::Size { first: false };
                }
                State::Size { first } => match size_line(rest, first)? {
                    None => break,
                    Some((taken, size)) => {
                        at += taken;
                        self.0 = if size == 0 { State::Trailers } else { State::Chunk(size) };
                    }
                },
                State::Trailers => match line(rest)? {
                    None => break,
                    Some(line) => {
                        at += line.len() + 2;
                        if line.is_empty() {
                            self.0 = State::Done;
                            break;
                        }
                    }
                },
                State::Done | State::Length(_) | State::UntilClose => break,
            }
        }
        if begin == end {
            buffer.advance(at);
            return Ok(if self.is_done() { Decoded::End } else { Decoded::More });
        }
        let mut front = buffer.split_to(at);
        front.truncate(end);
        front.advance(begin);
        Ok(Decoded::Data(front.freeze()))
    }
}

/// A line without its CR LF, when it is complete.
fn line(bytes: &[u8]) -> Result<Option<&[u8]>, &'static str> {
    match memchr::memchr(b'\n', bytes) {
        Some(end) if end <= MAX_LINE => bytes
            .get(..end)
            .and_then(|line| line.strip_suffix(b"\r"))
            .map(Some)
            .ok_or("a line ends with LF alone"),
        None if bytes.len() <= MAX_LINE => Ok(None),
        _ => Err("a line within the body's framing is too long"),
    }
}

/// The size of the next chunk and the bytes that said so, the end of the chunk before included.
fn size_line(bytes: &[u8], first: bool) -> Result<Option<(usize, u64)>, &'static str> {
    let (skip, bytes) = match (first, bytes) {
        (true, bytes) => (0, bytes),
        (false, [b'\r', b'\n', rest @ ..]) => (2, rest),
        (false, [] | [b'\r']) => return Ok(None),
        (false, _) => return Err("a chunk does not end where it says"),
    };
    let Some(line) = line(bytes)? else { return Ok(None) };
    let digits = line.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
    if digits.is_empty() || digits.len() > 12 {
        return Err("a chunk's size is not a sensible number");
    }
    let mut size = 0;
    for digit in digits {
        let digit = char::from(*digit).to_digit(16).ok_or("a chunk's size is not a hexadecimal number")?;
        size = size * 16 + u64::from(digit);
    }
    Ok(Some((skip + line.len() + 2, size)))
}

#[cfg(test)]
mod tests;
