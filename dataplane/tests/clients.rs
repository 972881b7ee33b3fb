//! Clients that are wrong, slow, gone or hostile; each gets what it deserves and nobody else notices.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use outrigger_dataplane::serve::ServeOptions;
use outrigger_dataplane::upstream::Timeouts;
use std::sync::atomic::Ordering;
use std::time::Duration;
use support::{GET, HELLO, Upstream, proxy, proxy_with, until};

/// Asks on a fresh connection and expects an answer: the process lives on.
async fn lives(proxy: &support::Proxy) {
    let mut client = proxy.connect().await;
    client.send(GET).await;
    let (head, body) = client.response().await;
    assert!(head.starts_with("HTTP/1.1 200") && body == "hello", "{head}{body}");
}

/// proves A.2, G.8
#[tokio::test]
async fn bad_requests_get_their_status_and_never_reach_upstream() {
    let upstream = Upstream::new().await;
    let proxy = proxy(upstream.address());
    let giant = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(200_000));
    let many = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(500));
    let cases: [(&str, u16, &str); 18] = [
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            "two_framings",
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc",
            400,
            "bad_content_length",
        ),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3, 3\r\n\r\nabc", 400, "bad_content_length"),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
            400,
            "bad_transfer_encoding",
        ),
        ("GET / HTTP/1.1\r\nhost: a\r\nx: y\r\n z\r\n\r\n", 400, "folded_field"),
        ("GET / HTTP/1.1\nhost: a\n\n", 400, "bare_line_end"),
        ("GET / HTTP/1.1\r\nhost: a\nx: y\r\n\r\n", 400, "bare_line_end"),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400, "bad_host"),
        ("GET / HTTP/1.1\r\n\r\n", 400, "bad_host"),
        ("GET / HTTP/1.1\r\nhost : a\r\n\r\n", 400, "bad_field"),
        ("GET / HTTP/1.1\r\nhost: a\r\nx: a\rb\r\n\r\n", 400, "bare_line_end"),
        ("GET / HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n", 400, "bad_field"),
        ("GET /<a> HTTP/1.1\r\nhost: a\r\n\r\n", 400, "bad_request_line"),
        ("GET /a b HTTP/1.1\r\nhost: a\r\n\r\n", 400, "bad_request_line"),
        ("GET / HTTP/3.0\r\nhost: a\r\n\r\n", 400, "bad_request_line"),
        ("\u{16}\u{3}\u{1}\u{2}\u{0}\r\n\r\n", 400, "bad_request_line"),
        (&giant, 431, "head_too_large"),
        (&many, 431, "too_many_fields"),
    ];
    for (request, status, reason) in cases {
        let mut client = proxy.connect().await;
        client.send(request).await;
        let answer = client.rest().await;
        let begin: String = request.chars().take(80).collect();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{begin:?}: {answer}");
        assert!(answer.contains(&format!("x-outrigger-reason: {reason}\r\n")), "{begin:?}: {answer}");
        assert!(answer.contains("\"error\""), "{begin:?}: {answer}");
    }
    assert_eq!(proxy.seen.begun.load(Ordering::SeqCst), 0, "a service saw a bad request");
    tokio::spawn(async move { upstream.answer() });
    lives(&proxy).await;
}

/// proves G.8
#[tokio::test]
async fn what_passes_has_one_framing_upstream() {
    let upstream = Upstream::new().await;
    let proxy = proxy(upstream.address());
    let mut client = proxy.connect().await;
    client
        .send(
            "POST /x?y=1 HTTP/1.1\r\nHost: front\r\nTransfer-Encoding: Chunked\r\nConnection: x-hop\r\nX-Hop: 1\r\n\
             Te: trailers\r\nX-Kept: 1\r\n\r\n5;ext=1\r\nhello\r\n0\r\nX-Trailer: 1\r\n\r\n",
        )
        .await;
    let mut peer = upstream.accept().await;
    let head = peer.until("\r\n\r\n").await;
    let address = upstream.address();
    assert_eq!(
        head,
        format!("POST /x?y=1 HTTP/1.1\r\nhost: {address}\r\nx-kept: 1\r\ntransfer-encoding: chunked\r\n\r\n")
    );
    assert_eq!(peer.until("0\r\n\r\n").await, "5\r\nhello\r\n0\r\n\r\n");
    peer.send(HELLO).await;
    assert_eq!(client.response().await.1, "hello");
}

