//! Finding the end of a chunked body, byte by byte where it matters.

use super::Bad;

/// The most bytes of a line with a chunk's size, extensions included. Senders use none.
const MAX_SIZE_LINE: usize = 256;
/// The most bytes of trailer fields.
const MAX_TRAILERS: usize = 4096;
/// The most digits of a size: 2^48 bytes are beyond any body, and nothing overflows.
const MAX_DIGITS: usize = 12;

/// Where one stands within a chunked body.
#[derive(Clone, Copy, Debug)]
pub struct Chunked {
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Within the digits.
    Size { size: u64, digits: usize },
    /// Within what follows the digits.
    Extension { size: u64, length: usize },
    /// After the CR of a size line.
    SizeEnd { size: u64 },
    /// Within data.
    Data { left: u64 },
    /// Before the CR after data.
    DataCr,
    /// Before the LF after data.
    DataLf,
    /// Within the trailers; `line` bytes into a line, `total` in all.
    Trailers { line: usize, total: usize },
    /// After a CR in the trailers.
    TrailersEnd { line: usize, total: usize },
    /// Past the last byte.
    Done,
}

impl Default for Chunked {
    fn default() -> Self {
        Self { state: State::Size { size: 0, digits: 0 } }
    }
}

impl Chunked {
    /// Goes over the bytes and says how many of them belong to the body; fewer than all only at its end.
    ///
    /// # Errors
    ///
    /// [`Bad::Chunk`] where the framing is not exactly what RFC 9112 §7.1 says.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<usize, Bad> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            if let State::Data { left } = self.state {
                let here = ((bytes.len() - at) as u64).min(left);
                at += here as usize;
                let left = left - here;
                self.state = if left == 0 { State::DataCr } else { State::Data { left } };
                continue;
            }
            if matches!(self.state, State::Done) {
                break;
            }
            self.state = step(self.state, byte)?;
            at += 1;
        }
        Ok(at)
    }

    /// Whether the last byte has passed.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }
}

fn step(state: State, byte: u8) -> Result<State, Bad> {
    Ok(match (state, byte) {
        (State::Size { size, digits }, _) if byte.is_ascii_hexdigit() && digits < MAX_DIGITS => {
            let digit = char::from(byte).to_digit(16).unwrap_or_default();
            State::Size { size: size * 16 + u64::from(digit), digits: digits + 1 }
        }
        (State::Size { size, digits: 1.. }, b'\r') => State::SizeEnd { size },
        (State::Size { size, digits: 1.. }, b';') => State::Extension { size, length: 0 },
        (State::Extension { size, .. }, b'\r') => State::SizeEnd { size },
        (State::Extension { size, length }, b' '..=b'~' | b'\t') if length < MAX_SIZE_LINE => {
            State::Extension { size, length: length + 1 }
        }
        (State::SizeEnd { size: 0 }, b'\n') => State::Trailers { line: 0, total: 0 },
        (State::SizeEnd { size }, b'\n') => State::Data { left: size },
        (State::DataCr, b'\r') => State::DataLf,
        (State::DataLf, b'\n') => State::Size { size: 0, digits: 0 },
        (State::Trailers { line, total }, b'\r') => State::TrailersEnd { line, total },
        (State::Trailers { line: 0, .. }, b' ' | b'\t') => return Err(Bad::Chunk),
        (State::Trailers { line, total }, b' '.. | b'\t') if total < MAX_TRAILERS => {
            State::Trailers { line: line + 1, total: total + 1 }
        }
        (State::TrailersEnd { line: 0, .. }, b'\n') => State::Done,
        (State::TrailersEnd { total, .. }, b'\n') => State::Trailers { line: 0, total },
        _ => return Err(Bad::Chunk),
    })
}
