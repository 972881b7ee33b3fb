//! Which words of a request decide its side: the key of the cohort hash.

use http::HeaderMap;
use http::header::{AUTHORIZATION, COOKIE};
use outrigger_wire::traffic::Cohort;

/// The header, and the cookie, that names a session.
pub const SESSION: &str = "x-session-id";
/// The header that names a request: made by the gateway when absent, kept over retries, returned.
pub const REQUEST_ID: &str = "x-request-id";
/// The longest request id that is taken over from a client; UUIDs have 36 characters, trace ids 32 to 55.
pub const MAX_REQUEST_ID: usize = 128;

/// The key by which a request is assigned to stable or canary.
pub fn cohort<'a>(cohort: Cohort, headers: &'a HeaderMap, request_id: &'a [u8]) -> &'a [u8] {
    let named = match cohort {
        Cohort::Session => session(headers),
        Cohort::Caller => filled(headers, AUTHORIZATION.as_str()).or_else(|| filled(headers, "x-api-key")),
        Cohort::Request => None,
    };
    named.unwrap_or(request_id)
}

fn session(headers: &HeaderMap) -> Option<&[u8]> {
    let cookies = headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|b| *b == b';'));
    filled(headers, SESSION).or_else(|| {
        cookies
            .filter_map(|cookie| cookie.trim_ascii().strip_prefix(SESSION.as_bytes())?.strip_prefix(b"="))
            .find(|value| !value.is_empty())
    })
}

fn filled<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    headers.get(name).map(|value| value.as_bytes()).filter(|value| !value.is_empty())
}

/// The client's own request id, if it is one that can be kept: visible ASCII, not too long.
pub fn given_request_id(headers: &HeaderMap) -> Option<&[u8]> {
    let keep = |id: &&[u8]| id.len() <= MAX_REQUEST_ID && id.iter().all(u8::is_ascii_graphic);
    filled(headers, REQUEST_ID).filter(keep)
}

/// A request id made of 128 random bits, as 32 hexadecimal digits.
pub fn made_request_id(random: u128) -> [u8; 32] {
    let mut out = [b'0'; 32];
    for (i, place) in out.iter_mut().rev().enumerate() {
        let digit = (random >> (4 * i)) as u32 & 15;
        *place = char::from_digit(digit, 16).map_or(b'0', |c| c as u8);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let of = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(of).collect()
    }

    fn key(by: Cohort, pairs: &[(&'static str, &'static str)]) -> String {
        String::from_utf8(cohort(by, &headers(pairs), b"request").to_vec()).unwrap()
    }

    #[test]
    fn the_session_comes_first() {
        let all = [("x-session-id", "s"), ("cookie", "x-session-id=c"), ("authorization", "Bearer k")];
        assert_eq!(key(Cohort::Session, &all), "s");
        assert_eq!(key(Cohort::Caller, &all), "Bearer k");
        assert_eq!(key(Cohort::Request, &all), "request");
    }

    #[test]
    fn a_cookie_is_found_among_others() {
        let found = |line| key(Cohort::Session, &[("cookie", line)]);
        assert_eq!(found("a=1; x-session-id=c=d; b=2"), "c=d");
        assert_eq!(found("x-session-id=c"), "c");
        assert_eq!(found("my-x-session-id=c"), "request");
        assert_eq!(found("x-session-id=; x-session-id-2=c"), "request");
        assert_eq!(key(Cohort::Session, &[("cookie", "a=1"), ("cookie", "x-session-id=c")]), "c");
    }

    /// Without a key of its own each request is assigned for itself; an empty one would put all on one side.
    #[test]
    fn empty_keys_are_none() {
        assert_eq!(key(Cohort::Session, &[("x-session-id", "")]), "request");
        assert_eq!(key(Cohort::Caller, &[("authorization", ""), ("x-api-key", "k")]), "k");
        assert_eq!(key(Cohort::Caller, &[]), "request");
    }

    #[test]
    fn request_ids_are_kept_or_made() {
        let long: &'static str = Box::leak("x".repeat(MAX_REQUEST_ID + 1).into_boxed_str());
        for (given, kept) in [("abc-1", true), ("", false), ("a b", false), (long, false)] {
            assert_eq!(given_request_id(&headers(&[(REQUEST_ID, given)])).is_some(), kept, "{given}");
        }
        assert_eq!(&made_request_id(0x1f), b"0000000000000000000000000000001f");
        assert_eq!(&made_request_id(u128::MAX), &[b'f'; 32]);
    }
}