/// A chunk that lies about its size ends the request with 400, however much of it was passed on before.
///
/// proves G.8
#[tokio::test]
async fn bad_chunks_end_the_request() {
    let upstream = Upstream::new().await;
    let proxy = proxy(upstream.address());
    for path in ["/limited", "/streamed"] {
        for body in ["fffffffffffffffff\r\n", "ffffffffffffffff\r\n", "5\r\nhelloX", "5\nhello\r\n", "zz\r\n"]
        {
            let mut client = proxy.connect().await;
            let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
            client.send(format!("{head}{body}")).await;
            let answer = client.rest().await;
            assert!(answer.starts_with("HTTP/1.1 400 "), "{path} {body:?}: {answer}");
            assert!(answer.contains("x-outrigger-reason: bad_chunk\r\n"), "{path} {body:?}: {answer}");
            assert!(answer.contains("\"error\""), "{path} {body:?}: {answer}");
        }
    }
}

/// proves A.2
#[tokio::test]
async fn a_body_beyond_the_limit_is_413_announced_or_not() {
    let upstream = Upstream::new().await.answer();
    let proxy = proxy(upstream);
    let body = "x".repeat(100_000);
    for request in [
        format!("POST /limited HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}", body.len()),
        format!(
            "POST /limited HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{}",
            support::chunk(&body)
        ),
    ] {
        let mut client = proxy.connect().await;
        client.send(&request).await;
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        assert!(answer.contains("x-outrigger-reason: body_too_large"), "{answer}");
    }
    lives(&proxy).await;
}

