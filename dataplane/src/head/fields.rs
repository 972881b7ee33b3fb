//! The lines of a head that decide where the request ends.

use super::{Bad, Framing, Limits};

/// What was seen so far.
#[derive(Debug)]
pub(super) struct Fields {
    old: bool,
    count: usize,
    hosts: u32,
    length: Option<u64>,
    chunked: bool,
}

impl Fields {
    /// From the request line, its line end removed.
    pub(super) fn of_request(line: &[u8]) -> Result<Self, Bad> {
        let old = match line {
            [before @ .., b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor] => {
                one_target(before)?;
                match minor {
                    b'1' => false,
                    b'0' => true,
                    _ => return Err(Bad::RequestLine),
                }
            }
            _ => return Err(Bad::RequestLine),
        };
        Ok(Self { old, count: 0, hosts: 0, length: None, chunked: false })
    }

    /// Looks at one field, its line end removed.
    pub(super) fn add(&mut self, line: &[u8], limits: Limits) -> Result<(), Bad> {
        self.count += 1;
        if self.count > limits.fields {
            return Err(Bad::TooManyFields);
        }
        match line {
            [b' ' | b'\t', ..] => return Err(Bad::FoldedField),
            [] => return Err(Bad::Field),
            _ => {}
        }
        let Some(colon) = memchr::memchr(b':', line) else { return Err(Bad::Field) };
        let (name, value) = line.split_at(colon);
        let untrimmed = value.get(1..).unwrap_or_default();
        let value = untrimmed.trim_ascii();
        // RFC 9112 §5.1: no space between name and colon, which proxies have disagreed about.
        if name.is_empty() || !name.iter().all(is_token) {
            return Err(Bad::Field);
        }
        // Their lengths alone tell nearly every field from these three.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                self.hosts += 1;
                if self.hosts > 1 || value.iter().any(|b| b.is_ascii_whitespace() || *b == b',') {
                    return Err(Bad::Host);
                }
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                if self.length.is_some() {
                    return Err(Bad::ContentLength);
                }
                self.length = Some(number(value)?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.chunked || self.old || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Bad::TransferEncoding);
                }
                self.chunked = true;
            }
            _ => {}
        }
        // RFC 9110 §5.5: some take a NUL for the value's end and a CR for the line's.
        if untrimmed.iter().fold(false, |found, b| found | is_control(*b)) {
            return Err(if untrimmed.contains(&b'\r') { Bad::BareLineEnd } else { Bad::Field });
        }
        Ok(())
    }

    /// Where the body ends, when the head is complete.
    pub(super) fn framing(&self) -> Result<Framing, Bad> {
        if self.hosts == 0 && !self.old {
            return Err(Bad::Host);
        }
        match (self.length, self.chunked) {
            (Some(_), true) => Err(Bad::TwoFramings),
            (_, true) => Ok(Framing::Chunked),
            (length, false) => Ok(Framing::Length(length.unwrap_or(0))),
        }
    }
}

/// One word, one space, one word of visible characters.
fn one_target(before: &[u8]) -> Result<(), Bad> {
    let mut words = before.split(|b| *b == b' ');
    let method = words.next().unwrap_or_default();
    let target = words.next().unwrap_or_default();
    let fine =
        !method.is_empty() && method.iter().all(is_token) && is_target(target) && words.next().is_none();
    if fine { Ok(()) } else { Err(Bad::RequestLine) }
}

/// Whether it is a target that hyper takes too: what it refuses by itself, it refuses without a word.
fn is_target(target: &[u8]) -> bool {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"/-._~%?&=+:".contains(b);
    match target {
        // Nearly every target, without making an address of it.
        [b'/', rest @ ..] if rest.iter().all(plain) => true,
        _ => target.iter().all(|b| *b > b' ' && *b != 0x7f) && http::Uri::try_from(target).is_ok(),
    }
}

/// RFC 9110 §5.6.2: a character of methods and of fields' names.
fn is_token(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}

/// Whether it can't stand in a field's value: any control character but a tab.
fn is_control(byte: u8) -> bool {
    (byte < b' ' && byte != b'\t') || byte == 0x7f
}

/// Digits alone: no sign, no list, nothing that two parsers could read differently.
fn number(value: &[u8]) -> Result<u64, Bad> {
    // 18 digits can't overflow, and are beyond anything that is sent.
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return Err(Bad::ContentLength);
    }
    Ok(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}
