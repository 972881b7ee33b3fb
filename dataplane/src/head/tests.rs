//! What is refused, what passes, and that no cut of the bytes changes either.

use super::*;
use proptest::prelude::*;

const LIMITS: Limits = Limits { bytes: 4096, fields: 20 };

fn framing(head: &str) -> Result<Framing, Bad> {
    match scan(head.as_bytes(), LIMITS)? {
        Scan::Head { framing, .. } => Ok(framing),
        Scan::Partial => panic!("partial: {head:?}"),
    }
}

/// proves G.8
#[test]
fn heads_with_two_readings_are_refused() {
    let refused = [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Bad::TwoFramings),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Bad::TwoFramings),
        ("Content-Length: 5\r\nContent-Length: 5\r\n", Bad::ContentLength),
        ("Content-Length: 5\r\ncontent-length: 6\r\n", Bad::ContentLength),
        ("Content-Length: 5, 5\r\n", Bad::ContentLength),
        ("Content-Length: +5\r\n", Bad::ContentLength),
        ("Content-Length: -1\r\n", Bad::ContentLength),
        ("Content-Length: 0x5\r\n", Bad::ContentLength),
        ("Content-Length: 5 \x0b\r\n", Bad::ContentLength),
        ("Content-Length:\r\n", Bad::ContentLength),
        ("Content-Length: 99999999999999999999\r\n", Bad::ContentLength),
        ("Content-Length : 5\r\n", Bad::Field),
        ("Transfer-Encoding : chunked\r\n", Bad::Field),
        ("Transfer-Encoding\t: chunked\r\n", Bad::Field),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Bad::TransferEncoding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", Bad::TransferEncoding),
        ("Transfer-Encoding: gzip, chunked\r\n", Bad::TransferEncoding),
        ("Transfer-Encoding: xchunked\r\n", Bad::TransferEncoding),
        ("Transfer-Encoding: \"chunked\"\r\n", Bad::TransferEncoding),
        ("Transfer-Encoding: chunked, identity\r\n", Bad::TransferEncoding),
        ("Transfer-Encoding:\r\n", Bad::TransferEncoding),
        ("Transfer-Encoding:\r\n chunked\r\n", Bad::TransferEncoding),
        ("X: y\r\n Transfer-Encoding: chunked\r\n", Bad::FoldedField),
        ("X: y\r\n\tz\r\n", Bad::FoldedField),
        ("X: y\nContent-Length: 5\r\n", Bad::BareLineEnd),
        ("Content-Length: 5\n", Bad::BareLineEnd),
        ("Host: b\r\n", Bad::Host),
        ("nothing\r\n", Bad::Field),
        (": value\r\n", Bad::Field),
        ("X(y): value\r\n", Bad::Field),
        ("X: a\0b\r\n", Bad::Field),
        ("X: a\u{1}\r\n", Bad::Field),
        ("X: a\u{7f}b\r\n", Bad::Field),
        ("X: a\rY: b\r\n", Bad::BareLineEnd),
        ("X: a\r\r\n", Bad::BareLineEnd),
        ("Content-Length: 5\r\r\n", Bad::BareLineEnd),
        ("X: \u{c}a\r\n", Bad::Field),
    ];
    for (fields, bad) in refused {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        assert_eq!(framing(&head), Err(bad), "{fields:?}");
    }
}