/// proves G.2
#[tokio::test]
async fn a_panic_is_a_500_and_the_process_lives_on() {
    let upstream = Upstream::new().await.answer();
    let proxy = proxy(upstream);
    let mut client = proxy.connect().await;
    for _ in 0..3 {
        client.send("GET /panic HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let (head, _) = client.response().await;
        assert!(
            head.starts_with("HTTP/1.1 500") && head.contains("x-outrigger-reason: internal_error"),
            "{head}"
        );
    }
    client.send(GET).await;
    assert_eq!(client.response().await.1, "hello");
    proxy.quiet().await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let upstream = Upstream::new().await;
    let proxy = proxy(upstream.address());
    let mut client = proxy.connect().await;
    client
        .send("GET /1 HTTP/1.1\r\nhost: a\r\n\r\nGET /2 HTTP/1.1\r\nhost: a\r\n\r\nGET /3 HTTP/1.1\r\nhost: a\nx: y\r\n\r\n")
        .await;
    let mut peer = upstream.accept().await;
    for path in ["/1", "/2"] {
        let head = peer.until("\r\n\r\n").await;
        assert!(head.starts_with(&format!("GET {path} ")), "{head}");
        peer.send(HELLO).await;
        assert_eq!(client.response().await.1, "hello");
    }
    let (head, _) = client.response().await;
    assert!(head.starts_with("HTTP/1.1 400") && head.contains("bare_line_end"), "{head}");
}

/// Bytes of a next request don't hide that the client left.
///
/// proves A.6
#[tokio::test]
async fn a_client_that_pipelined_and_left_is_noticed() {
    let upstream = Upstream::new().await;
    let proxy = proxy(upstream.address());
    let mut client = proxy.connect().await;
    client.send(format!("{GET}{GET}")).await;
    let mut peer = upstream.accept().await;
    peer.until("\r\n\r\n").await;
    drop(client);
    assert_eq!(peer.rest().await, "", "upstream's connection was not closed");
    proxy.quiet().await;
}

#[tokio::test]
async fn a_flood_of_pipelined_requests_is_bounded() {
    let upstream = Upstream::new().await;
    let proxy = proxy(upstream.address());
    let mut client = proxy.connect().await;
    let mut peer = None;
    for _ in 0..200 {
        client.send(GET.repeat(50)).await;
        if peer.is_none() {
            peer = Some(upstream.accept().await);
        }
    }
    let mut peer = peer.unwrap();
    peer.until("\r\n\r\n").await;
    peer.send(HELLO).await;
    assert_eq!(client.response().await.1, "hello");
    client.rest().await;
    assert_eq!(proxy.seen.begun.load(Ordering::SeqCst), 1);
}

/// proves A.6
#[tokio::test]
async fn a_client_that_leaves_ends_the_work_upstream() {
    let upstream = Upstream::new().await;
    let proxy = proxy(upstream.address());
    // While the answer is waited for.
    let mut client = proxy.connect().await;
    client.send(GET).await;
    let mut peer = upstream.accept().await;
    peer.until("\r\n\r\n").await;
    drop(client);
    assert_eq!(peer.rest().await, "");
    proxy.quiet().await;
    // Within a stream.
    let mut client = proxy.connect().await;
    client.send(GET).await;
    let mut peer = upstream.accept().await;
    peer.until("\r\n\r\n").await;
    peer.send(format!("{}{}", support::STREAM, support::chunk("data: 1\n\n"))).await;
    client.until("data: 1\n\n").await;
    drop(client);
    assert_eq!(peer.rest().await, "");
    proxy.quiet().await;
    assert_eq!(proxy.seen.ends().last().unwrap(), "client gone");
}

/// A client that closed its sending side counts as gone, as with nginx.
#[tokio::test]
async fn half_closed_is_gone() {
    use tokio::io::AsyncWriteExt;
    let upstream = Upstream::new().await;
    let proxy = proxy(upstream.address());
    let mut client = proxy.connect().await;
    client.send(GET).await;
    let mut peer = upstream.accept().await;
    peer.until("\r\n\r\n").await;
    client.stream.shutdown().await.unwrap();
    assert_eq!(peer.rest().await, "");
    assert_eq!(client.rest().await, "");
    proxy.quiet().await;
}

/// Sockets closed at every point of a request: nothing is left over.
///
/// proves G.2
#[tokio::test]
async fn sockets_closed_halfway_leave_nothing_behind() {
    let upstream = Upstream::new().await.answer();
    let proxy = proxy(upstream);
    let request = "POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n0123456789";
    for cut in 0..request.len() {
        let mut client = proxy.connect().await;
        client.send(&request.as_bytes()[..cut]).await;
    }
    lives(&proxy).await;
    proxy.quiet().await;
    until("no connection is open but none", || proxy.data.connections() <= 1).await;
}

fn impatient() -> ServeOptions {
    ServeOptions {
        head_timeout: Duration::from_millis(50),
        keep_alive: Duration::from_millis(100),
        stall_timeout: Duration::from_millis(150),
        ..ServeOptions::default()
    }
}

/// proves G.9
#[tokio::test]
async fn slow_clients_are_ended_and_told() {
    let upstream = Upstream::new().await;
    let address = upstream.address();
    let proxy = proxy_with(address, impatient(), Timeouts::default());
    // Nothing at all; and nothing after an answer.
    let mut idle = proxy.connect().await;
    assert_eq!(idle.rest().await, "");
    // A head that never ends.
    let mut head = proxy.connect().await;
    head.send("GET / HTTP/1.1\r\nhost: a\r\nx: ").await;
    let answer = head.rest().await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("head_timeout"), "{answer}");
    // One that drips.
    let mut drip = proxy.connect().await;
    let mut closed = false;
    for byte in "GET / HTTP/1.1\r\n".repeat(100).bytes() {
        use tokio::io::AsyncWriteExt;
        closed = drip.stream.write_all(&[byte]).await.is_err();
        if closed {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await; // between two looks
    }
    assert!(closed, "a dripping head is taken forever");
    // A body that stops.
    let mut body = proxy.connect().await;
    body.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nabc").await;
    let mut peer = upstream.accept().await;
    peer.until("abc").await;
    assert_eq!(peer.rest().await, "");
    assert_eq!(body.rest().await, "");
    // A client that takes nothing.
    let mut deaf = proxy.connect().await;
    deaf.send(GET).await;
    let mut peer = upstream.accept().await;
    peer.until("\r\n\r\n").await;
    peer.send("HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n").await;
    let flood = vec![b'x'; 1 << 16];
    loop {
        use tokio::io::AsyncWriteExt;
        let written = tokio::time::timeout(support::BOUND, peer.stream.write_all(&flood)).await;
        if written.expect("a deaf client holds its upstream forever").is_err() {
            break;
        }
    }
    proxy.quiet().await;
}

/// proves G.9
#[tokio::test]
async fn connections_are_bounded_and_wait_their_turn() {
    let upstream = Upstream::new().await.answer();
    let options = ServeOptions { max_connections: 3, ..ServeOptions::default() };
    let proxy = proxy_with(upstream, options, Timeouts::default());
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut client = proxy.connect().await;
        client.send(GET).await;
        client.response().await;
        open.push(client);
    }
    let mut waiting = proxy.connect().await;
    waiting.send(GET).await;
    assert_eq!(proxy.data.connections(), 3);
    drop(open.pop());
    assert_eq!(waiting.response().await.1, "hello");
}
