//! The check of HTTP/1.1 requests against smuggling, on the bytes before hyper sees them.
//!
//! hyper drops `Content-Length` beside `Transfer-Encoding` without a word and takes a bare LF for a line's end, so
//! two servers in a row could disagree where a request ends. Here such requests are refused, and what passes has
//! one reading only. Pure: bytes in, verdicts out.

use memchr::memchr;

mod chunked;
mod fields;

pub use chunked::Chunked;

/// Bounds on heads.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most bytes of a head, its closing blank line included.
    pub bytes: usize,
    /// The most header fields.
    pub fields: usize,
}

/// Where the body of a request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// After this many bytes.
    Length(u64),
    /// Where the chunks say.
    Chunked,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bad {
    /// The head is larger than is allowed: 431.
    HeadTooLarge,
    /// There are more header fields than are allowed: 431.
    TooManyFields,
    /// The head did not arrive in time: 408.
    HeadTimeout,
    /// The request line is not `METHOD TARGET HTTP/1.x`.
    RequestLine,
    /// A line ends with LF alone, or a CR stands within one.
    BareLineEnd,
    /// A field is continued on a second line.
    FoldedField,
    /// A line is not `name: value`, or has a control character.
    Field,
    /// Not exactly one `Host` (HTTP/1.0: more than one).
    Host,
    /// `Content-Length` is not one number.
    ContentLength,
    /// `Transfer-Encoding` is not `chunked`, or is used with HTTP/1.0.
    TransferEncoding,
    /// Both `Content-Length` and `Transfer-Encoding`.
    TwoFramings,
    /// A chunk's size is not a sensible hexadecimal number, or its end is not where it says.
    Chunk,
}

impl Bad {
    /// The HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Self::HeadTooLarge | Self::TooManyFields => 431,
            Self::HeadTimeout => 408,
            _ => 400,
        }
    }

    /// One word, as in `x-outrigger-reason`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::HeadTooLarge => "head_too_large",
            Self::TooManyFields => "too_many_fields",
            Self::HeadTimeout => "head_timeout",
            Self::RequestLine => "bad_request_line",
            Self::BareLineEnd => "bare_line_end",
            Self::FoldedField => "folded_field",
            Self::Field => "bad_field",
            Self::Host => "bad_host",
            Self::ContentLength => "bad_content_length",
            Self::TransferEncoding => "bad_transfer_encoding",
            Self::TwoFramings => "two_framings",
            Self::Chunk => "bad_chunk",
        }
    }

    /// A sentence for people.
    pub fn message(self) -> &'static str {
        match self {
            Self::HeadTooLarge => "the request's head is larger than is allowed",
            Self::TooManyFields => "the request has more header fields than are allowed",
            Self::HeadTimeout => "the request's head did not arrive in time",
            Self::RequestLine => "the first line is not \"METHOD TARGET HTTP/1.1\"",
            Self::BareLineEnd => "a line of the head does not end with CR LF, or a CR stands within it",
            Self::FoldedField => "a header field is continued on a second line, which HTTP no longer allows",
            Self::Field => "a line of the head is not \"name: value\" without control characters",
            Self::Host => "a request has exactly one Host field",
            Self::ContentLength => "Content-Length is not one decimal number",
            Self::TransferEncoding => "Transfer-Encoding is not \"chunked\"",
            Self::TwoFramings => "Content-Length and Transfer-Encoding exclude each other",
            Self::Chunk => "a chunk of the body is not well-formed",
        }
    }
}

impl std::fmt::Display for Bad {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for Bad {}

/// What stands at the front of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// A complete head.
    Head {
        /// Its first byte: empty lines before a request are skipped.
        start: usize,
        /// One past its last byte.
        end: usize,
        /// Where the body ends.
        framing: Framing,
    },
    /// A head that is not complete yet.
    Partial,
}

/// Scans the bytes for a head, from its first byte.
///
/// # Errors
///
/// [`Bad`] as soon as it is certain that the request must be refused.
pub fn scan(bytes: &[u8], limits: Limits) -> Result<Scan, Bad> {
    let mut start = 0;
    // RFC 9112 §2.2: a client may send an empty line before a request.
    while bytes.get(start..).is_some_and(|rest| rest.starts_with(b"\r\n")) {
        start += 2;
    }
    let mut at = start;
    let mut seen: Option<fields::Fields> = None;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let Some(length) = memchr(b'\n', rest) else {
            return if bytes.len() - start >= limits.bytes {
                Err(Bad::HeadTooLarge)
            } else {
                Ok(Scan::Partial)
            };
        };
        let line = rest.get(..length).unwrap_or_default();
        at += length + 1;
        if at - start > limits.bytes {
            return Err(Bad::HeadTooLarge);
        }
        // A CR elsewhere in the line is found with the other characters that can't stand there.
        let Some(line) = line.strip_suffix(b"\r") else { return Err(Bad::BareLineEnd) };
        match &mut seen {
            None => seen = Some(fields::Fields::of_request(line)?),
            Some(fields) if line.is_empty() => {
                return Ok(Scan::Head { start, end: at, framing: fields.framing()? });
            }
            Some(fields) => fields.add(line, limits)?,
        }
    }
}

#[cfg(test)]
mod tests;
