//! Heads of responses: what they mean for body and connection.

use super::*;

fn parse(method: Method, text: &str) -> Result<Option<Head>, Invalid> {
    take(&mut BytesMut::from(text.as_bytes()), &method, 4096)
}

#[test]
fn framing_follows_the_head() {
    for (method, text, body, keep_alive) in [
        (Method::GET, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", Decoder::length(5), true),
        (
            Method::GET,
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\n",
            Decoder::length(5),
            true,
        ),
        (Method::GET, "HTTP/1.1 200\r\ntransfer-encoding: Chunked\r\n\r\n", Decoder::chunked(), true),
        (Method::GET, "HTTP/1.1 200 OK\r\n\r\n", Decoder::until_close(), false),
        (Method::HEAD, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", Decoder::length(0), true),
        (Method::GET, "HTTP/1.1 204 No\r\n\r\n", Decoder::length(0), true),
        (Method::GET, "HTTP/1.1 304 No\r\ncontent-length: 5\r\n\r\n", Decoder::length(0), true),
        (
            Method::GET,
            "HTTP/1.1 200 OK\r\nconnection: x, Close\r\ncontent-length: 5\r\n\r\n",
            Decoder::length(5),
            false,
        ),
        (Method::GET, "HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\n", Decoder::length(5), false),
        (
            Method::GET,
            "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 5\r\n\r\n",
            Decoder::length(5),
            true,
        ),
        (
            Method::POST,
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 P\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n",
            Decoder::length(1),
            true,
        ),
    ] {
        let head = parse(method, text).unwrap().unwrap();
        assert_eq!((head.body, head.keep_alive), (body, keep_alive), "{text:?}");
    }
}

#[test]
fn what_has_two_readings_is_refused() {
    for fields in [
        "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        "content-length: 5\r\ncontent-length: 6\r\n",
        "content-length: +5\r\n",
        "content-length: 5, 5\r\n",
        "transfer-encoding: gzip, chunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
    ] {
        assert!(parse(Method::GET, &format!("HTTP/1.1 200 OK\r\n{fields}\r\n")).is_err(), "{fields:?}");
    }
    assert!(parse(Method::GET, "HTTP/1.1 101 Switching\r\n\r\n").is_err());
    assert!(parse(Method::GET, "SSH-2.0-OpenSSH\r\n").is_err());
    assert!(parse(Method::GET, &format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(5000))).is_err());
    assert!(parse(Method::GET, &format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(101))).is_err());
    assert!(parse(Method::GET, "HTTP/1.1 200 OK\r\ncontent-le").unwrap().is_none());
}

/// proves G.8
#[test]
fn what_describes_the_connection_stays_behind() {
    let text = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n\
                Keep-Alive: timeout=5\r\nUpgrade: h2c\r\nX-Kept: a\r\nX-Kept: b\r\n\r\nok";
    let mut buffer = BytesMut::from(text.as_bytes());
    let head = take(&mut buffer, &Method::GET, 4096).unwrap().unwrap();
    let kept: Vec<String> =
        head.headers.iter().map(|(n, v)| format!("{n}={}", v.to_str().unwrap())).collect();
    assert_eq!(kept, ["content-length=2", "x-kept=a", "x-kept=b"]);
    assert_eq!(&buffer[..], b"ok");
}