/// proves G.8
#[test]
fn request_lines_with_two_readings_are_refused() {
    for line in [
        "GET /",
        "GET / HTTP/2.0",
        "GET / HTTP/1.2",
        "GET  / HTTP/1.1",
        "GET /a b HTTP/1.1",
        " GET / HTTP/1.1",
        "G\u{1}T / HTTP/1.1",
        "GET /a\rb HTTP/1.1",
        "GET /a\0 HTTP/1.1",
        "GET /<a> HTTP/1.1",
        "GET http:// HTTP/1.1",
    ] {
        assert_eq!(framing(&format!("{line}\r\nHost: a\r\n\r\n")), Err(Bad::RequestLine), "{line:?}");
    }
    assert_eq!(framing("GET / HTTP/1.1\n\n"), Err(Bad::BareLineEnd));
    assert_eq!(framing("GET / HTTP/1.1\r\n\r\n"), Err(Bad::Host));
    assert_eq!(framing("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), Err(Bad::TransferEncoding));
}

#[test]
fn heads_with_one_reading_pass() {
    for (fields, expected) in [
        ("", Framing::Length(0)),
        ("Content-Length: 0\r\n", Framing::Length(0)),
        ("content-length:   17  \r\n", Framing::Length(17)),
        ("Transfer-Encoding: Chunked\r\n", Framing::Chunked),
        ("X-Content-Length: 9\r\nX: \r\n", Framing::Length(0)),
        ("X:\ta\tb\t\r\nY: \u{e9}\r\n", Framing::Length(0)),
    ] {
        assert_eq!(
            framing(&format!("POST /a?b HTTP/1.1\r\nhost: a\r\n{fields}\r\n")),
            Ok(expected),
            "{fields:?}"
        );
    }
    assert_eq!(framing("GET / HTTP/1.0\r\n\r\n"), Ok(Framing::Length(0)));
    for target in ["*", "/a|b{c}", "http://a/b", "/%00?x=\u{e9}"] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(framing(&head), Ok(Framing::Length(0)), "{target}");
    }
}

/// proves G.9
#[test]
fn large_heads_are_refused_before_they_are_complete() {
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "y".repeat(LIMITS.bytes));
    assert_eq!(scan(long.as_bytes(), LIMITS), Err(Bad::HeadTooLarge));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}", "X: y\r\n".repeat(LIMITS.fields));
    assert_eq!(scan(many.as_bytes(), LIMITS), Err(Bad::TooManyFields));
}

fn body_end(bytes: &[u8]) -> Result<Option<usize>, Bad> {
    let mut chunked = Chunked::default();
    let taken = chunked.advance(bytes)?;
    Ok(chunked.is_done().then_some(taken))
}

/// proves G.8
#[test]
fn chunks_with_two_readings_are_refused() {
    for bytes in [
        "\r\n",
        "g\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5 \r\nhello\r\n",
        " 5\r\nhello\r\n",
        "0x5\r\nhello\r\n",
        "+5\r\nhello\r\n",
        "ffffffffffffffff1\r\n",
        "fffffffffffff\r\n",
        "5;a\nb\r\nhello\r\n",
        "0\r\nX: y\nZ: a\r\n\r\n",
        "0\r\n X: y\r\n\r\n",
        "0\r\n\n",
    ] {
        assert_eq!(body_end(bytes.as_bytes()), Err(Bad::Chunk), "{bytes:?}");
    }
    let extension = format!("5;{}\r\nhello\r\n", "a".repeat(1000));
    assert_eq!(body_end(extension.as_bytes()), Err(Bad::Chunk));
    let trailers = format!("0\r\nX: {}\r\n\r\n", "a".repeat(5000));
    assert_eq!(body_end(trailers.as_bytes()), Err(Bad::Chunk));
}

#[test]
fn chunked_bodies_end_where_they_say() {
    for body in ["0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n", "A;a=b\r\n0123456789\r\n00\r\nX: y\r\nZ: a\r\n\r\n"]
    {
        assert_eq!(body_end(format!("{body}GET / HTTP/1.1").as_bytes()), Ok(Some(body.len())), "{body:?}");
    }
    assert_eq!(body_end(b"5\r\nhel"), Ok(None));
}

proptest! {
    /// Wherever the network cuts a chunked body, it ends at the same byte.
    #[test]
    fn cuts_change_nothing(sizes in prop::collection::vec(1usize..40, 0..6), cut in 0usize..200) {
        let mut body = String::new();
        for size in &sizes {
            body.push_str(&format!("{size:x}\r\n{}\r\n", "d".repeat(*size)));
        }
        body.push_str("0\r\nT: v\r\n\r\n");
        let rest = "GET / HTTP/1.1\r\n";
        let all = format!("{body}{rest}");
        let (a, b) = all.as_bytes().split_at(cut.min(all.len()));
        let mut chunked = Chunked::default();
        let mut taken = chunked.advance(a).unwrap();
        if taken == a.len() {
            taken += chunked.advance(b).unwrap();
        }
        prop_assert!(chunked.is_done());
        prop_assert_eq!(taken, body.len());
    }

    /// No bytes at all upset the scan, and no prefix of a good head is refused.
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = scan(&bytes, LIMITS);
        let _ = Chunked::default().advance(&bytes);
    }

    #[test]
    fn prefixes_of_good_heads_wait(cut in 0usize..76) {
        let head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nX-Y: z\r\nA: b\r\n\r\n";
        prop_assert_eq!(scan(&head[..cut.min(head.len() - 1)], LIMITS), Ok(Scan::Partial));
    }
}
