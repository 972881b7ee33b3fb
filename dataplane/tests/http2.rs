//! HTTP/2 with prior knowledge: the same services, and its own ways to be hostile.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::sync::atomic::Ordering;
use support::{BOUND, Client, GET, Proxy, STREAM, Upstream, chunk, proxy, until};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

type Sender = SendRequest<Full<Bytes>>;

async fn connect(proxy: &Proxy) -> (Sender, JoinHandle<hyper::Result<()>>) {
    let stream = TcpStream::connect(proxy.data.address()).await.unwrap();
    let (sender, conn) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    (sender, tokio::spawn(conn))
}

fn post(body: &'static str) -> Request<Full<Bytes>> {
    Request::post("http://front/x").body(Full::from(body)).unwrap()
}

async fn text(body: hyper::body::Incoming) -> String {
    #[allow(clippy::disallowed_methods, reason = "bounded by Limited")]
    let bytes = timeout(BOUND, Limited::new(body, 1 << 20).collect()).await.unwrap().unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn requests_are_forwarded_side_by_side() {
    let upstream = Upstream::new().await;
    let proxy = proxy(upstream.address());
    let (mut sender, _conn) = connect(&proxy).await;
    let first = sender.send_request(post("one"));
    let mut slow = upstream.accept().await;
    let head = slow.until("\r\n\r\n").await;
    assert!(head.starts_with("POST /x HTTP/1.1\r\nhost: 127.0.0.1:"), "{head}");
    slow.until("one").await;
    let second = sender.send_request(post("two"));
    let mut quick = upstream.accept().await;
    assert!(quick.serve_one().await);
    let second = timeout(BOUND, second).await.unwrap().unwrap();
    assert_eq!(text(second.into_body()).await, "hello");
    slow.send(support::HELLO).await;
    let first = timeout(BOUND, first).await.unwrap().unwrap();
    assert_eq!(text(first.into_body()).await, "hello");
    proxy.quiet().await;
}

/// proves A.6
#[tokio::test]
async fn a_stream_that_is_reset_ends_the_work_upstream() {
    let upstream = Upstream::new().await;
    let proxy = proxy(upstream.address());
    let (mut sender, _conn) = connect(&proxy).await;
    let answer = sender.send_request(post("one"));
    let mut peer = upstream.accept().await;
    peer.until("one").await;
    peer.send(format!("{STREAM}{}", chunk("data: 1\n\n"))).await;
    let answer = timeout(BOUND, answer).await.unwrap().unwrap();
    drop(answer);
    assert_eq!(peer.rest().await, "");
    proxy.quiet().await;
}

#[tokio::test]
async fn a_drain_says_goaway_and_finishes() {
    let upstream = Upstream::new().await;
    let proxy = proxy(upstream.address());
    let (mut sender, conn) = connect(&proxy).await;
    let answer = sender.send_request(post("one"));
    let mut peer = upstream.accept().await;
    peer.until("one").await;
    peer.send(STREAM).await;
    let answer = timeout(BOUND, answer).await.unwrap().unwrap();
    proxy.data.drain();
    // GOAWAY makes the client's handle refuse new requests, long before the stream has ended.
    let refused = async {
        while sender.ready().await.is_ok() && !sender.is_closed() {
            let more = Request::post("http://front/x").body(Full::from("more")).unwrap();
            if sender.send_request(more).await.is_err() {
                break;
            }
        }
    };
    let upstream_goes_on = async {
        // What slipped in before the GOAWAY is served.
        loop {
            let mut peer = upstream.accept().await;
            tokio::spawn(async move { peer.serve_one().await });
        }
    };
    tokio::select! {
        () = async { timeout(BOUND, refused).await.unwrap() } => {}
        () = upstream_goes_on => {}
    }
    peer.send(format!("{}0\r\n\r\n", chunk("data: 2\n\n"))).await;
    assert_eq!(text(answer.into_body()).await, "data: 2\n\n");
    drop(sender);
    timeout(BOUND, conn).await.unwrap().unwrap().unwrap();
    timeout(BOUND, proxy.data.ended()).await.unwrap();
}

/// A frame: type, flags, stream, payload.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
/// GET http / with the authority `a`, as HPACK.
const REQUEST: [u8; 6] = [0x82, 0x86, 0x84, 0x41, 0x01, b'a'];

async fn raw(proxy: &Proxy) -> Client {
    let mut client = proxy.connect().await;
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    client.send(frame(4, 0, 0, &[])).await;
    client
}

async fn lives(proxy: &Proxy) {
    let mut client = proxy.connect().await;
    client.send(GET).await;
    assert_eq!(client.response().await.1, "hello");
}

/// CVE-2023-44487: streams opened and reset as fast as they can be written.
///
/// proves G.9
#[tokio::test]
async fn rapid_reset_is_cut_off() {
    let upstream = Upstream::new().await.answer();
    let proxy = proxy(upstream);
    let mut client = raw(&proxy).await;
    let mut sent = 0u32;
    let flood = async {
        use tokio::io::AsyncWriteExt;
        for stream in (1..200_000u32).step_by(2) {
            let mut pair = frame(HEADERS, 5, stream, &REQUEST);
            pair.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
            if client.stream.write_all(&pair).await.is_err() {
                break;
            }
            sent += 1;
        }
    };
    timeout(BOUND, flood).await.unwrap();
    assert!(sent < 99_999, "all {sent} streams were taken");
    lives(&proxy).await;
    proxy.quiet().await;
    assert!(proxy.seen.begun.load(Ordering::SeqCst) < 5000);
}

/// CONTINUATION frames without an end, and a head beyond its bound.
///
/// proves G.9
#[tokio::test]
async fn header_bombs_are_bounded() {
    use tokio::io::AsyncWriteExt;
    let upstream = Upstream::new().await.answer();
    let proxy = proxy(upstream);
    let mut client = raw(&proxy).await;
    client.send(frame(HEADERS, 1, 1, &REQUEST)).await;
    // A literal field without indexing: name `x`, value of 100 bytes.
    let mut field = vec![0x00, 0x01, b'x', 100];
    field.extend([b'y'; 100]);
    let part = frame(CONTINUATION, 0, 1, &field.repeat(100));
    let mut cut = false;
    for _ in 0..10_000 {
        cut = timeout(BOUND, client.stream.write_all(&part)).await.unwrap().is_err();
        if cut {
            break;
        }
    }
    assert!(cut, "100 MB of one head were taken");
    lives(&proxy).await;
    assert_eq!(proxy.seen.begun.load(Ordering::SeqCst), 1, "the bomb reached a service");
}

/// proves G.9
#[tokio::test]
async fn streams_at_once_are_bounded() {
    let upstream = Upstream::new().await;
    let proxy = proxy(upstream.address());
    let mut client = raw(&proxy).await;
    for stream in (1..600u32).step_by(2) {
        client.send(frame(HEADERS, 5, stream, &REQUEST)).await;
    }
    until("a hundred are in flight", || proxy.seen.in_flight.load(Ordering::SeqCst) >= 100).await;
    assert_eq!(proxy.seen.begun.load(Ordering::SeqCst), 100);
    drop(client);
    proxy.quiet().await;
}

/// Headers that describe one connection are no part of HTTP/2; a request that has them anyway goes no further.
///
/// proves G.8
#[tokio::test]
async fn headers_of_http1_are_refused() {
    let upstream = Upstream::new().await.answer();
    let proxy = proxy(upstream);
    for name in ["transfer-encoding", "connection"] {
        let mut client = raw(&proxy).await;
        let mut head = REQUEST.to_vec();
        head.extend([0x00, name.len() as u8]);
        head.extend(name.as_bytes());
        head.extend([7]);
        head.extend(b"chunked");
        client.send(frame(HEADERS, 5, 1, &head)).await;
        // RST_STREAM for stream 1, or the connection's end.
        let end = async {
            loop {
                let mut header = [0; 9];
                use tokio::io::AsyncReadExt;
                if client.stream.read_exact(&mut header).await.is_err() {
                    return;
                }
                let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
                let mut payload = vec![0; length];
                client.stream.read_exact(&mut payload).await.unwrap();
                if header[3] == RST_STREAM {
                    return;
                }
                assert_ne!(header[3], HEADERS, "{name} was answered");
            }
        };
        timeout(BOUND, end).await.expect("nothing is refused");
    }
    assert_eq!(proxy.seen.begun.load(Ordering::SeqCst), 0);
}
