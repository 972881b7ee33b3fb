//! Reading a response's head.

use super::decode::Decoder;
use super::encode::{is_hop_by_hop, named_by_connection};
use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use std::mem::MaybeUninit;

/// The most header fields of a response; hyper's own bound.
const MAX_FIELDS: usize = 100;

/// A response's head, and how its body comes.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Decoder,
    pub(super) keep_alive: bool,
}

/// Why a head is refused; words for the log.
pub(super) type Invalid = &'static str;

/// Where name and value of a field stand.
type Span = [u32; 4];

/// Takes a head off the front of `buffer`; `None` when it is not complete. Interim responses (1xx) are skipped.
pub(super) fn take(buffer: &mut BytesMut, method: &Method, max_head: usize) -> Result<Option<Head>, Invalid> {
    loop {
        let Some(raw) = split(buffer, max_head)? else { return Ok(None) };
        if raw.status.as_u16() == 101 {
            return Err("an upgrade that nobody asked for");
        }
        if !raw.status.is_informational() {
            return raw.meaning(method).map(Some);
        }
    }
}

struct Raw {
    status: StatusCode,
    version: Version,
    headers: HeaderMap,
}

/// Splits one head off the buffer; its header values stay slices of what was read.
fn split(buffer: &mut BytesMut, max_head: usize) -> Result<Option<Raw>, Invalid> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut spans: [Span; MAX_FIELDS] = [[0; 4]; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let parsed = config.parse_response_with_uninit_headers(&mut response, buffer, &mut fields);
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) if length <= max_head => length,
        Ok(httparse::Status::Partial) if buffer.len() < max_head => return Ok(None),
        Ok(_) => return Err("the head is larger than is allowed"),
        Err(httparse::Error::TooManyHeaders) => return Err("more header fields than are allowed"),
        Err(_) => return Err("the head is not HTTP/1.1"),
    };
    let count = response.headers.len();
    let base = buffer.as_ptr() as usize;
    for (span, field) in spans.iter_mut().zip(response.headers.iter()) {
        let name = (field.name.as_ptr() as usize).saturating_sub(base);
        let value = (field.value.as_ptr() as usize).saturating_sub(base);
        // Heads are bounded far below 4 GiB.
        *span = [name, name + field.name.len(), value, value + field.value.len()].map(|n| n as u32);
    }
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or("no status")?;
    let version = if response.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    let raw = buffer.split_to(length).freeze();
    let headers = map(&raw, spans.get(..count).unwrap_or_default())?;
    Ok(Some(Raw { status, version, headers }))
}

fn map(raw: &Bytes, spans: &[Span]) -> Result<HeaderMap, Invalid> {
    let mut headers = HeaderMap::with_capacity(spans.len() + 4);
    for span in spans {
        let [name, name_end, value, value_end] = span.map(|n| n as usize);
        let name = raw.get(name..name_end).and_then(|name| HeaderName::from_bytes(name).ok());
        let value = HeaderValue::from_maybe_shared(raw.slice(value..value_end)).ok();
        match (name, value) {
            (Some(name), Some(value)) => headers.append(name, value),
            _ => return Err("a header field is not valid"),
        };
    }
    Ok(headers)
}

impl Raw {
    /// RFC 9112 §6.3: where the body ends, and whether the connection can be kept.
    fn meaning(self, method: &Method) -> Result<Head, Invalid> {
        let Self { status, version, mut headers } = self;
        let mut keep_alive = keeps(version, &headers);
        let silent =
            method == Method::HEAD || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
        let chunked = chunked(&headers)?;
        let length = length(&headers)?;
        let body = match (silent, chunked, length) {
            (true, ..) => Decoder::length(0),
            (false, true, None) => Decoder::chunked(),
            (false, true, Some(_)) => return Err("both Content-Length and Transfer-Encoding"),
            (false, false, Some(length)) => Decoder::length(length),
            (false, false, None) => {
                keep_alive = false;
                Decoder::until_close()
            }
        };
        if headers.contains_key(CONNECTION) {
            for name in named_by_connection(&headers) {
                headers.remove(name);
            }
        }
        // Only names that are there are removed: a response rarely has one.
        let hop: Vec<HeaderName> = headers.keys().filter(|name| is_hop_by_hop(name)).cloned().collect();
        for name in hop {
            headers.remove(name);
        }
        Ok(Head { status, headers, body, keep_alive })
    }
}

fn keeps(version: Version, headers: &HeaderMap) -> bool {
    let says = |word: &[u8]| {
        headers.get_all(CONNECTION).iter().any(|value| {
            value.as_bytes().split(|b| *b == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(word))
        })
    };
    if version == Version::HTTP_11 { !says(b"close") } else { says(b"keep-alive") }
}

fn chunked(headers: &HeaderMap) -> Result<bool, Invalid> {
    let mut values = headers.get_all(TRANSFER_ENCODING).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(false),
        (Some(value), None) if value.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(true),
        _ => Err("Transfer-Encoding is not \"chunked\""),
    }
}

fn length(headers: &HeaderMap) -> Result<Option<u64>, Invalid> {
    let mut found = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        let mut digits = value.as_bytes();
        if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
            return Err("Content-Length is not one number");
        }
        let mut length = 0;
        while digits.has_remaining() {
            length = length * 10 + u64::from(digits.get_u8() - b'0');
        }
        if found.is_some_and(|other| other != length) {
            return Err("Content-Length twice");
        }
        found = Some(length);
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
