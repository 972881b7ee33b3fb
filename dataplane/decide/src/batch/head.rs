//! What can be told from a request's head: whether it may be merged, and with what.

use http::{HeaderMap, HeaderName, Method, Uri, header};

/// A protocol whose requests can be merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// `POST /v1/models/NAME:predict` with `instances`.
    V1,
    /// `POST /v2/models/NAME[/versions/VERSION]/infer` with tensors as JSON.
    V2,
}

/// Headers in which requests of one batch may differ: they say who carried the request, not what is asked.
/// Every other header is part of the key, credentials and tenants above all.
pub const NEUTRAL: [&str; 24] = [
    "accept-encoding",
    "baggage",
    "connection",
    "content-length",
    "date",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "priority",
    "te",
    "traceparent",
    "tracestate",
    "transfer-encoding",
    "user-agent",
    "via",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-spanid",
    "x-b3-traceid",
    "x-forwarded-for",
    "x-real-ip",
    "x-request-id",
    "x-session-id",
];

/// The binary tensor extension of V2: lengths of JSON and of raw tensors behind it.
const BINARY: HeaderName = HeaderName::from_static("inference-header-content-length");

/// The protocol of a request that may be merged; `None`: it passes through.
///
/// The path is compared as it was sent, percent-encoded or not: what it names is the engine's affair.
pub fn recognise(method: &Method, uri: &Uri, headers: &HeaderMap) -> Option<Form> {
    if method != Method::POST
        || headers.contains_key(BINARY)
        || headers.contains_key(header::CONTENT_ENCODING)
        || headers.contains_key(header::UPGRADE)
        || !is_json(headers)
    {
        return None;
    }
    let path = uri.path();
    if let Some(rest) = path.strip_prefix("/v1/models/") {
        let name = rest.strip_suffix(":predict")?;
        return (!name.is_empty() && !name.contains('/')).then_some(Form::V1);
    }
    let name = path.strip_prefix("/v2/models/")?.strip_suffix("/infer")?;
    let mut parts = name.split('/');
    let named = parts.next().is_some_and(|name| !name.is_empty());
    let versioned = match (parts.next(), parts.next(), parts.next()) {
        (None, ..) => true,
        (Some("versions"), Some(version), None) => !version.is_empty(),
        _ => false,
    };
    (named && versioned).then_some(Form::V2)
}

/// Whether the body says that it is JSON in UTF-8. No content type at all is taken for JSON, as engines do.
fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(first), None) = (types.next(), types.next()) else {
        return !headers.contains_key(header::CONTENT_TYPE);
    };
    let Ok(text) = first.to_str() else { return false };
    let mut parts = text.split(';').map(str::trim);
    let json = parts.next().is_some_and(|t| t.eq_ignore_ascii_case("application/json"));
    json && parts.all(|p| p.eq_ignore_ascii_case("charset=utf-8"))
}

/// The head's part of the key: two requests with different ones are never merged.
pub fn key(uri: &Uri, headers: &HeaderMap) -> Vec<u8> {
    let mut lines: Vec<(&str, &[u8])> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .filter(|(name, _)| NEUTRAL.binary_search(name).is_err())
        .collect();
    // The order of different headers means nothing; that of equal ones is kept (a stable sort by name).
    lines.sort_by_key(|(name, _)| *name);
    let mut key = Vec::with_capacity(128);
    part(&mut key, uri.path_and_query().map_or("", |p| p.as_str()).as_bytes());
    for (name, value) in lines {
        part(&mut key, name.as_bytes());
        part(&mut key, value);
    }
    key
}

/// Adds a part with its length before it, so that no two lists of parts make one key.
pub(super) fn part(key: &mut Vec<u8>, bytes: &[u8]) {
    key.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    key.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), v.parse().unwrap())).collect()
    }

    fn of(path: &str, pairs: &[(&'static str, &'static str)]) -> Option<Form> {
        recognise(&Method::POST, &path.parse().unwrap(), &headers(pairs))
    }

    #[test]
    fn the_neutral_ones_are_sorted() {
        assert!(NEUTRAL.is_sorted(), "they are searched by halves");
    }

    /// proves B.10
    #[test]
    fn only_what_is_plainly_inference_is_merged() {
        assert_eq!(of("/v1/models/m:predict", &[]), Some(Form::V1));
        assert_eq!(of("/v1/models/my%20model:predict?x=1", &[]), Some(Form::V1));
        assert_eq!(of("/v2/models/m/infer", &[]), Some(Form::V2));
        assert_eq!(of("/v2/models/my%2Fmodel/versions/1/infer", &[]), Some(Form::V2));
        for path in [
            "/v1/models/:predict",
            "/v1/models/a/b:predict",
            "/v1/models/m:explain",
            "/v2/models//infer",
            "/v2/models/infer",
            "/v2/models/m/versions//infer",
            "/v2/models/m/versions/1/2/infer",
            "/v2/models/m/infer/",
            "/v1/completions",
            "/",
        ] {
            assert_eq!(of(path, &[]), None, "{path}");
        }
        let v2 = "/v2/models/m/infer";
        assert_eq!(of(v2, &[("content-type", "Application/JSON; charset=UTF-8")]), Some(Form::V2));
        for header in [
            ("content-type", "application/octet-stream"),
            ("content-type", "application/json; charset=latin1"),
            ("content-type", ""),
            ("content-encoding", "gzip"),
            ("inference-header-content-length", "10"),
        ] {
            assert_eq!(of(v2, &[header]), None, "{header:?}");
        }
        assert_eq!(recognise(&Method::GET, &v2.parse().unwrap(), &HeaderMap::new()), None);
    }

    /// proves B.1
    #[test]
    fn headers_that_matter_part_and_others_do_not() {
        let key = |path: &str, pairs: &[(&'static str, &'static str)]| {
            super::key(&path.parse().unwrap(), &headers(pairs))
        };
        let plain = key("/a", &[("authorization", "x"), ("x-tenant", "t")]);
        assert_eq!(
            plain,
            key("/a", &[("x-tenant", "t"), ("authorization", "x"), ("traceparent", "00-1-1-01")])
        );
        assert_eq!(plain, key("/a", &[("x-request-id", "7"), ("x-tenant", "t"), ("authorization", "x")]));
        assert_ne!(plain, key("/a", &[("authorization", "y"), ("x-tenant", "t")]));
        assert_ne!(plain, key("/a", &[("authorization", "x"), ("x-tenant", "u")]));
        assert_ne!(plain, key("/a", &[("authorization", "x")]));
        assert_ne!(plain, key("/b", &[("authorization", "x"), ("x-tenant", "t")]));
        assert_ne!(plain, key("/a?q", &[("authorization", "x"), ("x-tenant", "t")]));
    }
}
