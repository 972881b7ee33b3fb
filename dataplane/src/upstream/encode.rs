//! Writing a request's head anew: what describes the client's connection stays behind.

use http::header::{CONNECTION, HeaderName};
use http::request::Parts;
use http::{HeaderMap, Method};
use std::io::Write;

/// How the body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// No body, and no word about it: GET and its like.
    None,
    /// `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// Whether a header describes one connection (RFC 9110 §7.6.1) or is written anew here.
pub(crate) fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

/// The names that `Connection` fields list, beside those that mean the connection itself.
pub(crate) fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let mut names = Vec::new();
    for value in headers.get_all(CONNECTION) {
        for name in value.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii) {
            if name.eq_ignore_ascii_case(b"close") || name.eq_ignore_ascii_case(b"keep-alive") {
                continue;
            }
            names.extend(HeaderName::from_bytes(name).ok());
        }
    }
    names
}

/// Appends the head to `out`.
pub(super) fn head(out: &mut Vec<u8>, head: &Parts, host: &str, framing: Framing) {
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    if !target.starts_with('/') && target != "*" {
        out.push(b'/');
    }
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    out.extend_from_slice(host.as_bytes());
    out.extend_from_slice(b"\r\n");
    let named =
        if head.headers.contains_key(CONNECTION) { named_by_connection(&head.headers) } else { Vec::new() };
    for (name, value) in &head.headers {
        let written_anew = matches!(name.as_str(), "host" | "content-length" | "expect");
        if written_anew || is_hop_by_hop(name) || named.contains(name) {
            continue;
        }
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    match framing {
        Framing::None => {}
        // Writing into a vector can't fail.
        Framing::Length(length) => {
            let _ = write!(out, "content-length: {length}\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether a request without a body says so: those for which servers expect one.
pub(super) fn wants_length(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn written(request: Request<()>, framing: Framing) -> String {
        let mut out = Vec::new();
        head(&mut out, &request.into_parts().0, "10.0.0.1:8000", framing);
        String::from_utf8(out).unwrap()
    }

    /// proves G.8
    #[test]
    fn what_describes_the_connection_stays_behind() {
        let request = Request::post("http://front.example/v1/completions?x=1")
            .header("host", "front.example")
            .header("Connection", "close, X-Secret")
            .header("connection", "keep-alive,Foo")
            .header("x-secret", "1")
            .header("foo", "1")
            .header("keep-alive", "timeout=5")
            .header("proxy-authorization", "1")
            .header("te", "trailers")
            .header("trailer", "x")
            .header("transfer-encoding", "chunked")
            .header("upgrade", "h2c")
            .header("http2-settings", "AAMAAABkAAQAAP__")
            .header("expect", "100-continue")
            .header("content-length", "9")
            .header("x-kept", "a")
            .header("x-kept", "b");
        assert_eq!(
            written(request.body(()).unwrap(), Framing::Length(5)),
            "POST /v1/completions?x=1 HTTP/1.1\r\nhost: 10.0.0.1:8000\r\nx-kept: a\r\nx-kept: b\r\n\
             content-length: 5\r\n\r\n"
        );
    }

    #[test]
    fn a_request_without_a_body_has_no_framing() {
        let request = Request::get("/").body(()).unwrap();
        assert_eq!(written(request, Framing::None), "GET / HTTP/1.1\r\nhost: 10.0.0.1:8000\r\n\r\n");
    }
}
